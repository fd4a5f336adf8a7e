"""The writer of datasets: gathers interactions in runs as they come, then sorts and writes them.

Every file is a function of the ids and interactions and the number of shards alone: not of the order
in which interactions were added, nor of how they were cut into batches or runs, nor of who sorted them.
"""

import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rgals.data.file_tasks import FilePlan, FileTask, write_file
from rgals.data.ids import IdDictionary
from rgals.data.ledger import Ledger
from rgals.data.manifest import (
    FORMAT_VERSION,
    ITEM_IDS_NAME,
    KIND,
    USER_IDS_NAME,
    DatasetManifest,
    PartSummary,
    ShardEntry,
    part_file_name,
    shard_file_name,
)
from rgals.data.runs import PartRun, remove_run, write_run
from rgals.data.shard_files import Records, entry_dtype, row_ranges
from rgals.data.shards import ShardRange, default_shard_count, plan_shards
from rgals.data.splits import PART_NAMES, SplitRule
from rgals.data.storage import FileEntry, Folder, write_manifest
from rgals.data.tasks import SequentialRunner, TaskRunner
from rgals.errors import InputError
from rgals.names import IntArray, Offsets, Part, Side

__all__ = ["DatasetWriter"]

_BUFFER_RECORDS = 1 << 21
_HASH_IDS = 1 << 20
_HASH_BYTES = 1 << 22
_SIDES: tuple[Side, Side] = ("user", "item")


@dataclass(slots=True)
class _PartRuns:
    """The interactions of one part so far."""

    degrees: dict[Side, Offsets]
    runs: list[Path] = field(default_factory=list)
    pending: list[Records] = field(default_factory=list)
    n_interactions: int = 0
    has_weights: bool = False


