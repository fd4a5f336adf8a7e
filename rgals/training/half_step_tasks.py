"""What the workers do in a half-step: gather the fixed side, load their shards, solve their rows."""

import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from rgals.data.shards import ShardRange
from rgals.execution import Block, WorkerContext
from rgals.names import Factors, Float64Array, Side, Weights
from rgals.numerics.half_step import HalfStepSystem, SolverChoice, rotate, solve_half_step, sum_rows
from rgals.numerics.loss import Loss
from rgals.numerics.pairwise import BLOCK_ROWS, SumNode
from rgals.numerics.reexpansion import Entries, Expansion
from rgals.numerics.reexpansion_items import cross_sums, item_slopes, join_items, sampled_item_slopes
from rgals.numerics.row_sample import RowSample
from rgals.numerics.sparse import InteractionRows
from rgals.training.factor_blocks import SideFactors
from rgals.training.weighted_shards import WeightedShards

__all__ = [
    "PassWork",
    "ShardEntries",
    "ShardSummary",
    "ShardTask",
    "SharedHalfStep",
    "SharedSlopes",
    "Terms",
    "build_system",
    "gather_fixed",
    "gather_rows",
    "load_rows",
    "solve_shard",
    "sum_shard",
    "warm_up_shard",
]

ShardEntries: TypeAlias = Block[Expansion] | tuple[Block[Entries], ...]
"""Where the entries of a re-expanded shard are: of users the expansion, of items one part for each shard of users."""

Terms = tuple[Float64Array, Float64Array]
"""Background weights and ridges of a shard's rows, each float64 of shape (n_rows,)."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard of the side that is solved.

    Parameters
    ----------
    side : Side
        Which side.
    index : int
        Number of the shard.
    shard : ShardRange
        Its rows.
    initial : Block
        Their factors before the half-step.
    terms : Block
        Their background weights and ridges.
    entries : Block of Expansion, tuple of Block of Entries, or None
        For a re-expanded loss, its entries; None: the interactions of the shard.
    """

    side: Side
    index: int
    shard: ShardRange
    initial: Block[Factors]
    terms: Block[Terms]
    entries: ShardEntries | None = None


@dataclass(frozen=True, slots=True)
class SharedSlopes:
    """What the slopes of re-expanded rows need, of all shards.

    Parameters
    ----------
    turn : float32 array of shape (n_factors, n_factors)
        Takes the slopes of the users from the basis of the expansion into that of the half-step.
    cross : float64 array of shape (n_factors, n_factors)
        `rgals.numerics.reexpansion_items.cross_sums` of the users, in the basis of the half-step; used for the items.
    former : SideFactors
        The users around whom the loss was expanded.
    former_matrix : float32 array of shape (n_factors, n_factors)
        What takes their blocks into the basis of the half-step.
    weight_sums, log_partitions : float32 arrays of shape (n_users,)
        c, and the log partition of the expansion.
    log_prior : float32 array of shape (n_items,) or empty
        `rgals.numerics.reexpansion.log_prior_of` the item prior.
    sample : RowSample or None
        Users that stand for all others in the slopes of the items; None: all are looked at.
    """

    turn: Factors
    cross: Float64Array
    former: SideFactors
    former_matrix: Factors
    weight_sums: Weights
    log_partitions: Weights
    log_prior: Weights
    sample: RowSample | None = None


@dataclass(frozen=True, slots=True)
class SharedHalfStep:
    """What all shards of a half-step share.

    Parameters
    ----------
    run : str
        Name of the run, under which workers keep their shards.
    shards : Block of WeightedShards
        Where shards are loaded from.
    most_rows : int
        Rows of the larger side.
    side : Side
        The side that is solved.
    fixed : SideFactors
        The fixed side.
    fixed_matrix, initial_matrix : float32 arrays of shape (n_factors, n_factors)
        What takes the blocks of the fixed and of the solved side into the basis of this half-step.
    eigenvalues, linear : float64 arrays of shape (n_factors,)
        Eigenvalues of B and the vector v, in that basis.
    loss : Loss
        The loss.
    choice : SolverChoice
        How rows are solved.
    slopes : SharedSlopes or None
        For a re-expanded loss.
    """

    run: str
    shards: Block[WeightedShards]
    most_rows: int
    side: Side
    fixed: SideFactors
    fixed_matrix: Factors
    initial_matrix: Factors
    eigenvalues: Float64Array
    linear: Float64Array
    loss: Loss
    choice: SolverChoice
    slopes: SharedSlopes | None = None


