"""Every way to solve a row, against a dense solve of its system."""

import numpy as np
import pytest

from rgals.numerics.row_kernels import METHOD_CG, METHOD_CHOLESKY, METHOD_EXACT, METHOD_WOODBURY, solve_rows
from rgals.numerics.sparse import InteractionRows
from tests.numerics.problems import random_interactions

EXACT_WAYS = [METHOD_WOODBURY, METHOD_CHOLESKY, METHOD_EXACT]


class RowProblem:
    """Random rows with their shared terms, and the dense solution of each."""

    def __init__(self, seed: int, n_rows: int = 9, n_fixed: int = 14, n_factors: int = 6, alpha: float = 0.7) -> None:
        rng = np.random.default_rng(seed)
        self.rows = random_interactions(seed, n_rows, n_fixed, 0.5, is_weighted=True)
        self.fixed = rng.standard_normal((n_fixed, n_factors)).astype(np.float32)
        self.eigenvalues = rng.uniform(0.1, 2.0, n_factors).astype(np.float32)
        self.linear = rng.standard_normal(n_factors).astype(np.float32)
        self.backgrounds = rng.uniform(0.0, 3.0, n_rows)
        self.ridges = rng.uniform(0.01, 1.0, n_rows)
        self.initial = rng.standard_normal((n_rows, n_factors)).astype(np.float32)
        self.alpha, self.linear_factor, self.linear_constant = alpha, 1 + alpha, 0.25

    def system(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        x = self.fixed[self.rows.columns_of(row)].astype(np.float64)
        g = self.rows.weights_of(row).astype(np.float64)
        background = self.backgrounds[row]
        matrix = np.diag(background * self.eigenvalues + self.ridges[row]) + (x.T * (self.alpha * g)) @ x
        right = x.T @ (self.linear_constant + self.linear_factor * g) - background * self.linear
        return matrix, right

    def solve(self, method: int, cg_steps: int = 1, rows: InteractionRows | None = None):
        rows = rows or self.rows
        factors, n_rows = self.initial.copy(), rows.n_rows
        before, after = np.full(n_rows, np.nan), np.full(n_rows, np.nan)
        status = np.full(n_rows, -1, dtype=np.int32)
        weights = np.empty(0, np.float32) if rows.weights is None else rows.weights
        solve_rows(
            rows.indptr, rows.columns, weights, np.empty(0, np.float32), self.fixed, self.eigenvalues, self.linear,
            np.empty((0, 0), np.float32), self.backgrounds, self.ridges, self.alpha, self.linear_factor,
            self.linear_constant, method, cg_steps,
            factors, before, after, status,
        )  # fmt: skip
        return factors, before, after, status


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("method", [*EXACT_WAYS, METHOD_CG])
@pytest.mark.parametrize("has_zeros", [False, True])
def test_every_way_gives_the_dense_solution(seed: int, method: int, has_zeros: bool) -> None:
    problem = RowProblem(seed)
    if has_zeros:  # as of items that are new to a model with degree weights
        assert problem.rows.weights is not None
        problem.rows.weights[::3] = 0
    factors, _, after, status = problem.solve(method, cg_steps=40)
    assert (status == 0).all()
    for row in range(problem.rows.n_rows):
        matrix, right = problem.system(row)
        expected = np.linalg.solve(matrix, right)
        np.testing.assert_allclose(factors[row], expected, rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(after[row], -0.5 * right @ expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", [METHOD_EXACT, METHOD_CG])
def test_the_objective_before_is_that_of_the_starting_point(method: int) -> None:
    problem = RowProblem(3)
    _, before, after, _ = problem.solve(method)
    for row in range(problem.rows.n_rows):
        matrix, right = problem.system(row)
        z = problem.initial[row].astype(np.float64)
        np.testing.assert_allclose(before[row], 0.5 * z @ matrix @ z - right @ z, rtol=1e-4)
    assert (after < before).all()


@pytest.mark.parametrize("cg_steps", [1, 2, 3, 5])
def test_each_gradient_step_lowers_every_row_and_reports_its_true_objective(cg_steps: int) -> None:
    problem = RowProblem(5)
    factors, before, after, _ = problem.solve(METHOD_CG, cg_steps)
    _, _, previous, _ = problem.solve(METHOD_CG, cg_steps - 1) if cg_steps > 1 else (None, None, before, None)
    assert (after <= previous + 1e-5).all()
    for row in range(problem.rows.n_rows):
        matrix, right = problem.system(row)
        z = factors[row].astype(np.float64)
        np.testing.assert_allclose(after[row], 0.5 * z @ matrix @ z - right @ z, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", [*EXACT_WAYS, METHOD_CG])
def test_absent_weights_are_weights_of_one(method: int) -> None:
    problem = RowProblem(1)
    plain = InteractionRows(problem.rows.indptr, problem.rows.columns, None, problem.rows.n_columns)
    ones = InteractionRows(plain.indptr, plain.columns, np.ones(plain.columns.size, np.float32), plain.n_columns)
    without, with_ones = problem.solve(method, 3, plain), problem.solve(method, 3, ones)
    for left, right in zip(without, with_ones, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("method", [*EXACT_WAYS, METHOD_CG])
def test_an_empty_row_is_a_division(method: int) -> None:
    problem = RowProblem(2)
    indptr = np.zeros(problem.rows.n_rows + 1, dtype=np.int64)
    empty = InteractionRows(indptr, np.empty(0, np.int32), None, problem.rows.n_columns)
    problem.backgrounds[0] = problem.ridges[0] = 0.0
    factors, _, _, status = problem.solve(method, 1, empty)
    assert (status == 0).all()
    assert (factors[0] == 0).all()
    diagonal = problem.backgrounds[1:, None] * problem.eigenvalues + problem.ridges[1:, None]
    expected = -problem.backgrounds[1:, None] * problem.linear / diagonal
    np.testing.assert_allclose(factors[1:], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", [*EXACT_WAYS, METHOD_CG])
def test_without_curvature_the_solution_is_a_division(method: int) -> None:
    problem = RowProblem(2, alpha=0.0)
    factors, _, _, status = problem.solve(method, 1)
    assert (status == 0).all()
    for row in range(problem.rows.n_rows):
        matrix, right = problem.system(row)
        np.testing.assert_allclose(factors[row], right / np.diag(matrix), rtol=1e-4, atol=1e-5)


def test_a_singular_row_is_reported_and_not_raised() -> None:
    problem = RowProblem(4)
    problem.backgrounds[:] = problem.ridges[:] = 0.0
    _, _, _, status = problem.solve(METHOD_WOODBURY)
    assert (status == 1).sum() == (problem.rows.degrees > 0).sum()


def test_a_row_that_does_not_fit_the_tile_is_read_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    # A tile holds 2^17 floats: with 512 factors that is 256 entries.
    rng = np.random.default_rng(0)
    problem = RowProblem(0, n_rows=2, n_fixed=300, n_factors=512)
    columns = np.concatenate([np.arange(300), np.arange(20)]).astype(np.int32)
    problem.rows = InteractionRows(np.array([0, 300, 320]), columns, rng.uniform(0.5, 2, 320).astype(np.float32), 300)
    problem.fixed *= 0.05
    factors, _, _, status = problem.solve(METHOD_CG, cg_steps=30)
    assert (status == 0).all()
    for row in range(2):
        np.testing.assert_allclose(factors[row], np.linalg.solve(*problem.system(row)), rtol=1e-3, atol=1e-3)


def test_offsets_beyond_two_to_the_31_read_the_right_entries() -> None:
    # Untouched zero pages cost no memory: only the last entries are written.
    base = 2**31 + 12
    problem = RowProblem(0, n_rows=1)
    columns = np.zeros(base + 3, dtype=np.int32)
    columns[base:] = [1, 5, 7]
    rows = InteractionRows(np.array([base, base + 3]), columns, None, problem.rows.n_columns)
    small = InteractionRows(np.array([0, 3]), np.array([1, 5, 7], np.int32), None, problem.rows.n_columns)
    np.testing.assert_array_equal(problem.solve(METHOD_CG, 3, rows)[0], problem.solve(METHOD_CG, 3, small)[0])


def test_factors_beyond_two_to_the_31_numbers_are_addressed_right() -> None:
    problem = RowProblem(0, n_rows=1, n_factors=64, n_fixed=4)
    small = InteractionRows(np.array([0, 4]), np.arange(4, dtype=np.int32), None, 4)
    expected = problem.solve(METHOD_CG, 3, small)[0]
    n_fixed = 2**31 // 64 + 8
    large = np.zeros((n_fixed, 64), dtype=np.float32)
    large[-4:] = problem.fixed
    problem.fixed = large
    rows = InteractionRows(np.array([0, 4]), np.arange(n_fixed - 4, n_fixed, dtype=np.int32), None, n_fixed)
    np.testing.assert_array_equal(problem.solve(METHOD_CG, 3, rows)[0], expected)
