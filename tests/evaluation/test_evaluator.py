from pathlib import Path

import numpy as np
import pytest

from rgals.data.dataset import Dataset
from rgals.errors import InputError, NumericalError
from rgals.evaluation import evaluator
from rgals.evaluation.evaluator import Evaluation, evaluate
from rgals.evaluation.protocol import EvaluationOptions
from tests.evaluation.problems import PlainModel, random_parts, whole_numbered, write_dataset

N_USERS, N_ITEMS = 60, 40
OPTIONS = EvaluationOptions(cutoffs=(5, 10), n_resamples=50)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    parts = random_parts(N_USERS, N_ITEMS, {"train": 0.2, "validation": 0.05, "test": 0.05})
    return write_dataset(tmp_path_factory.mktemp("data") / "d", N_USERS, N_ITEMS, parts)


def brute_force_ndcg(model: PlainModel, dataset: Dataset, k: int) -> list[float]:
    """Full ranking by a sort, seen items struck out, for each user with test items."""
    parts = {name: dataset.read_part(name) for name in ("train", "validation", "test")}  # type: ignore[arg-type]
    values = []
    for user in range(dataset.n_users):
        truth = set(parts["test"].columns_of(user).tolist())
        if not truth:
            continue
        scores = model.item_factors @ model.user_factors[user]
        scores[[*parts["train"].columns_of(user), *parts["validation"].columns_of(user)]] = -np.inf
        ranked = np.argsort(-scores, kind="stable")[:k]
        dcg = sum(1 / np.log2(rank + 2) for rank, item in enumerate(ranked) if item in truth)
        values.append(dcg / sum(1 / np.log2(rank + 2) for rank in range(min(k, len(truth)))))
    return values


def test_means_equal_a_full_ranking_by_brute_force(dataset: Dataset) -> None:
    model = whole_numbered(N_USERS, N_ITEMS)
    found = evaluate([model], dataset, OPTIONS)
    for k in (5, 10):
        expected = brute_force_ndcg(model, dataset, k)
        np.testing.assert_allclose(found.values[0].by_user[f"ndcg@{k}"], expected, rtol=1e-12)
        measured = found.report.models[0].metrics[f"ndcg@{k}"]
        assert measured.mean == pytest.approx(np.mean(expected), rel=1e-12)
        assert measured.ci_low is not None
        assert measured.ci_high is not None
        assert measured.ci_low <= np.mean(expected) <= measured.ci_high
        assert measured.n_users == len(expected)


def comparable(found: Evaluation) -> dict[str, object]:
    content = found.report.model_dump()
    for model in content["models"]:
        del model["evaluate_s"]
    return content


