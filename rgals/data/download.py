"""Download public data sets: terms accepted, checksums compared, written whole or not at all."""

import hashlib
import http.client
import re
import stat
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from rgals.data.storage import Folder, new_folder, write_manifest
from rgals.errors import ChecksumError, DataError, InputError

__all__ = [
    "DOWNLOAD_FORMAT_VERSION",
    "PUBLIC_SOURCES",
    "DownloadSummary",
    "Progress",
    "PublicSource",
    "download",
    "find_source",
]

DOWNLOAD_FORMAT_VERSION = 1
"""Format version of the manifest of a downloaded folder."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes received so far and their total, None where the server does not say."""

_BLOCK_BYTES = 1 << 18
_ATTEMPTS = 4
_TIMEOUT_S = 60.0
_MAX_UNPACKED_BYTES = 16 << 30
_MAX_CHECKSUM_FILE_BYTES = 4_096
_ARCHIVE = ".archive"
_FOLDER_HINT = "check the network, or fetch the file yourself and pass it to rgals ingest"

_MOVIELENS_TERMS = (
    "For research use; no commercial use without permission; no endorsement by the University of Minnesota or "
    "GroupLens may be stated or implied; redistribution only under the same terms; acknowledge in publications: "
    "F. M. Harper and J. A. Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5(4), 2015. "
    "The full text is in the README inside the archive."
)
_SNAP_TERMS = (
    "Published for research by the Stanford Network Analysis Project without an explicit license; acknowledge: "
    "E. Cho, S. A. Myers, J. Leskovec, Friendship and Mobility: User Movement in Location-Based Social Networks, "
    "KDD 2011. See https://snap.stanford.edu/data/loc-Gowalla.html."
)


@dataclass(frozen=True, slots=True)
class PublicSource:
    """A public data set and how to get it."""

    name: str
    """The name on the command line."""
    description: str
    """What it holds, in one line."""
    url: str
    """Address of the archive."""
    archive: Literal["zip", "snap_checkins"]
    """``zip`` is unpacked; ``snap_checkins`` is a gzipped table without header, converted to Parquet."""
    terms: str
    """What the publisher asks for; the caller must accept it."""
    about_bytes: int
    """Size of the download, for the reader."""
    events_file: str
    """The file of interactions, relative to the folder."""
    columns: tuple[str, ...]
    """Its columns of users, items, times and, where there are ratings, ratings."""
    md5_url: str | None = None
    """Address of the MD5 that the publisher puts beside the archive."""


def _movielens(name: str, description: str, about_bytes: int) -> PublicSource:
    folder = name.replace("movielens", "ml")
    url = f"https://files.grouplens.org/datasets/movielens/{folder}.zip"
    return PublicSource(
        name,
        description,
        url,
        archive="zip",
        terms=_MOVIELENS_TERMS,
        about_bytes=about_bytes,
        events_file=f"{folder}/ratings.csv",
        columns=("userId", "movieId", "timestamp", "rating"),
        md5_url=f"{url}.md5",
    )


PUBLIC_SOURCES: tuple[PublicSource, ...] = (
    _movielens("movielens-latest-small", "100,836 ratings, 610 users, 9,724 films (changes over time)", 978_202),
    _movielens("movielens-20m", "20,000,263 ratings, 138,493 users, 27,278 films", 198_702_078),
    _movielens("movielens-25m", "25,000,095 ratings, 162,541 users, 62,423 films", 261_978_986),
    _movielens("movielens-32m", "32,000,204 ratings, 200,948 users, 87,585 films", 239_000_000),
    PublicSource(
        "gowalla",
        "6,442,890 check-ins of 107,092 users at places, 2009 to 2010",
        "https://snap.stanford.edu/data/loc-gowalla_totalCheckins.txt.gz",
        archive="snap_checkins",
        terms=_SNAP_TERMS,
        about_bytes=105_000_000,
        events_file="checkins.parquet",
        columns=("user_id", "item_id", "time"),
    ),
)
"""The public data sets that `download` knows."""


@dataclass(frozen=True, slots=True)
class DownloadSummary:
    """What was downloaded."""

    location: str
    """Path of the folder."""
    url: str
    n_bytes: int
    """Size of the archive."""
    sha256: str
    """SHA-256 of the archive as received."""
    md5_checked: bool
    """Whether its MD5 equals the one that the publisher gives; false where none is published."""
    file_names: tuple[str, ...]
    """Files in the folder, without the manifest."""


