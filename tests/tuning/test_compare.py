"""A comparison: equal budgets, nothing chosen on the test part, continued where it was left."""

import math
from datetime import UTC, datetime

import numpy as np
import pytest

from rgals.data.merged import TrainAndValidation
from rgals.errors import CapacityError, InputError, NumericalError, OutputExistsError, StaleCheckpointError
from rgals.evaluation.evaluator import evaluate
from rgals.evaluation.provenance import describe_provenance
from rgals.evaluation.report import read_report, write_report
from rgals.execution import InProcessExecutor
from rgals.training.config import TrainingConfig
from rgals.training.trainer import train
from rgals.tuning import contenders, fitting
from rgals.tuning.compare_folder import ComparisonFolder
from rgals.tuning.compare_report import build_comparison_report, choose_reference
from rgals.tuning.events import LeftOutEvent, RoundEvent, StageEvent, TrialEvent
from rgals.tuning.space import Dimension, SearchSpace
from rgals.tuning.study import Study
from tests.evaluation.problems import PlainModel, random_parts, write_dataset
from tests.training.executors import PicklingExecutor
from tests.tuning.comparisons import (
    N_ITEMS,
    N_USERS,
    make_dataset,
    planted_parts,
    replace_contender,
    run_comparison,
    small_options,
    without_seconds,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("compare") / "dataset")


def opening(dataset, **changed):
    options = small_options(**changed)
    return options.identity(dataset.fingerprint), options.kept_budget


def test_every_model_has_the_same_number_of_trials_and_the_first_is_its_defaults(dataset, tmp_path):
    found = run_comparison(dataset, tmp_path, models=("rg2", "softmax-cosine", "ials", "popularity"), budget=3)
    assert [record.contender.name for record in found.records] == ["rg2", "softmax-cosine", "ials", "popularity"]
    assert [len(record.trials) for record in found.records] == [3, 3, 3, 1]
    for record in found.records:
        assert record.trials[0].result.options == record.contender.space.defaults()
        assert record.best.result.best_ndcg == max(trial.result.best_ndcg for trial in record.trials)
    by_name = {record.contender.name: record.values.by_user["ndcg@5"].mean() for record in found.records}
    assert by_name["rg2"] > by_name["popularity"]
    assert by_name["softmax-cosine"] > by_name["popularity"]


def test_the_clock_of_a_baselines_best_trial_counts_where_nothing_ran_beside_it(dataset, tmp_path):
    class Pair(InProcessExecutor):
        n_workers = 2

    def timed(events):
        return {event.model for event in events if isinstance(event, RoundEvent) and event.stage == "curve"}

    models, events = ("rg2", "ials"), []
    for record in run_comparison(dataset, tmp_path, models=models, budget=3, listener=events.append).records:
        best = next(trial.result for trial in record.trials if trial.number == record.best.number)
        assert (record.curve.curve == best.curve) == (record.contender.name == "ials")
    assert timed(events) == {"rg2"}
    # What another run has timed is not known to have been alone.
    with ComparisonFolder(tmp_path) as folder:
        folder.open(*opening(dataset, models=models, budget=3), resume=True)
        folder.drop_measurements(models)
    again = []
    run_comparison(dataset, tmp_path, models=models, budget=3, listener=again.append)
    assert timed(again) == {"rg2", "ials"}
    crowd = []
    run_comparison(dataset, tmp_path / "crowd", models=models, executor=Pair(1), listener=crowd.append)
    assert timed(crowd) == {"rg2", "ials"}


def test_the_test_part_is_ranked_by_a_model_of_all_that_may_be_known(dataset, tmp_path):
    [record] = run_comparison(dataset, tmp_path, models=("rg2",)).records
    best = record.best.result
    config = TrainingConfig(n_factors=6, n_sweeps=best.best_round, softmax_users=0, **best.options)
    with InProcessExecutor(1) as executor:
        result = train(TrainAndValidation(dataset), config, executor=executor)
    plain = PlainModel(result.user_factors, result.item_factors)
    twin = evaluate([plain], dataset, small_options().to_evaluation())
    np.testing.assert_array_equal(twin.values[0].by_user["ndcg@5"], record.values.by_user["ndcg@5"])


