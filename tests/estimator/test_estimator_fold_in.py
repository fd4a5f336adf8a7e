"""Solving users and items against frozen factors: the same rows as in the training, new ones, and storing them."""

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse import csr_matrix

from rgals import RankingALS
from rgals.errors import InputError, NumericalError
from tests.estimator.matrices import make_graded


def scores_of(model):
    return model.user_factors @ model.item_factors.T


def test_recalculated_users_are_those_of_a_converged_training(fitted_graded, graded):
    solved = fitted_graded.recalculate_user(np.arange(30), graded)
    assert solved.shape == (30, 6)
    assert solved.dtype == np.float32
    np.testing.assert_allclose(solved @ fitted_graded.item_factors.T, scores_of(fitted_graded), atol=0.02)


def test_recalculated_items_are_those_of_the_last_half_step(fitted_graded, graded):
    solved = fitted_graded.recalculate_item(np.arange(20), graded.T.tocsr())
    assert solved.shape == (20, 6)
    # Under rgx the tangent has moved on since; its fixed point is the same.
    tolerance = 1e-4 if fitted_graded.loss != "rgx" else 0.01
    np.testing.assert_allclose(fitted_graded.user_factors @ solved.T, scores_of(fitted_graded), atol=tolerance)


def test_a_recalculated_item_satisfies_the_normal_equations(graded):
    model = RankingALS(n_factors=5, random_state=2, alpha=0.6, reg=0.1, n_sweeps=4).fit(graded, show_progress=False)
    weights = graded[:, [7]].toarray().ravel().astype(np.float64)
    users, total = model.user_factors.astype(np.float64), model.user_weight_sums_
    system = (users.T * total / 20 + 0.6 * users.T * weights) @ users
    system += 0.1 * (total.sum() / 20 + 0.6 * weights.sum()) * np.eye(5)
    expected = np.linalg.solve(system, 1.6 * users.T @ weights - users.T @ total / 20)
    np.testing.assert_allclose(model.recalculate_item(7, graded.T.tocsr()[7]), expected, rtol=1e-3, atol=1e-5)


def test_one_row_gives_one_dimension(fitted_graded, graded):
    users = fitted_graded.recalculate_user([3, 4], graded[[3, 4]])
    items = fitted_graded.recalculate_item([3, 4], graded.T.tocsr()[[3, 4]])
    np.testing.assert_allclose(fitted_graded.recalculate_user(3, graded[3]), users[0], atol=1e-6)
    np.testing.assert_allclose(fitted_graded.recalculate_item(4, graded.T.tocsr()[4]), items[1], atol=1e-6)
    assert fitted_graded.recalculate_user(np.int64(3), graded[3]).shape == (6,)


def test_nothing_is_stored_by_recalculation(fitted_graded, graded):
    before = [fitted_graded.user_factors.copy(), fitted_graded.item_factors.copy(), fitted_graded.item_degrees_.copy()]
    fitted_graded.recalculate_user(0, graded[5])
    fitted_graded.recalculate_item([0, 25], graded.T.tocsr()[[1, 2]])
    after = [fitted_graded.user_factors, fitted_graded.item_factors, fitted_graded.item_degrees_]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def test_recalculation_converts_another_format_with_a_warning(fitted_graded, graded):
    with pytest.warns(scipy.sparse.SparseEfficiencyWarning, match="user_items: .*found COO") as caught:
        solved = fitted_graded.recalculate_user(3, graded[3].tocoo())
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(solved, fitted_graded.recalculate_user(3, graded[3]))
    with pytest.warns(scipy.sparse.SparseEfficiencyWarning, match="item_users: .*found CSC") as caught:
        fitted_graded.recalculate_item([3, 4], graded[:, [3, 4]].T)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("loss", ["rg2", "rgx"])
def test_a_user_without_interactions_gets_zeros(loss, graded):
    model = RankingALS(n_factors=4, loss=loss, random_state=0).fit(graded, show_progress=False)
    assert not model.recalculate_user(0, csr_matrix((1, 20))).any()


def test_more_or_fewer_rows_than_users_are_refused(fitted_graded, graded):
    for users, rows in ((0, graded[:2]), ([0, 1], graded[0]), ([], graded[0])):
        with pytest.raises(ValueError, match="user_items: expected shape"):
            fitted_graded.recalculate_user(users, rows)
        with pytest.raises(ValueError, match="item_users: expected shape"):
            fitted_graded.recalculate_item(users, graded.T.tocsr()[: rows.shape[0]])


def test_a_negative_number_is_no_row(fitted_graded, graded):
    with pytest.raises(IndexError, match="userid: expected row numbers of at least 0, found -1"):
        fitted_graded.recalculate_user(-1, graded[0])
    with pytest.raises(IndexError, match=r"itemid: .*found -1"):
        fitted_graded.partial_fit_items([-1], graded.T.tocsr()[0])


