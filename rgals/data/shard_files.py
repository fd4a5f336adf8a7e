"""Files of sorted interactions, and the sort that makes them.

An unsorted interaction is a binary record of fixed size. The rows of a file are divided into ranges small
enough to sort in memory, and each range is sorted and appended to its Parquet file, so memory is
bounded by a range and not by the dataset.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
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
    "FileSchema",
    "Records",
    "SortedEntries",
    "entry_dtype",
    "read_entry_file",
    "record_bytes",
    "row_ranges",
    "sort_records",
]

Records: TypeAlias = NDArray[np.void]
"""Packed little-endian records with the fields user, item, weight and, where there are times, time."""

SORT_INTERACTIONS = 1 << 22
"""Entries that are sorted at a time, unless one row alone has more."""

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


def row_ranges(degrees: Offsets, bounds: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Cut rows at every bound, and further so that they can be sorted in bounded memory.

    Parameters
    ----------
    degrees : int64 array of shape (n_rows,)
        Records of each row.
    bounds : sequence of int
        Rows that no range may span, ascending from 0 to n_rows.

    Returns
    -------
    list of lists of tuples of int and int
        For each pair of neighboring bounds, its ranges of rows, the end excluded. One of several rows has
        at most ``SORT_INTERACTIONS`` records.
    """
    cumulative = np.concatenate([[0], np.cumsum(degrees, dtype=np.int64)])
    found: list[list[tuple[int, int]]] = []
    for start, stop in itertools.pairwise(bounds):
        ranges: list[tuple[int, int]] = []
        row = start
        while row < stop or row == start:
            fitting = int(np.searchsorted(cumulative, cumulative[row] + SORT_INTERACTIONS, side="right")) - 1
            end = max(row + 1, min(fitting, stop))
            ranges.append((row, min(end, stop)))
            row = end
        found.append(ranges)
    return found


def sort_records(records: Records, side: Side) -> Records:
    """Sort records by row, then column.

    Raises
    ------
    InputError
        If two have the same user and item.
    """
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
    del keys, ordered
    return records[order]


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
    path = folder.label(name)
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