def test_numbers_do_not_depend_on_threads_or_blocks_of_users(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [whole_numbered(N_USERS, N_ITEMS, "one"), whole_numbered(N_USERS, N_ITEMS, "two", seed=1)]
    expected = comparable(evaluate(models, dataset, OPTIONS, n_threads=1))
    assert comparable(evaluate(models, dataset, OPTIONS, n_threads=2)) == expected
    monkeypatch.setattr(evaluator, "_BLOCK_USERS", 7)
    monkeypatch.setattr(evaluator, "_THREAD_USERS", 1)
    assert comparable(evaluate(models, dataset, OPTIONS, n_threads=1)) == expected


def test_models_are_compared_user_by_user_with_the_first(dataset: Dataset) -> None:
    models = [whole_numbered(N_USERS, N_ITEMS, name, seed) for seed, name in enumerate(("a", "b", "c"))]
    found = evaluate(models, dataset, OPTIONS)
    assert [(comparison.model, comparison.other) for comparison in found.report.comparisons] == [("a", "b"), ("a", "c")]
    first, second = (value.by_user["recall@10"] for value in found.values[:2])
    difference = found.report.comparisons[0].metrics["recall@10"]
    assert difference.mean == pytest.approx((first - second).mean())
    assert (difference.n_better, difference.n_worse) == ((first > second).sum(), (first < second).sum())


def test_the_same_model_twice_differs_by_nothing(dataset: Dataset) -> None:
    found = evaluate([whole_numbered(N_USERS, N_ITEMS, name) for name in ("a", "b")], dataset, OPTIONS)
    for difference in found.report.comparisons[0].metrics.values():
        assert (difference.mean, difference.ci_low, difference.ci_high) == (0, 0, 0)
        assert (difference.n_better, difference.n_worse) == (0, 0)


def test_coverage_and_gini_are_those_of_all_lists_together(dataset: Dataset) -> None:
    everyone_alike = PlainModel(np.ones((N_USERS, 1), np.float32), np.arange(N_ITEMS, 0, -1, dtype=np.float32)[:, None])
    metrics = evaluate([everyone_alike], dataset, OPTIONS).report.models[0].metrics
    parts = {name: dataset.read_part(name) for name in ("train", "validation", "test")}  # type: ignore[arg-type]
    shown: set[int] = set()
    for user in np.flatnonzero(parts["test"].degrees):
        seen = {*parts["train"].columns_of(user).tolist(), *parts["validation"].columns_of(user).tolist()}
        shown |= set([item for item in range(N_ITEMS) if item not in seen][:5])
    assert metrics["coverage@5"].mean == pytest.approx(len(shown) / N_ITEMS)
    assert metrics["coverage@5"].ci_low is None
    assert metrics["gini@5"].mean is not None
    assert 0.5 < metrics["gini@5"].mean < 1


def test_users_whom_the_model_has_no_factors_for_get_popular_items(dataset: Dataset) -> None:
    model = whole_numbered(N_USERS, N_ITEMS)
    rows = evaluate([model], dataset, OPTIONS).users.user_rows
    model.user_factors[rows[::2]] = 0
    popular = whole_numbered(N_USERS, N_ITEMS)
    popular.name = "popular"
    degrees = dataset.read_part("train").transpose().degrees
    popular.user_factors = np.ones((N_USERS, 1), dtype=np.float32)
    popular.item_factors = degrees.astype(np.float32)[:, None]
    found = evaluate([model, popular], dataset, OPTIONS)
    assert found.report.models[0].n_users_unranked == rows[::2].size
    for key in ("ndcg@10", "recall@5"):
        mine, theirs = (found.values[index].by_user[key] for index in (0, 1))
        np.testing.assert_array_equal(mine[::2], theirs[::2])
        assert not np.array_equal(mine[1::2], theirs[1::2])


def test_users_whom_the_model_has_no_factors_for_count_as_misses_on_request(dataset: Dataset) -> None:
    model = whole_numbered(N_USERS, N_ITEMS)
    options = OPTIONS.model_copy(update={"cold_users": "miss"})
    whole = evaluate([model], dataset, options)
    rows = whole.users.user_rows
    model.user_factors[rows[::2]] = 0
    found = evaluate([model], dataset, options)
    assert found.report.models[0].n_users_unranked == rows[::2].size
    assert found.report.models[0].metrics["ndcg@10"].n_users == rows.size
    values, before = found.values[0].by_user["ndcg@10"], whole.values[0].by_user["ndcg@10"]
    assert (values[::2] == 0).all()
    np.testing.assert_array_equal(values[1::2], before[1::2])


def test_items_that_the_model_does_not_hold_are_in_no_list(dataset: Dataset) -> None:
    model = whole_numbered(N_USERS, N_ITEMS)
    model.is_known_item = np.zeros(N_ITEMS, dtype=bool)
    found = evaluate([model], dataset, OPTIONS)
    section = found.report.models[0]
    assert section.n_items_unranked == N_ITEMS
    assert section.metrics["recall@10"].mean == 0
    assert section.metrics["coverage@10"].mean == 0
    assert section.metrics["gini@10"].mean is None  # undefined, not 0


def test_held_out_users_are_folded_in_from_their_fold_in_part(tmp_path: Path) -> None:
    parts = random_parts(20, 15, {"test_fold_in": 0.3, "test": 0.2}, seed=3)
    parts["train"] = [(20, item) for item in range(15)]
    dataset = write_dataset(tmp_path / "d", 21, 15, parts)
    generator = np.random.default_rng(0)
    model = PlainModel(np.full((21, 3), np.nan, np.float32), generator.integers(1, 4, (15, 3)).astype(np.float32))
    found = evaluate([model], dataset, OPTIONS)
    assert found.report.protocol.generalization == "strong"
    assert found.report.protocol.seen_parts == ["test_fold_in"]
    assert sum(rows.n_interactions for rows in model.folded_in) == found.users.seen.n_interactions
    fold_in, test = dataset.read_part("test_fold_in"), dataset.read_part("test")
    for position, user in enumerate(found.users.user_rows):
        scores = model.item_factors @ model.item_factors[fold_in.columns_of(user)].sum(axis=0)
        scores[fold_in.columns_of(user)] = -np.inf
        n_hits = np.isin(np.argsort(-scores, kind="stable")[:5], test.columns_of(user)).sum()
        assert found.values[0].by_user["precision@5"][position] == pytest.approx(n_hits / 5)


def test_graded_gains_are_the_held_out_weights(tmp_path: Path) -> None:
    parts = {"train": [(0, 0)], "test": [(0, 1), (0, 2)]}
    dataset = write_dataset(tmp_path / "d", 1, 3, parts, lambda user, item: 1.0 + 2 * (item == 2))
    model = PlainModel(np.ones((1, 1), np.float32), np.array([[9], [2], [1]], np.float32))
    binary, graded = (
        evaluate([model], dataset, EvaluationOptions(cutoffs=(2,), gains=gains, n_resamples=0)).report.models[0]
        for gains in ("binary", "graded")
    )
    assert binary.metrics["ndcg@2"].mean == pytest.approx(1)
    assert graded.metrics["ndcg@2"].mean == pytest.approx((1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3)))
    assert graded.metrics["ndcg@2"].ci_low is None


