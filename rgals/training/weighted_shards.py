"""Shards with their observed weights g, and the per-row terms of both sides."""

from collections.abc import Hashable
from dataclasses import dataclass

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
    """The shards of a source, with observed weights in place of stored ones; made by `prepare`."""

    def __init__(self, source: InteractionSource, loss: Loss, run: str) -> None:
        self.source = source
        self._loss = loss
        self._run = run
        self._degrees: dict[Side, Offsets] = {}
        self._factors: dict[Side, Float64Array] | None = None
        self._sums: dict[Side, Float64Array] = {}
        self.weight_scale = 1.0

    @classmethod
    def prepare(cls, source: InteractionSource, loss: Loss, executor: Executor, run: str) -> "WeightedShards":
        """Count degrees and sum weights over all shards.

        Parameters
        ----------
        source : InteractionSource
            The interactions.
        loss : Loss
            Whose exponents the weights follow.
        executor : Executor
            Who reads the shards.
        run : str
            Name under which workers keep what they load.
        """
        shards = cls(source, loss, run)
        sides: tuple[Side, Side] = ("user", "item")
        stored: dict[Side, Float64Array] = {}
        for side in sides:
            shards._degrees[side], stored[side] = shards._summarize(side, executor)
        shards._sums = stored
        if loss.has_degree_weights:
            factors = {side: loss.degree_factors(side, shards._degrees[side]) for side in sides}
            shards._factors = factors
            _, raw = shards._summarize("user", executor)
            shards.weight_scale = float(stored["user"].sum() / raw.sum())
            shards._factors = {"user": factors["user"] * shards.weight_scale, "item": factors["item"]}
            for side in sides:
                _, shards._sums[side] = shards._summarize(side, executor, is_final=True)
            executor.release(shards._stored_owner)
        return shards

    def key(self, side: Side, index: int) -> Hashable:
        """Give the key of a shard's tasks, which sends them to the worker that keeps the shard."""
        return (self._run, (side, index))

    @property
    def _stored_owner(self) -> str:
        """Name under which shards with their stored weights are kept; the run's own where those are the final ones."""
        return f"{self._run}/stored" if self._loss.has_degree_weights else self._run

    @property
    def constant(self) -> float:
        """The part of the objective that does not depend on the factors."""
        return self._loss.constant(self.source.n_interactions, float(self._sums["user"].sum()))

    def degrees(self, side: Side) -> Offsets:
        """Interactions of each row of a side, int64."""
        return self._degrees[side]

    def weight_sums(self, side: Side) -> Float64Array:
        """Sum of the observed weights g of each row of a side, float64."""
        return self._sums[side]

    def terms(self, side: Side, loss: Loss | None = None) -> SideTerms:
        """Background weights and ridges of each row of a side; ``loss``: another one with the same weights."""
        loss = self._loss if loss is None else loss
        user_background = loss.user_background(self._sums["user"])
        prior = loss.item_prior(self._degrees["item"])
        if side == "user":
            backgrounds, total = user_background, float(prior.sum())
        else:
            backgrounds, total = prior, float(user_background.sum())
        return SideTerms(backgrounds, loss.ridge(backgrounds * total, self._sums[side]))

    def load(self, side: Side, index: int, stored: InteractionRows | None = None) -> InteractionRows:
        """Give one shard with observed weights g (None where all are 1).

        Parameters
        ----------
        side : Side
            The side of its rows.
        index : int
            Its number.
        stored : InteractionRows or None
            The shard with its stored weights; None reads it.
        """
        rows = self.source.load_shard(side, index) if stored is None else stored
        if self._factors is None:
            return rows
        shard = self.source.shard_ranges(side)[index]
        return weigh_entries(rows, self._factors[side][shard.start : shard.stop], self._factors[other_side(side)])

    def _summarize(self, side: Side, executor: Executor, *, is_final: bool = False) -> tuple[Offsets, Float64Array]:
        """Give the degree and the sum of weights of every row of a side."""
        ranges = self.source.shard_ranges(side)
        found = executor.map_ordered(
            _summarize_final if is_final else _summarize_shard,
            self,
            [(side, index) for index in range(len(ranges))],
            keys=[self.key(side, index) for index in range(len(ranges))],
            costs=[shard.n_interactions + shard.n_rows for shard in ranges],
        )
        parts = list(found)
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _summarize_shard(
    shards: WeightedShards, task: tuple[Side, int], context: WorkerContext
) -> tuple[Offsets, Float64Array]:
    """Degrees and sums of weights of one shard: what a worker runs."""
    rows = shards.load(*task, _load_stored(shards, task, context))
    return rows.degrees, row_weight_sums(rows)


def _summarize_final(
    shards: WeightedShards, task: tuple[Side, int], context: WorkerContext
) -> tuple[Offsets, Float64Array]:
    """Do the same, and keep the shard as it is from now on."""
    rows = context.resident(shards._run, task, lambda: shards.load(*task, _load_stored(shards, task, context)))
    return rows.degrees, row_weight_sums(rows)


def _load_stored(shards: WeightedShards, task: tuple[Side, int], context: WorkerContext) -> InteractionRows:
    return context.resident(shards._stored_owner, task, lambda: shards.source.load_shard(*task))
