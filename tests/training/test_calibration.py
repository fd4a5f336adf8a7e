"""The speed of the kernels: measured with the real ones, on the same problem every time."""

import itertools

import numpy as np
import pytest

from rgals.errors import InputError
from rgals.numerics.half_step import solve_half_step
from rgals.training import calibration
from rgals.training.calibration import calibrate


@pytest.fixture
def small_work(monkeypatch):
    """Measure a little only: the numbers do not matter here."""
    monkeypatch.setattr(calibration, "_WORK", 1 << 15)
    monkeypatch.setattr(calibration, "_FIXED_FLOATS", 1 << 15)
    monkeypatch.setattr(calibration, "_LEAST_PASS_ROWS", 256)
    monkeypatch.setattr(calibration, "_PASS_WORK", 1 << 20)


def test_rates_are_positive_for_each_number_of_threads(small_work):
    found = calibrate(3000, 1000, 50_000, 8, n_threads=(2, 1, 2))
    assert [rates.n_threads for rates in found.rates] == [1, 2]
    for rates in found.rates:
        assert min(rates.user_solve_s, rates.item_solve_s, rates.rotate_s) > 0
        assert rates.pass_s is None


def test_rates_are_seconds_per_unit_of_work(small_work, monkeypatch):
    clock = itertools.count(step=2.0)
    monkeypatch.setattr(calibration.time, "perf_counter", lambda: next(clock))
    found = calibrate(3000, 1000, 60_000, 8, n_hard=5, n_threads=(1,)).rates[0]
    # Every measurement takes two seconds on this clock. 4,096 interactions are wanted: of users with 20 entries
    # at most one is taken each, for the least number of rows is 1,024; likewise of items. The longer side
    # has 3,000 rows.
    assert found.user_solve_s == pytest.approx(2.0 / (4096 * 8))
    assert found.item_solve_s == pytest.approx(2.0 / (4096 * 8))
    assert found.rotate_s == pytest.approx(2.0 / (3000 * 8**2))
    # 256 rows with the 1,000 items: more than are wanted.
    assert found.pass_s == pytest.approx(2.0 / (256 * 1000 * 8))


@pytest.mark.parametrize(
    ("n_items", "n_interactions", "degree"), [(1, 10, 1), (50, 10**6, 50), (10**8, 10**4, 10), (10**8, 10**7, 1024)]
)
def test_the_measured_passes_are_of_distinct_entries_in_bounded_memory(n_items, n_interactions, degree):
    problem = calibration._ScoreProblem.make(n_items, n_interactions / 1000, 16, 5, 2)
    rows = problem.rows
    assert (rows.degrees == degree).all()
    assert (np.diff(rows.columns.reshape(rows.n_rows, degree), axis=1) > 0).all()
    assert rows.columns.max() < len(problem.others) <= 1 << 14
    assert 2048 <= len(problem.vectors) <= 1 << 14
    assert problem.rate(1) > 0


def test_the_measured_passes_have_work_for_every_thread():
    problem = calibration._ScoreProblem.make(10**8, 5.0, 64, 5, 48)
    assert len(problem.vectors) >= 48 * 2 * 128


def test_the_measured_problem_is_the_same_every_time_and_can_be_solved(small_work):
    first, second = (calibration._make_problem(3000, 1000, 50_000, 8) for _ in range(2))
    assert first.rows.columns.tobytes() == second.rows.columns.tobytes()
    assert first.initial.tobytes() == second.initial.tobytes()
    assert first.system.fixed.tobytes() == second.system.fixed.tobytes()
    ones = np.ones(first.rows.n_rows)
    solved = solve_half_step(first.system, first.rows, first.initial, ones, ones, first_block=0, n_threads=1)
    assert solved.n_failed == 0
    assert np.isfinite(solved.factors).all()


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (1, 10**9, 10**9, 3), (10**8, 5, 10**11, 64), (10, 10, 100, 600)])
def test_a_measured_problem_has_rows_of_the_mean_length_in_bounded_memory(sizes):
    n_users, n_items, n_interactions, n_factors = sizes
    problem = calibration._make_problem(n_users, n_items, n_interactions, n_factors)
    mean = max(1, round(n_interactions / n_users))
    lengths = np.unique(problem.rows.degrees)
    assert lengths.size == 1
    assert 1 <= lengths[0] <= mean
    assert problem.system.fixed.nbytes <= max(4 * calibration._FIXED_FLOATS, 4 * 1024 * n_factors)
    assert problem.rows.n_interactions <= max(calibration._MOST_INTERACTIONS, 2 * calibration._LEAST_ROWS)
    assert problem.rows.columns.min() >= 0
    assert problem.rows.columns.max() < problem.system.fixed.shape[0] == problem.rows.n_columns
    rows = problem.rows.columns.reshape(-1, int(lengths[0]))
    assert (np.diff(rows, axis=1) >= 0).all()


@pytest.mark.parametrize("sizes", [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(InputError, match=r"calibration: n_.*: expected at least 1, found 0"):
        calibrate(*sizes)


@pytest.mark.parametrize("threads", [(), (0,)])
def test_there_is_something_to_measure(threads):
    with pytest.raises(InputError, match="calibration: n_threads"):
        calibrate(1, 1, 1, 1, n_threads=threads)
