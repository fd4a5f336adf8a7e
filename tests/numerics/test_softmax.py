"""The exact softmax loss against a dense twin in float64, and how the expansions touch it at zero."""

import numpy as np
import pytest
from scipy.special import logsumexp

from rgals.errors import InputError, NumericalError
from rgals.numerics import softmax as softmax_module
from rgals.numerics.softmax import SoftmaxCheck, softmax_loss
from rgals.numerics.sparse import InteractionRows


def random_problem(n_users=7, n_items=23, n_factors=4, *, is_weighted=True, scale=1.0, seed=0):
    generator = np.random.default_rng(seed)
    user_factors = (scale * generator.normal(size=(n_users, n_factors))).astype(np.float32)
    item_factors = generator.normal(size=(n_items, n_factors)).astype(np.float32)
    observed = generator.random((n_users, n_items)) < 0.3
    observed[0] = False  # a user without interactions
    weights = np.where(observed, generator.uniform(0.5, 3, observed.shape), 0).astype(np.float32)
    user_rows, item_rows = np.nonzero(observed)
    rows = InteractionRows.from_pairs(
        user_rows, item_rows, weights[user_rows, item_rows] if is_weighted else None, n_users, n_items
    )
    prior = generator.dirichlet(np.ones(n_items))
    return user_factors, item_factors, rows, prior


def dense_twin(user_factors, item_factors, rows, prior):
    """From the definition: the whole score matrix, scipy's logsumexp."""
    scores = user_factors.astype(np.float64) @ item_factors.astype(np.float64).T
    g = rows.to_scipy().toarray().astype(np.float64)
    c = g.sum(axis=1)
    mu = scores @ prior
    square = scores**2 @ prior
    observed = -(g * scores).sum()
    return SoftmaxCheck(
        softmax=(observed + c @ logsumexp(scores, axis=1, b=prior)) / g.sum(),
        rg2_surrogate=(observed + c @ (mu + square / 2)) / g.sum(),
        rgx_surrogate=(observed + c @ (mu + (square - mu**2) / 2)) / g.sum(),
        outside_fraction=float((np.abs(scores) > 1).mean()),
        n_users=int((c > 0).sum()),
    )


def values(check):
    return [check.softmax, check.rg2_surrogate, check.rgx_surrogate, check.outside_fraction, check.n_users]


@pytest.mark.parametrize("is_weighted", [True, False])
@pytest.mark.parametrize("tile_items", [5, 4096])
def test_agrees_with_the_dense_twin_for_any_tile_size(monkeypatch, is_weighted, tile_items):
    monkeypatch.setattr(softmax_module, "_TILE_ITEMS", tile_items)
    monkeypatch.setattr(softmax_module, "_BLOCK_USERS", 3)
    problem = random_problem(is_weighted=is_weighted)
    np.testing.assert_allclose(values(softmax_loss(*problem)), values(dense_twin(*problem)), rtol=1e-12)


def test_all_losses_are_zero_at_zero_scores():
    _, item_factors, rows, prior = random_problem()
    check = softmax_loss(np.zeros((7, 4), np.float32), item_factors, rows, prior)
    np.testing.assert_allclose(values(check)[:4], 0, atol=1e-12)


def test_one_user_and_two_items_give_the_value_written_by_hand():
    rows = InteractionRows.from_pairs(np.array([0]), np.array([1]), None, 1, 2)
    check = softmax_loss(np.array([[2.0]], np.float32), np.array([[0.0], [1.0]], np.float32), rows, np.full(2, 0.5))
    assert check.softmax == pytest.approx(-2 + np.log((1 + np.exp(2)) / 2))
    assert check.rg2_surrogate == pytest.approx(-2 + 1 + 4 / 2 / 2)
    assert check.rgx_surrogate == pytest.approx(-2 + 1 + (4 / 2 - 1) / 2)
    assert check.outside_fraction == 0.5


