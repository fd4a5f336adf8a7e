"""Ingest: from raw events to a dataset, in memory that does not grow with the input.

The steps, each a plain function over files and values, whose calls an executor may run side by side:

1. `spool_pieces`: read pieces of files, check, and spool events into buckets by a hash of the user id.
2. `reduce_bucket`: merge the duplicates of one bucket, code its ids.
3. `core_round`: drop users and items of a bucket with too few interactions, until none has.
4. `divide_bucket`: divide a bucket's interactions into train, validation and test.
5. `write_file`: gather the rows of a shard from all buckets, sort and write them.

The calling process holds the ids, hands out tasks, and computes the fingerprint; it never holds the
interactions. Everything between steps is in a scratch folder, removed on any exit. The dataset is the
same, byte for byte, whoever ran the tasks and however many there were.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet

from rgals.data.buckets import ReducePlan
from rgals.data.dataset import Dataset
from rgals.data.dataset_writer import DatasetWriter
from rgals.data.ids import IdDictionary
from rgals.data.ingest_options import IngestOptions
from rgals.data.ingest_steps import MergedEvents, ProgressCallback, divide_buckets, filter_cores, merge_buckets
from rgals.data.ledger import Ledger, add_counts
from rgals.data.manifest import QUARANTINE_NAME
from rgals.data.pieces import choose_piece_bytes, pack_pieces, plan_pieces
from rgals.data.readers import DEFAULT_BATCH_ROWS, estimate_rows
from rgals.data.scratch import Scratch, check_workers, scratch_folder
from rgals.data.sources import SourceFile, find_sources
from rgals.data.splits import SplitRule
from rgals.data.spool import (
    REJECTS_SCHEMA,
    SpoolPlan,
    SpoolSummary,
    SpoolTask,
    rejects_path,
    spool_path,
    spool_pieces,
)
from rgals.data.storage import Folder, check_output, new_folder
from rgals.data.tasks import SequentialRunner, TaskRunner
from rgals.errors import InputError

__all__ = ["BELOW_CORE", "OVERLAP", "IngestOptions", "ProgressCallback", "ingest"]

OVERLAP = "test interaction that train holds too"
BELOW_CORE = "user or item below the core"

_ROWS_PER_BUCKET = 500_000
_LEAST_ROWS_PER_BUCKET = 50_000
_BUCKETS_PER_WORKER = 4
_QUARANTINE_ROWS = 1 << 16
_MOST_BUCKETS = 512  # with more, the batches of a bucket become small


def ingest(
    sources: Sequence[str | Path],
    output: str | Path,
    options: IngestOptions | None = None,
    *,
    test_sources: Sequence[str | Path] = (),
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
    runner: TaskRunner | None = None,
    scratch: str | Path | None = None,
    n_buckets: int | None = None,
    batch_rows: int = DEFAULT_BATCH_ROWS,
    piece_bytes: int | None = None,
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
    runner : TaskRunner or None
        Runs the tasks of each step: any `rgals.execution.executor.Executor`, closed by the caller;
        None runs them here, one after the other. Workers on other machines must see the sources,
        a local output, and ``scratch``.
    scratch : str, Path or None
        Folder for temporary files, about 60 bytes for each event; None: beside a local output, else
        among the temporary files of this machine.
    n_buckets : int or None
        Into how many buckets users are spooled; None goes by the size of the input. A worker holds
        one bucket in memory at a time. The dataset does not depend on it.
    batch_rows : int
        Rows per batch of a Parquet file. The dataset does not depend on it.
    piece_bytes : int or None
        About how much of the sources a task reads; None goes by their size and the number of workers.
        The dataset does not depend on it.

    Returns
    -------
    Dataset
        The dataset written, opened.

    Raises
    ------
    InputError
        If the options do not fit the sources, too many rows are rejected, test events precede the
        train cut, nothing is left, or a worker does not see the scratch folder.
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
    run_tasks = runner or SequentialRunner()
    report = progress or (lambda _stage, _done, _total: None)
    target = check_output(output, overwrite)
    with (
        scratch_folder(target, scratch) as work,
        new_folder(target, overwrite=overwrite) as staged,
        _ended_tasks(run_tasks),
    ):
        work.note_staged(staged)
        files = _find_files(sources, test_sources, options)
        local = [file.path for file in files if isinstance(file.filesystem, pafs.LocalFileSystem)]
        check_workers(run_tasks, work.path, staged, local)
        if n_buckets is None:
            n_buckets = _choose_buckets(estimate_rows(files), run_tasks.n_workers)
        plan = SpoolPlan(work.folder("spool"), options, n_buckets, bool(test_sources), batch_rows)
        tasks = _plan_map(files, piece_bytes, run_tasks)
        summary = _spool(files, plan, tasks, run_tasks, report)
        _write_quarantine(staged, [rejects_path(plan.folder, task.place) for task in tasks])
        reduce_plan = ReducePlan(
            tuple(spool_path(plan.folder, task.place) for task in tasks),
            work.folder("merged"),
            users_are_int64=options.id_type != "string" and summary.users_can_be_int64,
            items_are_int64=options.id_type != "string" and summary.items_can_be_int64,
            duplicates=options.duplicates,
        )
        merged = merge_buckets(reduce_plan, n_buckets, run_tasks, report)
        shutil.rmtree(plan.folder)
        filtered, n_core_dropped = filter_cores(merged, options.user_core, options.item_core, run_tasks, report)
        ledger = _balance(summary, filtered, n_core_dropped)
        _write_dataset(staged, work, filtered, options, ledger, run_tasks, report)
    return Dataset.open(output)


@contextmanager
def _ended_tasks(runner: TaskRunner) -> Iterator[None]:
    """On an error, wait for the tasks under way, so that they write nothing into folders being removed."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # the error on its way says more
            runner.on_each_worker(_do_nothing, None)
        raise


