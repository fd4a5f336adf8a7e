"""The loop: budgets, failures, interruptions."""

import math
import time

import pytest

from rgals.errors import InputError, NumericalError
from rgals.tuning.search import search
from rgals.tuning.space import SearchSpace
from rgals.tuning.study import Study
from rgals.tuning.trial import TrialResult
from tests.tuning.problems import curve_of, open_study, run


def test_trials_of_earlier_calls_count_towards_the_budget(tmp_path):
    told = []
    with open_study(tmp_path / "study") as study:
        assert search(study, run, budget_trials=2, on_trial=lambda found, trial: told.append(trial)) is study
        search(study, run, budget_trials=3, on_trial=lambda found, trial: told.append((found.n_trials, trial)))
        search(study, run, budget_trials=3)
        assert told == [*study.trials[:2], (3, study.trials[2])]


class Clock:
    """In place of the one of the machine: it stands still unless it is moved."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


def test_seconds_are_those_of_the_search_and_what_is_left_is_the_last_ones_deadline(tmp_path, monkeypatch):
    deadlines, clock = [], Clock(monkeypatch)

    def timed(number, options, pruner):
        deadlines.append(pruner.deadline_s)
        clock.now += 4.0
        return TrialResult.of_curve(options, curve_of(0.1), 1.0)

    with open_study(tmp_path / "study") as study:
        search(study, timed, budget_s=10)
        assert study.n_trials == 3
        search(study, timed, budget_s=10)
        search(study, timed, budget_trials=9, budget_s=14)
        search(study, timed, budget_trials=5, budget_s=1e9)
    assert deadlines == [10, 6, 2, 2, pytest.approx(1e9)]
    assert open_study(tmp_path / "study").tune_s == 20


def test_proposing_is_charged_too(tmp_path, monkeypatch):
    clock, real = Clock(monkeypatch), Study.ask

    def ask(self, n=1):
        clock.now += 3.0
        return real(self, n)

    monkeypatch.setattr(Study, "ask", ask)
    with open_study(tmp_path / "study") as study:
        search(study, run, budget_s=10)
        assert [trial.charged_s for trial in study.trials] == [3.0] * 4


@pytest.mark.parametrize("budget", [{"budget_trials": 50}, {"budget_s": 60.0}])
def test_a_search_ends_when_ten_trials_in_a_row_failed(tmp_path, budget):
    def failing(number, options, pruner):
        if number == 1:
            return run(number, options, pruner)
        raise NumericalError("no finite solution")

    with open_study(tmp_path / "study") as study:
        search(study, failing, **budget)
        assert study.n_trials == 12
        search(study, failing, **budget)
        assert study.n_trials == 12, "nor does it go on when it is called again"
        assert study.n_failed_in_a_row == 10


def test_warm_up_and_start_reach_the_trials(tmp_path):
    seen = []
    with open_study(tmp_path / "study") as study:
        search(study, lambda n, o, p: seen.append(p) or run(n, o, p), budget_trials=4, warm_up=5, n_start=3)
    assert {pruner.n_start for pruner in seen} == {3}
    assert [math.isfinite(threshold) for threshold in seen[3].thresholds] == [False] * 5 + [True] * 3


def test_patience_reaches_the_trials(tmp_path):
    seen = []
    with open_study(tmp_path / "study") as study:
        search(study, lambda n, o, p: seen.append(p) or run(n, o, p), budget_trials=4, patience=5)
    assert [pruner.patience for pruner in seen] == [5] * 4
    assert [bool(pruner.thresholds) for pruner in seen] == [False, False, False, True]


def test_a_trial_without_a_finite_solution_is_a_failed_one(tmp_path):
    def failing(number, options, pruner):
        if number in (0, 2):
            raise NumericalError("user row 3 has no finite solution")
        return run(number, options, pruner)

    with open_study(tmp_path / "study") as study:
        search(study, failing, budget_trials=4)
        assert [trial.result.state == "failed" for trial in study.trials] == [True, False, True, False]
        assert study.trials[0].result.reason == "user row 3 has no finite solution"
        assert study.trials[0].result.options == study.space.defaults()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("a bug")])
def test_anything_else_ends_the_search_and_the_trial_is_offered_again(tmp_path, error):
    def interrupted(number, options, pruner):
        if number == 2:
            raise error
        return run(number, options, pruner)

    with open_study(tmp_path / "study") as study, pytest.raises(type(error) if isinstance(error, Exception) else error):
        search(study, interrupted, budget_trials=5)
    with open_study(tmp_path / "study") as study:
        assert study.n_trials == 2
        assert study.ask()[0][0] == 2


@pytest.mark.parametrize(
    "budget", [{}, {"budget_trials": 0}, {"budget_s": 0.0}, {"budget_s": float("nan")}, {"budget_trials": -1}]
)
def test_a_search_needs_something_to_spend(tmp_path, budget):
    with open_study(tmp_path / "study") as study, pytest.raises(InputError, match=r"budget"):
        search(study, run, **budget)


def test_without_options_there_is_one_trial(tmp_path):
    with open_study(tmp_path / "study", space=SearchSpace(())) as study:
        search(study, lambda n, o, p: TrialResult.of_curve(o, curve_of(0.1), 1.0), budget_trials=7)
        assert [trial.result.options for trial in study.trials] == [{}]
        search(study, lambda n, o, p: pytest.fail("asked again"), budget_s=100)
        assert study.importance() is None
