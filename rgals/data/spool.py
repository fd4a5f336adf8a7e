"""The map step of an ingest: read pieces of source files, and spool good events by bucket of users.

A bucket holds all events of its users, so every later step works on one bucket at a time, in
memory bounded by a bucket, and does not need to know which source file an event came from. What is
spooled depends only on the sources and options; into how many buckets, does not change the dataset.

A map task writes one file, the batches of all buckets one after the other, and an index that says
where those of each bucket are: so the number of files is that of tasks, not of tasks times buckets.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from rgals.data.events import EventBatch, Reject, parse_events
from rgals.data.ingest_options import IngestOptions
from rgals.data.ledger import add_counts
from rgals.data.readers import DEFAULT_BATCH_ROWS, read_batches
from rgals.data.scratch import whole_file
from rgals.data.sources import SourceFile, SourcePiece
from rgals.errors import InputError
from rgals.names import Offsets

__all__ = [
    "BELOW_MINIMUM",
    "REJECTS_SCHEMA",
    "SpoolPlan",
    "SpoolSummary",
    "SpoolTask",
    "SpoolWriter",
    "TimeMark",
    "open_spool",
    "read_spooled",
    "rejects_path",
    "spool_path",
    "spool_pieces",
    "spool_schema",
]

BELOW_MINIMUM = "below the minimum rating"
REJECTS_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("row", pa.int64()),
        ("reason", pa.string()),
        ("user", pa.string()),
        ("item", pa.string()),
        ("weight", pa.string()),
        ("time", pa.string()),
        ("line", pa.string()),
    ]
)
_ROWS_BITS = 40
_WRITE_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True, slots=True)
class TimeMark:
    """The earliest or latest time of some events, and where it stands."""

    time: int
    source: str
    row: int


@dataclass(slots=True)
class SpoolSummary:
    """What a map task found, besides the events in its buckets."""

    n_read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    first_rejects: dict[str, Reject] = field(default_factory=dict)
    users_can_be_int64: bool = True
    items_can_be_int64: bool = True
    latest_train: TimeMark | None = None
    earliest_test: TimeMark | None = None

    @property
    def n_rejected(self) -> int:
        """Rows rejected for any reason."""
        return sum(self.rejected.values())

    def add(self, other: "SpoolSummary") -> None:
        """Take in what the next task, in the order of the sources, found."""
        self.n_read += other.n_read
        add_counts(self.dropped, other.dropped)
        add_counts(self.rejected, other.rejected)
        self.first_rejects = {**other.first_rejects, **self.first_rejects}
        self.users_can_be_int64 &= other.users_can_be_int64
        self.items_can_be_int64 &= other.items_can_be_int64
        self._note_time(other.latest_train, is_train=True)
        self._note_time(other.earliest_test, is_train=False)

    def note_times(self, source: SourceFile, batch: EventBatch) -> None:
        """Keep the latest time of train files and the earliest of test files."""
        if batch.times is None or batch.times.size == 0 or source.part == "all":
            return
        is_train = source.part == "train"
        at = int(batch.times.argmax() if is_train else batch.times.argmin())
        self._note_time(TimeMark(int(batch.times[at]), source.path, int(batch.rows[at])), is_train=is_train)

    def _note_time(self, mark: TimeMark | None, *, is_train: bool) -> None:
        if mark is None:
            return
        if is_train and (self.latest_train is None or mark.time > self.latest_train.time):
            self.latest_train = mark
        elif not is_train and (self.earliest_test is None or mark.time < self.earliest_test.time):
            self.earliest_test = mark


def spool_schema(options: IngestOptions, *, is_official: bool) -> pa.Schema:
    """Give the columns of a spooled event; those that the options do not need are left out."""
    fields = [
        ("user_number", pa.int64()),
        ("user_text", pa.string()),
        ("item_number", pa.int64()),
        ("item_text", pa.string()),
    ]
    if options.weight_column is not None:
        fields.append(("weight", pa.float64()))
    if options.time_column is not None:
        fields.append(("time", pa.int64()))
    if options.duplicates == "last" and options.time_column is None:
        fields.append(("position", pa.int64()))
    if is_official:
        fields.append(("is_test", pa.bool_()))
    return pa.schema(fields)


class SpoolPlan(NamedTuple):
    """What every map task shares.

    Parameters
    ----------
    folder : Path
        Where the tasks write; it is there.
    options : IngestOptions
        Columns and rules.
    n_buckets : int
        Into how many buckets users are divided; fewer than 2^16.
    is_official : bool
        Whether files are parts of an official split.
    batch_rows : int
        Rows per batch of a Parquet file.
    note_rows : callable or None
        Told after each batch how many rows the task has read; only for tasks of this process.
    """

    folder: Path
    options: IngestOptions
    n_buckets: int
    is_official: bool
    batch_rows: int = DEFAULT_BATCH_ROWS
    note_rows: Callable[[int], None] | None = None


class SpoolTask(NamedTuple):
    """One map task: its place among all, and the pieces that it reads, in order."""

    place: int
    pieces: tuple[SourcePiece, ...]


def spool_path(folder: Path, index: int) -> Path:
    """Give the file of a map task."""
    return folder / f"spool-{index:06d}.arrow"


def rejects_path(folder: Path, index: int) -> Path:
    """Give the file of a map task's rejected rows, which is there only if it has some."""
    return folder / f"rejects-{index:06d}.arrow"


