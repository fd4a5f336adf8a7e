"""The alternating solver against the dense objective, against implicit, and against itself on other shards."""

import hashlib

import numpy as np
import pytest
import scipy.sparse
import threadpoolctl
from hypothesis import given, settings
from hypothesis import strategies as st
from implicit.cpu import als

from rgals.data.shards import InMemoryInteractions
from rgals.errors import InputError, NumericalError
from rgals.execution import InProcessExecutor
from rgals.names import Side
from rgals.numerics import row_kernels
from rgals.numerics.dense_twin import DenseProblem
from rgals.numerics.loss import QUADRATIC_LOSS_NAMES, Loss
from rgals.numerics.sparse import InteractionRows
from rgals.training.solver import AlternatingSolver, FactorState
from tests.numerics.problems import losses, random_interactions


def make_solver(
    rows: InteractionRows, loss: Loss, n_factors: int = 4, n_shards: int = 1, n_threads: int = 1, **options
):
    return AlternatingSolver(
        InMemoryInteractions(rows, n_shards),
        loss,
        n_factors=n_factors,
        executor=InProcessExecutor(n_threads),
        **{"seed": 3, "solver": "exact", **options},
    )


def dense_objective(solver: AlternatingSolver, problem: DenseProblem) -> float:
    state = solver.state
    return problem.objective(state.user_factors.astype(np.float64), state.item_factors.astype(np.float64))


def checksum(solver: AlternatingSolver) -> str:
    state = solver.state
    return hashlib.sha256(state.user_factors.tobytes() + state.item_factors.tobytes()).hexdigest()


@settings(max_examples=60, deadline=None)
@given(
    loss=losses(),
    seed=st.integers(0, 2**16),
    solver_name=st.sampled_from(["cg", "exact"]),
    is_weighted=st.booleans(),
)
def test_the_objective_is_the_dense_one_and_falls_at_every_half_step(
    loss: Loss, seed: int, solver_name: str, is_weighted: bool
) -> None:
    rows = random_interactions(seed, 12, 9, is_weighted=is_weighted)
    solver = make_solver(rows, loss, solver=solver_name, cg_steps=2)
    problem = DenseProblem.from_interactions(rows, loss)
    previous = dense_objective(solver, problem)
    scale = max(abs(previous), float(problem.weights.sum()))
    for _ in range(4):
        sides: tuple[Side, ...] = ("user", "item")
        for side in sides:
            step = solver._run_half_step(side)
            before, after = step.objective_before, step.objective_after
            measured = dense_objective(solver, problem)
            assert before == pytest.approx(previous, abs=2e-5 * scale)
            assert after == pytest.approx(measured, abs=2e-5 * scale)
            assert measured <= previous + 1e-6 * scale
            previous = measured


@settings(max_examples=25, deadline=None)
@given(loss=losses(min_alpha=0.1), seed=st.integers(0, 2**16), side=st.sampled_from(["user", "item"]))
def test_an_exact_half_step_is_stationary_in_its_own_rows(loss: Loss, seed: int, side: Side) -> None:
    rows = random_interactions(seed, 8, 7, is_weighted=True)
    solver = make_solver(rows, loss, n_factors=3)
    solver.run_sweep()
    if loss.name == "rgx" and side == "item":
        # The item step minimizes an upper bound; its fixed point is stationary.
        for _ in range(400):
            solver._run_half_step("item")
    solver._run_half_step(side)
    state, problem = solver.state, DenseProblem.from_interactions(rows, loss)
    gradient = problem.gradient(state.user_factors.astype(np.float64), state.item_factors.astype(np.float64), 1e-4)
    split = state.user_factors.size
    own = gradient[:split] if side == "user" else gradient[split:]
    assert np.abs(own).max() < 1e-3 * max(1.0, float(problem.weights.sum()))


@pytest.mark.parametrize("name", QUADRATIC_LOSS_NAMES)
def test_many_sweeps_reach_a_stationary_point_of_the_whole_objective(name: str) -> None:
    rows = random_interactions(11, 10, 8)
    loss = Loss(name, alpha=0.5, reg=0.3, nu=0.5, beta=0.5)
    solver = make_solver(rows, loss, n_factors=2)
    for _ in range(400):
        solver.run_sweep()
    state = solver.state
    gradient = DenseProblem.from_interactions(rows, loss).gradient(
        state.user_factors.astype(np.float64), state.item_factors.astype(np.float64), 1e-4
    )
    assert np.abs(gradient).max() < 2e-3


