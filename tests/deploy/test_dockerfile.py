"""The Dockerfile as a text: pinned, small, no root, no secrets."""

import fnmatch
import re
from pathlib import Path

import pytest

from tests.deploy.compose_file import REPOSITORY
from tests.deploy.dockerfile import DOCKERFILE, read_stages

STAGES = read_stages()
FINAL = STAGES[-1]


def copied_from_here() -> list[str]:
    """Give every source that the Dockerfile copies out of the repository."""
    texts = [text for stage in STAGES for text in stage.texts("COPY") if "--from=" not in text]
    return [source for text in texts for source in text.split()[:-1]]


def test_lines_that_go_on_are_read_as_one(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text("# c\nFROM a:1 AS b\nRUN x \\\n    # why\n    && y\nENV A=1 \\\n    B='2 3'\nFROM b\n")
    first, second = read_stages(path)
    assert (first.base, first.name, second.base) == ("a:1", "b", "b")
    assert first.steps[0] == ("RUN", "x && y")
    assert first.environment() == {"A": "1", "B": "2 3"}


def test_every_base_is_one_exact_image() -> None:
    names = {stage.name for stage in STAGES}
    bases = {stage.base for stage in STAGES if stage.base not in names}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", bases.pop())
    assert "latest" not in DOCKERFILE.read_text()


def test_it_runs_as_a_user_who_is_not_root() -> None:
    assert FINAL.texts("USER") == ["1000:1000"]
    assert [word for word, _ in FINAL.steps][-2:] == ["USER", "CMD"]


def test_nothing_comes_from_an_address() -> None:
    assert not [stage for stage in STAGES if stage.texts("ADD")]
    assert "://" not in DOCKERFILE.read_text()
    assert not re.search(r"\b(curl|wget|git)\b", DOCKERFILE.read_text())


def test_locked_packages_come_before_the_sources() -> None:
    packages, wheel, final = STAGES
    assert packages.texts("COPY") == ["requirements.lock pyproject.toml ./"]
    install = packages.texts("RUN")[0]
    assert "--constraint requirements.lock --requirement pyproject.toml" in install
    assert re.findall(r"--extra (\w+)", install) == ["ray", "baselines", "serve", "index"]
    assert wheel.base == packages.name
    assert "--build-constraints requirements.lock" in wheel.texts("RUN")[0]
    instructions = [text for _, text in final.steps]
    copied = instructions.index("--from=packages /opt/venv /opt/venv")
    installed = next(i for i, text in enumerate(instructions) if "from=wheel" in text)
    assert copied < installed
    assert "--no-index --no-deps" in instructions[installed]


def test_what_runs_has_no_compiler_and_no_package_lists() -> None:
    (system,) = [text for text in FINAL.texts("RUN") if "apt-get" in text]
    assert "--no-install-recommends libgomp1 &&" in system
    assert "rm -rf /var/lib/apt/lists/*" in system
    assert not re.search(r"gcc|g\+\+|build-essential|-dev\b", DOCKERFILE.read_text())


def test_who_is_not_root_can_write_caches_and_temporary_files() -> None:
    environment = FINAL.environment()
    assert "mkdir --mode=1777 /scratch /cache" in " ".join(FINAL.texts("RUN"))
    assert environment["NUMBA_CACHE_DIR"].startswith("/cache/")
    assert environment["MPLCONFIGDIR"].startswith("/cache/")
    assert environment["TMPDIR"] == environment["HOME"] == "/scratch"
    assert environment["PATH"].startswith("/opt/venv/bin:")


def test_no_secret_is_in_the_image() -> None:
    text = DOCKERFILE.read_text()
    assert not re.search(r"(?i)token|password|secret|api_?key", text)
    assert not [stage for stage in STAGES if stage.texts("ARG")]


def test_health_checks_are_left_to_compose_and_labels_are_there() -> None:
    assert not FINAL.texts("HEALTHCHECK")
    assert "org.opencontainers.image.version" in " ".join(FINAL.texts("LABEL"))


@pytest.mark.parametrize("source", copied_from_here())
def test_what_is_copied_is_there_and_goes_to_the_builder(source: str) -> None:
    assert (REPOSITORY / source).exists()
    rules = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    is_sent = True
    for rule in rules:
        if fnmatch.fnmatch(source, rule.removeprefix("!")):
            is_sent = rule.startswith("!")
    assert is_sent


def test_only_what_is_copied_goes_to_the_builder() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == set(copied_from_here())


def test_the_wheel_holds_the_packages_that_are_copied() -> None:
    built = re.search(r"packages = \[(.+)\]", (REPOSITORY / "pyproject.toml").read_text())
    assert built is not None
    assert {name.strip().strip('"') for name in built[1].split(",")} <= set(copied_from_here())
