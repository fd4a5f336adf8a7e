"""rg-softmax: the solver that expands the softmax loss anew, against dense twins, other shards and itself resumed."""

import numpy as np
import pytest

from rgals.data.shards import InMemoryInteractions
from rgals.errors import NumericalError
from rgals.execution import InProcessExecutor
from rgals.names import Float64Array
from rgals.numerics.fold_in import UserSystem
from rgals.numerics.sparse import InteractionRows
from rgals.training import reexpanding_solver
from rgals.training.config import TrainingConfig
from rgals.training.factor_blocks import FactorState
from rgals.training.reexpanding_solver import ReexpandingSolver, make_solver
from rgals.training.reexpansion_tasks import BlendTask, blend_block
from rgals.training.warm_start import WarmStart
from tests.numerics.problems import random_interactions
from tests.numerics.reexpansion_twin import DenseExpansion
from tests.training.executors import PicklingExecutor
from tests.training.runs import N_ITEMS, N_USERS, StopAfter, planted, run, same_bits


def make_config(**options):
    defaults = {"loss": "rg-softmax", "n_factors": 4, "reg": 0.3, "n_hard": 5, "start_sweeps": 2, "solver": "exact"}
    return TrainingConfig(**{**defaults, "softmax_users": 0, **options})


def make(rows, config, *, n_shards=1, executor=None, **options) -> ReexpandingSolver:
    source = InMemoryInteractions(rows, n_shards)
    solver = make_solver(source, config, executor or InProcessExecutor(1), **options)
    assert isinstance(solver, ReexpandingSolver)
    return solver


def dense_weights(rows: InteractionRows) -> Float64Array:
    return np.asarray(rows.to_scipy().toarray(), dtype=np.float64)


class Dense:
    """The softmax loss with its ridge, of whole matrices, from its definition."""

    def __init__(self, rows: InteractionRows, reg: float) -> None:
        self.weights = dense_weights(rows)
        n_items = self.weights.shape[1]
        self.prior = np.full(n_items, 1 / n_items)
        self.user_ridges = reg * self.weights.sum(axis=1)
        by_item = self.weights.sum(axis=0)
        self.item_ridges = reg * np.where(by_item > 0, by_item, self.weights.sum() / n_items)

    def objective(self, users: Float64Array, items: Float64Array) -> float:
        scores = users @ items.T
        loss = self.weights.sum(axis=1) @ np.log(np.exp(scores) @ self.prior) - (self.weights * scores).sum()
        ridge = self.user_ridges @ (users**2).sum(axis=1) + self.item_ridges @ (items**2).sum(axis=1)
        return float(loss + 0.5 * ridge)

    def gradient(self, users: Float64Array, items: Float64Array) -> Float64Array:
        """Central differences."""
        flat = np.concatenate([users.ravel(), items.ravel()])
        found = np.empty_like(flat)
        for position in range(flat.size):
            values = []
            for step in (1e-5, -1e-5):
                moved = flat.copy()
                moved[position] += step
                values.append(
                    self.objective(moved[: users.size].reshape(users.shape), moved[users.size :].reshape(items.shape))
                )
            found[position] = (values[0] - values[1]) / 2e-5
        return found


def doubles(state: FactorState) -> tuple[Float64Array, Float64Array]:
    return state.user_factors.astype(np.float64), state.item_factors.astype(np.float64)


@pytest.mark.parametrize("n_hard", [0, 5, 100])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_objective_is_the_exact_softmax_loss_and_falls_at_every_sweep(n_hard, is_weighted):
    rows = random_interactions(4, 20, 15, is_weighted=is_weighted)
    config = make_config(n_hard=n_hard)
    solver, dense = make(rows, config), Dense(rows, config.reg)
    for _ in range(config.start_sweeps):
        assert solver.run_sweep().expanded is None
    lowest = np.inf
    for _ in range(12):
        record = solver.run_sweep()
        assert record.expanded is not None
        assert record.objective == pytest.approx(dense.objective(*doubles(solver.state)), rel=1e-5)
        assert record.objective <= record.objective_before + 1e-6 * abs(record.objective_before)
        assert record.objective_before <= lowest
        assert record.objective_before >= record.objective_after_users >= record.objective_after_items
        lowest = record.objective


