"""The softmax loss expanded where the model stands, against the dense twin."""

import itertools
from typing import Any

import numpy as np
import pytest

from rgals.names import Float64Array
from rgals.numerics.loss import Loss
from rgals.numerics.pairwise import BLOCK_ROWS, collapse_nodes
from rgals.numerics.reexpansion import Entries, Expansion, expand, log_prior_of
from rgals.numerics.reexpansion_items import item_slopes, join_items, split_by_item
from rgals.numerics.softmax import softmax_loss
from rgals.numerics.sparse import InteractionRows
from tests.numerics.reexpansion_twin import DenseExpansion

N_FACTORS = 5


class Problem:
    """Users, items and observed weights, some users with none or all of the items."""

    def __init__(self, n_users: int = 30, n_items: int = 40, *, scale: float = 1.0, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.vectors = (scale * rng.normal(size=(n_users, N_FACTORS))).astype(np.float32)
        self.items = rng.normal(size=(n_items, N_FACTORS)).astype(np.float32)
        is_observed = rng.random((n_users, n_items)) < 0.15
        is_observed[0], is_observed[1] = False, True
        self.weights = np.where(is_observed, rng.integers(1, 4, (n_users, n_items)), 0).astype(np.float64)
        self.prior = np.full(n_items, 1 / n_items)

    @property
    def rows(self) -> InteractionRows:
        users, items = np.nonzero(self.weights)
        n_users, n_items = self.weights.shape
        found = self.weights[users, items].astype(np.float32)
        return InteractionRows.from_pairs(users, items, found, n_users, n_items)

    @property
    def scores(self) -> Float64Array:
        return self.vectors.astype(np.float64) @ self.items.astype(np.float64).T

    def expand(self, loss: Loss, n_threads: int = 1) -> Expansion:
        return expand(
            self.vectors, self.items, self.rows, log_prior_of(self.prior), loss, first_block=0, n_threads=n_threads
        )

    def twin(self, loss: Loss) -> DenseExpansion:
        return DenseExpansion.at(self.scores, self.weights, self.prior, loss.n_hard, loss.eta, loss.kappa)


def make_loss(n_hard: int = 6, eta: float = 0.25, kappa: float = 1.5, **options: Any) -> Loss:
    return Loss("rg-softmax", alpha=0.0, reg=0.1, n_hard=n_hard, eta=eta, kappa=kappa, **options)


def dense(entries: Entries, shape: tuple[int, int]) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Give mask, curvatures and linears as dense matrices."""
    mask, curvatures, linears = (np.zeros(shape) for _ in range(3))
    rows = entries.rows
    assert rows.weights is not None
    for r in range(rows.n_rows):
        part = slice(rows.indptr[r], rows.indptr[r + 1])
        np.add.at(mask[r], rows.columns[part], 1)
        curvatures[r, rows.columns[part]] = rows.weights[part]
        linears[r, rows.columns[part]] = entries.linears[part]
    return mask, curvatures, linears


def check_against_twin(problem: Problem, loss: Loss) -> None:
    found, twin = problem.expand(loss), problem.twin(loss)
    mask, curvatures, linears = dense(found.entries, problem.weights.shape)
    np.testing.assert_array_equal(mask, twin.is_entry)
    np.testing.assert_allclose(found.backgrounds, twin.backgrounds, rtol=1e-3, atol=1e-5)
    spread = found.backgrounds[:, None] * problem.prior
    scale = twin.curvatures.max()
    np.testing.assert_allclose(curvatures + spread, twin.curvatures, atol=2e-5 * scale)
    weights = np.where(mask > 0, problem.weights, 0)
    np.testing.assert_allclose(linears, curvatures * problem.scores * mask + weights, atol=1e-4 * scale)
    slopes = (twin.slopes + problem.weights) @ problem.items.astype(np.float64)
    np.testing.assert_allclose(found.slopes, slopes, rtol=1e-4, atol=1e-4 * scale)
    partitions = np.exp(problem.scores) @ problem.prior
    has_items = problem.weights.any(axis=1)
    shift = 0 if log_prior_of(problem.prior).size else np.log(problem.prior.size)
    np.testing.assert_allclose(found.log_partitions[has_items] - shift, np.log(partitions)[has_items], atol=1e-5)
    np.testing.assert_allclose(collapse_nodes(found.nodes)[0], twin.losses.sum(), rtol=1e-6)


@pytest.mark.parametrize("n_hard", [0, 1, 6, 39, 40, 1000])
def test_the_expansion_is_that_of_its_definition(n_hard: int) -> None:
    check_against_twin(Problem(), make_loss(n_hard))


@pytest.mark.parametrize("scale", [0.0, 0.1, 3.0])
def test_the_expansion_holds_for_small_and_large_scores(scale: float) -> None:
    check_against_twin(Problem(scale=scale), make_loss())


def test_a_prior_counts_and_may_be_zero() -> None:
    problem = Problem()
    problem.prior = np.arange(40.0)
    problem.prior /= problem.prior.sum()
    problem.weights[:, 0] = 0  # an item that nobody has, of prior 0
    check_against_twin(problem, make_loss())


def test_who_has_all_items_has_no_background_whatever_the_prior() -> None:
    for seed in range(10):
        problem = Problem(scale=3.0, n_items=60, seed=seed)  # user 1 has all items
        problem.prior = np.random.default_rng(seed).dirichlet(np.ones(60))
        assert problem.expand(make_loss()).backgrounds[1] == 0


def test_the_loss_is_the_exact_softmax_loss() -> None:
    problem = Problem(scale=2.0)
    found = float(collapse_nodes(problem.expand(make_loss()).nodes)[0])
    check = softmax_loss(problem.vectors, problem.items, problem.rows, problem.prior)
    assert found / problem.weights.sum() == pytest.approx(check.softmax, rel=1e-6)


def test_at_zero_scores_without_hard_negatives_it_is_rg2() -> None:
    problem = Problem(scale=0.0)
    eta = 0.03
    found = problem.expand(make_loss(n_hard=0, eta=eta))
    mask, curvatures, linears = dense(found.entries, problem.weights.shape)
    totals = problem.weights.sum(axis=1)
    has_others = (problem.weights == 0).any(axis=1)  # who has all items has no background
    np.testing.assert_array_equal(mask, problem.weights > 0)
    np.testing.assert_allclose(found.backgrounds[has_others], totals[has_others], rtol=1e-5)
    mean = problem.items.astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(found.slopes, totals[:, None] * mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(curvatures[has_others], eta * problem.weights[has_others], atol=2e-5)
    np.testing.assert_allclose(linears[has_others], problem.weights[has_others], atol=2e-5)


def test_with_all_items_as_entries_it_is_the_newton_step_of_the_dense_softmax() -> None:
    problem = Problem(scale=0.7)
    loss = make_loss(n_hard=40, eta=0.0, kappa=1.0)
    found = problem.expand(loss)
    _, curvatures, linears = dense(found.entries, problem.weights.shape)
    p = np.exp(problem.scores) / np.exp(problem.scores).sum(axis=1, keepdims=True)
    totals = problem.weights.sum(axis=1, keepdims=True)
    assert not found.backgrounds.any()
    np.testing.assert_allclose(curvatures, totals * p, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(linears - curvatures * problem.scores, problem.weights, atol=2e-4)


@pytest.mark.slow
def test_nothing_depends_on_threads_or_on_where_the_users_are_cut() -> None:
    problem = Problem(n_users=3 * BLOCK_ROWS + 70, n_items=300)
    loss = make_loss(n_hard=20)
    whole = problem.expand(loss, n_threads=1)
    again = problem.expand(loss, n_threads=3)
    np.testing.assert_array_equal(whole.entries.linears, again.entries.linears)
    starts = [0, BLOCK_ROWS, problem.rows.n_rows]
    nodes, linears = [], []
    for start, stop in itertools.pairwise(starts):
        part = expand(
            problem.vectors[start:stop], problem.items, problem.rows.row_slice(start, stop),
            log_prior_of(problem.prior), loss, first_block=start // BLOCK_ROWS, n_threads=2,
        )  # fmt: skip
        nodes += part.nodes
        linears.append(part.entries.linears)
    np.testing.assert_array_equal(whole.entries.linears, np.concatenate(linears))
    np.testing.assert_array_equal(collapse_nodes(whole.nodes), collapse_nodes(nodes))


def test_the_slopes_of_the_items_are_those_of_the_definition_however_they_are_cut() -> None:
    problem = Problem(n_users=90, n_items=BLOCK_ROWS + 60)
    problem.prior = np.random.default_rng(3).dirichlet(np.ones(BLOCK_ROWS + 60))
    found = problem.expand(make_loss())
    new = np.random.default_rng(4).normal(size=problem.vectors.shape).astype(np.float32)
    totals = problem.weights.sum(axis=1)
    users = problem.vectors, new, totals.astype(np.float32), found.log_partitions.astype(np.float32)
    prior = log_prior_of(problem.prior)
    whole = item_slopes(problem.items, *users, prior, n_threads=2)
    twin = problem.twin(make_loss())
    expected = (twin.slopes + problem.weights).T @ new.astype(np.float64)
    np.testing.assert_allclose(whole, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    parts = [
        item_slopes(problem.items[part], *users, prior[part], n_threads=1)
        for part in (slice(0, BLOCK_ROWS), slice(BLOCK_ROWS, None))
    ]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_entries_by_item_are_the_transpose_however_the_users_are_cut() -> None:
    problem = Problem(n_users=BLOCK_ROWS + 90)
    loss = make_loss()
    whole = problem.expand(loss).entries
    n_users = problem.rows.n_rows
    (joined, cut) = (
        join_items([split_by_item(part(whole, a, b), a) for a, b in itertools.pairwise(cuts)], n_users)
        for cuts in ([0, n_users], [0, 100, BLOCK_ROWS, n_users])
    )
    for values in (joined, cut):
        for found, expected in zip(dense(values, (40, n_users)), dense(whole, (n_users, 40)), strict=True):
            np.testing.assert_array_equal(found, expected.T)
    np.testing.assert_array_equal(joined.rows.columns, cut.rows.columns)
    np.testing.assert_array_equal(joined.linears, cut.linears)


def part(entries: Entries, start: int, stop: int) -> Entries:
    rows = entries.rows
    return Entries(rows.row_slice(start, stop), entries.linears[rows.indptr[start] : rows.indptr[stop]])


def test_factors_that_are_not_finite_show_in_the_loss() -> None:
    problem = Problem()
    problem.vectors[3, 2] = np.nan
    assert not np.isfinite(collapse_nodes(problem.expand(make_loss()).nodes)).all()
