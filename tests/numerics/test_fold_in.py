"""Fold-in is the training half-step with everything else frozen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgals.errors import InputError, NumericalError
from rgals.numerics.dense_twin import DenseProblem
from rgals.numerics.fold_in import FoldInArrays, UserSystem, canonical_factors, item_system
from rgals.numerics.loss import Loss
from rgals.numerics.sparse import InteractionRows
from tests.numerics.problems import losses, random_interactions


def random_items(seed: int, n_items: int, n_factors: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((n_items, n_factors)) * 0.5).astype(np.float32)


def scale_of(rows: InteractionRows, loss: Loss) -> float:
    """The scale that training would use for these interactions."""
    weights = rows.to_scipy().toarray()
    problem = DenseProblem.from_interactions(rows, loss)
    user, item = np.argwhere(weights > 0)[0]
    degrees = (weights > 0).sum(axis=1)[user] * 1.0, (weights > 0).sum(axis=0)[item] * 1.0
    raw = weights[user, item] * degrees[0] ** loss.user_exponent * degrees[1] ** loss.item_exponent
    return float(problem.weights[user, item] / raw)


@settings(max_examples=40, deadline=None)
@given(loss=losses(), seed=st.integers(0, 2**16))
def test_folded_in_users_minimize_the_dense_objective(loss: Loss, seed: int) -> None:
    rows, items = random_interactions(seed, 5, 6, is_weighted=True), random_items(seed, 6, 3)
    degrees = rows.transpose().degrees
    system = UserSystem.build(items, loss, degrees, scale_of(rows, loss))
    users = system.solve(rows)
    problem = DenseProblem.from_interactions(rows, loss)
    gradient = problem.gradient(users.astype(np.float64), items.astype(np.float64), 1e-4)[: users.size]
    assert np.abs(gradient).max() < 1e-3 * max(1.0, float(problem.weights.sum()))


@pytest.mark.parametrize("name", ["rg2", "rgx", "ials"])
def test_one_row_alone_is_the_same_row_among_others(name: str) -> None:
    rows, items = random_interactions(1, 6, 8), random_items(1, 8, 4)
    system = UserSystem.build(items, Loss(name, 0.5, 0.1), rows.transpose().degrees)
    together = system.solve(rows, n_threads=2)
    for row in range(6):
        np.testing.assert_allclose(system.solve(rows.row_slice(row, row + 1))[0], together[row], atol=1e-6)


@pytest.mark.parametrize("name", ["rg2", "rgx"])
def test_canonical_factors_keep_scores_and_need_no_rotation(name: str) -> None:
    rows, items, loss = random_interactions(1, 6, 9), random_items(1, 9, 4), Loss(name, 0.5, 0.1)
    degrees = rows.transpose().degrees
    users = UserSystem.build(items, loss, degrees).solve(rows)
    turned_users, turned_items = canonical_factors(users, items, loss, degrees)
    np.testing.assert_allclose(turned_users @ turned_items.T, users @ items.T, atol=1e-5)
    system = UserSystem.build(turned_items, loss, degrees)
    assert system.arrays.is_canonical
    assert canonical_factors(turned_users, turned_items, loss, degrees)[1] is turned_items
    np.testing.assert_allclose(system.solve(rows) @ turned_items.T, users @ items.T, atol=1e-4)


def test_stored_arrays_give_the_same_system() -> None:
    rows, items, loss = random_interactions(1, 6, 9), random_items(1, 9, 4), Loss("rg2", 0.5, 0.1)
    degrees = rows.transpose().degrees
    built = UserSystem.build(items, loss, degrees)
    again = UserSystem.from_arrays(FoldInArrays(**built.to_mapping()), items, loss, degrees)
    np.testing.assert_array_equal(again.solve(rows), built.solve(rows))


@pytest.mark.parametrize("name", ["rg2", "rgx", "ials", "rg-softmax"])
def test_an_item_that_nobody_had_in_training_says_nothing_under_degree_weights(name: str) -> None:
    items = random_items(1, 8, 4)
    items[5] = 0  # what training leaves of an item without interactions
    degrees = np.array([3, 1, 4, 1, 5, 0, 2, 6])
    system = UserSystem.build(items, Loss(name, 0.5, 0.1, item_exponent=-0.3), degrees)
    pairs = [(0, 1), (0, 5), (0, 6), (1, 5), (2, 1), (2, 6)]
    rows = InteractionRows.from_pairs(*(np.array(side) for side in zip(*pairs, strict=True)), None, 3, 8)
    found = system.solve(rows)
    assert np.isfinite(found).all()
    assert not found[1].any()
    np.testing.assert_allclose(found[0], found[2], rtol=1e-3, atol=1e-5)


def test_a_user_without_interactions_gets_zeros() -> None:
    rows = InteractionRows(np.zeros(3, np.int64), np.empty(0, np.int32), None, 5)
    users = UserSystem.build(random_items(0, 5, 3), Loss("rg2", 0.5, 0.1), np.ones(5, np.int64)).solve(rows)
    assert (users == 0).all()


@pytest.mark.parametrize("name", ["rg2", "rgx", "ials"])
def test_items_are_solved_against_frozen_users(name: str) -> None:
    rows, items, loss = random_interactions(3, 7, 6), random_items(3, 6, 3), Loss(name, 0.5, 0.1)
    item_degrees = rows.transpose().degrees
    users = UserSystem.build(items, loss, item_degrees).solve(rows)
    problem = DenseProblem.from_interactions(rows, loss)
    for _ in range(300 if name == "rgx" else 1):
        system, prior = item_system(users, items, loss, problem.user_weights, rows.degrees, item_degrees)
        items = system.solve(rows.transpose(), backgrounds=prior)
    gradient = problem.gradient(users.astype(np.float64), items.astype(np.float64), 1e-4)[users.size :]
    assert np.abs(gradient).max() < 2e-3


def test_bad_rows_are_named() -> None:
    system = UserSystem.build(random_items(0, 5, 3), Loss("rg2", 0.5, 0.1), np.ones(5, np.int64))
    with pytest.raises(InputError, match="rows with 5 columns, found 4"):
        system.solve(InteractionRows(np.array([0, 1]), np.array([1], np.int32), None, 4))
    with pytest.raises(InputError, match="columns from 0 to 4, found 9"):
        system.solve(InteractionRows(np.array([0, 1]), np.array([9], np.int32), None, 5))


def test_a_singular_fold_in_is_a_numerical_error() -> None:
    system = UserSystem.build(np.zeros((5, 3), np.float32), Loss("rg2", 0.5, 0.0), np.ones(5, np.int64))
    with pytest.raises(NumericalError, match="larger reg"):
        system.solve(InteractionRows(np.array([0, 1]), np.array([1], np.int32), None, 5))