@dataclass(frozen=True, slots=True)
class PassWork:
    """One shard's part of a pass over all scores.

    Parameters
    ----------
    seconds : float
        Seconds in the pass itself; what is fetched, and rotated before, is not in it.
    n_scores : int
        Scores of its rows with the rows of the other side that were looked at.
    """

    seconds: float
    n_scores: int


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """What the driver learns of a solved shard.

    Parameters
    ----------
    nodes : list of SumNode
        Packed `rgals.numerics.half_step.SideSums` of its rows.
    n_failed, first_failed : int
        Rows without a finite solution, and the first of them within the shard, -1 when there are none.
    cross : list of SumNode
        `rgals.numerics.reexpansion_items.cross_sums` of re-expanded users; else empty.
    passed : PassWork or None
        Of re-expanded items, the pass that gave their slopes; else None.
    """

    nodes: list[SumNode]
    n_failed: int
    first_failed: int
    cross: list[SumNode] = field(default_factory=list)
    passed: PassWork | None = None


@dataclass(frozen=True, slots=True)
class _Prepared:
    shared: SharedHalfStep
    system: HalfStepSystem
    former: Factors | None


def gather_fixed(shared: SharedHalfStep, context: WorkerContext) -> _Prepared:
    """Bring the fixed side into one rotated array of this worker."""
    system, slopes, former = build_system(shared, gather_rows(shared, context)), shared.slopes, None
    if slopes is not None and shared.side == "item":
        former = _gather(shared, "former side", slopes.former, slopes.former_matrix, context)
    return _Prepared(shared, system, former)


def gather_rows(shared: SharedHalfStep, context: WorkerContext) -> Factors:
    """Give the fixed side, rotated, a block at a time.

    The array's memory is kept for the next half-step: fresh memory costs more time than the rotation.
    """
    return _gather(shared, "fixed side", shared.fixed, shared.fixed_matrix, context)


def _gather(
    shared: SharedHalfStep, name: str, factors: SideFactors, matrix: Factors, context: WorkerContext
) -> Factors:
    n_rows, n_factors = factors.n_rows, factors.n_factors
    memory = context.resident(shared.run, name, lambda: np.empty(shared.most_rows * n_factors, dtype=np.float32))
    gathered = memory[: n_rows * n_factors].reshape(n_rows, n_factors)
    for shard, block in zip(factors.ranges, context.fetch_each(factors.blocks), strict=True):
        rotate(block, matrix, context.n_threads, out=gathered[shard.start : shard.stop])
    return gathered