def test_the_half_steps_of_a_sweep_are_those_of_the_dense_quadratic():
    rows = random_interactions(2, 16, 12)
    config = make_config(n_hard=3)
    users, items = (np.random.default_rng(5).normal(size=(n, 4)).astype(np.float32) for n in (16, 12))
    solver = make(rows, config, state=FactorState(1, users, items), is_continued=True)
    record = solver.run_sweep()
    assert record.expanded is not None
    assert record.expanded.step_length == 1
    dense = Dense(rows, config.reg)
    scores = users.astype(np.float64) @ items.astype(np.float64).T
    twin = DenseExpansion.at(scores, dense.weights, dense.prior, 3, config.eta, config.kappa)
    expected_users = twin.solve_users(items.astype(np.float64), dense.user_ridges)
    right = twin.curvatures * scores - twin.slopes
    expected_items = np.array(
        [
            np.linalg.solve(
                (expected_users.T * twin.curvatures[:, i]) @ expected_users + dense.item_ridges[i] * np.eye(4),
                expected_users.T @ right[:, i],
            )
            for i in range(12)
        ]
    )
    found = solver.state
    np.testing.assert_allclose(
        found.user_factors @ found.item_factors.T, expected_users @ expected_items.T, rtol=2e-3, atol=2e-3
    )


@pytest.mark.parametrize(("n_hard", "eta", "kappa"), [(8, 0.25, 1.5), (2, 0.25, 1.5), (0, 0.5, 1.0)])
def test_it_settles_where_the_softmax_objective_is_stationary_whatever_the_damping(n_hard, eta, kappa):
    rows = random_interactions(11, 10, 8)
    config = make_config(n_factors=2, n_hard=n_hard, eta=eta, kappa=kappa, reg=0.2)
    solver, dense = make(rows, config), Dense(rows, config.reg)
    for _ in range(150):
        solver.run_sweep()
    gradient = dense.gradient(*doubles(solver.state))
    assert np.abs(gradient).max() < 5e-3 * dense.weights.sum()
    assert np.abs(gradient).max() < 0.02


def test_from_zero_scores_without_hard_negatives_the_half_step_is_that_of_rg2():
    rows = random_interactions(3, 18, 14, is_weighted=True)
    items = np.random.default_rng(1).normal(size=(14, 4)).astype(np.float32)
    start = FactorState(1, np.zeros((18, 4), dtype=np.float32), items)
    softmax = make(rows, make_config(n_hard=0, eta=0.0), state=start, is_continued=True)
    softmax._open_sweep()
    source = InMemoryInteractions(rows, 1)
    rg2 = make_solver(source, make_config(loss="rg2", alpha=0.0), InProcessExecutor(1), state=start)
    scores = []
    for solver in (softmax, rg2):
        solver._run_half_step("user")
        scores.append(solver.state.user_factors @ solver.state.item_factors.T)
    assert np.abs(scores[1]).max() > 0.1
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("n_shards", "n_threads"), [(1, 2), (2, 1), (3, 2)])
def test_nothing_depends_on_shards_or_threads(n_shards, n_threads):
    config = make_config(n_factors=6, n_sweeps=6, n_hard=9)
    one = run(config)
    other = run(config, n_shards=n_shards, n_threads=n_threads)
    assert same_bits(one, other)
    assert [s.objective_after_items for s in one.history] == [s.objective_after_items for s in other.history]


def test_nothing_depends_on_whether_a_cluster_sends_everything():
    rows = planted()[0]
    config = make_config(n_factors=6, n_hard=9)
    here, there = make(rows, config, n_shards=2), make(rows, config, n_shards=2, executor=PicklingExecutor(1))
    for _ in range(5):
        here.run_sweep()
        there.run_sweep()
    np.testing.assert_array_equal(here.state.user_factors, there.state.user_factors)
    np.testing.assert_array_equal(here.state.item_factors, there.state.item_factors)


@pytest.mark.parametrize("stop_at", [1, 2, 4])
def test_an_interrupted_and_resumed_run_gives_the_same_bits(tmp_path, stop_at):
    rows = planted(is_weighted=True)[0]
    config = make_config(n_factors=6, n_sweeps=6, n_hard=9, user_exponent=-0.5)
    stop = StopAfter(stop_at)
    first = run(config, rows=rows, checkpoints=tmp_path / "c", on_event=stop, should_stop=stop)
    assert (first.stop_reason, first.n_sweeps) == ("interrupted", stop_at)
    second = run(config, rows=rows, checkpoints=tmp_path / "c", resume=True, n_shards=2)
    whole = run(config, rows=rows)
    assert second.n_sweeps == 6
    assert same_bits(second, whole)
    assert [s.objective_after_items for s in second.history] == [s.objective_after_items for s in whole.history]


@pytest.fixture
def small_samples(monkeypatch):
    """Let samples of these small problems be as small as is asked for."""
    monkeypatch.setattr(reexpanding_solver, "LEAST_SAMPLE", 1)


