"""The parts of a user's score against the dense definition."""

import numpy as np
import pytest

from rgals.errors import NumericalError
from rgals.numerics.explain import explain_user
from rgals.numerics.fold_in import FoldInArrays, UserSystem
from rgals.numerics.loss import Loss
from rgals.numerics.sparse import InteractionRows

DEGREES = np.array([3, 1, 4, 1, 5], dtype=np.int64)
LOSSES = [
    Loss("rg2", 0.5, 0.1),
    Loss("rgx", 1.5, 0.2, nu=0.5, beta=0.7),
    Loss("ials", 2.0, 0.3, nu=0.0),
    Loss("rg2", 1.0, 0.1, user_exponent=-0.5, item_exponent=0.25),
]


@pytest.fixture
def item_factors():
    return np.random.default_rng(3).normal(size=(5, 3)).astype(np.float32)


def one_row(columns, weights=None):
    return InteractionRows(
        np.array([0, len(columns)], dtype=np.int64),
        np.array(columns, dtype=np.int32),
        None if weights is None else np.array(weights, dtype=np.float32),
        5,
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("row", [one_row([0, 2, 4]), one_row([1, 3], [2.0, 0.5]), one_row([2])])
def test_the_parts_are_those_of_the_training_solution(loss, row, item_factors):
    system = UserSystem.build(item_factors, loss, DEGREES, 1.3)
    explained = explain_user(row, item_factors, loss, system.arrays, DEGREES, 1.3)
    np.testing.assert_allclose(explained.responses.sum(axis=0) + explained.background, system.solve(row)[0], atol=1e-5)
    np.testing.assert_array_equal(explained.items, row.columns)
    for vector in item_factors:
        total = explained.contributions(vector).sum() + explained.background_score(vector)
        assert total == pytest.approx(float(system.solve(row)[0] @ vector), abs=1e-4)


@pytest.mark.parametrize("row", [one_row([1]), one_row([1, 2])])
def test_an_item_that_nobody_had_in_training_has_no_part_under_degree_weights(row, item_factors):
    degrees, loss = np.array([3, 0, 4, 1, 5]), Loss("rg2", 0.5, 0.1, item_exponent=-0.3)
    item_factors[1] = 0
    system = UserSystem.build(item_factors, loss, degrees)
    explained = explain_user(row, item_factors, loss, system.arrays, degrees, 1.0)
    np.testing.assert_allclose(explained.responses.sum(axis=0) + explained.background, system.solve(row)[0], atol=1e-5)
    assert not explained.responses[0].any()


def test_each_part_is_the_response_to_one_interaction_alone(item_factors):
    loss = Loss("rg2", 0.5, 0.1)
    q = item_factors.astype(np.float64)
    system = 2 * q.T @ q / 5 + 0.5 * q[[0, 3]].T @ q[[0, 3]] + 0.1 * (2 + 0.5 * 2) * np.eye(3)
    arrays = UserSystem.build(item_factors, loss, DEGREES).arrays
    explained = explain_user(one_row([0, 3]), item_factors, loss, arrays, DEGREES, 1.0)
    np.testing.assert_allclose(explained.responses, 1.5 * np.linalg.solve(system, q[[0, 3]].T).T, rtol=1e-4)
    np.testing.assert_allclose(explained.background, -2 * np.linalg.solve(system, q.mean(axis=0)), rtol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_row_without_interactions_has_no_parts(loss, item_factors):
    arrays = UserSystem.build(item_factors, loss, DEGREES).arrays
    explained = explain_user(one_row([]), item_factors, loss, arrays, DEGREES, 1.0)
    assert explained.responses.shape == (0, 3)
    assert not explained.background.any()


def test_a_system_without_a_unique_solution_is_named():
    zeros = np.zeros((5, 3), dtype=np.float32)
    arrays = FoldInArrays.build(np.zeros((3, 3)), np.zeros(3))
    with pytest.raises(NumericalError, match=r"explain: .*reg=0.0, 1 interactions\); train with a larger reg"):
        explain_user(one_row([2]), zeros, Loss("rg2", 1.0, 0.0), arrays, DEGREES, 1.0)
