"""Fitted baselines: factors or dense scores, how they fold new users in, and rounds of a fit to look at."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np

from rgals.errors import InputError
from rgals.names import BoolArray, Factors, Offsets
from rgals.numerics.sparse import InteractionRows

__all__ = ["FittedBaseline", "FittedScorer", "ItemScores", "Round", "RoundClock", "Watch"]


@dataclass(frozen=True, slots=True)
class FittedBaseline:
    """A model to compare with, in the row numbers of the dataset that it was fitted on.

    Parameters
    ----------
    name : str
        Name in reports.
    train_s : float
        Measured seconds of fitting, without reading the data and without watches.
    options : mapping
        How it was fitted, as JSON values.
    user_factors : float32 array of shape (n_users, n_factors)
        Zeros for a user whom it cannot rank for.
    item_factors : float32 array of shape (n_items, n_factors)
        Factors of all items.
    solve : callable
        Gives the factors of new users from their interactions and a number of threads.
    notes : tuple of str
        What a reader of its numbers has to know.
    """

    name: str
    train_s: float
    options: Mapping[str, Any]
    user_factors: Factors
    item_factors: Factors
    solve: Callable[[InteractionRows, int], Factors] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def is_known_item(self) -> BoolArray | None:
        """None: every item can be ranked."""
        return None

    def user_factors_of(self, user_rows: Offsets) -> Factors:
        """Give the factors of fitted users, float32 of shape (n_rows, n_factors)."""
        return np.ascontiguousarray(self.user_factors[user_rows])

    def fold_in(self, rows: InteractionRows, n_threads: int) -> Factors:
        """Give the factors of new users from their interactions, float32 of shape (n_rows, n_factors).

        Raises
        ------
        InputError
            If the rows are not over the fitted items.
        """
        _check_items(self.name, rows, self.item_factors.shape[0])
        return self.solve(rows, n_threads)


class ItemScores(Protocol):
    """Scores of all items for blocks of users; can be sent to another process."""

    def of_users(self, user_rows: Offsets, n_threads: int) -> Factors:
        """Give the scores of fitted users, float32 of shape (n_rows, n_items), in a new array."""
        ...

    def of_histories(self, rows: InteractionRows, n_threads: int) -> Factors:
        """Give the scores of new users from their interactions, float32 of shape (n_rows, n_items), in a new array."""
        ...


@dataclass(frozen=True, slots=True)
class FittedScorer:
    """A model without factors to compare with: it gives all items' scores for a block of users.

    Parameters
    ----------
    name : str
        Name in reports.
    train_s : float
        Measured seconds of fitting, without reading the data and without watches.
    options : mapping
        How it was fitted, as JSON values.
    n_items : int
        Number of items that it scores.
    scores : ItemScores
        The fitted scores. They can be pickled, so that workers score too.
    notes : tuple of str
        What a reader of its numbers has to know.
    """

    name: str
    train_s: float
    options: Mapping[str, Any]
    n_items: int
    scores: ItemScores = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def is_known_item(self) -> BoolArray | None:
        """None: every item can be ranked."""
        return None

    def score_users(self, user_rows: Offsets, n_threads: int) -> Factors:
        """Give the scores of all items for fitted users.

        Parameters
        ----------
        user_rows : int64 array of shape (n_rows,)
            Rows of the fitted users.
        n_threads : int
            Number of threads; no score depends on it.

        Returns
        -------
        float32 array of shape (n_rows, n_items)
            A new array, which the caller may write to. A row of zeros: it cannot rank for this user.
        """
        return self.scores.of_users(user_rows, n_threads)

    def score_histories(self, rows: InteractionRows, n_threads: int) -> Factors:
        """Give the scores of all items for new users from their interactions.

        Parameters
        ----------
        rows : InteractionRows of shape (n_rows, n_items)
            Interactions of the new users.
        n_threads : int
            Number of threads; no score depends on it.

        Returns
        -------
        float32 array of shape (n_rows, n_items)
            A new array, which the caller may write to. A row of zeros: it cannot rank for this user.

        Raises
        ------
        InputError
            If the rows are not over the fitted items.
        """
        _check_items(self.name, rows, self.n_items)
        return self.scores.of_histories(rows, n_threads)


@dataclass(frozen=True, slots=True)
class Round:
    """A point of a fit where it may be looked at: an epoch, an iteration, a sweep; a direct solver has one.

    Parameters
    ----------
    number : int
        Counted from 1.
    train_s : float
        Seconds of fitting so far, without those spent in watches.
    loss : float or None
        Training loss, where the method has it at hand.
    model : callable
        Gives the model as it is now. Its arrays may be views of those that the fit goes on writing
        to: they are valid until the watch returns.
    """

    number: int
    train_s: float
    loss: float | None
    model: Callable[[], FittedBaseline | FittedScorer] = field(repr=False)


Watch: TypeAlias = Callable[[Round], bool]
"""Called after each round; False ends the fit there."""


class RoundClock:
    """Tells seconds of fitting, and stands still while a watch looks at a round.

    Parameters
    ----------
    watch : callable or None
        Called by `end_round`; None never ends the fit.
    """

    def __init__(self, watch: Watch | None = None) -> None:
        self._watch = watch
        self._started = time.perf_counter()
        self._watched_s = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the clock was made, without those spent in watches."""
        return time.perf_counter() - self._started - self._watched_s

    def end_round(
        self, number: int, loss: float | None, model_at: Callable[[float], FittedBaseline | FittedScorer]
    ) -> bool:
        """Let the watch look at a round.

        Parameters
        ----------
        number : int
            Number of the round, from 1.
        loss : float or None
            Training loss, where it is at hand.
        model_at : callable
            Gives the model as it is now from the seconds of fitting so far; called only if the watch asks.

        Returns
        -------
        bool
            Whether to go on.
        """
        if self._watch is None:
            return True
        seconds = self.seconds
        entered = time.perf_counter()
        try:
            return bool(self._watch(Round(number, seconds, loss, lambda: model_at(seconds))))
        finally:
            self._watched_s += time.perf_counter() - entered


def _check_items(name: str, rows: InteractionRows, n_items: int) -> None:
    if rows.n_columns != n_items:
        raise InputError(f"{name}: expected rows over {n_items} items, found {rows.n_columns}")
