from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgals.data.dataset import Dataset
from rgals.evaluation.buckets import bucket_items, bucket_users, cut_buckets
from rgals.evaluation.evaluator import Evaluation, evaluate
from rgals.evaluation.protocol import EvaluationOptions
from tests.evaluation.problems import PlainModel, random_parts, whole_numbered, write_dataset

N_USERS, N_ITEMS, K = 70, 45, 5


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    generator = np.random.default_rng(4)
    parts = random_parts(N_USERS, N_ITEMS, {"train": 0.25, "test": 0.1})
    keep = generator.random(N_ITEMS) + 0.2  # some items are rarer than others
    parts["train"] = [(u, i) for u, i in parts["train"] if generator.random() < keep[i] and i != 7]
    return write_dataset(tmp_path_factory.mktemp("data") / "d", N_USERS, N_ITEMS, parts)


@pytest.fixture(scope="module")
def found(dataset: Dataset) -> Evaluation:
    models = [whole_numbered(N_USERS, N_ITEMS, name, seed) for seed, name in enumerate(("a", "b"))]
    return evaluate(models, dataset, EvaluationOptions(cutoffs=(2, K, 9), n_resamples=10), metric=f"ndcg@{K}")


def plain_lists(model: PlainModel, found: Evaluation, k: int) -> list[list[int]]:
    lists = []
    for position, user in enumerate(found.users.user_rows.tolist()):
        scores = model.item_factors @ model.user_factors[user]
        scores[found.users.seen.columns_of(position)] = -np.inf
        lists.append(np.argsort(-scores, kind="stable")[:k].tolist())
    return lists


def test_five_groups_of_equal_size_where_all_values_differ() -> None:
    buckets = cut_buckets(np.array([9, 3, 1, 7, 5, 8, 2, 4, 0, 6]), np.ones(10, dtype=np.int64))
    assert buckets.sizes.tolist() == [2] * 5
    assert buckets.low.tolist() == [0, 2, 4, 6, 8]
    assert buckets.high.tolist() == [1, 3, 5, 7, 9]
    assert buckets.bucket_of.tolist() == [4, 1, 0, 3, 2, 4, 1, 2, 0, 3]
    assert buckets.labels[0] == "0\u20131"


def test_equal_values_stay_together() -> None:
    buckets = cut_buckets(np.array([1] * 50 + [2] * 30 + [1000]), np.ones(81, dtype=np.int64))
    assert buckets.labels == ["1", "2\u20131,000"]
    assert buckets.sizes.tolist() == [50, 31]


def test_groups_have_about_equal_shares_not_equal_numbers() -> None:
    degrees = np.array([100, 50, 50, *[10] * 10, *[1] * 100])
    buckets = cut_buckets(degrees, degrees, 4)
    assert buckets.labels == ["1", "10", "50", "100"]
    assert buckets.sum(degrees).tolist() == [100, 100, 100, 100]


def test_values_without_a_share_join_the_next_and_do_not_stand_alone() -> None:
    degrees = np.array([0, 0, 0, 5, 6])
    buckets = cut_buckets(degrees, degrees, 2)
    assert buckets.low.tolist() == [0, 6]
    assert cut_buckets(np.array([0, 5, 5]), np.array([0, 5, 5])).labels == ["0\u20135"]
    assert cut_buckets(np.zeros(4, dtype=np.int64), np.zeros(4, dtype=np.int64)).labels == ["0"]


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(0, 30), min_size=1, max_size=80), is_weighted=st.booleans(), n_buckets=st.integers(1, 7)
)
def test_buckets_are_ranges_that_cover_each_value_once(values: list[int], is_weighted: bool, n_buckets: int) -> None:
    array = np.array(values)
    shares = array if is_weighted else np.ones_like(array)
    buckets = cut_buckets(array, shares, n_buckets)
    assert 1 <= buckets.n_buckets <= n_buckets
    assert (buckets.low <= buckets.high).all()
    assert (buckets.high[:-1] < buckets.low[1:]).all()
    assert (array >= buckets.low[buckets.bucket_of]).all()
    assert (array <= buckets.high[buckets.bucket_of]).all()
    for index in range(buckets.n_buckets):
        members = array[buckets.bucket_of == index]
        assert (members.min(), members.max()) == (buckets.low[index], buckets.high[index])
    if shares.sum():
        assert (buckets.sum(shares) > 0).all()


