"""Interactions on their way from buckets of users to shards: files that any range of rows can be cut from.

A run holds the interactions of one part that one task made. Its records are grouped by block of rows of a
side, with an index of where each block begins; so whoever writes a shard reads its range of rows from
every run, and nobody has to know the shards when the run is written.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rgals.data.scratch import whole_file
from rgals.data.shard_files import Records, entry_dtype, record_bytes
from rgals.errors import DataError
from rgals.names import IntArray, Offsets, Part, Rows, Side

__all__ = ["PartRun", "RowCounts", "read_runs", "remove_run", "write_run"]

_SIDES: tuple[Side, Side] = ("user", "item")
_MOST_BLOCKS = 1 << 16  # NumPy sorts 16-bit numbers by radix, several times faster than wider ones


class RowCounts(NamedTuple):
    """How many interactions some rows have: the rows, each once, and their counts."""

    rows: Rows
    counts: Offsets


class PartRun(NamedTuple):
    """The interactions of one part in two files, one by user and, for train, one by item.

    Parameters
    ----------
    part : str
        The part.
    path : Path
        The files, without their endings.
    n_interactions : int
        How many there are.
    has_weights, has_times : bool
        Whether any weight differs from 1; whether there are times.
    user_degrees, item_degrees : RowCounts
        Interactions of each row.
    """

    part: Part
    path: Path
    n_interactions: int
    has_weights: bool
    has_times: bool
    user_degrees: RowCounts
    item_degrees: RowCounts


def write_run(path: Path, part: Part, records: Records, n_users: int, n_items: int) -> PartRun:
    """Write interactions of one part as a run.

    Parameters
    ----------
    path : Path
        The files, without their endings; the folder is there.
    part : str
        The part.
    records : Records
        The interactions, in any order.
    n_users, n_items : int
        Rows of the dictionaries.
    """
    has_times = "time" in (records.dtype.names or ())
    _write_side(path, "user", records, n_users)
    if part == "train":
        by_item = np.empty(records.size, dtype=entry_dtype(has_times=False))
        for name in ("user", "item", "weight"):
            by_item[name] = records[name]
        _write_side(path, "item", by_item, n_items)
    return PartRun(
        part,
        path,
        records.size,
        bool((records["weight"] != 1).any()),
        has_times,
        _count(records["user"]),
        _count(records["item"]),
    )


def read_runs(
    paths: Sequence[Path], side: Side, start: int, stop: int, n_rows: int, dtype: "np.dtype[np.void]"
) -> Records:
    """Gather the records of a range of rows from runs.

    Parameters
    ----------
    paths : sequence of Path
        The runs.
    side : {"user", "item"}
        The side of the rows.
    start, stop : int
        The range of rows.
    n_rows : int
        Rows of the side's dictionary, as the runs were written with.
    dtype : dtype
        The layout of the records.

    Raises
    ------
    DataError
        If a run is shorter than its index says.
    """
    block_rows = _block_rows(n_rows)
    first, last = start // block_rows, -(-stop // block_rows)
    indexes = [np.load(_index_path(path, side), mmap_mode="r") for path in paths]
    places = [(int(index[first]), int(index[last])) for index in indexes]
    gathered = np.empty(sum(end - begin for begin, end in places), dtype=dtype)  # not twice in memory
    n_gathered = 0
    for path, (begin, end) in zip(paths, places, strict=True):
        if begin == end:
            continue
        file = _data_path(path, side)
        records = np.fromfile(file, dtype=dtype, count=end - begin, offset=begin * dtype.itemsize)
        if records.size != end - begin:
            raise DataError(
                f"{file}: expected {end - begin} records, found {records.size}; was the scratch folder changed?"
            )
        if start % block_rows or stop % block_rows:
            rows = records[side]
            records = records[(rows >= start) & (rows < stop)]
        gathered[n_gathered : n_gathered + records.size] = records
        n_gathered += records.size
    return gathered[:n_gathered]


def remove_run(path: Path) -> None:
    """Delete the files of a run."""
    for side in _SIDES:
        _data_path(path, side).unlink(missing_ok=True)
        _index_path(path, side).unlink(missing_ok=True)


def _write_side(path: Path, side: Side, records: Records, n_rows: int) -> None:
    blocks = records[side] // _block_rows(n_rows)
    n_blocks = -(-n_rows // _block_rows(n_rows))
    if (blocks[1:] < blocks[:-1]).any():
        records = records[np.argsort(blocks.astype(np.uint16), kind="stable")]
    index = np.concatenate([[0], np.cumsum(np.bincount(blocks, minlength=n_blocks), dtype=np.int64)])
    with whole_file(_data_path(path, side)) as temporary, temporary.open("wb") as stream:
        stream.write(record_bytes(records))
    with whole_file(_index_path(path, side)) as temporary, temporary.open("wb") as stream:
        np.save(stream, index)


def _count(rows: IntArray) -> RowCounts:
    unique, counts = np.unique(rows, return_counts=True)
    return RowCounts(unique.astype(np.int32), counts.astype(np.int64))


def _block_rows(n_rows: int) -> int:
    return max(-(-n_rows // _MOST_BLOCKS), 1)


def _data_path(path: Path, side: Side) -> Path:
    return path.with_name(f"{path.name}.{side}.bin")


def _index_path(path: Path, side: Side) -> Path:
    return path.with_name(f"{path.name}.{side}.npy")
