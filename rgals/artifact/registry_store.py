"""The files of a registry: its pointer, its events, its version folders, and who may write them.

On a local disk a lock lets one process write at a time; it goes with the process, however it ends.
An object store has no locks and no renaming: there a number is claimed by an object in its folder,
and belongs to whoever finds itself alone after claiming it.
"""

import fcntl
import json
import os
import random
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow.fs as pafs

from rgals.artifact.registry_copy import ModelFiles, copy_model
from rgals.artifact.registry_records import FORMAT_VERSION, CurrentRecord, Event, encode_record, parse_record
from rgals.data.storage import Folder, new_folder, redact, replace_file
from rgals.errors import DataError, FormatVersionError, InputError
from rgals.names import MANIFEST_NAME

__all__ = ["CURRENT_NAME", "HISTORY_NAME", "REGISTRY_NAME", "RegistryStore"]

CURRENT_NAME = "CURRENT"
HISTORY_NAME = "history"
REGISTRY_NAME = "registry.json"
"""Says that a folder is a registry; its first file."""

_KIND = "registry"
_LOCK_NAME = ".lock"
_STAGED_PREFIX = ".candidate-"
_REMOVED_PREFIX = ".removed-"
_CLAIM_PREFIX = ".claim-"
_VERSION = re.compile(r"v([0-9]{5,9})")
_MAX_CLAIMS = 20
_CLAIM_WAIT_S = 0.2


