"""The steps of an ingest over all buckets: plain loops around the functions of one bucket."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rgals.data.buckets import Bucket, ReducedBucket, ReducePlan, core_round, load_bucket, load_item_ids, reduce_bucket
from rgals.data.hashing import hash_ids
from rgals.data.ids import IdDictionary
from rgals.data.splits import HeldOutUsers, SplitRule, assign_parts, choose_held_out_users
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
    item_places : list of int32 arrays
        For each bucket, the place of its items among ``item_ids``.
    item_ids : Arrow array
        The items of all buckets, sorted.
    live_users : list of bool arrays
        For each bucket, the users that no rule dropped.
    live_items : bool array of shape (n_items,)
        The items that no rule dropped.
    """

    folder: Path
    buckets: list[ReducedBucket]
    item_places: list[NDArray[np.int32]]
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

    def live_user_ids(self) -> pa.Array:
        """Give the users of the dataset, in no particular order."""
        empty = self.buckets[0].user_ids[:0] if self.buckets else pa.array([], pa.string())
        ids = [one.user_ids.filter(pa.array(live)) for one, live in zip(self.buckets, self.live_users, strict=True)]
        return pa.concat_arrays([empty, *ids])

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


def merge_buckets(plan: ReducePlan, n_buckets: int, progress: ProgressCallback) -> MergedEvents:
    """Merge duplicates bucket by bucket, then unite the items of all buckets."""
    reduced: list[ReducedBucket] = []
    item_ids = pa.array([], pa.int64() if plan.items_are_int64 else pa.string())
    for bucket in range(n_buckets):
        if (found := reduce_bucket(plan, bucket)) is not None:
            reduced.append(found)
            item_ids = pc.unique(pa.chunked_array([item_ids, load_item_ids(plan.folder, bucket)]))
        progress("merge", bucket + 1, n_buckets)
    items = IdDictionary.from_values(item_ids)
    return MergedEvents(
        plan.folder,
        reduced,
        [items.rows_of(load_item_ids(plan.folder, one.bucket)).astype(np.int32) for one in reduced],
        items.values,
        [np.ones(len(one.user_ids), dtype=np.bool_) for one in reduced],
        np.ones(len(items), dtype=np.bool_),
    )


def filter_cores(
    merged: MergedEvents, user_core: int, item_core: int, progress: ProgressCallback
) -> tuple[MergedEvents, int]:
    """Drop users and items with too few interactions, again and again until none has.

    Parameters
    ----------
    merged : MergedEvents
        The interactions.
    user_core, item_core : int
        Least number of items of a user, of users of an item.
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
        for place, one in enumerate(merged.buckets):
            bucket = load_bucket(merged.folder, one.bucket)
            items = merged.item_places[place][bucket.items]
            live_users[place], found = core_round(bucket.users, items, live_users[place], live_items, user_core)
            degrees += found
        n_rounds += 1
        progress("filter", n_rounds, None)
        still_live = live_items & (degrees >= item_core)
        if np.array_equal(still_live, live_items):
            n_dropped = merged.n_interactions - int(degrees.sum())
            return replace(merged, live_users=live_users, live_items=live_items), n_dropped
        live_items = still_live


def divide_buckets(
    merged: MergedEvents, users: IdDictionary, rule: SplitRule, seed: int, progress: ProgressCallback
) -> Iterator[PartedInteractions]:
    """Give the live interactions of each bucket with their rows in the dataset and their part.

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
    progress : callable
        Told of each bucket.

    Yields
    ------
    PartedInteractions
        Bucket by bucket.

    Raises
    ------
    InputError
        If the rule does not fit the interactions.
    """
    live_rows = users.rows_of(merged.live_user_ids())  # bucket after bucket
    item_rows = np.where(merged.live_items, np.cumsum(merged.live_items) - 1, -1)
    item_keys = hash_ids(merged.item_ids)
    held_out = None
    if rule.kind == "held-out-users":
        held_out = choose_held_out_users(rule, seed, hash_ids(users.values))
    start = 0
    for place, one in enumerate(merged.buckets):
        is_live = merged.live_users[place]
        stop = start + int(is_live.sum())
        user_rows = np.full(is_live.size, -1, dtype=np.int64)
        user_rows[is_live] = live_rows[start:stop]
        start = stop
        places = merged.item_places[place]
        bucket = load_bucket(merged.folder, one.bucket)
        if merged.has_unit_weights:
            bucket = replace(bucket, weights=None)
        yield divide_bucket(
            bucket, user_rows, item_rows[places], hash_ids(one.user_ids), item_keys[places], rule, seed, held_out
        )
        progress("split", place + 1, len(merged.buckets))


def divide_bucket(
    bucket: Bucket,
    user_rows: Offsets,
    item_rows: Offsets,
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
    user_rows, item_rows : int64 arrays of shape (n_bucket_users,), (n_bucket_items,)
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
        user_rows[users].astype(np.int32),
        item_rows[items].astype(np.int32),
        None if bucket.weights is None else bucket.weights[is_live],
        times,
    )
