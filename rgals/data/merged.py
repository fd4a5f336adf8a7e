"""Training and validation interactions of a dataset as one source, for a last training with chosen options."""

import hashlib
from functools import cached_property
from typing import Any

import numpy as np

from rgals.data.dataset import Dataset
from rgals.data.shards import ShardRange
from rgals.errors import InputError
from rgals.names import Side
from rgals.numerics.sparse import InteractionRows

__all__ = ["TrainAndValidation"]


class TrainAndValidation:
    """What a dataset holds of its training and its validation part; an `InteractionSource`.

    Shards are those of the training part with the validation interactions of their rows added. A pair
    that both parts hold keeps its weight of the training part.

    Parameters
    ----------
    dataset : Dataset
        With a validation part whose users take part in the training.

    Raises
    ------
    InputError
        If it has no such part, or keeps whole users back for it.
    """

    def __init__(self, dataset: Dataset) -> None:
        if not dataset.has_part("validation"):
            raise InputError(f"{dataset!r}: expected a validation part to train on as well, found none; train without")
        if dataset.has_part("validation_fold_in"):
            raise InputError(
                f"{dataset!r}: its validation part is of users that no training sees; train on the training part"
            )
        self._dataset = dataset

    def __reduce__(self) -> tuple[Any, ...]:
        return TrainAndValidation, (self._dataset,)

    @property
    def n_users(self) -> int:
        """Number of user rows."""
        return self._dataset.n_users

    @property
    def n_items(self) -> int:
        """Number of item rows."""
        return self._dataset.n_items

    @property
    def n_interactions(self) -> int:
        """Number of interactions of both parts."""
        return sum(shard.n_interactions for shard in self.shard_ranges("user"))

    @property
    def fingerprint(self) -> str:
        """SHA-256 that differs from the dataset's own, so that checkpoints of the two are told apart."""
        return hashlib.sha256(f"{self._dataset.fingerprint}+validation".encode()).hexdigest()

    @cached_property
    def _added(self) -> dict[Side, InteractionRows]:
        by_user = self._dataset.read_part("validation")
        return {"user": by_user, "item": by_user.transpose()}

    @cached_property
    def _ranges(self) -> dict[Side, tuple[ShardRange, ...]]:
        found: dict[Side, tuple[ShardRange, ...]] = {}
        for side, added in self._added.items():
            found[side] = tuple(
                ShardRange(
                    shard.start,
                    shard.stop,
                    shard.n_interactions + int(added.indptr[shard.stop] - added.indptr[shard.start]),
                )
                for shard in self._dataset.shard_ranges(side)
            )
        return found

    def shard_ranges(self, side: Side) -> tuple[ShardRange, ...]:
        """Give the row range of each shard of a side, in row order."""
        return self._ranges[side]

    def load_shard(self, side: Side, index: int) -> InteractionRows:
        """Read one shard of the training part and add the validation interactions of its rows."""
        shard = self._dataset.shard_ranges(side)[index]
        return _unite(self._dataset.load_shard(side, index), self._added[side].row_slice(shard.start, shard.stop))

    def read_all(self) -> InteractionRows:
        """Give both parts whole, all users by all items."""
        return _unite(self._dataset.read_part("train"), self._added["user"])


def _unite(first: InteractionRows, second: InteractionRows) -> InteractionRows:
    """Give the pairs of both; where both hold a pair, with the weight of the first."""
    rows = np.concatenate([np.repeat(np.arange(part.n_rows), part.degrees) for part in (first, second)])
    columns = np.concatenate([first.columns, second.columns])
    weights = None
    if first.weights is not None or second.weights is not None:
        ones = [
            np.ones(part.n_interactions, dtype=np.float32) if part.weights is None else part.weights
            for part in (first, second)
        ]
        weights = np.concatenate(ones)
    _, kept = np.unique(rows * np.int64(first.n_columns) + columns, return_index=True)
    return InteractionRows.from_pairs(
        rows[kept], columns[kept], None if weights is None else weights[kept], first.n_rows, first.n_columns
    )
