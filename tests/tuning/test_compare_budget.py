"""What a model of a comparison is charged for, when its search ends, and where its fits run."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rgals.baselines.model import FittedBaseline, RoundClock
from rgals.baselines.simple import fit_popularity
from rgals.errors import NumericalError
from rgals.execution import InProcessExecutor
from rgals.tuning import compare as compare_module
from rgals.tuning import fitting
from rgals.tuning.events import RoundEvent, StageEvent, TrialEvent
from rgals.tuning.space import Dimension, SearchSpace
from tests.tuning.comparisons import make_dataset, replace_contender, run_comparison

PAUSE_S = 0.4
SLOW_S = 1.5
"""More than a trial of these takes on a busy machine."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("compare") / "dataset")


class SideBySide(InProcessExecutor):
    """Three workers that really work at the same time."""

    n_workers = 3

    def map_ordered(self, function, shared, tasks, **options):
        if len(tasks) != 3:
            yield from super().map_ordered(function, shared, tasks, **options)
            return
        with ThreadPoolExecutor(3) as pool:
            yield from pool.map(lambda task: function(shared, task, self._context), tasks)


def test_trials_side_by_side_are_charged_the_seconds_in_which_they_ran(dataset, tmp_path, monkeypatch):
    def fit(train, options, *, watch, **others):
        time.sleep(PAUSE_S)
        return fit_popularity(train, watch=watch)

    replace_contender(monkeypatch, "ials", baseline=fit)
    [record] = run_comparison(
        dataset, tmp_path, models=("ials",), budget=None, budget_s=1.5 * PAUSE_S, executor=SideBySide(1)
    ).records
    charged = sum(trial.charged_s for trial in record.trials)
    own = sum(trial.result.seconds for trial in record.trials)
    assert own >= PAUSE_S * len(record.trials)
    assert charged < 0.8 * own
    assert len(record.trials) % 3 == 0


def slow_the_first(monkeypatch, owner, name):
    """Let the first call take long, as one that compiles does."""
    real, calls = getattr(owner, name), []

    def slow(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            time.sleep(SLOW_S)
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, slow)
    return calls


@pytest.mark.parametrize("model", ["rg2", "rg-softmax"])
def test_compiling_is_not_charged_to_the_first_model_of_the_family(dataset, tmp_path, monkeypatch, model):
    calls = slow_the_first(monkeypatch, compare_module, "run_training")
    [record] = run_comparison(dataset, tmp_path, models=(model,), budget=1).records
    assert len(calls) == 3, "untimed, the trial, the timed fit"
    assert record.trials[0].charged_s < SLOW_S
    assert calls[0][0].n_sweeps == (2 if model == "rg-softmax" else 1)


def test_reading_and_compiling_are_not_charged_to_a_baseline(dataset, tmp_path, monkeypatch):
    slow_the_first(monkeypatch, fitting, "read_inputs")
    calls = slow_the_first(monkeypatch, fitting, "load_kernels")
    [record] = run_comparison(dataset, tmp_path, models=("ials",), budget=1).records
    assert record.trials[0].charged_s < SLOW_S
    assert calls


def test_a_finished_comparison_trains_nothing_to_warm_up(dataset, tmp_path, monkeypatch):
    run_comparison(dataset, tmp_path, models=("rg2",))
    calls = slow_the_first(monkeypatch, compare_module, "run_training")
    run_comparison(dataset, tmp_path, models=("rg2",))
    assert calls == []


def test_the_kernels_that_rank_are_loaded_with_those_that_fit(monkeypatch):
    measured, real = [], fitting.measure
    monkeypatch.setattr(fitting, "measure", lambda model, *a, **k: measured.append(model.name) or real(model, *a, **k))
    fitting.load_kernels.cache_clear()
    fitting.load_kernels("popularity", 4)
    fitting.load_kernels("popularity", 4)
    assert measured == ["popularity"]


@pytest.mark.parametrize("budget", [{"budget": 30}, {"budget": None, "budget_s": 60.0}])
def test_a_model_whose_trials_fail_ten_times_in_a_row_goes_no_further(dataset, tmp_path, monkeypatch, budget):
    fits = []

    def fit(train, options, *, watch, **others):
        fits.append(options)
        if options["reg"] != 1.0 or options["alpha"] != 20.0:  # the defaults
            raise NumericalError("row 3: no finite solution")
        return fit_popularity(train, watch=watch)

    replace_contender(monkeypatch, "ials", baseline=fit)
    [record] = run_comparison(dataset, tmp_path, models=("ials",), **budget).records
    assert [trial.result.state == "failed" for trial in record.trials] == [False] + [True] * 10
    assert record.notes == ("its search ended with 11 trials, as the last 10 failed",)
    [again] = run_comparison(dataset, tmp_path, models=("ials",), **budget).records
    assert (again.notes, len(again.trials)) == (record.notes, 11)


