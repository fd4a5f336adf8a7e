import sys
from typing import Any

import numpy as np
import pytest
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender, TFIDFRecommender
from pydantic import ValidationError

from rgals.baselines.implicit_library import to_csr
from rgals.baselines.item_item import ItemItemOptions, Similarity, fit_item_item
from rgals.baselines.model import Round
from rgals.errors import InputError, MissingDependencyError, NumericalError
from rgals.numerics.sparse import InteractionRows
from tests.baselines.test_simple import random_rows
from tests.training.executors import through_pickle

RECOMMENDERS = {
    "cosine": CosineRecommender(K=6),
    "tf-idf": TFIDFRecommender(K=6),
    "bm25": BM25Recommender(K=6, K1=0.7, B=0.3),
}
SIMILARITIES: list[Similarity] = ["cosine", "tf-idf", "bm25"]


def options_of(similarity: Similarity) -> ItemItemOptions:
    return ItemItemOptions(similarity=similarity, n_neighbors=6, k1=0.7, b=0.3)


@pytest.mark.filterwarnings("ignore::implicit.utils.ParameterWarning")
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_scores_are_implicits_own(similarity: Similarity) -> None:
    rows, new = random_rows(50, 20), random_rows(5, 20, seed=9)
    model = fit_item_item(rows, options_of(similarity), n_threads=1)
    recommender = RECOMMENDERS[similarity]
    recommender.num_threads = 1
    recommender.fit(to_csr(rows), show_progress=False)
    for asked, found in ((rows, model.score_users(np.arange(50), 1)), (new, model.score_histories(new, 1))):
        assert (found.dtype, found.shape) == (np.float32, (asked.n_rows, 20))
        for user in range(asked.n_rows):
            items, scores = recommender.recommend(user, to_csr(asked)[user], N=20, filter_already_liked_items=False)
            expected = np.zeros(20)
            expected[items] = scores
            np.testing.assert_allclose(found[user], expected, rtol=1e-5, atol=1e-6)
    assert (model.name, model.n_items) == ("item-item", 20)
    assert model.options["similarity"] == similarity
    assert model.train_s > 0


def test_cosine_neighbors_equal_the_definition_and_only_the_nearest_are_kept() -> None:
    rows = random_rows(40, 15)
    model = fit_item_item(rows, ItemItemOptions(n_neighbors=4), n_threads=1)
    x = rows.to_scipy().toarray().astype(np.float64)
    x /= np.linalg.norm(x, axis=0)
    cosines = x.T @ x
    alone = InteractionRows(np.arange(16), np.arange(15, dtype=np.int32), None, 15)
    for item, found in enumerate(model.score_histories(alone, 1)):
        nearest = np.argsort(-cosines[item])[:4]
        np.testing.assert_array_equal(np.sort(np.flatnonzero(found)), np.sort(nearest))
        np.testing.assert_allclose(found[nearest], cosines[item, nearest], rtol=1e-5)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_scores_do_not_depend_on_threads_or_on_a_journey_to_a_worker(similarity: Similarity) -> None:
    rows = random_rows(200, 60)
    one, three = (fit_item_item(rows, options_of(similarity), n_threads=n_threads) for n_threads in (1, 3))
    expected = one.score_users(np.arange(200), 1)
    np.testing.assert_array_equal(three.score_users(np.arange(200), 3), expected)
    np.testing.assert_array_equal(through_pickle(one).score_users(np.arange(200), 2), expected)
    np.testing.assert_array_equal(one.score_users(np.array([150, 3]), 1), expected[[150, 3]])


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_who_has_no_items_or_none_with_neighbors_cannot_be_ranked_for(similarity: Similarity) -> None:
    rows = random_rows(29, 11)
    train = InteractionRows(np.append(rows.indptr, rows.indptr[-1]), rows.columns, rows.weights, 12)
    model = fit_item_item(train, options_of(similarity))
    np.testing.assert_array_equal(model.score_users(np.arange(30), 1).any(axis=1), train.degrees > 0)
    strangers = InteractionRows(np.array([0, 0, 1]), np.array([11], np.int32), None, 12)
    assert not model.score_histories(strangers, 1).any()


def test_an_item_whose_users_weigh_nothing_has_no_neighbors_where_implicit_divides_by_zero() -> None:
    # User 0 has three of four items: the logarithm of 4 / (1 + 3) is zero.
    users, items = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 2, 1, 3, 3])
    model = fit_item_item(InteractionRows.from_pairs(users, items, None, 3, 4), ItemItemOptions(similarity="tf-idf"))
    scores = model.score_users(np.arange(3), 1)
    assert np.isfinite(scores).all()
    assert not scores[:, 0].any()
    assert scores[2, 1] > 0


def test_a_fit_is_looked_at_once() -> None:
    rounds: list[Round] = []
    model = fit_item_item(random_rows(), watch=lambda found: bool(rounds.append(found)))  # type: ignore[func-returns-value]
    assert [found.number for found in rounds] == [1]
    assert rounds[0].model().name == model.name


@pytest.mark.parametrize("weight", [1e30, 1.8e19])  # too large already as a weight; as a product of weights
def test_similarities_that_are_not_finite_are_refused(weight: float) -> None:
    rows = random_rows()
    huge = InteractionRows(rows.indptr, rows.columns, np.full(rows.n_interactions, weight, np.float32), 12)
    with pytest.raises(NumericalError, match="similarity='bm25'"):
        fit_item_item(huge, ItemItemOptions(similarity="bm25", k1=weight / 2, b=0), n_threads=1)


def test_histories_over_other_items_are_refused() -> None:
    with pytest.raises(InputError, match="item-item: expected rows over 12 items, found 11"):
        fit_item_item(random_rows()).score_histories(random_rows(2, 11), 1)


def test_without_implicit_the_error_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "implicit", None)
    with pytest.raises(MissingDependencyError, match=r"item-item baseline .* pip install rgals\[baselines\]"):
        fit_item_item(random_rows())


@pytest.mark.parametrize("options", [{"similarity": "jaccard"}, {"n_neighbors": 0}, {"k1": 0}, {"b": 1.5}, {"K": 3}])
def test_options_out_of_bounds_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ItemItemOptions.model_validate(options)
