"""Files of sorted interactions, and the sort that makes them from unsorted ones on disk.

An unsorted entry is a fixed-size binary record in a spool file. A spool is divided into ranges of rows
small enough to sort in memory, and each range is sorted and appended to its Parquet file, so memory
is bounded by a range and not by the dataset.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rgals.data.storage import Folder
from rgals.errors import DataError, InputError
from rgals.names import Offsets, Rows, Side, Weights, other_side

__all__ = [
    "EntryFileWriter",
    "EntrySpool",
    "FileSchema",
    "Records",
    "SortedEntries",
    "entry_dtype",
    "read_entry_file",
    "record_bytes",
    "sorted_ranges",
]

Records: TypeAlias = NDArray[np.void]
"""Packed little-endian records with the fields user, item, weight and, where there are times, time."""

SORT_INTERACTIONS = 1 << 22
"""Entries that are sorted at a time, unless one row alone has more."""

_CHUNK_RECORDS = 1 << 21
_ROW_GROUP_ROWS = 1 << 20


class SortedEntries(NamedTuple):
    """The entries of a file, ascending by row, then column.

    Parameters
    ----------
    rows, columns : int32 arrays of shape (n,)
        Rows of the side that the file is sorted by, and of the other side.
    weights : float32 array of shape (n,) or None
        None stands for 1 everywhere.
    times : int64 array of shape (n,) or None
        UTC microseconds since 1970.
    """

    rows: Rows
    columns: Rows
    weights: Weights | None
    times: Offsets | None


@dataclass(frozen=True, slots=True)
class FileSchema:
    """Which columns a file of entries has.

    Parameters
    ----------
    side : {"user", "item"}
        The side that it is sorted by.
    has_weights, has_times : bool
        Whether it has those columns.
    """

    side: Side
    has_weights: bool
    has_times: bool

    @property
    def arrow(self) -> "pa.Schema":
        """The columns: rows of the sorted side first."""
        fields = [
            pa.field(f"{self.side}_row", pa.int32(), nullable=False),
            pa.field(f"{other_side(self.side)}_row", pa.int32(), nullable=False),
        ]
        if self.has_weights:
            fields.append(pa.field("weight", pa.float32(), nullable=False))
        if self.has_times:
            fields.append(pa.field("time", pa.timestamp("us", "UTC"), nullable=False))
        return pa.schema(fields)


def entry_dtype(*, has_times: bool) -> "np.dtype[np.void]":
    """Give the layout of a record: 12 bytes, or 20 with a time."""
    fields: list[tuple[str, str]] = [("user", "<i4"), ("item", "<i4"), ("weight", "<f4")]
    return np.dtype([*fields, ("time", "<i8")] if has_times else fields)


def record_bytes(records: Records) -> memoryview:
    """Give the bytes of records, without a copy where they lie side by side."""
    return np.ascontiguousarray(records).view(np.uint8).data


class EntrySpool:
    """Unsorted records in a file; a file is not kept open between calls."""

    def __init__(self, path: Path, dtype: "np.dtype[np.void]") -> None:
        self.path, self.dtype = path, dtype

    def append(self, records: Records) -> None:
        """Write records at the end."""
        with self.path.open("ab") as stream:
            stream.write(record_bytes(records))

    def chunks(self) -> Iterator[Records]:
        """Read the records in the order in which they were written, a bounded number at a time."""
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            while content := stream.read(_CHUNK_RECORDS * self.dtype.itemsize):
                yield np.frombuffer(content, dtype=self.dtype)

    def read(self) -> Records:
        """Read all records."""
        return np.fromfile(self.path, dtype=self.dtype) if self.path.exists() else np.zeros(0, self.dtype)

    def remove(self) -> None:
        """Delete the file; no error if nothing was written."""
        self.path.unlink(missing_ok=True)


def sorted_ranges(
    spool: EntrySpool, side: Side, degrees: Offsets, bounds: Sequence[int], scratch: Path
) -> Iterator[tuple[int, Records]]:
    """Sort a spool by one side, range of rows by range of rows.

    Parameters
    ----------
    spool : EntrySpool
        The records; they are left as they are.
    side : {"user", "item"}
        The side to sort by.
    degrees : int64 array of shape (n_rows,)
        Number of records of each row of the side.
    bounds : sequence of int
        Rows that no range may span, from 0 to n_rows.
    scratch : Path
        Folder for the ranges; emptied again.

    Yields
    ------
    tuple of int and Records
        The position of the last bound at or before the range, and its records ascending by row,
        then column. Ranges without records are left out.

    Raises
    ------
    InputError
        If two records have the same user and item.
    """
    starts = _range_starts(degrees, bounds, SORT_INTERACTIONS)
    pieces = _divide(spool, side, starts, scratch) if starts.size > 1 else [spool]
    for start, piece in zip(starts, pieces, strict=True):
        records = piece.read()
        if piece is not spool:
            piece.remove()
        if records.size:
            owner = int(np.searchsorted(np.asarray(bounds), start, side="right")) - 1
            yield owner, _sort(records, side)


class EntryFileWriter:
    """Writes one Parquet file of entries, sorted range after sorted range; a context manager."""

    def __init__(self, folder: Folder, name: str, schema: FileSchema) -> None:
        self._schema, self._arrow = schema, schema.arrow
        # Rows and times rise in small steps: differences take a fraction of the space of values.
        encodings = {field.name: "DELTA_BINARY_PACKED" for field in self._arrow if field.name != "weight"}
        self._stream = folder.open_output(name)
        self._writer = pq.ParquetWriter(
            self._stream,
            self._arrow,
            compression="zstd",
            use_dictionary=["weight"] if schema.has_weights else False,
            column_encoding=encodings,
        )

    def __enter__(self) -> "EntryFileWriter":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._writer.close()
        finally:
            self._stream.close()

    def write(self, records: Records) -> None:
        """Append records that are sorted already."""
        side = self._schema.side
        columns: list[Any] = [_column(records, side), _column(records, other_side(side))]
        if self._schema.has_weights:
            columns.append(_column(records, "weight"))
        if self._schema.has_times:
            columns.append(_column(records, "time").cast(pa.timestamp("us", "UTC")))
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._arrow), row_group_size=_ROW_GROUP_ROWS)


def read_entry_file(folder: Folder, name: str, schema: FileSchema, n_entries: int) -> SortedEntries:
    """Read a file of entries.

    Raises
    ------
    DataError
        If it is missing or not readable, or has other columns or another number of entries.
    """
    path = folder.file_path(name)
    try:
        with folder.open_input(name) as stream:
            table = pq.read_table(stream)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error}); restore it or ingest again") from error
    expected = schema.arrow
    if not table.schema.equals(expected) or table.num_rows != n_entries:
        raise DataError(
            f"{path}: expected {n_entries} rows of {', '.join(expected.names)}, found {table.num_rows} of "
            f"{', '.join(table.schema.names)}; restore it or ingest again"
        )
    return SortedEntries(
        table.column(0).to_numpy(),
        table.column(1).to_numpy(),
        table["weight"].to_numpy() if schema.has_weights else None,
        table["time"].cast(pa.int64()).to_numpy() if schema.has_times else None,
    )


def _column(records: Records, name: str) -> "pa.Array":
    return pa.array(np.ascontiguousarray(records[name]))


def _range_starts(degrees: Offsets, bounds: Sequence[int], limit: int) -> Offsets:
    """Cut rows at every bound, and further so that a range of several rows has at most ``limit`` entries."""
    cumulative = np.concatenate([[0], np.cumsum(degrees, dtype=np.int64)])
    starts = []
    for start, stop in itertools.pairwise(bounds):
        row = start
        while row < stop or row == start:
            starts.append(row)
            fitting = int(np.searchsorted(cumulative, cumulative[row] + limit, side="right")) - 1
            row = max(row + 1, min(fitting, stop))
    return np.array(starts, dtype=np.int64)


def _divide(spool: EntrySpool, side: Side, starts: Offsets, scratch: Path) -> list[EntrySpool]:
    """Copy each record into the spool of its range."""
    pieces = [EntrySpool(scratch / f"{side}-{index:06d}.bin", spool.dtype) for index in range(starts.size)]
    for records in spool.chunks():
        target = np.searchsorted(starts, records[side], side="right") - 1
        # NumPy sorts 16-bit numbers by radix, several times faster than wider ones.
        order = np.argsort(target.astype(np.uint16) if starts.size <= 1 << 16 else target, kind="stable")
        ordered = records[order]
        stops = np.cumsum(np.bincount(target, minlength=starts.size))
        begin = 0
        for index, stop in enumerate(stops.tolist()):
            if stop > begin:
                pieces[index].append(ordered[begin:stop])
            begin = stop
    return pieces


def _sort(records: Records, side: Side) -> Records:
    """Sort records by row, then column, and refuse a pair that occurs twice."""
    keys = (records[side].astype(np.int64) << 32) | records[other_side(side)]
    order = np.argsort(keys)
    ordered = keys[order]
    is_repeated = ordered[1:] == ordered[:-1]
    if is_repeated.any():
        record = records[order[int(np.argmax(is_repeated))]]
        raise InputError(
            f"user row {record['user']}, item row {record['item']}: expected one interaction, found "
            f"{int(is_repeated.sum()) + 1} or more entries; merge duplicates before writing a dataset"
        )
    return records[order]
