"""Generate realistic interactions from planted tastes, of any size, in bounded memory.

A user has a few topics, an item has two; users choose items by topic and popularity, in sessions
over two years, while items appear and fads fade. The choices follow a low-rank model that a
factorization can find; popularity alone explains little of them.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, model_validator

from rgals.data.storage import Folder, new_folder, redact, resolve_location, write_manifest
from rgals.data.synthesize_kernels import (
    PERIOD_S,
    Catalog,
    activity_weights,
    build_alias,
    hash_uniforms,
    simulate_users,
)
from rgals.errors import DataError, InputError, OutputExistsError
from rgals.names import Offsets, Rows
from rgals.numerics.threads import available_threads, run_blocks

__all__ = ["EVENTS_FORMAT_VERSION", "Progress", "SynthesisSummary", "SynthesizeOptions", "synthesize"]

EVENTS_FORMAT_VERSION = 1
"""Format version of the manifest of a folder of generated events."""

Progress = Callable[[int, int], None]
"""Called from any thread with the interactions written so far and their total."""

_ROW_GROUP_ROWS = 1 << 20
_ROW_GROUPS_PER_PART = 8
_PERIOD_START = np.datetime64("2022-01-01T00:00:00", "ms").astype(np.int64)
_POPULARITY_OFFSET = 0.002  # flattens the head: rank r weighs 1 / (r + offset * n_items), at 2,000 items
_SECOND_TOPIC_WEIGHT = 0.25
_MIN_ACTIVITY = 5
_MAX_SHARE_OF_ITEMS = 4  # a user takes at most a quarter of the items


class SynthesizeOptions(BaseModel):
    """What to generate.

    Raises
    ------
    pydantic.ValidationError
        If a value is out of bounds, there are fewer interactions than users, or a user would need
        more than a quarter of all items.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_users: int = Field(default=4_000, ge=1, lt=2**31)
    """Number of users; each has at least one interaction."""
    n_items: int = Field(default=2_000, ge=8, lt=2**31)
    """Number of items on offer; nearly all are chosen when there are 30 interactions per item."""
    n_interactions: int = Field(default=200_000, ge=1)
    """Number of distinct (user, item) pairs; met exactly."""
    n_topics: int = Field(default=24, ge=1, le=4_096)
    """Rank of the planted model."""
    activity_sigma: float = Field(default=1.0, ge=0, le=3)
    """Standard deviation of the logarithm of a user's activity."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Key of every random number: the same seed gives the same bytes."""
    id_type: Literal["string", "int64"] = "string"
    """Ids such as ``u0042`` and ``i0007``, or row numbers counted from 1."""
    with_time: bool = True
    """Whether to write the column ``time`` (UTC, millisecond type, whole seconds)."""
    with_rating: bool = True
    """Whether to write the column ``rating`` (1 to 5)."""

    @model_validator(mode="after")
    def _check_sizes(self) -> "SynthesizeOptions":
        most = self.n_users * (self.n_items // _MAX_SHARE_OF_ITEMS)
        if not self.n_users <= self.n_interactions <= most:
            raise ValueError(
                f"n_interactions: expected between {self.n_users:,} (one per user) and {most:,} (a quarter of the "
                f"items per user) for {self.n_users:,} users and {self.n_items:,} items, "
                f"found {self.n_interactions:,}; change one of the three"
            )
        if self.n_topics > self.n_items:
            raise ValueError(f"n_topics: expected at most n_items = {self.n_items:,}, found {self.n_topics:,}")
        return self


@dataclass(frozen=True, slots=True)
class SynthesisSummary:
    """What was generated."""

    location: str
    """Path of the file or the folder."""
    n_users: int
    n_items_used: int
    """Items with at least one interaction."""
    n_interactions: int
    n_files: int
    n_bytes: int
    """Size of the Parquet files."""
    top_percent_share: float
    """Share of all interactions that the most popular 1% of the items (at least one) take."""
    min_activity: int
    median_activity: float
    max_activity: int
    elapsed_s: float


@dataclass(slots=True)
class _Tally:
    """Counts that several threads add to."""

    item_counts: Offsets
    total: int
    progress: Progress | None
    done: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, item_rows: Rows) -> None:
        counts = np.bincount(item_rows, minlength=self.item_counts.size)
        with self.lock:
            self.item_counts += counts
            self.done += item_rows.size
            if self.progress is not None:
                self.progress(self.done, self.total)


