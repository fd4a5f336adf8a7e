"""Results and their way through JSON; the rule that ends a trial."""

import dataclasses
import json
import math
import pickle

import pytest

from rgals.tuning.trial import CurvePoint, Pruner, TrialResult, best_point
from tests.tuning.problems import curve_of, result_of

NAN = math.nan


def test_the_best_round_is_the_first_of_the_highest():
    assert best_point(curve_of(0.1, 0.3, 0.3, 0.2)).round == 2
    assert best_point(curve_of(NAN, 0.1, NAN)).round == 2
    assert best_point(curve_of(NAN, math.inf)) is None
    assert best_point(()) is None


@pytest.mark.parametrize(
    ("verdict", "state", "reason", "is_scored"),
    [
        (None, "complete", None, True),
        ("patience", "complete", "no better NDCG after round 2", True),
        ("pruned", "pruned", "below the median of the other trials at round 3", False),
        ("deadline", "stopped", "out of time after round 3", True),
    ],
)
def test_a_verdict_says_how_a_trial_ended(verdict, state, reason, is_scored):
    found = result_of(0.1, 0.3, 0.2, verdict=verdict)
    assert (found.state, found.reason, found.is_scored) == (state, reason, is_scored)
    assert (found.best_round, found.best_ndcg) == (2, 0.3)


@pytest.mark.parametrize("curve", [(), curve_of(NAN, NAN)])
def test_a_trial_without_an_ndcg_has_failed(curve):
    found = TrialResult.of_curve({}, curve, 1.0, "deadline")
    assert found.state == "failed"
    assert found.best_round == 0
    assert math.isnan(found.best_ndcg)
    assert not found.is_scored
    assert found.reason


def test_a_result_comes_back_from_json_as_it_was():
    curve = (CurvePoint(2, 0.25, 0.125, -3.5, 7.25, None), CurvePoint(4, 0.5, NAN))
    found = TrialResult.of_curve({"rate": 0.1, "kind": "flat"}, curve, 1.5, "deadline")
    again = TrialResult.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert again.curve[0] == curve[0]
    assert math.isnan(again.curve[1].ndcg)
    assert again.options == found.options
    assert (again.best_round, again.best_ndcg, again.seconds, again.state, again.reason) == (
        2, 0.125, 1.5, "stopped", "out of time after round 4",
    )  # fmt: skip
    failed = TrialResult.from_json(json.loads(json.dumps(TrialResult.failure({}, "bad", 2.0).to_json())))
    assert math.isnan(failed.best_ndcg)
    assert failed.reason == "bad"


def test_a_trial_whose_best_so_far_is_below_the_threshold_of_its_round_is_cut():
    pruner = Pruner((-math.inf, -math.inf, 0.3, 0.4))
    assert pruner.should_stop(curve_of(0.0)) is None
    assert pruner.should_stop(curve_of(0.0, 0.0)) is None
    assert pruner.should_stop(curve_of(0.0, 0.0, 0.29)) == "pruned"
    assert pruner.should_stop(curve_of(0.0, 0.0, 0.3)) is None
    assert pruner.should_stop(curve_of(0.0, 0.35, 0.1)) is None, "the best so far counts, not the last"
    assert pruner.should_stop(curve_of(0.0, 0.35, 0.1, 0.1)) == "pruned"
    assert pruner.should_stop(curve_of(0.39, first=9)) == "pruned", "later rounds use the last threshold"
    assert pruner.should_stop(curve_of(0.4, first=9)) is None
    assert pruner.should_stop(curve_of(NAN, NAN, NAN)) == "pruned"
    assert pruner.should_stop(()) is None


def test_patience_counts_rounds_since_the_best():
    pruner = Pruner(patience=2)
    assert pruner.should_stop(curve_of(0.3, 0.1)) is None
    assert pruner.should_stop(curve_of(0.3, 0.1, 0.3)) == "patience"
    assert pruner.should_stop(curve_of(0.3, 0.1, 0.4)) is None
    assert pruner.should_stop((CurvePoint(5, 0.1, 0.3), CurvePoint(10, 0.2, 0.3))) == "patience"
    assert pruner.should_stop(curve_of(NAN, NAN)) is None
    assert pruner.should_stop(curve_of(NAN, NAN, NAN)) == "patience"


def test_patience_begins_where_the_rounds_of_another_loss_end():
    pruner = Pruner(patience=2, n_start=4)
    assert pruner.should_stop(curve_of(0.5, 0.1, 0.1, 0.1, 0.1)) is None
    assert pruner.should_stop(curve_of(0.5, 0.1, 0.1, 0.1)) is None, "nothing of the start counts"
    assert pruner.should_stop(curve_of(0.5, 0.1, 0.1, 0.1, 0.2, 0.1)) is None
    assert pruner.should_stop(curve_of(0.5, 0.1, 0.1, 0.1, 0.2, 0.1, 0.1)) == "patience"
    assert pruner.should_stop(curve_of(0.5, 0.1, 0.1, 0.1, NAN, NAN)) == "patience"
    assert Pruner((0.3,) * 6, n_start=4).should_stop(curve_of(0.5, 0.1, 0.1, 0.1, 0.2)) == "pruned"


def test_a_round_of_another_loss_is_not_the_best_one():
    curve = curve_of(0.5, 0.4, 0.1, 0.2)
    found = TrialResult.of_curve({}, curve, 1.0, None, 2)
    assert (found.best_round, found.best_ndcg, found.state) == (4, 0.2, "complete")
    early = TrialResult.of_curve({}, curve[:2], 1.0, "deadline", 2)
    assert (early.state, early.best_round) == ("failed", 0)
    assert "before a round of its own loss" in early.reason


def test_the_watched_ndcg_is_that_of_the_best_round_whatever_it_was_judged_on():
    found = TrialResult.of_curve({}, curve_of(0.5, 0.1, 0.2), 1.0, None, 1)
    assert dataclasses.replace(found, best_ndcg=0.9).watched_ndcg == 0.2
    assert math.isnan(TrialResult.failure({}, "bad", 1.0).watched_ndcg)


def test_a_deadline_counts_the_seconds_it_is_told_or_those_of_training():
    pruner = Pruner(deadline_s=0.25)
    assert pruner.should_stop(curve_of(0.1, 0.2)) is None
    assert pruner.should_stop(curve_of(0.1, 0.2, 0.3)) == "deadline"
    assert pruner.should_stop(curve_of(0.1, 0.2, 0.3), 0.2) is None
    assert pruner.should_stop(curve_of(0.1), 0.25) == "deadline"


def test_what_is_hopeless_is_cut_before_anything_else_is_said_of_it():
    pruner = Pruner((0.5,), patience=1, deadline_s=0.0)
    assert pruner.should_stop(curve_of(0.1, 0.1)) == "pruned"
    assert pruner.should_stop(curve_of(0.6, 0.1)) == "patience"


def test_rule_and_result_can_be_sent_to_another_process():
    for value in (Pruner((0.1, 0.2), 3, 1.0), result_of(0.1, 0.2, options={"rate": 0.1})):
        assert pickle.loads(pickle.dumps(value)) == value
