"""Explanations: the contributions add up to the score."""

import pytest
from scipy.sparse import csr_matrix

from rgals import RankingALS
from rgals.errors import InputError


def test_contributions_and_background_add_up_to_the_score(fitted_graded, graded):
    for user in (0, 11, 29):
        vector = fitted_graded.recalculate_user(user, graded[user])
        for item in (0, 7, 19):
            score, contributions, weights = fitted_graded.explain(user, graded, item, N=100)
            assert score == pytest.approx(float(vector @ fitted_graded.item_factors[item]), abs=1e-4)
            background = weights.background_score(fitted_graded.item_factors[item])
            assert sum(share for _, share in contributions) + background == pytest.approx(score, abs=1e-9)
            assert sorted(named for named, _ in contributions) == sorted(graded[user].indices)


def test_the_background_takes_off_under_the_softmax_losses_and_not_under_ials(fitted_graded, graded):
    _, _, weights = fitted_graded.explain(0, graded, 3)
    prior = fitted_graded.fitted_loss_.item_prior(fitted_graded.item_degrees_)
    mean = prior @ (fitted_graded.item_factors @ weights.background)
    assert mean < 0 if fitted_graded.loss != "ials" else mean == 0


def test_the_largest_contributions_come_first_and_are_cut_to_the_length(fitted_graded, graded):
    _, everything, weights = fitted_graded.explain(4, graded, 9, N=100)
    shares = [share for _, share in everything]
    assert shares == sorted(shares, reverse=True)
    score, top, again = fitted_graded.explain(4, graded, 9, user_weights=weights, N=2)
    assert top == everything[:2]
    assert score == pytest.approx(fitted_graded.explain(4, graded, 9)[0])
    assert again is weights
    assert all(type(item) is int and type(share) is float for item, share in top)


def test_precomputed_weights_need_no_interactions(fitted_graded, graded):
    _, _, weights = fitted_graded.explain(4, graded, 9)
    expected = fitted_graded.explain(4, graded, 10)
    assert fitted_graded.explain(4, None, 10, user_weights=weights)[:2] == expected[:2]


def test_one_row_explains_as_the_whole_matrix_does(fitted_graded, graded):
    assert fitted_graded.explain(4, graded[4], 9)[:2] == fitted_graded.explain(4, graded, 9)[:2]


def test_the_explained_score_is_the_recalculated_recommendations(fitted_checkerboard, checkerboard):
    ids, scores = fitted_checkerboard.recommend(6, checkerboard[6], N=3, recalculate_user=True)
    for item, score in zip(ids, scores, strict=True):
        explained, contributions, _ = fitted_checkerboard.explain(6, checkerboard, item, N=40)
        assert explained == pytest.approx(score, abs=1e-4)
        assert len(contributions) == 19


def test_a_user_without_interactions_has_nothing_to_explain(fitted_checkerboard):
    score, contributions, _ = fitted_checkerboard.explain(0, csr_matrix((1, 40)), 3)
    assert (score, contributions) == (0.0, [])


def test_an_ials_user_without_interactions_has_nothing_to_explain(graded):
    model = RankingALS(n_factors=4, loss="ials", random_state=0).fit(graded, show_progress=False)
    assert model.explain(0, csr_matrix((1, 20)), 3)[:2] == (0.0, [])


@pytest.mark.parametrize(("user", "item"), [(40, 0), (-1, 0), (0, 40), (0, -1)])
def test_unknown_rows_are_an_index_error(fitted_checkerboard, checkerboard, user, item):
    with pytest.raises(IndexError, match="from 0 to 39"):
        fitted_checkerboard.explain(user, checkerboard, item)


def test_one_score_is_explained_at_a_time(fitted_checkerboard, checkerboard):
    with pytest.raises(InputError, match="itemid: expected one integer"):
        fitted_checkerboard.explain(0, checkerboard, [1, 2])
    with pytest.raises(InputError, match="userid: expected one integer"):
        fitted_checkerboard.explain([0, 1], checkerboard, 1)


def test_a_matrix_of_another_width_is_refused(fitted_checkerboard, checkerboard):
    with pytest.raises(InputError, match=r"user_items: expected shape \(1, 40\)"):
        fitted_checkerboard.explain(0, checkerboard[:, :30], 1)
