"""``docs/top-k-contract.md``, rule by rule, against a brute-force twin."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgals.artifact.model import Model
from rgals.artifact.recommend import Recommendations
from rgals.errors import InputError, UnknownIdError
from tests.artifact.model_factory import Parts, brute_force_list, ids_of

N_USERS, N_ITEMS = 9, 13


@pytest.fixture(scope="module", params=["string", "int64"])
def model(request, tmp_path_factory) -> Model:
    parts = Parts(N_USERS, N_ITEMS, 2, seed=3, kind=request.param, density=0.4, empty_users=(2, 7))
    return parts.write(tmp_path_factory.mktemp("contract") / "model")


def product_scores(model: Model, user_row: int) -> np.ndarray:
    return model.item_factors.astype(np.float64) @ model.user_factors[user_row].astype(np.float64)


def check_contract(answer: Recommendations, model: Model, scores: np.ndarray, allowed: set[int], k: int) -> None:
    """Rules 1 to 6, and equality with the twin, which implies them."""
    item_ids = ids_of(model.item_ids)
    rows = [item_ids.index(item) for item in answer.items]
    assert len(rows) <= k
    assert len(set(rows)) == len(rows)
    assert set(rows) <= allowed
    assert all(first >= second for first, second in zip(answer.scores, answer.scores[1:], strict=False))
    assert answer.exhausted == (len(rows) < k)
    assert answer.exhausted == (len(allowed) < k)
    assert list(zip(rows, answer.scores, strict=True)) == brute_force_list(scores, allowed, k)


rows_of_items = st.sets(st.integers(0, N_ITEMS - 1))


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.integers(0, N_USERS - 1), min_size=1, max_size=4),
    st.integers(1, N_ITEMS),
    st.booleans(),
    rows_of_items,
    st.none() | rows_of_items,
)
def test_lists_of_known_users_keep_the_contract(model, user_rows, k, exclude_seen, excluded, candidates):
    user_ids, item_ids = ids_of(model.user_ids), ids_of(model.item_ids)
    answers = model.recommend(
        [user_ids[row] for row in user_rows],
        k,
        exclude_seen=exclude_seen,
        exclude=[item_ids[row] for row in excluded],
        candidates=None if candidates is None else [item_ids[row] for row in candidates],
    )
    assert [answer.user_id for answer in answers] == [user_ids[row] for row in user_rows]
    for answer, user_row in zip(answers, user_rows, strict=True):
        seen = set(model.seen.columns_of(user_row).tolist())
        allowed = (set(range(N_ITEMS)) if candidates is None else candidates) - excluded
        allowed -= seen if exclude_seen else set()
        assert answer.source == ("factors" if seen else "popular")
        scores = product_scores(model, user_row) if seen else model.popularity
        check_contract(answer, model, scores, allowed, k)
        assert answer.unknown_items == []


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.integers(0, N_ITEMS - 1), st.sampled_from([0.5, 1.0, 3.0]), min_size=1),
    st.integers(1, N_ITEMS),
    st.booleans(),
    rows_of_items,
)
def test_lists_by_fold_in_keep_the_contract(model, history, k, exclude_seen, excluded):
    item_ids = ids_of(model.item_ids)
    answer = model.recommend_history(
        {item_ids[row]: weight for row, weight in history.items()},
        k,
        exclude_seen=exclude_seen,
        exclude=[item_ids[row] for row in excluded],
    )
    assert answer.source == "fold_in"
    assert answer.user_id is None
    allowed = set(range(N_ITEMS)) - excluded - (set(history) if exclude_seen else set())
    rows = [item_ids.index(item) for item in answer.items]
    assert len(rows) == len(set(rows)) == min(k, len(allowed))
    assert set(rows) <= allowed
    assert answer.exhausted == (len(allowed) < k)
    pairs = list(zip(answer.scores, (-row for row in rows), strict=True))
    assert pairs == sorted(pairs, reverse=True)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, N_ITEMS), rows_of_items, st.none() | rows_of_items)
def test_the_popular_lists_of_unknown_users_keep_the_contract(model, k, excluded, candidates):
    item_ids = ids_of(model.item_ids)
    (answer,) = model.recommend(
        ["nobody"],
        k,
        exclude=[item_ids[row] for row in excluded],
        candidates=None if candidates is None else [item_ids[row] for row in candidates],
        fallback="popular",
    )
    assert (answer.user_id, answer.source) == ("nobody", "popular")
    allowed = (set(range(N_ITEMS)) if candidates is None else candidates) - excluded
    check_contract(answer, model, model.popularity, allowed, k)


def test_ties_are_broken_by_id_in_every_source(tmp_path):
    factors = {"user_factors": np.ones((2, 1), np.float32), "item_factors": np.ones((5, 1), np.float32)}
    degrees = {"item_degrees": np.full(5, 4, np.int64)}
    parts = Parts(2, 5, 1, kind="int64", density=1.0, empty_users=(1,), changes=factors | degrees)
    model = parts.write(tmp_path / "model")
    in_order = [5, 15, 25, 35]
    assert model.recommend([5], 4, exclude_seen=False)[0].items == in_order
    assert model.recommend([15], 4)[0].items == in_order
    assert model.recommend_history([45], 4).items == in_order


def test_a_user_who_has_seen_everything_gets_an_exhausted_empty_list(tmp_path):
    model = Parts(3, 4, density=1.0).write(tmp_path / "model")
    for answer in model.recommend(ids_of(model.user_ids), 2):
        assert (answer.items, answer.scores, answer.exhausted, answer.source) == ([], [], True, "factors")


def test_an_item_that_is_both_candidate_and_excluded_is_excluded(model):
    user, (first, second, *_) = ids_of(model.user_ids)[0], ids_of(model.item_ids)
    (answer,) = model.recommend([user], 2, exclude_seen=False, candidates=[first, second], exclude=[first])
    assert (answer.items, answer.exhausted) == ([second], True)


def test_no_candidates_at_all_is_not_the_same_as_any_candidate(model):
    (answer,) = model.recommend([ids_of(model.user_ids)[0]], 3, candidates=[])
    assert (answer.items, answer.exhausted) == ([], True)


@pytest.mark.parametrize("k", [0, -1, N_ITEMS + 1, 2.0, True, "3", None])
def test_a_length_outside_one_to_the_number_of_items_is_refused(model, k):
    user, item = ids_of(model.user_ids)[0], ids_of(model.item_ids)[0]
    for ask in (
        lambda: model.recommend([user], k),
        lambda: model.recommend_history([item], k),
        lambda: model.similar_items(item, k),
    ):
        with pytest.raises(InputError, match=f"k: expected an integer from 1 to {N_ITEMS}, the number of items"):
            ask()


def test_the_whole_range_of_lengths_is_allowed(model):
    user = ids_of(model.user_ids)[0]
    assert len(model.recommend([user], np.int64(N_ITEMS), exclude_seen=False)[0].items) == N_ITEMS
    assert len(model.recommend([user], 1, exclude_seen=False)[0].items) == 1


def test_a_list_does_not_depend_on_who_else_is_asked_about_or_on_threads(tmp_path):
    rng = np.random.default_rng(0)
    changes = {
        "user_factors": rng.standard_normal((40, 17), dtype=np.float32),
        "item_factors": rng.standard_normal((300, 17), dtype=np.float32),
    }
    model = Parts(40, 300, 17, density=0.05, changes=changes).write(tmp_path / "model")
    users = ids_of(model.user_ids)
    together = model.recommend(users, 20, n_threads=2)
    assert together == [model.recommend([user], 20, n_threads=1)[0] for user in users]
    assert together == model.recommend(users[::-1], 20)[::-1]


def test_an_unknown_user_is_an_error_unless_popularity_is_asked_for(model):
    known = ids_of(model.user_ids)[0]
    with pytest.raises(UnknownIdError, match=r"user 'nobody' and 1 more of 3 .* ask for the fallback 'popular'"):
        model.recommend([known, "nobody", "else"], 3)
    answers = model.recommend(["nobody", known, "else"], 3, fallback="popular")
    assert [answer.source for answer in answers] == ["popular", "factors", "popular"]
    assert [answer.user_id for answer in answers] == ["nobody", known, "else"]
    assert answers[1] == model.recommend([known], 3)[0]


def test_an_unknown_fallback_is_refused(model):
    with pytest.raises(InputError, match="fallback: expected 'none' or 'popular', found 'random'"):
        model.recommend(["nobody"], 3, fallback="random")


def test_asking_about_nobody_gives_no_lists(model):
    assert model.recommend([], 3) == []


def test_a_bare_id_in_place_of_a_list_is_refused(model):
    user = ids_of(model.user_ids)[0]
    with pytest.raises(InputError, match="user_ids: expected several ids, found"):
        model.recommend(user, 3)
    with pytest.raises(InputError, match="exclude: expected several ids, found 'item'"):
        model.recommend([user], 3, exclude="item")
    with pytest.raises(InputError, match="candidates: expected several ids"):
        model.recommend([user], 3, candidates="item")
    with pytest.raises(InputError, match="history: expected several ids"):
        model.recommend_history("item", 3)


def test_items_that_the_model_does_not_hold_have_no_effect_and_are_reported(model):
    user, item = ids_of(model.user_ids)[0], ids_of(model.item_ids)[0]
    (plain,) = model.recommend([user], 3, exclude=[item])
    (answer,) = model.recommend([user], 3, exclude=["gone", item, "gone"])
    assert answer.items == plain.items
    assert answer.unknown_items == ["gone"]
    (answer,) = model.recommend([user], 3, exclude_seen=False, candidates=["new", item])
    assert (answer.items, answer.unknown_items, answer.exhausted) == ([item], ["new"], True)
    answer = model.recommend_history([item, "newer"], 3, exclude=["gone"])
    assert answer.unknown_items == ["newer", "gone"]
    assert answer.items == model.recommend_history([item], 3).items


def test_ids_come_back_as_plain_strings_and_integers(tmp_path):
    for kind, expected in (("string", str), ("int64", int)):
        model = Parts(kind=kind).write(tmp_path / kind)
        users = ids_of(model.user_ids)
        for answer in model.recommend(np.array(users), 3):
            assert type(answer.user_id) is expected
            assert {type(item) for item in answer.items} == {expected}
            assert {type(score) for score in answer.scores} == {float}


def test_integer_ids_may_be_given_as_text(tmp_path):
    model = Parts(kind="int64").write(tmp_path / "model")
    assert model.recommend(["15"], 3, exclude=["5"]) == model.recommend([15], 3, exclude=[5])
    assert model.recommend_history({"25": 2.0}, 3) == model.recommend_history({25: 2.0}, 3)
    assert model.similar_items("15", 3) == model.similar_items(15, 3)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_a_weight_that_is_not_finite_and_positive_is_refused(model, weight):
    with pytest.raises(InputError, match=r"history: item .* has weight .*; expected a finite positive number"):
        model.recommend_history({ids_of(model.item_ids)[0]: weight}, 3)


def test_an_item_given_twice_is_refused(model):
    item = ids_of(model.item_ids)[0]
    with pytest.raises(InputError, match="is given twice"):
        model.recommend_history([item, item], 3)


def test_an_item_given_as_number_and_as_text_is_given_twice(tmp_path):
    model = Parts(kind="int64").write(tmp_path / "model")
    with pytest.raises(InputError, match="'5' is given twice"):
        model.recommend_history({5: 1.0, "5": 2.0}, 3)


def test_several_unknown_items_of_a_history_are_not_taken_for_one(model):
    item = ids_of(model.item_ids)[0]
    assert model.recommend_history(["one", item, "two"], 3).unknown_items == ["one", "two"]


def test_a_history_without_known_items_is_an_error_unless_popularity_is_asked_for(model):
    with pytest.raises(UnknownIdError, match="the model knows none of its 2 items, the first is 'one'"):
        model.recommend_history(["one", "two"], 3)
    with pytest.raises(InputError, match="history: expected at least one item"):
        model.recommend_history([], 3)
    popular = model.recommend(["nobody"], 3, fallback="popular")[0]
    for history in ([], ["one", "two"]):
        answer = model.recommend_history(history, 3, fallback="popular")
        assert (answer.source, answer.items, answer.user_id) == ("popular", popular.items, None)
        assert answer.unknown_items == history


def test_many_ids_at_once_mean_the_same_as_one_by_one(tmp_path):
    model = Parts(40, 90, 3, kind="int64", empty_users=(1,)).write(tmp_path / "model")
    items = ids_of(model.item_ids)
    for mixed in (items[:40], [str(item) for item in items[:40]], [*items[:20], *map(str, items[20:40]), 2**70, "no"]):
        (answer,) = model.recommend([5], 90, exclude_seen=False, candidates=mixed)
        assert sorted(answer.items) == items[:40]
        assert answer.unknown_items == [item for item in mixed if item in (2**70, "no")]


@pytest.mark.parametrize("wrong", [1.5, None, b"bytes"])
@pytest.mark.parametrize("n_others", [0, 30])
def test_an_id_that_is_neither_text_nor_integer_is_refused(model, wrong, n_others):
    with pytest.raises(InputError, match="expected a string or an integer"):
        model.recommend([wrong, *["nobody"] * n_others], 3, fallback="popular")
