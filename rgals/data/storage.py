"""Folders on local disks and object stores: written whole or not at all, read with checksums.

Datasets, checkpoints and models are folders with a manifest. A local folder is written under a
temporary name beside its target, synced, and renamed; on an object store, which cannot rename, the
manifest is the completion marker: written last, removed first. A folder without a manifest does not
exist for rgals.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from rgals.data.folder import Folder, redact, resolve_location
from rgals.errors import ChecksumError, DataError, FormatVersionError, OutputExistsError
from rgals.names import MANIFEST_NAME

__all__ = [
    "FileEntry",
    "Folder",
    "check_output",
    "new_folder",
    "read_manifest",
    "redact",
    "replace_file",
    "resolve_location",
    "verify_file",
    "write_manifest",
]

_WRITING_NAME = ".rgals-writing"
"""Lies in a folder on an object store while it is written: what a killed process leaves may be replaced."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What a manifest promises of one file."""

    n_bytes: int
    sha256: str


def check_output(location: "str | Path | Folder", overwrite: bool) -> Folder:
    """Refuse an output folder that exists, unless it may be replaced.

    A folder is replaced only when it is empty or carries an rgals manifest, so that a mistyped
    path never deletes somebody's files.

    Raises
    ------
    OutputExistsError
        If something is there and ``overwrite`` is false, or it is not an rgals folder.
    """
    folder = Folder.at(location)
    if not folder.exists():
        return folder
    if folder.filesystem.get_file_info(folder.path).type == pafs.FileType.File:
        raise OutputExistsError(f"{folder}: a file is in the way; choose another output")
    names = folder.file_names()
    if _WRITING_NAME in names and MANIFEST_NAME not in names:
        return folder  # a process was killed while it wrote here: nothing of it was ever to be read
    if names and not overwrite:
        raise OutputExistsError(f"{folder}: exists already; choose another output or pass --overwrite")
    if names and MANIFEST_NAME not in names:
        raise OutputExistsError(
            f"{folder}: holds files but no {MANIFEST_NAME}, so it was not written by rgals and is not replaced; "
            "choose another output"
        )
    return folder


@contextmanager
def new_folder(location: "str | Path | Folder", *, overwrite: bool = False) -> Iterator[Folder]:
    """Write a folder whole or not at all.

    Yields a staging folder to write into (the last thing written is the manifest, by
    `write_manifest`). On a normal exit it is synced and takes its final name; on any exception it is
    removed and what stood under the name before is untouched. On a filesystem that is not the local
    disk, an old folder that may be replaced is removed before the new one is written.

    Parameters
    ----------
    location : str, Path or Folder
        The final place.
    overwrite : bool
        Whether an rgals folder already there may be replaced.

    Raises
    ------
    OutputExistsError
        As `check_output`.
    DataError
        If the disk is full or the place cannot be written to.
    """
    target = check_output(location, overwrite)
    staged = target
    if target.local_path is not None:
        final = target.local_path
        staged = Folder(target.filesystem, str(final.with_name(f".{final.name}.partial-{uuid.uuid4().hex[:8]}")))
    try:
        if staged.local_path is not None:
            staged.local_path.mkdir(parents=True)
        else:
            _begin_remote(staged)
        yield staged
        if not staged.exists(MANIFEST_NAME):
            raise RuntimeError(f"{staged}: no {MANIFEST_NAME} was written")  # a bug, not a caller's mistake
        if staged.local_path is not None and target.local_path is not None:
            _sync_tree(staged.local_path)
            _swap_in(staged.local_path, target.local_path)
        else:
            staged.remove_file(_WRITING_NAME)
    except OSError as error:
        left = "nothing was left behind" if _clean_up(staged) else "what was left has no manifest and does not count"
        raise DataError(f"{target}: writing failed ({error}); {left}; free space or choose another place") from error
    except BaseException:
        _clean_up(staged)
        raise


def _begin_remote(folder: Folder) -> None:
    """Mark a folder on an object store as being written, and empty it; killed at any point, it may be replaced."""
    folder.write_bytes(_WRITING_NAME, b"")
    folder.remove_file(MANIFEST_NAME)
    for name in folder.child_names():
        folder.child(name).remove()
    for name in folder.file_names():
        if name != _WRITING_NAME:
            folder.remove_file(name)


def _clean_up(staged: Folder) -> bool:
    """Remove what was written of a folder; False where the store cannot be reached and keeps it."""
    with suppress(OSError, DataError):
        staged.remove()
        return True
    return False