class RegistryStore:
    """The files of one registry; made by `RegistryStore.open`.

    Parameters
    ----------
    folder : Folder
        The registry.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    @classmethod
    def open(cls, location: "str | Path | Folder", *, create: bool = False) -> "RegistryStore":
        """Open a registry.

        Parameters
        ----------
        location : str, Path or Folder
            Local path or pyarrow filesystem URI.
        create : bool
            Whether a folder that is not there, or empty, becomes a registry.

        Raises
        ------
        DataError
            If there is no registry and none may be created, or its ``registry.json`` cannot be read.
        InputError
            If the folder holds other things.
        FormatVersionError
            If a newer rgals made it.
        """
        folder = Folder.at(location)
        store = cls(folder)
        if folder.exists(REGISTRY_NAME):
            store._check_marker()
            return store
        if not create:
            raise DataError(f"{folder}: no {REGISTRY_NAME}, so this is not a registry; check the path")
        found = [name for name in store._names() if not name.startswith(".")]
        if REGISTRY_NAME in found:  # made by somebody else just now
            store._check_marker()
            return store
        if found:
            raise InputError(
                f"{folder}: holds {found[0]} but no {REGISTRY_NAME}, so it is not a registry; choose a folder that is "
                "new or empty"
            )
        marker = {"kind": _KIND, "format_version": FORMAT_VERSION}
        store.write_file(folder, REGISTRY_NAME, (json.dumps(marker) + "\n").encode())
        return store

    def read_current(self) -> CurrentRecord | None:
        """Read the pointer; None before the first version."""
        if not self.folder.exists(CURRENT_NAME):
            return None
        return parse_record(CurrentRecord, self.folder.read_bytes(CURRENT_NAME), self.folder.label(CURRENT_NAME))

    def read_events(self) -> list[Event]:
        """Read the history, oldest first; what made the current version current is in it in any case."""
        history = self.folder.child(HISTORY_NAME)
        names = [name for name in history.file_names() if name.endswith(".json") and not name.startswith(".")]
        events = [parse_record(Event, history.read_bytes(name), history.label(name)) for name in names]
        current = self.read_current()
        if current is not None and all(event.id != current.event.id for event in events):
            events.append(current.event)
        return sorted(events, key=lambda event: event.id)

    def write_event(self, event: Event) -> None:
        """Add an event to the history."""
        self.write_file(self.folder.child(HISTORY_NAME), f"{event.id}.json", encode_record(event))

    def set_current(self, event: Event) -> None:
        """Let an event's version be the current one: the moment at which it happens is the writing of ``CURRENT``.

        The event lies in ``CURRENT`` too, and whoever replaces ``CURRENT`` sees first that the event of the
        former one is in the history: a process killed in between loses nothing.
        """
        if event.version is None or event.model is None:
            raise RuntimeError("an event without a version cannot be current")  # a bug, not a caller's mistake
        former = self.read_current()
        if former is not None and not self.folder.exists(f"{HISTORY_NAME}/{former.event.id}.json"):
            self.write_event(former.event)
        record = CurrentRecord(
            version=event.version, since=event.at, manifest_sha256=event.model.manifest_sha256, event=event
        )
        self.write_file(self.folder, CURRENT_NAME, encode_record(record))
        # It has happened: what fails now must not look like a version that is not current. The event lies in
        # CURRENT, every reader takes it from there, and whoever replaces CURRENT puts it into the history first.
        with suppress(DataError, OSError):
            self.write_event(event)

    def version_folder(self, version: str) -> Folder:
        """Address a version's model folder."""
        return self.folder.child(version)

    def has_version(self, version: str) -> bool:
        """Tell whether a version's folder is there and finished."""
        return self.folder.exists(f"{version}/{MANIFEST_NAME}")

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other writers of a local registry out, and clear away what killed ones left.

        On an object store, and on a filesystem without locks, nobody is kept out.
        """
        local = self.folder.local_path
        if local is None:
            yield
            return
        try:
            stream = (local / _LOCK_NAME).open("ab")
        except OSError as error:
            raise DataError(f"{local}: cannot be written to ({error}); choose another registry") from error
        with stream:
            is_locked = False
            with suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX)
                is_locked = True
            if is_locked:
                _remove_leftovers(local)
            yield

    def add_version(self, model: ModelFiles, progress: Callable[[int, int | None], None] | None = None) -> str:
        """Copy a model in under the next free number.

        Parameters
        ----------
        model : ModelFiles
            The model.
        progress : callable or None
            Called with the bytes copied and their total.

        Returns
        -------
        str
            The version; until `set_current` names it, nothing refers to it.

        Raises
        ------
        ChecksumError
            If a file is not what the model's manifest promises, at the source or after copying.
        DataError
            If the disk is full, or the place cannot be written to.
        """
        local = self.folder.local_path
        if local is None:
            version = self._claim_remote()
            folder = self.version_folder(version)
            try:
                copy_model(model, folder, progress)
                for name in folder.file_names():
                    if name.startswith(_CLAIM_PREFIX):
                        folder.remove_file(name)
            except BaseException:
                with suppress(OSError, DataError):
                    folder.remove()
                raise
            return version
        staged = local / f"{_STAGED_PREFIX}{uuid.uuid4().hex[:8]}"
        with new_folder(staged) as folder:
            copy_model(model, folder, progress)
        try:
            return _take_number(staged, self._next_number())
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise

    def remove_version(self, version: str) -> None:
        """Delete a version's folder; at any moment it is whole or not a version."""
        local = self.folder.local_path
        if local is None:
            self.version_folder(version).remove()
            return
        aside = local / f"{_REMOVED_PREFIX}{version}-{uuid.uuid4().hex[:8]}"
        try:
            (local / version).rename(aside)
        except OSError as error:
            raise DataError(f"{local / version}: cannot be removed ({error}); check its permissions") from error
        shutil.rmtree(aside, ignore_errors=True)

    def _claim_remote(self) -> str:
        """Make an object in the folder of the next number; the number is ours if nothing else is in it then."""
        claim = _CLAIM_PREFIX + uuid.uuid4().hex
        for _ in range(_MAX_CLAIMS):
            version = _version_name(self._next_number())
            folder = self.version_folder(version)
            folder.write_bytes(claim, b"")
            if folder.file_names() == [claim]:
                return version
            folder.remove_file(claim)
            # Two that claimed at once both gave way: they shall not meet again.
            time.sleep(random.uniform(0, _CLAIM_WAIT_S))  # noqa: S311
        raise DataError(
            f"{self.folder}: {_MAX_CLAIMS} version numbers in a row were claimed by others; publish again when they "
            "are done"
        )

    def _next_number(self) -> int:
        """Give the number after all that were ever used, by versions or by what killed processes left."""
        names = self._names()
        history = self.folder.child(HISTORY_NAME).file_names()
        numbers = [int(found[1]) for name in names if (found := _VERSION.fullmatch(name))]
        numbers += [int(found[1]) for name in history if (found := re.search(rf"-{_VERSION.pattern}-", name))]
        return max(numbers, default=0) + 1

    def _names(self) -> list[str]:
        """List what is directly in the registry."""
        selector = pafs.FileSelector(self.folder.path, recursive=False, allow_not_found=True)
        try:
            info = self.folder.filesystem.get_file_info(self.folder.path)
            if info.type == pafs.FileType.File:
                raise InputError(f"{self.folder}: is a file; choose a folder for the registry")
            return sorted(found.base_name for found in self.folder.filesystem.get_file_info(selector))
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be read ({redact(str(error))}); check the path") from error

    def _check_marker(self) -> None:
        place = self.folder.label(REGISTRY_NAME)
        try:
            marker = json.loads(self.folder.read_bytes(REGISTRY_NAME))
            kind, version = marker["kind"], int(marker["format_version"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{place}: not readable ({error!r}); restore it") from error
        if kind != _KIND:
            raise DataError(f"{place}: expected a {_KIND}, found {kind!r}; check the path")
        if version > FORMAT_VERSION:
            raise FormatVersionError(
                f"{place}: format version {version} of a registry, this rgals reads up to {FORMAT_VERSION}; "
                "upgrade rgals"
            )

    def folder_beside(self, kind: str, manifest_sha256: str) -> Folder:
        """Give the folder for what is attached to a version: it goes by the checksum of the version's manifest."""
        return self.folder.child(f"{kind}/{manifest_sha256}")

    def write_file(self, folder: Folder, name: str, content: bytes | Iterable[bytes]) -> None:
        """Write a file whole or not at all, also block by block: by renaming, or as one object."""
        if folder.local_path is not None:
            replace_file(folder.local_path / name, content)
            return
        try:
            folder.write_bytes(name, content)
        except OSError as error:
            raise DataError(f"{folder.label(name)}: writing failed ({redact(str(error))}); try again") from error


def _version_name(number: int) -> str:
    return f"v{number:05d}"


def _take_number(staged: Path, number: int) -> str:
    """Rename a finished folder to the first free number: a folder that is there and not empty makes it fail."""
    while True:
        target = staged.with_name(_version_name(number))
        try:
            staged.rename(target)
        except OSError as error:
            if not target.exists():
                raise DataError(f"{target}: cannot be made ({error}); choose another registry") from error
            number += 1
            continue
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return target.name


def _remove_leftovers(local: Path) -> None:
    """Remove staged and half-removed folders; their processes are dead, for the lock is ours."""
    for path in local.iterdir():
        name = path.name.removeprefix(".")
        if path.name.startswith((_STAGED_PREFIX, _REMOVED_PREFIX)) or name.startswith(_STAGED_PREFIX):
            shutil.rmtree(path, ignore_errors=True)
