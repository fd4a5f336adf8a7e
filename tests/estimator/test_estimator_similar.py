"""Neighbors by cosine."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from rgals import RankingALS
from rgals.errors import InputError

NO_SCORE = np.finfo(np.float32).min


def cosines(factors, row):
    return factors @ factors[row] / np.linalg.norm(factors, axis=1) / np.linalg.norm(factors[row])


@pytest.fixture(params=["item", "user"])
def similar(request, fitted_checkerboard):
    """The same question on both sides: (method, factors, name of the exclusion, name of the choice)."""
    if request.param == "item":
        return fitted_checkerboard.similar_items, fitted_checkerboard.item_factors, "filter_items", "items"
    return fitted_checkerboard.similar_users, fitted_checkerboard.user_factors, "filter_users", "users"


def test_neighbors_are_of_the_same_color(similar):
    method, _, _, _ = similar
    ids, _ = method(np.arange(40), N=20)
    assert ((ids - np.arange(40)[:, None]) % 2 == 0).all()


def test_neighbors_are_those_of_the_plain_cosine(similar):
    method, factors, _, _ = similar
    for row in range(40):
        ids, scores = method(row, N=7)
        expected = cosines(factors, row)
        assert ids[0] == row
        assert scores[0] == 1.0
        np.testing.assert_allclose(scores, expected[ids], atol=1e-5)
        np.testing.assert_allclose(scores, np.sort(expected)[::-1][:7], atol=1e-5)
        assert (ids.dtype, scores.dtype) == (np.int32, np.float32)


def test_a_batch_gives_the_lists_of_its_rows(similar):
    method, _, _, _ = similar
    ids, scores = method([9, 2, 9], N=6)
    assert ids.shape == scores.shape == (3, 6)
    for place, row in enumerate([9, 2, 9]):
        np.testing.assert_array_equal(method(row, N=6)[0], ids[place])
        np.testing.assert_array_equal(method(row, N=6)[1], scores[place])


def test_excluded_rows_are_no_neighbors_not_even_of_themselves(similar):
    method, _, excluded, _ = similar
    ids, scores = method(np.arange(40), N=8, **{excluded: np.arange(8) * 5})
    assert (ids % 5 != 0).all()
    assert (scores > NO_SCORE).all()
    ids, _ = method(10, N=3, **{excluded: [10]})
    assert 10 not in ids


def test_chosen_rows_are_ranked_instead_of_all(similar):
    method, factors, _, chosen = similar
    picked = np.array([8, 1, 4, 2, 2])
    ids, scores = method(np.arange(40), N=10, **{chosen: picked})
    assert ids.shape == (40, 4)
    assert (np.sort(ids, axis=1) == [1, 2, 4, 8]).all()
    for row in range(40):
        np.testing.assert_allclose(scores[row], cosines(factors, row)[ids[row]], atol=1e-5)
        assert (np.diff(scores[row]) <= 0).all()
    assert (ids[[1, 2, 4, 8], 0] == [1, 2, 4, 8]).all()


def test_chosen_rows_cut_to_the_length(similar):
    method, _, _, chosen = similar
    ids, _ = method([4, 5], N=2, **{chosen: [8, 1, 4, 2]})
    assert ids.shape == (2, 2)
    assert ids[0, 0] == 4


def test_more_neighbors_than_rows_are_padded(similar):
    method, _, _, _ = similar
    ids, scores = method([0, 1], N=50)
    assert (np.sort(ids[:, :40], axis=1) == np.arange(40)).all()
    assert (ids[:, 40:] == -1).all()
    assert (scores[:, 40:] == NO_SCORE).all()


def test_choice_and_exclusion_together_are_refused(similar):
    method, _, excluded, chosen = similar
    with pytest.raises(InputError, match=f"{chosen} and {excluded}: expected one of the two"):
        method(0, **{excluded: [1], chosen: [2]})


@pytest.mark.parametrize("bad", [[40], [-1, 0]])
def test_rows_that_the_model_does_not_hold_are_an_index_error(similar, bad):
    method, _, excluded, chosen = similar
    for question in ({chosen: bad}, {excluded: bad}):
        with pytest.raises(IndexError, match="from 0 to 39"):
            method(0, **question)
    with pytest.raises(IndexError, match="from 0 to 39"):
        method(bad)


def test_the_length_is_checked(similar):
    method, _, _, _ = similar
    with pytest.raises(InputError, match="N: expected an integer of at least 1, found 0"):
        method(0, N=0)


def test_the_own_row_is_first_even_before_exact_twins():
    twins = csr_matrix(np.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]]))
    model = RankingALS(n_factors=3, random_state=0).fit(twins, show_progress=False)
    ids, scores = model.similar_items(np.arange(4), N=4)
    assert ids[:, 0].tolist() == [0, 1, 2, 3]
    assert ids[2].tolist() == [2, 0, 1, 3]
    assert (scores[:3, :3] >= 1 - 1e-5).all()
    assert (scores <= 1).all()


def test_cosines_stay_within_one_where_products_round_above(graded):
    model = RankingALS(n_factors=7, random_state=0, n_sweeps=1).fit(graded, show_progress=False)
    half = np.random.default_rng(0).normal(size=(200, 7)).astype(np.float32)
    model.item_factors = np.vstack([half, 3 * half])
    _, scores = model.similar_items(np.arange(200), N=2)
    np.testing.assert_allclose(scores, 1, atol=1e-5)
    assert (scores <= 1).all()


def test_a_row_of_zeros_is_nobodys_neighbor_and_has_none(checkerboard):
    holes = checkerboard.tolil()
    holes[[13, 39]] = 0
    model = RankingALS(n_factors=8, random_state=0).fit(holes.tocsr(), show_progress=False)
    ids, scores = model.similar_users(np.arange(40), N=40)
    others = np.delete(np.arange(40), [13, 39])
    assert not np.isin(ids[others], [13, 39]).any()
    assert (ids[[13, 39]] == -1).all()
    assert (scores[[13, 39]] == NO_SCORE).all()
    ids, scores = model.similar_users([13, 0], N=5, users=[39, 13, 2, 1])
    assert ids[0].tolist() == [1, 2, 13, 39]
    assert (scores[0] == NO_SCORE).all()
    assert ids[1].tolist() == [2, 1, 13, 39]
    assert (scores[1, 2:] == NO_SCORE).all()


def test_an_item_without_users_is_not_similar_to_others(checkerboard):
    holes = checkerboard.tolil()
    holes[:, [30, 39]] = 0
    model = RankingALS(n_factors=16, random_state=0).fit(holes.tocsr(), show_progress=False)
    ids, _ = model.similar_items(np.arange(30), N=10)
    assert not np.isin(ids, [30, 39]).any()


def test_recalculated_items_are_near_those_of_the_training(fitted_checkerboard, checkerboard):
    item_users = checkerboard.T.tocsr()
    ids, scores = fitted_checkerboard.similar_items(np.arange(40), N=10, recalculate_item=True, item_users=item_users)
    stored_ids, stored_scores = fitted_checkerboard.similar_items(np.arange(40), N=10)
    np.testing.assert_allclose(scores, stored_scores, atol=1e-2)
    assert (ids % 2 == stored_ids % 2).all()
    np.testing.assert_array_equal(ids[:, 0], np.arange(40))
    one_ids, one_scores = fitted_checkerboard.similar_items(5, N=10, recalculate_item=True, item_users=item_users[5])
    np.testing.assert_array_equal(one_ids, ids[5])
    np.testing.assert_array_equal(one_scores, scores[5])


def test_interactions_are_not_looked_at_unless_items_are_recalculated(fitted_checkerboard, checkerboard):
    plain = fitted_checkerboard.similar_items(3)
    np.testing.assert_array_equal(fitted_checkerboard.similar_items(3, item_users=checkerboard[0]), plain)


def test_a_new_item_can_be_compared_by_its_users(fitted_checkerboard, checkerboard):
    item_users = csr_matrix(checkerboard.toarray()[[6, 7]])
    ids, _ = fitted_checkerboard.similar_items(999, N=10, recalculate_item=True, item_users=item_users[0])
    assert (ids % 2 == 0).all()
    both, _ = fitted_checkerboard.similar_items([999, 7], N=10, recalculate_item=True, item_users=item_users)
    np.testing.assert_array_equal(both[0], ids)
    assert both[1, 0] == 7


def test_recalculation_needs_interactions(fitted_checkerboard):
    with pytest.raises(InputError, match="item_users: expected a scipy sparse CSR matrix, found NoneType"):
        fitted_checkerboard.similar_items(0, recalculate_item=True)
