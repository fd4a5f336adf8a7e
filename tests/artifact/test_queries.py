"""Requests with nothing in common, ranked together: the same lists as one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgals.artifact.model import Model
from rgals.artifact.queries import RankingRequest
from rgals.artifact.recommend import Recommendations
from rgals.errors import InputError, UnknownIdError
from tests.artifact.model_factory import Parts, brute_force_list, ids_of

N_USERS, N_ITEMS = 9, 13


@pytest.fixture(scope="module", params=["string", "int64"])
def model(request, tmp_path_factory) -> Model:
    parts = Parts(N_USERS, N_ITEMS, 2, seed=3, kind=request.param, density=0.4, empty_users=(2, 7))
    return parts.write(tmp_path_factory.mktemp("queries") / "model")


rows_of_items = st.sets(st.integers(0, N_ITEMS - 1))
drawn_requests = st.fixed_dictionaries(
    {
        "user": st.none() | st.integers(0, N_USERS),
        "history": st.none() | st.dictionaries(st.integers(0, N_ITEMS), st.sampled_from([0.5, 1.0, 3.0]), max_size=4),
        "k": st.integers(1, N_ITEMS + 3),
        "exclude_seen": st.booleans(),
        "exclude": rows_of_items,
        "candidates": st.none() | rows_of_items,
    }
)


def to_request(model: Model, drawn: dict, fallback: str = "popular") -> RankingRequest:
    """Name rows by id; the row after the last one is an id that the model does not hold."""
    users, items = [*ids_of(model.user_ids), "nobody"], [*ids_of(model.item_ids), "nothing"]
    history = drawn["history"]
    return RankingRequest(
        k=drawn["k"],
        user_id=None if drawn["user"] is None else users[drawn["user"]],
        history=None if history is None else {items[row]: weight for row, weight in history.items()},
        exclude_seen=drawn["exclude_seen"],
        exclude=[items[row] for row in drawn["exclude"]],
        candidates=None if drawn["candidates"] is None else [items[row] for row in drawn["candidates"]],
        fallback=fallback,
        is_new_user_allowed=True,
    )


@settings(deadline=None, max_examples=120)
@given(st.lists(drawn_requests, min_size=1, max_size=6))
def test_requests_answered_together_are_answered_as_one_by_one(model, drawn):
    requests = [to_request(model, each) for each in drawn]
    together = model.answer(requests)
    for request, answer in zip(requests, together, strict=True):
        (alone,) = model.answer([request], n_threads=1)
        if isinstance(answer, Recommendations):
            assert answer == alone
        else:
            assert (type(answer), str(answer)) == (type(alone), str(alone))


@settings(deadline=None, max_examples=120)
@given(drawn_requests)
def test_a_request_keeps_the_contract(model, drawn):
    (answer,) = model.answer([to_request(model, drawn)])
    user, history = drawn["user"], drawn["history"]
    if user is None and history is None:
        assert isinstance(answer, InputError)
        return
    assert isinstance(answer, Recommendations)
    is_known = user is not None and user < N_USERS
    known = set(model.seen.columns_of(user).tolist()) if is_known else set()
    known |= {row for row in history or {} if row < N_ITEMS}
    allowed = (set(range(N_ITEMS)) if drawn["candidates"] is None else drawn["candidates"]) - drawn["exclude"]
    allowed -= known if drawn["exclude_seen"] else set()
    assert answer.source == ("popular" if not known else "factors" if history is None else "fold_in")
    assert answer.is_known_user == (None if user is None else is_known)
    rows = [ids_of(model.item_ids).index(item) for item in answer.items]
    assert len(rows) == min(drawn["k"], len(allowed))
    assert answer.exhausted == (len(allowed) < drawn["k"])
    if answer.source == "fold_in":
        assert set(rows) <= allowed
        assert len(set(rows)) == len(rows)
        assert answer.scores == sorted(answer.scores, reverse=True)
    else:
        scores = (
            model.popularity
            if answer.source == "popular"
            else model.item_factors.astype(np.float64) @ model.user_factors[user].astype(np.float64)
        )
        assert list(zip(rows, answer.scores, strict=True)) == brute_force_list(scores, allowed, drawn["k"])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, N_USERS - 1), st.integers(1, N_ITEMS), st.booleans(), rows_of_items)
def test_a_request_for_a_known_user_gives_what_recommend_gives(model, user, k, exclude_seen, excluded):
    user_id, item_ids = ids_of(model.user_ids)[user], ids_of(model.item_ids)
    exclude = [item_ids[row] for row in excluded]
    (alone,) = model.recommend([user_id], k, exclude_seen=exclude_seen, exclude=exclude)
    assert model.answer([RankingRequest(k, user_id, exclude_seen=exclude_seen, exclude=exclude)]) == [alone]


def test_an_error_stands_where_its_list_would(model):
    user = ids_of(model.user_ids)[0]
    requests = [RankingRequest(user_id="nobody"), RankingRequest(user_id=user, k=2), RankingRequest(k=0, user_id=user)]
    unknown, answer, bad = model.answer(requests)
    assert isinstance(unknown, UnknownIdError)
    assert isinstance(answer, Recommendations)
    assert isinstance(bad, InputError)
    assert "'nobody'" in str(unknown)


def test_an_id_that_is_none_fails_alone(model):
    users = ids_of(model.user_ids)
    bad, good = model.answer([RankingRequest(user_id=1.5), RankingRequest(user_id=users[0])])
    assert isinstance(bad, InputError)
    assert good == model.answer([RankingRequest(user_id=users[0])])[0]


def test_an_unknown_user_with_a_history_is_new_only_where_that_is_allowed(model):
    item = ids_of(model.item_ids)[0]
    (allowed,) = model.answer([RankingRequest(user_id="new", history=[item], is_new_user_allowed=True)])
    (refused,) = model.answer([RankingRequest(user_id="new", history=[item])])
    assert isinstance(allowed, Recommendations)
    assert (allowed.user_id, allowed.source, allowed.is_known_user) == ("new", "fold_in", False)
    assert isinstance(refused, UnknownIdError)


def test_unknown_items_are_listed_once_in_the_order_they_were_named(model):
    user = ids_of(model.user_ids)[0]
    request = RankingRequest(user_id=user, history=["b"], candidates=["a", "c"], exclude=["b", "d"], fallback="popular")
    (answer,) = model.answer([request])
    assert answer.unknown_items == ["b", "a", "c", "d"]
    assert answer.items == []
    assert answer.exhausted


def test_integers_as_text_name_the_same_user(model):
    user_id = ids_of(model.user_ids)[1]
    (by_id,) = model.answer([RankingRequest(user_id=user_id)])
    (by_text,) = model.answer([RankingRequest(user_id=str(user_id))])
    assert by_id == by_text
    assert by_text.user_id == user_id
