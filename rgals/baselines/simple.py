"""Baselines without learning: the most popular items, and chance."""

import time

import numpy as np

from rgals.baselines.model import FittedBaseline
from rgals.names import Factors
from rgals.numerics.sparse import InteractionRows

__all__ = ["fit_popularity", "fit_random"]

_RANDOM_FACTORS = 16


def fit_popularity(train: InteractionRows) -> FittedBaseline:
    """Rank the items by their number of training interactions, the same for every user.

    Parameters
    ----------
    train : InteractionRows of shape (n_users, n_items)
        Training interactions; their weights play no part.

    Returns
    -------
    FittedBaseline
        One factor: 1 for each user, the degree for each item; equals rank by item row. Users without
        any interactions are ranked for as well.
    """
    started = time.perf_counter()
    degrees = np.bincount(train.columns, minlength=train.n_columns)
    # float32 counts exactly up to 2^24; the rank among the different degrees orders them beyond that too.
    _, ranks = np.unique(degrees, return_inverse=True)
    item_factors = ranks.astype(np.float32)[:, None]
    user_factors = np.ones((train.n_rows, 1), dtype=np.float32)
    seconds = time.perf_counter() - started
    return FittedBaseline("popularity", seconds, {}, user_factors, item_factors, _solve_ones)


def fit_random(train: InteractionRows, *, seed: int = 0) -> FittedBaseline:
    """Rank the items by chance, differently for each user: what a metric is worth by itself.

    Parameters
    ----------
    train : InteractionRows of shape (n_users, n_items)
        Training interactions; only their shape is used.
    seed : int
        Key of the draws.

    Returns
    -------
    FittedBaseline
        Products of random factors. New users get the sum of random vectors of their items, so that
        their lists do not depend on who is asked for together.
    """
    started = time.perf_counter()
    users, items, histories = (np.random.default_rng([seed, stream]) for stream in range(3))
    user_factors = users.standard_normal((train.n_rows, _RANDOM_FACTORS), dtype=np.float32)
    item_factors = items.standard_normal((train.n_columns, _RANDOM_FACTORS), dtype=np.float32)
    vectors = histories.standard_normal((train.n_columns, _RANDOM_FACTORS), dtype=np.float32)

    def solve(rows: InteractionRows, n_threads: int) -> Factors:  # noqa: ARG001
        unweighted = InteractionRows(rows.indptr, rows.columns, None, rows.n_columns)
        return np.asarray(unweighted.to_scipy() @ vectors, dtype=np.float32)

    seconds = time.perf_counter() - started
    return FittedBaseline("random", seconds, {"seed": seed}, user_factors, item_factors, solve)


def _solve_ones(rows: InteractionRows, n_threads: int) -> Factors:  # noqa: ARG001
    return np.ones((rows.n_rows, 1), dtype=np.float32)
