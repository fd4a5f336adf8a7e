"""The writer of datasets: spools interactions as they come, then sorts and writes them.

Every file is a function of the ids and interactions and the number of shards alone: not of the order
in which interactions were added, nor of how they were cut into batches.
"""

import hashlib
import importlib.metadata
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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
from rgals.data.shard_files import EntryFileWriter, EntrySpool, FileSchema, entry_dtype, record_bytes, sorted_ranges
from rgals.data.shards import ShardRange, plan_shards
from rgals.data.splits import PART_NAMES, SplitRule
from rgals.data.storage import Folder, write_manifest
from rgals.errors import InputError
from rgals.names import IntArray, Offsets, Part, Side

__all__ = ["DatasetWriter"]

_INTERACTIONS_PER_SHARD = 4_000_000
_LEAST_SHARDS = 4
_HASH_IDS = 1 << 20


@dataclass(slots=True)
class _PartSpool:
    """The interactions of one part so far."""

    spool: EntrySpool
    user_degrees: Offsets
    item_degrees: Offsets
    n_interactions: int = 0
    has_weights: bool = field(default=False)

    def degrees(self, side: Side) -> Offsets:
        return self.user_degrees if side == "user" else self.item_degrees


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
        Wanted number of shards on each side; None takes one for each 4 million training
        interactions, at least 4.
    scratch : Path
        An empty local folder for unsorted interactions: twice 12 bytes for each, 20 with times.

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
        self._parts: dict[Part, _PartSpool] = {}
        self._has_times: bool | None = None
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
        self._check_times(times)
        records = np.empty(user_rows.size, dtype=entry_dtype(has_times=times is not None))
        for side, rows in (("user", user_rows), ("item", item_rows)):
            _check_length(f"{side}_rows", rows, user_rows.size)
            self._check_rows("user" if side == "user" else "item", rows)
            records[side] = rows
        records["weight"] = 1.0
        part = self._part(part_code)
        if weights is not None:
            _check_length("weights", weights, user_rows.size)
            records["weight"] = weights
            _check_weights(records["weight"])
            part.has_weights = part.has_weights or bool((records["weight"] != 1).any())
        if times is not None:
            _check_length("times", times, user_rows.size)
            records["time"] = times
        part.user_degrees += np.bincount(user_rows, minlength=part.user_degrees.size)
        part.item_degrees += np.bincount(item_rows, minlength=part.item_degrees.size)
        part.n_interactions += user_rows.size
        part.spool.append(records)

    def finish(
        self,
        split: SplitRule | None = None,
        options: Mapping[str, Any] | None = None,
        ledger: Ledger | None = None,
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

        Raises
        ------
        InputError
            If a pair of user and item was added twice to a part, or the ledger does not add up to
            the interactions added.
        """
        n_kept = sum(part.n_interactions for part in self._parts.values())
        ledger = ledger or Ledger(read=n_kept, kept=n_kept)
        if not ledger.is_balanced or ledger.kept != n_kept:
            raise InputError(f"ledger: expected {n_kept} interactions kept and all rows accounted for, found {ledger}")
        train = self._part(0)
        self._ids["user"].write(self._staged, USER_IDS_NAME)
        self._ids["item"].write(self._staged, ITEM_IDS_NAME)
        digest = hashlib.sha256(b"rgals dataset 1\n")
        for side in ("user", "item"):
            _hash_ids(digest, self._ids["user" if side == "user" else "item"])
        digest.update(b"times\n" if self._has_times else b"no times\n")
        shards: dict[Side, tuple[ShardEntry, ...]] = {}
        for name in PART_NAMES:
            if name not in self._parts:
                continue
            part = self._parts[name]
            digest.update(f"{name} {part.n_interactions}\n".encode())
            if name == "train":
                shards["user"] = self._write_shards(train, "user", digest)
                shards["item"] = self._write_shards(train, "item", None)
            else:
                self._write_files(part, "user", [part_file_name(name)], [0, len(self._ids["user"])], digest)
            part.spool.remove()
        manifest = self._manifest(digest.hexdigest(), shards, split or SplitRule(), options or {}, ledger)
        payload = {
            **manifest.model_dump(mode="json"),
            "split": manifest.split.model_dump(mode="json", exclude_none=True),
        }
        write_manifest(self._staged, KIND, FORMAT_VERSION, payload)
        return manifest

    def _write_shards(self, train: _PartSpool, side: Side, digest: Any) -> tuple[ShardEntry, ...]:
        """Write the training interactions by one side."""
        n_shards = self._n_shards or max(_LEAST_SHARDS, math.ceil(train.n_interactions / _INTERACTIONS_PER_SHARD))
        ranges: tuple[ShardRange, ...] = plan_shards(train.degrees(side), n_shards)
        names = [shard_file_name(side, index) for index in range(len(ranges))]
        self._write_files(train, side, names, [0, *(shard.stop for shard in ranges)], digest)
        return tuple(
            ShardEntry(name=name, start=shard.start, stop=shard.stop, n_interactions=shard.n_interactions)
            for name, shard in zip(names, ranges, strict=True)
        )

    def _write_files(self, part: _PartSpool, side: Side, names: list[str], bounds: list[int], digest: Any) -> None:
        """Write one file for each pair of bounds; ``digest`` takes in the sorted records."""
        schema = FileSchema(side, part.has_weights, bool(self._has_times) and side == "user")
        ranges = sorted_ranges(part.spool, side, part.degrees(side), bounds, self._scratch)
        current = next(ranges, None)
        for index, name in enumerate(names):
            with EntryFileWriter(self._staged, name, schema) as file:
                while current is not None and current[0] == index:
                    file.write(current[1])
                    if digest is not None:
                        digest.update(record_bytes(current[1]))
                    current = next(ranges, None)

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
                n_users=int(np.count_nonzero(part.user_degrees)),
                n_items=int(np.count_nonzero(part.item_degrees)),
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

    def _part(self, part_code: int) -> _PartSpool:
        if not 0 <= part_code < len(PART_NAMES):
            raise InputError(f"part_code: expected 0 to {len(PART_NAMES) - 1}, found {part_code}")
        name = PART_NAMES[part_code]
        if name not in self._parts:
            self._parts[name] = _PartSpool(
                EntrySpool(self._scratch / f"{name}.bin", entry_dtype(has_times=bool(self._has_times))),
                np.zeros(len(self._ids["user"]), dtype=np.int64),
                np.zeros(len(self._ids["item"]), dtype=np.int64),
            )
        return self._parts[name]

    def _check_times(self, times: Offsets | None) -> None:
        if self._has_times is None:
            self._has_times = times is not None
        elif self._has_times != (times is not None):
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
