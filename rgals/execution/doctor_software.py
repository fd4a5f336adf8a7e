"""Checks of the software: versions, linear algebra, compiled kernels."""

import importlib.metadata
import platform
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info

from rgals.execution.finding import Finding

__all__ = ["check_blas", "check_kernel_cache", "check_thread_variables", "check_versions"]

_OPTIONAL_EXTRAS = ("ray", "baselines")
_LIMITABLE = ("openblas", "mkl", "blis", "flexiblas")
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
_REQUIREMENT = re.compile(
    r"^(?P<name>[\w.-]+)(?:\[[^]]*\])?\s*>=\s*(?P<version>[\d.]+)(?:.*extra == '(?P<extra>\w+)')?"
)


def _numbers(version: str) -> tuple[int, ...]:
    """Give the leading numbers of a version."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_versions(
    requirements: Sequence[str] | None = None,
    python_requirement: str | None = None,
    installed: Callable[[str], str | None] = _installed_version,
    python: str | None = None,
) -> Finding:
    """Compare what is installed with what rgals asks for.

    Parameters
    ----------
    requirements : sequence of str or None
        Such as ``"numpy>=2.0"``; None takes those that rgals was installed with.
    python_requirement : str or None
        Such as ``">=3.11"``; None takes that of rgals.
    installed : callable
        Gives the version of a package, None where it is not installed.
    python : str or None
        The version of Python; None takes the running one.
    """
    if requirements is None:
        requirements = importlib.metadata.requires("rgals") or ()
    if python_requirement is None:
        python_requirement = importlib.metadata.metadata("rgals")["Requires-Python"] or ""
    python = platform.python_version() if python is None else python
    shown = [f"Python {python}"]
    wrong: list[str] = []
    absent: list[str] = []
    if _numbers(python) < _numbers(python_requirement.removeprefix(">=")):
        wrong.append(f"Python{python_requirement}, found {python}")
    for line in requirements:
        match = _REQUIREMENT.match(line)
        if match is None or match["extra"] not in (None, *_OPTIONAL_EXTRAS):
            continue
        name, version = match["name"], installed(match["name"])
        if version is None:
            (absent if match["extra"] else wrong).append(name if match["extra"] else f"{name}: not installed")
        elif _numbers(version) < _numbers(match["version"]):
            wrong.append(f"{name}>={match['version']}, found {version}")
        shown += [f"{name} {version}"] if version is not None else []
    found = f"rgals {importlib.metadata.version('rgals')}, " + ", ".join(shown)
    found += f"; optional and not installed: {', '.join(absent)}" if absent else ""
    if wrong:
        advice = f"expected {'; '.join(wrong)}: install rgals again in this environment"
        return Finding("versions", "problem", found, advice)
    return Finding("versions", "ok", found)


def check_blas(n_processors: int, libraries: Sequence[Mapping[str, Any]] | None = None) -> Finding:
    """Look which linear algebra libraries are loaded, and whether rgals can keep them to one thread.

    Parameters
    ----------
    n_processors : int
        Processors that this process may run on.
    libraries : sequence of mapping or None
        As `threadpoolctl.threadpool_info` gives them; None asks it.
    """
    if libraries is None:
        import scipy.linalg  # noqa: F401, PLC0415 - only loaded libraries are seen

        libraries = threadpool_info()
    blas = [library for library in libraries if library.get("user_api") == "blas"]
    if not blas:
        advice = "threads cannot be limited for a library that is not known: set OMP_NUM_THREADS=1"
        return Finding("linear algebra", "warning", "no library that threadpoolctl knows", advice)
    found = ", ".join(
        f"{library['internal_api']} {library.get('version') or 'of unknown version'}, {library['num_threads']} threads"
        for library in blas
    )
    unknown = sorted({str(library["internal_api"]) for library in blas} - set(_LIMITABLE))
    if unknown:
        advice = f"the threads of {', '.join(unknown)} cannot be limited: set OMP_NUM_THREADS=1"
        return Finding("linear algebra", "warning", found, advice)
    if max(int(library["num_threads"]) for library in blas) > n_processors:
        advice = f"more threads than the {n_processors} processors: set OMP_NUM_THREADS={n_processors}"
        return Finding("linear algebra", "warning", found, advice)
    return Finding("linear algebra", "ok", found)


def check_thread_variables(n_processors: int, environment: Mapping[str, str]) -> Finding:
    """Look for variables that ask libraries for more threads than there are processors.

    Parameters
    ----------
    n_processors : int
        Processors that this process may run on.
    environment : mapping of str to str
        Environment variables.
    """
    name = "thread variables"
    set_ones = {variable: environment[variable] for variable in _THREAD_VARIABLES if variable in environment}
    if not set_ones:
        return Finding(name, "ok", "none is set")
    found = ", ".join(f"{variable}={value}" for variable, value in set_ones.items())
    # OpenMP allows a list, one number for each level of nesting.
    first = {variable: value.split(",")[0].strip() for variable, value in set_ones.items()}
    odd = [variable for variable, value in first.items() if not value.isdigit() or int(value) < 1]
    if odd:
        return Finding(name, "warning", found, f"expected a positive number: correct or unset {', '.join(odd)}")
    many = [variable for variable, value in first.items() if int(value) > n_processors]
    if many:
        advice = f"more threads than the {n_processors} processors slow each other down: unset {', '.join(many)}"
        return Finding(name, "warning", found, advice)
    return Finding(name, "ok", found)


def check_kernel_cache(
    environment: Mapping[str, str], source: Path | None = None, is_writable: Callable[[Path], bool] | None = None
) -> Finding:
    """Look where compiled kernels are kept: without such a place rgals cannot be imported.

    Parameters
    ----------
    environment : mapping of str to str
        Environment variables.
    source : Path or None
        The folder of the kernels' source files; None takes that of rgals.
    is_writable : callable or None
        Tells whether a folder, which need not exist yet, can be written to; None tries it.
    """
    name = "kernel cache"
    if environment.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        advice = "kernels run as ordinary Python, a hundred times slower: unset NUMBA_DISABLE_JIT"
        return Finding(name, "warning", f"NUMBA_DISABLE_JIT={environment['NUMBA_DISABLE_JIT']}", advice)
    if source is None:
        source = Path(__file__).parents[1] / "numerics"
    home = environment.get("XDG_CACHE_HOME") or f"{environment.get('HOME', '/')}/.cache"
    places = [source / "__pycache__", Path(home) / "numba"]
    if environment.get("NUMBA_CACHE_DIR"):
        places.insert(0, Path(environment["NUMBA_CACHE_DIR"]))
    test = _is_writable if is_writable is None else is_writable
    usable = next((place for place in places if test(place)), None)
    if usable is None:
        advice = "set NUMBA_CACHE_DIR to a folder that can be written to, the same for all workers of a node"
        return Finding(name, "problem", f"none of {', '.join(map(str, places))} can be written to", advice)
    if environment.get("NUMBA_CACHE_DIR") and usable != places[0]:
        advice = "correct NUMBA_CACHE_DIR: kernels are kept elsewhere"
        return Finding(name, "warning", f"{places[0]} cannot be written to, {usable} can", advice)
    return Finding(name, "ok", str(usable))


def _is_writable(folder: Path) -> bool:
    """Try to write a file into a folder, or into the first one above it that is there."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False
