"""The half-step: shared basis, sums, independence of threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgals.errors import InputError
from rgals.numerics import half_step
from rgals.numerics.half_step import (
    HalfStepSystem,
    SideSums,
    SolverChoice,
    rotate,
    shared_basis,
    solve_half_step,
    sum_rows,
)
from rgals.numerics.loss import Loss
from rgals.numerics.pairwise import collapse_nodes
from tests.numerics.problems import random_interactions


@given(seed=st.integers(0, 2**16), n_factors=st.integers(1, 8))
def test_the_shared_basis_is_orthogonal_and_diagonalizes(seed: int, n_factors: int) -> None:
    half = np.random.default_rng(seed).standard_normal((2 * n_factors, n_factors))
    background = half.T @ half
    eigenvalues, basis = shared_basis(background)
    np.testing.assert_allclose(basis.T @ basis, np.eye(n_factors), atol=1e-10)
    np.testing.assert_allclose(basis.T @ background @ basis, np.diag(eigenvalues), atol=1e-8)
    assert (np.diff(eigenvalues) <= 0).all()


def test_rounding_below_zero_is_cut_off() -> None:
    eigenvalues, _ = shared_basis(np.diag([1.0, -1e-12]))
    assert eigenvalues.tolist() == [1.0, 0.0]


def test_rotation_keeps_scores() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((5, 4)).astype(np.float32), rng.standard_normal((7, 4)).astype(np.float32)
    _, basis = shared_basis(right.T.astype(np.float64) @ right)
    turned = rotate(left, basis.astype(np.float32), 1) @ rotate(right, basis.astype(np.float32), 1).T
    np.testing.assert_allclose(turned, left @ right.T, atol=1e-5)


def make_system(n_fixed: int, n_factors: int, solver: str = "exact") -> HalfStepSystem:
    rng = np.random.default_rng(1)
    fixed = rng.standard_normal((n_fixed, n_factors)).astype(np.float32)
    eigenvalues = rng.uniform(0.1, 1, n_factors).astype(np.float32)
    linear = rng.standard_normal(n_factors).astype(np.float32)
    basis = np.linalg.qr(rng.standard_normal((n_factors, n_factors)))[0].astype(np.float32)
    return HalfStepSystem(fixed, basis, eigenvalues, linear, Loss("rg2", 0.5, 0.1), SolverChoice(solver))


def test_sums_of_solved_rows_are_those_of_the_definition_and_of_a_later_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_step, "BLOCK_ROWS", 4)
    rows = random_interactions(0, 10, 6)
    rng = np.random.default_rng(2)
    backgrounds, ridges = rng.uniform(0.5, 2, 10), rng.uniform(0.1, 1, 10)
    initial = rng.standard_normal((10, 3)).astype(np.float32)
    solved = solve_half_step(make_system(6, 3), rows, initial, backgrounds, ridges, first_block=0, n_threads=2)
    sums = SideSums.unpack(collapse_nodes(solved.nodes), 3)
    z = solved.factors.astype(np.float64)
    np.testing.assert_allclose(sums.gram, (z.T * backgrounds) @ z, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sums.linear, backgrounds @ z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sums.ridge_norm, ridges @ (z**2).sum(axis=1), rtol=1e-6)
    again = sum_rows(solved.factors, backgrounds, ridges, first_block=0, n_threads=1)
    later = SideSums.unpack(collapse_nodes(again), 3)
    np.testing.assert_array_equal(later.gram, sums.gram)
    assert later.ridge_norm == sums.ridge_norm


@settings(max_examples=15)
@given(seed=st.integers(0, 2**16), cut=st.sampled_from([4, 8, 12]), solver=st.sampled_from(["cg", "exact"]))
def test_threads_and_shard_boundaries_leave_every_bit(seed: int, cut: int, solver: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(half_step, "BLOCK_ROWS", 4)
        rows, system = random_interactions(seed, 15, 6), make_system(6, 5, solver)
        rng = np.random.default_rng(seed)
        backgrounds, ridges = rng.uniform(0.5, 2, 15), rng.uniform(0.1, 1, 15)
        initial = rng.standard_normal((15, 5)).astype(np.float32)
        whole = solve_half_step(system, rows, initial, backgrounds, ridges, first_block=0, n_threads=1)
        parts = [
            solve_half_step(
                system, rows.row_slice(start, stop), initial[start:stop], backgrounds[start:stop], ridges[start:stop],
                first_block=start // 4, n_threads=3,
            )
            for start, stop in ((0, cut), (cut, 15))
        ]  # fmt: skip
    np.testing.assert_array_equal(np.concatenate([part.factors for part in parts]), whole.factors)
    joined = collapse_nodes([node for part in parts for node in part.nodes])
    np.testing.assert_array_equal(joined, collapse_nodes(whole.nodes))


def test_the_starting_point_is_not_modified_and_may_be_read_only() -> None:
    rows, initial = random_interactions(0, 5, 6), np.ones((5, 3), dtype=np.float32)
    initial.setflags(write=False)
    result = solve_half_step(make_system(6, 3), rows, initial, np.ones(5), np.ones(5), first_block=0, n_threads=1)
    assert (initial == 1).all()
    assert not np.array_equal(result.factors, initial)


def test_failures_are_counted_with_the_first_row() -> None:
    rows = random_interactions(0, 5, 6, density=0.9)
    ridges, backgrounds = np.ones(5), np.ones(5)
    ridges[[2, 4]] = backgrounds[[2, 4]] = 0.0
    result = solve_half_step(
        make_system(6, 3, "woodbury"),
        rows,
        np.ones((5, 3), np.float32),
        backgrounds,
        ridges,
        first_block=0,
        n_threads=1,
    )
    assert (result.n_failed, result.first_failed) == (2, 2)


@pytest.mark.parametrize(("arguments", "word"), [(("qr",), "qr"), (("cg", 0), "cg_steps")])
def test_an_unknown_way_to_solve_is_refused(arguments: tuple, word: str) -> None:
    with pytest.raises(InputError, match=word):
        SolverChoice(*arguments)
