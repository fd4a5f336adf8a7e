"""Where things are: local paths, URIs, and folders addressed by them."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from rgals.errors import DataError, InputError
from rgals.names import MANIFEST_NAME

__all__ = ["Folder", "redact", "resolve_location"]

_HASH_BLOCK_BYTES = 1 << 22
_SCHEMES = {"s3": "s3://", "gcs": "gs://", "abfs": "abfs://"}
_CREDENTIALS = re.compile(r"(?<=\b(?:s3|gs)://)[^\s/@:]*:[^\s@]*@|(?<=://)[^\s/@]+@")
_SECRET_OPTIONS = re.compile(r"(?i)([?&][\w-]*(?:secret|token|key|password)[\w-]*=)[^&\s]+")
_STORE_ADVICE = "check the bucket, the credentials, the region and the endpoint"


def redact(text: str) -> str:
    """Replace the credentials that URIs in a text carry by ``***``.

    Parameters
    ----------
    text : str
        A location, a command line or a message.

    Returns
    -------
    str
        The same for a text without credentials.
    """
    return _SECRET_OPTIONS.sub(r"\1***", _CREDENTIALS.sub("***@", text))


def resolve_location(location: str | Path) -> tuple[pafs.FileSystem, str]:
    """Split a local path or a pyarrow filesystem URI into a filesystem and a path on it.

    ``s3://`` takes its endpoint from ``endpoint_override`` in the query, else from the variables
    ``AWS_ENDPOINT_URL_S3`` and ``AWS_ENDPOINT_URL``, and its region from ``region``, else ``AWS_REGION``.

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
        # What pyarrow says repeats the URI, with the credentials in it.
        raise InputError(
            f"{redact(text)}: not a location that pyarrow can open ({redact(str(error))}); "
            "use a local path or a URI such as s3://bucket/folder"
        ) from None
    except OSError as error:
        raise DataError(f"{redact(text)}: {redact(str(error))}; {_STORE_ADVICE}") from error
    return filesystem, path


class Folder:
    """A folder on any pyarrow filesystem, addressed by relative names with forward slashes.

    A folder sent to another process is opened there again, with the credentials that are found there.

    Parameters
    ----------
    filesystem : pyarrow.fs.FileSystem
        Where it is.
    path : str
        Its path there.
    origin : str or None
        A URI that leads to the filesystem; None: the filesystem itself is sent to other processes.
    """

    def __init__(self, filesystem: pafs.FileSystem, path: str, origin: str | None = None) -> None:
        self.filesystem = filesystem
        self.path = path.rstrip("/")
        self._origin = origin

    @classmethod
    def at(cls, location: "str | Path | Folder") -> "Folder":
        """Address a folder by local path or URI; nothing is read."""
        if isinstance(location, Folder):
            return location
        text = os.fspath(location)
        return cls(*resolve_location(text), text if "://" in text else None)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._origin is None:
            return Folder, (self.filesystem, self.path)
        return _reopen, (self._origin, self.path)

    def __str__(self) -> str:
        return _SCHEMES.get(self.filesystem.type_name, "") + self.path

    @property
    def local_path(self) -> Path | None:
        """The folder's path when it is on a local disk, else None."""
        return Path(self.path) if isinstance(self.filesystem, pafs.LocalFileSystem) else None

    def child(self, name: str) -> "Folder":
        """Address a folder below this one."""
        return Folder(self.filesystem, self.file_path(name), self._origin)

    def beside(self, suffix: str) -> "Folder":
        """Address the folder whose path is this one's and a suffix."""
        return Folder(self.filesystem, self.path + suffix, self._origin)

    def file_path(self, name: str) -> str:
        """Give the path of a file on the folder's filesystem."""
        return f"{self.path}/{name}"

    def label(self, name: str) -> str:
        """Give a file's name for messages: its local path, or its URI without options."""
        return f"{self}/{name}"

    def exists(self, name: str = "") -> bool:
        """Tell whether the folder, or a file or folder in it, is there."""
        path = self.file_path(name) if name else self.path
        with self._named(name):
            return bool(self.filesystem.get_file_info(path).type != pafs.FileType.NotFound)

    def file_names(self) -> list[str]:
        """List every file below the folder, as sorted relative names."""
        selector = pafs.FileSelector(self.path, recursive=True, allow_not_found=True)
        with self._named():
            infos = self.filesystem.get_file_info(selector)
        return sorted(info.path[len(self.path) + 1 :] for info in infos if info.type == pafs.FileType.File)

    def child_names(self) -> list[str]:
        """List the folders directly below, sorted."""
        selector = pafs.FileSelector(self.path, recursive=False, allow_not_found=True)
        with self._named():
            infos = self.filesystem.get_file_info(selector)
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.Directory)

    def n_bytes(self, name: str) -> int:
        """Give the size of a file in bytes."""
        with self._named(name):
            info = self.filesystem.get_file_info(self.file_path(name))
        if info.type != pafs.FileType.File:
            raise DataError(f"{self.label(name)}: the file is missing; restore it or write the folder again")
        return int(info.size)

    def read_bytes(self, name: str) -> bytes:
        """Read a whole file."""
        with self._named(name), self.open_input(name) as stream:
            return bytes(stream.read())

    def write_bytes(self, name: str, content: bytes | Iterable[bytes]) -> None:
        """Write a whole file, all of it or one block after another, creating the folders above it."""
        with self._named(name), self.open_output(name) as stream:
            for block in (content,) if isinstance(content, bytes) else content:
                stream.write(block)

    def open_input(self, name: str) -> "pa.NativeFile":
        """Open a file for random access."""
        try:
            with self._named(name):
                return self.filesystem.open_input_file(self.file_path(name))
        except FileNotFoundError as error:
            raise DataError(f"{self.label(name)}: the file is missing; restore it or write the folder again") from error

    def open_output(self, name: str) -> "pa.NativeFile":
        """Open a file for writing, creating the folders above it."""
        path = self.file_path(name)
        with self._named(name):
            try:
                return self.filesystem.open_output_stream(path)
            except FileNotFoundError:
                # Object stores have no folders to create; local disks and HDFS do.
                self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
                return self.filesystem.open_output_stream(path)

    def remove_file(self, name: str) -> None:
        """Remove a file; no error when it is not there."""
        # Some object stores say nothing about a file that is not there, some do.
        if self.exists(name):
            with self._named(name):
                self.filesystem.delete_file(self.file_path(name))

    def remove(self) -> None:
        """Remove the folder and all below it, its manifest first; no error when it is not there."""
        if self.local_path is None:
            self.remove_file(MANIFEST_NAME)
        with suppress(FileNotFoundError, NotADirectoryError), self._named():
            self.filesystem.delete_dir(self.path)

    @contextmanager
    def _named(self, name: str = "") -> Iterator[None]:
        """Let what an object store refuses name the object; local errors name their path themselves."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            if self.local_path is not None:
                raise
            place = self.label(name) if name else str(self)
            raise DataError(f"{place}: {redact(str(error))}; {_STORE_ADVICE}") from error

    def sha256(self, name: str) -> str:
        """Hash a file's bytes, reading it in bounded pieces."""
        digest = hashlib.sha256()
        with self.open_input(name) as stream:
            while block := stream.read(_HASH_BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()


def _reopen(origin: str, path: str) -> Folder:
    """Open a folder in another process."""
    return Folder(resolve_location(origin)[0], path, origin)