class OtherDriver(InProcessExecutor):
    """A worker of two threads, and a driver of five."""

    n_workers, caller_threads = 3, 5

    def __init__(self):
        super().__init__(2)


def test_a_baseline_is_timed_and_fitted_last_with_the_same_threads(dataset, tmp_path, monkeypatch):
    seen = []

    def fit(train, options, *, n_threads, watch, **others):
        seen.append((train.n_interactions, n_threads))
        return fit_popularity(train, watch=watch)

    fitting.load_kernels.cache_clear()
    replace_contender(monkeypatch, "ials", baseline=fit)
    found = run_comparison(dataset, tmp_path, models=("ials", "rg2"), budget=1, executor=OtherDriver())
    n_train, n_all = dataset.n_interactions, max(seen)[0]
    assert n_all > n_train
    assert seen[1:] == [(n_train, 2), (n_train, 2), (n_all, 2)], "after the kernels"
    assert found.records[0].notes == (
        "fitted by one process with 2 threads, where the models of the RG family had 3 workers with as many each",
    )
    assert found.records[1].notes == ()


def fit_in_rounds(train, options, *, n_rounds, watch, **others):
    """Popularity, right side up if ``reg`` is below 0.7 and upside down otherwise, round after round a little worse."""
    items = train.transpose().degrees.astype(np.float32)[:, None]
    items = items if options["reg"] < 0.7 else -items
    clock, users = RoundClock(watch), np.ones((train.n_rows, 1), np.float32)

    def model_at(seconds):
        return FittedBaseline(
            "ials", seconds, dict(options), users, items, lambda rows, n_threads: users[: rows.n_rows]
        )

    for number in range(1, n_rounds + 1):
        if not clock.end_round(number, None, model_at):
            break
    return model_at(clock.seconds)


def test_a_hopeless_trial_is_cut_after_the_warm_up_and_not_before(dataset, tmp_path, monkeypatch):
    space = SearchSpace((Dimension("reg", 0.0, 1.0, default=0.1),))
    replace_contender(monkeypatch, "ials", baseline=fit_in_rounds, space=space, n_rounds=9, patience=None)
    [record] = run_comparison(dataset, tmp_path, models=("ials",), budget=6).records
    results = [trial.result for trial in record.trials]
    assert record.contender.warm_up == 3
    assert any(result.options["reg"] >= 0.7 for result in results[3:])
    for number, result in enumerate(results):
        is_cut = number >= 3 and result.options["reg"] >= 0.7
        assert result.state == ("pruned" if is_cut else "complete")
        assert [point.round for point in result.curve] == list(range(1, 5 if is_cut else 10))


@pytest.mark.parametrize("model", ["softmax-cosine", "rg2", "rg-softmax"])
def test_each_round_of_the_last_fit_is_told_of_before_the_test_part_is_ranked(dataset, tmp_path, monkeypatch, model):
    replace_contender(monkeypatch, model, n_rounds=9, patience=None)
    events = []
    [record] = run_comparison(dataset, tmp_path, models=(model,), budget=1, listener=events.append).records
    told = [event for event in events if not isinstance(event, TrialEvent) and event.stage in ("final", "test")]
    n_rounds = record.best.result.best_round
    assert [type(event) for event in told] == [StageEvent, *[RoundEvent] * n_rounds, StageEvent]
    assert [event.point.round for event in told[1:-1]] == list(range(1, n_rounds + 1))
    assert told[-1] == StageEvent(model, "test", False)
    assert record.train_s == pytest.approx(told[-2].point.train_s, rel=0.5, abs=0.05)


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 20 GiB"), MemoryError()])
def test_a_model_that_runs_out_of_memory_is_left_out(dataset, tmp_path, monkeypatch, error):
    def fit(train, options, **others):
        raise error

    replace_contender(monkeypatch, "bpr", baseline=fit)
    found = run_comparison(dataset, tmp_path, models=("bpr", "popularity"))
    assert found.left_out == {"bpr": f"out of memory: {error}"}
    assert [record.contender.name for record in found.records] == ["popularity"]
