"""Folders on local disks and object stores: written whole or not at all, read with checksums.

Datasets, checkpoints and models are folders with a manifest. A local folder is written under a
temporary name beside its target, synced, and renamed; on an object store, which cannot rename, the
manifest is the completion marker and is written last. A folder without a manifest does not exist
for rgals.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from rgals.errors import ChecksumError, DataError, FormatVersionError, InputError, OutputExistsError
from rgals.names import MANIFEST_NAME

__all__ = [
    "FileEntry",
    "Folder",
    "check_output",
    "new_folder",
    "read_manifest",
    "replace_file",
    "resolve_location",
    "verify_file",
    "write_manifest",
]

_HASH_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What a manifest promises of one file."""

    n_bytes: int
    sha256: str


def resolve_location(location: str | Path) -> tuple[pafs.FileSystem, str]:
    """Split a local path or a pyarrow filesystem URI into a filesystem and a path on it.

    Raises
    ------
    InputError
        If the URI's scheme is unknown or its parts are malformed.
    """
    text = os.fspath(location)
    if "://" not in text:
        return pafs.LocalFileSystem(), str(Path(text).expanduser().absolute())
    try:
        filesystem, path = pafs.FileSystem.from_uri(text)
    except (pa.ArrowInvalid, ValueError) as error:
        raise InputError(
            f"{text}: not a location that pyarrow can open ({error}); "
            "use a local path or a URI such as s3://bucket/folder"
        ) from error
    return filesystem, path


class Folder:
    """A folder on any pyarrow filesystem, addressed by relative names with forward slashes."""

    def __init__(self, filesystem: pafs.FileSystem, path: str) -> None:
        self.filesystem = filesystem
        self.path = path.rstrip("/")

    @classmethod
    def at(cls, location: "str | Path | Folder") -> "Folder":
        """Address a folder by local path or URI; nothing is read."""
        if isinstance(location, Folder):
            return location
        return cls(*resolve_location(location))

    def __str__(self) -> str:
        return self.path

    @property
    def local_path(self) -> Path | None:
        """The folder's path when it is on a local disk, else None."""
        return Path(self.path) if isinstance(self.filesystem, pafs.LocalFileSystem) else None

    def child(self, name: str) -> "Folder":
        """Address a folder below this one."""
        return Folder(self.filesystem, self.file_path(name))

    def file_path(self, name: str) -> str:
        """Give the path of a file on the folder's filesystem."""
        return f"{self.path}/{name}"

    def exists(self, name: str = "") -> bool:
        """Tell whether the folder, or a file or folder in it, is there."""
        path = self.file_path(name) if name else self.path
        return bool(self.filesystem.get_file_info(path).type != pafs.FileType.NotFound)

    def file_names(self) -> list[str]:
        """List every file below the folder, as sorted relative names."""
        selector = pafs.FileSelector(self.path, recursive=True, allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        return sorted(info.path[len(self.path) + 1 :] for info in infos if info.type == pafs.FileType.File)

    def child_names(self) -> list[str]:
        """List the folders directly below, sorted."""
        selector = pafs.FileSelector(self.path, recursive=False, allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)

    def n_bytes(self, name: str) -> int:
        """Give the size of a file in bytes."""
        info = self.filesystem.get_file_info(self.file_path(name))
        if info.type != pafs.FileType.File:
            raise DataError(f"{self.file_path(name)}: the file is missing; restore it or write the folder again")
        return int(info.size)

    def read_bytes(self, name: str) -> bytes:
        """Read a whole file."""
        try:
            with self.filesystem.open_input_stream(self.file_path(name)) as stream:
                return bytes(stream.read())
        except FileNotFoundError as error:
            raise DataError(
                f"{self.file_path(name)}: the file is missing; restore it or write the folder again"
            ) from error

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a whole file, creating the folders above it."""
        with self.open_output(name) as stream:
            stream.write(content)

    def open_input(self, name: str) -> "pa.NativeFile":
        """Open a file for random access."""
        try:
            return self.filesystem.open_input_file(self.file_path(name))
        except FileNotFoundError as error:
            raise DataError(
                f"{self.file_path(name)}: the file is missing; restore it or write the folder again"
            ) from error

    def open_output(self, name: str) -> "pa.NativeFile":
        """Open a file for writing, creating the folders above it."""
        path = self.file_path(name)
        try:
            return self.filesystem.open_output_stream(path)
        except FileNotFoundError:
            # Object stores have no folders to create; local disks and HDFS do.
            self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            return self.filesystem.open_output_stream(path)

    def remove(self) -> None:
        """Remove the folder and all below it; no error when it is not there."""
        with suppress(FileNotFoundError, NotADirectoryError):
            self.filesystem.delete_dir(self.path)

    def sha256(self, name: str) -> str:
        """Hash a file's bytes, reading it in bounded pieces."""
        digest = hashlib.sha256()
        with self.open_input(name) as stream:
            while block := stream.read(_HASH_BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()


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
    if target.local_path is None:
        staged = target
        if staged.exists():
            staged.remove()
    else:
        final = target.local_path
        staged = Folder(target.filesystem, str(final.with_name(f".{final.name}.partial-{uuid.uuid4().hex[:8]}")))
    try:
        if staged.local_path is not None:
            staged.local_path.mkdir(parents=True)
        yield staged
        if not staged.exists(MANIFEST_NAME):
            raise RuntimeError(f"{staged}: no {MANIFEST_NAME} was written")  # a bug, not a caller's mistake
        if staged.local_path is not None and target.local_path is not None:
            _sync_tree(staged.local_path)
            _swap_in(staged.local_path, target.local_path)
    except OSError as error:
        staged.remove()
        raise DataError(
            f"{target}: writing failed ({error}); nothing was left behind; free space or choose another place"
        ) from error
    except BaseException:
        staged.remove()
        raise


def replace_file(path: Path, content: bytes) -> None:
    """Write one local file whole or not at all: temporary name, sync, rename.

    Raises
    ------
    DataError
        If the disk is full or the place cannot be written to; an older file stays as it was.
    """
    temporary = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(content)
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
        if name != MANIFEST_NAME
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
    path = folder.file_path(MANIFEST_NAME)
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
    path = folder.file_path(name)
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