def test_nothing_is_chosen_on_the_test_part(dataset, tmp_path):
    other = make_dataset(tmp_path / "other", test_seed=1)
    assert other.fingerprint != dataset.fingerprint
    models = ("rgx", "softmax-cosine")
    first = run_comparison(dataset, tmp_path / "a", models=models)
    second = run_comparison(other, tmp_path / "b", models=models)
    for one, two in zip(first.records, second.records, strict=True):
        assert without_seconds(one.trials) == without_seconds(two.trials)
        assert one.best.number == two.best.number
        assert one.values.by_user["ndcg@5"].mean() != two.values.by_user["ndcg@5"].mean()
    assert choose_reference(first) == choose_reference(second) == "rgx"


class Interrupting:
    """Interrupts at the n-th finished trial."""

    def __init__(self, n_trials):
        self.n_left = n_trials

    def __call__(self, event):
        if isinstance(event, TrialEvent):
            self.n_left -= 1
            if not self.n_left:
                raise KeyboardInterrupt


def test_interrupted_it_goes_on_to_the_same_result(dataset, tmp_path):
    models = ("rg2-degree", "softmax-cosine")
    whole = run_comparison(dataset, tmp_path / "a", models=models, budget=4)
    for n_trials in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            run_comparison(dataset, tmp_path / "b", models=models, budget=4, listener=Interrupting(n_trials))
    again = run_comparison(dataset, tmp_path / "b", models=models, budget=4)
    for one, two in zip(whole.records, again.records, strict=True):
        assert without_seconds(one.trials) == without_seconds(two.trials)
        np.testing.assert_array_equal(one.values.by_user["ndcg@5"], two.values.by_user["ndcg@5"])


def test_what_is_finished_is_not_done_again(dataset, tmp_path):
    models = ("rg2", "popularity")
    first = run_comparison(dataset, tmp_path, models=models)
    events = []
    second = run_comparison(dataset, tmp_path, models=models, listener=events.append)
    assert {type(event) for event in events} == {StageEvent}
    assert all(event.is_reused for event in events)
    for one, two in zip(first.records, second.records, strict=True):
        assert (one.curve, one.train_s, one.notes) == (two.curve, two.train_s, two.notes)
        np.testing.assert_array_equal(one.values.by_user["ndcg@5"], two.values.by_user["ndcg@5"])


def test_a_larger_budget_goes_on_with_the_searches(dataset, tmp_path):
    first = run_comparison(dataset, tmp_path, models=("rg2-degree",), budget=2)
    second = run_comparison(dataset, tmp_path, models=("rg2-degree",), budget=8)
    [one], [two] = first.records, second.records
    assert without_seconds(two.trials)[:2] == without_seconds(one.trials)
    assert len(two.trials) == 8
    assert two.best.result.best_ndcg >= one.best.result.best_ndcg
    with pytest.raises(InputError, match="was given 8 trials"):
        run_comparison(dataset, tmp_path, models=("rg2-degree",), budget=2)


def test_a_better_trial_means_another_last_fit(dataset, tmp_path, monkeypatch):
    poor = SearchSpace((Dimension("reg", 0.01, 30.0, log=True, default=30.0),))
    replace_contender(monkeypatch, "rg2", space=poor)
    [one] = run_comparison(dataset, tmp_path, models=("rg2",), budget=1).records
    [two] = run_comparison(dataset, tmp_path, models=("rg2",), budget=6).records
    assert two.best.number != one.best.number
    assert two.values.options["reg"] == two.best.result.options["reg"] != one.values.options["reg"]
    assert two.curve.options == two.best.result.options


def test_searches_stay_when_the_fits_are_timed_again(dataset, tmp_path):
    run_comparison(dataset, tmp_path, models=("rg2",))
    ComparisonFolder(tmp_path).drop_measurements(("rg2",))
    events = []
    run_comparison(dataset, tmp_path, models=("rg2",), listener=events.append)
    stages = {event.stage: event.is_reused for event in events if isinstance(event, StageEvent)}
    assert stages == {"tune": True, "curve": False, "final": False, "test": False}


