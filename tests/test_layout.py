"""The shape of the repository: sizes, documentation, self-containment."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("rgals", "jobs", "services")
MODULES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))
PRODUCT_FOLDERS = (*PACKAGES, "docs", "benchmarks")
PRODUCT_FILES = sorted(
    [path for folder in PRODUCT_FOLDERS for path in (REPOSITORY / folder).rglob("*") if path.is_file()]
    + [path for path in REPOSITORY.iterdir() if path.is_file()]
)
TEXT_SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".lock", ".json", ".txt", ""}
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 60


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def public_definitions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Give public functions and classes, and the public methods of public classes."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    for owner in [node for node in found if isinstance(node, ast.ClassDef)]:
        found += [node for node in owner.body if isinstance(node, kinds) and not node.name.startswith("_")]
    return found


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function's body; a long signature of a command, or a docstring, is no fault."""
    first = 1 if ast.get_docstring(function) is not None and len(function.body) > 1 else 0
    return (function.end_lineno or 0) - function.body[first].lineno + 1


def test_there_are_modules_to_look_at() -> None:
    assert len(MODULES) > 20
    assert REPOSITORY / "README.md" in PRODUCT_FILES


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_is_short_documented_and_names_what_is_public(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= MAX_FILE_LINES, "split the file"
    assert ast.get_docstring(tree), "the module needs a docstring"
    if path.name == "__init__.py" and len(tree.body) == 1:
        return
    names = [
        [ast.literal_eval(element) for element in node.value.elts]
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and any(isinstance(target, ast.Name) and target.id == "__all__" for target in _targets(node))
        and isinstance(node.value, ast.List | ast.Tuple)
    ]
    assert len(names) == 1, "the module needs __all__"
    assert len(names[0]) == len(set(names[0])), "__all__ names something twice"


def _targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_public_definitions_are_documented_and_functions_short(path: Path) -> None:
    tree = ast.parse(path.read_text())
    bare = [node.name for node in public_definitions(tree) if not ast.get_docstring(node) and not _is_overload(node)]
    assert not bare, "without a docstring"
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: body_lines(node) for node in functions if body_lines(node) > MAX_FUNCTION_LINES}
    assert not long, "split the function"


def _is_overload(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(name in {"overload", "override"} or name.endswith(".setter") for name in decorators)


@pytest.mark.parametrize("path", PRODUCT_FILES, ids=relative)
def test_a_product_file_points_at_nothing_outside_the_repository(path: Path) -> None:
    if path.suffix not in TEXT_SUFFIXES or path.name.startswith(".coverage") or "__pycache__" in path.parts:
        return
    text = path.read_text(errors="replace")
    assert "../" + "shared" not in text
    assert not re.search(r"(?<![\w.])/(?:home|root|work|Users)/\w", text), "a path of one machine"


def test_the_lock_file_holds_no_index_address() -> None:
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    assert any("numpy==" in line for line in lines)
    assert not [line for line in lines if "://" in line or line.startswith(("-i ", "--index", "--extra", "--find"))]


def test_tests_mirror_the_packages_and_none_is_skipped() -> None:
    tests = sorted((REPOSITORY / "tests").rglob("test_*.py"))
    assert tests
    marks = ("pytest.mark." + "skip", "pytest." + "skip(", "pytest.mark." + "xfail", "importor" + "skip")
    assert not [relative(path) for path in tests for mark in marks if mark in path.read_text()]
    packages = {path.parent.name.removeprefix("_") for path in MODULES if path.parent.parent == REPOSITORY / "rgals"}
    assert packages <= {path.name for path in (REPOSITORY / "tests").iterdir() if path.is_dir()}


def test_nothing_is_pickled() -> None:
    users = [relative(path) for path in MODULES if re.search(r"\bimport pickle\b|allow_pickle=True", path.read_text())]
    assert not users


def test_every_script_is_executable_and_strict() -> None:
    script = REPOSITORY / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_hooks_run_the_lines_of_the_gate() -> None:
    gate = (REPOSITORY / "Makefile").read_text().split("\ncheck:")[1].split("\n\n")[0]
    hooks = (REPOSITORY / ".pre-commit-config.yaml").read_text()
    lines = [line.strip().removeprefix("$(BIN)/") for line in gate.splitlines() if line.strip().startswith("$(BIN)/")]
    quick = [line for line in lines if not line.startswith("python")]
    assert quick == ["ruff format --check .", "ruff check .", "mypy", "lint-imports"]
    for line in quick:
        assert f"entry: .venv/bin/{line}\n" in hooks
