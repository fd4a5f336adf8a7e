"""The map step of an ingest: read source files, and spool good events into buckets of users.

A bucket holds all events of its users, so every later step works on one bucket at a time, in
memory bounded by a bucket, and does not need to know which source file an event came from. What is
spooled depends only on the sources and options; into how many buckets, does not change the dataset.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from rgals.data.events import EventBatch, Reject, parse_events
from rgals.data.ingest_options import IngestOptions
from rgals.data.ledger import add_counts
from rgals.data.readers import DEFAULT_BATCH_ROWS, read_batches
from rgals.data.sources import SourceFile
from rgals.errors import InputError
from rgals.names import Offsets

__all__ = [
    "BELOW_MINIMUM",
    "BucketWriters",
    "SpoolSummary",
    "TimeMark",
    "read_spooled",
    "spool_schema",
    "spool_sources",
]

BELOW_MINIMUM = "below the minimum rating"
REJECTS_NAME = "rejects.arrow"
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


class BucketWriters:
    """One Arrow stream per bucket in a folder; the streams are opened when first written to."""

    def __init__(self, folder: Path, schema: pa.Schema, n_buckets: int) -> None:
        self._folder, self._schema, self._n_buckets = folder, schema, n_buckets
        self._writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        self._files = ExitStack()

    def __enter__(self) -> "BucketWriters":
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        try:
            for writer in self._writers.values():
                writer.close()
        finally:
            self._files.close()

    def write(self, bucket_of_row: "np.ndarray[tuple[int], np.dtype[np.uint16]]", batch: pa.RecordBatch) -> None:
        """Write each row to its bucket, keeping the order of rows within a bucket."""
        order = np.argsort(bucket_of_row, kind="stable")
        stops = np.cumsum(np.bincount(bucket_of_row, minlength=self._n_buckets))
        ordered = batch.take(pa.array(order))
        start = 0
        for bucket, stop in enumerate(stops.tolist()):
            if stop > start:
                self._writer(bucket).write_batch(ordered.slice(start, stop - start))
            start = stop

    def _writer(self, bucket: int) -> pa.ipc.RecordBatchStreamWriter:
        if bucket not in self._writers:
            file = self._files.enter_context(pa.OSFile(str(self._folder / bucket_name(bucket)), "wb"))
            self._writers[bucket] = pa.ipc.new_stream(file, self._schema, options=_WRITE_OPTIONS)
        return self._writers[bucket]


def bucket_name(bucket: int) -> str:
    """Give the file name of a bucket."""
    return f"bucket-{bucket:04d}.arrow"


def spool_sources(
    sources: list[SourceFile],
    folder: Path,
    options: IngestOptions,
    n_buckets: int,
    batch_rows: int = DEFAULT_BATCH_ROWS,
) -> Iterator[SpoolSummary]:
    """Read files in order and spool their events below ``folder``; one map task.

    Parameters
    ----------
    sources : list of SourceFile
        The files.
    folder : Path
        Where this task, and no other, writes: a stream per bucket, and the rejected rows.
    options : IngestOptions
        Columns and rules.
    n_buckets : int
        Number of buckets, at most 65,536 and below the limit of open files.
    batch_rows : int
        Rows per batch of a Parquet file.

    Yields
    ------
    SpoolSummary
        After each batch, the summary of everything so far: always the same object.

    Raises
    ------
    InputError
        If a column is missing or of a wrong type, or, where nothing may be rejected, a row is bad.
    DataError
        If a file cannot be read.
    """
    summary = SpoolSummary()
    is_official = any(source.part != "all" for source in sources)
    schema = spool_schema(options, is_official=is_official)
    with BucketWriters(folder, schema, n_buckets) as buckets, _RejectWriter(folder / REJECTS_NAME) as rejects:
        for source in sources:
            batches = read_batches(
                source,
                (options.user_column, options.item_column),
                tuple(name for name in (options.weight_column, options.time_column) if name),
                delimiter=options.delimiter,
                csv_columns=options.csv_columns,
                batch_rows=batch_rows,
            )
            for raw in batches:
                batch = parse_events(raw, source.path, options)
                _note_batch(summary, source, batch, options)
                rejects.write(batch.rejects)
                if batch.rows.size:
                    bucket_of_row = (batch.users.hashes % np.uint64(n_buckets)).astype(np.uint16)
                    buckets.write(bucket_of_row, _record_batch(schema, source, batch))
                yield summary


def read_spooled(folders: Sequence[Path], bucket: int) -> pa.Table | None:
    """Read one bucket from the folders of all map tasks, in their order; None if it has no events."""
    tables = []
    for folder in folders:
        path = folder / bucket_name(bucket)
        if path.exists():
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
                tables.append(stream.read_all())
    return pa.concat_tables(tables) if tables else None


def _note_batch(summary: SpoolSummary, source: SourceFile, batch: EventBatch, options: IngestOptions) -> None:
    summary.n_read += batch.n_read
    add_counts(summary.dropped, {BELOW_MINIMUM: batch.n_below_minimum})
    for reject in batch.rejects:
        summary.rejected[reject.reason] = summary.rejected.get(reject.reason, 0) + 1
        summary.first_rejects.setdefault(reject.reason, reject)
    if batch.rejects and options.reject_limit == 0:
        first = min(batch.rejects, key=lambda reject: reject.row)
        raise InputError(
            f"{first.describe()}; repair the file, or pass --reject-limit 0.01 to keep up to 1% of such rows "
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

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def write(self, rejects: list[Reject]) -> None:
        if not rejects:
            return
        if self._writer is None:
            file = self._files.enter_context(pa.OSFile(str(self._path), "wb"))
            self._writer = self._files.enter_context(pa.ipc.new_stream(file, REJECTS_SCHEMA, options=_WRITE_OPTIONS))
        columns = [
            pa.array(values, column.type)
            for values, column in zip(zip(*rejects, strict=True), REJECTS_SCHEMA, strict=True)
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=REJECTS_SCHEMA))
