"""Indexes beside the versions of a registry, with the recall that they were judged by."""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from rgals.artifact.item_index import (
    IndexOptions,
    IndexRecord,
    ItemIndex,
    build_item_index,
    choose_search,
    measure_recall,
    open_item_index,
)
from rgals.artifact.model import Model
from rgals.artifact.registry_copy import ModelFiles
from rgals.artifact.registry_store import RegistryStore
from rgals.data.storage import Folder, replace_file
from rgals.errors import ChecksumError, DataError, FormatVersionError

__all__ = [
    "INDEX_NAME", "BuiltIndex", "FetchedIndex", "attach_index", "build_index", "fetch_attached_index",
    "read_index_record",
]  # fmt: skip

INDEX_NAME = "index.usearch"
_RECORD_NAME = "index.json"
_FOLDER_NAME = "indexes"
_FORMAT_VERSION = 2
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class BuiltIndex:
    """An index that was built and judged, and is not attached to anything yet.

    Parameters
    ----------
    path : Path
        The file, in a temporary folder.
    record : IndexRecord
        How it was built and judged.
    """

    path: Path
    record: IndexRecord


@dataclass(frozen=True, slots=True)
class FetchedIndex:
    """An index on the local disk whose bytes are those that were judged.

    Parameters
    ----------
    path : Path
        The file.
    record : IndexRecord
        How it was built and judged.
    """

    path: Path
    record: IndexRecord

    def open(self, model: Model) -> ItemIndex:
        """Open it for the model whose version it was attached to.

        Raises
        ------
        DataError
            If it belongs to another model or cannot be read.
        """
        if self.record.factor_sha256 != model.factor_checksum:
            raise DataError(f"{self.path}: the index belongs to another model; publish with --index again")
        return open_item_index(self.path, model.n_items, self.record.expansion_search)


@contextmanager
def build_index(
    model: Model, options: IndexOptions, n_threads: int, progress: Callable[[int, int | None], None] | None = None
) -> Iterator[BuiltIndex]:
    """Build an index over a model's items and measure its recall; its file is gone when the context ends.

    Parameters
    ----------
    model : Model
        The model.
    options : IndexOptions
        How to build and to judge.
    n_threads : int
        Number of threads.
    progress : callable or None
        Called with the items added and their number.

    Yields
    ------
    BuiltIndex
        The index.

    Raises
    ------
    MissingDependencyError
        If usearch is not installed.
    InputError
        If no user has interactions to judge by.
    """
    started_s = time.perf_counter()
    index = build_item_index(model.item_factors, options, n_threads, progress)
    build_s = time.perf_counter() - started_s
    with tempfile.TemporaryDirectory(prefix="rgals-index-") as folder:
        path = Path(folder) / INDEX_NAME
        index.save(path)
        search = choose_search(model.contents, index, options, n_threads)
        del index
        # Judged as it will be used: opened from its file, which does not know how it is searched.
        opened = open_item_index(path, model.n_items, search)
        recall, n_users = measure_recall(model.contents, opened, options, n_threads)
        record = IndexRecord(
            library=f"usearch {version('usearch')}",
            options=options,
            expansion_search=search,
            n_items=model.n_items,
            factor_sha256=model.factor_checksum,
            sha256=_hash_file(path),
            n_bytes=path.stat().st_size,
            recall=recall,
            n_users=n_users,
            build_s=build_s,
        )
        yield BuiltIndex(path, record)


def attach_index(registry: str | Path | Folder, model: Model, built: BuiltIndex) -> None:
    """Put an index beside a version; its record goes first and comes last: a half-written index does not count.

    Raises
    ------
    DataError
        If this is not a registry, or it cannot be written to.
    """
    store = RegistryStore.open(registry)
    folder = store.folder_beside(_FOLDER_NAME, ModelFiles.of(model).manifest_sha256)
    folder.remove_file(_RECORD_NAME)
    with built.path.open("rb") as stream:
        store.write_file(folder, INDEX_NAME, iter(partial(stream.read, _BLOCK_BYTES), b""))
    store.write_file(folder, _RECORD_NAME, (built.record.model_dump_json(indent=2) + "\n").encode())


def read_index_record(registry: str | Path | Folder, manifest_sha256: str) -> IndexRecord | None:
    """Read how the index of a version was judged; None where there is none.

    Raises
    ------
    DataError
        If it cannot be read.
    FormatVersionError
        If a newer rgals wrote it.
    """
    folder = RegistryStore.open(registry).folder_beside(_FOLDER_NAME, manifest_sha256)
    if not folder.exists(_RECORD_NAME):
        return None
    place = folder.label(_RECORD_NAME)
    try:
        document = json.loads(folder.read_bytes(_RECORD_NAME))
        if int(document["format_version"]) > _FORMAT_VERSION:
            raise FormatVersionError(f"{place}: written by a newer rgals; upgrade rgals")
        return IndexRecord.model_validate(document)
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise DataError(f"{place}: not a readable record ({error}); publish with --index again") from error


def fetch_attached_index(registry: str | Path | Folder, manifest_sha256: str, cache: Path) -> FetchedIndex | None:
    """Find the index of a version if there is one that was judged well enough, and compare its checksum.

    Parameters
    ----------
    registry : str, Path or Folder
        Local path or pyarrow filesystem URI.
    manifest_sha256 : str
        SHA-256 of the version's manifest.
    cache : Path
        Local folder for a copy where the registry is not on a local disk.

    Returns
    -------
    FetchedIndex or None
        None where there is none, or its recall is below its gate.

    Raises
    ------
    ChecksumError
        If its bytes are not those that were judged.
    DataError
        If it cannot be read.
    """
    record = read_index_record(registry, manifest_sha256)
    if record is None or not record.is_passed:
        return None
    folder = RegistryStore.open(registry).folder_beside(_FOLDER_NAME, manifest_sha256)
    path = None if folder.local_path is None else folder.local_path / INDEX_NAME
    if path is None:
        path = cache / f"{record.sha256}.usearch"
        if not path.exists():
            _copy(folder, path)
    found = _hash_file(path)
    if found != record.sha256:
        raise ChecksumError(
            f"{path}: expected SHA-256 {record.sha256[:12]}, found {found[:12]}; publish with --index again"
        )
    return FetchedIndex(path, record)


def _copy(folder: Folder, path: Path) -> None:
    """Copy an index to the local disk, and remove the copies but the newest two: mapped ones stay in memory."""
    with folder.open_input(INDEX_NAME) as source:
        replace_file(path, iter(partial(source.read, _BLOCK_BYTES), b""))
    copies = sorted(path.parent.glob(f"*{path.suffix}"), key=lambda copy: copy.stat().st_mtime_ns)
    for copy in copies[:-2]:
        copy.unlink(missing_ok=True)


def _hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
