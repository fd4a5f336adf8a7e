"""The steps of an ingest over all buckets: each hands its tasks to a runner and gathers what comes back."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rgals.data.buckets import (
    Bucket,
    ReducedBucket,
    ReducePlan,
    core_round,
    load_bucket,
    load_ids,
    load_pairs,
    place_items,
    reduce_bucket,
    save_items,
)
from rgals.data.hashing import hash_ids
from rgals.data.ids import IdDictionary
from rgals.data.runs import PartRun, RowCounts, write_run
from rgals.data.shard_files import entry_dtype
from rgals.data.splits import PART_NAMES, HeldOutUsers, SplitRule, assign_parts, choose_held_out_users
from rgals.data.tasks import TaskRunner
from rgals.names import BoolArray, Offsets, Rows, Weights

__all__ = [
    "MergedEvents",
    "PartedInteractions",
    "ProgressCallback",
    "divide_bucket",
    "divide_buckets",
    "filter_cores",
    "merge_buckets",
]

ProgressCallback: TypeAlias = Callable[[str, int, int | None], None]
"""Called with the stage, how much of it is done, and its total (None where unknown)."""


@dataclass(frozen=True, slots=True)
class MergedEvents:
    """All merged interactions: files bucket by bucket, and in memory what concerns ids.

    Parameters
    ----------
    folder : Path
        Where the reduced buckets are.
    buckets : list of ReducedBucket
        The buckets that hold something.
    users_are_int64 : bool
        The kind of the user ids.
    item_ids : Arrow array
        The items of all buckets, sorted.
    live_users : list of bool arrays
        For each bucket, the users that no rule dropped.
    live_items : bool array of shape (n_items,)
        The items that no rule dropped.
    """

    folder: Path
    buckets: list[ReducedBucket]
    users_are_int64: bool
    item_ids: pa.Array
    live_users: list[BoolArray]
    live_items: BoolArray

    @property
    def n_interactions(self) -> int:
        """Merged interactions, whether their user and item are live or not."""
        return sum(bucket.n_interactions for bucket in self.buckets)

    @property
    def has_unit_weights(self) -> bool:
        """Whether every weight is 1."""
        return all(bucket.has_unit_weights for bucket in self.buckets)

    def live_user_ids(self) -> "pa.ChunkedArray":
        """Give the users of the dataset, bucket after bucket."""
        ids = [
            load_ids(self.folder, "user", one.bucket).filter(pa.array(live))
            for one, live in zip(self.buckets, self.live_users, strict=True)
        ]
        return pa.chunked_array(ids, pa.int64() if self.users_are_int64 else pa.string())

    def live_item_ids(self) -> pa.Array:
        """Give the items of the dataset, sorted."""
        return self.item_ids.filter(pa.array(self.live_items))


class PartedInteractions(NamedTuple):
    """Interactions of a bucket, ready to be written: their part, rows, weights and times."""

    parts: NDArray[np.uint8]
    user_rows: Rows
    item_rows: Rows
    weights: Weights | None
    times: Offsets | None


def merge_buckets(plan: ReducePlan, n_buckets: int, runner: TaskRunner, progress: ProgressCallback) -> MergedEvents:
    """Merge duplicates bucket by bucket, and unite the items of all buckets."""
    reduced: list[ReducedBucket] = []
    items = _IdUnion(pa.int64() if plan.items_are_int64 else pa.string())
    results = runner.map_ordered(reduce_bucket, plan, range(n_buckets))
    for n_done, found in enumerate(results, 1):
        if found is not None:
            reduced.append(found)
            items.add(load_ids(plan.folder, "item", found.bucket))
        progress("merge", n_done, n_buckets)
    item_ids = IdDictionary.from_values(items.unique())
    save_items(plan.folder, item_ids)
    return MergedEvents(
        plan.folder,
        reduced,
        plan.users_are_int64,
        item_ids.values,
        [np.ones(one.n_users, dtype=np.bool_) for one in reduced],
        np.ones(len(item_ids), dtype=np.bool_),
    )


class _IdUnion:
    """The union of many arrays of ids, in memory of the order of the union."""

    def __init__(self, kind: "pa.DataType") -> None:
        self._found = pa.array([], kind)
        self._pending: list[pa.Array] = []
        self._n_pending = 0

    def add(self, ids: pa.Array) -> None:
        self._pending.append(ids)
        self._n_pending += len(ids)
        if self._n_pending > len(self._found):
            self._unite()

    def unique(self) -> pa.Array:
        self._unite()
        return self._found

    def _unite(self) -> None:
        self._found = pc.unique(pa.chunked_array([self._found, *self._pending]))
        self._pending.clear()
        self._n_pending = 0


class _CorePlan(NamedTuple):
    """What the tasks of a round of the core filter share."""

    folder: Path
    live_items: BoolArray
    user_core: int


class _CoreTask(NamedTuple):
    bucket: int
    live_users: BoolArray


def filter_cores(
    merged: MergedEvents, user_core: int, item_core: int, runner: TaskRunner, progress: ProgressCallback
) -> tuple[MergedEvents, int]:
    """Drop users and items with too few interactions, again and again until none has.

    Parameters
    ----------
    merged : MergedEvents
        The interactions.
    user_core, item_core : int
        Least number of items of a user, of users of an item.
    runner : TaskRunner
        Runs the buckets of a round.
    progress : callable
        Told of each round.

    Returns
    -------
    tuple of MergedEvents and int
        The largest set of users and items that meets both (it is unique), and how many
        interactions were dropped.
    """
    if user_core <= 1 and item_core <= 1:
        return merged, 0
    live_users, live_items = list(merged.live_users), merged.live_items
    n_rounds = 0
    while True:
        degrees = np.zeros(live_items.size, dtype=np.int64)
        tasks = [_CoreTask(one.bucket, live) for one, live in zip(merged.buckets, live_users, strict=True)]
        results = runner.map_ordered(_filter_bucket, _CorePlan(merged.folder, live_items, user_core), tasks)
        for place, (still_live_users, counts) in enumerate(results):
            live_users[place] = still_live_users
            degrees[counts.rows] += counts.counts
        n_rounds += 1
        progress("filter", n_rounds, None)
        still_live = live_items & (degrees >= item_core)
        if np.array_equal(still_live, live_items):
            n_dropped = merged.n_interactions - int(degrees.sum())
            return replace(merged, live_users=live_users, live_items=live_items), n_dropped
        live_items = still_live


def _filter_bucket(plan: _CorePlan, task: _CoreTask, _context: Any) -> tuple[BoolArray, RowCounts]:
    """Run one round of the core filter over a bucket; give its live users, and the counts of all its items."""
    places = place_items(plan.folder, task.bucket)
    users, items = load_pairs(plan.folder, task.bucket)
    still_live, degrees = core_round(users, items, task.live_users, plan.live_items[places], plan.user_core)
    return still_live, RowCounts(places, degrees)


class _DividePlan(NamedTuple):
    """What the tasks that divide buckets share."""

    folder: Path
    runs: Path
    item_rows: Rows
    n_users: int
    n_items: int
    has_unit_weights: bool
    rule: SplitRule
    seed: int
    held_out: HeldOutUsers | None


class _DivideTask(NamedTuple):
    bucket: int
    user_rows: Rows


def divide_buckets(
    merged: MergedEvents,
    users: IdDictionary,
    rule: SplitRule,
    seed: int,
    runs: Path,
    runner: TaskRunner,
    progress: ProgressCallback,
) -> Iterator[PartRun]:
    """Write the live interactions of each bucket, with their rows in the dataset, as runs of the parts.

    Parameters
    ----------
    merged : MergedEvents
        The interactions.
    users : IdDictionary
        The live users.
    rule : SplitRule
        How to divide.
    seed : int
        Seed of random choices.
    runs : Path
        Where the runs are written; it is there.
    runner : TaskRunner
        Divides the buckets.
    progress : callable
        Told of each bucket.

    Yields
    ------
    PartRun
        Bucket by bucket, the parts that it has.

    Raises
    ------
    InputError
        If the rule does not fit the interactions.
    """
    held_out = None
    if rule.kind == "held-out-users":
        held_out = choose_held_out_users(rule, seed, hash_ids(users.values))
    n_items = int(np.count_nonzero(merged.live_items))
    plan = _DividePlan(
        merged.folder,
        runs,
        np.where(merged.live_items, np.cumsum(merged.live_items) - 1, -1).astype(np.int32),
        len(users),
        n_items,
        merged.has_unit_weights,
        rule,
        seed,
        held_out,
    )
    live_rows = users.rows_of(merged.live_user_ids())  # bucket after bucket
    tasks: list[_DivideTask] = []
    start = 0
    for one, is_live in zip(merged.buckets, merged.live_users, strict=True):
        stop = start + int(np.count_nonzero(is_live))
        user_rows = np.full(is_live.size, -1, dtype=np.int32)
        user_rows[is_live] = live_rows[start:stop]
        tasks.append(_DivideTask(one.bucket, user_rows))
        start = stop
    for n_done, found in enumerate(runner.map_ordered(_write_parts, plan, tasks), 1):
        yield from found
        progress("split", n_done, len(tasks))


def _write_parts(plan: _DividePlan, task: _DivideTask, _context: Any) -> list[PartRun]:
    """Divide a bucket and write each of its parts as a run."""
    bucket = load_bucket(plan.folder, task.bucket)
    if plan.has_unit_weights:
        bucket = replace(bucket, weights=None)
    divided = divide_bucket(
        bucket,
        task.user_rows,
        plan.item_rows[place_items(plan.folder, task.bucket)],
        hash_ids(load_ids(plan.folder, "user", task.bucket)),
        hash_ids(load_ids(plan.folder, "item", task.bucket)),
        plan.rule,
        plan.seed,
        plan.held_out,
    )
    runs: list[PartRun] = []
    for code in np.unique(divided.parts).tolist():
        chosen = divided.parts == code
        records = np.empty(int(np.count_nonzero(chosen)), dtype=entry_dtype(has_times=divided.times is not None))
        records["user"], records["item"] = divided.user_rows[chosen], divided.item_rows[chosen]
        records["weight"] = 1.0 if divided.weights is None else divided.weights[chosen]
        if divided.times is not None:
            records["time"] = divided.times[chosen]
        name = PART_NAMES[code]
        path = plan.runs / f"bucket-{task.bucket:06d}-{name}"
        runs.append(write_run(path, name, records, plan.n_users, plan.n_items))
    return runs


def divide_bucket(
    bucket: Bucket,
    user_rows: Rows,
    item_rows: Rows,
    user_keys: NDArray[np.uint64],
    item_keys: NDArray[np.uint64],
    rule: SplitRule,
    seed: int,
    held_out: HeldOutUsers | None,
) -> PartedInteractions:
    """Divide the interactions of one bucket into parts.

    Parameters
    ----------
    bucket : Bucket
        The interactions.
    user_rows, item_rows : int32 arrays of shape (n_bucket_users,), (n_bucket_items,)
        Rows in the dataset, -1 where dropped.
    user_keys, item_keys : uint64 arrays of shape (n_bucket_users,), (n_bucket_items,)
        Hashes of the ids.
    rule : SplitRule
        How to divide.
    seed : int
        Seed of random choices.
    held_out : HeldOutUsers or None
        The users held out under that rule.

    Returns
    -------
    PartedInteractions
        Sorted by user row, then item row.
    """
    is_live = (user_rows[bucket.users] >= 0) & (item_rows[bucket.items] >= 0)
    users, items = bucket.users[is_live], bucket.items[is_live]
    times = None if bucket.times is None else bucket.times[is_live]
    parts = assign_parts(
        rule,
        seed,
        user_keys[users],
        item_keys[items],
        users.astype(np.int64),
        times,
        is_test=None if bucket.is_test is None else bucket.is_test[is_live],
        held_out_users=held_out,
    )
    return PartedInteractions(
        parts,
        user_rows[users],
        item_rows[items],
        None if bucket.weights is None else bucket.weights[is_live],
        times,
    )
