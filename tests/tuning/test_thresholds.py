"""The median of the others, round by round."""

import math

import pytest

from rgals.tuning.thresholds import MIN_TRIALS, WARM_UP_ROUNDS, median_thresholds, warm_up_rounds
from rgals.tuning.trial import TrialResult
from tests.tuning.problems import curve_of, result_of

NONE = -math.inf


def test_nothing_is_cut_before_three_trials_are_finished():
    assert MIN_TRIALS == 3
    assert median_thresholds([]) == ()
    assert median_thresholds([result_of(0.1, 0.2, 0.3)] * 2) == ()
    assert median_thresholds([result_of(0.1, 0.2, 0.3)] * 3) == (NONE, NONE, 0.3)


def test_a_threshold_is_the_median_of_the_best_so_far():
    found = median_thresholds(
        [result_of(0.1, 0.5, 0.2, 0.6), result_of(0.1, 0.1, 0.3, 0.3), result_of(0.0, 0.0, 0.1, 0.9)]
    )
    assert WARM_UP_ROUNDS == 2
    assert found == (NONE, NONE, 0.3, 0.6)


def test_rounds_of_another_loss_do_not_count():
    trials = [result_of(0.9, 0.8, 0.1, 0.2)] * 3
    assert median_thresholds(trials, 2, 2) == (NONE, NONE, 0.1, 0.2)
    stopped = TrialResult.of_curve({}, curve_of(0.9, 0.8), 1.0, "deadline", 2)
    assert median_thresholds([*trials, stopped], 2, 2) == (NONE, NONE, 0.1, 0.2)


def test_the_warm_up_is_the_start_and_a_third_of_what_follows():
    assert [warm_up_rounds(*sizes) for sizes in ((12, 0), (20, 6), (8, 6), (1, 0))] == [4, 10, 8, 2]


def test_a_longer_warm_up_leaves_trials_alone_for_longer():
    trials = [result_of(0.1, 0.2, 0.3, 0.4)] * 3
    assert median_thresholds(trials, 3) == (NONE, NONE, NONE, 0.4)
    assert median_thresholds(trials, 9) == (NONE,) * 4


def test_a_trial_that_ended_early_counts_with_its_best_later_on():
    cut = result_of(0.0, 0.1, 0.2, verdict="pruned")
    settled = result_of(0.0, 0.4, 0.3, 0.3, verdict="patience")
    found = median_thresholds([cut, settled, result_of(0.0, 0.1, 0.3, 0.5, 0.6)])
    assert found == (NONE, NONE, 0.3, 0.4, 0.4)


def test_failed_trials_do_not_count():
    good = [result_of(0.1, 0.2, 0.3)] * 2
    assert median_thresholds([*good, TrialResult.failure({}, "bad", 1.0)]) == ()
    assert median_thresholds([*good, result_of(0.1, 0.2, 0.7), TrialResult.failure({}, "bad", 1.0)])[2] == 0.3


def test_rounds_that_were_not_looked_at_by_three_trials_have_no_threshold():
    late = [TrialResult.of_curve({}, curve_of(0.5, 0.6, first=4), 1.0) for _ in range(2)]
    found = median_thresholds([result_of(0.1, 0.2, 0.3, 0.3), *late])
    assert found == (NONE, NONE, NONE, 0.5, pytest.approx(0.6))