def find_source(name: str) -> PublicSource:
    """Look a public data set up by name.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    for source in PUBLIC_SOURCES:
        if source.name == name:
            return source
    known = ", ".join(source.name for source in PUBLIC_SOURCES)
    raise InputError(f"expected one of {known}, found {name!r}; rgals download --list describes them")


def download(
    source: str | PublicSource,
    output: str | Path,
    *,
    accept_terms: bool,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> DownloadSummary:
    """Fetch a public data set into a new folder.

    Parameters
    ----------
    source : str or PublicSource
        The name of a known set, or a description of another.
    output : str or Path
        The folder to make; a local path or a pyarrow filesystem URI.
    accept_terms : bool
        Whether the caller accepts ``source.terms``.
    overwrite : bool
        Whether a folder written by rgals may be replaced.
    progress : callable, optional
        Told the bytes received and expected.

    Returns
    -------
    DownloadSummary
        What was received and how it was checked.

    Raises
    ------
    InputError
        If the name is unknown or the terms are not accepted.
    OutputExistsError
        If the output exists and may not be replaced.
    ChecksumError
        If the archive does not have the published MD5.
    DataError
        If the server cannot be reached or does not have the file, the transfer breaks off too
        often, the archive is corrupted or would write outside its folder, or the disk is full.

    Notes
    -----
    A broken transfer is resumed where it stopped when the server can tell that the file is still
    the same (an entity tag), else started again; after four attempts nothing is left behind.
    """
    if isinstance(source, str):
        source = find_source(source)
    if not accept_terms:
        raise InputError(
            f"{source.name}: its terms are not accepted; read them and pass --accept-terms: {source.terms}"
        )
    with new_folder(output, overwrite=overwrite) as folder:
        transfer = _Transfer(source.url, folder, progress)
        transfer.run()
        md5 = _published_md5(source.md5_url)
        if md5 is not None and md5 != transfer.md5.hexdigest():
            raise ChecksumError(
                f"{source.url}: expected MD5 {md5}, found {transfer.md5.hexdigest()}; "
                "the download was damaged or the file was replaced: try again"
            )
        if source.archive == "zip":
            _unpack_zip(folder, source.url)
        else:
            _convert_checkins(folder, source.url)
        folder.filesystem.delete_file(folder.file_path(_ARCHIVE))
        summary = DownloadSummary(
            location=str(output),
            url=source.url,
            n_bytes=transfer.n_bytes,
            sha256=transfer.sha256.hexdigest(),
            md5_checked=md5 is not None,
            file_names=tuple(folder.file_names()),
        )
        payload = {"source": source.name, "url": source.url, "sha256": summary.sha256, "terms": source.terms}
        write_manifest(folder, "download", DOWNLOAD_FORMAT_VERSION, payload)
    return summary


class _Transfer:
    """One file on its way from a server into the folder, hashed as it arrives."""

    def __init__(self, url: str, folder: Folder, progress: Progress | None) -> None:
        self.url, self.folder, self.progress = url, folder, progress
        self.sink: Any = None
        self.tag: str | None = None
        self._start_over()

    def _start_over(self) -> None:
        """Forget what has arrived."""
        self.n_bytes = 0
        self.total: int | None = None
        self.sha256, self.md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        if self.sink is not None:
            self.sink.close()
            self.sink = self.folder.open_output(_ARCHIVE)

    def run(self) -> None:
        """Receive the whole file, in several attempts where needed."""
        self.sink = self.folder.open_output(_ARCHIVE)
        failure = ""
        try:
            for _ in range(_ATTEMPTS):
                failure = self._attempt()
                if not failure:
                    return
        finally:
            self.sink.close()
        raise DataError(
            f"{self.url}: the transfer broke off {_ATTEMPTS} times, "
            f"last after {self.n_bytes:,} bytes ({failure}); {_FOLDER_HINT}"
        )

    def _attempt(self) -> str:
        """Receive what is missing; say what broke it off, or nothing when the file is whole."""
        headers = {}
        if self.n_bytes and self.tag:
            headers = {"Range": f"bytes={self.n_bytes}-", "If-Range": self.tag}
        with _open(self.url, headers) as response:
            is_rest = response.status == http.HTTPStatus.PARTIAL_CONTENT and (
                response.headers.get("Content-Range", "").startswith(f"bytes {self.n_bytes}-")
            )
            if not is_rest:
                self._start_over()
            length = response.headers.get("Content-Length")
            self.total = None if length is None else self.n_bytes + int(length)
            tag = response.headers.get("ETag", "")
            self.tag = tag if tag.startswith('"') else None  # a weak tag does not promise equal bytes
            while True:
                try:
                    block = response.read(_BLOCK_BYTES)
                except (http.client.HTTPException, OSError) as error:
                    return repr(error)
                if not block:
                    break
                self._keep(block)
        if self.total is not None and self.n_bytes != self.total:
            return f"{self.total:,} expected"
        return ""

    def _keep(self, block: bytes) -> None:
        self.sink.write(block)
        self.sha256.update(block)
        self.md5.update(block)
        self.n_bytes += len(block)
        if self.progress is not None:
            self.progress(self.n_bytes, self.total)


def _open(url: str, headers: dict[str, str]) -> Any:
    """Send a request; a server's refusal or an unreachable server is a `DataError` with the way out."""
    if not url.startswith(("https://", "http://")):
        raise InputError(f"{url}: expected an address that starts with https://")
    request = urllib.request.Request(url, headers={"User-Agent": "rgals", **headers})  # noqa: S310 (checked above)
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310 (checked above)
    except urllib.error.HTTPError as error:
        with error:
            refusal = f"{url}: expected the file, the server answered {error.code} {error.reason}; {_FOLDER_HINT}"
        raise _RefusalError(refusal, error.code) from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        raise DataError(f"{url}: the server cannot be reached ({reason}); {_FOLDER_HINT}") from error