def test_a_negative_weight_is_refused(fitted_graded, graded):
    with pytest.raises(InputError, match=r"user_items: row 0, column .*found -"):
        fitted_graded.recalculate_user(0, -graded[0])


def test_a_fold_in_without_a_solution_is_an_error_and_changes_nothing():
    board = make_graded(seed=8)
    model = RankingALS(n_factors=2, loss="ials", alpha=1, reg=0, random_state=0).fit(board, show_progress=False)
    model.item_factors = np.zeros_like(model.item_factors)
    before = model.user_factors
    with pytest.raises(NumericalError, match="fold-in: 1 rows have no finite solution"):
        model.partial_fit_users([0], board[0])
    assert model.user_factors is before


def test_a_known_user_is_stored_anew_and_the_others_stay(fitted_graded, graded):
    before = fitted_graded.user_factors.copy()
    fitted_graded.partial_fit_users([2, 28], graded[[9, 10]])
    np.testing.assert_array_equal(
        fitted_graded.user_factors[[2, 28]], fitted_graded.recalculate_user([2, 28], graded[[9, 10]])
    )
    others = np.delete(np.arange(30), [2, 28])
    np.testing.assert_array_equal(fitted_graded.user_factors[others], before[others])
    np.testing.assert_array_equal(fitted_graded.user_degrees_[[2, 28]], np.diff(graded.indptr)[[9, 10]])


def test_a_new_user_gets_the_recommendations_of_a_twin(checkerboard):
    model = RankingALS(n_factors=8, random_state=0).fit(checkerboard, show_progress=False)
    model.partial_fit_users([42], checkerboard[6])
    assert model.user_factors.shape == (43, 8)
    assert not model.user_factors[[40, 41]].any()
    np.testing.assert_array_equal(model.user_degrees_[40:], [0, 0, 19])
    new = model.recommend(42, checkerboard[6], N=3)
    twin = model.recommend(6, checkerboard[6], N=3, recalculate_user=True)
    np.testing.assert_array_equal(new, twin)
    ids, _ = model.similar_users(42, N=10)
    assert ids[0] == 42
    assert (ids % 2 == 0).all()


def test_a_new_item_is_recommended_and_has_neighbors(checkerboard):
    model = RankingALS(n_factors=8, random_state=0).fit(checkerboard, show_progress=False)
    even_users = csr_matrix(checkerboard.toarray()[:, [4]].T)
    assert (model.similar_items(4, N=3)[0] < 40).all()
    model.partial_fit_items([41], even_users)
    assert model.item_factors.shape == (42, 8)
    assert not model.item_factors[40].any()
    assert model.item_degrees_.tolist()[40:] == [0, 19]
    wider = csr_matrix((checkerboard.data, checkerboard.indices, checkerboard.indptr), (40, 42))
    ids, _ = model.recommend(4, wider[4], N=2)
    assert 41 in ids
    assert (model.similar_items(41, N=10)[0] % 2 == [1] + [0] * 9).all()
    assert model.recalculate_user(4, wider[4]).shape == (8,)


def test_items_are_solved_against_users_that_were_stored_meanwhile(fitted_graded, graded):
    item_users = graded.T.tocsr()
    before = fitted_graded.recalculate_item(0, item_users[0])
    fitted_graded.partial_fit_users(np.arange(30), graded[::-1])
    assert not np.allclose(fitted_graded.recalculate_item(0, item_users[0]), before, atol=1e-3)
    assert fitted_graded.user_weight_sums_.sum() == pytest.approx(graded.sum(), rel=0.2)


def test_storing_every_row_again_is_one_more_sweep(fitted_graded, graded):
    before = scores_of(fitted_graded)
    sums = fitted_graded.user_weight_sums_
    fitted_graded.partial_fit_users(np.arange(30), graded)
    np.testing.assert_allclose(fitted_graded.user_weight_sums_, sums, rtol=1e-6)
    fitted_graded.partial_fit_items(np.arange(20), graded.T.tocsr())
    np.testing.assert_allclose(scores_of(fitted_graded), before, atol=0.03)


def test_a_row_named_twice_is_refused(fitted_graded, graded):
    with pytest.raises(InputError, match="userids: expected each row once, found 3 2 times; merge"):
        fitted_graded.partial_fit_users([3, 4, 3], graded[:3])
    with pytest.raises(InputError, match="itemid: expected each row once"):
        fitted_graded.partial_fit_items([3, 3], graded.T.tocsr()[:2])


def test_no_rows_change_nothing(fitted_graded, graded):
    before = scores_of(fitted_graded)
    fitted_graded.partial_fit_users([], graded[[]])
    fitted_graded.partial_fit_items([], graded.T.tocsr()[[]])
    np.testing.assert_array_equal(scores_of(fitted_graded), before)


def test_a_callers_array_is_not_written_into(fitted_graded, graded):
    held = fitted_graded.user_factors
    copy = held.copy()
    held.flags.writeable = False
    fitted_graded.partial_fit_users([0], graded[5])
    np.testing.assert_array_equal(held, copy)
