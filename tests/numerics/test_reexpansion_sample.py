"""The softmax loss expanded from a sample of the items, and the slopes of the items from a sample of the users."""

import itertools

import numpy as np
import pytest

from rgals.names import Float64Array
from rgals.numerics.loss import Loss
from rgals.numerics.pairwise import BLOCK_ROWS, collapse_nodes
from rgals.numerics.reexpansion import Expansion, expand, log_prior_of
from rgals.numerics.reexpansion_items import item_slopes, join_items, sampled_item_slopes, split_by_item
from rgals.numerics.row_sample import RowSample, draw_rows
from tests.numerics.test_reexpansion import Problem, dense, make_loss


def expand_sampled(problem: Problem, loss: Loss, sample: RowSample, n_threads: int = 1) -> Expansion:
    return expand(
        problem.vectors, problem.items, problem.rows, log_prior_of(problem.prior), loss,
        first_block=0, n_threads=n_threads, sample=sample,
    )  # fmt: skip


def draw(problem: Problem, fraction: float, key: int = 0) -> RowSample:
    return draw_rows(problem.weights.sum(axis=0), fraction, (key,))


def weights_of(sample: RowSample, is_exact: Float64Array) -> Float64Array:
    """Give the weight of each pair in an estimated sum: 1 where it is exact, w in the sample, 0 elsewhere."""
    weights = np.zeros(sample.n_all)
    weights[sample.rows] = np.exp(sample.log_weights.astype(np.float64))
    return np.where(is_exact, 1.0, weights)


@pytest.mark.parametrize("n_hard", [0, 6, 1000])
@pytest.mark.parametrize("has_prior", [False, True])
def test_a_sample_of_all_items_gives_the_exact_expansion(n_hard: int, has_prior: bool) -> None:
    problem = Problem(scale=2.0)
    if has_prior:
        problem.prior = np.random.default_rng(3).dirichlet(np.ones(40))
    loss = make_loss(n_hard)
    exact, found = problem.expand(loss), expand_sampled(problem, loss, draw(problem, 1.0))
    np.testing.assert_array_equal(exact.entries.rows.columns, found.entries.rows.columns)
    for name in ("slopes", "losses", "log_partitions"):
        np.testing.assert_allclose(getattr(found, name), getattr(exact, name), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.backgrounds, exact.backgrounds, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.entries.linears, exact.entries.linears, rtol=1e-3, atol=1e-3)
    assert not found.errors.any()
    assert not exact.errors.any()


@pytest.mark.parametrize("scale", [0.3, 3.0])
@pytest.mark.parametrize("n_hard", [0, 3, 1000])
@pytest.mark.parametrize("has_prior", [False, True])
def test_a_sampled_expansion_is_that_of_its_definition(scale: float, n_hard: int, has_prior: bool) -> None:
    problem = Problem(scale=scale, n_items=60)
    if has_prior:
        problem.prior = np.random.default_rng(3).dirichlet(np.ones(60))
    loss, sample = make_loss(n_hard), draw(problem, 0.4)
    found = expand_sampled(problem, loss, sample)
    is_observed = problem.weights > 0
    has_items = is_observed.any(axis=1)
    totals = problem.weights.sum(axis=1)
    raw = problem.prior * np.exp(problem.scores)
    weights = weights_of(sample, is_observed)
    partitions = (weights * raw).sum(axis=1)
    shift = 0 if has_prior else np.log(60)
    np.testing.assert_allclose(found.log_partitions[has_items] - shift, np.log(partitions[has_items]), atol=1e-4)
    losses = totals * np.log(partitions) - (problem.weights * problem.scores).sum(axis=1)
    np.testing.assert_allclose(found.losses, losses * has_items, rtol=1e-4, atol=1e-3)
    p = raw / partitions[:, None]
    slopes = (totals[:, None] * weights * p) @ problem.items.astype(np.float64)
    np.testing.assert_allclose(found.slopes, slopes, rtol=1e-3, atol=1e-3 * np.abs(slopes).max())
    variances = np.where(is_observed, 0, weights * np.maximum(weights - 1, 0) * p**2).sum(axis=1)
    np.testing.assert_allclose(found.errors, totals * np.sqrt(variances), rtol=1e-3, atol=1e-5 * totals.max())
    sums = collapse_nodes(found.nodes)
    np.testing.assert_allclose(sums, [found.losses.sum(), found.errors.sum()], rtol=1e-9)
    # Entries: the observed items, and the best of the others in the sample, with their own probability.
    mask, curvatures, _ = dense(found.entries, problem.weights.shape)
    in_sample = np.isin(np.arange(60), sample.rows)
    expected = is_observed.copy()
    for u in np.flatnonzero(has_items):
        others = np.flatnonzero(in_sample & ~is_observed[u])
        expected[u, others[np.argsort(-p[u, others], kind="stable")][:n_hard]] = True
    np.testing.assert_array_equal(mask > 0, expected)
    own = np.where(is_observed, totals[:, None] * p + loss.eta * problem.weights, loss.kappa * totals[:, None] * p)
    rest, space = 1 - (p * expected).sum(axis=1), 1 - (problem.prior * expected).sum(axis=1)
    backgrounds = np.divide(totals * np.maximum(rest, 0), space, out=np.zeros_like(rest), where=space > 1e-9)
    np.testing.assert_allclose(found.backgrounds, backgrounds, rtol=1e-3, atol=1e-3)
    spread = found.backgrounds[:, None] * problem.prior
    own = np.maximum(own, spread)  # no entry has a negative curvature
    np.testing.assert_allclose((curvatures + spread)[expected], own[expected], rtol=1e-3, atol=1e-4 * own.max())


