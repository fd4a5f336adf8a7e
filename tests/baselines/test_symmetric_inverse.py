import numpy as np
import pytest

from rgals.baselines import symmetric_inverse
from rgals.baselines.symmetric_inverse import copy_triangle, invert_in_place
from rgals.errors import NumericalError


def positive_definite(n_rows: int) -> np.ndarray:  # type: ignore[type-arg]
    wide = np.random.default_rng(n_rows).standard_normal((n_rows, 2 * n_rows + 3))
    return wide @ wide.T / n_rows


@pytest.mark.parametrize("n_rows", [1, 2, 15, 16, 17, 32, 100, 151])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_tiles_give_the_inverse(monkeypatch: pytest.MonkeyPatch, n_rows: int, n_threads: int) -> None:
    monkeypatch.setattr(symmetric_inverse, "_TILE", 16)
    given = positive_definite(n_rows)
    matrix = np.tril(given).astype(np.float32)
    invert_in_place(matrix, n_threads=n_threads)
    expected = np.linalg.inv(given)
    np.testing.assert_allclose(matrix, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(matrix, matrix.T)


def test_several_whole_tiles_give_the_same_bits_for_any_number_of_threads() -> None:
    given = np.tril(positive_definite(1300)).astype(np.float32)
    one, three = given.copy(), given.copy()
    invert_in_place(one, n_threads=1)
    invert_in_place(three, n_threads=3)
    np.testing.assert_array_equal(one, three)
    product = one.astype(np.float64) @ positive_definite(1300)
    np.testing.assert_allclose(product, np.eye(1300), atol=1e-3)


@pytest.mark.parametrize("row", [0, 20, 39])
def test_a_matrix_that_is_not_positive_definite_is_refused_with_the_row(
    monkeypatch: pytest.MonkeyPatch, row: int
) -> None:
    monkeypatch.setattr(symmetric_inverse, "_TILE", 16)
    matrix = np.eye(40, dtype=np.float32)
    matrix[row, row] = -1
    with pytest.raises(NumericalError, match=f"at row {row} of 40"):
        invert_in_place(matrix, n_threads=2)


@pytest.mark.parametrize("n_rows", [1, 63, 64, 65, 200])
def test_the_upper_triangle_becomes_the_lower_one(n_rows: int) -> None:
    given = np.random.default_rng(0).standard_normal((n_rows, n_rows)).astype(np.float32)
    matrix = given.copy()
    copy_triangle(matrix, n_threads=2)
    np.testing.assert_array_equal(matrix, np.tril(given) + np.tril(given, -1).T)
