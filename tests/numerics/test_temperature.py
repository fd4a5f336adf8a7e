"""The temperature that suits the softmax loss, against a search by scipy."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from rgals.errors import InputError
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.temperature import best_temperature
from tests.numerics.problems import random_interactions


def problem(scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, InteractionRows]:
    rng = np.random.default_rng(seed)
    rows = random_interactions(seed, 40, 25, is_weighted=True)
    users = rng.normal(size=(40, 3))
    items = rng.normal(size=(25, 3))
    # Scores that say something of what was observed.
    users += rows.to_scipy().toarray() @ items / 3
    return (scale * users).astype(np.float32), items.astype(np.float32), rows


@pytest.mark.parametrize("scale", [0.05, 0.7, 6.0])
@pytest.mark.parametrize("is_uniform", [True, False])
def test_no_other_temperature_has_a_lower_loss(scale: float, is_uniform: bool) -> None:
    users, items, rows = problem(scale)
    prior = np.full(25, 1 / 25) if is_uniform else np.random.default_rng(1).dirichlet(np.ones(25))
    scores = users.astype(np.float64) @ items.astype(np.float64).T
    weights = rows.to_scipy().toarray().astype(np.float64)

    def loss(log_temperature: float) -> float:
        lifted = np.exp(log_temperature) * scores
        return float(weights.sum(axis=1) @ logsumexp(lifted + np.log(prior), axis=1) - (weights * lifted).sum())

    best = minimize_scalar(loss, bounds=(np.log(1e-3), np.log(1e3)), method="bounded", options={"xatol": 1e-6})
    found = best_temperature(users, items, rows, prior)
    assert found == pytest.approx(np.exp(best.x), rel=2e-3)
    assert found == best_temperature(users, items, rows, prior, n_threads=3)
    assert found * scale == pytest.approx(best_temperature(*problem(1.0), prior), rel=2e-3)


def test_scores_that_say_nothing_are_left_alone() -> None:
    users, items, rows = problem(1.0)
    assert best_temperature(0 * users, items, rows, np.full(25, 1 / 25)) == 1


def test_scores_that_mislead_are_made_as_small_as_can_be() -> None:
    users, items, rows = problem(1.0)
    assert best_temperature(-users, items, rows, np.full(25, 1 / 25)) == pytest.approx(1e-3, rel=0.01)


def test_scores_that_are_not_finite_are_refused() -> None:
    users, items, rows = problem(1.0)
    users[3, 1] = np.inf
    with pytest.raises(InputError, match="finite"), np.errstate(all="ignore"):
        best_temperature(users, items, rows, np.full(25, 1 / 25))
