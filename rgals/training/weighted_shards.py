"""Shards with their observed weights g, and the per-row terms of both sides."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rgals.data.shards import InteractionSource
from rgals.execution import Executor, WorkerContext
from rgals.names import Float64Array, Offsets, Side, other_side
from rgals.numerics.loss import Loss
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.weighting import row_weight_sums, weigh_entries

__all__ = ["SideTerms", "WeightedShards"]


@dataclass(frozen=True, slots=True)
class SideTerms:
    """What the objective needs to know of each row of a side.

    Parameters
    ----------
    backgrounds : float64 array of shape (n_rows,)
        Background weight: w_u of a user, pi_i of an item.
    ridges : float64 array of shape (n_rows,)
        Ridge.
    """

    backgrounds: Float64Array
    ridges: Float64Array


class WeightedShards:
    """The shards of a source, with observed weights in place of stored ones; made by `prepare`.

    A loaded shard is kept, in the process that loaded it.
    """

    def __init__(self, source: InteractionSource, loss: Loss) -> None:
        self.source = source
        self._loss = loss
        self._degrees: dict[Side, Offsets] = {}
        self._factors: dict[Side, Float64Array] | None = None
        self._sums: dict[Side, Float64Array] = {}
        self._loaded: dict[tuple[Side, int], InteractionRows] = {}
        self.weight_scale = 1.0

    @classmethod
    def prepare(cls, source: InteractionSource, loss: Loss, executor: Executor) -> "WeightedShards":
        """Count degrees and sum weights over all shards.

        Parameters
        ----------
        source : InteractionSource
            The interactions.
        loss : Loss
            Whose exponents the weights follow.
        executor : Executor
            Who reads the shards.
        """
        shards = cls(source, loss)
        sides: tuple[Side, Side] = ("user", "item")
        stored: dict[Side, Float64Array] = {}
        for side in sides:
            shards._degrees[side], stored[side] = shards._summarize(side, executor)
        shards._sums = stored
        if loss.has_degree_weights:
            factors = {side: loss.degree_factors(side, shards._degrees[side]) for side in sides}
            shards._factors = factors
            shards._loaded.clear()
            _, raw = shards._summarize("user", executor)
            shards.weight_scale = float(stored["user"].sum() / raw.sum())
            shards._factors = {"user": factors["user"] * shards.weight_scale, "item": factors["item"]}
            shards._loaded.clear()
            for side in sides:
                _, shards._sums[side] = shards._summarize(side, executor)
        return shards

    @property
    def constant(self) -> float:
        """The part of the objective that does not depend on the factors."""
        return self._loss.constant(self.source.n_interactions, float(self._sums["user"].sum()))

    def degrees(self, side: Side) -> Offsets:
        """Interactions of each row of a side, int64."""
        return self._degrees[side]

    def terms(self, side: Side) -> SideTerms:
        """Background weights and ridges of each row of a side."""
        user_background = self._loss.user_background(self._sums["user"])
        prior = self._loss.item_prior(self._degrees["item"])
        if side == "user":
            backgrounds, total = user_background, float(prior.sum())
        else:
            backgrounds, total = prior, float(user_background.sum())
        return SideTerms(backgrounds, self._loss.ridge(backgrounds * total, self._sums[side]))

    def load(self, side: Side, index: int) -> InteractionRows:
        """Give one shard with observed weights g (None where all are 1)."""
        key = (side, index)
        if key not in self._loaded:
            rows = self.source.load_shard(side, index)
            if self._factors is not None:
                shard = self.source.shard_ranges(side)[index]
                row_factors = self._factors[side][shard.start : shard.stop]
                rows = weigh_entries(rows, row_factors, self._factors[other_side(side)])
            self._loaded[key] = rows
        return self._loaded[key]

    def _summarize(self, side: Side, executor: Executor) -> tuple[Offsets, Float64Array]:
        """Give the degree and the sum of weights of every row of a side."""
        tasks = [(side, index) for index in range(len(self.source.shard_ranges(side)))]
        parts = list(executor.map_ordered(_summarize_shard, self, tasks))
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def __getstate__(self) -> dict[str, Any]:
        """Leave the loaded shards behind when the object is sent to another process."""
        return {**self.__dict__, "_loaded": {}}


def _summarize_shard(
    shards: WeightedShards, task: tuple[Side, int], context: WorkerContext
) -> tuple[Offsets, Float64Array]:
    """Degrees and sums of weights of one shard: what a worker runs."""
    del context
    rows = shards.load(*task)
    return rows.degrees, row_weight_sums(rows)