def test_gap_between_softmax_and_rgx_vanishes_to_third_order_but_to_rg2_only_to_second():
    _, item_factors, rows, prior = random_problem(seed=3)
    user_factors = np.random.default_rng(1).normal(size=(7, 4))
    steps = np.array([2.0**-k for k in range(4, 11)])
    gaps = {"rgx_surrogate": [], "rg2_surrogate": []}
    for step in steps:
        check = softmax_loss(step * user_factors, item_factors, rows, prior)
        for name, found in gaps.items():
            found.append(abs(getattr(check, name) - check.softmax))
    orders = {name: np.diff(np.log(found)) / np.diff(np.log(steps)) for name, found in gaps.items()}
    assert orders["rgx_surrogate"][-1] == pytest.approx(3, abs=0.05)
    assert orders["rg2_surrogate"][-1] == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_rg2_is_never_below_rgx(seed):
    check = softmax_loss(*random_problem(seed=seed))
    assert check.rg2_surrogate > check.rgx_surrogate


def test_scores_in_the_thousands_do_not_overflow():
    user_factors, item_factors, rows, prior = random_problem(scale=5000.0)
    problem = (user_factors, item_factors, rows, prior)
    np.testing.assert_allclose(values(softmax_loss(*problem)), values(dense_twin(*problem)), rtol=1e-10)


def test_items_of_prior_zero_are_no_competitors_even_with_the_highest_scores(monkeypatch):
    monkeypatch.setattr(softmax_module, "_TILE_ITEMS", 4)
    user_factors, item_factors, rows, _ = random_problem()
    prior = np.zeros(23)
    prior[9:13] = 0.25  # most tiles hold prior 0 only
    item_factors[:4] *= 1000
    problem = (user_factors, item_factors, rows, prior)
    np.testing.assert_allclose(values(softmax_loss(*problem)), values(dense_twin(*problem)), rtol=1e-10)


def test_tiles_of_prior_zero_leave_very_low_scores_as_they_are(monkeypatch):
    monkeypatch.setattr(softmax_module, "_TILE_ITEMS", 4)
    user_factors, item_factors, rows, _ = random_problem()
    prior = np.zeros(23)
    prior[8:12] = 0.25
    user_factors[:] = 1
    item_factors[8:12] = -np.arange(1000, 1004, dtype=np.float32)[:, None]  # exp(-4000) is 0 in float64
    problem = (user_factors, item_factors, rows, prior)
    np.testing.assert_allclose(values(softmax_loss(*problem)), values(dense_twin(*problem)), rtol=1e-10)


def test_two_threads_give_the_same_bits_as_one(monkeypatch):
    monkeypatch.setattr(softmax_module, "_TILE_ITEMS", 8)
    monkeypatch.setattr(softmax_module, "_BLOCK_USERS", 2)
    problem = random_problem()
    assert softmax_loss(*problem, n_threads=1) == softmax_loss(*problem, n_threads=2)


def test_a_sample_without_interactions_is_nan_and_counts_no_users():
    user_factors, item_factors, _, prior = random_problem()
    empty = InteractionRows(np.zeros(8, np.int64), np.zeros(0, np.int32), None, 23)
    check = softmax_loss(user_factors, item_factors, empty, prior)
    assert np.isnan(values(check)[:3]).all()
    assert 0 < check.outside_fraction < 1
    assert check.n_users == 0


def test_an_empty_sample_is_nan_throughout():
    _, item_factors, _, prior = random_problem()
    empty = InteractionRows(np.zeros(1, np.int64), np.zeros(0, np.int32), None, 23)
    check = softmax_loss(np.zeros((0, 4), np.float32), item_factors, empty, prior)
    assert np.isnan(values(check)[:4]).all()


def test_arguments_are_not_modified():
    problem = random_problem()
    for array in (problem[0], problem[1], problem[3]):
        array.flags.writeable = False
    softmax_loss(*problem)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: (p[0][:, :3], *p[1:]), "equally many columns"),
        (lambda p: (p[0][:6], *p[1:]), r"shape \(6, 23\), found \(7, 23\)"),
        (lambda p: (*p[:3], p[3][:5]), "prior of shape"),
        (lambda p: (*p[:3], p[3] * 2), "sum to 1"),
        (lambda p: (*p[:3], np.r_[-1.0, 2.0, np.zeros(21)]), "at least 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        softmax_loss(*change(random_problem()))


def test_factors_that_are_not_finite_raise_with_the_way_out():
    user_factors, item_factors, rows, prior = random_problem()
    item_factors[2, 1] = np.nan
    with pytest.raises(NumericalError, match="raise reg"):
        softmax_loss(user_factors, item_factors, rows, prior)
