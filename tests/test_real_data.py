"""The tests on real data run, fail or are reported as not run; they never vanish silently."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import EXPECTED_FILES, VARIABLE

CONFTEST = Path(__file__).with_name("conftest.py")
TESTS = """
import pytest

@pytest.mark.realdata
def test_with_data(real_data):
    assert (real_data / "ml-latest-small" / "ratings.csv").is_file()

def test_without_data():
    pass
"""


def run(repository: Path, folder: Path | None) -> tuple[int, str]:
    """Run a small suite under a copy of the conftest, as if it were a repository of its own."""
    (repository / "tests").mkdir(parents=True)
    shutil.copy(CONFTEST, repository / "tests" / "conftest.py")
    (repository / "tests" / "test_small.py").write_text(TESTS)
    (repository / "pytest.ini").write_text("[pytest]\nmarkers = realdata: needs data\n")
    environment = {name: value for name, value in os.environ.items() if name not in {VARIABLE, "PYTEST_ADDOPTS"}}
    if folder is not None:
        environment[VARIABLE] = str(folder)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def make_data(folder: Path) -> Path:
    for name in EXPECTED_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_named_folder_with_the_files_runs_them(tmp_path: Path) -> None:
    code, output = run(tmp_path / "repository", make_data(tmp_path / "data"))
    assert code == 0
    assert "2 passed" in output
    assert f"real data: {tmp_path / 'data'}" in output


def test_a_folder_at_the_default_place_is_found_without_the_variable(tmp_path: Path) -> None:
    make_data(tmp_path / "shared" / "data")
    code, output = run(tmp_path / "repository", None)
    assert code == 0
    assert "2 passed" in output


@pytest.mark.parametrize("exists", [False, True])
def test_a_named_folder_without_the_files_is_a_failure(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "data").mkdir()
    code, output = run(tmp_path / "repository", tmp_path / "data")
    assert code == 1
    assert "missing gowalla/train.parquet, gowalla/test.parquet, ml-latest-small/ratings.csv" in output


def test_without_any_folder_they_are_deselected_and_the_output_says_so_twice(tmp_path: Path) -> None:
    code, output = run(tmp_path / "repository", None)
    assert code == 0
    assert "1 passed, 1 deselected" in output
    assert "real data: none" in output
    assert "1 realdata test(s) were NOT run" in output
