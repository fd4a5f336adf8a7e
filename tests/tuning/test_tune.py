"""The search for a loss's options: trials watched on a sample, judged on all, repeated by their configuration."""

from dataclasses import replace

import pytest

from rgals.data.dataset import Dataset
from rgals.errors import InputError
from rgals.execution import InProcessExecutor
from rgals.training.config import TrainingConfig
from rgals.training.trainer import train
from rgals.tuning.study import Study
from rgals.tuning.trial import Pruner
from rgals.tuning.tune import WORTH_JUDGING, TuneOptions, best_config, run_trial, search_identity, tune
from tests.evaluation.problems import write_dataset as write_weighted
from tests.jobs.test_train import write_dataset
from tests.training.executors import PicklingExecutor
from tests.tuning.comparisons import N_ITEMS, N_USERS, planted_parts
from tests.tuning.datasets import write_held_out_users

OPTIONS = TuneOptions(n_factors=5, n_sweeps=5, patience=2, watched_users=150, fixed={"solver": "cg", "cg_steps": 1})
VALUES = {"alpha": 0.1, "reg": 0.3, "nu": 0.5, "user_exponent": -0.2, "item_exponent": 0.0}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return Dataset.open(write_dataset(tmp_path_factory.mktemp("data"), validation_fraction=0.1))


def trial(dataset, options=OPTIONS, pruner=None, executor=None, **more):
    executor = executor or InProcessExecutor(1)
    return run_trial(dataset, options, VALUES, pruner or Pruner(), executor, n_validated=690, **more)


def trained(dataset, **options):
    settings = {"loss": "rgx", "n_factors": 5, "softmax_users": 0, "solver": "cg", "cg_steps": 1, **VALUES, **options}
    config = TrainingConfig(**settings)
    validation = dataset.read_part("validation")
    return train(dataset, config, executor=InProcessExecutor(2), validation=validation)


def test_a_trial_is_watched_on_the_sample_and_judged_on_all_users(dataset):
    found = trial(dataset, replace(OPTIONS, n_sweeps=9))
    watched = trained(dataset, n_sweeps=9, validation_users=150)
    assert len(found.curve) == 9 > found.best_round
    assert (found.best_round, max(point.ndcg for point in found.curve)) == (watched.best_sweep, watched.best_ndcg)
    judged = trained(dataset, n_sweeps=found.best_round, validation_users=0, validate_every=99)
    assert found.best_ndcg == judged.best_ndcg != watched.best_ndcg
    assert found.options == VALUES
    assert [point.round for point in found.curve] == list(range(1, 10))
    assert found.curve[0].objective > found.curve[-1].objective
    assert 0 < found.curve[0].train_s < found.curve[-1].train_s < found.seconds


def test_a_trial_that_is_cut_is_not_judged(dataset):
    found = trial(dataset, pruner=Pruner((0.0, 0.0, 0.999)))
    assert (found.state, len(found.curve)) == ("pruned", 3)
    assert found.best_ndcg == max(point.ndcg for point in found.curve)


def test_a_trial_far_below_the_best_on_the_sample_is_not_judged(dataset):
    watched = trial(dataset, replace(OPTIONS, judged_users=150)).best_ndcg
    below, near = (trial(dataset, judged_from=watched + margin) for margin in (1e-9, 0.0))
    assert (below.best_ndcg, below.state, below.is_scored) == (watched, "pruned", False)
    assert below.reason == "far below the best on the sample of users, so not judged on all"
    assert near.best_ndcg != watched
    assert near.reason is None


@pytest.mark.parametrize("sizes", [{"watched_users": 0}, {"watched_users": 700}, {"judged_users": 150}])
def test_a_sample_of_one_size_is_ranked_once(dataset, sizes, monkeypatch):
    calls = []
    original = run_training_of(monkeypatch, calls)
    found = trial(dataset, replace(OPTIONS, **sizes))
    assert len(calls) == 1
    assert found.best_ndcg == max(point.ndcg for point in found.curve)
    trial(dataset)
    assert len(calls) == 3
    assert original


def run_training_of(monkeypatch, calls):
    from rgals.tuning import tune as module

    original = module.run_training
    monkeypatch.setattr(module, "run_training", lambda *a, **k: calls.append(a) or original(*a, **k))
    return original


def test_trials_do_not_depend_on_executor_or_threads(dataset):
    results = [trial(dataset, executor=executor) for executor in (
        InProcessExecutor(1), InProcessExecutor(3), PicklingExecutor(2))]  # fmt: skip
    ndcgs = [[point.ndcg for point in found.curve] + [found.best_ndcg] for found in results]
    assert ndcgs[0] == ndcgs[1] == ndcgs[2]


