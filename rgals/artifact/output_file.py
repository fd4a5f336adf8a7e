"""One streamed output file: written whole or not at all, on any filesystem."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from rgals.data.storage import resolve_location
from rgals.errors import DataError, OutputExistsError

__all__ = ["check_output_file", "new_parquet_file"]

_PARQUET_MAGIC = b"PAR1"


def check_output_file(location: str | Path, overwrite: bool) -> tuple[pafs.FileSystem, str]:
    """Refuse an output file that exists, unless it may be replaced.

    A file is replaced only when it is Parquet, so that a mistyped path never deletes something else.

    Raises
    ------
    OutputExistsError
        If something is there and ``overwrite`` is false, or it is not a Parquet file.
    DataError
        If an object store cannot be reached or refuses.
    """
    filesystem, path = resolve_location(location)
    try:
        kind = filesystem.get_file_info(path).type
    except OSError as error:
        raise DataError(f"{path}: cannot be reached ({error}); check the location and its credentials") from error
    if kind == pafs.FileType.NotFound:
        return filesystem, path
    if kind != pafs.FileType.File:
        raise OutputExistsError(f"{path}: a folder is in the way; name a file")
    if not overwrite:
        raise OutputExistsError(f"{path}: exists already; choose another output or pass --overwrite")
    with filesystem.open_input_stream(path) as stream:
        if stream.read(len(_PARQUET_MAGIC)) != _PARQUET_MAGIC:
            raise OutputExistsError(f"{path}: is not a Parquet file and is not replaced; choose another output")
    return filesystem, path


@contextmanager
def new_parquet_file(location: str | Path, *, overwrite: bool = False) -> Iterator["pa.NativeFile"]:
    """Open a stream under a temporary name beside the target; it takes the name on a normal exit.

    On any exception the temporary file is removed and what stood under the name stays.

    Raises
    ------
    OutputExistsError
        As `check_output_file`.
    DataError
        If the disk is full or the place cannot be written to.
    """
    filesystem, path = check_output_file(location, overwrite)
    parent, _, name = path.rpartition("/")
    temporary = f"{parent}/.{name}.partial-{uuid.uuid4().hex[:8]}"
    is_local = isinstance(filesystem, pafs.LocalFileSystem)
    try:
        if is_local:
            Path(parent).mkdir(parents=True, exist_ok=True)
        with filesystem.open_output_stream(temporary) as stream:
            yield stream
        if is_local:
            _sync(temporary)
        filesystem.move(temporary, path)
        if is_local:
            _sync(parent)
    except BaseException as error:
        with suppress(OSError):
            filesystem.delete_file(temporary)
        if isinstance(error, OSError):
            raise DataError(
                f"{path}: writing failed ({error}); nothing was left behind; free space or choose another place"
            ) from error
        raise


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
