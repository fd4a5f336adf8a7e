"""The reduce steps of an ingest: one bucket at a time, each a function of files and plain values.

`reduce_bucket` merges duplicates and codes ids within the bucket, `place_items` finds the bucket's items
among all, and `core_round` drops users and items with too few interactions. None of them depends on the
order of events in a bucket, except the policy ``last`` without times, which follows the
position of rows in the input.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rgals.data.ids import IdDictionary
from rgals.data.ingest_options import DuplicatePolicy
from rgals.data.scratch import whole_file
from rgals.data.spool import read_spooled
from rgals.errors import InputError
from rgals.names import BoolArray, Float64Array, Offsets, Rows, Side, Weights

__all__ = [
    "Bucket",
    "ReducePlan",
    "ReducedBucket",
    "core_round",
    "load_bucket",
    "load_ids",
    "load_pairs",
    "place_items",
    "reduce_bucket",
    "save_items",
]

_ITEMS_NAME = "all-items.arrow"


@dataclass(frozen=True, slots=True)
class Bucket:
    """The merged interactions of a bucket, sorted by user, then item.

    Parameters
    ----------
    users, items : int32 arrays of shape (n,)
        Places in the bucket's own sorted ids.
    weights : float32 array of shape (n,) or None
        None stands for 1 everywhere.
    times : int64 array of shape (n,) or None
        UTC microseconds.
    is_test : bool array of shape (n,) or None
        The part of an official split.
    """

    users: Rows
    items: Rows
    weights: Weights | None
    times: Offsets | None
    is_test: BoolArray | None


@dataclass(frozen=True, slots=True)
class ReducedBucket:
    """What `reduce_bucket` found, besides the files it wrote.

    Parameters
    ----------
    bucket : int
        Which bucket.
    n_users, n_interactions, n_merged, n_overlap : int
        Users; merged interactions; rows merged into others; test interactions that train holds too.
    has_unit_weights : bool
        Whether every weight is 1.
    """

    bucket: int
    n_users: int
    n_interactions: int
    n_merged: int
    n_overlap: int
    has_unit_weights: bool


@dataclass(frozen=True, slots=True)
class ReducePlan:
    """What every call of `reduce_bucket` shares.

    Parameters
    ----------
    spools : tuple of Path
        Files of the map tasks, in the order of the sources.
    folder : Path
        Where reduced buckets are written; it is there.
    users_are_int64, items_are_int64 : bool
        The kind of each dictionary.
    duplicates : {"max", "sum", "last", "count"}
        The weight of several rows of one user and item.
    """

    spools: tuple[Path, ...]
    folder: Path
    users_are_int64: bool
    items_are_int64: bool
    duplicates: DuplicatePolicy


def reduce_bucket(plan: ReducePlan, bucket: int, _context: Any = None) -> ReducedBucket | None:
    """Merge the duplicates of a bucket and write it, coded by its own ids; None if it is empty.

    Raises
    ------
    InputError
        If a sum of weights leaves the range of float32.
    """
    events = read_spooled(plan.spools, bucket)
    if events is None:
        return None
    user_ids, users = _code_ids(events, "user", plan.users_are_int64)
    item_ids, items = _code_ids(events, "item", plan.items_are_int64)
    weights, times, positions, is_test = (_numpy(events, name) for name in ("weight", "time", "position", "is_test"))
    n_read = events.num_rows
    del events
    pairs = users * len(item_ids) + items
    order, starts = _order_groups(pairs if is_test is None else pairs * 2 + is_test, weights, times, positions)
    lasts = order[np.append(starts[1:], n_read) - 1]
    merged_weights = _merge_weights(weights, order, starts, plan.duplicates)
    if is_test is not None:
        merged_pairs = pairs[lasts]
        keep = np.ones(starts.size, dtype=np.bool_)
        keep[1:] = merged_pairs[1:] != merged_pairs[:-1]  # of a pair in both parts, train comes first
        lasts = lasts[keep]
        merged_weights = None if merged_weights is None else merged_weights[keep]
    columns: dict[str, NDArray[Any]] = {
        "user": users[lasts].astype(np.int32),
        "item": items[lasts].astype(np.int32),
    }
    if merged_weights is not None:
        columns["weight"] = _to_float32(merged_weights, user_ids, columns["user"], item_ids, columns["item"])
    if times is not None:
        columns["time"] = times[lasts]  # within a group times ascend, so the last is the latest
    if is_test is not None:
        columns["is_test"] = is_test[lasts]
    _write(plan.folder / _bucket_name(bucket), columns)
    _write(plan.folder / _ids_name("user", bucket), {"id": user_ids})
    _write(plan.folder / _ids_name("item", bucket), {"id": item_ids})
    has_unit_weights = merged_weights is None or bool((columns["weight"] == 1).all())
    n_merged = n_read - starts.size
    return ReducedBucket(bucket, len(user_ids), lasts.size, n_merged, starts.size - lasts.size, has_unit_weights)


def load_bucket(folder: Path, bucket: int) -> Bucket:
    """Read the interactions that `reduce_bucket` wrote."""
    table = _read(folder / _bucket_name(bucket))
    return Bucket(*(_numpy(table, name) for name in ("user", "item", "weight", "time", "is_test")))


def load_pairs(folder: Path, bucket: int) -> tuple[Rows, Rows]:
    """Read nothing but the users and items of the interactions that `reduce_bucket` wrote."""
    table = _read(folder / _bucket_name(bucket), columns=2)
    return table["user"].to_numpy(), table["item"].to_numpy()


def load_ids(folder: Path, side: Side, bucket: int) -> pa.Array:
    """Read the sorted user or item ids of a bucket, which its user and item places count."""
    return _read(folder / _ids_name(side, bucket))["id"].combine_chunks()


def save_items(folder: Path, items: IdDictionary) -> None:
    """Write the items of all buckets, for `place_items`."""
    _write(folder / _ITEMS_NAME, {"id": items.values})


def place_items(folder: Path, bucket: int) -> Rows:
    """Give the place of each item of a bucket among the items of all; worked out once and kept."""
    path = folder / f"places-{bucket:06d}.npy"
    if path.exists():
        kept: Rows = np.load(path)
        return kept
    with pa.memory_map(str(folder / _ITEMS_NAME)) as file, pa.ipc.open_file(file) as reader:
        items = IdDictionary(reader.read_all()["id"].combine_chunks())
        places = items.rows_of(load_ids(folder, "item", bucket)).astype(np.int32)
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, places)
    return places


def core_round(
    users: Rows, items: Rows, is_live_user: BoolArray, is_live_item: BoolArray, user_core: int
) -> tuple[BoolArray, NDArray[np.int64]]:
    """Drop the users of a bucket that have too few live items, and count what remains by item of the bucket.

    Parameters
    ----------
    users : int32 array of shape (n,)
        User of each interaction, as a place in the bucket.
    items : int32 array of shape (n,)
        Item of each interaction, as a place in the bucket.
    is_live_user : bool array of shape (n_bucket_users,)
        Users not dropped so far.
    is_live_item : bool array of shape (n_bucket_items,)
        Items not dropped so far.
    user_core : int
        Least number of live items of a user.

    Returns
    -------
    tuple of bool array of shape (n_bucket_users,) and int64 array of shape (n_bucket_items,)
        The users still live, and how many of them each live item has.
    """
    is_live = is_live_item[items] & is_live_user[users]
    degrees = np.bincount(users[is_live], minlength=is_live_user.size)
    still_live = is_live_user & (degrees >= user_core)
    is_live &= still_live[users]
    return still_live, np.bincount(items[is_live], minlength=is_live_item.size)


def _code_ids(events: pa.Table, side: str, are_int64: bool) -> tuple[pa.Array, Offsets]:
    """Give the sorted unique ids of a side, and each event's place among them."""
    numbers, texts = events[f"{side}_number"], events[f"{side}_text"]
    if are_int64:
        unique, codes = np.unique(numbers.to_numpy(), return_inverse=True)
        return pa.array(unique), codes.astype(np.int64)
    if texts.null_count:
        texts = pc.coalesce(texts, numbers.cast(pa.string()))
    encoded = pc.dictionary_encode(texts).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    order = pc.sort_indices(encoded.dictionary).to_numpy().astype(np.int64)
    place = np.empty(order.size, dtype=np.int64)
    place[order] = np.arange(order.size)
    return encoded.dictionary.take(pa.array(order)), place[encoded.indices.to_numpy()]


