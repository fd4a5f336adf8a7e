"""The manifest of a dataset: what the folder says about itself."""

from typing import Any

import numpy as np
import pydantic
from pydantic import BaseModel, ConfigDict, NonNegativeInt

from rgals.data.ids import IdKind
from rgals.data.ledger import Ledger
from rgals.data.shards import ShardRange
from rgals.data.splits import SplitRule
from rgals.data.storage import FileEntry, Folder, read_manifest
from rgals.errors import DataError
from rgals.names import Part, Side

__all__ = [
    "FORMAT_VERSION",
    "ITEM_IDS_NAME",
    "KIND",
    "QUARANTINE_NAME",
    "USER_IDS_NAME",
    "DatasetManifest",
    "PartSummary",
    "ShardEntry",
    "load_manifest",
    "part_file_name",
    "shard_file_name",
]

KIND = "dataset"
FORMAT_VERSION = 1
"""Raised when a folder of today's rgals could be misread by yesterday's."""

USER_IDS_NAME = "user_ids.parquet"
ITEM_IDS_NAME = "item_ids.parquet"
QUARANTINE_NAME = "quarantine.parquet"
"""The rejected rows of an ingest; absent if there were none."""


class PartSummary(BaseModel):
    """Counts of one part."""

    model_config = ConfigDict(frozen=True)

    n_interactions: NonNegativeInt
    """Interactions of the part."""

    n_users: NonNegativeInt
    """Users with at least one of them."""

    n_items: NonNegativeInt
    """Items with at least one of them."""

    has_weights: bool
    """Whether any weight differs from 1; the files have a column of weights only then."""


class ShardEntry(BaseModel):
    """One file of training interactions."""

    model_config = ConfigDict(frozen=True)

    name: str
    """The file, relative to the folder."""

    start: NonNegativeInt
    """The first row of its range."""

    stop: NonNegativeInt
    """The row after its last."""

    n_interactions: NonNegativeInt
    """Its number of interactions."""

    @property
    def range(self) -> ShardRange:
        """The row range, as the trainer plans with it."""
        return ShardRange(self.start, self.stop, self.n_interactions)


class DatasetManifest(BaseModel):
    """What ``manifest.json`` says of a dataset, besides format version and checksums.

    Fields that this version does not know are ignored: whatever changes the meaning of a file
    raises the format version instead.
    """

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    """SHA-256 of ids and interactions, in hexadecimal; the same for any number of shards."""

    n_users: NonNegativeInt
    """Rows of the user dictionary."""

    n_items: NonNegativeInt
    """Rows of the item dictionary."""

    user_id_kind: IdKind
    """Type of the user ids."""

    item_id_kind: IdKind
    """Type of the item ids."""

    has_times: bool
    """Whether the interactions have times."""

    parts: dict[Part, PartSummary]
    """Counts by part; parts without interactions are left out, except train."""

    shards: dict[Side, tuple[ShardEntry, ...]]
    """The files of the training interactions by side, in row order."""

    split: SplitRule
    """The rule that made the parts."""

    options: dict[str, Any]
    """The options of the run that wrote the dataset, as JSON values."""

    ledger: Ledger
    """What became of every row read."""

    versions: dict[str, str]
    """Versions of the packages that wrote it."""


def load_manifest(folder: Folder) -> tuple[DatasetManifest, dict[str, FileEntry]]:
    """Read and check a dataset's manifest.

    Raises
    ------
    DataError
        If the folder is not a finished dataset, or its manifest does not add up.
    FormatVersionError
        If a newer rgals wrote it.
    """
    payload, files = read_manifest(folder, KIND, FORMAT_VERSION)
    try:
        manifest = DatasetManifest.model_validate(payload)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise DataError(
            f"{folder}: manifest field {where}: {first['msg']}, found {first['input']!r}; "
            "restore the folder or ingest again"
        ) from error
    _check(folder, manifest, files)
    return manifest, files


def shard_file_name(side: Side, index: int) -> str:
    """Give the name of a file of training interactions."""
    return f"by_{side}/train-{index:05d}.parquet"


def part_file_name(part: Part) -> str:
    """Give the name of the file of a held-out part."""
    return f"{part}.parquet"


def _check(folder: Folder, manifest: DatasetManifest, files: dict[str, FileEntry]) -> None:
    """Refuse a manifest whose parts contradict each other."""
    if max(manifest.n_users, manifest.n_items) > np.iinfo(np.int32).max:
        raise DataError(f"{folder}: {manifest.n_users} users, {manifest.n_items} items: more than int32 rows hold")
    train = manifest.parts.get("train")
    if train is None:
        raise DataError(f"{folder}: the manifest has no train part; restore the folder or ingest again")
    for side, n_rows in (("user", manifest.n_users), ("item", manifest.n_items)):
        entries = manifest.shards.get("user" if side == "user" else "item", ())
        bounds = [0, *(entry.stop for entry in entries)]
        n_interactions = sum(entry.n_interactions for entry in entries)
        starts = [entry.start for entry in entries]
        if not entries or starts != bounds[:-1] or bounds[-1] != n_rows or n_interactions != train.n_interactions:
            raise DataError(
                f"{folder}: the {side} shards of the manifest do not cover {n_rows} rows and "
                f"{train.n_interactions} interactions; restore the folder or ingest again"
            )
    names = [USER_IDS_NAME, ITEM_IDS_NAME, *(part_file_name(part) for part in manifest.parts if part != "train")]
    names += [entry.name for entries in manifest.shards.values() for entry in entries]
    missing = [name for name in names if name not in files]
    if missing:
        raise DataError(f"{folder}: the manifest lists no file {missing[0]}; restore the folder or ingest again")
