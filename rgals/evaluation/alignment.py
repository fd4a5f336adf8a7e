"""Trained factors in the row numbers of a dataset, matched by id."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from rgals.data.dataset import Dataset
from rgals.data.ids import IdDictionary
from rgals.errors import InputError
from rgals.names import BoolArray, Factors, Offsets
from rgals.numerics.sparse import InteractionRows

__all__ = ["AlignedFoldIn", "AlignedModel", "Solve", "align_model"]


Solve: TypeAlias = Callable[[InteractionRows, int], Factors]
"""Gives the factors of new users from their interactions and a number of threads, as `UserSystem.solve` does."""


@dataclass(frozen=True, slots=True)
class AlignedFoldIn:
    """Solves new users from interactions in a dataset's rows; can be sent to another process.

    Parameters
    ----------
    solve : callable
        Solves new users in the model's own item rows.
    model_item_rows : int64 array of shape (n_items,) or None
        The model's row of each item of the dataset, -1 where unknown; None if the rows coincide.
    n_model_items : int
        Items of the model.
    """

    solve: Solve = field(repr=False)
    model_item_rows: Offsets | None
    n_model_items: int

    def __call__(self, rows: InteractionRows, n_threads: int) -> Factors:
        """Give the factors of new users from those of their items that the model holds."""
        if self.model_item_rows is None:
            return self.solve(rows, n_threads)
        columns = self.model_item_rows[rows.columns]
        is_known = columns >= 0
        row_of_entry = np.repeat(np.arange(rows.n_rows), rows.degrees)
        weights = None if rows.weights is None else rows.weights[is_known]
        mapped = InteractionRows.from_pairs(
            row_of_entry[is_known], columns[is_known], weights, rows.n_rows, self.n_model_items
        )
        return self.solve(mapped, n_threads)


@dataclass(frozen=True, slots=True)
class AlignedModel:
    """A factor model that answers in the row numbers of a dataset; a `ScoringModel`.

    Parameters
    ----------
    name : str
        Name in the report.
    train_s : float or None
        Measured seconds of training.
    options : mapping
        How it was trained, as JSON values.
    notes : tuple of str
        Remarks about the alignment.
    item_factors : float32 array of shape (n_items, n_factors)
        In the dataset's rows; zeros for items that the model does not hold.
    is_known_item : bool array of shape (n_items,) or None
        Items that the model holds; None if it holds all.
    model_user_factors : float32 array of shape (n_model_users, n_factors)
        In the model's own rows.
    model_user_rows : int64 array of shape (n_users,) or None
        The model's row of each user of the dataset, -1 where unknown; None if the rows coincide.
    fold_in : AlignedFoldIn
        Solves new users.
    """

    name: str
    train_s: float | None
    options: Mapping[str, Any]
    notes: tuple[str, ...]
    item_factors: Factors
    is_known_item: BoolArray | None
    model_user_factors: Factors
    model_user_rows: Offsets | None
    fold_in: AlignedFoldIn

    def user_factors_of(self, user_rows: Offsets) -> Factors:
        """Give the factors of users by the dataset's rows; zeros where the model does not know them."""
        if self.model_user_rows is None:
            return np.ascontiguousarray(self.model_user_factors[user_rows])
        rows = self.model_user_rows[user_rows]
        factors = np.zeros((rows.size, self.model_user_factors.shape[1]), dtype=np.float32)
        factors[rows >= 0] = self.model_user_factors[rows[rows >= 0]]
        return factors


def align_model(
    dataset: Dataset,
    *,
    name: str,
    user_factors: Factors,
    item_factors: Factors,
    user_ids: IdDictionary,
    item_ids: IdDictionary,
    fingerprint: str | None,
    solve: Solve,
    train_s: float | None,
    options: Mapping[str, Any],
) -> AlignedModel:
    """Put a trained model into the row numbers of a dataset.

    Parameters
    ----------
    dataset : Dataset
        What it will be evaluated on.
    name : str
        Name in the report.
    user_factors, item_factors : float32 arrays of shape (n_rows, n_factors)
        In the rows of the model's own dictionaries.
    user_ids, item_ids : IdDictionary
        The model's ids.
    fingerprint : str or None
        Fingerprint of the dataset that the model was trained on; if it is this dataset's, the rows
        coincide and nothing is looked up.
    solve : callable
        Solves new users against the model's item factors, in its own item rows.
    train_s : float or None
        Measured seconds of training.
    options : mapping
        How it was trained, as JSON values.

    Returns
    -------
    AlignedModel
        Its ``notes`` say how many ids the model does not know. Unknown items count as misses; unknown users
        get what the evaluation gives to users without factors.

    Raises
    ------
    InputError
        If the model and the dataset have no item in common.
    """
    if fingerprint == dataset.fingerprint and (len(user_ids), len(item_ids)) == (dataset.n_users, dataset.n_items):
        fold_in = AlignedFoldIn(solve, None, len(item_ids))
        return AlignedModel(name, train_s, options, (), item_factors, None, user_factors, None, fold_in)
    user_rows = user_ids.rows_of(dataset.user_ids.values)
    item_rows = item_ids.rows_of(dataset.item_ids.values)
    is_known = item_rows >= 0
    if not is_known.any():
        raise InputError(
            f"{name}: none of the dataset's {dataset.n_items} items is among the model's {len(item_ids)}; "
            "evaluate on a dataset with the ids of the training"
        )
    aligned = np.zeros((dataset.n_items, item_factors.shape[1]), dtype=np.float32)
    aligned[is_known] = item_factors[item_rows[is_known]]
    n_unknown_users, n_unknown_items = int((user_rows < 0).sum()), int((~is_known).sum())
    notes = (
        f"trained on another dataset ({(fingerprint or 'unknown')[:12]}) and matched by id: of this one the model does "
        f"not know {n_unknown_users} of {dataset.n_users} users and {n_unknown_items} of {dataset.n_items} items; "
        "such items cannot be found, and the users get what users without factors get",
        "held-out interactions may have been among its training interactions, unless both datasets were split alike",
    )
    return AlignedModel(
        name,
        train_s,
        options,
        notes,
        aligned,
        is_known if n_unknown_items else None,
        user_factors,
        user_rows,
        AlignedFoldIn(solve, item_rows, len(item_ids)),
    )
