import math

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from implicit.cpu.als import AlternatingLeastSquares
from implicit.evaluation import ranking_metrics_at_k
from sklearn.metrics import ndcg_score
from threadpoolctl import threadpool_limits

from rgals.errors import InputError
from rgals.names import Rows
from rgals.numerics.ranking import METRICS, Gains, coverage, gini, ranking_metrics, recommendation_counts
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.topk import top_k


def rows_of(*users: dict[int, float], n_items: int = 10) -> InteractionRows:
    triples = [(user, item, gain) for user, items in enumerate(users) for item, gain in items.items()]
    rows, columns, weights = (np.array(values) for values in zip(*triples, strict=True))
    return InteractionRows.from_pairs(rows, columns, weights, len(users), n_items)


def random_problem(
    seed: int, n_users: int = 30, n_items: int = 25, k: int = 12, density: float = 0.2
) -> tuple[Rows, InteractionRows]:
    """Lists of different lengths over a small catalog, and weighted held-out items; some users have none."""
    generator = np.random.default_rng(seed)
    ranked = np.array([generator.permutation(n_items)[:k] for _ in range(n_users)], dtype=np.int32)
    for user, length in enumerate(generator.integers(0, k + 1, n_users)):
        if user % 2:
            ranked[user, length:] = -1
    held_out = generator.random((n_users, n_items)) < density
    held_out[::7] = False
    users, items = np.nonzero(held_out)
    weights = generator.integers(1, 6, users.size).astype(np.float32)
    return ranked, InteractionRows.from_pairs(users, items, weights, n_users, n_items)


def twin(ranked: Rows, held_out: InteractionRows, k: int, gains: Gains) -> dict[str, list[float]]:
    """The definitions, read off one after the other."""
    values: dict[str, list[float]] = {f"{metric}@{k}": [] for metric in METRICS}
    for user in range(len(ranked)):
        truth = dict(zip(held_out.columns_of(user).tolist(), held_out.weights_of(user).tolist(), strict=True))
        if not truth:
            for column in values.values():
                column.append(math.nan)
            continue
        gain = truth if gains == "graded" else dict.fromkeys(truth, 1.0)
        items = [int(item) for item in ranked[user, :k]]
        hit_ranks = [rank for rank, item in enumerate(items, start=1) if item in truth]
        dcg = sum(gain[items[rank - 1]] / math.log2(rank + 1) for rank in hit_ranks)
        best = sorted(gain.values(), reverse=True)[:k]
        ideal = sum(value / math.log2(rank + 1) for rank, value in enumerate(best, start=1))
        precisions = [sum(other <= rank for other in hit_ranks) / rank for rank in hit_ranks]
        values[f"ndcg@{k}"].append(dcg / ideal)
        values[f"recall@{k}"].append(len(hit_ranks) / len(truth))
        values[f"precision@{k}"].append(len(hit_ranks) / k)
        values[f"map@{k}"].append(sum(precisions) / min(k, len(truth)))
        values[f"mrr@{k}"].append(1 / hit_ranks[0] if hit_ranks else 0.0)
        values[f"hit_rate@{k}"].append(1.0 if hit_ranks else 0.0)
    return values


@pytest.mark.parametrize("gains", ["binary", "graded"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_metric_equals_its_brute_force_twin(gains: Gains, seed: int) -> None:
    ranked, held_out = random_problem(seed)
    found = ranking_metrics(ranked, held_out, [5, 12, 1], gains)
    expected = {key: values for k in (5, 12, 1) for key, values in twin(ranked, held_out, k, gains).items()}
    assert list(found) == list(expected)
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=1e-12, err_msg=key)
        assert found[key].dtype == np.float64


def test_a_list_worked_out_by_hand() -> None:
    found = ranking_metrics(np.array([[4, 7, 2, 9]], np.int32), rows_of({7: 1, 9: 1, 1: 1}), [2, 4])
    assert found["ndcg@2"][0] == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))
    assert found["ndcg@4"][0] == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3) + 1 / 2))
    assert found["recall@4"][0] == pytest.approx(2 / 3)
    assert found["precision@4"][0] == pytest.approx(2 / 4)
    assert found["map@4"][0] == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert found["map@2"][0] == pytest.approx((1 / 2) / 2)
    assert found["mrr@4"][0] == pytest.approx(1 / 2)
    assert found["hit_rate@2"][0] == 1


