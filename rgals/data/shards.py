"""Shards: stored row ranges of the training interactions, and who can hand them out."""

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rgals.names import Side
from rgals.numerics.pairwise import BLOCK_ROWS
from rgals.numerics.sparse import InteractionRows

__all__ = [
    "ROW_COST",
    "InMemoryInteractions",
    "InteractionSource",
    "ShardRange",
    "default_shard_count",
    "plan_shards",
]

_INTERACTIONS_PER_SHARD = 1_000_000
_LEAST_SHARDS = 4
_MOST_SHARDS = 1024

ROW_COST = 10
"""Work of a half-step on a row beside its interactions, counted in interactions; measured, see decision 0009."""


@dataclass(frozen=True, slots=True)
class ShardRange:
    """Rows ``start`` to ``stop`` of one side, and how many interactions they hold."""

    start: int
    stop: int
    n_interactions: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


class InteractionSource(Protocol):
    """Training interactions in shards, by user and by item.

    The ranges of a side are consecutive, cover all rows once, and begin at multiples of
    ``BLOCK_ROWS``, which is what makes sums over rows independent of the number of shards.
    """

    @property
    def n_users(self) -> int:
        """Number of user rows."""
        ...

    @property
    def n_items(self) -> int:
        """Number of item rows."""
        ...

    @property
    def n_interactions(self) -> int:
        """Number of training interactions."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the training interactions and ids, in hexadecimal; the same for any shard count."""
        ...

    def shard_ranges(self, side: Side) -> tuple[ShardRange, ...]:
        """Give the row range of each shard of a side, in row order."""
        ...

    def load_shard(self, side: Side, index: int) -> InteractionRows:
        """Load one shard, rows of ``side`` by columns of the other, verified against its checksum."""
        ...


def default_shard_count(n_interactions: int) -> int:
    """Give the number of shards of a side that nobody chose.

    Parameters
    ----------
    n_interactions : int
        Training interactions.

    Returns
    -------
    int
        One for each million, at least 4, so that a few workers are busy at the same time, and at most
        1024, so that handing out a half-step's tasks stays cheap.
    """
    return min(max(_LEAST_SHARDS, -(-n_interactions // _INTERACTIONS_PER_SHARD)), _MOST_SHARDS)


def plan_shards(degrees: "np.ndarray[tuple[int], np.dtype[np.int64]]", n_shards: int) -> tuple[ShardRange, ...]:
    """Divide the rows into consecutive ranges of about equal work.

    A row counts as `ROW_COST` interactions: it is rotated, summed and stored, however few it has.

    Parameters
    ----------
    degrees : int64 array of shape (n_rows,)
        Interactions of each row.
    n_shards : int
        The wanted number, at least 1.

    Returns
    -------
    tuple of ShardRange
        At most ``n_shards`` non-empty ranges (one, possibly empty, when there are no rows), each
        beginning at a multiple of ``BLOCK_ROWS``.
    """
    n_rows = degrees.size
    block_starts = np.arange(0, max(n_rows, 1), BLOCK_ROWS)
    cumulative = np.concatenate([[0], np.cumsum(degrees, dtype=np.int64)])
    cost_before = cumulative[block_starts] + ROW_COST * block_starts
    total_cost = int(cumulative[-1]) + ROW_COST * n_rows
    targets = total_cost * np.arange(1, min(n_shards, block_starts.size)) / min(n_shards, block_starts.size)
    nearest = np.unique(np.searchsorted(cost_before, targets))
    starts = [0, *(int(block_starts[i]) for i in nearest if 0 < i < block_starts.size)]
    stops = [*starts[1:], n_rows]
    return tuple(
        ShardRange(start, stop, int(cumulative[stop] - cumulative[start]))
        for start, stop in zip(starts, stops, strict=True)
    )


class InMemoryInteractions:
    """An `InteractionSource` over interactions that are in memory already.

    Parameters
    ----------
    user_items : InteractionRows
        Rows of users, columns of items.
    n_shards : int
        Number of shards on each side.
    """

    def __init__(self, user_items: InteractionRows, n_shards: int = 1) -> None:
        self._rows = {"user": user_items, "item": user_items.transpose()}
        self._ranges = {side: plan_shards(rows.degrees, n_shards) for side, rows in self._rows.items()}

    @property
    def n_users(self) -> int:
        """Number of user rows."""
        return self._rows["user"].n_rows

    @property
    def n_items(self) -> int:
        """Number of item rows."""
        return self._rows["item"].n_rows

    @property
    def n_interactions(self) -> int:
        """Number of interactions."""
        return self._rows["user"].n_interactions

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the arrays; the same for any shard count."""
        rows = self._rows["user"]
        digest = hashlib.sha256(repr((rows.n_rows, rows.n_columns)).encode())
        for array in (rows.indptr, rows.columns, rows.weights):
            if array is not None:
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def shard_ranges(self, side: Side) -> tuple[ShardRange, ...]:
        """Give the row range of each shard of a side, in row order."""
        return self._ranges[side]

    def load_shard(self, side: Side, index: int) -> InteractionRows:
        """Give one shard; its arrays are views."""
        shard = self._ranges[side][index]
        return self._rows[side].row_slice(shard.start, shard.stop)