def test_the_report_says_what_was_measured_and_how(dataset: Dataset) -> None:
    model = whole_numbered(N_USERS, N_ITEMS)
    model.train_s, model.options, model.notes = 1.5, {"reg": 0.1}, ("a remark",)
    report = evaluate([model], dataset, OPTIONS).report
    assert report.dataset.fingerprint == dataset.fingerprint
    assert report.dataset.n_train == dataset.n_interactions
    assert report.protocol.seen_parts == ["train", "validation"]
    assert report.protocol.n_users_evaluated + report.protocol.n_users_without_held_out == N_USERS
    assert report.protocol.bootstrap.n_resamples == 50
    assert (report.models[0].train_s, report.models[0].options) == (1.5, {"reg": 0.1})
    assert report.models[0].notes == ["a remark"]


def test_progress_reaches_the_total_over_all_models(dataset: Dataset) -> None:
    told: list[tuple[int, int | None]] = []
    models = [whole_numbered(N_USERS, N_ITEMS, name) for name in ("a", "b")]
    found = evaluate(models, dataset, OPTIONS, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (2 * found.users.n_users, 2 * found.users.n_users)
    assert told == sorted(told)


def test_models_that_cannot_be_told_apart_or_have_other_items_are_refused(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="found \\[\\]"):
        evaluate([], dataset)
    with pytest.raises(InputError, match="different names"):
        evaluate([whole_numbered(N_USERS, N_ITEMS), whole_numbered(N_USERS, N_ITEMS)], dataset)
    with pytest.raises(InputError, match="dataset's 40 items, found 39"):
        evaluate([whole_numbered(N_USERS, N_ITEMS - 1)], dataset)


def test_factors_that_are_not_finite_are_refused(dataset: Dataset) -> None:
    model = whole_numbered(N_USERS, N_ITEMS)
    model.item_factors[3] = np.nan
    with pytest.raises(NumericalError, match="the first is row 3"):
        evaluate([model], dataset, OPTIONS)
