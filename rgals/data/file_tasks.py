"""The write step of an ingest: each file of a dataset is a task, made from the runs of all buckets."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from rgals.data.runs import read_runs
from rgals.data.scratch import whole_file
from rgals.data.shard_files import EntryFileWriter, FileSchema, entry_dtype, record_bytes, sort_records
from rgals.data.storage import FileEntry, Folder
from rgals.errors import DataError
from rgals.names import Part, Side

__all__ = ["FilePlan", "FileTask", "WrittenFile", "write_file"]


class FilePlan(NamedTuple):
    """What all tasks that write files share.

    Parameters
    ----------
    staged : Folder
        Where the files go.
    runs : mapping
        For each part, its runs.
    n_rows : mapping
        For each side, the rows of its dictionary.
    has_weights : mapping
        For each part, whether any weight differs from 1.
    has_times : bool
        Whether the runs by user have times.
    """

    staged: Folder
    runs: Mapping[Part, tuple[Path, ...]]
    n_rows: Mapping[Side, int]
    has_weights: Mapping[Part, bool]
    has_times: bool


class FileTask(NamedTuple):
    """One file to write.

    Parameters
    ----------
    name : str
        Its name in the dataset.
    part : str
        Its part.
    side : {"user", "item"}
        The side that it is sorted by.
    ranges : tuple of tuples of int and int
        Its rows, in ranges that are sorted one at a time.
    sorted_path : Path or None
        Where the sorted records are written too, for the fingerprint.
    """

    name: str
    part: Part
    side: Side
    ranges: tuple[tuple[int, int], ...]
    sorted_path: Path | None


class WrittenFile(NamedTuple):
    """What became of a task: the file's size and checksum, and its interactions."""

    entry: FileEntry
    n_interactions: int


def write_file(plan: FilePlan, task: FileTask, _context: Any = None) -> WrittenFile:
    """Sort the interactions of some rows and write them as one file.

    Raises
    ------
    InputError
        If a pair of user and item is there twice.
    DataError
        If the folder of the output is gone.
    """
    has_times = plan.has_times and task.side == "user"
    schema = FileSchema(task.side, plan.has_weights[task.part], has_times)
    local, n_interactions = plan.staged.local_path, 0
    if local is not None and not (local / task.name).parent.is_dir():
        raise DataError(f"{local}: the folder of the output is gone; was it removed while it was written?")
    with ExitStack() as files:
        output = files.enter_context(EntryFileWriter(plan.staged, task.name, schema))
        copy: BinaryIO | None = None
        if task.sorted_path is not None:
            copy = files.enter_context(files.enter_context(whole_file(task.sorted_path)).open("wb"))
        for start, stop in task.ranges:
            dtype = entry_dtype(has_times=has_times)
            found = read_runs(plan.runs[task.part], task.side, start, stop, plan.n_rows[task.side], dtype)
            if not found.size:
                continue
            records = sort_records(found, task.side)
            del found
            output.write(records)
            if copy is not None:
                copy.write(record_bytes(records))
            n_interactions += records.size
    return WrittenFile(FileEntry(plan.staged.n_bytes(task.name), plan.staged.sha256(task.name)), n_interactions)