def replace_file(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write one local file whole or not at all: temporary name, sync, rename.

    Parameters
    ----------
    path : Path
        Where to; folders on the way are made.
    content : bytes or iterable of bytes
        All of it, or one block after another.

    Raises
    ------
    DataError
        If the disk is full or the place cannot be written to; an older file stays as it was.
    """
    temporary = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            for block in (content,) if isinstance(content, bytes) else content:
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"{path}: writing failed ({error}); free space or choose another place") from error


def write_manifest(
    folder: Folder,
    kind: str,
    version: int,
    payload: Mapping[str, Any],
    *,
    known: Mapping[str, FileEntry] | None = None,
) -> dict[str, FileEntry]:
    """Write the table of contents of all files now in the folder, as its last file.

    Parameters
    ----------
    folder : Folder
        The staging folder.
    kind : str
        ``"dataset"``, ``"checkpoint"`` or ``"model"``.
    version : int
        Format version of this kind.
    payload : mapping
        What else the manifest says; JSON values.
    known : mapping or None
        Entries of files whose size and checksum are known, so that they are not read again.

    Returns
    -------
    dict of str to FileEntry
        The promised size and checksum of each file.
    """
    hashed = known or {}
    files = {
        name: hashed[name] if name in hashed else FileEntry(folder.n_bytes(name), folder.sha256(name))
        for name in folder.file_names()
        if name not in (MANIFEST_NAME, _WRITING_NAME)
    }
    document = {
        "kind": kind,
        "format_version": version,
        **payload,
        "files": {name: {"n_bytes": entry.n_bytes, "sha256": entry.sha256} for name, entry in files.items()},
    }
    folder.write_bytes(MANIFEST_NAME, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())
    return files


def read_manifest(folder: Folder, kind: str, version: int) -> tuple[dict[str, Any], dict[str, FileEntry]]:
    """Read a folder's table of contents.

    Parameters
    ----------
    folder : Folder
        The folder.
    kind : str
        The kind that the caller expects.
    version : int
        The newest format version that the caller reads.

    Returns
    -------
    tuple of dict and dict
        The payload, and the entries of the files by name.

    Raises
    ------
    DataError
        If the folder or its manifest is missing, not JSON, or of another kind.
    FormatVersionError
        If it was written by a newer rgals.
    """
    path = folder.label(MANIFEST_NAME)
    if not folder.exists(MANIFEST_NAME):
        raise DataError(f"{folder}: no {MANIFEST_NAME}, so this is not a finished rgals {kind}; check the path")
    try:
        document = json.loads(folder.read_bytes(MANIFEST_NAME))
        files = {
            name: FileEntry(int(entry["n_bytes"]), str(entry["sha256"]))
            for name, entry in document.pop("files").items()
        }
        found_kind, found_version = document.pop("kind"), int(document.pop("format_version"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a readable manifest ({error!r}); restore it or write the folder again") from error
    if found_kind != kind:
        raise DataError(f"{folder}: expected a {kind}, found a {found_kind}; check the path")
    if found_version > version:
        raise FormatVersionError(
            f"{folder}: format version {found_version} of a {kind}, this rgals reads up to {version}; upgrade rgals"
        )
    return document, files


def verify_file(folder: Folder, name: str, files: Mapping[str, FileEntry]) -> None:
    """Compare a file with its manifest entry.

    Raises
    ------
    DataError
        If the manifest does not list the file or the file is missing.
    ChecksumError
        If its size or its SHA-256 differs.
    """
    path = folder.label(name)
    if name not in files:
        raise DataError(f"{path}: not listed in {MANIFEST_NAME}; write the folder again")
    expected = files[name]
    found_bytes = folder.n_bytes(name)
    if found_bytes != expected.n_bytes:
        raise ChecksumError(
            f"{path}: expected {expected.n_bytes} bytes, found {found_bytes}; restore it or write the folder again"
        )
    found = folder.sha256(name)
    if found != expected.sha256:
        raise ChecksumError(
            f"{path}: expected SHA-256 {expected.sha256[:12]}, found {found[:12]}; "
            "the file is corrupted: restore it or write the folder again"
        )


def _swap_in(staged: Path, final: Path) -> None:
    """Rename the staged folder to its final name, setting an old one aside until the rename is done."""
    aside: Path | None = None
    if final.exists():
        aside = final.with_name(f".{final.name}.replaced-{uuid.uuid4().hex[:8]}")
        final.rename(aside)
    try:
        staged.rename(final)
    except BaseException:
        if aside is not None:
            aside.rename(final)
        raise
    _sync(final.parent)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    """Flush every file and folder below to the disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent) / name)
        _sync(Path(parent))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
