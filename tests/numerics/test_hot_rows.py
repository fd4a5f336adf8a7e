"""Hot rows: the same solution as for any other row, the same bits for any number of threads, little memory."""

import itertools
import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgals.numerics import half_step, hot_rows
from rgals.numerics.dense_twin import DenseProblem
from rgals.numerics.half_step import HalfStepSystem, SolverChoice, shared_basis, solve_half_step
from rgals.numerics.hot_rows import HotRows, HotSolution, find_hot_rows, solve_hot_rows
from rgals.numerics.loss import Loss
from rgals.numerics.pairwise import SumNode, collapse_nodes
from rgals.numerics.row_kernels import solve_rows
from rgals.numerics.sparse import InteractionRows
from tests.numerics.problems import random_interactions

MATRIX, STEPS = 10**6, 0
"""Factors per pass that force the one and the other way for conjugate gradients."""


@pytest.fixture(autouse=True)
def small_sizes():
    """Let rows of nine entries be hot, and cut them into uneven segments and tiles."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hot_rows, "HOT_ENTRIES", 8)
        patch.setattr(hot_rows, "SEGMENT_ENTRIES", 5)
        patch.setattr(hot_rows, "_MAX_TILE_ENTRIES", 2)
        patch.setattr(hot_rows, "_VECTOR_TILE_ENTRIES", 3)
        patch.setattr(half_step, "BLOCK_ROWS", 4)
        yield patch


@dataclass
class HotProblem:
    """Random hot rows with the dense system of each."""

    fixed: np.ndarray
    hot: HotRows
    loss: Loss

    @classmethod
    def random(cls, seed: int, loss: Loss, *, n_factors: int = 5, is_weighted: bool = True) -> "HotProblem":
        rng = np.random.default_rng(seed)
        rows = random_interactions(seed, 7, 30, 0.6, is_weighted=is_weighted)
        positions = find_hot_rows(rows.indptr)
        shape = (positions.size, n_factors)
        initial, constants = rng.standard_normal(shape).astype(np.float32), rng.standard_normal(shape)
        fixed = rng.standard_normal((30, n_factors)).astype(np.float32)
        return cls(fixed, HotRows(rows, positions, initial, rng.uniform(0.1, 2.0, shape), constants), loss)

    def system(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        row, loss = int(self.hot.positions[k]), self.loss
        x = self.fixed[self.hot.rows.columns_of(row)].astype(np.float64)
        g = self.hot.rows.weights_of(row).astype(np.float64)
        matrix = np.diag(self.hot.diagonals[k]) + (x.T * (loss.alpha * g)) @ x
        return matrix, x.T @ (loss.linear_constant + loss.linear_from_weight * g) + self.hot.constants[k]

    def objective(self, k: int, vector: np.ndarray) -> float:
        matrix, right = self.system(k)
        z = vector.astype(np.float64)
        return float(0.5 * z @ matrix @ z - right @ z)

    def solve(self, cg_steps: int | None = None, n_threads: int = 2) -> HotSolution:
        return solve_hot_rows(self.fixed, self.hot, self.loss, cg_steps=cg_steps, n_threads=n_threads)


@pytest.mark.parametrize("loss", [Loss("rg2", 0.7, 0.1), Loss("ials", 0.7, 0.1), Loss("rg2", 0.0, 0.1)], ids=str)
@pytest.mark.parametrize("is_weighted", [True, False])
@pytest.mark.parametrize(("cg_steps", "factors_per_pass"), [(None, STEPS), (40, MATRIX), (40, STEPS)])
def test_every_way_gives_the_dense_solution_and_its_objective(
    small_sizes, loss, is_weighted, cg_steps, factors_per_pass
):
    small_sizes.setattr(hot_rows, "_FACTORS_PER_PASS", factors_per_pass)
    problem = HotProblem.random(1, loss, is_weighted=is_weighted)
    solution = problem.solve(cg_steps)
    assert problem.hot.positions.size >= 5
    assert (solution.status == 0).all()
    for k in range(problem.hot.positions.size):
        matrix, right = problem.system(k)
        np.testing.assert_allclose(solution.factors[k], np.linalg.solve(matrix, right), rtol=1e-5, atol=1e-5)
        assert solution.before[k] == pytest.approx(problem.objective(k, problem.hot.initial[k]), rel=1e-5, abs=1e-5)
        assert solution.after[k] == pytest.approx(problem.objective(k, solution.factors[k]), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cg_steps", [1, 2, 3])
def test_gradient_steps_are_those_of_ordinary_rows(small_sizes, seed, cg_steps):
    small_sizes.setattr(hot_rows, "_FACTORS_PER_PASS", STEPS)
    rows, system, *terms = half_step_problem(seed, SolverChoice("cg", cg_steps))
    hot = solve_half_step(system, rows, *terms, first_block=0, n_threads=2)
    small_sizes.setattr(hot_rows, "HOT_ENTRIES", 10**6)
    ordinary = solve_half_step(system, rows, *terms, first_block=0, n_threads=2)
    np.testing.assert_allclose(hot.factors, ordinary.factors, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(collapse_nodes(hot.nodes), collapse_nodes(ordinary.nodes), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_each_gradient_step_lowers_every_row(small_sizes, seed):
    small_sizes.setattr(hot_rows, "_FACTORS_PER_PASS", STEPS)
    problem = HotProblem.random(seed, Loss("rg2", 0.7, 0.1))
    assert problem.hot.positions.size >= 5
    falling = [problem.solve(1).before, *(problem.solve(steps).after for steps in (1, 2, 3))]
    assert all((later < earlier).all() for earlier, later in itertools.pairwise(falling))


def half_step_problem(seed, choice, n_rows=15, loss=None):
    """Rows of which about half are hot, with all that a half-step needs."""
    rng = np.random.default_rng(seed)
    rows = random_interactions(seed, n_rows, 20, 0.42, is_weighted=True)
    fixed = rng.standard_normal((20, 5)).astype(np.float32)
    basis = np.linalg.qr(rng.standard_normal((5, 5)))[0].astype(np.float32)
    eigenvalues, linear = rng.uniform(0.1, 1, 5).astype(np.float32), rng.standard_normal(5).astype(np.float32)
    system = HalfStepSystem(fixed, basis, eigenvalues, linear, loss or Loss("rg2", 0.5, 0.1), choice)
    initial = rng.standard_normal((n_rows, 5)).astype(np.float32)
    return rows, system, initial, rng.uniform(0.5, 2, n_rows), rng.uniform(0.1, 1, n_rows)


CHOICES = [SolverChoice("cg", 3), SolverChoice("exact"), SolverChoice("woodbury")]


@settings(max_examples=15)
@given(st.integers(0, 2**16), st.sampled_from([4, 8, 12]), st.sampled_from(CHOICES), st.sampled_from([MATRIX, STEPS]))
def test_threads_and_shard_boundaries_leave_every_bit(seed, cut, choice, factors_per_pass):
    rows, system, *terms = half_step_problem(seed, choice)
    assert 0 < find_hot_rows(rows.indptr).size < 15
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hot_rows, "_FACTORS_PER_PASS", factors_per_pass)
        whole = solve_half_step(system, rows, *terms, first_block=0, n_threads=1)
        for n_threads in (2, 3):
            parts = [
                solve_half_step(
                    system,
                    rows.row_slice(start, stop),
                    *(term[start:stop] for term in terms),
                    first_block=start // 4,
                    n_threads=n_threads,
                )
                for start, stop in ((0, cut), (cut, 15))
            ]
            np.testing.assert_array_equal(np.concatenate([part.factors for part in parts]), whole.factors)
            nodes = [node for part in parts for node in part.nodes]
            np.testing.assert_array_equal(collapse_nodes(nodes), collapse_nodes(whole.nodes))


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_the_other_rows_of_a_block_keep_every_bit_and_the_hot_ones_are_solved(small_sizes, choice):
    rows, system, *terms = half_step_problem(3, choice)
    mixed = solve_half_step(system, rows, *terms, first_block=0, n_threads=2)
    is_hot = rows.degrees > 8
    assert is_hot[:4].sum() >= 2
    small_sizes.setattr(hot_rows, "HOT_ENTRIES", 10**6)
    plain = solve_half_step(system, rows, *terms, first_block=0, n_threads=2)
    np.testing.assert_array_equal(mixed.factors[~is_hot], plain.factors[~is_hot])
    exact = solve_half_step(
        HalfStepSystem(*(getattr(system, name) for name in ("fixed", "basis", "eigenvalues", "linear", "loss")),
                       SolverChoice("cholesky")),
        rows, *terms, first_block=0, n_threads=2,
    )  # fmt: skip
    np.testing.assert_allclose(mixed.factors[is_hot], exact.factors[is_hot], rtol=1e-5, atol=1e-5)
    # Sums and objectives: the block's rows together, hot or not.
    np.testing.assert_allclose(collapse_nodes(mixed.nodes)[-2], collapse_nodes(plain.nodes)[-2], rtol=1e-5)


def test_hot_rows_are_left_out_of_the_blocks_and_of_their_order(small_sizes):
    rows, system, *terms = half_step_problem(3, SolverChoice("cg"))
    seen = []

    def record(indptr, *arguments):
        seen.append(np.diff(indptr))
        return solve_rows(indptr, *arguments)

    small_sizes.setattr(half_step, "solve_rows", record)
    solve_half_step(system, rows, *terms, first_block=0, n_threads=1)
    degrees = rows.degrees
    assert sorted(np.concatenate(seen).tolist()) == sorted(degrees[degrees <= 8].tolist())
    wide = InteractionRows(np.array([0, 3, 3, 3, 3, 103, 104, 104, 104, 109]), np.zeros(109, np.int32), None, 1)
    assert half_step._heaviest_first(wide, np.array([4])) == [2, 0, 1]
    assert half_step._heaviest_first(wide, np.array([], dtype=np.int64)) == [1, 2, 0]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_a_shard_may_hold_nothing_but_hot_rows(choice):
    rows, system, *terms = half_step_problem(4, choice)
    hot = np.flatnonzero(rows.degrees > 8)
    terms = [term[hot] for term in terms]
    solved = solve_half_step(system, rows.take(hot), *terms, first_block=0, n_threads=2)
    assert solved.n_failed == 0
    packed = collapse_nodes(solved.nodes)
    assert packed[-1] < packed[-2]
    z = solved.factors.astype(np.float64)
    np.testing.assert_allclose(packed[:25].reshape(5, 5), (z.T * terms[1]) @ z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["rg2", "rgx", "ials"])
@pytest.mark.parametrize(("solver", "factors_per_pass"), [("cg", STEPS), ("exact", MATRIX)])
def test_the_objective_falls_at_each_half_step_of_either_side(small_sizes, name, solver, factors_per_pass):
    small_sizes.setattr(hot_rows, "_FACTORS_PER_PASS", factors_per_pass)
    rng = np.random.default_rng(0)
    loss = Loss(name, 0.5, 0.05, user_exponent=-0.5)
    stored = random_interactions(0, 14, 12, 0.7, is_weighted=True)
    dense = DenseProblem.from_interactions(stored, loss)
    users, items = rng.standard_normal((14, 3)) * 0.3, rng.standard_normal((12, 3)) * 0.3
    prior, ridges = dense.prior, dense.ridges()
    weights = dense.user_weights if name != "ials" else np.ones(14)
    objective = dense.objective(users, items)
    for _ in range(4):
        mean = items.T @ prior
        gram = (items.T * prior) @ items - (np.outer(mean, mean) if name == "rgx" else 0.0)
        pull = mean if name != "ials" else np.zeros(3)
        users, items = solve_dense_side(dense.weights, loss, users, items, gram, pull, weights, ridges[0], solver)
        objective, previous = dense.objective(users, items), objective
        assert objective < previous + 1e-5
        gram = (users.T * weights) @ users
        pull = users.T @ weights if name != "ials" else np.zeros(3)
        if name == "rgx":
            pull = pull - gram @ (items.T @ prior)
        items, users = solve_dense_side(dense.weights.T, loss, items, users, gram, pull, prior, ridges[1], solver)
        objective, previous = dense.objective(users, items), objective
        assert objective < previous + 1e-5


def solve_dense_side(g, loss, solved, fixed, gram, pull, backgrounds, ridges, solver):
    """Do one half-step from dense arrays; gives the solved and the fixed side in the shared basis."""
    rows, columns = np.nonzero(g)
    entries = InteractionRows.from_pairs(rows, columns, g[rows, columns], *g.shape)
    assert find_hot_rows(entries.indptr).size >= 5
    eigenvalues, basis = shared_basis(gram)
    turned = (fixed @ basis).astype(np.float32)
    system = HalfStepSystem(
        turned, basis.astype(np.float32), eigenvalues.astype(np.float32), (pull @ basis).astype(np.float32),
        loss, SolverChoice(solver),
    )  # fmt: skip
    result = solve_half_step(
        system, entries, solved.astype(np.float32), backgrounds, ridges, first_block=0, n_threads=2
    )
    assert result.n_failed == 0
    return result.factors.astype(np.float64), turned.astype(np.float64)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("factors_per_pass", [MATRIX, STEPS])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_hot_row_without_a_finite_solution_is_reported_and_keeps_its_start(
    small_sizes, choice, factors_per_pass, alpha
):
    small_sizes.setattr(hot_rows, "_FACTORS_PER_PASS", factors_per_pass)
    rows, system, initial, backgrounds, ridges = half_step_problem(5, choice, loss=Loss("rg2", alpha, 0.1))
    hot = find_hot_rows(rows.indptr)
    column = rows.columns_of(int(hot[1]))[3]
    system.fixed[column, 1] = np.nan
    touched = [row for row in range(15) if column in rows.columns_of(row)]
    solved = solve_half_step(system, rows, initial, backgrounds, ridges, first_block=0, n_threads=2)
    assert (solved.n_failed, solved.first_failed) == (len(touched), touched[0])
    for row in set(touched) & set(hot.tolist()):
        np.testing.assert_allclose(solved.factors[row], initial[row] @ system.basis, rtol=1e-5, atol=1e-6)
    for row in set(hot.tolist()) - set(touched):
        assert not np.allclose(solved.factors[row], initial[row] @ system.basis)


@pytest.mark.parametrize(("cg_steps", "alpha"), [(None, 0.7), (3, 0.7), (3, 0.0)])
def test_a_singular_or_indefinite_hot_row_is_reported(small_sizes, cg_steps, alpha):
    small_sizes.setattr(hot_rows, "_FACTORS_PER_PASS", STEPS)
    problem = HotProblem.random(2, Loss("rg2", alpha, 0.1))
    problem.hot.diagonals[0] = -1000.0
    solution = problem.solve(cg_steps)
    assert solution.status.tolist() == [1] + [0] * (problem.hot.positions.size - 1)
    np.testing.assert_array_equal(solution.factors[0], problem.hot.initial[0])


def test_a_diagonal_of_zero_is_no_failure_where_nothing_pulls():
    problem = HotProblem.random(2, Loss("rg2", 0.0, 0.1))
    problem.fixed[:, 2] = problem.hot.diagonals[:, 2] = problem.hot.constants[:, 2] = 0.0
    solution = problem.solve(3)
    assert (solution.status == 0).all()
    assert (solution.factors[:, 2] == 0).all()


def test_a_row_at_its_minimum_stays_there(small_sizes):
    small_sizes.setattr(hot_rows, "_FACTORS_PER_PASS", STEPS)
    problem = HotProblem.random(2, Loss("rg2", 0.7, 0.1))
    problem.fixed[:] = problem.hot.initial[:] = problem.hot.constants[:] = 0.0
    solution = problem.solve(3)
    assert (solution.status == 0).all()
    assert (solution.factors == 0).all()
    assert (solution.after == solution.before).all()


def test_solutions_beyond_float32_are_failures():
    problem = HotProblem.random(2, Loss("rg2", 0.0, 0.1))
    problem.hot.constants[1, 0] = 1e60
    assert problem.solve(3).status.tolist() == [0, 1] + [0] * (problem.hot.positions.size - 2)


def test_a_row_is_hot_beyond_the_limit_and_not_at_it():
    assert find_hot_rows(np.array([5, 13, 22, 22, 40])).tolist() == [1, 3]
    assert find_hot_rows(np.array([0])).size == 0


@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_the_tree_sum_does_not_depend_on_who_comes_first_and_keeps_few_values(n_segments, random):
    values = np.random.default_rng(n_segments).standard_normal((n_segments, 3))
    expected = collapse_nodes([SumNode(0, i, value.copy()) for i, value in enumerate(values)])
    order = list(range(n_segments))
    # The order in which three threads bring them: nearly ascending.
    for start in range(0, n_segments, 3):
        window = order[start : start + 3]
        random.shuffle(window)
        order[start : start + 3] = window
    tree = hot_rows._TreeSum(n_segments)
    for position, index in enumerate(order):
        total = tree.add(index, values[index].copy())
        assert (total is not None) == (position == n_segments - 1)
        assert len(tree._nodes) <= 2 + n_segments.bit_length()
    np.testing.assert_array_equal(total, expected)


@pytest.mark.parametrize("cg_steps", [None, 2])
def test_memory_does_not_grow_with_the_entries_of_a_row(small_sizes, cg_steps):
    small_sizes.setattr(hot_rows, "SEGMENT_ENTRIES", 256)
    small_sizes.setattr(hot_rows, "_MAX_TILE_ENTRIES", 64)
    small_sizes.setattr(hot_rows, "_FACTORS_PER_PASS", STEPS)
    n_entries, n_factors = 4000, 16
    rows = InteractionRows(np.array([0, n_entries]), np.arange(n_entries, dtype=np.int32), None, n_entries)
    fixed = np.random.default_rng(0).standard_normal((n_entries, n_factors)).astype(np.float32)
    shape = (1, n_factors)
    hot = HotRows(rows, np.array([0]), np.zeros(shape, np.float32), np.ones(shape), np.ones(shape))
    arguments = (fixed, hot, Loss("rg2", 0.5, 0.1))
    solve_hot_rows(*arguments, cg_steps=cg_steps, n_threads=2)
    tracemalloc.start()
    try:
        solve_hot_rows(*arguments, cg_steps=cg_steps, n_threads=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < fixed.nbytes / 3


@pytest.mark.parametrize("cg_steps", [None, 2])
def test_offsets_beyond_two_to_the_31_read_the_right_entries(small_sizes, cg_steps):
    # Untouched zero pages cost no memory: only the last entries are written.
    small_sizes.setattr(hot_rows, "_FACTORS_PER_PASS", STEPS)
    problem, base, own = HotProblem.random(0, Loss("rg2", 0.5, 0.1)), 2**31 + 12, np.arange(3, 20, dtype=np.int32)
    columns = np.zeros(base + own.size, dtype=np.int32)
    columns[base:] = own
    one = (np.array([0]), *(array[:1] for array in (problem.hot.initial, problem.hot.diagonals, problem.hot.constants)))
    near = HotRows(InteractionRows(np.array([0, own.size]), own, None, 30), *one)
    far = HotRows(InteractionRows(np.array([base, base + own.size]), columns, None, 30), *one)
    results = [
        solve_hot_rows(problem.fixed, hot, problem.loss, cg_steps=cg_steps, n_threads=1).factors for hot in (near, far)
    ]
    np.testing.assert_array_equal(*results)
