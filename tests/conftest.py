"""Shared fixtures; says plainly when the tests on real data do not run."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A kernel is compiled on its first call, which may be the first example of a test.
settings.register_profile("rgals", deadline=None)
settings.load_profile("rgals")

VARIABLE = "RGALS_TEST_DATA"
EXPECTED_FILES = ("gowalla/train.parquet", "gowalla/test.parquet", "ml-latest-small/ratings.csv")

_REPOSITORY = Path(__file__).resolve().parents[1]
_DEFAULT_FOLDER = _REPOSITORY.parent / "shared" / "data"
_N_DESELECTED = pytest.StashKey[int]()


def _real_data_folder() -> Path | None:
    """Give the folder that the environment names, else the default one when it is there."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    return _DEFAULT_FOLDER if _DEFAULT_FOLDER.is_dir() else None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Give the folder of the real data sets; a folder without them is a failure, not a reason to skip."""
    folder = _real_data_folder()
    if folder is None:
        pytest.fail(f"{VARIABLE} is not set and {_DEFAULT_FOLDER} does not exist; mark the test with realdata")
    missing = [name for name in EXPECTED_FILES if not (folder / name).is_file()]
    if missing:
        pytest.fail(f"{folder}: expected {', '.join(EXPECTED_FILES)}, missing {', '.join(missing)}; check {VARIABLE}")
    return folder


def _absence() -> str:
    return f"{VARIABLE} is not set and {_DEFAULT_FOLDER} does not exist"


def pytest_report_header() -> str:
    """Say at the top where the real data are."""
    folder = _real_data_folder()
    return f"real data: {folder}" if folder is not None else f"real data: none ({_absence()})"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests on real data where there are none and none were promised."""
    config.stash[_N_DESELECTED] = 0
    if _real_data_folder() is not None:
        return
    without = [item for item in items if item.get_closest_marker("realdata") is not None]
    if without:
        items[:] = [item for item in items if item.get_closest_marker("realdata") is None]
        config.hook.pytest_deselected(items=without)
        config.stash[_N_DESELECTED] = len(without)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say at the end how many tests did not run for want of real data."""
    n_deselected = config.stash.get(_N_DESELECTED, 0)
    if n_deselected:
        terminalreporter.section("real data", yellow=True)
        terminalreporter.line(f"{n_deselected} realdata test(s) were NOT run: {_absence()}")