def synthesize(
    output: str | Path,
    options: SynthesizeOptions,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    n_threads: int | None = None,
) -> SynthesisSummary:
    """Write generated interactions as Parquet, whole or not at all.

    Parameters
    ----------
    output : str or Path
        A file when the name ends in ``.parquet``, else a folder of part files with a manifest; a
        local path or a pyarrow filesystem URI. Part files are written in parallel, so a folder is
        the faster choice for more than some ten million interactions.
    options : SynthesizeOptions
        What to generate.
    overwrite : bool
        Whether an existing file, or folder written by rgals, may be replaced.
    progress : callable, optional
        Told the interactions written so far and their total, about once per million.
    n_threads : int, optional
        Number of threads; all available processors when absent.

    Returns
    -------
    SynthesisSummary
        Counts and shape of what was written.

    Raises
    ------
    InputError
        If ``n_threads`` is below 1.
    OutputExistsError
        If the output exists and may not be replaced.
    DataError
        If the disk is full or the place cannot be written to; nothing is left behind.

    Notes
    -----
    Rows are in the order of users and, per user, of time. Columns: ``user_id``, ``item_id``,
    ``rating``, ``time``. The rows depend on ``options`` alone, whatever the number of threads and
    the kind of output, and ``with_time``, ``with_rating`` and ``id_type`` do not change the pairs.
    Memory: about 50 bytes per user, 100 per item, and 100 MB per thread.
    """
    if n_threads is not None and n_threads < 1:
        raise InputError(f"n_threads: expected at least 1, found {n_threads}; leave it out to use all processors")
    threads = n_threads or available_threads()
    started_s = time.perf_counter()
    is_file = resolve_location(output)[1].endswith(".parquet")
    if is_file:
        _check_file_output(output, overwrite)
    generator = _Generator(options)
    tally = _Tally(np.zeros(options.n_items, np.int64), options.n_interactions, progress)
    if is_file:
        n_files, n_bytes = 1, _write_file(output, generator, tally, threads)
    else:
        n_files, n_bytes = _write_folder(output, generator, tally, threads, overwrite=overwrite)
    top = max(1, options.n_items // 100)
    head = np.partition(tally.item_counts, options.n_items - top)[-top:]
    return SynthesisSummary(
        location=redact(os.fspath(output)),
        n_users=options.n_users,
        n_items_used=int(np.count_nonzero(tally.item_counts)),
        n_interactions=tally.done,
        n_files=n_files,
        n_bytes=n_bytes,
        top_percent_share=float(head.sum() / tally.done),
        min_activity=int(generator.quotas.min()),
        median_activity=float(np.median(generator.quotas)),
        max_activity=int(generator.quotas.max()),
        elapsed_s=time.perf_counter() - started_s,
    )


class _Generator:
    """The planted model of one set of options, and the events of any range of its users."""

    def __init__(self, options: SynthesizeOptions) -> None:
        self.options = options
        self.seed = np.uint64(options.seed)
        with np.errstate(over="ignore"):
            self.quotas = _user_quotas(options, self.seed)
            self.catalog = _build_catalog(options, self.seed)
        self.item_ids = _ids("i", options.n_items, 0, options.n_items, options.id_type)
        self.schema = _schema(options)

    def user_blocks(self) -> list[tuple[int, int]]:
        """Cut the users into ranges of about one row group each."""
        ends = np.cumsum(self.quotas, dtype=np.int64)
        n_blocks = -(-self.options.n_interactions // _ROW_GROUP_ROWS)
        marks = (np.arange(1, n_blocks + 1) * self.options.n_interactions) // n_blocks
        stops = np.unique(np.searchsorted(ends, marks) + 1)
        return list(zip([0, *stops[:-1].tolist()], stops.tolist(), strict=True))

    def table(self, users: tuple[int, int], tally: _Tally) -> pa.Table:
        """Simulate a range of users."""
        start, stop = users
        quotas = self.quotas[start:stop]
        n_rows = int(quotas.sum(dtype=np.int64))
        item_rows, times_s = np.empty(n_rows, np.int32), np.empty(n_rows, np.int32)
        ratings = np.empty(n_rows, np.int8)
        with np.errstate(over="ignore"):
            simulate_users(self.seed, start, quotas, self.catalog, item_rows, times_s, ratings)
        user_ids = _ids("u", self.options.n_users, start, stop, self.options.id_type)
        positions = np.repeat(np.arange(stop - start, dtype=np.int32), quotas)
        columns = [user_ids.take(pa.array(positions)), self.item_ids.take(pa.array(item_rows))]
        if self.options.with_rating:
            columns.append(pa.array(ratings))
        if self.options.with_time:
            times_ms = _PERIOD_START + times_s.astype(np.int64) * 1_000
            columns.append(pa.array(times_ms).cast(pa.timestamp("ms", tz="UTC")))
        tally.add(item_rows)
        return pa.Table.from_arrays(columns, schema=self.schema)

    def writer(self, sink: Any) -> "pq.ParquetWriter":
        """Open a Parquet writer; dictionaries where they are small enough to pay."""
        names = [name for name in ("user_id", "rating") if name in self.schema.names]
        if self.options.n_items <= _ROW_GROUP_ROWS // 16:
            names.append("item_id")
        return pq.ParquetWriter(sink, self.schema, compression="snappy", use_dictionary=names)


def _schema(options: SynthesizeOptions) -> "pa.Schema":
    """Give the columns, and the options as metadata, so that a file tells where it comes from."""
    id_type = pa.string() if options.id_type == "string" else pa.int64()
    fields = [pa.field("user_id", id_type), pa.field("item_id", id_type)]
    if options.with_rating:
        fields.append(pa.field("rating", pa.int8()))
    if options.with_time:
        fields.append(pa.field("time", pa.timestamp("ms", tz="UTC")))
    return pa.schema(fields, metadata={"rgals.synthesize": json.dumps(options.model_dump(), sort_keys=True)})


def _user_quotas(options: SynthesizeOptions, seed: np.uint64) -> Rows:
    """Share the interactions among the users: a minimum for each, the rest log-normal, capped, exact in sum."""
    cap = options.n_items // _MAX_SHARE_OF_ITEMS
    minimum = min(_MIN_ACTIVITY, options.n_interactions // options.n_users, cap)
    rest = options.n_interactions - minimum * options.n_users
    weights = np.empty(options.n_users, np.float64)
    activity_weights(seed, options.activity_sigma, weights)
    # Each round scales the users below the cap to what the capped ones leave; new ones may reach the cap.
    room, extra = float(cap - minimum), weights
    is_capped = np.zeros(options.n_users, np.bool_)
    while not is_capped.all():
        left = max(rest - room * np.count_nonzero(is_capped), 0.0)
        extra = np.where(is_capped, room, weights * (left / weights[~is_capped].sum()))
        above = extra > room
        if not above.any():
            break
        is_capped |= above
    ends = np.floor(np.cumsum(extra) * (rest / max(extra.sum(), 1e-300)) + 1e-6).astype(np.int64)
    ends[-1] = rest
    quotas: Rows = (minimum + np.diff(ends, prepend=0)).astype(np.int32)
    return quotas


def _build_catalog(options: SynthesizeOptions, seed: np.uint64) -> Catalog:
    """Draw the items: popularity by a shuffled power law, two topics, release, fad, quality; build the tables."""
    n_items, n_topics = options.n_items, options.n_topics
    draws = np.empty((8, n_items), np.float64)
    for stream in range(8):
        hash_uniforms(seed, np.uint64(16 + stream), draws[stream])
    rank = np.empty(n_items, np.float64)
    rank[np.argsort(draws[0], kind="stable")] = np.arange(1, n_items + 1)
    # A user takes an item once, which by itself flattens the head of a small catalog; a large one needs help.
    popularity = 1.0 / (rank + _POPULARITY_OFFSET * n_items * (n_items / 2_000) ** 0.25)
    # The first n_topics ranks get one topic each, so that no topic is empty; sizes fall with the topic's number.
    first = np.where(rank <= n_topics, rank - 1, np.floor(n_topics * draws[1] ** 1.3)).astype(np.int32)
    second = np.floor(n_topics * draws[2]).astype(np.int32)
    is_hit = rank <= 0.01 * n_items  # the lasting favorites: there from the start, no fads
    is_new = (draws[3] < 0.3) & ~is_hit
    release_s = np.where(is_new, 0.9 * PERIOD_S * draws[4], -PERIOD_S * draws[4])
    quality = (draws[5] + draws[6] - 1.0) * np.sqrt(6.0)
    items = np.arange(n_items, dtype=np.int32)
    topic_of_entry = np.concatenate([first, second])
    order = np.argsort(topic_of_entry, kind="stable")
    entry_items = np.concatenate([np.concatenate([items, items])[order], items])
    weights = np.concatenate([np.concatenate([popularity, _SECOND_TOPIC_WEIGHT * popularity])[order], popularity])
    sizes = np.append(np.bincount(topic_of_entry, minlength=n_topics), n_items)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    slots = np.empty((entry_items.size, 3), np.int32)
    for table in range(n_topics + 1):
        span = slice(starts[table], starts[table + 1])
        build_alias(weights[span], entry_items[span], slots[span])
    topic_mass = np.bincount(first, weights=popularity, minlength=n_topics)
    return Catalog(
        slots,
        starts,
        np.cumsum(topic_mass) / topic_mass.sum(),
        np.stack([release_s, (draws[7] < 0.4) & ~is_hit, quality, first, second], axis=1).astype(np.float32),
    )


def _ids(prefix: str, n_all: int, start: int, stop: int, id_type: str) -> "pa.Array":
    """Give the ids of rows ``start`` to ``stop``; strings of one width, so that their order is the rows'."""
    numbers = np.arange(start + 1, stop + 1, dtype=np.int64)
    if id_type == "int64":
        return pa.array(numbers)
    width = len(str(n_all))
    text = np.empty((numbers.size, 1 + width), np.uint8)
    text[:, 0] = ord(prefix)
    for place in range(width):
        text[:, width - place] = ord("0") + numbers // 10**place % 10
    offsets = np.arange(numbers.size + 1, dtype=np.int64) * (1 + width)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text)]
    return pa.Array.from_buffers(pa.large_string(), numbers.size, buffers).cast(pa.string())


def _write_folder(
    output: str | Path, generator: _Generator, tally: _Tally, n_threads: int, *, overwrite: bool
) -> tuple[int, int]:
    """Write part files of a fixed number of row groups, one per free thread; give their count and size."""
    blocks = generator.user_blocks()
    parts = [blocks[first : first + _ROW_GROUPS_PER_PART] for first in range(0, len(blocks), _ROW_GROUPS_PER_PART)]
    with new_folder(output, overwrite=overwrite) as folder:

        def write_part(number: int) -> None:
            with folder.open_output(f"part-{number:05d}.parquet") as sink, generator.writer(sink) as writer:
                for block in parts[number]:
                    writer.write_table(generator.table(block, tally), row_group_size=2**31 - 1)

        run_blocks(write_part, range(len(parts)), n_threads)
        payload = {"n_interactions": tally.done, "options": generator.options.model_dump()}
        files = write_manifest(folder, "events", EVENTS_FORMAT_VERSION, payload)
    return len(parts), sum(entry.n_bytes for entry in files.values())


def _write_file(output: str | Path, generator: _Generator, tally: _Tally, n_threads: int) -> int:
    """Write one file; threads simulate as many row groups at once as there are threads."""
    blocks = generator.user_blocks()
    with _new_file(output) as (sink, size_of), generator.writer(sink) as writer:
        for first in range(0, len(blocks), n_threads):
            wave = blocks[first : first + n_threads]
            for table in run_blocks(lambda block: generator.table(block, tally), wave, n_threads):
                writer.write_table(table, row_group_size=2**31 - 1)
    return size_of()


def _check_file_output(output: str | Path, overwrite: bool) -> None:
    """Refuse a folder under the file's name, and a file unless it may be replaced."""
    filesystem, path = resolve_location(output)
    kind = filesystem.get_file_info(path).type
    if kind == pafs.FileType.Directory:
        raise OutputExistsError(f"{path}: a folder is in the way; choose another output")
    if kind == pafs.FileType.File and not overwrite:
        raise OutputExistsError(f"{path}: exists already; choose another output or pass --overwrite")


@contextmanager
def _new_file(output: str | Path) -> Iterator[tuple[Any, Callable[[], int]]]:
    """Write a file under a temporary name beside it; it takes its name when it is whole."""
    filesystem, path = resolve_location(output)
    parent, _, name = path.rpartition("/")
    folder = Folder(filesystem, parent)
    staged = f".{name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        with folder.open_output(staged) as sink:
            yield sink, lambda: int(filesystem.get_file_info(path).size)
        if folder.local_path is not None:
            with (folder.local_path / staged).open("rb") as stream:
                os.fsync(stream.fileno())
        filesystem.move(folder.file_path(staged), path)
    except BaseException as error:
        if folder.exists(staged):
            filesystem.delete_file(folder.file_path(staged))
        if isinstance(error, OSError):
            raise DataError(
                f"{path}: writing failed ({error}); nothing was left behind; free space or choose another place"
            ) from error
        raise