class _RefusalError(DataError):
    """A server's answer other than the file."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def _published_md5(url: str | None) -> str | None:
    """Read the MD5 that stands beside the archive; None where the publisher gives none."""
    if url is None:
        return None
    try:
        with _open(url, {}) as response:
            text = response.read(_MAX_CHECKSUM_FILE_BYTES).decode("ascii", "replace")
    except _RefusalError as refusal:
        if refusal.code in {http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE}:
            return None
        raise
    except (http.client.HTTPException, OSError) as error:
        raise DataError(f"{url}: reading the checksum broke off ({error!r}); {_FOLDER_HINT}") from error
    found = re.search(r"\b[0-9a-fA-F]{32}\b", text)
    if found is None:
        raise DataError(f"{url}: expected an MD5 of 32 hexadecimal digits, found {text[:60]!r}; {_FOLDER_HINT}")
    return found.group().lower()


def _unpack_zip(folder: Folder, url: str) -> None:
    """Unpack the archive into the folder, refusing members that would land elsewhere or are too large."""
    try:
        with folder.open_input(_ARCHIVE) as stream, zipfile.ZipFile(stream) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            for member in members:
                _check_member(member, url)
            n_bytes = sum(member.file_size for member in members)
            if n_bytes > _MAX_UNPACKED_BYTES:
                raise DataError(
                    f"{url}: expected at most {_MAX_UNPACKED_BYTES:,} bytes unpacked, found {n_bytes:,}; "
                    "fetch and unpack it yourself if that is right"
                )
            for member in members:
                with archive.open(member) as content, folder.open_output(member.filename) as sink:
                    while block := content.read(_BLOCK_BYTES):
                        sink.write(block)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise DataError(f"{url}: not a readable zip archive ({error}); try again") from error


def _check_member(member: zipfile.ZipInfo, url: str) -> None:
    """Refuse a member whose name leaves the folder, or that is a link, or that hides as our own file."""
    name = PurePosixPath(member.filename)
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    is_outside = (
        not name.parts
        or name.is_absolute()
        or ".." in name.parts
        or "\\" in member.orig_filename
        or ":" in name.parts[0]
    )
    if is_link or is_outside or name.parts[0].startswith("."):
        raise DataError(
            f"{url}: expected members inside the archive's folder, found {member.filename!r}; "
            "the archive is not what its publisher describes: do not use it"
        )


def _convert_checkins(folder: Folder, url: str) -> None:
    """Turn a gzipped, tab-separated table of user, time, latitude, longitude, place into Parquet."""
    schema = pa.schema([("user_id", pa.int64()), ("item_id", pa.int64()), ("time", pa.timestamp("ms", tz="UTC"))])
    names = ["user_id", "time", "latitude", "longitude", "item_id"]
    types = {"user_id": pa.int64(), "item_id": pa.int64(), "time": pa.timestamp("s", tz="UTC")}
    try:
        with (
            folder.open_input(_ARCHIVE) as raw,
            pa.CompressedInputStream(raw, "gzip") as stream,
            pa.csv.open_csv(
                stream,
                read_options=pa.csv.ReadOptions(column_names=names),
                parse_options=pa.csv.ParseOptions(delimiter="\t"),
                convert_options=pa.csv.ConvertOptions(column_types=types, include_columns=schema.names),
            ) as batches,
            folder.open_output("checkins.parquet") as sink,
            pq.ParquetWriter(sink, schema) as writer,
        ):
            for batch in batches:
                writer.write_table(pa.Table.from_batches([batch]).cast(schema))
    except (pa.ArrowInvalid, EOFError) as error:
        raise DataError(f"{url}: not a readable table of check-ins ({error}); try again") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise DataError(f"{url}: not a readable gzip file ({error}); try again") from error