@pytest.mark.parametrize("name", QUADRATIC_LOSS_NAMES)
@pytest.mark.parametrize("other", ["woodbury", "cholesky", "cg"])
def test_all_ways_to_solve_give_the_same_factors(name: str, other: str) -> None:
    rows = random_interactions(5, 14, 10, is_weighted=True)
    loss = Loss(name, alpha=0.8, reg=0.1)
    exact, same = make_solver(rows, loss), make_solver(rows, loss, solver=other, cg_steps=50)
    for _ in range(3):
        exact.run_sweep()
        same.run_sweep()
    left, right = exact.state, same.state
    np.testing.assert_allclose(
        left.user_factors @ left.item_factors.T, right.user_factors @ right.item_factors.T, atol=2e-3
    )


@pytest.mark.parametrize("loss", [Loss("rg2", 0.0, 0.2), Loss("rg2", 0.0, 0.2, beta=0.5, nu=0.5)])
def test_rg2_without_alpha_is_its_closed_form(loss: Loss) -> None:
    """With alpha = 0: p_u = (c_u B + r_u I)^-1 (sum_i g q_i - c_u m), and the same with roles exchanged."""
    rows = random_interactions(7, 10, 6, is_weighted=True)
    solver = make_solver(rows, loss, n_factors=3)
    problem = DenseProblem.from_interactions(rows, loss)
    g, prior, (user_ridge, item_ridge) = problem.weights, problem.prior, problem.ridges()
    q = solver.state.item_factors.astype(np.float64)
    gram, mean = (q.T * prior) @ q, prior @ q
    p = np.stack(
        [
            np.linalg.solve(c * gram + r * np.eye(3), w @ q - c * mean)
            for c, r, w in zip(problem.user_weights, user_ridge, g, strict=True)
        ]
    )
    c = problem.user_weights
    user_gram, pull = (p.T * c) @ p, c @ p
    expected = np.stack(
        [
            np.linalg.solve(pi * user_gram + r * np.eye(3), w @ p - pi * pull)
            for pi, r, w in zip(prior, item_ridge, g.T, strict=True)
        ]
    )
    solver.run_sweep()
    state = solver.state
    np.testing.assert_allclose(state.user_factors @ state.item_factors.T, p @ expected.T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_ials_member_equals_the_exact_solver_of_implicit(is_weighted: bool) -> None:
    rows = random_interactions(2, 60, 40, 0.15, is_weighted=is_weighted)
    alpha, reg, n_factors = 3.0, 0.7, 8
    stored = rows.to_scipy()
    # implicit reads the confidence 1 + alpha g from the matrix itself.
    confidence = scipy.sparse.csr_matrix((1 + alpha * stored.data, stored.indices, stored.indptr), shape=stored.shape)
    with threadpoolctl.threadpool_limits(1, "blas"):
        model = als.AlternatingLeastSquares(
            factors=n_factors, regularization=reg, alpha=1.0, iterations=5, use_cg=False, random_state=1, num_threads=1,
            dtype=np.float64,
        )  # fmt: skip
        rng = np.random.default_rng(0)
        start = (rng.standard_normal((40, n_factors)) * 0.1).astype(np.float32)
        model.user_factors, model.item_factors = np.zeros((60, n_factors)), start.astype(np.float64)
        model.fit(confidence, show_progress=False)
    state = FactorState(0, np.zeros((60, n_factors), np.float32), start)
    solver = make_solver(rows, Loss("ials", alpha, reg, nu=0.0), n_factors=n_factors, state=state)
    for _ in range(5):
        solver.run_sweep()
    ours = solver.state.user_factors @ solver.state.item_factors.T
    theirs = model.user_factors @ model.item_factors.T
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 1e-4


@pytest.mark.parametrize("name", QUADRATIC_LOSS_NAMES)
@pytest.mark.parametrize("solver_name", ["cg", "exact"])
def test_threads_and_shards_leave_every_bit(name: str, solver_name: str) -> None:
    rows = random_interactions(4, 2600, 1700, 0.004, is_weighted=True)
    loss = Loss(name, alpha=0.4, reg=0.05, beta=0.3, user_exponent=-0.5, item_exponent=-0.25)
    sums = set()
    for n_shards, n_threads in ((1, 1), (1, 2), (3, 1), (5, 2)):
        solver = make_solver(rows, loss, n_factors=5, n_shards=n_shards, n_threads=n_threads, solver=solver_name)
        assert len(solver._shards.source.shard_ranges("user")) == n_shards
        for _ in range(2):
            record = solver.run_sweep()
        sums.add((checksum(solver), record.objective_after_items))
    assert len(sums) == 1


def test_a_run_continued_from_its_state_is_the_uninterrupted_run() -> None:
    rows, loss = random_interactions(4, 1200, 700, 0.01), Loss("rgx", 0.4, 0.05)
    whole = make_solver(rows, loss, solver="cg")
    records = [whole.run_sweep() for _ in range(4)]
    first = make_solver(rows, loss, solver="cg")
    for _ in range(2):
        first.run_sweep()
    second = make_solver(rows, loss, solver="cg", state=first.blocks)
    continued = [second.run_sweep() for _ in range(2)]
    assert checksum(second) == checksum(whole)
    assert [r.objective_after_items for r in continued] == [r.objective_after_items for r in records[2:]]
    assert continued[-1].sweep == 4


def test_rows_and_columns_without_interactions_stay_finite() -> None:
    rows = InteractionRows.from_pairs(np.array([1, 1, 3]), np.array([0, 2, 2]), None, 5, 6)
    for name in QUADRATIC_LOSS_NAMES:
        solver = make_solver(rows, Loss(name, 0.5, 0.1))
        for _ in range(3):
            solver.run_sweep()
        assert np.isfinite(solver.state.user_factors).all()
        assert np.isfinite(solver.state.item_factors).all()
        assert (solver.state.user_factors[0] == 0).all()


def test_more_factors_than_rows_stay_finite_and_fall() -> None:
    solver = make_solver(random_interactions(0, 5, 4, 0.5), Loss("rgx", 1.0, 0.01), n_factors=16)
    objectives = [solver.run_sweep().objective_after_items for _ in range(6)]
    assert np.isfinite(objectives).all()
    assert (np.diff(objectives) <= 1e-5).all()


def test_a_singular_problem_is_a_numerical_error_that_names_reg() -> None:
    solver = make_solver(random_interactions(0, 5, 4, 0.5), Loss("rg2", 1.0, 0.0), n_factors=16)
    with pytest.raises(NumericalError, match=r"user half-step: \d+ rows have no finite solution.*raise reg"):
        solver.run_sweep()


def test_bad_arguments_are_named() -> None:
    rows, loss = random_interactions(0, 5, 4), Loss("rg2", 1.0, 0.1)
    with pytest.raises(InputError, match="n_factors: expected at least 1, found 0"):
        make_solver(rows, loss, n_factors=0)
    empty = InteractionRows(np.zeros(3, np.int64), np.empty(0, np.int32), None, 4)
    with pytest.raises(InputError, match="no interactions"):
        make_solver(empty, loss)
    wrong = FactorState(0, np.zeros((5, 4), np.float32), np.zeros((9, 4), np.float32))
    with pytest.raises(InputError, match="item_factors: expected float32 of shape"):
        make_solver(rows, loss, state=wrong)
    undefined = FactorState(0, np.zeros((5, 4), np.float32), np.full((4, 4), np.nan, np.float32))
    with pytest.raises(InputError, match="item_factors: expected finite"):
        make_solver(rows, loss, state=undefined)


def test_degree_weights_keep_the_total_weight() -> None:
    rows = random_interactions(1, 30, 20, is_weighted=True)
    assert rows.weights is not None
    solver = make_solver(rows, Loss("rg2", 1.0, 0.1, user_exponent=-0.5, item_exponent=-0.25))
    sums = solver._shards._sums
    assert sums["user"].sum() == pytest.approx(float(rows.weights.sum()), rel=1e-6)
    assert sums["item"].sum() == pytest.approx(sums["user"].sum(), rel=1e-9)


@pytest.mark.parametrize("exponent", [0.0, -0.5])
@pytest.mark.parametrize("is_read_only", [False, True])
def test_kernels_are_compiled_before_the_first_sweep(exponent: float, is_read_only: bool) -> None:
    rows = random_interactions(0, 20, 15, is_weighted=True)
    assert rows.weights is not None
    rows.columns.setflags(write=not is_read_only)
    rows.weights.setflags(write=not is_read_only)
    solver = make_solver(rows, Loss("rg2", 0.5, 0.1, user_exponent=exponent))
    compiled = list(row_kernels.solve_rows.signatures)  # type: ignore[attr-defined]
    solver.run_sweep()
    assert row_kernels.solve_rows.signatures == compiled  # type: ignore[attr-defined]
