"""What a model consists of once its folder is open."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from rgals.data.ids import IdDictionary
from rgals.data.storage import Folder
from rgals.names import Factors, Float64Array, Offsets, Rows
from rgals.numerics.fold_in import FoldInArrays, UserSystem
from rgals.numerics.loss import Loss
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.vector_kernels import measure_rows

__all__ = ["Id", "ModelContents", "RankingContents", "gather_rows"]

Id: TypeAlias = str | int
"""A user or item id as the caller writes it."""


@dataclass(frozen=True)
class RankingContents:
    """What ranking the items takes besides the users' own rows.

    Parameters
    ----------
    item_factors : float32 array of shape (n_items, n_factors)
        C order, not writable.
    popularity : int64 array of shape (n_items,)
        Training interactions of each item.
    """

    item_factors: Factors
    popularity: Offsets

    @cached_property
    def item_norms(self) -> Float64Array:
        """Length of each item's factors, float64 of shape (n_items,)."""
        return _measure(self.item_factors)

    @cached_property
    def longest_item(self) -> float | None:
        """Length of the longest item's factors; None where one is NaN or infinite. Computed once."""
        longest = float(self.item_norms.max(initial=0.0))
        return longest if math.isfinite(longest) else None

    @cached_property
    def popular_rows(self) -> Rows:
        """Item rows by falling popularity, equals by id; int32 of shape (n_items,)."""
        return np.argsort(-self.popularity, kind="stable").astype(np.int32)


@dataclass(frozen=True)
class ModelContents(RankingContents):
    """The arrays, dictionaries and records of one model; nothing in it is ever modified.

    Parameters
    ----------
    folder : Folder
        Where it was opened.
    user_factors : float32 array of shape (n_users, n_factors)
        C order, not writable.
    user_ids, item_ids : IdDictionary
        Ids in row order.
    seen : InteractionRows
        Training interactions, users by items.
    loss : Loss
        What was minimized.
    weight_scale : float
        Scale of the observed weights, see `Loss`.
    fold_in_arrays : FoldInArrays
        What `UserSystem` needs besides the item factors.
    config, metrics, lineage : mapping of str to JSON values
        How it was trained, how well that went, and from what.
    factor_checksum : str
        SHA-256 over the bytes of the user factors, then of the item factors.
    """

    folder: Folder
    user_factors: Factors
    user_ids: IdDictionary
    item_ids: IdDictionary
    seen: InteractionRows
    loss: Loss
    weight_scale: float
    fold_in_arrays: FoldInArrays
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    lineage: Mapping[str, Any]
    factor_checksum: str

    @property
    def n_users(self) -> int:
        """Number of users."""
        return int(self.user_factors.shape[0])

    @property
    def n_items(self) -> int:
        """Number of items."""
        return int(self.item_factors.shape[0])

    @cached_property
    def user_system(self) -> UserSystem:
        """The frozen half-step that solves new users."""
        return UserSystem.from_arrays(
            self.fold_in_arrays, self.item_factors, self.loss, self.popularity, self.weight_scale
        )

    @cached_property
    def user_norms(self) -> Float64Array:
        """Length of each user's factors, float64 of shape (n_users,)."""
        return _measure(self.user_factors)


def gather_rows(rows: InteractionRows, wanted: Offsets) -> InteractionRows:
    """Copy the named rows in the given order, at a cost that does not grow with the number of all rows.

    Parameters
    ----------
    rows : InteractionRows
        All rows, possibly memory-mapped.
    wanted : int64 array of shape (n_wanted,)
        Row numbers; repeats are allowed.
    """
    starts = rows.indptr[wanted]
    counts = rows.indptr[wanted + 1] - starts
    indptr = np.zeros(wanted.size + 1, dtype=np.int64)
    np.cumsum(counts, out=indptr[1:])
    positions = np.repeat(starts - indptr[:-1], counts) + np.arange(indptr[-1])
    weights = None if rows.weights is None else rows.weights[positions]
    return InteractionRows(indptr, rows.columns[positions], weights, rows.n_columns)


def _measure(factors: Factors) -> Float64Array:
    norms = np.empty(factors.shape[0])
    measure_rows(factors, norms)
    return norms