def test_graded_gains_are_the_held_out_weights_and_the_ideal_list_is_sorted_by_them() -> None:
    found = ranking_metrics(np.array([[3, 5]], np.int32), rows_of({3: 1, 5: 4, 8: 2}), [2], "graded")
    assert found["ndcg@2"][0] == pytest.approx((1 + 4 / math.log2(3)) / (4 + 2 / math.log2(3)))


def test_graded_gains_without_weights_are_binary() -> None:
    ranked, weighted = random_problem(3)
    plain = InteractionRows(weighted.indptr, weighted.columns, None, weighted.n_columns)
    for key, values in ranking_metrics(ranked, plain, [5], "graded").items():
        np.testing.assert_array_equal(values, ranking_metrics(ranked, weighted, [5], "binary")[key])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 12), gains=st.sampled_from(["binary", "graded"]))
def test_every_metric_lies_between_zero_and_one(seed: int, k: int, gains: Gains) -> None:
    ranked, held_out = random_problem(seed, n_users=8)
    for values in ranking_metrics(ranked, held_out, [k], gains).values():
        known = values[~np.isnan(values)]
        assert ((known >= 0) & (known <= 1 + 1e-12)).all()


@pytest.mark.parametrize("gains", ["binary", "graded"])
def test_the_ideal_list_scores_one(gains: Gains) -> None:
    ranked = np.array([[5, 8, 3, -1]], np.int32)
    found = ranking_metrics(ranked, rows_of({3: 1, 5: 4, 8: 2}), [1, 2, 3, 4], gains)
    for k in (1, 2, 3, 4):
        assert found[f"ndcg@{k}"][0] == pytest.approx(1, abs=1e-15)
        assert found[f"map@{k}"][0] == pytest.approx(1, abs=1e-15)


def test_users_without_held_out_items_are_nan_and_an_empty_list_is_zero() -> None:
    held_out = InteractionRows(np.array([0, 0, 1]), np.array([2], np.int32), None, 5)
    ranked = np.array([[2, 3], [-1, -1]], np.int32)
    for values in ranking_metrics(ranked, held_out, [2]).values():
        assert np.isnan(values[0])
        assert values[1] == 0


def test_no_users_give_empty_arrays() -> None:
    nobody = InteractionRows(np.zeros(1, np.int64), np.empty(0, np.int32), None, 5)
    assert ranking_metrics(np.empty((0, 3), np.int32), nobody, [3])["ndcg@3"].shape == (0,)


@pytest.mark.parametrize("gains", ["binary", "graded"])
@pytest.mark.parametrize("k", [3, 10, 25])
def test_ndcg_agrees_with_scikit_learn_over_fully_ranked_lists(gains: Gains, k: int) -> None:
    generator = np.random.default_rng(11)
    scores = generator.random((20, 25))
    gain = np.where(generator.random((20, 25)) < 0.3, generator.integers(1, 5, (20, 25)), 0).astype(float)
    gain[:, 0] = 1
    if gains == "binary":
        gain = (gain > 0).astype(float)
    held_out = InteractionRows.from_scipy(scipy.sparse.csr_array(gain))
    ranked = np.argsort(-scores, axis=1).astype(np.int32)
    found = ranking_metrics(ranked, held_out, [k], gains)[f"ndcg@{k}"]
    np.testing.assert_allclose(found.mean(), ndcg_score(gain, scores, k=k), rtol=1e-12)


