"""Where a service's models come from: the current version of a registry, or one model folder."""

import fcntl
import logging
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np

from rgals.artifact.item_index import ItemIndex
from rgals.artifact.model import Model
from rgals.artifact.queries import RankingRequest
from rgals.artifact.registry import CurrentVersion, read_current, read_history
from rgals.artifact.registry_copy import ModelFiles, copy_model
from rgals.artifact.registry_index import FetchedIndex, fetch_attached_index
from rgals.artifact.registry_records import Event
from rgals.data.storage import Folder, new_folder
from rgals.errors import ChecksumError, NumericalError
from rgals.names import MANIFEST_NAME
from rgals.numerics.vector_kernels import measure_rows

__all__ = ["FolderSource", "Found", "ModelSource", "RegistrySource", "ServedModel", "check_and_warm"]

logger = logging.getLogger("rgals.service")


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model that answers requests.

    Parameters
    ----------
    model : Model
        The model.
    version : str
        Its name: the registry's, or the first digits of its checksum.
    loaded_at : datetime
        When this worker had loaded it, UTC.
    since : datetime or None
        When it became current in the registry, UTC; None for a model folder.
    publication : Event or None
        Its publication, with what the gate measured; None for a model folder.
    index : ItemIndex or None
        Finds the items of single lists; None looks at all.
    """

    model: Model
    version: str
    loaded_at: datetime
    since: datetime | None = None
    publication: Event | None = None
    index: ItemIndex | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a source has now.

    Parameters
    ----------
    identity : str
        Equal as long as there is nothing new.
    version : str
        Name of the version.
    load : callable
        Opens, verifies and warms it.
    """

    identity: str
    version: str
    load: Callable[[], ServedModel]


class ModelSource(Protocol):
    """Where models come from."""

    def look(self) -> Found:
        """Tell what is there now; cheap.

        Raises
        ------
        DataError
            If there is nothing, or it cannot be read.
        """


class RegistrySource:
    """The current version of a registry.

    Parameters
    ----------
    registry : str
        Local path or URI.
    cache : Path
        Folder for copies of versions that are not on a local disk; all workers share it.
    uses_index : bool
        Whether an index that was judged well enough is used.
    """

    def __init__(self, registry: str, cache: Path, *, uses_index: bool = True) -> None:
        self._registry, self._cache, self._uses_index = registry, cache, uses_index

    def look(self) -> Found:
        """Read the pointer of the registry."""
        current = read_current(self._registry)
        return Found(current.event.id, current.version, lambda: self._load(current))

    def _load(self, current: CurrentVersion) -> ServedModel:
        # Checksums need no interpreter: what else takes long goes on beside them.
        with ThreadPoolExecutor(2) as aside:
            fetching = aside.submit(self._fetch_index, current)
            aside.submit(_load_kernels)
            model = current.open() if current.folder.local_path is not None else self._open_copy(current)
            check_and_warm(model)
            fetched = fetching.result()
        index = None if fetched is None else fetched.open(model)
        publication = self._find_publication(current)
        return ServedModel(model, current.version, datetime.now(UTC), current.since, publication, index)

    def _fetch_index(self, current: CurrentVersion) -> FetchedIndex | None:
        if not self._uses_index:
            return None
        return fetch_attached_index(self._registry, current.manifest_sha256, self._cache)

    def _find_publication(self, current: CurrentVersion) -> Event:
        """Find the publication of a version that a rollback made current again."""
        if current.event.action == "publish":
            return current.event
        for event in read_history(self._registry):
            if event.action == "publish" and event.version == current.version:
                return event
        return current.event

    def _open_copy(self, current: CurrentVersion) -> Model:
        """Copy a version to the local disk unless another worker did, and open it there, where workers share it."""
        files = ModelFiles.at(current.folder)
        if files.manifest_sha256 != current.manifest_sha256:
            raise ChecksumError(
                f"{current.folder.label(MANIFEST_NAME)}: expected SHA-256 {current.manifest_sha256[:12]}, as it was "
                f"published, found {files.manifest_sha256[:12]}; restore the version, or roll back to another one"
            )
        self._cache.mkdir(parents=True, exist_ok=True)
        target = Folder.at(self._cache / current.manifest_sha256)
        with (self._cache / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists(MANIFEST_NAME):
                with new_folder(target) as staged:
                    copy_model(files, staged)
                self._forget(current.manifest_sha256)
        return Model.open(target)

    def _forget(self, kept: str) -> None:
        """Remove the copies but the newest two; those that are in use stay in memory until they are not."""
        copies = [path for path in self._cache.iterdir() if path.is_dir() and not path.name.startswith(".")]
        copies.sort(key=lambda path: (path.name == kept, path.stat().st_mtime_ns))
        for path in copies[:-2]:
            shutil.rmtree(path, ignore_errors=True)


class FolderSource:
    """One model folder, opened once.

    Parameters
    ----------
    location : str
        Local path or URI.
    """

    def __init__(self, location: str) -> None:
        self._location = location

    def look(self) -> Found:
        """Name the folder."""
        return Found(self._location, "folder", self._load)

    def _load(self) -> ServedModel:
        model = Model.open(self._location)
        check_and_warm(model)
        return ServedModel(model, model.factor_checksum[:12], datetime.now(UTC))


def _load_kernels() -> None:
    """Let the compiler read what it needs for any kernel at all."""
    rows = np.zeros((1, 1), dtype=np.float32)
    rows.flags.writeable = False  # as those of a model
    measure_rows(rows, np.zeros(1))


def check_and_warm(model: Model) -> None:
    """See that a model can answer, and let its first request find everything ready.

    Raises
    ------
    NumericalError
        If a factor is NaN or infinite.
    DataError
        If a file is not what it should be.
    """
    contents = model.contents
    for side, norms in (("user", contents.user_norms), ("item", contents.item_norms)):
        bad = np.flatnonzero(~np.isfinite(norms))
        if bad.size:
            raise NumericalError(
                f"{model.location}: {bad.size} {side} rows have factors that are NaN or infinite, the first is row "
                f"{bad[0]}"
            )
    _ = contents.popular_rows
    row = np.zeros(1, dtype=np.int64)
    item = model.item_ids.ids_of(row)[0]
    user = model.user_ids.ids_of(row)[0] if model.n_users else None
    requests = [
        RankingRequest(user_id=user, fallback="popular"),
        RankingRequest(history=[item]),
        RankingRequest(user_id="", fallback="popular"),
    ]
    for request in requests if user is not None else requests[1:]:
        for answer in model.answer([request], n_threads=1):
            if isinstance(answer, Exception):
                raise answer
    model.similar_items(item, 1, n_threads=1)
