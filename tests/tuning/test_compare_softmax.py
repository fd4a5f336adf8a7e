"""``rg-softmax`` in a comparison and in a search: its start is RG×, and no part of what is searched for."""

from dataclasses import replace

import numpy as np
import pytest

from rgals.data.merged import TrainAndValidation
from rgals.errors import InputError, StaleCheckpointError
from rgals.evaluation.evaluator import evaluate
from rgals.execution import InProcessExecutor
from rgals.training.config import TrainingConfig
from rgals.training.trainer import train
from rgals.tuning import contenders
from rgals.tuning import tune as tune_module
from rgals.tuning.compare_report import describe_model
from rgals.tuning.study import Study
from rgals.tuning.trial import Pruner, TrialResult
from rgals.tuning.tune import TuneOptions, run_trial, search_identity, tune
from tests.evaluation.problems import PlainModel
from tests.tuning.comparisons import make_dataset, replace_contender, run_comparison, small_options
from tests.tuning.problems import curve_of

START = TrainingConfig(loss="rg-softmax").start_sweeps
OPTIONS = TuneOptions(loss="rg-softmax", n_factors=5, n_sweeps=9, patience=1, watched_users=0, cutoff=5)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("compare") / "dataset")


def test_it_is_searched_timed_and_fitted_past_its_start(dataset, tmp_path, monkeypatch):
    replace_contender(monkeypatch, "rg-softmax", n_rounds=START + 4, patience=1)
    [record] = run_comparison(dataset, tmp_path, models=("rg-softmax",), budget=3).records
    curves = [trial.result.curve for trial in record.trials] + [record.curve.curve]
    assert all(curve[-1].round > START for curve in curves), "patience begins after the start"
    assert all(trial.result.best_round > START for trial in record.trials)
    best = record.best.result
    options = {**record.contender.fixed, **best.options}
    config = TrainingConfig(loss="rg-softmax", n_factors=6, n_sweeps=best.best_round, softmax_users=0, **options)
    with InProcessExecutor(1) as executor:
        result = train(TrainAndValidation(dataset), config, executor=executor)
    plain = PlainModel(result.user_factors, result.item_factors)
    twin = evaluate([plain], dataset, small_options().to_evaluation())
    np.testing.assert_array_equal(twin.values[0].by_user["ndcg@5"], record.values.by_user["ndcg@5"])
    assert record.values.options["n_sweeps"] == best.best_round
    details = describe_model(record, small_options())
    assert (details.n_start_rounds, details.n_rounds) == (START, best.best_round)
    assert all(point.softmax is not None for point in details.curve)


def test_the_start_and_the_warm_up_are_part_of_its_rules(dataset, tmp_path, monkeypatch):
    rules = {name: contender.rules for name, contender in contenders.CONTENDERS.items()}
    named = ("rg-softmax", "rg2", "softmax", "bpr", "ease")
    assert {name: (rules[name]["n_start"], rules[name]["warm_up"]) for name in named} == {
        "rg-softmax": (6, 10), "rg2": (0, 4), "softmax": (0, 20), "bpr": (0, 50), "ease": (0, 2),
    }  # fmt: skip
    run_comparison(dataset, tmp_path, models=("popularity",))
    monkeypatch.setattr(contenders.Contender, "warm_up", property(lambda self: 3))
    with pytest.raises(StaleCheckpointError, match="rules"):
        run_comparison(dataset, tmp_path, models=("popularity",))


def searched(dataset, path, options, **budget):
    with Study.open(path, search_identity(dataset, options), options.space) as study:
        tune(dataset, options, study, executor=InProcessExecutor(1), **budget)
        return study.trials


def test_patience_of_a_search_begins_after_the_start(dataset, tmp_path):
    for trial in searched(dataset, tmp_path / "study", OPTIONS, budget_trials=4):
        assert trial.result.curve[-1].round > START
        assert trial.result.best_round > START


def test_a_rule_that_does_not_know_of_the_start_is_not_asked_about_it(dataset):
    values, pruner = OPTIONS.space.defaults(), Pruner((2.0,))
    found = run_trial(dataset, OPTIONS, values, pruner, InProcessExecutor(1), n_validated=160)
    assert (found.state, found.curve[-1].round) == ("pruned", START + 1)


def test_a_search_leaves_the_start_and_a_third_of_the_rest_alone(dataset, tmp_path, monkeypatch):
    seen = []

    def run(dataset, options, values, pruner, executor, **others):
        seen.append(pruner)
        return TrialResult.of_curve(values, curve_of(*np.linspace(0.1, 0.2, 15)), 1.0, None, pruner.n_start)

    monkeypatch.setattr(tune_module, "run_trial", run)
    searched(dataset, tmp_path / "study", replace(OPTIONS, n_sweeps=15), budget_trials=4)
    assert np.isfinite(seen[3].thresholds).tolist() == [False] * (START + 3) + [True] * (9 - 3)
    assert seen[3].n_start == START
    seen.clear()
    searched(dataset, tmp_path / "rgx", replace(OPTIONS, loss="rgx", n_sweeps=15), budget_trials=4)
    assert np.isfinite(seen[3].thresholds).tolist() == [False] * 2 + [True] * 13, "as it was for the other losses"


def test_a_start_that_ranks_better_is_not_the_result(dataset):
    # With a ridge that small the softmax fits the training part too well.
    values = {**OPTIONS.space.defaults(), "reg": 0.08}
    options = replace(OPTIONS, fixed={"start_sweeps": 4, "n_hard": 0}, n_sweeps=7)
    found = run_trial(dataset, options, values, Pruner(), InProcessExecutor(1), n_validated=160)
    assert max(point.ndcg for point in found.curve[:4]) > found.best_ndcg
    assert found.best_round > 4
    assert found.best_ndcg == max(point.ndcg for point in found.curve[4:])


def test_a_search_is_identified_by_start_and_warm_up(dataset):
    identity = search_identity(dataset, OPTIONS)
    assert (identity["n_start"], identity["warm_up"]) == (6, 8)
    shorter = search_identity(dataset, replace(OPTIONS, fixed={"start_sweeps": 2}))
    assert (shorter["n_start"], shorter["warm_up"]) == (2, 4)
    assert not {"n_start", "warm_up"} & set(search_identity(dataset, replace(OPTIONS, loss="rgx")))


@pytest.mark.parametrize("n_sweeps", [START - 1, START])
def test_a_search_that_never_gets_past_the_start_is_refused(n_sweeps):
    with pytest.raises(InputError, match=f"more than the {START} sweeps that rg-softmax starts with"):
        TuneOptions(loss="rg-softmax", n_sweeps=n_sweeps)
    assert TuneOptions(loss="rg-softmax", n_sweeps=n_sweeps, fixed={"start_sweeps": 0}).n_start == 0


def test_a_trial_out_of_time_in_its_start_is_no_result(dataset):
    pruner = Pruner(deadline_s=0.0)
    found = run_trial(dataset, OPTIONS, OPTIONS.space.defaults(), pruner, InProcessExecutor(1), n_validated=160)
    assert (found.state, len(found.curve)) == ("failed", 1)
