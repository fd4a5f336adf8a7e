"""Baselines without learning: the most popular items, and chance."""

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from rgals.baselines.model import FittedBaseline, RoundClock, Watch
from rgals.names import Factors
from rgals.numerics.sparse import InteractionRows

__all__ = ["PopularityOptions", "RandomOptions", "fit_popularity", "fit_random"]

_RANDOM_FACTORS = 16


class PopularityOptions(BaseModel):
    """Options of the popularity ranking: none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RandomOptions(BaseModel):
    """Options of the random ranking."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Key of the draws."""


def fit_popularity(
    train: InteractionRows,
    options: PopularityOptions | None = None,  # noqa: ARG001
    *,
    n_threads: int | None = None,  # noqa: ARG001
    watch: Watch | None = None,
) -> FittedBaseline:
    """Rank the items by their number of training interactions, the same for every user.

    Parameters
    ----------
    train : InteractionRows of shape (n_users, n_items)
        Training interactions; their weights play no part.
    options : PopularityOptions or None
        There are none.
    n_threads : int or None
        Plays no part.
    watch : callable or None
        Called once, when all is done.

    Returns
    -------
    FittedBaseline
        One factor: 1 for each user, the degree for each item; equals rank by item row. Users without
        any interactions are ranked for as well.
    """
    clock = RoundClock(watch)
    degrees = np.bincount(train.columns, minlength=train.n_columns)
    # float32 counts exactly up to 2^24; the rank among the different degrees orders them beyond that too.
    _, ranks = np.unique(degrees, return_inverse=True)
    item_factors = ranks.astype(np.float32)[:, None]
    user_factors = np.ones((train.n_rows, 1), dtype=np.float32)
    seconds = clock.seconds

    def model_at(train_s: float) -> FittedBaseline:
        return FittedBaseline("popularity", train_s, {}, user_factors, item_factors, _solve_ones)

    clock.end_round(1, None, model_at)
    return model_at(seconds)


def fit_random(
    train: InteractionRows,
    options: RandomOptions | None = None,
    *,
    seed: int | None = None,
    n_threads: int | None = None,  # noqa: ARG001
    watch: Watch | None = None,
) -> FittedBaseline:
    """Rank the items by chance, differently for each user: what a metric is worth by itself.

    Parameters
    ----------
    train : InteractionRows of shape (n_users, n_items)
        Training interactions; only their shape is used.
    options : RandomOptions or None
        None takes the defaults.
    seed : int or None
        Takes the place of the options' seed; None leaves it.
    n_threads : int or None
        Plays no part.
    watch : callable or None
        Called once, when all is done.

    Returns
    -------
    FittedBaseline
        Products of random factors. New users get the sum of random vectors of their items, so that
        their lists do not depend on who is asked for together.
    """
    chosen = options or RandomOptions()
    chosen = chosen if seed is None else RandomOptions(seed=seed)
    clock = RoundClock(watch)
    users, items, histories = (np.random.default_rng([chosen.seed, stream]) for stream in range(3))
    user_factors = users.standard_normal((train.n_rows, _RANDOM_FACTORS), dtype=np.float32)
    item_factors = items.standard_normal((train.n_columns, _RANDOM_FACTORS), dtype=np.float32)
    vectors = histories.standard_normal((train.n_columns, _RANDOM_FACTORS), dtype=np.float32)

    def solve(rows: InteractionRows, n_threads: int) -> Factors:  # noqa: ARG001
        unweighted = InteractionRows(rows.indptr, rows.columns, None, rows.n_columns)
        return np.asarray(unweighted.to_scipy() @ vectors, dtype=np.float32)

    seconds = clock.seconds

    def model_at(train_s: float) -> FittedBaseline:
        return FittedBaseline("random", train_s, chosen.model_dump(), user_factors, item_factors, solve)

    clock.end_round(1, None, model_at)
    return model_at(seconds)


def _solve_ones(rows: InteractionRows, n_threads: int) -> Factors:  # noqa: ARG001
    return np.ones((rows.n_rows, 1), dtype=np.float32)