def test_users_fall_into_buckets_by_their_seen_items(dataset: Dataset, found: Evaluation) -> None:
    degrees = dataset.read_part("train").degrees[found.users.user_rows]
    section = found.report.models[0]
    ndcg, recall = (found.values[0].by_user[f"{name}@{K}"] for name in ("ndcg", "recall"))
    assert len(section.user_buckets) == 5
    for bucket in section.user_buckets:
        inside = (degrees >= bucket.low) & (degrees <= bucket.high)
        assert bucket.n_users == inside.sum()
        assert bucket.metrics.keys() == {f"ndcg@{K}", f"recall@{K}"}
        assert bucket.metrics[f"ndcg@{K}"] == pytest.approx(ndcg[inside].mean())
        assert bucket.metrics[f"recall@{K}"] == pytest.approx(recall[inside].mean())
    assert sum(bucket.n_users for bucket in section.user_buckets) == found.users.n_users


def test_items_fall_into_buckets_by_their_training_interactions(dataset: Dataset, found: Evaluation) -> None:
    degrees = dataset.read_part("train").transpose().degrees
    lists = plain_lists(whole_numbered(N_USERS, N_ITEMS, "a", 0), found, K)
    shown = np.bincount(np.concatenate(lists), minlength=N_ITEMS)
    buckets = found.report.models[0].item_buckets
    assert buckets[0].low == 0
    for bucket in buckets:
        inside = (degrees >= bucket.low) & (degrees <= bucket.high)
        pairs = [
            (position, item)
            for position in range(found.users.n_users)
            for item in found.users.held_out.columns_of(position).tolist()
            if inside[item]
        ]
        assert bucket.n_items == inside.sum()
        assert bucket.n_held_out == len(pairs)
        assert bucket.n_recommended == shown[inside].sum()
        assert bucket.share == pytest.approx(shown[inside].sum() / shown.sum())
        assert bucket.recall == pytest.approx(np.mean([item in lists[position] for position, item in pairs]))
    totals = [degrees[(degrees >= bucket.low) & (degrees <= bucket.high)].sum() for bucket in buckets]
    assert max(totals) < 2 * min(totals)


def test_wins_and_losses_are_counted_in_each_bucket(dataset: Dataset, found: Evaluation) -> None:
    comparison = found.report.comparisons[0]
    first, second = (values.by_user[f"ndcg@{K}"] for values in found.values)
    seen = bucket_users(found.users)
    for index, bucket in enumerate(comparison.user_buckets):
        inside = seen.bucket_of == index
        assert (bucket.label, bucket.n_users) == (seen.labels[index], inside.sum())
        assert bucket.n_better == (first > second)[inside].sum()
        assert bucket.n_worse == (first < second)[inside].sum()
        assert bucket.mean == pytest.approx((first - second)[inside].mean())
    overall = comparison.metrics[f"ndcg@{K}"]
    assert sum(bucket.n_better for bucket in comparison.user_buckets) == overall.n_better
    assert sum(bucket.n_worse for bucket in comparison.user_buckets) == overall.n_worse


def test_held_out_pairs_that_one_model_alone_finds_are_its_wins(found: Evaluation) -> None:
    mine, theirs = (plain_lists(whole_numbered(N_USERS, N_ITEMS, "", seed), found, K) for seed in (0, 1))
    popularity = bucket_items(found.users)
    expected = np.zeros((popularity.n_buckets, 3))
    for position in range(found.users.n_users):
        for item in found.users.held_out.columns_of(position).tolist():
            is_mine, is_theirs = item in mine[position], item in theirs[position]
            expected[popularity.bucket_of[item]] += [is_mine and not is_theirs, is_theirs and not is_mine, 1]
    buckets = found.report.comparisons[0].item_buckets
    assert [bucket.label for bucket in buckets] == popularity.labels
    assert [[bucket.n_better, bucket.n_worse] for bucket in buckets] == expected[:, :2].tolist()
    assert [bucket.mean for bucket in buckets] == pytest.approx((expected[:, 0] - expected[:, 1]) / expected[:, 2])
    assert (expected[:, :2].sum(axis=0) > 5).all()


def test_a_bucket_without_held_out_interactions_has_no_recall(tmp_path: Path) -> None:
    train = [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (1, 1), (2, 1), (3, 2), (2, 2)]
    dataset = write_dataset(tmp_path / "d", 4, 3, {"train": train, "test": [(3, 1), (0, 2)]})
    report = evaluate([whole_numbered(4, 3)], dataset, EvaluationOptions(cutoffs=(1,))).report
    last = report.models[0].item_buckets[-1]
    assert (last.low, last.n_held_out, last.recall) == (4, 0, None)