@pytest.mark.parametrize("share", [WORTH_JUDGING, 1.0])
def test_a_search_finds_better_options_and_its_configuration_repeats_the_best(dataset, tmp_path, share, monkeypatch):
    from rgals.tuning import tune as module

    monkeypatch.setattr(module, "WORTH_JUDGING", share)
    executor = InProcessExecutor(2)
    seen = []
    with Study.open(tmp_path / "study", search_identity(dataset, OPTIONS), OPTIONS.space) as study:
        tune(
            dataset,
            OPTIONS,
            study,
            executor=executor,
            budget_trials=10,
            on_sweep=lambda n, p: seen.append((n, p.round)),
        )
        best = study.best.result
        assert study.n_trials == 10
        assert best.best_ndcg > study.trials[0].result.best_ndcg
        reached = 0.0
        for result in (found.result for found in study.trials):
            highest = max(point.ndcg for point in result.curve)
            is_judged = result.best_ndcg != highest
            assert is_judged == (result.is_scored and highest >= share * reached)
            reached = max(reached, highest)
        assert seen[:4] == [(0, 1), (0, 2), (0, 3), (0, 4)]
    config = best_config(OPTIONS, best)
    assert (config.n_sweeps, config.patience, config.solver) == (best.best_round, None, "cg")
    repeated = config.model_copy(update={"validation_users": 0})
    again = train(dataset, repeated, executor=executor, validation=dataset.read_part("validation"))
    assert again.history[-1].ndcg == best.best_ndcg
    assert again.kept_sweep == best.best_round


def test_a_request_to_stop_leaves_the_trial_to_be_run_again(dataset, tmp_path):
    seen = []
    identity = search_identity(dataset, OPTIONS)
    executor = InProcessExecutor(1)
    with Study.open(tmp_path / "study", identity, OPTIONS.space) as study:
        tune(dataset, OPTIONS, study, executor=executor, budget_trials=1)
        with pytest.raises(KeyboardInterrupt):
            tune(
                dataset, OPTIONS, study, executor=executor, budget_trials=3,
                on_sweep=lambda number, point: seen.append((number, point.round)), should_stop=lambda: len(seen) >= 2,
            )  # fmt: skip
    assert seen == [(1, 1), (1, 2)]
    with Study.open(tmp_path / "study", identity, OPTIONS.space) as study:
        assert study.n_trials == 1
        assert study.ask()[0][0] == 1


def test_users_that_no_training_sees_are_folded_in(tmp_path):
    held_out = Dataset.open(write_held_out_users(tmp_path))
    assert held_out.has_part("validation_fold_in")
    found = trial(held_out, replace(OPTIONS, watched_users=40))
    assert found.best_ndcg > 0.15  # at random 0.06


def test_graded_gains_change_the_numbers(tmp_path):
    def graded(user, item):
        return 1 + 6 * (item % 3 == 0)

    parts = planted_parts()
    plain = write_weighted(tmp_path / "plain", N_USERS, N_ITEMS, parts)
    weighted = write_weighted(
        tmp_path / "weighted", N_USERS, N_ITEMS, parts, lambda user, item: 1 + 6 * (item % 3 == 0)
    )
    results = {
        (dataset, gains): trial(dataset, replace(OPTIONS, watched_users=0, gains=gains))
        for dataset in (plain, weighted)
        for gains in ("binary", "graded")
    }
    first, second = (results[weighted, gains] for gains in ("binary", "graded"))
    assert [point.objective for point in first.curve] == [point.objective for point in second.curve]
    assert all(one.ndcg != two.ndcg for one, two in zip(first.curve, second.curve, strict=True))
    assert results[plain, "binary"].best_ndcg == results[plain, "graded"].best_ndcg, "with weights of 1 they are one"
    assert search_identity(plain, OPTIONS) != search_identity(plain, replace(OPTIONS, gains="graded"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"loss": "bpr"}, "expected one of rg2, rgx, ials, rg-softmax, found 'bpr'"),
        ({"watched_users": -1}, "watched_users: expected at least 0"),
        ({"judged_users": -5}, "judged_users: expected at least 0"),
        ({"fixed": {"alpha": 0.1}}, "alpha: fixed and searched"),
        ({"fixed": {"n_sweeps": 3}}, "n_sweeps: set by the search itself"),
        ({"fixed": {"speed": 3}}, "speed: no such option"),
        ({"n_factors": 0}, "n_factors: expected greater than or equal to 1, found 0"),
        ({"n_sweeps": 0}, "n_sweeps: expected"),
        ({"patience": 0}, "patience: expected"),
        ({"cutoff": 0}, "validation_cutoff: expected"),
        ({"gains": "cubic"}, "validation_gains: expected"),
        ({"searched": ("speed",)}, "found speed"),
    ],
)
def test_options_that_cannot_be_searched_with_are_refused(options, expected):
    with pytest.raises(InputError) as found:
        TuneOptions(**options)
    assert expected in str(found.value)


def test_a_dataset_without_a_validation_part_is_refused(tmp_path):
    plain = Dataset.open(write_dataset(tmp_path))
    with (
        Study.open(tmp_path / "study", search_identity(plain, OPTIONS), OPTIONS.space) as study,
        pytest.raises(InputError, match="expected a validation part to judge trials by, found none"),
    ):
        tune(plain, OPTIONS, study, executor=InProcessExecutor(1), budget_trials=1)
