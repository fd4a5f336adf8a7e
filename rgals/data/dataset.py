"""Datasets: written from unsorted interactions in bounded memory, opened shard by shard."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rgals.data.dataset_writer import DatasetWriter
from rgals.data.ids import IdDictionary
from rgals.data.manifest import (
    ITEM_IDS_NAME,
    USER_IDS_NAME,
    DatasetManifest,
    PartSummary,
    load_manifest,
    part_file_name,
)
from rgals.data.shard_files import FileSchema, SortedEntries, read_entry_file
from rgals.data.shards import ShardRange
from rgals.data.storage import FileEntry, Folder, verify_file
from rgals.errors import DataError, InputError
from rgals.names import Offsets, Part, Side
from rgals.numerics.sparse import InteractionRows

__all__ = ["Dataset", "DatasetWriter"]


class Dataset:
    """Interactions, ids and parts of one folder; an `InteractionSource`. Made by `open`.

    Files are read when they are asked for and compared with their checksums the first time. Nothing
    that was read is kept, except the ids. A dataset sent to another process is opened there again.
    """

    def __init__(self, folder: Folder, manifest: DatasetManifest, files: dict[str, FileEntry]) -> None:
        self._folder, self._manifest, self._files = folder, manifest, files
        self._verified: set[str] = set()

    @classmethod
    def open(cls, location: str | Path | Folder) -> "Dataset":
        """Read a dataset's manifest.

        Parameters
        ----------
        location : str, Path or Folder
            Local path or pyarrow filesystem URI.

        Raises
        ------
        DataError
            If there is no finished dataset, or its manifest does not add up.
        FormatVersionError
            If a newer rgals wrote it.
        """
        folder = Folder.at(location)
        dataset = cls(folder, *load_manifest(folder))
        dataset._location = location
        return dataset

    _location: str | Path | Folder

    _expected: str = ""
    """Fingerprint that a dataset sent from another process must have; it is compared when the folder is opened."""

    def __getattr__(self, name: str) -> Any:
        if name not in {"_folder", "_manifest", "_files", "_verified"} or not self._expected:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        found = Dataset.open(self._location)
        if found.fingerprint != self._expected:
            raise DataError(
                f"{found._folder}: expected dataset {self._expected[:12]}, found {found.fingerprint[:12]} on this "
                "machine; every node must see the same folder, and it must not be replaced while it is in use"
            )
        self._folder, self._manifest, self._files = found._folder, found._manifest, found._files
        self._verified = set()
        return self.__dict__[name]

    @property
    def location(self) -> str | Path | Folder:
        """What `open` was given; opening it again gives an equal dataset."""
        return self._location

    def __reduce__(self) -> tuple[Any, ...]:
        location = self._location
        if not isinstance(location, Folder) and "://" not in str(location):
            # A relative path means another place in another process.
            location = type(location)(Path(location).expanduser().absolute())
        return _open_later, (location, self.fingerprint)

    def __repr__(self) -> str:
        return (
            f"Dataset({str(self._folder)!r}: {self.n_users} users, {self.n_items} items, "
            f"{self.n_interactions} training interactions)"
        )

    @property
    def manifest(self) -> DatasetManifest:
        """What the folder says about itself."""
        return self._manifest

    @property
    def n_users(self) -> int:
        """Number of user rows."""
        return self._manifest.n_users

    @property
    def n_items(self) -> int:
        """Number of item rows."""
        return self._manifest.n_items

    @property
    def n_interactions(self) -> int:
        """Number of training interactions."""
        return self._manifest.parts["train"].n_interactions

    @property
    def fingerprint(self) -> str:
        """SHA-256 of ids and interactions of all parts; the same for any number of shards."""
        return self._manifest.fingerprint

    @cached_property
    def user_ids(self) -> IdDictionary:
        """Ids of the user rows."""
        return self._read_ids(USER_IDS_NAME, self.n_users)

    @cached_property
    def item_ids(self) -> IdDictionary:
        """Ids of the item rows."""
        return self._read_ids(ITEM_IDS_NAME, self.n_items)

    @property
    def n_bytes(self) -> int:
        """Size of all files, without the manifest."""
        return sum(entry.n_bytes for entry in self._files.values())

    @property
    def part_names(self) -> tuple[Part, ...]:
        """The parts that hold interactions, and train."""
        return tuple(self._manifest.parts)

    def has_part(self, part: Part) -> bool:
        """Tell whether a part holds interactions (train counts always)."""
        return part in self._manifest.parts

    def shard_ranges(self, side: Side) -> tuple[ShardRange, ...]:
        """Give the row range of each shard of a side, in row order."""
        return tuple(entry.range for entry in self._manifest.shards[side])

    def load_shard(self, side: Side, index: int) -> InteractionRows:
        """Read one shard of training interactions.

        Returns
        -------
        InteractionRows
            The shard's rows of ``side`` by all rows of the other side.

        Raises
        ------
        DataError
            If the file is missing or does not fit the manifest; `ChecksumError` if its bytes differ.
        """
        entry = self._manifest.shards[side][index]
        entries = self._read_shard(side, index)
        return _compress(entries, entry.start, entry.stop, self.n_items if side == "user" else self.n_users)

    def read_part(self, part: Part) -> InteractionRows:
        """Read a whole part, all users by all items.

        Raises
        ------
        InputError
            If the dataset has no such part.
        DataError
            As `load_shard`.
        """
        return _compress(_concatenate(list(self.iter_entries(part))), 0, self.n_users, self.n_items)

    def read_times(self, part: Part) -> Offsets:
        """Read the times of a part.

        Returns
        -------
        int64 array of shape (n_interactions,)
            UTC microseconds since 1970, in the order of the entries of `read_part`.

        Raises
        ------
        InputError
            If the dataset has no times or no such part.
        """
        if not self._manifest.has_times:
            raise InputError(f"{self._folder}: the dataset has no times; name a time column when it is ingested")
        times = _concatenate(list(self.iter_entries(part))).times
        return np.zeros(0, dtype=np.int64) if times is None else times

    def iter_entries(self, part: Part) -> Iterator[SortedEntries]:
        """Go through a part in bounded memory: train shard by shard, any other part at once.

        Yields
        ------
        SortedEntries
            Entries ascending by user row, then item row, with weights and times.

        Raises
        ------
        InputError
            If the dataset has no such part.
        DataError
            As `load_shard`.
        """
        summary = self._summary(part)
        if part == "train":
            for index in range(len(self._manifest.shards["user"])):
                yield self._read_shard("user", index)
            return
        schema = FileSchema("user", summary.has_weights, self._manifest.has_times)
        yield self._read_entries(part_file_name(part), schema, summary.n_interactions, (0, self.n_users), self.n_items)

    def verify(self) -> None:
        """Compare every file with its checksum.

        Raises
        ------
        DataError
            If a file is missing; `ChecksumError` if its bytes differ.
        """
        for name in self._files:
            self._verify(name)

    def _summary(self, part: Part) -> PartSummary:
        if part not in self._manifest.parts:
            raise InputError(
                f"{self._folder}: expected the part {part!r}, found {', '.join(self._manifest.parts)} "
                f"(split {self._manifest.split.kind!r}); ingest with a split that makes it"
            )
        return self._manifest.parts[part]

    def _read_shard(self, side: Side, index: int) -> SortedEntries:
        entry = self._manifest.shards[side][index]
        # Times are stored once, by user.
        has_times = self._manifest.has_times and side == "user"
        schema = FileSchema(side, self._summary("train").has_weights, has_times)
        n_columns = self.n_items if side == "user" else self.n_users
        return self._read_entries(entry.name, schema, entry.n_interactions, (entry.start, entry.stop), n_columns)

    def _read_entries(
        self, name: str, schema: FileSchema, n_entries: int, row_range: tuple[int, int], n_columns: int
    ) -> SortedEntries:
        """Read a file and refuse rows that are not the manifest's: kernels do not check bounds."""
        self._verify(name)
        entries = read_entry_file(self._folder, name, schema, n_entries)
        if n_entries and not (
            row_range[0] <= entries.rows[0]
            and entries.rows[-1] < row_range[1]
            and (entries.rows[1:] >= entries.rows[:-1]).all()
            and entries.columns.min() >= 0
            and entries.columns.max() < n_columns
        ):
            raise DataError(
                f"{self._folder.label(name)}: expected ascending rows from {row_range[0]} to {row_range[1] - 1} "
                f"and columns below {n_columns}, found others; restore it or ingest again"
            )
        return entries

    def _read_ids(self, name: str, n_rows: int) -> IdDictionary:
        self._verify(name)
        ids = IdDictionary.read(self._folder, name)
        if len(ids) != n_rows:
            raise DataError(f"{self._folder.label(name)}: expected {n_rows} ids, found {len(ids)}; ingest again")
        return ids

    def _verify(self, name: str) -> None:
        if name not in self._verified:
            verify_file(self._folder, name, self._files)
            self._verified.add(name)


def _concatenate(parts: list[SortedEntries]) -> SortedEntries:
    if len(parts) == 1:
        return parts[0]
    rows, columns, weights, times = zip(*parts, strict=True)
    return SortedEntries(
        np.concatenate(rows),
        np.concatenate(columns),
        None if weights[0] is None else np.concatenate(weights),
        None if times[0] is None else np.concatenate(times),
    )


def _open_later(location: str | Path | Folder, fingerprint: str) -> Dataset:
    """Make a dataset that opens itself, in another process, when it is first asked for something."""
    dataset = Dataset.__new__(Dataset)
    dataset._location, dataset._expected = location, fingerprint
    return dataset


def _compress(entries: SortedEntries, start: int, stop: int, n_columns: int) -> InteractionRows:
    """Replace the rows of sorted entries by offsets."""
    indptr = np.zeros(stop - start + 1, dtype=np.int64)
    np.cumsum(np.bincount(entries.rows - start, minlength=stop - start), out=indptr[1:])
    return InteractionRows(indptr, entries.columns, entries.weights, n_columns)