def solve_shard(prepared: _Prepared, task: ShardTask, context: WorkerContext) -> tuple[Factors, ShardSummary]:
    """Solve one shard's rows; give their factors and their sums."""
    backgrounds, ridges = _writable(context.fetch(task.terms))
    initial = context.fetch(task.initial)
    entries, slopes, passed = None, None, None
    if task.entries is None:
        rows = load_rows(prepared.shared, task.side, task.index, context)
    else:
        entries, slopes, backgrounds, passed = _open_entries(prepared, task, initial, backgrounds, context)
        rows = entries.rows
    solved = solve_half_step(
        prepared.system,
        rows,
        initial,
        backgrounds,
        ridges,
        first_block=task.shard.start // BLOCK_ROWS,
        n_threads=context.n_threads,
        linears=None if entries is None else entries.linears,
        slopes=slopes,
    )
    cross: list[SumNode] = []
    if task.entries is not None and task.side == "user":
        former = rotate(initial, prepared.shared.initial_matrix, context.n_threads)
        cross = cross_sums(solved.factors, former, backgrounds, first_block=task.shard.start // BLOCK_ROWS)
    return solved.factors, ShardSummary(solved.nodes, solved.n_failed, solved.first_failed, cross, passed)


def _open_entries(
    prepared: _Prepared, task: ShardTask, initial: Factors, backgrounds: Float64Array, context: WorkerContext
) -> tuple[Entries, Factors, Float64Array, PassWork | None]:
    """Give the entries, the slopes and the background weights of a re-expanded shard, and its pass over the scores."""
    shared = prepared.shared.slopes
    assert shared is not None
    assert task.entries is not None
    if not isinstance(task.entries, tuple):
        expansion = context.fetch(task.entries)
        slopes = rotate(expansion.slopes, shared.turn, context.n_threads)
        return _writable_entries(expansion.entries), slopes, expansion.backgrounds.copy(), None
    assert prepared.former is not None
    parts = [_writable_entries(part) for part in context.fetch_each(task.entries)]
    vectors = rotate(initial, prepared.shared.initial_matrix, context.n_threads)
    entries = join_items(parts, prepared.system.fixed.shape[0])
    users = prepared.former, prepared.system.fixed, shared.weight_sums, shared.log_partitions
    log_prior, started = shared.log_prior[task.shard.start : task.shard.stop], time.perf_counter()
    if shared.sample is None:
        slopes = item_slopes(vectors, *users, log_prior, n_threads=context.n_threads)
    else:
        slopes = sampled_item_slopes(
            vectors, *users, log_prior, entries.rows, shared.sample, n_threads=context.n_threads
        )
    n_users = prepared.former.shape[0] if shared.sample is None else shared.sample.rows.size
    passed = PassWork(time.perf_counter() - started, task.shard.n_rows * n_users)
    # The kernel bends the background around the present scores, the expansion around the former ones.
    moved = np.diag(prepared.shared.eigenvalues) - shared.cross
    slopes += (backgrounds[:, None] * (vectors @ moved.T)).astype(np.float32)
    return entries, slopes, backgrounds, passed


def sum_shard(shared: None, task: ShardTask, context: WorkerContext) -> list[SumNode]:
    """Sum over the rows of a shard that is not solved now."""
    del shared
    return sum_rows(
        context.fetch(task.initial),
        *_writable(context.fetch(task.terms)),
        first_block=task.shard.start // BLOCK_ROWS,
        n_threads=context.n_threads,
    )


def warm_up_shard(shared: SharedHalfStep, task: tuple[Side, int], context: WorkerContext) -> None:
    """Load a shard and compile or load the kernels, by solving one row without entries."""
    loaded = load_rows(shared, *task, context)
    weights = None if loaded.weights is None else loaded.weights[:0]
    rows = InteractionRows(np.zeros(2, dtype=np.int64), loaded.columns[:0], weights, loaded.n_columns)
    nothing = np.zeros((1, shared.fixed_matrix.shape[0]), dtype=np.float32)
    solve_half_step(build_system(shared, nothing), rows, nothing, np.ones(1), np.ones(1), first_block=0, n_threads=1)


def resident_key(side: Side, index: int) -> Hashable:
    """Give the key under which workers keep a shard."""
    return (side, index)


def build_system(shared: SharedHalfStep, fixed: Factors) -> HalfStepSystem:
    """Give what all rows of a half-step share, with the fixed side in its basis."""
    return HalfStepSystem(
        fixed,
        shared.initial_matrix,
        shared.eigenvalues.astype(np.float32),
        shared.linear.astype(np.float32),
        shared.loss,
        shared.choice,
    )


def load_rows(shared: SharedHalfStep, side: Side, index: int, context: WorkerContext) -> InteractionRows:
    """Give one shard with its observed weights; it stays with the worker."""
    return context.resident(
        shared.run, resident_key(side, index), lambda: context.fetch(shared.shards).load(side, index)
    )


def _writable(terms: Terms) -> Terms:
    """Copy terms that may lie in shared memory: kernels are compiled for arrays that can be written to."""
    return terms[0].copy(), terms[1].copy()


def _writable_entries(entries: Entries) -> Entries:
    """Copy entries that lie in shared memory, likewise."""
    rows = entries.rows
    if rows.weights is None or rows.weights.flags.writeable:
        return entries
    copied = InteractionRows(rows.indptr.copy(), rows.columns.copy(), rows.weights.copy(), rows.n_columns)
    return Entries(copied, entries.linears.copy())