class SpoolWriter:
    """Writes the file of a map task; made by `open_spool`."""

    def __init__(self, file: "pa.NativeFile", writer: "pa.ipc.RecordBatchStreamWriter", n_buckets: int) -> None:
        self._file, self._writer, self._n_buckets = file, writer, n_buckets
        self._marks: list[tuple[int, int, int]] = []

    def write(self, bucket_of_row: "np.ndarray[tuple[int], np.dtype[np.uint16]]", batch: pa.RecordBatch) -> None:
        """Write each row to its bucket, keeping the order of rows within a bucket."""
        order = np.argsort(bucket_of_row, kind="stable")
        stops = np.cumsum(np.bincount(bucket_of_row, minlength=self._n_buckets))
        ordered = batch.take(pa.array(order))
        start = 0
        for bucket, stop in enumerate(stops.tolist()):
            if stop > start:
                first_byte = self._file.tell()
                self._writer.write_batch(ordered.slice(start, stop - start))
                self._marks.append((bucket, first_byte, self._file.tell()))
            start = stop

    def index(self) -> Offsets:
        """Say where the batches of each bucket are.

        Returns
        -------
        int64 array
            The number of buckets n, then n + 1 places that divide the batches by bucket, then the first
            byte of each batch, then the byte after its last.
        """
        marks = np.array(self._marks, dtype=np.int64).reshape(-1, 3)
        marks = marks[np.argsort(marks[:, 0], kind="stable")]
        places = np.searchsorted(marks[:, 0], np.arange(self._n_buckets + 1))
        return np.concatenate([[self._n_buckets], places, marks[:, 1], marks[:, 2]])


@contextmanager
def open_spool(path: Path, schema: pa.Schema, n_buckets: int) -> Iterator[SpoolWriter]:
    """Write the file of a map task and its index; they appear on a normal exit."""
    with whole_file(path) as temporary:
        with (
            pa.OSFile(str(temporary), "wb") as file,
            pa.ipc.new_stream(file, schema, options=_WRITE_OPTIONS) as writer,
        ):
            writer.write_batch(pa.RecordBatch.from_pylist([], schema=schema))  # writes the schema too
            spool = SpoolWriter(file, writer, n_buckets)
            yield spool
        with whole_file(_index_path(path)) as temporary_index, temporary_index.open("wb") as stream:
            np.save(stream, spool.index())


