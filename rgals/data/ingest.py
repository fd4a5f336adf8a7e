"""Ingest: from raw events to a dataset, in memory that does not grow with the input.

The steps, each a plain function over files and values, so that an executor can run the calls of a
step side by side and give the same dataset:

1. `spool_sources`: read, check, and spool events into buckets by a hash of the user id.
2. `reduce_bucket`: merge the duplicates of one bucket, code its ids.
3. `core_round`: drop users and items with too few interactions, until none has.
4. `assign_parts`: divide a bucket's interactions into train, validation and test.
5. `DatasetWriter`: sort by row, write shards, ids, manifest.

Everything between steps is in a scratch folder beside the output, removed on any exit.
"""

import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from rgals.data.buckets import ReducePlan
from rgals.data.dataset import Dataset
from rgals.data.dataset_writer import DatasetWriter
from rgals.data.ids import IdDictionary
from rgals.data.ingest_options import IngestOptions
from rgals.data.ingest_steps import MergedEvents, ProgressCallback, divide_buckets, filter_cores, merge_buckets
from rgals.data.ledger import Ledger, add_counts
from rgals.data.manifest import QUARANTINE_NAME
from rgals.data.readers import DEFAULT_BATCH_ROWS, estimate_rows
from rgals.data.sources import SourceFile, find_sources
from rgals.data.splits import SplitRule
from rgals.data.spool import REJECTS_NAME, REJECTS_SCHEMA, SpoolSummary, spool_sources
from rgals.data.storage import Folder, new_folder
from rgals.errors import InputError

__all__ = ["BELOW_CORE", "OVERLAP", "IngestOptions", "ProgressCallback", "ingest"]

OVERLAP = "test interaction that train holds too"
BELOW_CORE = "user or item below the core"

_ROWS_PER_BUCKET = 500_000
_MOST_BUCKETS = 256  # each is an open file while events are spooled


