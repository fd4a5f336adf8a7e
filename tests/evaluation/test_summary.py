import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import wilcoxon

from rgals.data.dataset import Dataset
from rgals.errors import InputError, StaleCheckpointError
from rgals.evaluation.bootstrap import bootstrap_intervals
from rgals.evaluation.evaluator import evaluate, measure
from rgals.evaluation.protocol import EvaluatedUsers, EvaluationOptions
from rgals.evaluation.provenance import describe_machine
from rgals.evaluation.report import (
    CurvePoint,
    LeftOut,
    ModelDetails,
    Provenance,
    Report,
    SearchDimension,
    Trial,
    Tuning,
    read_report,
    write_report,
)
from rgals.evaluation.summary import build_report, seconds_to_share
from rgals.evaluation.values import ModelValues, load_values, save_values
from tests.evaluation.problems import PlainModel, random_parts, whole_numbered, write_dataset

N_USERS, N_ITEMS = 80, 30
OPTIONS = EvaluationOptions(cutoffs=(5, 3), n_resamples=60)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    parts = random_parts(N_USERS, N_ITEMS, {"train": 0.3, "test": 0.1})
    return write_dataset(tmp_path_factory.mktemp("data") / "d", N_USERS, N_ITEMS, parts)


@pytest.fixture(scope="module")
def users(dataset: Dataset) -> EvaluatedUsers:
    return EvaluatedUsers.read(dataset, "test")


def models() -> list[PlainModel]:
    return [whole_numbered(N_USERS, N_ITEMS, name, seed) for seed, name in enumerate(("a", "b", "c"))]


@pytest.fixture(scope="module")
def values(users: EvaluatedUsers) -> list[ModelValues]:
    return [measure(model, users, OPTIONS, n_threads=1) for model in models()]


def without_seconds(report: Report) -> dict[str, object]:
    content = report.model_dump()
    for model in content["models"]:
        del model["evaluate_s"]
    return content


def test_values_kept_on_disk_make_the_report_that_an_uninterrupted_evaluation_makes(
    dataset: Dataset, users: EvaluatedUsers, values: list[ModelValues], tmp_path: Path
) -> None:
    for value in values:
        save_values(value, tmp_path / f"{value.name}.npz")
    read_again = EvaluatedUsers.read(dataset, "test")
    kept = [load_values(tmp_path / f"{name}.npz") for name in ("a", "b", "c")]
    report = build_report(kept, dataset, read_again, OPTIONS)
    assert without_seconds(report) == without_seconds(evaluate(models(), dataset, OPTIONS).report)


def test_values_of_another_measurement_are_refused(
    dataset: Dataset, users: EvaluatedUsers, values: list[ModelValues]
) -> None:
    others = EvaluationOptions(cutoffs=(5, 4))
    with pytest.raises(StaleCheckpointError, match="a: its values were measured with other users"):
        build_report(values, dataset, users, others)
    fewer = replace(users, user_rows=users.user_rows[:-1])
    with pytest.raises(StaleCheckpointError, match="measure the model again"):
        build_report(values, dataset, fewer, OPTIONS)


def test_values_that_rounding_alone_parts_are_no_wins(
    dataset: Dataset, users: EvaluatedUsers, values: list[ModelValues]
) -> None:
    first, second = values[0], values[1]
    parted = {key: np.nextafter(array, 2) for key, array in first.by_user.items()}
    report = build_report([first, replace(second, by_user=parted)], dataset, users, OPTIONS)
    for found in report.comparisons[0].metrics.values():
        assert (found.n_better, found.n_worse) == (0, 0)
    assert [(bucket.n_better, bucket.n_worse) for bucket in report.comparisons[0].user_buckets].count((0, 0)) == len(
        report.comparisons[0].user_buckets
    )