def test_another_protocol_of_the_test_fits_and_ranks_again_and_keeps_the_search(dataset, tmp_path):
    run_comparison(dataset, tmp_path, models=("rg2",))
    events = []
    [record] = run_comparison(dataset, tmp_path, models=("rg2",), cutoffs=(3, 5), listener=events.append).records
    stages = {event.stage: event.is_reused for event in events if isinstance(event, StageEvent)}
    assert stages == {"tune": True, "curve": True, "final": False, "test": False}
    [other] = run_comparison(dataset, tmp_path / "other", models=("rg2",), cutoffs=(3, 5)).records
    for name in ("ndcg@3", "ndcg@5"):
        np.testing.assert_array_equal(record.values.by_user[name], other.values.by_user[name])


def test_a_budget_of_seconds_ends_the_search(dataset, tmp_path):
    found = run_comparison(dataset, tmp_path, models=("rg2", "popularity"), budget=None, budget_s=0.2)
    assert sum(trial.charged_s for trial in found.records[0].trials) >= 0.1, "its last moments are not kept"
    assert len(found.records[1].trials) == 1


@pytest.mark.parametrize("n_workers", [1, 3])
def test_trials_that_are_sent_to_workers_are_those_of_this_process(dataset, tmp_path, n_workers, monkeypatch):
    monkeypatch.setattr(PicklingExecutor, "n_workers", property(lambda self: n_workers))
    models = ("rg2", "softmax-cosine", "popularity")
    here = run_comparison(dataset, tmp_path / "a", models=models, budget=3)
    there = run_comparison(
        dataset, tmp_path / "b", models=models, budget=3, executor=PicklingExecutor(1), runs_here=False
    )
    for one, two in zip(here.records, there.records, strict=True):
        assert len(one.trials) == len(two.trials)
        assert without_seconds(one.trials)[0] == without_seconds(two.trials)[0]
        if n_workers == 1:
            assert without_seconds(one.trials) == without_seconds(two.trials)
            np.testing.assert_array_equal(one.values.by_user["ndcg@5"], two.values.by_user["ndcg@5"])


def fail(error):
    def fit(train, options, **others):
        raise error

    return fit


