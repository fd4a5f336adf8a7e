"""The estimator under rg-softmax: fit, fold-in, explanation, storage, warm start."""

import numpy as np
import pytest

from rgals import RankingALS
from rgals.errors import InputError


@pytest.fixture
def model(graded):
    return RankingALS(n_factors=6, loss="rg-softmax", n_hard=8, random_state=1, n_sweeps=9, start_sweeps=3).fit(
        graded, show_progress=False
    )


def test_the_objective_falls_once_the_start_is_over(model):
    falls = np.diff(model.objectives_[3:])
    assert (falls <= 1e-6 * abs(model.objectives_[-1])).all()
    assert model.fitted_loss_.name == "rg-softmax"


def test_defaults_are_those_of_the_loss():
    config = RankingALS(loss="rg-softmax")._checked_config(0)
    assert (config.reg, config.n_sweeps) == (0.25, 14)
    assert (RankingALS()._checked_config(0).reg, RankingALS()._checked_config(0).n_sweeps) == (0.1, 8)
    assert RankingALS(loss="rg-softmax", reg=0.7)._checked_config(0).reg == 0.7


def test_a_folded_in_user_ranks_as_the_trained_one(model, graded):
    folded = model.recalculate_user(np.arange(graded.shape[0]), graded)
    trained, anew = (factors @ model.item_factors.T for factors in (model.user_factors, folded))
    has_items = np.diff(graded.indptr) > 0
    for user in np.flatnonzero(has_items):
        assert np.corrcoef(trained[user], anew[user])[0, 1] > 0.95


def test_contributions_add_up_to_the_score(model, graded):
    user = int(np.flatnonzero(np.diff(graded.indptr) > 1)[0])
    score, contributions, weights = model.explain(user, graded, 2)
    shares = sum(share for _, share in contributions)
    assert score == pytest.approx(shares + weights.background_score(model.item_factors[2]), abs=1e-9)
    folded = model.recalculate_user(user, graded[user])
    assert score == pytest.approx(float(folded @ model.item_factors[2]), abs=1e-5)


def test_items_cannot_be_solved_alone(model, graded):
    with pytest.raises(InputError, match="rg-softmax"):
        model.recalculate_item(0, graded.T.tocsr()[:1])


def test_a_saved_model_folds_in_as_before(model, graded, tmp_path):
    model.save(tmp_path / "model.npz")
    loaded = RankingALS.load(tmp_path / "model.npz")
    assert loaded.fitted_loss_ == model.fitted_loss_
    np.testing.assert_array_equal(loaded.recalculate_user(3, graded[3]), model.recalculate_user(3, graded[3]))


def test_a_warm_start_goes_on_with_the_softmax(model, graded):
    before = model.objectives_[-1]
    model.set_params(warm_start=True, n_sweeps=2).fit(graded, show_progress=False)
    assert model.objectives_[0] <= before + 1e-3 * abs(before)