def ingest(
    sources: Sequence[str | Path],
    output: str | Path,
    options: IngestOptions | None = None,
    *,
    test_sources: Sequence[str | Path] = (),
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
    n_buckets: int | None = None,
    batch_rows: int = DEFAULT_BATCH_ROWS,
) -> Dataset:
    """Turn raw events into a dataset.

    Parameters
    ----------
    sources : sequence of str or Path
        Files, folders and globs; local paths or pyarrow filesystem URIs. With ``test_sources``,
        the train part of an official split.
    output : str or Path
        The dataset's folder, written whole or not at all.
    options : IngestOptions or None
        Columns, rules and split; None takes the defaults.
    test_sources : sequence of str or Path
        The test part of an official split.
    overwrite : bool
        Whether a dataset already there may be replaced.
    progress : callable or None
        Told how far each stage is.
    n_buckets : int or None
        Into how many buckets users are spooled; None goes by the size of the input. A bucket is
        held in memory at a time. The dataset does not depend on it.
    batch_rows : int
        Rows per batch of a Parquet file. The dataset does not depend on it.

    Returns
    -------
    Dataset
        The dataset written, opened.

    Raises
    ------
    InputError
        If the options do not fit the sources, too many rows are rejected, test events precede the
        train cut, or nothing is left.
    OutputExistsError
        If the output exists and may not be replaced.
    DataError
        If a source cannot be read or the output cannot be written.

    Notes
    -----
    The dataset is the same for the same rows and options, in whatever files and order they come,
    but for the policy ``last`` without times, which follows the order of the sources: as given,
    the files of a folder or glob sorted by path.
    """
    options = options or IngestOptions()
    if test_sources and options.split.kind == "none":
        options = options.model_copy(update={"split": SplitRule(kind="official")})
    _check_options(options, is_official=bool(test_sources))
    with new_folder(output, overwrite=overwrite) as staged, _scratch_folder(output) as scratch:
        files = find_sources(sources, options.format, "train" if test_sources else "all")
        if test_sources:
            files += find_sources(test_sources, options.format, "test", first_index=len(files))
            _refuse_shared_files(files)
        if n_buckets is None:
            n_buckets = min(max(estimate_rows(files) // _ROWS_PER_BUCKET, 1), _MOST_BUCKETS)
        report = progress or (lambda _stage, _done, _total: None)
        spool_folder = scratch / "spool-0000"
        summary = _spool(files, spool_folder, options, n_buckets, batch_rows, report)
        plan = ReducePlan(
            (spool_folder,),
            scratch / "merged",
            users_are_int64=options.id_type != "string" and summary.users_can_be_int64,
            items_are_int64=options.id_type != "string" and summary.items_can_be_int64,
            duplicates=options.duplicates,
        )
        merged = merge_buckets(plan, n_buckets, report)
        filtered, n_core_dropped = filter_cores(merged, options.user_core, options.item_core, report)
        ledger = _balance(summary, filtered, n_core_dropped)
        _write_quarantine(staged, plan.spool_folders)
        _write_dataset(staged, scratch / "sorting", filtered, options, ledger, report)
    return Dataset.open(output)


def _check_options(options: IngestOptions, *, is_official: bool) -> None:
    """Refuse options that contradict each other or the sources."""
    rule = options.split
    if rule.needs_times and options.time_column is None:
        raise InputError(f"split {rule.kind!r} needs times; name their column with --time-column")
    if is_official != (rule.kind == "official"):
        if is_official:
            raise InputError(f"train and test sources are a split already, found split {rule.kind!r}; use 'official'")
        raise InputError("split 'official' needs test sources; pass --train FILES --test FILES")
    if is_official and max(options.user_core, options.item_core) > 1:
        raise InputError("a core filter would change an official split; filter the files before they are split")


def _refuse_shared_files(files: list[SourceFile]) -> None:
    train = {file.path for file in files if file.part == "train"}
    for file in files:
        if file.part == "test" and file.path in train:
            raise InputError(f"{file.path}: named as train and as test; name each file once")


def _spool(
    files: list[SourceFile],
    folder: Path,
    options: IngestOptions,
    n_buckets: int,
    batch_rows: int,
    progress: ProgressCallback,
) -> SpoolSummary:
    """Run the map step over all files, and judge what it found."""
    summary = SpoolSummary()
    for summary in spool_sources(files, folder, options, n_buckets, batch_rows):
        progress("read", summary.n_read, None)
    if summary.n_read == 0:
        raise InputError(f"{_name_files(files)}: no rows; expected at least one event")
    if summary.n_rejected > options.reject_limit * summary.n_read:
        examples = "; ".join(
            f"{count} with {reason}, first {summary.first_rejects[reason].describe()}"
            for reason, count in sorted(summary.rejected.items())
        )
        raise InputError(
            f"{summary.n_rejected} of {summary.n_read} rows rejected, more than the reject limit of "
            f"{options.reject_limit:g} allows: {examples}; repair the files or raise --reject-limit"
        )
    train, test = summary.latest_train, summary.earliest_test
    if train is not None and test is not None and test.time < train.time:
        raise InputError(
            f"{test.source}, row {test.row}: test event at {_utc(test.time)} before the train cut, the last train "
            f"event at {_utc(train.time)} ({train.source}, row {train.row}); move such events to train, or leave out "
            "--time-column if the split is not by time"
        )
    return summary


def _balance(summary: SpoolSummary, merged: MergedEvents, n_core_dropped: int) -> Ledger:
    """Draw up the ledger and check that every row is in it once."""
    dropped = dict(summary.dropped)
    add_counts(dropped, {OVERLAP: sum(one.n_overlap for one in merged.buckets), BELOW_CORE: n_core_dropped})
    ledger = Ledger(
        read=summary.n_read,
        kept=merged.n_interactions - n_core_dropped,
        merged=sum(one.n_merged for one in merged.buckets),
        dropped=dropped,
        rejected=summary.rejected,
    )
    if not ledger.is_balanced:
        raise RuntimeError(f"the ledger does not add up: {ledger}")  # a bug, not a caller's mistake
    if ledger.kept == 0:
        lines = ", ".join(f"{name} {count}" for name, count in ledger.describe())
        raise InputError(f"no interactions are left ({lines}); loosen the filters or check the files")
    return ledger


def _write_dataset(
    staged: Folder,
    scratch: Path,
    merged: MergedEvents,
    options: IngestOptions,
    ledger: Ledger,
    progress: ProgressCallback,
) -> None:
    """Divide the interactions into parts and write them sorted."""
    users = IdDictionary.from_values(merged.live_user_ids())
    items = IdDictionary.from_values(merged.live_item_ids())
    writer = DatasetWriter(staged, users, items, options.n_shards, scratch)
    for bucket in divide_buckets(merged, users, options.split, options.seed, progress):
        for code in np.unique(bucket.parts).tolist():
            chosen = bucket.parts == code
            writer.add(
                code,
                bucket.user_rows[chosen],
                bucket.item_rows[chosen],
                None if bucket.weights is None else bucket.weights[chosen],
                None if bucket.times is None else bucket.times[chosen],
            )
    progress("write", 0, None)
    writer.finish(options.split, options.model_dump(mode="json", exclude={"split"}), ledger)
    progress("write", 1, 1)


def _write_quarantine(staged: Folder, spool_folders: Sequence[Path]) -> None:
    """Gather the rejected rows of all map tasks in one file; none, no file."""
    paths = [folder / REJECTS_NAME for folder in spool_folders if (folder / REJECTS_NAME).exists()]
    if not paths:
        return
    with (
        staged.open_output(QUARANTINE_NAME) as output,
        pa.parquet.ParquetWriter(output, REJECTS_SCHEMA, compression="zstd") as writer,
    ):
        for path in paths:
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
                for batch in stream:
                    writer.write_batch(batch)


@contextmanager
def _scratch_folder(output: str | Path) -> Iterator[Path]:
    """Make a folder for temporary files beside a local output, where there is room for it anyway."""
    target = Folder.at(output).local_path
    if target is None:
        folder = Path(tempfile.mkdtemp(prefix="rgals-ingest-"))
    else:
        folder = target.with_name(f".{target.name}.scratch-{uuid.uuid4().hex[:8]}")
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _name_files(files: list[SourceFile]) -> str:
    return files[0].path if len(files) == 1 else f"{files[0].path} and {len(files) - 1} more files"


def _utc(time: int) -> str:
    return str(np.datetime64(time, "us")) + "Z"
