"""What the workers do between two re-expanded sweeps: pass over all scores, hand entries to the items, step back."""

import time
from dataclasses import dataclass

import numpy as np

from rgals.data.shards import ShardRange
from rgals.execution import Block, WorkerContext
from rgals.names import Factors, Float64Array, Side, Weights
from rgals.numerics.half_step import rotate, solve_half_step
from rgals.numerics.pairwise import BLOCK_ROWS, SumNode
from rgals.numerics.reexpansion import Entries, Expansion, expand
from rgals.numerics.reexpansion_items import item_slopes, join_items, sampled_item_slopes, split_by_item
from rgals.numerics.row_sample import RowSample, draw_rows
from rgals.numerics.sparse import InteractionRows
from rgals.training.half_step_tasks import PassWork, ShardTask, SharedHalfStep, build_system, gather_rows, load_rows

__all__ = [
    "BlendTask",
    "CutTask",
    "PassSummary",
    "SharedPass",
    "blend_block",
    "cut_entries",
    "expand_shard",
    "gather_items",
    "turn_entries",
    "warm_up_pass",
]


@dataclass(frozen=True, slots=True)
class SharedPass:
    """What all shards of a pass share.

    Parameters
    ----------
    step : SharedHalfStep
        The items as the fixed side; both matrices take the blocks into one basis.
    log_prior : float32 array of shape (n_items,) or empty
        `rgals.numerics.reexpansion.log_prior_of` the item prior.
    sample : RowSample or None
        Items that stand for all others; None: all are looked at.
    """

    step: SharedHalfStep
    log_prior: Weights
    sample: RowSample | None = None


@dataclass(frozen=True, slots=True)
class PassSummary:
    """What the driver learns of an expanded shard.

    Parameters
    ----------
    nodes : list of SumNode
        The loss and its squared error, as `rgals.numerics.reexpansion.Expansion` has them.
    log_partitions : float64 array of shape (n_rows,)
        Of its users.
    passed : PassWork
        The pass that gave them.
    """

    nodes: list[SumNode]
    log_partitions: Float64Array
    passed: PassWork


@dataclass(frozen=True, slots=True)
class _PreparedPass:
    shared: SharedPass
    items: Factors


def gather_items(shared: SharedPass, context: WorkerContext) -> _PreparedPass:
    """Bring all items into one array of this worker."""
    return _PreparedPass(shared, gather_rows(shared.step, context))


def expand_shard(prepared: _PreparedPass, task: ShardTask, context: WorkerContext) -> tuple[Expansion, PassSummary]:
    """Expand the softmax loss of one shard of users; give its sum and the log partitions, too."""
    step, sample = prepared.shared.step, prepared.shared.sample
    users = rotate(context.fetch(task.initial), step.initial_matrix, context.n_threads)
    rows, started = load_rows(step, task.side, task.index, context), time.perf_counter()
    found = expand(
        users,
        prepared.items,
        rows,
        prepared.shared.log_prior,
        step.loss,
        first_block=task.shard.start // BLOCK_ROWS,
        n_threads=context.n_threads,
        sample=sample,
    )
    n_items = prepared.items.shape[0] if sample is None else sample.rows.size
    passed = PassWork(time.perf_counter() - started, task.shard.n_rows * n_items)
    return found, PassSummary(found.nodes, found.log_partitions, passed)


def turn_entries(shared: None, task: tuple[Block[Expansion], int], context: WorkerContext) -> tuple[Entries, None]:
    """Transpose the entries of one shard of users."""
    del shared
    block, first_user = task
    return split_by_item(context.fetch(block).entries, first_user), None


def warm_up_pass(shared: SharedPass, task: tuple[Side, int], context: WorkerContext) -> None:
    """Compile or load the kernels of a re-expanded sweep, on one made-up user.

    Kernels are compiled anew for arrays that cannot be written to: interactions are as those of the shard.
    """
    loaded = load_rows(shared.step, *task, context)
    columns, weights = np.zeros(1, dtype=np.int32), None
    columns.flags.writeable = loaded.columns.flags.writeable
    if loaded.weights is not None:
        weights = np.ones(1, dtype=np.float32)
        weights.flags.writeable = loaded.weights.flags.writeable
    rows = InteractionRows(np.array([0, 1]), columns, weights, 2)
    factors = np.zeros((2, shared.step.fixed_matrix.shape[0]), dtype=np.float32)
    loss, log_prior, ones = shared.step.loss, shared.log_prior[:2], np.ones(2, dtype=np.float32)
    found = expand(factors[:1], factors, rows, log_prior, loss, first_block=0, n_threads=1)
    entries = join_items([split_by_item(found.entries, 0)] * 2, 2)
    users = factors, factors, ones, ones, log_prior
    item_slopes(factors, *users, n_threads=1)
    if shared.sample is not None:
        sample = draw_rows(np.ones(2), 0.5, (0,))
        expand(factors[:1], factors, rows, log_prior, loss, first_block=0, n_threads=1, sample=sample)
        sampled_item_slopes(factors, *users, entries.rows, sample, n_threads=1)
    solve_half_step(
        build_system(shared.step, factors),
        found.entries.rows,
        factors[:1],
        np.ones(1),
        np.ones(1),
        first_block=0,
        n_threads=1,
        linears=found.entries.linears,
        slopes=found.slopes,
    )


@dataclass(frozen=True, slots=True)
class CutTask:
    """The entries that one shard of users has with one shard of items.

    Parameters
    ----------
    turned : Block of Entries
        Of the users, by item.
    items : ShardRange
        Which items.
    """

    turned: Block[Entries]
    items: ShardRange


def cut_entries(shared: None, task: CutTask, context: WorkerContext) -> tuple[Entries, None]:
    """Cut one part out; where nothing has to be sent, it is a view."""
    del shared
    turned = context.fetch(task.turned)
    rows = turned.rows
    start, stop = rows.indptr[task.items.start], rows.indptr[task.items.stop]
    part: InteractionRows = rows.row_slice(task.items.start, task.items.stop)
    return Entries(part, turned.linears[start:stop]), None


@dataclass(frozen=True, slots=True)
class BlendTask:
    """One block of factors before and after a sweep.

    Parameters
    ----------
    before, after : Block
        The factors.
    """

    before: Block[Factors]
    after: Block[Factors]


def blend_block(
    shared: tuple[Factors, Factors, float], task: BlendTask, context: WorkerContext
) -> tuple[Factors, None]:
    """Go a part of the way; ``shared``: what takes both into one basis, and the part."""
    before_matrix, after_matrix, length = shared
    before = rotate(context.fetch(task.before), before_matrix, context.n_threads)
    after = rotate(context.fetch(task.after), after_matrix, context.n_threads)
    part = np.float32(length)
    return before + part * (after - before), None