def test_the_reference_is_compared_with_each_other_and_the_models_keep_their_order(dataset: Dataset) -> None:
    found = evaluate(models(), dataset, OPTIONS, reference="b", metric="recall@3")
    report = found.report
    assert [model.name for model in report.models] == ["a", "b", "c"]
    assert [(comparison.model, comparison.other) for comparison in report.comparisons] == [("b", "a"), ("b", "c")]
    assert report.metric == "recall@3"
    assert list(report.models[0].user_buckets[0].metrics) == ["recall@3", "ndcg@3"]
    plain = evaluate(models(), dataset, OPTIONS).report
    assert [(comparison.model, comparison.other) for comparison in plain.comparisons] == [("a", "b"), ("a", "c")]
    assert plain.metric == "ndcg@5"
    mine, theirs = report.comparisons[0].metrics["map@5"], plain.comparisons[0].metrics["map@5"]
    assert (mine.n_better, mine.n_worse) == (theirs.n_worse, theirs.n_better)
    assert mine.mean == pytest.approx(-(theirs.mean or 0))
    assert mine.p_wilcoxon == theirs.p_wilcoxon
    assert all(len(listed) == 3 for user in report.sample_users for listed in user.lists.values())


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"reference": "z"}, "reference among a, b, c, found 'z'"),
        ({"metric": "ndcg@20"}, "headline metric among ndcg@5, .*found 'ndcg@20'"),
        ({"metric": "coverage@5"}, "found 'coverage@5'"),
    ],
)
def test_unknown_choices_are_refused_before_anything_is_measured(
    dataset: Dataset, choice: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rgals.evaluation.evaluator.measure", None)
    with pytest.raises(InputError, match=message):
        evaluate(models(), dataset, OPTIONS, **choice)  # type: ignore[arg-type]


def test_no_model_or_one_name_twice_is_refused(
    dataset: Dataset, users: EvaluatedUsers, values: list[ModelValues]
) -> None:
    for chosen in ([], [values[0], values[0]]):
        with pytest.raises(InputError, match="different names"):
            build_report(chosen, dataset, users, OPTIONS)
    with pytest.raises(InputError, match="found those of z"):
        build_report(values, dataset, users, OPTIONS, details=[ModelDetails(name="z")])


def test_each_difference_has_an_interval_two_p_values_and_holms_correction(
    dataset: Dataset, users: EvaluatedUsers, values: list[ModelValues]
) -> None:
    report = build_report(values, dataset, users, OPTIONS)
    for key in ("ndcg@5", "recall@3", "hit_rate@5"):
        found = [comparison.metrics[key] for comparison in report.comparisons]
        differences = [values[0].by_user[key] - other.by_user[key] for other in values[1:]]
        p_values = []
        for mine, difference in zip(found, differences, strict=True):
            low, high = bootstrap_intervals(difference[None, :], n_resamples=60, seed=0)
            assert (mine.ci_low, mine.ci_high) == pytest.approx((low[0], high[0]), abs=1e-12)
            rounded = np.round(difference, 12)
            p_values.append(wilcoxon(rounded[rounded != 0], method="asymptotic").pvalue)
            assert mine.p_wilcoxon == pytest.approx(p_values[-1])
            assert mine.p_bootstrap is not None
            assert 2 / 61 <= mine.p_bootstrap <= 1
        smaller, larger = np.argsort(p_values)
        assert found[smaller].p_holm == pytest.approx(min(1, 2 * p_values[smaller]))
        assert found[larger].p_holm == pytest.approx(max(min(1, 2 * p_values[smaller]), p_values[larger]))
    p_values = [comparison.metrics["ndcg@5"].p_holm for comparison in report.comparisons]
    assert p_values != [comparison.metrics["ndcg@5"].p_wilcoxon for comparison in report.comparisons]


def test_without_resamples_the_bootstrap_p_value_is_undefined_and_wilcoxons_is_not(
    dataset: Dataset, users: EvaluatedUsers, values: list[ModelValues]
) -> None:
    report = build_report(values, dataset, users, OPTIONS.model_copy(update={"n_resamples": 0}))
    difference = report.comparisons[0].metrics["ndcg@5"]
    assert (difference.ci_low, difference.p_bootstrap) == (None, None)
    assert difference.p_wilcoxon is not None
    assert difference.p_holm is not None
    assert report.models[0].metrics["ndcg@5"].ci_low is None


def tuned(name: str) -> ModelDetails:
    curve = [CurvePoint(round=1, train_s=0.5, ndcg=0.1), CurvePoint(round=2, train_s=1.25, ndcg=0.2, softmax=3.0)]
    trial = Trial(number=0, state="complete", ndcg=0.2, best_round=2, seconds=1.5, options={"alpha": 0.1})
    space = {"alpha": SearchDimension(low=0.01, high=1, log=True, default=0.1), "kind": SearchDimension(choices=["x"])}
    tuning = Tuning(n_trials=1, budget_trials=1, best_trial=0, best_ndcg=0.2, best_round=2, space=space, trials=[trial])
    return ModelDetails(name=name, label="RG", family="rg", n_rounds=2, curve=curve, tuning=tuning)


def test_a_comparison_carries_what_is_known_of_the_training_and_is_read_back(
    dataset: Dataset, users: EvaluatedUsers, values: list[ModelValues], tmp_path: Path
) -> None:
    provenance = Provenance(
        dataset="d", fingerprint=dataset.fingerprint, command="rgals compare d", machine=describe_machine(),
        versions={"python": "3"}, started_at="2026-01-01T00:00:00+00:00", seconds=2.5, executor="in-process",
    )  # fmt: skip
    report = build_report(
        values, dataset, users, OPTIONS, kind="comparison", details=[tuned("b")],
        created_at="2026-01-01T00:00:09+00:00", left_out=[LeftOut(name="ease", reason="too large")],
        provenance=provenance, titles={"i00001": "One", "i99999": "Nobody's"},
    )  # fmt: skip
    assert report.kind == "comparison"
    first, second, _ = report.models
    assert (first.name, first.label, first.family, first.seconds_to_99, first.curve) == ("a", "a", "other", None, [])
    assert (second.label, second.family, second.n_rounds, second.seconds_to_99) == ("RG", "rg", 2, 1.25)
    assert second.tuning == tuned("b").tuning
    assert second.metrics["ndcg@5"].mean == pytest.approx(values[1].by_user["ndcg@5"].mean())
    assert report.left_out[0].reason == "too large"
    assert report.titles == {"i00001": "One"}
    write_report(report, tmp_path / "r.json")
    assert read_report(tmp_path / "r.json") == report


def test_seconds_that_are_given_are_not_taken_from_the_curve(
    dataset: Dataset, users: EvaluatedUsers, values: list[ModelValues]
) -> None:
    details = tuned("a").model_copy(update={"seconds_to_99": 0.75})
    assert build_report(values, dataset, users, OPTIONS, details=[details]).models[0].seconds_to_99 == 0.75


def test_seconds_to_a_share_are_those_of_the_first_point_that_reaches_it() -> None:
    ndcg = [0.05, None, 0.099, 0.08, 0.1, 0.0995]
    curve = [CurvePoint(round=index, train_s=index + 0.5, ndcg=value) for index, value in enumerate(ndcg)]
    assert seconds_to_share(curve) == 2.5
    assert seconds_to_share(curve, 1.0) == 4.5
    assert seconds_to_share(curve, 0.5) == 0.5
    assert math.isnan(seconds_to_share(curve[1:2]))
    assert math.isnan(seconds_to_share([]))
    for share in (0.0, 1.1):
        with pytest.raises(InputError, match="above 0 and at most 1"):
            seconds_to_share(curve, share)


def test_options_and_notes_of_a_model_reach_its_section(users: EvaluatedUsers, dataset: Dataset) -> None:
    model = models()[0]
    model.options, model.notes, model.train_s = {"alpha": 0.1}, ("careful",), 2.0
    section = evaluate([model], dataset, OPTIONS).report.models[0]
    assert (section.options, section.notes, section.train_s) == ({"alpha": 0.1}, ["careful"], 2.0)