def test_a_trial_is_kept_before_those_beside_it_have_ended(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(InProcessExecutor, "n_workers", property(lambda self: 3))
    replace_contender(monkeypatch, "softmax-cosine", n_rounds=2, patience=None)
    events = []
    run_comparison(dataset, tmp_path, models=("softmax-cosine",), budget=3, listener=events.append)
    first = next(place for place, event in enumerate(events) if isinstance(event, TrialEvent))
    assert sum(isinstance(event, RoundEvent) for event in events[:first]) == 2


def test_a_model_that_does_not_fit_is_left_out_and_says_why(dataset, tmp_path, monkeypatch):
    replace_contender(monkeypatch, "ease", baseline=fail(CapacityError("ease: expected 7 GB of memory, found 3 GB")))
    events = []
    found = run_comparison(dataset, tmp_path, models=("ease", "popularity"), listener=events.append)
    assert found.left_out == {"ease": "ease: expected 7 GB of memory, found 3 GB"}
    assert [event for event in events if isinstance(event, LeftOutEvent)] == [
        LeftOutEvent("ease", found.left_out["ease"])
    ]
    assert [record.contender.name for record in found.records] == ["popularity"]
    with pytest.raises(InputError, match="no model could take part"):
        run_comparison(dataset, tmp_path / "alone", models=("ease",))


def test_a_model_whose_trials_all_fail_is_left_out(dataset, tmp_path, monkeypatch):
    replace_contender(monkeypatch, "ials", baseline=fail(NumericalError("row 3: no finite solution")))
    found = run_comparison(dataset, tmp_path, models=("ials", "popularity"))
    assert "row 3: no finite solution" in found.left_out["ials"]


def test_a_model_whose_last_fit_fails_is_left_out(dataset, tmp_path, monkeypatch):
    real = contenders.CONTENDERS["ials"].fit
    n_interactions = dataset.read_part("train").n_interactions

    def fit(train, options, **others):
        if train.n_interactions > n_interactions:
            raise NumericalError("no finite factors on all of it")
        return real(train, options, **others)

    replace_contender(monkeypatch, "ials", baseline=fit)
    found = run_comparison(dataset, tmp_path, models=("ials", "popularity"))
    assert found.left_out == {"ials": "no finite factors on all of it"}


def test_a_timed_fit_that_fails_is_not_kept(dataset, tmp_path, monkeypatch):
    real, calls = contenders.CONTENDERS["ials"].fit, []

    def fit(train, options, **others):
        calls.append(len(train.columns))
        if len(calls) == 3:  # after the kernels and the one trial
            raise NumericalError("not this time")
        return real(train, options, **others)

    fitting.load_kernels.cache_clear()
    replace_contender(monkeypatch, "ials", baseline=fit)
    first = run_comparison(dataset, tmp_path, models=("ials", "popularity"), budget=1)
    assert "not this time" in first.left_out["ials"]
    second = run_comparison(dataset, tmp_path, models=("ials", "popularity"), budget=1)
    assert second.left_out == {}
    assert second.records[0].curve.curve


def test_no_model_has_a_setting_that_the_others_do_not_have():
    assert not any(contender.space.known for contender in contenders.CONTENDERS.values())


@pytest.mark.parametrize("changed", [{"n_rounds": 11}, {"patience": 3}])
def test_trials_of_other_rules_are_not_mixed(dataset, tmp_path, monkeypatch, changed):
    run_comparison(dataset, tmp_path, models=("rg2",))
    replace_contender(monkeypatch, "rg2", **changed)
    with pytest.raises(StaleCheckpointError, match="rules"):
        run_comparison(dataset, tmp_path, models=("rg2",))


def test_a_smaller_budget_than_what_is_there_is_refused(dataset, tmp_path):
    run_comparison(dataset, tmp_path, models=("rg2",), budget=3)
    with pytest.raises(InputError, match="was given 3 trials, asked for were 2 trials"):
        run_comparison(dataset, tmp_path, models=("rg2", "popularity"), budget=2)


def test_values_of_another_trial_are_not_taken_for_those_of_the_best(dataset, tmp_path, monkeypatch):
    poor = SearchSpace((Dimension("reg", 0.01, 30.0, log=True, default=30.0),))
    replace_contender(monkeypatch, "rg2", space=poor)
    asked = {"models": ("rg2",), "cutoffs": (5, 10)}
    run_comparison(dataset, tmp_path, **asked, budget=1)
    [better] = run_comparison(dataset, tmp_path, models=("rg2",), cutoffs=(3, 5), budget=6).records
    [again] = run_comparison(dataset, tmp_path, **asked, budget=6).records
    assert again.values.options["reg"] == better.best.result.options["reg"] == again.best.result.options["reg"]


def test_large_models_are_fitted_one_at_a_time(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(InProcessExecutor, "n_workers", property(lambda self: 3))
    sizes, real = [], Study.ask

    def ask(self, n):
        sizes.append(n)
        return real(self, n)

    monkeypatch.setattr(Study, "ask", ask)
    [record] = run_comparison(dataset, tmp_path, models=("ease",), budget=3).records
    assert sizes == [1, 1, 1]
    assert any("one process" in note for note in record.notes)


@pytest.mark.parametrize("model", ["softmax-cosine", "rg2"])
@pytest.mark.parametrize("patience", [2, None])
def test_each_round_is_told_of(dataset, tmp_path, monkeypatch, model, patience):
    replace_contender(monkeypatch, model, n_rounds=6, patience=patience)
    events = []
    [record] = run_comparison(dataset, tmp_path, models=(model,), budget=1, listener=events.append).records
    rounds = [event.point.round for event in events if isinstance(event, RoundEvent) and event.stage == "tune"]
    assert rounds == [point.round for point in record.trials[0].result.curve]
    assert len(rounds) > 1


def test_new_users_are_ranked_by_fold_in(tmp_path):
    generator = np.random.default_rng(0)
    parts = random_parts(60, 30, {"all": 0.4})["all"]
    named = {"train": [], "validation": [], "validation_fold_in": [], "test": [], "test_fold_in": []}
    for user, item in parts:
        group = "train" if user < 40 else "validation" if user < 50 else "test"
        held_out = group != "train" and generator.random() < 0.8
        named[f"{group}_fold_in" if held_out else group].append((user, item))
    dataset = write_dataset(tmp_path / "dataset", 60, 30, named)
    models = ("rg2", "softmax-cosine", "popularity")
    found = run_comparison(dataset, tmp_path / "compare", models=models)
    assert found.users.generalization == "strong"
    rg2, softmax, popularity = found.records
    assert softmax.values.is_ranked.all()
    known = np.array([[value] for value in dataset.read_part("train").transpose().degrees], dtype=np.float32)
    options = TrainingConfig(n_factors=6, n_sweeps=rg2.best.result.best_round, **rg2.best.result.options)
    items = train(dataset, options, executor=InProcessExecutor(1)).item_factors
    twins = [FoldedIn(items, lambda row: solve_rg2(items[row], items, options)), FoldedIn(known, lambda row: [1.0])]
    for record, twin in zip((rg2, popularity), twins, strict=True):
        expected = evaluate([twin], dataset, small_options().to_evaluation()).values[0]
        np.testing.assert_allclose(record.values.by_user["ndcg@5"], expected.by_user["ndcg@5"])


class FoldedIn(PlainModel):
    """Folds each user in by itself."""

    def __init__(self, items, solve):
        super().__init__(np.zeros((60, items.shape[1]), np.float32), items)
        self.solve = solve

    def fold_in(self, rows, n_threads):
        return np.array([self.solve(columns) for columns in rows.iter_rows()], dtype=np.float32)


def solve_rg2(own, items, options):
    """Solve the normal equations of a user of RG², with weights 1 and the uniform prior, as they are written."""
    own, items = own.astype(np.float64), items.astype(np.float64)
    n_own, prior = len(own), 1 / len(items)
    ridge = options.reg * (n_own * (1 + options.alpha)) ** options.nu
    matrix = n_own * prior * items.T @ items + options.alpha * own.T @ own + ridge * np.eye(items.shape[1])
    return np.linalg.solve(matrix, (1 + options.alpha) * own.sum(axis=0) - n_own * prior * items.sum(axis=0))


def graded(user, item):
    return 1.0 + 6.0 * ((user + item) % 3 == 0)


def test_graded_gains_count_in_the_search_and_in_the_test(tmp_path):
    dataset = write_dataset(tmp_path / "dataset", N_USERS, N_ITEMS, planted_parts(), weight_of=graded)
    models = ("rg2", "ials", "popularity")
    found = {
        gains: run_comparison(dataset, tmp_path / gains, models=models, gains=gains) for gains in ("binary", "graded")
    }
    for binary, weighed in zip(found["binary"].records, found["graded"].records, strict=True):
        first, other = binary.trials[0].result, weighed.trials[0].result
        assert first.options == other.options
        assert first.curve[0].ndcg != other.curve[0].ndcg
    record = found["graded"].records[0]
    best = record.best.result
    config = TrainingConfig(n_factors=6, n_sweeps=best.best_round, softmax_users=0, **best.options)
    result = train(TrainAndValidation(dataset), config, executor=InProcessExecutor(1))
    scores = result.user_factors @ result.item_factors.T
    values = record.values.by_user["ndcg@5"]
    users = found["graded"].users
    for place in range(0, users.n_users, 7):
        expected = graded_ndcg(scores[users.user_rows[place]], users, place, 5)
        assert values[place] == pytest.approx(expected, abs=1e-6)


def graded_ndcg(scores, users, place, k):
    """NDCG as it is defined: the weights of the list over those of the best possible list."""
    gains = np.zeros(len(scores))
    held_out = users.held_out.row_slice(place, place + 1)
    gains[held_out.columns] = held_out.weights
    scores = scores.copy()
    scores[users.seen.columns_of(place)] = -np.inf
    discounts = 1 / np.log2(np.arange(k) + 2)
    return gains[np.argsort(-scores)[:k]] @ discounts / (np.sort(gains)[::-1][:k] @ discounts)


def test_the_report_holds_what_was_found(dataset, tmp_path):
    found = run_comparison(dataset, tmp_path / "c", models=("rg2", "softmax-cosine", "popularity"), budget=3)
    provenance = describe_provenance(
        "data", dataset.fingerprint, command="rgals compare", started_at=datetime.now(UTC), seconds=1.0, executor="here"
    )
    report = build_comparison_report(found, dataset, provenance)
    write_report(report, tmp_path / "report.json")
    report = read_report(tmp_path / "report.json")
    assert (report.kind, report.metric) == ("comparison", "ndcg@5")
    rg2, softmax, popularity = report.models
    assert (rg2.family, softmax.family, popularity.family) == ("rg", "softmax", "trivial")
    assert {comparison.model for comparison in report.comparisons} == {"rg2"}
    assert rg2.tuning.n_trials == softmax.tuning.n_trials == 3
    assert popularity.tuning is None
    curve = found.records[1].curve
    enough = next(point.train_s for point in curve.curve if point.ndcg >= 0.99 * curve.best_ndcg)
    assert softmax.seconds_to_99 == pytest.approx(enough)
    assert softmax.n_rounds == found.records[1].best.result.best_round
    assert all(point.softmax is not None and math.isfinite(point.softmax) for point in rg2.curve)
    assert rg2.tuning.trials[0].options == found.records[0].trials[0].result.options


def report_of(found, dataset, reference=None):
    provenance = describe_provenance(
        "data", dataset.fingerprint, command="rgals compare", started_at=datetime(2026, 1, 2, tzinfo=UTC), seconds=1.0,
        executor="here",
    )  # fmt: skip
    return build_comparison_report(found, dataset, provenance, reference=reference)


def test_a_reference_that_was_left_out_is_replaced_and_the_report_says_so(dataset, tmp_path, monkeypatch):
    replace_contender(monkeypatch, "ease", baseline=fail(CapacityError("ease: expected 7 GB of memory, found 3 GB")))
    found = run_comparison(dataset, tmp_path / "c", models=("popularity", "rg2", "ease"))
    report = report_of(found, dataset, "ease")
    assert {comparison.model for comparison in report.comparisons} == {"rg2"}
    [left] = report.left_out
    assert left.reason == (
        "ease: expected 7 GB of memory, found 3 GB; all were to be compared with it: they are compared with rg2 instead"
    )
    assert {comparison.model for comparison in report_of(found, dataset, "popularity").comparisons} == {"popularity"}
    with pytest.raises(InputError, match="expected the reference among popularity, rg2"):
        report_of(found, dataset, "softmax")


def test_a_report_is_of_the_moment_it_is_made_and_shows_the_notes_of_the_comparison(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(InProcessExecutor, "n_workers", property(lambda self: 3))
    found = run_comparison(dataset, tmp_path / "c", models=("popularity",))
    report = report_of(found, dataset)
    assert abs((datetime.fromisoformat(report.created_at) - datetime.now(UTC)).total_seconds()) < 60
    assert report.provenance.started_at == "2026-01-02T00:00:00+00:00"
    assert any("one process" in note for note in report.models[0].notes)


def test_a_folder_of_another_comparison_is_refused(dataset, tmp_path):
    run_comparison(dataset, tmp_path, models=("popularity",))
    with pytest.raises(StaleCheckpointError, match="n_factors: 6 there, 7 here"):
        run_comparison(dataset, tmp_path, models=("popularity",), n_factors=7)
    folder, asked = ComparisonFolder(tmp_path), opening(dataset)
    with pytest.raises(OutputExistsError, match="--resume auto"):
        folder.open(*asked, resume=False)
    with folder:
        assert folder.open(*asked, resume=False, overwrite=True) is False
        assert [path.name for path in tmp_path.iterdir()] == ["identity.json"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"models": ("rg3",)}, "found 'rg3'"),
        ({"budget": None}, "a budget of trials or one of seconds"),
        ({"budget_s": 3.0}, "a budget of trials or one of seconds"),
        ({"cutoff": 7}, "cutoff 7 among the cutoffs"),
    ],
)
def test_options_that_cannot_be_used_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        small_options(**changed)


def test_a_dataset_without_a_validation_part_is_refused(tmp_path):
    dataset = write_dataset(tmp_path / "d", 20, 10, random_parts(20, 10, {"train": 0.4, "test": 0.2}))
    with pytest.raises(InputError, match="expected a validation part"):
        run_comparison(dataset, tmp_path / "c")
