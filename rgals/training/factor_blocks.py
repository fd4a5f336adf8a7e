"""Factors in blocks: one per shard, kept by the executor, never whole in the process that drives the training.

A half-step rotates both sides into a new basis. The side that is solved comes out in it; the other one
is not written again: its blocks stay as they are, and the rotation that they still need is kept beside
them, as one matrix, until it is their turn to be solved.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from rgals.data.shards import ROW_COST, ShardRange
from rgals.execution import Block, Executor, WorkerContext
from rgals.names import Factors, Float64Array, Offsets, Side
from rgals.numerics.half_step import rotate
from rgals.numerics.initial import initial_factors

__all__ = [
    "BlockState",
    "FactorReader",
    "FactorState",
    "Layout",
    "ReadableFactors",
    "SideFactors",
    "draw_side",
    "split_side",
    "zero_side",
]


class ReadableFactors(Protocol):
    """Factors of both sides that can be read, whole or in part."""

    def read_all(self, side: Side) -> Factors:
        """Give a side as one float32 array; it must not be modified."""
        ...

    def read_rows(self, side: Side, rows: Offsets) -> Factors:
        """Give some rows of a side, float32 of shape (n_wanted, n_factors); ``rows`` ascend."""
        ...


@dataclass(frozen=True, slots=True)
class FactorState:
    """Whole factor matrices after some sweep: what a run can start from.

    Parameters
    ----------
    sweep : int
        Number of finished sweeps.
    user_factors : float32 array of shape (n_users, n_factors)
        User factors.
    item_factors : float32 array of shape (n_items, n_factors)
        Item factors, in the same basis.
    """

    sweep: int
    user_factors: Factors
    item_factors: Factors

    def read_all(self, side: Side) -> Factors:
        """Give one side."""
        return self.user_factors if side == "user" else self.item_factors

    def read_rows(self, side: Side, rows: Offsets) -> Factors:
        """Give some rows of a side."""
        return self.read_all(side)[rows]


@dataclass(frozen=True, slots=True)
class SideFactors:
    """The factors of one side.

    Parameters
    ----------
    ranges : tuple of ShardRange
        The rows of each block.
    blocks : tuple of Block of float32 arrays of shape (n_block_rows, n_factors)
        The rows, before the rotation.
    n_factors : int
        Length of a row.
    rotation : float64 array of shape (n_factors, n_factors) or None
        The factors are the blocks times this matrix; None stands for the blocks themselves.
    keys : tuple of hashable or None
        Keys of the tasks that left the blocks where they are; None: not known.
    """

    ranges: tuple[ShardRange, ...]
    blocks: tuple[Block[Factors], ...]
    n_factors: int
    rotation: Float64Array | None = None
    keys: tuple[Hashable, ...] | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.ranges[-1].stop

    @property
    def n_bytes(self) -> int:
        """Size of all blocks, in bytes."""
        return 4 * self.n_rows * self.n_factors

    def rotated(self, basis: Float64Array) -> "SideFactors":
        """Give the factors in another basis; the blocks are shared, nothing is computed."""
        rotation = basis if self.rotation is None else self.rotation @ basis
        return replace(self, rotation=rotation)

    def matrix(self, basis: Float64Array) -> Factors:
        """Give the float32 matrix that takes the blocks into a basis."""
        rotation = basis if self.rotation is None else self.rotation @ basis
        return np.ascontiguousarray(rotation, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class BlockState:
    """Both sides in blocks after some sweep: what a checkpoint keeps.

    Parameters
    ----------
    sweep : int
        Number of finished sweeps.
    users, items : SideFactors
        The factors, in one basis.
    """

    sweep: int
    users: SideFactors
    items: SideFactors

    def side(self, side: Side) -> SideFactors:
        """Give one side."""
        return self.users if side == "user" else self.items


class FactorReader:
    """Reads factors out of blocks, here, a block at a time.

    Parameters
    ----------
    executor : Executor
        Who keeps the blocks.
    state : BlockState
        The factors.
    """

    def __init__(self, executor: Executor, state: BlockState) -> None:
        self._executor = executor
        self.state = state
        self._whole: dict[Side, Factors] = {}

    def read_blocks(self, side: Side, basis: Float64Array | None = None) -> Iterator[Factors]:
        """Give the rows of a side, in order, block by block.

        Parameters
        ----------
        side : Side
            Which side.
        basis : float64 array of shape (n_factors, n_factors) or None
            Basis to give them in; None: the present one.

        Yields
        ------
        float32 array of shape (n_block_rows, n_factors)
            Not to be modified.

        Raises
        ------
        BlockLostError
            If the machine that held a block is gone.
        """
        factors = self.state.side(side)
        if basis is not None:
            factors = factors.rotated(basis)
        for block in self._executor.fetch_each(factors.blocks):
            yield _rotate_block(block, factors.rotation, self._executor.caller_threads)

    def read_all(self, side: Side) -> Factors:
        """Give a side as one float32 array, kept for the next call; raises as `read_blocks`."""
        if side not in self._whole:
            factors = self.state.side(side)
            if len(factors.blocks) == 1:
                self._whole[side] = next(self.read_blocks(side))
            else:
                found = np.empty((factors.n_rows, factors.n_factors), dtype=np.float32)
                for shard, block in zip(factors.ranges, self.read_blocks(side), strict=True):
                    found[shard.start : shard.stop] = block
                self._whole[side] = found
        return self._whole[side]

    def read_rows(self, side: Side, rows: Offsets) -> Factors:
        """Give some rows of a side, in ascending order; only they are sent.

        Parameters
        ----------
        side : Side
            Which side.
        rows : int64 array of shape (n_wanted,)
            Row numbers, ascending.

        Returns
        -------
        float32 array of shape (n_wanted, n_factors)
            The rows; the same bits as those of `read_all`.
        """
        factors = self.state.side(side)
        tasks: list[tuple[Block[Factors], Offsets]] = []
        near: list[Hashable] = []
        keys = factors.keys or range(len(factors.blocks))
        for shard, block, key in zip(factors.ranges, factors.blocks, keys, strict=True):
            first, last = np.searchsorted(rows, [shard.start, shard.stop])
            if first < last:
                tasks.append((block, rows[first:last] - shard.start))
                near.append(key)
        found = np.empty((rows.size, factors.n_factors), dtype=np.float32)
        start = 0
        for part in self._executor.map_ordered(_take_rows, factors.rotation, tasks, near=near):
            found[start : start + part.shape[0]] = part
            start += part.shape[0]
        return found


@dataclass(frozen=True, slots=True)
class Layout:
    """How a side is cut into blocks.

    Parameters
    ----------
    ranges : tuple of ShardRange
        Rows of each block.
    keys : tuple of hashable
        Keys of the shards' tasks, see `rgals.execution.Executor.map_ordered`.
    """

    ranges: tuple[ShardRange, ...]
    keys: tuple[Hashable, ...]

    @property
    def costs(self) -> list[float]:
        """What a half-step costs for each shard, in interactions."""
        return [float(shard.n_interactions + ROW_COST * shard.n_rows) for shard in self.ranges]


def draw_side(executor: Executor, layout: Layout, n_factors: int, seed: int) -> SideFactors:
    """Draw starting factors, each block where it is used; see `rgals.numerics.initial.initial_factors`.

    Parameters
    ----------
    executor : Executor
        Who draws and keeps them.
    layout : Layout
        The blocks.
    n_factors, seed : int
        Length of a row, and the seed.
    """
    found = executor.map_blocks(_draw_block, (n_factors, seed), layout.ranges, keys=layout.keys, costs=layout.costs)
    return SideFactors(layout.ranges, tuple(one.block for one in found), n_factors, keys=layout.keys)


def zero_side(executor: Executor, layout: Layout, n_factors: int) -> SideFactors:
    """Give factors that are all zero, each block where it is used; parameters as `draw_side`."""
    found = executor.map_blocks(_zero_block, n_factors, layout.ranges, keys=layout.keys, costs=layout.costs)
    return SideFactors(layout.ranges, tuple(one.block for one in found), n_factors, keys=layout.keys)


def split_side(executor: Executor, layout: Layout, factors: Factors) -> SideFactors:
    """Cut a factor matrix of shape (n_rows, n_factors) into blocks; parameters as `draw_side`."""
    blocks = tuple(executor.put(factors[shard.start : shard.stop]) for shard in layout.ranges)
    return SideFactors(layout.ranges, blocks, factors.shape[1], keys=layout.keys)


def _draw_block(shared: tuple[int, int], shard: ShardRange, context: WorkerContext) -> tuple[Factors, None]:
    del context
    return initial_factors(shard.n_rows, *shared, first_row=shard.start), None


def _zero_block(n_factors: int, shard: ShardRange, context: WorkerContext) -> tuple[Factors, None]:
    del context
    return np.zeros((shard.n_rows, n_factors), dtype=np.float32), None


def _take_rows(rotation: Float64Array | None, task: tuple[Block[Factors], Offsets], context: WorkerContext) -> Factors:
    """Give some rows of a block, rotated in the blocks of 512 rows in which all of it would be."""
    block, rows = task
    return _rotate_block(context.fetch(block), rotation, context.n_threads)[rows]


def _rotate_block(block: Factors, rotation: Float64Array | None, n_threads: int) -> Factors:
    if rotation is None:
        return block
    return rotate(block, np.ascontiguousarray(rotation, dtype=np.float32), n_threads)
