"""Which files an ingest reads, in which order, and in which format."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import pyarrow.fs as pafs

from rgals.data.storage import resolve_location
from rgals.errors import DataError, InputError
from rgals.names import MANIFEST_NAME

__all__ = ["SourceFile", "SourceFormat", "SourcePiece", "find_sources"]

logger = logging.getLogger(__name__)

SourceFormat: TypeAlias = Literal["csv", "jsonl", "parquet"]

_ENDINGS: dict[str, SourceFormat] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_COMPRESSIONS = (".gz", ".bz2", ".zst", ".lz4")
_WILDCARDS = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to read.

    Parameters
    ----------
    filesystem : pyarrow.fs.FileSystem
        Where it is.
    path : str
        Its path there.
    format : {"csv", "jsonl", "parquet"}
        How it is written.
    n_bytes : int
        Its size.
    index : int
        Its place in the reading order, which the duplicate policy ``last`` follows when there are
        no times.
    part : {"all", "train", "test"}
        The part of an official split that it holds, else ``all``.
    """

    filesystem: pafs.FileSystem
    path: str
    format: SourceFormat
    n_bytes: int
    index: int = 0
    part: Literal["all", "train", "test"] = "all"


@dataclass(frozen=True, slots=True)
class SourcePiece:
    """Some consecutive rows of a file, for one task; by default all of them.

    Parameters
    ----------
    source : SourceFile
        The file.
    start, stop : int and int or None
        Row groups of a Parquet file, bytes of a text file, ``stop`` excluded; None is the end. A
        piece of a text file begins at the start of a line.
    first_row : int
        The number of its first row in the file.
    n_bytes : int
        Its share of the file's size.
    """

    source: SourceFile
    start: int = 0
    stop: int | None = None
    first_row: int = 1
    n_bytes: int = 0


def find_sources(
    locations: Sequence[str | Path],
    file_format: SourceFormat | Literal["auto"] = "auto",
    part: Literal["all", "train", "test"] = "all",
    first_index: int = 0,
) -> list[SourceFile]:
    """List the files that the locations name.

    Parameters
    ----------
    locations : sequence of str or Path
        Files, folders (read recursively, hidden files and names with a leading underscore left
        out) and globs (``*``, ``?``, ``[...]``, ``**``); local paths or pyarrow filesystem URIs.
    file_format : {"auto", "csv", "jsonl", "parquet"}
        ``auto`` goes by the ending and leaves out files of a folder or glob whose ending is unknown.
    part : {"all", "train", "test"}
        What the files hold.
    first_index : int
        The place of the first file in the reading order.

    Returns
    -------
    list of SourceFile
        Locations in the given order, the files of a folder or glob sorted by path.

    Raises
    ------
    InputError
        If a location does not exist or names no readable file, a format is unknown, or a file is
        named twice.
    DataError
        If a file is empty.
    """
    if not locations:
        raise InputError("no source given; name at least one file, folder or glob")
    found: list[SourceFile] = []
    for location in locations:
        found.extend(_expand(location, file_format))
    seen: set[str] = set()
    for source in found:
        if source.path in seen:
            raise InputError(
                f"{source.path}: named twice by the given sources; its rows would count twice: name it once"
            )
        seen.add(source.path)
        if source.n_bytes == 0:
            raise DataError(f"{source.path}: the file is empty (0 bytes); remove it or write it again")
    return [
        SourceFile(source.filesystem, source.path, source.format, source.n_bytes, first_index + place, part)
        for place, source in enumerate(found)
    ]


def _expand(location: str | Path, file_format: SourceFormat | Literal["auto"]) -> list[SourceFile]:
    filesystem, path = resolve_location(location)
    info = _file_info(filesystem, path)
    if info.type == pafs.FileType.File:
        return [SourceFile(filesystem, path, _format_of(path, file_format), int(info.size))]
    if info.type == pafs.FileType.Directory:
        infos = _list_files(filesystem, path)
        named = "folder"
    elif _WILDCARDS.search(path):
        base = path[: _WILDCARDS.search(path).start()].rpartition("/")[0]  # type: ignore[union-attr]
        pattern = re.compile(_glob_pattern(path))
        infos = [info for info in _list_files(filesystem, base or "/") if pattern.fullmatch(info.path)]
        named = "glob"
    else:
        raise InputError(f"{location}: no such file or folder; check the path")
    files = []
    for info in infos:
        if file_format == "auto" and _ending(info.path) not in _ENDINGS:
            logger.info("%s: left out, its ending names no known format", info.path)
            continue
        files.append(SourceFile(filesystem, info.path, _format_of(info.path, file_format), int(info.size)))
    if not files:
        raise InputError(
            f"{location}: the {named} holds no file to read ({len(infos)} files with other endings); "
            f"expected {', '.join(_ENDINGS)}, or pass --format"
        )
    return files


def _file_info(filesystem: pafs.FileSystem, path: str) -> pafs.FileInfo:
    try:
        return filesystem.get_file_info(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be reached ({error}); check the location and its credentials") from error


def _list_files(filesystem: pafs.FileSystem, folder: str) -> list[pafs.FileInfo]:
    """List the visible files below a folder, sorted by path."""
    try:
        infos = filesystem.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True))
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error}); check the location and its credentials") from error
    files = []
    for info in infos:
        below = info.path[len(folder.rstrip("/")) + 1 :]
        is_hidden = any(part[0] in "._" for part in below.split("/"))
        # rgals's own folders, such as generated events, hold a manifest beside their data.
        if info.type == pafs.FileType.File and not is_hidden and info.base_name != MANIFEST_NAME:
            files.append(info)
    return sorted(files, key=lambda info: str(info.path))


def _ending(path: str) -> str:
    """Give the ending that names the format, looking behind a compression's ending."""
    plain = path.lower()
    for compression in _COMPRESSIONS:
        plain = plain.removesuffix(compression)
    return Path(plain).suffix


def _format_of(path: str, file_format: SourceFormat | Literal["auto"]) -> SourceFormat:
    if file_format != "auto":
        return file_format
    ending = _ending(path)
    if ending not in _ENDINGS:
        raise InputError(
            f"{path}: the ending {ending!r} names no known format; expected {', '.join(_ENDINGS)}, or pass --format"
        )
    return _ENDINGS[ending]


def _glob_pattern(path: str) -> str:
    """Translate a glob into a regular expression: ``**/`` spans folders, ``*`` and ``?`` do not."""
    pattern, position = "", 0
    while position < len(path):
        rest = path[position:]
        if rest.startswith("**/"):
            pattern, position = pattern + "(?:.*/)?", position + 3
        elif rest.startswith("**"):
            pattern, position = pattern + ".*", position + 2
        elif rest[0] == "*":
            pattern, position = pattern + "[^/]*", position + 1
        elif rest[0] == "?":
            pattern, position = pattern + "[^/]", position + 1
        elif rest[0] == "[" and (closing := rest.find("]", 2)) > 0:
            body = rest[1:closing].replace("\\", "\\\\")
            pattern += f"[{'^' + body[1:] if body[0] == '!' else body}]"
            position += closing + 1
        else:
            pattern, position = pattern + re.escape(rest[0]), position + 1
    return pattern
