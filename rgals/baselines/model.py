"""A fitted baseline: factors, and how it folds new users in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rgals.errors import InputError
from rgals.names import BoolArray, Factors, Offsets
from rgals.numerics.sparse import InteractionRows

__all__ = ["FittedBaseline"]


@dataclass(frozen=True, slots=True)
class FittedBaseline:
    """A model to compare with, in the row numbers of the dataset that it was fitted on.

    Parameters
    ----------
    name : str
        Name in reports.
    train_s : float
        Measured seconds of fitting, without reading the data.
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
        n_items = self.item_factors.shape[0]
        if rows.n_columns != n_items:
            raise InputError(f"{self.name}: expected rows over {n_items} items, found {rows.n_columns}")
        return self.solve(rows, n_threads)