def test_a_sample_of_a_small_catalog_is_all_of_it():
    rows = planted()[0]
    solver, exact = make(rows, make_config(pass_fraction=0.1)), make(rows, make_config())
    for _ in range(4):
        record = solver.run_sweep()
        exact.run_sweep()
    assert record.expanded is not None
    assert record.expanded.error == 0
    np.testing.assert_allclose(solver.state.item_factors, exact.state.item_factors, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("small_samples")
@pytest.mark.parametrize("fraction", [0.2, 0.6])
def test_sampled_passes_go_down_to_near_the_softmax_optimum(fraction):
    rows = planted(is_weighted=True)[0]
    exact = make(rows, make_config(n_hard=9))
    sampled = make(rows, make_config(n_hard=9, pass_fraction=fraction))
    dense = Dense(rows, 0.3)
    for _ in range(12):
        exact.run_sweep()
        record = sampled.run_sweep()
        if record.expanded is not None:
            assert record.expanded.error > 0
            found = dense.objective(*doubles(sampled.state))
            assert abs(record.objective - found) < 2 * record.expanded.error
            assert record.objective_before >= record.objective_after_users >= record.objective_after_items
    start = dense.objective(*(np.zeros_like(factors) for factors in doubles(sampled.state)))
    best, reached = (dense.objective(*doubles(solver.state)) for solver in (exact, sampled))
    assert best < reached < best + 0.25 * (start - best)


@pytest.mark.usefixtures("small_samples")
def test_a_fraction_of_one_is_the_exact_training():
    rows = planted()[0]
    assert same_bits(run(make_config(n_sweeps=5)), run(make_config(n_sweeps=5, pass_fraction=1.0)))
    assert not same_bits(run(make_config(n_sweeps=5)), run(make_config(n_sweeps=5, pass_fraction=0.5)))
    solver = make(rows, make_config(start_sweeps=0))
    record = solver.run_sweep()
    assert record.expanded is not None
    assert record.expanded.error == 0


@pytest.mark.usefixtures("small_samples")
@pytest.mark.parametrize(("n_shards", "n_threads"), [(1, 2), (3, 2)])
def test_sampled_passes_do_not_depend_on_shards_or_threads(n_shards, n_threads):
    config = make_config(n_factors=6, n_sweeps=5, n_hard=9, pass_fraction=0.3, beta=0.3)
    assert same_bits(run(config), run(config, n_shards=n_shards, n_threads=n_threads))


@pytest.mark.usefixtures("small_samples")
def test_after_the_sampled_sweeps_the_passes_are_exact():
    rows = planted(is_weighted=True)[0]
    solver, dense = make(rows, make_config(n_hard=9, pass_fraction=0.3, sampled_sweeps=2)), Dense(rows, 0.3)
    records = [solver.run_sweep() for _ in range(7)]
    errors = [record.expanded.error for record in records if record.expanded is not None]
    # The pass at the end of the second sampled sweep makes the expansion of the third.
    assert [error > 0 for error in errors] == [True, False, False, False, False]
    assert records[-1].objective == pytest.approx(dense.objective(*doubles(solver.state)), rel=1e-5)
    assert records[-1].objective < records[-2].objective < records[-3].objective


@pytest.mark.usefixtures("small_samples")
@pytest.mark.parametrize("more", [{}, {"sampled_sweeps": 2}])
@pytest.mark.parametrize("stop_at", [2, 4])
def test_an_interrupted_run_with_sampled_passes_goes_on_with_the_same_bits(tmp_path, stop_at, more):
    config = make_config(n_factors=6, n_sweeps=6, n_hard=9, pass_fraction=0.3, **more)
    stop = StopAfter(stop_at)
    run(config, checkpoints=tmp_path / "c", on_event=stop, should_stop=stop)
    second = run(config, checkpoints=tmp_path / "c", resume=True, n_shards=2)
    assert same_bits(second, run(config))


@pytest.mark.usefixtures("small_samples")
@pytest.mark.parametrize("n_items", [1, 2, 7])
def test_tiny_catalogs_and_users_with_everything_or_nothing(n_items):
    mask = np.random.default_rng(0).random((9, n_items)) < 0.4
    mask[0], mask[1] = True, False
    users, items = np.nonzero(mask)
    rows = InteractionRows.from_pairs(users, items, None, 9, n_items)
    for fraction in (1.0, 0.3):
        solver = make(rows, make_config(n_hard=50, pass_fraction=fraction))
        for _ in range(6):
            record = solver.run_sweep()
        assert np.isfinite(record.objective)
        assert np.isfinite(solver.state.user_factors).all()
        assert not solver.state.user_factors[1].any()


@pytest.mark.parametrize("beta", [0.5, -0.5])
def test_items_that_nobody_has_may_have_a_prior_of_zero(beta):
    mask = np.random.default_rng(0).random((40, 12)) < 0.4
    mask[:, 7] = False
    users, items = np.nonzero(mask)
    rows = InteractionRows.from_pairs(users, items, None, 40, 12)
    solver = make(rows, make_config(beta=beta, n_hard=3))
    for _ in range(6):
        record = solver.run_sweep()
    assert np.isfinite(record.objective)
    assert solver.state.item_factors[7].any() == (beta < 0)


def test_a_step_that_would_raise_the_loss_is_shortened(monkeypatch):
    rows = random_interactions(4, 20, 15)
    solver = make(rows, make_config())
    for _ in range(3):
        solver.run_sweep()
    # A sweep that goes five times too far.
    original = ReexpandingSolver._run_half_step

    def leap(self, side):
        before = self._sides[side].factors
        turned = self._turned
        result = original(self, side)
        basis = np.linalg.solve(turned, self._turned)
        self._blend(side, before.rotated(basis), self._sides[side].factors, 6.0)
        return result

    monkeypatch.setattr(ReexpandingSolver, "_run_half_step", leap)
    before = solver.objective
    record = solver.run_sweep()
    assert record.expanded is not None
    assert record.expanded.step_length < 1
    assert record.objective <= before


def test_where_no_step_is_short_enough_the_factors_stay_and_the_run_ends(monkeypatch):
    passes = []
    original = ReexpandingSolver._expand

    def rising(self):
        found = original(self)
        passes.append(found)
        # From the second sweep on, everything but the point where it began looks worse.
        return found + (1e6 if len(passes) > 2 and abs(found - passes[1]) > 1e-4 * abs(found) else 0)

    monkeypatch.setattr(ReexpandingSolver, "_expand", rising)
    result = run(make_config(n_factors=6, n_sweeps=9, n_hard=9))
    assert result.stop_reason == "tolerance"
    assert (result.n_sweeps, result.history[-1].step_length) == (4, 0)
    assert result.history[-1].objective_after_items == pytest.approx(result.history[-1].objective_before)


def test_factors_that_overflow_are_an_error():
    rows = random_interactions(4, 20, 15)
    huge = np.full((15, 4), 3e38, dtype=np.float32)
    solver = make(rows, make_config(), state=FactorState(1, np.ones((20, 4), np.float32), huge), is_continued=True)
    with pytest.raises(NumericalError, match="finite"), np.errstate(all="ignore"):
        solver.run_sweep()


def test_fold_in_is_the_half_step_of_the_training():
    rows = planted()[0]
    config = make_config(n_factors=6, n_hard=9)
    solver = make(rows, config)
    for _ in range(4):
        solver.run_sweep()
    state = solver.state
    system = UserSystem.build(state.item_factors, config.to_loss(), solver.item_degrees, solver.weight_scale)
    folded = system.solve(rows, initial=state.user_factors)
    solver._open_sweep()
    solver._run_half_step("user")
    after = solver.state
    expected = after.user_factors @ after.item_factors.T
    np.testing.assert_allclose(folded @ state.item_factors.T, expected, rtol=1e-4, atol=1e-4)


def test_a_warm_start_needs_no_start_of_its_own():
    config = make_config(n_factors=6, n_sweeps=8, n_hard=9)
    rows = planted()[0]
    trained = run(config, rows=rows)
    state = FactorState(0, trained.user_factors, trained.item_factors)
    solver = make(rows, config, state=state, is_continued=True)
    record = solver.run_sweep()
    assert record.expanded is not None
    assert record.objective_before == pytest.approx(trained.history[-1].objective_after_items, rel=0.02)


def test_a_resumed_warm_start_does_not_start_once_more(tmp_path):
    config = make_config(n_factors=6, n_sweeps=4, n_hard=9, start_sweeps=3)
    trained = run(make_config(n_factors=6, n_sweeps=6, n_hard=9))
    rows = (np.arange(n, dtype=np.int64) for n in (N_USERS, N_ITEMS))
    initial = WarmStart(*rows, trained.user_factors, trained.item_factors)
    whole = run(config, initial=initial)
    stop = StopAfter(2)
    run(config, initial=initial, checkpoints=tmp_path / "c", on_event=stop, should_stop=stop)
    resumed = run(config, checkpoints=tmp_path / "c", resume=True)  # without the model it began from
    assert same_bits(whole, resumed)
    assert [summary.step_length is not None for summary in resumed.history] == [True] * 4


def test_blending_reaches_both_ends():
    rng = np.random.default_rng(0)
    before, after = (rng.normal(size=(5, 3)).astype(np.float32) for _ in range(2))
    eye = np.eye(3, dtype=np.float32)
    executor = InProcessExecutor(1)
    task = BlendTask(executor.put(before), executor.put(after))
    for length, expected in ((0.0, before), (1.0, after)):
        blended = [one.block for one in executor.map_blocks(blend_block, (eye, eye, length), [task])]
        np.testing.assert_allclose(executor.fetch(blended[0]), expected, atol=1e-6)