def _do_nothing(_shared: None, _position: int, _context: Any) -> None:
    """Take a turn after the task before."""


def _choose_buckets(n_rows: int, n_workers: int) -> int:
    """Give a number of buckets that bounds memory, and that keeps several workers busy."""
    wanted = n_rows // _ROWS_PER_BUCKET
    if n_workers > 1:
        wanted = max(wanted, min(_BUCKETS_PER_WORKER * n_workers, n_rows // _LEAST_ROWS_PER_BUCKET))
    return min(max(wanted, 1), _MOST_BUCKETS)


def _find_files(
    sources: Sequence[str | Path], test_sources: Sequence[str | Path], options: IngestOptions
) -> list[SourceFile]:
    """List the files to read, those of an official split with their part."""
    files = find_sources(sources, options.format, "train" if test_sources else "all")
    if test_sources:
        files += find_sources(test_sources, options.format, "test", first_index=len(files))
        _refuse_shared_files(files)
    return files


def _plan_map(files: list[SourceFile], piece_bytes: int | None, runner: TaskRunner) -> list[SpoolTask]:
    """Cut the files into map tasks."""
    if piece_bytes is None:
        piece_bytes = choose_piece_bytes(files, runner.n_workers)
    pieces = plan_pieces(files, piece_bytes, runner)
    return [SpoolTask(index, packed) for index, packed in enumerate(pack_pieces(pieces, piece_bytes))]


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
    plan: SpoolPlan,
    tasks: list[SpoolTask],
    runner: TaskRunner,
    progress: ProgressCallback,
) -> SpoolSummary:
    """Run the map step over all files, and judge what it found."""
    summary, options = SpoolSummary(), plan.options
    if isinstance(runner, SequentialRunner):
        plan = plan._replace(note_rows=lambda n_rows: progress("read", summary.n_read + n_rows, None))
    for found in runner.map_ordered(spool_pieces, plan, tasks):
        summary.add(found)
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
    work: Scratch,
    merged: MergedEvents,
    options: IngestOptions,
    ledger: Ledger,
    runner: TaskRunner,
    progress: ProgressCallback,
) -> None:
    """Divide the interactions into parts and write them sorted."""
    users = IdDictionary.from_values(merged.live_user_ids())
    items = IdDictionary.from_values(merged.live_item_ids())
    runs = work.folder("sorting")
    writer = DatasetWriter(staged, users, items, options.n_shards, runs)
    for run in divide_buckets(merged, users, options.split, options.seed, runs, runner, progress):
        writer.add_run(run)
    shutil.rmtree(merged.folder)
    writer.finish(
        options.split,
        options.model_dump(mode="json", exclude={"split"}),
        ledger,
        runner=runner,
        progress=lambda n_written, n_total: progress("write", n_written, n_total),
    )


def _write_quarantine(staged: Folder, rejects: Sequence[Path]) -> None:
    """Gather the rejected rows of all map tasks in one file, in the order of the sources; none, no file."""
    paths = [path for path in rejects if path.exists()]
    if not paths:
        return
    waiting: list[pa.RecordBatch] = []
    with (
        staged.open_output(QUARANTINE_NAME) as output,
        pa.parquet.ParquetWriter(output, REJECTS_SCHEMA, compression="zstd") as writer,
    ):
        for path in paths:
            with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
                for batch in stream:
                    waiting.append(batch)
                    if sum(map(len, waiting)) >= _QUARANTINE_ROWS:
                        waiting = _write_groups(writer, waiting, _QUARANTINE_ROWS)
        _write_groups(writer, waiting, 1)


def _write_groups(
    writer: "pa.parquet.ParquetWriter", batches: list[pa.RecordBatch], least: int
) -> list[pa.RecordBatch]:
    """Write row groups that do not depend on how rows came in batches; give the rows that wait for more."""
    table = pa.Table.from_batches(batches, schema=REJECTS_SCHEMA)
    start = 0
    while table.num_rows - start >= least:
        writer.write_table(table.slice(start, _QUARANTINE_ROWS).combine_chunks())
        start += _QUARANTINE_ROWS
    rest: list[pa.RecordBatch] = table.slice(start).to_batches()
    return rest


def _name_files(files: list[SourceFile]) -> str:
    return files[0].path if len(files) == 1 else f"{files[0].path} and {len(files) - 1} more files"


def _utc(time: int) -> str:
    return str(np.datetime64(time, "us")) + "Z"
