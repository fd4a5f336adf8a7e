"""The one number by which a model's scores are multiplied so that they suit the softmax loss."""

from collections.abc import Callable

import numpy as np

from rgals.errors import InputError
from rgals.names import Factors, Float64Array, Weights
from rgals.numerics.compile import kernel
from rgals.numerics.reexpansion import log_prior_of
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import one_blas_thread, run_blocks
from rgals.numerics.weighting import row_weight_sums

__all__ = ["best_temperature"]

_BLOCK_USERS = 16
_MOST_STEPS = 60
_BOUNDS = (1e-3, 1e3)
_CLOSE = 1e-4


def best_temperature(
    users: Factors, items: Factors, rows: InteractionRows, prior: Float64Array, *, n_threads: int = 1
) -> float:
    """Find the T > 0 for which the softmax loss of the scores T s is least.

    The loss of a user, ``c log sum_j pi_j exp(T s_j) - T sum_i g_i s_i``, is convex in T: its derivative is
    ``c E[s] - sum g s`` with the mean under the softmax distribution, and the second ``c Var[s]``.

    Parameters
    ----------
    users : float32 array of shape (n_sample, n_factors)
        A sample of users.
    items : float32 array of shape (n_items, n_factors)
        All items.
    rows : InteractionRows of shape (n_sample, n_items)
        Observed entries of the sample; weights are the observed weights g.
    prior : float64 array of shape (n_items,)
        The item prior pi.
    n_threads : int
        Threads; the result does not depend on it.

    Returns
    -------
    float
        Within 1e-3 to 1e3; 1 where scores do not matter, such as those of a model that is all zero.

    Raises
    ------
    InputError
        If a score is not finite.

    Notes
    -----
    Memory for all scores of the sample, in float32. Newton's method, kept in a bracket by bisection.
    """
    with one_blas_thread:
        scores = users @ items.T
    if not np.isfinite(scores).all():
        raise InputError("temperature: expected finite factors, found NaN or infinity; raise reg")
    weights = row_weight_sums(rows)
    log_prior = log_prior_of(prior)
    observed = sum(
        float(rows.weights_of(r).astype(np.float64) @ scores[r, rows.columns_of(r)]) for r in range(rows.n_rows)
    )

    def slopes(temperature: float) -> tuple[float, float]:
        moments = np.empty((rows.n_rows, 2))

        def work(start: int) -> None:
            part = slice(start, start + _BLOCK_USERS)
            _tilted_moments(scores[part], log_prior, temperature, moments[part])

        run_blocks(work, range(0, rows.n_rows, _BLOCK_USERS), n_threads)
        return float(weights @ moments[:, 0]) - observed, float(weights @ moments[:, 1])

    return _root(slopes)


def _root(slopes: Callable[[float], tuple[float, float]]) -> float:
    """Find where an increasing function of T is 0, given its value and its derivative."""
    low, high = _BOUNDS
    temperature = 1.0
    for _ in range(_MOST_STEPS):
        slope, bend = slopes(temperature)
        if slope == 0 and bend == 0:
            return temperature
        low, high = (temperature, high) if slope < 0 else (low, temperature)
        following = temperature - slope / bend if bend > 0 else np.inf
        if not low < following < high:
            following = float(np.sqrt(low * high))
        if abs(following - temperature) <= _CLOSE * temperature:
            return following
        temperature = following
    return temperature


@kernel
def _tilted_moments(scores: Factors, log_prior: Weights, temperature: float, moments: Float64Array) -> None:
    """Write mean and variance of each row's s under probabilities proportional to pi exp(T s)."""
    for r in range(scores.shape[0]):
        row = scores[r]
        largest = -np.inf
        for j in range(row.size):
            lifted = temperature * row[j] + (log_prior[j] if log_prior.size > 0 else 0.0)
            largest = max(largest, lifted)
        mass, first, second = 0.0, 0.0, 0.0
        for j in range(row.size):
            lifted = temperature * row[j] + (log_prior[j] if log_prior.size > 0 else 0.0)
            value = np.exp(lifted - largest)
            mass += value
            first += value * row[j]
            second += value * row[j] * row[j]
        mean = first / mass
        moments[r, 0] = mean
        moments[r, 1] = max(second / mass - mean * mean, 0.0)