def spool_pieces(plan: SpoolPlan, task: SpoolTask, _context: Any = None) -> "SpoolSummary":
    """Read pieces in order and spool their events: one map task.

    Raises
    ------
    InputError
        If a column is missing or of a wrong type, or, where nothing may be rejected, a row is bad.
    DataError
        If a file cannot be read.
    """
    options, summary = plan.options, SpoolSummary()
    schema = spool_schema(options, is_official=plan.is_official)
    with (
        open_spool(spool_path(plan.folder, task.place), schema, plan.n_buckets) as spool,
        _RejectWriter(rejects_path(plan.folder, task.place)) as rejects,
    ):
        for piece in task.pieces:
            batches = read_batches(
                piece,
                (options.user_column, options.item_column),
                tuple(name for name in (options.weight_column, options.time_column) if name),
                delimiter=options.delimiter,
                csv_columns=options.csv_columns,
                batch_rows=plan.batch_rows,
            )
            for raw in batches:
                batch = parse_events(raw, piece.source.path, options)
                in_order = sorted(batch.rejects, key=lambda reject: reject.row)
                _note_batch(summary, piece.source, batch, in_order, options)
                rejects.write(in_order)
                if batch.rows.size:
                    bucket_of_row = (batch.users.hashes % np.uint64(plan.n_buckets)).astype(np.uint16)
                    spool.write(bucket_of_row, _record_batch(schema, piece.source, batch))
                if plan.note_rows is not None:
                    plan.note_rows(summary.n_read)
    return summary


def read_spooled(paths: Sequence[Path], bucket: int) -> pa.Table | None:
    """Read one bucket from the files of all map tasks, in their order; None if it has no events."""
    batches: list[pa.RecordBatch] = []
    for path in paths:
        index = np.load(_index_path(path), mmap_mode="r")
        n_buckets = int(index[0])
        first, stop, n_batches = (int(index[1 + place]) for place in (bucket, bucket + 1, n_buckets))
        if first == stop:
            continue
        first_bytes = index[2 + n_buckets :]
        with pa.OSFile(str(path)) as file:
            schema = pa.ipc.read_schema(file)
            for place in range(first, stop):
                file.seek(int(first_bytes[place]))
                message = file.read_buffer(int(first_bytes[n_batches + place] - first_bytes[place]))
                batches.append(pa.ipc.read_record_batch(pa.ipc.read_message(message), schema))
    return pa.Table.from_batches(batches) if batches else None


def _index_path(path: Path) -> Path:
    return path.with_suffix(".index.npy")


def _note_batch(
    summary: SpoolSummary, source: SourceFile, batch: EventBatch, rejects: list[Reject], options: IngestOptions
) -> None:
    summary.n_read += batch.n_read
    add_counts(summary.dropped, {BELOW_MINIMUM: batch.n_below_minimum})
    for reject in rejects:
        summary.rejected[reject.reason] = summary.rejected.get(reject.reason, 0) + 1
        summary.first_rejects.setdefault(reject.reason, reject)
    if rejects and options.reject_limit == 0:
        raise InputError(
            f"{rejects[0].describe()}; repair the file, or pass --reject-limit 0.01 to keep up to 1% of such rows "
            "in the dataset's quarantine file instead"
        )
    summary.users_can_be_int64 &= bool(batch.users.can_be_int64.all())
    summary.items_can_be_int64 &= bool(batch.items.can_be_int64.all())
    summary.note_times(source, batch)


def _record_batch(schema: pa.Schema, source: SourceFile, batch: EventBatch) -> pa.RecordBatch:
    position: Offsets = batch.rows + (source.index << _ROWS_BITS)
    columns = {
        "user_number": batch.users.numbers,
        "user_text": batch.users.texts,
        "item_number": batch.items.numbers,
        "item_text": batch.items.texts,
        "weight": batch.weights,
        "time": batch.times,
        "position": position,
        "is_test": np.full(position.size, source.part == "test"),
    }
    return pa.record_batch([pa.array(columns[name]) for name in schema.names], schema=schema)


class _RejectWriter:
    """Rejected rows as an Arrow stream; no file unless there are some."""

    def __init__(self, path: Path) -> None:
        self._path, self._files = path, ExitStack()
        self._writer: pa.ipc.RecordBatchStreamWriter | None = None

    def __enter__(self) -> "_RejectWriter":
        return self

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)

    def write(self, rejects: list[Reject]) -> None:
        if not rejects:
            return
        if self._writer is None:
            path = self._files.enter_context(whole_file(self._path))
            file = self._files.enter_context(pa.OSFile(str(path), "wb"))
            self._writer = self._files.enter_context(pa.ipc.new_stream(file, REJECTS_SCHEMA, options=_WRITE_OPTIONS))
        columns = [
            pa.array(values, column.type)
            for values, column in zip(zip(*rejects, strict=True), REJECTS_SCHEMA, strict=True)
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=REJECTS_SCHEMA))