class DatasetWriter:
    """Collects interactions in any order and writes them as a dataset.

    Parameters
    ----------
    staged : Folder
        Where the dataset goes: the folder that `rgals.data.storage.new_folder` yields. Files that
        are there already, such as a quarantine file, become part of it.
    user_ids, item_ids : IdDictionary
        The ids of the rows; rows without interactions are allowed.
    n_shards : int or None
        Wanted number of shards on each side; None chooses by `rgals.data.shards.default_shard_count`.
    scratch : Path
        An empty local folder for unsorted interactions: up to 36 bytes for each, 52 with times.

    Raises
    ------
    InputError
        If ``n_shards`` is below 1.
    """

    def __init__(
        self, staged: Folder, user_ids: IdDictionary, item_ids: IdDictionary, n_shards: int | None, scratch: Path
    ) -> None:
        if n_shards is not None and n_shards < 1:
            raise InputError(f"n_shards: expected at least 1, found {n_shards}; leave it out to choose by size")
        self._staged, self._n_shards, self._scratch = staged, n_shards, scratch
        self._ids: dict[Side, IdDictionary] = {"user": user_ids, "item": item_ids}
        self._parts: dict[Part, _PartRuns] = {}
        self._has_times: bool | None = None
        self._n_pending = self._n_flushed = 0
        self._scratch.mkdir(parents=True, exist_ok=True)

    def add(
        self,
        part_code: int,
        user_rows: IntArray,
        item_rows: IntArray,
        weights: "NDArray[np.floating[Any]] | None" = None,
        times: Offsets | None = None,
    ) -> None:
        """Add interactions of one part; each pair of user and item may be added once.

        Parameters
        ----------
        part_code : int
            Position of the part in `rgals.data.splits.PART_NAMES`.
        user_rows, item_rows : integer arrays of shape (n,)
            Rows in the dictionaries.
        weights : float array of shape (n,) or None
            Finite and positive in float32; None stands for 1.
        times : int64 array of shape (n,) or None
            UTC microseconds since 1970; in every call or in none.

        Raises
        ------
        InputError
            If a row is outside its dictionary, a weight is not finite and positive, the lengths
            differ, or only some calls have times.
        """
        if not user_rows.size:
            return
        self._check_times(has_times=times is not None)
        records = np.empty(user_rows.size, dtype=entry_dtype(has_times=times is not None))
        for side, rows in zip(_SIDES, (user_rows, item_rows), strict=True):
            _check_length(f"{side}_rows", rows, user_rows.size)
            self._check_rows(side, rows)
            records[side] = rows
        records["weight"] = 1.0
        part = self._part(part_code)
        if weights is not None:
            _check_length("weights", weights, user_rows.size)
            records["weight"] = weights
            _check_weights(records["weight"])
        if times is not None:
            _check_length("times", times, user_rows.size)
            records["time"] = times
        part.pending.append(records)
        self._n_pending += records.size
        if self._n_pending >= _BUFFER_RECORDS:
            self._flush()

    def add_run(self, run: PartRun) -> None:
        """Add interactions that are in a run already; each pair of user and item may be added once.

        Parameters
        ----------
        run : PartRun
            A run of valid rows and weights, written for dictionaries of the same sizes; its files are
            deleted by `finish`.

        Raises
        ------
        InputError
            If only some interactions have times.
        """
        self._check_times(has_times=run.has_times)
        part = self._part(PART_NAMES.index(run.part))
        part.runs.append(run.path)  # the degrees of all runs together would be as large as the interactions
        part.n_interactions += run.n_interactions
        part.has_weights |= run.has_weights
        for side, found in zip(_SIDES, (run.user_degrees, run.item_degrees), strict=True):
            part.degrees[side][found.rows] += found.counts

    def finish(
        self,
        split: SplitRule | None = None,
        options: Mapping[str, Any] | None = None,
        ledger: Ledger | None = None,
        *,
        runner: TaskRunner | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> DatasetManifest:
        """Sort and write everything, the manifest last; the writer is used up.

        Parameters
        ----------
        split : SplitRule or None
            The rule that made the parts, for the manifest; None stands for no split.
        options : mapping or None
            The options of the run, JSON values, for the manifest.
        ledger : Ledger or None
            What became of the rows read; None stands for all rows kept.
        runner : TaskRunner or None
            Writes the files side by side; all its workers must see ``staged`` and ``scratch``. None
            writes them here, one after the other.
        progress : callable or None
            Told how many interactions are written, and how many there are to write (those of train
            are written twice).

        Raises
        ------
        InputError
            If a pair of user and item was added twice to a part, or the ledger does not add up to
            the interactions added.
        """
        self._flush()
        n_kept = sum(part.n_interactions for part in self._parts.values())
        ledger = ledger or Ledger(read=n_kept, kept=n_kept)
        if not ledger.is_balanced or ledger.kept != n_kept:
            raise InputError(f"ledger: expected {n_kept} interactions kept and all rows accounted for, found {ledger}")
        self._part(0)
        for side, name in zip(_SIDES, (USER_IDS_NAME, ITEM_IDS_NAME), strict=True):
            self._ids[side].write(self._staged, name)
        shards: dict[Side, tuple[ShardEntry, ...]] = {side: self._plan_shards(side) for side in _SIDES}
        tasks = self._file_tasks(shards)
        entries, fingerprint = self._write_files(tasks, runner or SequentialRunner(), progress or (lambda *_: None))
        for part in self._parts.values():
            for path in part.runs:
                remove_run(path)
        manifest = self._manifest(fingerprint, shards, split or SplitRule(), options or {}, ledger)
        payload = {
            **manifest.model_dump(mode="json"),
            "split": manifest.split.model_dump(mode="json", exclude_none=True),
        }
        write_manifest(self._staged, KIND, FORMAT_VERSION, payload, known=entries)
        return manifest

    def _flush(self) -> None:
        """Write what is in memory as runs."""
        for name, part in self._parts.items():
            if part.pending:
                path = self._scratch / f"added-{self._n_flushed:06d}"
                records = np.concatenate(part.pending)
                part.pending.clear()
                self._n_flushed += 1
                self.add_run(write_run(path, name, records, len(self._ids["user"]), len(self._ids["item"])))
        self._n_pending = 0

    def _plan_shards(self, side: Side) -> tuple[ShardEntry, ...]:
        """Divide the training interactions of a side into shards."""
        train = self._parts["train"]
        n_shards = self._n_shards or default_shard_count(train.n_interactions)
        ranges: tuple[ShardRange, ...] = plan_shards(train.degrees[side], n_shards)
        return tuple(
            ShardEntry(
                name=shard_file_name(side, index),
                start=shard.start,
                stop=shard.stop,
                n_interactions=shard.n_interactions,
            )
            for index, shard in enumerate(ranges)
        )

    def _file_tasks(self, shards: Mapping[Side, tuple[ShardEntry, ...]]) -> list[FileTask]:
        """Give a task for each file; the held-out parts first, which may be the largest files."""
        tasks: list[FileTask] = []
        for name in sorted(self._parts, key=lambda name: (name == "train", PART_NAMES.index(name))):
            part = self._parts[name]
            for side in _SIDES if name == "train" else _SIDES[:1]:
                names, bounds = [part_file_name(name)], [0, len(self._ids[side])]
                if name == "train":
                    names = [shard.name for shard in shards[side]]
                    bounds = [0, *(shard.stop for shard in shards[side])]
                for index, ranges in enumerate(row_ranges(part.degrees[side], bounds)):
                    sorted_path = self._scratch / f"sorted-{name}-{index:06d}.bin" if side == "user" else None
                    tasks.append(FileTask(names[index], name, side, tuple(ranges), sorted_path))
        return tasks

    def _write_files(
        self, tasks: list[FileTask], runner: TaskRunner, progress: Callable[[int, int], None]
    ) -> tuple[dict[str, FileEntry], str]:
        """Write all files; give what is known of each, and the fingerprint."""
        plan = FilePlan(
            self._staged,
            {name: tuple(part.runs) for name, part in self._parts.items()},
            {side: len(self._ids[side]) for side in _SIDES},
            {name: part.has_weights for name, part in self._parts.items()},
            has_times=bool(self._has_times),
        )
        if (folder := self._staged.local_path) is not None:
            for side in _SIDES:  # here, not in the tasks: what is gone must not come back
                (folder / shard_file_name(side, 0)).parent.mkdir(exist_ok=True)
        digest = hashlib.sha256(b"rgals dataset 1\n")
        for side in _SIDES:
            _hash_ids(digest, self._ids[side])
        digest.update(b"times\n" if self._has_times else b"no times\n")
        digest.update(f"train {self._parts['train'].n_interactions}\n".encode())
        n_total = sum(part.n_interactions * (2 if name == "train" else 1) for name, part in self._parts.items())
        n_written = 0
        entries: dict[str, FileEntry] = {}
        progress(0, n_total)
        for task, written in zip(tasks, runner.map_ordered(write_file, plan, tasks), strict=True):
            entries[task.name] = written.entry
            if task.part == "train":
                _hash_sorted(digest, task)  # while the workers go on
            n_written += written.n_interactions
            progress(n_written, n_total)
        for task in tasks:
            if task.part != "train":
                digest.update(f"{task.part} {self._parts[task.part].n_interactions}\n".encode())
                _hash_sorted(digest, task)
        return entries, digest.hexdigest()

    def _manifest(
        self,
        fingerprint: str,
        shards: dict[Side, tuple[ShardEntry, ...]],
        split: SplitRule,
        options: Mapping[str, Any],
        ledger: Ledger,
    ) -> DatasetManifest:
        parts = {
            name: PartSummary(
                n_interactions=part.n_interactions,
                n_users=int(np.count_nonzero(part.degrees["user"])),
                n_items=int(np.count_nonzero(part.degrees["item"])),
                has_weights=part.has_weights,
            )
            for name in PART_NAMES
            if (part := self._parts.get(name)) is not None
        }
        return DatasetManifest(
            fingerprint=fingerprint,
            n_users=len(self._ids["user"]),
            n_items=len(self._ids["item"]),
            user_id_kind=self._ids["user"].kind,
            item_id_kind=self._ids["item"].kind,
            has_times=bool(self._has_times),
            parts=parts,
            shards=shards,
            split=split,
            options=dict(options),
            ledger=ledger,
            versions={"rgals": importlib.metadata.version("rgals"), "pyarrow": pa.__version__},
        )

    def _part(self, part_code: int) -> _PartRuns:
        if not 0 <= part_code < len(PART_NAMES):
            raise InputError(f"part_code: expected 0 to {len(PART_NAMES) - 1}, found {part_code}")
        name = PART_NAMES[part_code]
        if name not in self._parts:
            self._parts[name] = _PartRuns({side: np.zeros(len(ids), np.int64) for side, ids in self._ids.items()})
        return self._parts[name]

    def _check_times(self, *, has_times: bool) -> None:
        if self._has_times is None:
            self._has_times = has_times
        elif self._has_times != has_times:
            raise InputError("times: expected in every call or in none, found in some; pass them always")

    def _check_rows(self, side: Side, rows: IntArray) -> None:
        n_rows = len(self._ids[side])
        if rows.min() < 0 or rows.max() >= n_rows:
            raise InputError(f"{side}_rows: expected 0 to {n_rows - 1}, found {rows.min()} to {rows.max()}")


def _check_length(name: str, values: NDArray[Any], n_expected: int) -> None:
    if values.shape != (n_expected,):
        raise InputError(f"{name}: expected shape ({n_expected},), found {values.shape}")


def _check_weights(weights: NDArray[Any]) -> None:
    is_bad = ~(np.isfinite(weights) & (weights > 0))
    if is_bad.any():
        first = int(np.argmax(is_bad))
        raise InputError(
            f"weights: expected finite positive float32 numbers, found {weights[first]} at position {first} and "
            f"{int(is_bad.sum()) - 1} more"
        )


def _hash_sorted(digest: Any, task: FileTask) -> None:
    """Take in the sorted records of a file, and delete them; nothing for files by item."""
    if task.sorted_path is None:
        return
    with task.sorted_path.open("rb") as stream:
        while content := stream.read(_HASH_BYTES):
            digest.update(content)
    task.sorted_path.unlink()


def _hash_ids(digest: Any, ids: IdDictionary) -> None:
    """Take in a dictionary: its kind and length, then integers, or the strings' lengths and bytes."""
    digest.update(f"{ids.kind} {len(ids)}\n".encode())
    blocks = [ids.values[start : start + _HASH_IDS] for start in range(0, len(ids), _HASH_IDS)]
    if ids.kind == "int64":
        for block in blocks:
            digest.update(block.to_numpy().astype("<i8").tobytes())
        return
    for block in blocks:
        digest.update(np.diff(_offsets(block)).astype("<i8").tobytes())
    for block in blocks:
        offsets = _offsets(block)
        data = block.buffers()[2]
        if data is not None:
            digest.update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])


def _offsets(texts: "pa.Array") -> Offsets:
    """Give the n + 1 offsets of a large_string array into its data."""
    return np.frombuffer(texts.buffers()[1], dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
