"""Checks of the software, each tried with an environment that is fit and with one that is not."""

import pytest

from rgals.execution import doctor_software as software

REQUIREMENTS = (
    "numpy>=2.0",
    "pyarrow>=18",
    "implicit>=0.7.3; extra == 'baselines'",
    "ray[default]>=2.60; extra == 'ray'",
    "moto[server]>=5.1; extra == 'dev'",
)
VERSIONS = {"numpy": "2.4.6", "pyarrow": "26.0.1", "implicit": "0.7.3", "ray": "2.60.0"}


def versions(python="3.11.7", **changed):
    return software.check_versions(REQUIREMENTS, ">=3.11", {**VERSIONS, **changed}.get, python)


def test_versions_that_fit():
    finding = versions()
    assert (finding.status, finding.advice) == ("ok", "")
    for text in ("Python 3.11.7", "numpy 2.4.6", "pyarrow 26.0.1", "ray 2.60.0", "implicit 0.7.3"):
        assert text in finding.found
    assert "moto" not in finding.found


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"numpy": "1.26.4"}, "numpy>=2.0, found 1.26.4"),
        ({"pyarrow": "9.0.0"}, "pyarrow>=18, found 9.0.0"),
        ({"ray": "2.9.3"}, "ray>=2.60, found 2.9.3"),
        ({"numpy": None}, "numpy: not installed"),
        ({"python": "3.10.14"}, "Python>=3.11, found 3.10.14"),
    ],
)
def test_versions_that_do_not_fit(changed, expected):
    finding = versions(**changed)
    assert finding.status == "problem"
    assert expected in finding.advice


def test_an_optional_package_may_be_absent():
    finding = versions(ray=None)
    assert finding.status == "ok"
    assert "not installed: ray" in finding.found


def test_a_pre_release_counts_by_its_numbers():
    assert versions(numpy="2.0.0rc1").status == "ok"


def test_this_environment_fits():
    finding = software.check_versions()
    assert finding.status == "ok"
    assert "numba" in finding.found


def library(**changed):
    return {"user_api": "blas", "internal_api": "openblas", "version": "0.3.31", "num_threads": 4, **changed}


OPENMP = {"user_api": "openmp", "internal_api": "openmp", "version": None, "num_threads": 64}


@pytest.mark.parametrize(
    ("libraries", "status"),
    [
        ([library(), OPENMP], "ok"),
        ([library(internal_api="mkl"), library()], "ok"),
        ([library(num_threads=8)], "warning"),
        ([library(internal_api="accelerate")], "warning"),
        ([OPENMP], "warning"),
        ([], "warning"),
    ],
)
def test_linear_algebra(libraries, status):
    finding = software.check_blas(4, libraries)
    assert (finding.status, bool(finding.advice)) == (status, status != "ok")


def test_the_loaded_library_is_named():
    assert "threads" in software.check_blas(1024).found


@pytest.mark.parametrize(
    ("environment", "status"),
    [
        ({"HOME": "/nowhere"}, "ok"),
        ({"OMP_NUM_THREADS": "4"}, "ok"),
        ({"OMP_NUM_THREADS": "4,2"}, "ok"),
        ({"OPENBLAS_NUM_THREADS": "5"}, "warning"),
        ({"MKL_NUM_THREADS": "many"}, "warning"),
        ({"NUMBA_NUM_THREADS": "0"}, "warning"),
    ],
)
def test_thread_variables(environment, status):
    finding = software.check_thread_variables(4, environment)
    assert (finding.status, bool(finding.advice)) == (status, status != "ok")
    assert all(name in finding.found for name in environment if name != "HOME")


def test_kernels_are_kept_beside_their_source(tmp_path):
    finding = software.check_kernel_cache({"HOME": str(tmp_path / "home")}, tmp_path / "source")
    assert (finding.status, finding.found) == ("ok", str(tmp_path / "source" / "__pycache__"))


def test_kernels_are_kept_at_home_where_the_source_cannot_be_written_to(tmp_path):
    (tmp_path / "source").write_text("a file in the way")
    finding = software.check_kernel_cache({"HOME": str(tmp_path)}, tmp_path / "source")
    assert (finding.status, finding.found) == ("ok", str(tmp_path / ".cache" / "numba"))


def test_no_place_for_kernels_is_a_problem(tmp_path):
    (tmp_path / "file").write_text("")
    home = {"HOME": str(tmp_path / "file" / "home")}
    finding = software.check_kernel_cache(home, tmp_path / "file" / "source")
    assert finding.status == "problem"
    assert "NUMBA_CACHE_DIR" in finding.advice


def test_the_place_that_the_environment_names_goes_first(tmp_path):
    (tmp_path / "file").write_text("")
    named = {"HOME": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    assert software.check_kernel_cache(named, tmp_path).found == str(tmp_path / "kernels")
    named["NUMBA_CACHE_DIR"] = str(tmp_path / "file" / "kernels")
    finding = software.check_kernel_cache(named, tmp_path)
    assert finding.status == "warning"
    assert str(tmp_path / "file" / "kernels") in finding.found


@pytest.mark.parametrize(("value", "status"), [("1", "warning"), ("0", "ok"), ("", "ok")])
def test_kernels_without_their_compiler_are_slow(tmp_path, value, status):
    environment = {"NUMBA_DISABLE_JIT": value, "HOME": str(tmp_path)}
    assert software.check_kernel_cache(environment, tmp_path).status == status
