"""Recommendations: the withheld items come back, filters hold, and lists are exact."""

import numpy as np
import pytest
from scipy.sparse import csr_array, csr_matrix

from rgals import RankingALS
from rgals.errors import InputError, UnknownIdError
from tests.estimator.matrices import make_checkerboard

NO_SCORE = np.finfo(np.float32).min


def brute_force(model, user, is_candidate):
    """Rank by the plain product, ties by item."""
    scores = model.item_factors @ model.user_factors[user]
    candidates = np.flatnonzero(is_candidate)
    return candidates[np.argsort(-scores[candidates], kind="stable")], scores


@pytest.mark.parametrize("recalculate", [False, True])
def test_the_withheld_item_is_every_users_first_recommendation(fitted_checkerboard, checkerboard, recalculate):
    users = np.arange(40)
    ids, scores = fitted_checkerboard.recommend(users, checkerboard, N=1, recalculate_user=recalculate)
    assert (ids.shape, scores.shape) == ((40, 1), (40, 1))
    assert (ids.dtype, scores.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(ids[:, 0], users)


def test_one_user_gets_one_dimension_and_the_list_of_the_batch(fitted_checkerboard, checkerboard):
    users = [7, 3, 3, 39]
    batch_ids, batch_scores = fitted_checkerboard.recommend(users, checkerboard[users], N=5)
    for place, user in enumerate(users):
        ids, scores = fitted_checkerboard.recommend(user, checkerboard[user], N=5)
        assert ids.shape == scores.shape == (5,)
        np.testing.assert_array_equal(ids, batch_ids[place])
        np.testing.assert_array_equal(scores, batch_scores[place])


@pytest.mark.parametrize("user", [4, np.int64(4), np.int32(4), np.uint8(4), np.array(4)])
def test_any_integer_names_a_user(fitted_checkerboard, checkerboard, user):
    ids, _ = fitted_checkerboard.recommend(user, checkerboard[4], N=1)
    assert ids.tolist() == [4]


def test_lists_are_those_of_the_plain_product(fitted_graded, graded):
    for user in range(30):
        is_new = graded[user].toarray()[0] == 0
        expected, scores = brute_force(fitted_graded, user, is_new)
        ids, found = fitted_graded.recommend(user, graded[user], N=6)
        np.testing.assert_allclose(found, scores[expected[:6]], atol=1e-5)
        np.testing.assert_allclose(found, scores[ids], atol=1e-5)
        assert len(set(ids)) == 6
        assert is_new[ids].all()


def test_liked_items_are_ranked_when_they_are_not_filtered(fitted_checkerboard, checkerboard):
    ids, scores = fitted_checkerboard.recommend(0, None, N=40, filter_already_liked_items=False)
    assert set(ids) == set(range(40))
    assert set(ids[:19]) == set(range(2, 40, 2))  # what was observed scores highest
    expected, by_item = brute_force(fitted_checkerboard, 0, np.ones(40, bool))
    np.testing.assert_allclose(scores, by_item[expected], atol=1e-5)
    np.testing.assert_allclose(scores, by_item[ids], atol=1e-5)
    assert (np.diff(scores) <= 0).all()


def test_places_without_an_item_hold_minus_one_and_the_lowest_score(fitted_checkerboard, checkerboard):
    ids, scores = fitted_checkerboard.recommend([0, 1], checkerboard[[0, 1]], N=1000)
    assert ids.shape == (2, 1000)
    for row, user in enumerate([0, 1]):
        liked = set(checkerboard[user].indices)
        assert set(ids[row, :21]) == set(range(40)) - liked
        assert (ids[row, 21:] == -1).all()
        assert (scores[row, 21:] == NO_SCORE).all()
        assert (scores[row, :21] > NO_SCORE).all()


def test_a_user_who_has_everything_gets_an_empty_list(fitted_checkerboard):
    ids, scores = fitted_checkerboard.recommend(0, csr_matrix(np.ones((1, 40))), N=3)
    assert ids.tolist() == [-1, -1, -1]
    assert (scores == NO_SCORE).all()


@pytest.mark.parametrize("form", [list, tuple, np.array])
def test_filtered_items_are_left_out_for_every_user(fitted_checkerboard, checkerboard, form):
    users = np.arange(40)
    ids, _ = fitted_checkerboard.recommend(users, checkerboard, N=18, filter_items=form([0, 3, 17]))
    assert not np.isin(ids, [0, 3, 17]).any()
    assert (ids >= 0).all()


def test_an_empty_filter_filters_nothing(fitted_checkerboard, checkerboard):
    plain = fitted_checkerboard.recommend(0, checkerboard[0])
    for empty in ([], np.array([], dtype=int)):
        np.testing.assert_array_equal(fitted_checkerboard.recommend(0, checkerboard[0], filter_items=empty), plain)
        ids, _ = fitted_checkerboard.recommend(0, checkerboard[0], items=[5, 7], filter_items=empty)
        assert set(ids) == {5, 7}


def test_given_items_are_ranked_and_the_liked_among_them_stand_last(fitted_checkerboard, checkerboard):
    ids, scores = fitted_checkerboard.recommend(0, checkerboard[0], items=[6, 1, 2, 5, 4, 3], N=20)
    assert sorted(ids[:3]) == [1, 3, 5]
    assert ids[3:].tolist() == [2, 4, 6]
    assert (scores[:3] > NO_SCORE).all()
    assert (scores[3:] == NO_SCORE).all()


def test_given_items_are_ranked_for_a_batch(fitted_checkerboard, checkerboard):
    chosen = np.arange(13) * 3
    ids, _ = fitted_checkerboard.recommend(np.arange(40), checkerboard, items=chosen, N=13)
    assert (np.sort(ids, axis=1) == chosen).all()
    all_ids, _ = fitted_checkerboard.recommend(np.arange(40), checkerboard, N=40)
    for user in range(40):
        in_full_list = [item for item in all_ids[user] if item in chosen]
        assert ids[user, : len(in_full_list)].tolist() == in_full_list


def test_given_items_without_the_filter_keep_their_order_by_score(fitted_checkerboard, checkerboard):
    full, _ = fitted_checkerboard.recommend(8, None, N=40, filter_already_liked_items=False)
    ids, _ = fitted_checkerboard.recommend(8, None, items=[3, 8, 30, 12], filter_already_liked_items=False)
    assert ids.tolist() == [item for item in full if item in {3, 8, 30, 12}]


def test_an_item_given_twice_counts_once_and_short_lists_are_cut(fitted_checkerboard, checkerboard):
    ids, _ = fitted_checkerboard.recommend(0, checkerboard[0], items=[5, 5, 1, 1, 3])
    assert sorted(ids) == [1, 3, 5]
    ids, _ = fitted_checkerboard.recommend(0, checkerboard[0], items=[5, 5, 1, 1, 3], N=2)
    assert ids.shape == (2,)


def test_given_items_and_filtered_items_together_are_refused(fitted_checkerboard, checkerboard):
    with pytest.raises(InputError, match="items and filter_items: expected one of the two"):
        fitted_checkerboard.recommend(0, checkerboard[0], items=[1, 2], filter_items=np.array([2]))


def test_no_given_item_at_all_is_refused(fitted_checkerboard, checkerboard):
    with pytest.raises(InputError, match="items: expected at least one row number"):
        fitted_checkerboard.recommend(0, checkerboard[0], items=[])


@pytest.mark.parametrize(
    "question",
    [
        {"userid": 40},
        {"userid": -1},
        {"userid": [0, 40]},
        {"items": [1, -1]},
        {"items": [1, 40]},
        {"filter_items": [40]},
        {"filter_items": [-2]},
    ],
)
def test_a_number_that_the_model_does_not_hold_is_an_index_error(fitted_checkerboard, checkerboard, question):
    user = question.pop("userid", 0)
    with pytest.raises(IndexError, match="from 0 to 39") as caught:
        fitted_checkerboard.recommend(user, checkerboard[np.atleast_1d(np.zeros_like(user))], **question)
    assert isinstance(caught.value, UnknownIdError)


@pytest.mark.parametrize("user", [1.0, "1", True, [[1]], None, [0.5, 1.5]])
def test_what_is_no_integer_names_no_user(fitted_checkerboard, checkerboard, user):
    with pytest.raises(InputError, match="userid: expected an integer"):
        fitted_checkerboard.recommend(user, checkerboard[0])


@pytest.mark.parametrize("length", [0, -1, 2.0, None, True])
def test_the_length_is_an_integer_of_at_least_one(fitted_checkerboard, checkerboard, length):
    with pytest.raises(InputError, match="N: expected an integer of at least 1"):
        fitted_checkerboard.recommend(0, checkerboard[0], N=length)


@pytest.mark.parametrize("form", ["csc", "coo", "lil"])
def test_interactions_in_another_format_are_refused(fitted_checkerboard, checkerboard, form):
    with pytest.raises(ValueError, match=f"expected a CSR matrix, found {form.upper()}"):
        fitted_checkerboard.recommend(0, checkerboard[0].asformat(form))


@pytest.mark.parametrize("missing", [None, np.zeros((1, 40))])
@pytest.mark.parametrize("option", [{}, {"filter_already_liked_items": False, "recalculate_user": True}])
def test_interactions_are_needed_to_filter_and_to_recalculate(fitted_checkerboard, missing, option):
    with pytest.raises(InputError, match="user_items: expected a scipy sparse CSR matrix"):
        fitted_checkerboard.recommend(0, missing, **option)


def test_a_sparse_array_of_one_dimension_is_refused(fitted_checkerboard, checkerboard):
    with pytest.raises(InputError, match=r"found shape \(40,\); reshape"):
        fitted_checkerboard.recommend(0, csr_array(checkerboard.toarray()[0]))


def test_interactions_with_another_number_of_rows_are_refused(fitted_checkerboard, checkerboard):
    with pytest.raises(ValueError, match=r"expected shape \(1, 40\).*found \(40, 40\); select the rows first"):
        fitted_checkerboard.recommend(0, checkerboard)
    with pytest.raises(ValueError, match=r"expected shape \(2, 40\)"):
        fitted_checkerboard.recommend([0, 1], checkerboard[0])


def test_transposed_interactions_are_refused(fitted_graded, graded):
    with pytest.raises(ValueError, match="not transposed"):
        fitted_graded.recommend(np.arange(20), graded.T.tocsr())


def test_a_sparse_array_filters_as_a_sparse_matrix_does(fitted_checkerboard, checkerboard):
    as_array = csr_array(checkerboard)[[4]]
    np.testing.assert_array_equal(
        fitted_checkerboard.recommend(4, as_array), fitted_checkerboard.recommend(4, checkerboard[4])
    )


def test_no_users_get_no_lists(fitted_checkerboard, checkerboard):
    ids, scores = fitted_checkerboard.recommend([], checkerboard[[]], N=3)
    assert ids.shape == scores.shape == (0, 3)


def test_recalculation_serves_users_that_the_model_does_not_know(fitted_checkerboard, checkerboard):
    known = fitted_checkerboard.recommend(6, checkerboard[6], N=5, recalculate_user=True)
    unknown = fitted_checkerboard.recommend(12345, checkerboard[6], N=5, recalculate_user=True)
    np.testing.assert_array_equal(known, unknown)


def test_recalculation_without_the_filter_ranks_all_items(fitted_checkerboard, checkerboard):
    ids, scores = fitted_checkerboard.recommend(
        6, checkerboard[6], N=40, recalculate_user=True, filter_already_liked_items=False
    )
    vector = fitted_checkerboard.recalculate_user(6, checkerboard[6])
    np.testing.assert_allclose(scores, (fitted_checkerboard.item_factors @ vector)[ids], atol=1e-5)
    assert set(ids) == set(range(40))


def test_a_users_list_does_not_depend_on_threads_or_company(checkerboard):
    lists = []
    for n_threads in (1, 2, 0):
        model = RankingALS(n_factors=8, random_state=0, n_threads=n_threads).fit(checkerboard, show_progress=False)
        lists.append(model.recommend(np.arange(40), checkerboard, N=12))
    for other in lists[1:]:
        np.testing.assert_array_equal(other, lists[0])


def test_replaced_factors_count_at_once(checkerboard):
    model = RankingALS(n_factors=4, random_state=0).fit(checkerboard, show_progress=False)
    model.similar_items(0)
    model.recalculate_user(0, checkerboard[0])
    model.item_factors = np.roll(model.item_factors, 1, axis=0).copy()
    model.item_degrees_ = np.roll(model.item_degrees_, 1)
    twin = RankingALS(n_factors=4, random_state=0).fit(checkerboard, show_progress=False)
    rolled = csr_matrix(np.roll(checkerboard.toarray(), 1, axis=1))
    np.testing.assert_allclose(
        model.recalculate_user(0, rolled[0]), twin.recalculate_user(0, checkerboard[0]), atol=1e-6
    )
    np.testing.assert_array_equal(model.similar_items(1, N=5)[1], twin.similar_items(0, N=5)[1])


def test_a_callers_matrix_stays_as_it_is(fitted_checkerboard):
    board = make_checkerboard(40)
    held = board.copy()
    users = np.arange(40)
    fitted_checkerboard.recommend(users, board, items=[1, 2, 3], recalculate_user=True)
    fitted_checkerboard.explain(3, board, 4)
    np.testing.assert_array_equal(board.data, held.data)
    np.testing.assert_array_equal(board.indices, held.indices)