@pytest.mark.slow
def test_the_stated_error_is_that_of_the_estimates() -> None:
    problem = Problem(n_users=8, n_items=300, scale=0.5)
    loss = make_loss(0)
    exact = problem.expand(loss).losses
    found = [expand_sampled(problem, loss, draw(problem, 0.3, key)) for key in range(300)]
    deviations = np.array([one.losses - exact for one in found])[:, 2:]
    stated = np.sqrt(np.mean([one.errors**2 for one in found], axis=0))[2:]
    real = np.sqrt((deviations**2).mean(axis=0))
    assert (real < 1.15 * stated).all()
    assert (real > 0.3 * stated).all()


def test_a_user_with_all_items_and_one_with_none_need_no_sample() -> None:
    problem = Problem()  # user 0 has none, user 1 all
    found, exact = expand_sampled(problem, make_loss(), draw(problem, 0.2)), problem.expand(make_loss())
    for name in ("losses", "errors", "log_partitions"):
        np.testing.assert_allclose(getattr(found, name)[:2], getattr(exact, name)[:2], rtol=1e-5)
    assert found.entries.rows.degrees[:2].tolist() == [0, 40]


@pytest.mark.slow
def test_nothing_depends_on_threads_or_on_where_the_users_are_cut() -> None:
    problem = Problem(n_users=2 * BLOCK_ROWS + 70, n_items=300)
    loss, sample = make_loss(n_hard=20), draw(problem, 0.4)
    whole, again = (expand_sampled(problem, loss, sample, n_threads) for n_threads in (1, 3))
    np.testing.assert_array_equal(whole.entries.linears, again.entries.linears)
    linears = []
    for start, stop in itertools.pairwise([0, BLOCK_ROWS, problem.rows.n_rows]):
        part = expand(
            problem.vectors[start:stop], problem.items, problem.rows.row_slice(start, stop),
            log_prior_of(problem.prior), loss, first_block=start // BLOCK_ROWS, n_threads=2, sample=sample,
        )  # fmt: skip
        linears.append(part.entries.linears)
    np.testing.assert_array_equal(whole.entries.linears, np.concatenate(linears))


@pytest.mark.parametrize("has_prior", [False, True])
def test_sampled_slopes_of_the_items_are_those_of_the_definition_however_they_are_cut(has_prior: bool) -> None:
    problem = Problem(n_users=90, n_items=BLOCK_ROWS + 60)
    if has_prior:
        problem.prior = np.random.default_rng(3).dirichlet(np.ones(BLOCK_ROWS + 60))
    found = problem.expand(make_loss())
    new = np.random.default_rng(4).normal(size=problem.vectors.shape).astype(np.float32)
    totals = problem.weights.sum(axis=1)
    users = problem.vectors, new, totals.astype(np.float32), found.log_partitions.astype(np.float32)
    prior, n_users = log_prior_of(problem.prior), problem.rows.n_rows
    entries = join_items([split_by_item(found.entries, 0)], n_users).rows
    sample = draw_rows(totals, 0.3, (1,))
    whole = sampled_item_slopes(problem.items, *users, prior, entries, sample, n_threads=2)
    is_entry = dense(found.entries, problem.weights.shape)[0] > 0
    weights = weights_of(sample, is_entry.T).T
    p = problem.prior * np.exp(problem.scores)
    p /= p.sum(axis=1, keepdims=True)
    expected = (weights * totals[:, None] * p).T @ new.astype(np.float64)
    np.testing.assert_allclose(whole, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    parts = [
        sampled_item_slopes(
            problem.items[part], *users, prior[part], entries.row_slice(part.start, part.stop), sample, n_threads=1
        )
        for part in (slice(0, BLOCK_ROWS), slice(BLOCK_ROWS, BLOCK_ROWS + 60))
    ]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    all_users = draw_rows(totals, 1.0, (0,))
    np.testing.assert_allclose(
        sampled_item_slopes(problem.items, *users, prior, entries, all_users, n_threads=1),
        item_slopes(problem.items, *users, prior, n_threads=1),
        rtol=1e-3, atol=1e-4 * np.abs(expected).max(),
    )  # fmt: skip