def _order_groups(
    groups: Offsets, weights: Float64Array | None, times: Offsets | None, positions: Offsets | None
) -> tuple[Offsets, Offsets]:
    """Sort events by group; within one by time or position, then weight. Give order and group starts."""
    order = np.argsort(groups)
    ordered = groups[order]
    is_start = np.ones(ordered.size, dtype=np.bool_)
    is_start[1:] = ordered[1:] != ordered[:-1]
    if not is_start.all():
        # The last key of lexsort sorts first. Rows equal in every key are interchangeable.
        keys = [key for key in (weights, positions, times) if key is not None]
        order = np.lexsort([*keys, groups])
    return order, np.flatnonzero(is_start)


def _merge_weights(
    weights: Float64Array | None, order: Offsets, starts: Offsets, duplicates: DuplicatePolicy
) -> Float64Array | None:
    """Give the float64 weight of each group; None where all are 1."""
    counts = np.diff(np.append(starts, order.size)).astype(np.float64)
    if duplicates == "count" or (weights is None and duplicates == "sum"):
        return counts
    if weights is None:
        return None
    ordered = weights[order]
    if duplicates == "last":
        latest: Float64Array = ordered[np.append(starts[1:], order.size) - 1]
        return latest
    if duplicates == "max":
        largest: Float64Array = np.maximum.reduceat(ordered, starts)
        return largest
    # The order within a group depends on times and weights alone, and so does the rounding.
    sums: Float64Array = np.add.reduceat(ordered, starts)
    return sums


def _to_float32(weights: Float64Array, user_ids: pa.Array, users: Rows, item_ids: pa.Array, items: Rows) -> Weights:
    with np.errstate(over="ignore"):
        narrow = weights.astype(np.float32)
    if not np.isfinite(narrow).all():
        at = int(np.flatnonzero(~np.isfinite(narrow))[0])
        raise InputError(
            f"user {user_ids[int(users[at])].as_py()!r}, item {item_ids[int(items[at])].as_py()!r}: the merged weight "
            f"{weights[at]:.3g} is beyond float32; scale the weights down, or merge with --duplicates max"
        )
    return narrow


def _bucket_name(bucket: int) -> str:
    return f"bucket-{bucket:06d}.arrow"


def _ids_name(side: Side, bucket: int) -> str:
    return f"{side}s-{bucket:06d}.arrow"


def _numpy(table: pa.Table, name: str) -> Any:
    """Give a column as an array, None if the table has none."""
    return table[name].to_numpy() if name in table.column_names else None


def _write(path: Path, columns: Mapping[str, Any]) -> None:
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    with (
        whole_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)


def _read(path: Path, columns: int | None = None) -> pa.Table:
    """Read a table, or its first columns."""
    options = pa.ipc.IpcReadOptions(included_fields=None if columns is None else list(range(columns)))
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file, options=options) as reader:
        return reader.read_all()