def test_ndcg_and_map_agree_with_implicit_and_its_precision_has_another_denominator() -> None:
    generator = np.random.default_rng(12)
    train = scipy.sparse.csr_matrix((generator.random((60, 40)) < 0.2).astype(np.float32))
    test = scipy.sparse.csr_matrix(((generator.random((60, 40)) < 0.15) & (train.toarray() == 0)).astype(np.float32))
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(factors=8, iterations=2, random_state=1, num_threads=1)
        model.fit(train, show_progress=False)
        expected = ranking_metrics_at_k(model, train, test, K=7, show_progress=False)
    seen, held_out = InteractionRows.from_scipy(train), InteractionRows.from_scipy(test)
    ranked = top_k(model.user_factors, model.item_factors, 7, seen=seen).items
    found = ranking_metrics(ranked, held_out, [7])
    assert np.nanmean(found["ndcg@7"]) == pytest.approx(expected["ndcg"], rel=1e-9)
    assert np.nanmean(found["map@7"]) == pytest.approx(expected["map"], rel=1e-9)
    n_hits = np.nansum(found["precision@7"]) * 7
    assert n_hits / np.minimum(7, held_out.degrees).sum() == pytest.approx(expected["precision"], rel=1e-9)
    assert np.nanmean(found["precision@7"]) != pytest.approx(expected["precision"], rel=1e-3)


@pytest.mark.parametrize(
    ("cutoffs", "message"),
    [([], "found \\[\\]"), ([0], "found \\[0\\]"), ([13], "from 1 to 12"), ([3, 3], "different cutoffs")],
)
def test_cutoffs_that_cannot_be_judged_are_refused(cutoffs: list[int], message: str) -> None:
    ranked, held_out = random_problem(0)
    with pytest.raises(InputError, match=message):
        ranking_metrics(ranked, held_out, cutoffs)


def test_lists_of_other_users_and_unknown_gains_are_refused() -> None:
    ranked, held_out = random_problem(0)
    with pytest.raises(InputError, match="30 users, found shape \\(29, 12\\)"):
        ranking_metrics(ranked[1:], held_out, [3])
    with pytest.raises(InputError, match="found 'exponential'"):
        ranking_metrics(ranked, held_out, [3], "exponential")  # type: ignore[arg-type]


def test_counts_coverage_and_gini_of_lists_worked_out_by_hand() -> None:
    ranked = np.array([[0, 1, 2], [0, 3, -1]], np.int32)
    np.testing.assert_array_equal(recommendation_counts(ranked, 5, 3), [2, 1, 1, 1, 0])
    np.testing.assert_array_equal(recommendation_counts(ranked, 5, 1), [2, 0, 0, 0, 0])
    counts = recommendation_counts(ranked, 5, 3)
    assert coverage(counts) == pytest.approx(4 / 5)
    # The mean absolute difference over all pairs of items, divided by twice the mean.
    pairs = [abs(int(left) - int(right)) for left in counts for right in counts]
    assert gini(counts) == pytest.approx(np.mean(pairs) / (2 * np.mean(counts)))


def test_gini_is_zero_for_equal_counts_and_nearly_one_for_a_single_item() -> None:
    assert gini(np.full(8, 3)) == pytest.approx(0, abs=1e-15)
    assert gini(np.array([0, 0, 0, 9])) == pytest.approx(1 - 1 / 4)


def test_coverage_and_gini_without_recommendations_are_undefined_not_zero() -> None:
    assert math.isnan(gini(np.zeros(4, np.int64)))
    assert coverage(np.zeros(4, np.int64)) == 0
    assert math.isnan(coverage(np.zeros(0, np.int64)))


def test_counts_refuse_lists_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="k from 1 to 2, found 3"):
        recommendation_counts(np.array([[0, 1]], np.int32), 5, 3)
    with pytest.raises(InputError, match="below 2, found 4"):
        recommendation_counts(np.array([[0, 4]], np.int32), 2, 2)
