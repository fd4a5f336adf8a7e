"""Downloads against a server on this machine: checked, resumed, guarded, whole or not at all."""

import gzip
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner, Result

from jobs import download as command_module
from rgals.data import download as module
from rgals.data.download import PUBLIC_SOURCES, PublicSource, download, find_source
from rgals.data.storage import Folder, read_manifest, verify_file
from rgals.errors import ChecksumError, DataError, InputError, OutputExistsError

RATINGS = b"userId,movieId,rating,timestamp\n1,10,4.0,964982703\n"


def make_zip(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/", b"")
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


class Server(ThreadingHTTPServer):
    """Serves ``files``; the next answers break off after the lengths in ``cuts``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.tag: str | None = '"v1"'
        self.says_length = True
        self.ranges: list[str | None] = []

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = self.server.files.get(self.path[1:])
        if content is None:
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        if not self.path.endswith(".md5"):
            self.server.ranges.append(wanted)
        start = 0
        if wanted and self.headers.get("If-Range") == self.server.tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if self.server.says_length:
            self.send_header("Content-Length", str(len(content) - start))
        if self.server.tag:
            self.send_header("ETag", self.server.tag)
        self.end_headers()
        rest = content[start:]
        self.wfile.write(rest[: self.server.cuts.pop(0)] if self.server.cuts else rest)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def source(server: Server) -> PublicSource:
    content = make_zip({"set/ratings.csv": RATINGS * 2_000, "set/README.txt": b"read me"})
    server.files["set.zip"] = content
    server.files["set.zip.md5"] = f"MD5 (set.zip) = {hashlib.md5(content).hexdigest()}\n".encode()
    return PublicSource(
        name="set",
        description="a small set",
        url=server.address("set.zip"),
        archive="zip",
        terms="be kind",
        about_bytes=len(content),
        events_file="set/ratings.csv",
        columns=("userId", "movieId", "timestamp", "rating"),
        md5_url=server.address("set.zip.md5"),
    )


def test_a_zip_is_fetched_checked_unpacked_and_listed_in_a_manifest(
    tmp_path: Path, server: Server, source: PublicSource
) -> None:
    summary = download(source, tmp_path / "set", accept_terms=True)
    content = server.files["set.zip"]
    assert summary.md5_checked
    assert summary.n_bytes == len(content)
    assert summary.sha256 == hashlib.sha256(content).hexdigest()
    assert summary.file_names == ("set/README.txt", "set/ratings.csv")
    assert (tmp_path / "set/set/ratings.csv").read_bytes() == RATINGS * 2_000
    payload, files = read_manifest(Folder.at(tmp_path / "set"), "download", module.DOWNLOAD_FORMAT_VERSION)
    assert payload == {"source": "set", "url": source.url, "sha256": summary.sha256, "terms": "be kind"}
    verify_file(Folder.at(tmp_path / "set"), "set/ratings.csv", files)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["manifest.json", "set"]


def test_a_wrong_checksum_is_an_error_and_nothing_is_left(tmp_path: Path, server: Server, source: PublicSource) -> None:
    server.files["set.zip.md5"] = b"0" * 32 + b"  set.zip\n"
    with pytest.raises(ChecksumError, match=f"expected MD5 {'0' * 32}, found"):
        download(source, tmp_path / "set", accept_terms=True)
    assert list(tmp_path.iterdir()) == []


def test_a_checksum_file_without_a_checksum_is_an_error(tmp_path: Path, server: Server, source: PublicSource) -> None:
    server.files["set.zip.md5"] = b"<html>moved</html>"
    with pytest.raises(DataError, match="expected an MD5 of 32 hexadecimal digits, found '<html>moved"):
        download(source, tmp_path / "set", accept_terms=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_named", [False, True])
def test_without_a_published_checksum_the_summary_says_so(
    tmp_path: Path, server: Server, source: PublicSource, is_named: bool
) -> None:
    del server.files["set.zip.md5"]
    summary = download(source if is_named else replace(source, md5_url=None), tmp_path / "set", accept_terms=True)
    assert not summary.md5_checked


def test_a_truncated_body_is_resumed_where_it_stopped(tmp_path: Path, server: Server, source: PublicSource) -> None:
    server.cuts = [100, 50]
    summary = download(source, tmp_path / "set", accept_terms=True)
    assert server.ranges == [None, "bytes=100-", "bytes=150-"]
    assert summary.md5_checked
    assert (tmp_path / "set/set/ratings.csv").read_bytes() == RATINGS * 2_000


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_without_a_strong_tag_a_truncated_body_is_fetched_again(
    tmp_path: Path, server: Server, source: PublicSource, tag: str | None
) -> None:
    server.cuts, server.tag = [100], tag
    download(source, tmp_path / "set", accept_terms=True)
    assert server.ranges == [None, None]


def test_a_file_that_changed_between_attempts_is_fetched_again(
    tmp_path: Path, server: Server, source: PublicSource
) -> None:
    server.cuts = [100]

    def change(done: int, _: int | None) -> None:
        if done == 100:
            server.tag = '"v2"'

    download(source, tmp_path / "set", accept_terms=True, progress=change)
    assert server.ranges == [None, "bytes=100-"]
    assert (tmp_path / "set/set/ratings.csv").read_bytes() == RATINGS * 2_000


def test_a_transfer_that_breaks_off_every_time_is_an_error_and_nothing_is_left(
    tmp_path: Path, server: Server, source: PublicSource
) -> None:
    server.cuts = [10] * 9
    with pytest.raises(DataError, match="broke off 4 times, last after 40 bytes"):
        download(source, tmp_path / "set", accept_terms=True)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_names_the_answer_of_the_server(tmp_path: Path, server: Server, source: PublicSource) -> None:
    del server.files["set.zip"]
    with pytest.raises(DataError, match=r"set.zip: expected the file, the server answered 404 Not Found; check"):
        download(source, tmp_path / "set", accept_terms=True)
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_server_is_named_with_the_way_out(tmp_path: Path, source: PublicSource) -> None:
    unused = Server()
    address = unused.address("set.zip")
    unused.server_close()
    with pytest.raises(DataError, match=r"the server cannot be reached.*fetch the file yourself"):
        download(replace(source, url=address), tmp_path / "set", accept_terms=True)
    assert list(tmp_path.iterdir()) == []


def test_an_address_of_another_scheme_is_refused(tmp_path: Path, source: PublicSource) -> None:
    with pytest.raises(InputError, match="starts with https://"):
        download(replace(source, url="file:///etc/passwd"), tmp_path / "set", accept_terms=True)


def test_an_existing_output_is_kept_unless_it_may_be_replaced(
    tmp_path: Path, server: Server, source: PublicSource
) -> None:
    download(source, tmp_path / "set", accept_terms=True)
    n_requests = len(server.ranges)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        download(source, tmp_path / "set", accept_terms=True)
    assert len(server.ranges) == n_requests
    server.files["set.zip"] = make_zip({"set/other.csv": b"x"})
    summary = download(replace(source, md5_url=None), tmp_path / "set", accept_terms=True, overwrite=True)
    assert summary.file_names == ("set/other.csv",)


@pytest.mark.parametrize(
    "name", ["../evil.csv", "/etc/evil.csv", "set/../../evil.csv", "set\\..\\evil.csv", "C:/evil.csv", ".archive"]
)
def test_a_zip_that_reaches_outside_its_folder_is_refused(
    tmp_path: Path, server: Server, source: PublicSource, name: str
) -> None:
    server.files["set.zip"] = make_zip({"set/good.csv": b"1", name: b"2"})
    with pytest.raises(DataError, match="expected members inside the archive's folder"):
        download(replace(source, md5_url=None), tmp_path / "inner" / "set", accept_terms=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_zip_with_a_symbolic_link_is_refused(tmp_path: Path, server: Server, source: PublicSource) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        link = zipfile.ZipInfo("set/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    server.files["set.zip"] = stream.getvalue()
    with pytest.raises(DataError, match="found 'set/link'"):
        download(replace(source, md5_url=None), tmp_path / "set", accept_terms=True)


def test_a_zip_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, server: Server, source: PublicSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_UNPACKED_BYTES", 1_000)
    with pytest.raises(DataError, match="expected at most 1,000 bytes unpacked, found 102,007"):
        download(source, tmp_path / "set", accept_terms=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["not a zip", "flipped", "short"])
def test_a_damaged_zip_is_an_error_and_nothing_is_left(
    tmp_path: Path, server: Server, source: PublicSource, damage: str
) -> None:
    content = bytearray(server.files["set.zip"])
    if damage == "flipped":
        content[120] ^= 0xFF
    server.files["set.zip"] = {"not a zip": b"<html>", "flipped": bytes(content), "short": bytes(content[:-30])}[damage]
    with pytest.raises(DataError, match="not a readable zip archive"):
        download(replace(source, md5_url=None), tmp_path / "set", accept_terms=True)
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_at_the_size_or_has_no_total_when_the_server_is_silent(
    tmp_path: Path, server: Server, source: PublicSource
) -> None:
    calls: list[tuple[int, int | None]] = []
    download(source, tmp_path / "a", accept_terms=True, progress=lambda *call: calls.append(call))
    size = len(server.files["set.zip"])
    assert calls[-1] == (size, size)
    server.says_length = False
    download(source, tmp_path / "b", accept_terms=True, progress=lambda *call: calls.append(call))
    assert calls[-1] == (size, None)


def checkins(server: Server, source: PublicSource, content: bytes) -> PublicSource:
    server.files["checkins.txt.gz"] = content
    return replace(source, url=server.address("checkins.txt.gz"), archive="snap_checkins", md5_url=None)


def test_check_ins_become_parquet_with_utc_times(tmp_path: Path, server: Server, source: PublicSource) -> None:
    lines = b"0\t2010-10-19T23:55:27Z\t30.23\t-97.79\t22847\n7\t2009-02-04T00:00:00Z\t1\t2\t420315\n"
    summary = download(checkins(server, source, gzip.compress(lines)), tmp_path / "set", accept_terms=True)
    assert summary.file_names == ("checkins.parquet",)
    rows = pq.read_table(tmp_path / "set" / "checkins.parquet").to_pylist()
    assert rows[0] == {"user_id": 0, "item_id": 22847, "time": datetime(2010, 10, 19, 23, 55, 27, tzinfo=UTC)}
    assert rows[1]["user_id"] == 7


@pytest.mark.parametrize(
    "content",
    [b"plain text", gzip.compress(b"0\tyesterday\t1\t2\t3\n"), gzip.compress(b"0\t2010-10-19T23:55:27Z\n")],
    ids=["not gzip", "bad time", "missing columns"],
)
def test_check_ins_that_cannot_be_read_are_an_error_and_nothing_is_left(
    tmp_path: Path, server: Server, source: PublicSource, content: bytes
) -> None:
    with pytest.raises(DataError, match="not a readable"):
        download(checkins(server, source, content), tmp_path / "set", accept_terms=True)
    assert list(tmp_path.iterdir()) == []


def test_terms_must_be_accepted_and_are_quoted(tmp_path: Path, server: Server, source: PublicSource) -> None:
    with pytest.raises(InputError, match="pass --accept-terms: be kind"):
        download(source, tmp_path / "set", accept_terms=False)
    assert server.ranges == []
    assert list(tmp_path.iterdir()) == []


def test_known_sources_have_distinct_names_secure_addresses_and_terms() -> None:
    assert len({source.name for source in PUBLIC_SOURCES}) == len(PUBLIC_SOURCES) >= 5
    for source in PUBLIC_SOURCES:
        assert source.url.startswith("https://")
        assert source.md5_url is None or source.md5_url == source.url + ".md5"
        assert len(source.terms) > 50
        assert len(source.columns) in {3, 4}
        assert find_source(source.name) is source


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"movielens-25m.*found 'movielens-26m'"):
        find_source("movielens-26m")
    with pytest.raises(InputError, match="expected one of"):
        download("movielens-26m", "nowhere", accept_terms=True)


def run(*arguments: str, answer: str | None = None) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command_module.download)
    return CliRunner().invoke(app, list(arguments), input=answer)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, source: PublicSource) -> PublicSource:
    monkeypatch.setattr(module, "PUBLIC_SOURCES", (source,))
    return source


def test_the_command_lists_the_sets() -> None:
    result = run("--list")
    assert result.exit_code == 0
    assert "movielens-25m" in result.output
    assert "gowalla" in result.output


def test_the_command_prints_terms_checksum_and_the_next_step(tmp_path: Path, known: PublicSource) -> None:
    output = tmp_path / "out"
    result = run("set", "--output", str(output), "--accept-terms")
    assert result.exit_code == 0, result.output
    for words in ("be kind", "equals the publisher's MD5", "SHA-256 ", "rating rating"):
        assert words in result.output
    assert f"rgals ingest {output}/set/ratings.csv" in result.output


def test_the_command_without_a_terminal_needs_the_option(tmp_path: Path, known: PublicSource) -> None:
    result = run("set", "--output", str(tmp_path / "out"))
    assert isinstance(result.exception, InputError)
    assert "--accept-terms" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("answer", "is_fetched"), [("y\n", True), ("n\n", False)])
def test_the_command_asks_on_a_terminal(
    tmp_path: Path, known: PublicSource, monkeypatch: pytest.MonkeyPatch, answer: str, is_fetched: bool
) -> None:
    class Terminal:
        @property
        def stdin(self) -> "Terminal":
            return self

        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(command_module, "sys", Terminal())
    result = run("set", "--output", str(tmp_path / "out"), answer=answer)
    assert "Accept these terms?" in result.output
    assert (tmp_path / "out").exists() is is_fetched
    assert (result.exit_code == 0) is is_fetched


def test_the_command_needs_a_name_and_an_output() -> None:
    result = run("gowalla")
    assert isinstance(result.exception, InputError)
    assert "expected NAME and --output FOLDER" in str(result.exception)
