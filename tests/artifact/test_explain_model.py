"""Explanations of a model's lists: their parts add up to the score, whatever ranks."""

import math

import numpy as np
import pytest

from rgals.artifact.model import Model
from rgals.artifact.queries import RankingRequest
from rgals.errors import InputError, UnknownIdError
from rgals.numerics.loss import Loss
from tests.artifact.model_factory import Parts, ids_of

LOSSES = {
    "rg2": Loss("rg2", alpha=2.0, reg=0.1),
    "rgx-degree": Loss("rgx", alpha=0.5, reg=0.2, user_exponent=-0.5, item_exponent=-0.25, beta=0.3),
    "ials": Loss("ials", alpha=0.3, reg=0.1),
    "rg-softmax": Loss("rg-softmax", alpha=0.0, reg=0.3, n_hard=4),
}


@pytest.fixture(scope="module", params=list(LOSSES))
def model(request, tmp_path_factory) -> Model:
    parts = Parts(9, 13, 4, seed=5, density=0.4, empty_users=(2,), has_weights=True, loss=LOSSES[request.param])
    rng = np.random.default_rng(1)
    parts.changes = {
        "user_factors": rng.normal(0, 0.5, (9, 4)).astype(np.float32),
        "item_factors": rng.normal(0, 0.5, (13, 4)).astype(np.float32),
    }
    return parts.write(tmp_path_factory.mktemp("explain") / "model")


def total(found) -> float:
    shares = [share.score for share in found.contributions]
    return math.fsum([*shares, found.others, found.background, found.remainder])


@pytest.mark.parametrize("n_listed", [0, 2, 50])
@pytest.mark.parametrize("has_history", [False, True])
def test_the_parts_add_up_to_the_score(model, n_listed, has_history):
    items, user = ids_of(model.item_ids), ids_of(model.user_ids)[0]
    request = RankingRequest(user_id=user, history={items[3]: 2.0} if has_history else None, k=13, exclude_seen=False)
    (answer,) = model.answer([request])
    score_of = dict(zip(answer.items, answer.scores, strict=True))
    for found in model.explain(request, items, n_listed):
        assert total(found) == pytest.approx(found.score, abs=1e-12)
        assert found.score == pytest.approx(score_of[found.item_id], abs=1e-5)
        assert len(found.contributions) == min(n_listed, len(found.contributions) + found.n_others)
        values = [share.score for share in found.contributions]
        assert values == sorted(values, reverse=True)


def test_by_fold_in_the_remainder_is_rounding(model):
    items = ids_of(model.item_ids)
    request = RankingRequest(history={items[1]: 1.0, items[4]: 3.0, items[9]: 0.5})
    for found in model.explain(request, items):
        assert abs(found.remainder) < 1e-5
        assert {share.item_id for share in found.contributions} == {items[1], items[4], items[9]}


def test_the_stored_factors_of_a_user_differ_from_folding_in_by_the_remainder(model):
    items, user = ids_of(model.item_ids), ids_of(model.user_ids)[0]
    stored = {item.item_id: item for item in model.explain(RankingRequest(user_id=user), items)}
    folded = {item.item_id: item for item in model.explain(RankingRequest(user_id=user, history=[]), items)}
    for item in items:
        assert stored[item].score - folded[item].score == pytest.approx(stored[item].remainder, abs=1e-5)
        assert stored[item].contributions == folded[item].contributions


def test_popularity_needs_no_explanation(model):
    empty = ids_of(model.user_ids)[2]
    with pytest.raises(InputError, match="only popularity ranks"):
        model.explain(RankingRequest(user_id=empty), [ids_of(model.item_ids)[0]])


def test_an_unknown_item_cannot_be_explained(model):
    with pytest.raises(UnknownIdError, match="nothing"):
        model.explain(RankingRequest(user_id=ids_of(model.user_ids)[0]), ["nothing"])


def test_a_negative_number_of_contributions_is_refused(model):
    with pytest.raises(InputError, match="n_listed"):
        model.explain(RankingRequest(user_id=ids_of(model.user_ids)[0]), [ids_of(model.item_ids)[0]], -1)


def test_the_history_of_a_user_is_what_the_model_was_trained_with(model):
    user = ids_of(model.user_ids)[0]
    columns, weights = model.seen.columns_of(0), model.seen.weights_of(0)
    assert model.history(user) == [(ids_of(model.item_ids)[c], float(w)) for c, w in zip(columns, weights, strict=True)]
    with pytest.raises(UnknownIdError):
        model.history("nobody")
