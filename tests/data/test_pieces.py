"""Cutting source files: together the pieces are the file, with its row numbers."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rgals.data.pieces import choose_piece_bytes, pack_pieces, plan_pieces
from rgals.data.readers import read_batches
from rgals.data.sources import SourceFile, SourcePiece, find_sources
from rgals.data.tasks import SequentialRunner
from rgals.errors import RgalsError

SEVERAL = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pieces_of(path, piece_bytes):
    return plan_pieces(find_sources([path]), piece_bytes, SequentialRunner())


def read(pieces, **options):
    """All rows as (row number, values), what could not be read, and the error that ended it."""
    rows, malformed = [], []
    try:
        for piece in pieces:
            for batch in read_batches(piece, ("u", "i"), (), **options):
                rows += zip(
                    batch.rows.tolist(), batch.columns["u"].to_pylist(), batch.columns["i"].to_pylist(), strict=True
                )
                malformed += [(row.row, row.reason, row.text) for row in batch.malformed]
    except RgalsError as error:
        return rows, malformed, str(error)
    return rows, malformed, None


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


LINES = st.lists(
    st.sampled_from([b"1,2", b"a,b", b"", b"", b"1", b"1,2,3", b" ", b"\xef\xbb\xbf7,8", b'"x",y', b"\xff,2", b"3,4"]),
    max_size=12,
)


@SEVERAL
@given(
    header=st.sampled_from([b"u,i", b"\xef\xbb\xbfu,i", b"\n\nu,i", b"i,u", b"\xef\xbb\xbf\nu,i"]),
    lines=LINES,
    ends=st.lists(st.sampled_from([b"\n", b"\r\n", b"\n\n"]), min_size=13, max_size=13),
    piece_bytes=st.integers(1, 30),
    has_header=st.booleans(),
)
@example(header=b"u,i", lines=[b"1,2"] * 5, ends=[b"\n"] * 13, piece_bytes=4, has_header=True)
def test_a_csv_file_in_pieces_is_the_file(tmp_path, header, lines, ends, piece_bytes, has_header):
    content = b"".join(line + end for line, end in zip([header, *lines], ends, strict=False))
    path = write(tmp_path / "e.csv", content if has_header else content.removeprefix(header))
    if not path.stat().st_size:
        return
    options = {"csv_columns": None if has_header else ("u", "i")}
    assert read(pieces_of(path, piece_bytes), **options) == read(find_sources([path]), **options)


@SEVERAL
@given(
    lines=st.lists(st.sampled_from([b'{"u": 1, "i": 2}', b"", b"x", b'{"u": "\\n", "i": 3}', b"[]"]), max_size=12),
    end=st.sampled_from([b"\n", b"\r\n"]),
    piece_bytes=st.integers(1, 40),
    is_ended=st.booleans(),
)
def test_a_json_lines_file_in_pieces_is_the_file(tmp_path, lines, end, piece_bytes, is_ended):
    content = end.join([b'{"u": 0, "i": 0}', *lines]) + (end if is_ended else b"")
    path = write(tmp_path / "e.jsonl", content)
    assert read(pieces_of(path, piece_bytes)) == read(find_sources([path]))


@pytest.mark.parametrize("piece_bytes", [1, 500, 2000, 10**9])
def test_a_parquet_file_is_cut_between_row_groups(tmp_path, piece_bytes):
    table = pa.table({"u": range(100), "i": [str(n) for n in range(100)]})
    pa.parquet.write_table(table, tmp_path / "e.parquet", row_group_size=7)
    pieces = pieces_of(tmp_path / "e.parquet", piece_bytes)
    assert read(pieces) == ([(n + 1, n, str(n)) for n in range(100)], [], None)
    assert len(pieces) == {1: 15, 10**9: 1}.get(piece_bytes, len(pieces))
    if piece_bytes == 500:
        assert 1 < len(pieces) < 15
        assert max(piece.n_bytes for piece in pieces) < 2 * piece_bytes


def plain_csv(n=200, first="1,2"):
    return "u,i\n" + first + "\n" + "3,4\n" * n


@pytest.mark.parametrize(
    ("name", "content", "is_cut"),
    [
        ("plain.csv", plain_csv(), True),
        ("windows.csv", plain_csv().replace("\n", "\r\n"), True),
        ("quoted.csv", plain_csv(first='"1",2'), False),
        ("quoted late.csv", plain_csv() + '"1\n",2\n', False),
        ("old.csv", plain_csv(first="1,2\r5,6"), False),
        ("packed.csv.gz", gzip.compress(plain_csv(20_000).encode()), False),
        ("lines.jsonl", '{"u": "\\"", "i": 2}\n' * 100, True),
        ("one line.jsonl", json.dumps({"u": "x" * 5000, "i": 2}), False),
    ],
)
def test_text_is_cut_only_where_every_line_end_ends_a_row(tmp_path, name, content, is_cut):
    path = write(tmp_path / name, content)
    pieces = pieces_of(path, 64)
    assert (len(pieces) > 1) == is_cut
    assert read(pieces) == read(find_sources([path]))


def test_small_files_and_files_that_cannot_be_looked_into_stay_whole(tmp_path):
    small = write(tmp_path / "small.csv", plain_csv(3))
    broken = write(tmp_path / "broken.parquet", b"PAR1" + b"x" * 1000)
    (source,) = find_sources([small])
    gone = SourceFile(source.filesystem, str(tmp_path / "gone.csv"), "csv", 10_000)
    files = [*find_sources([small, broken]), gone]
    assert plan_pieces(files, 100, SequentialRunner()) == [SourcePiece(file, n_bytes=file.n_bytes) for file in files]


def test_small_pieces_are_read_together_in_order(tmp_path):
    (source,) = find_sources([write(tmp_path / "e.csv", plain_csv())])
    pieces = [SourcePiece(source, n_bytes=size) for size in (5, 3, 3, 20, 1, 1)]
    assert [[piece.n_bytes for piece in task] for task in pack_pieces(pieces, 10)] == [[5, 3], [3], [20], [1, 1]]
    assert pack_pieces(pieces, None) == [tuple(pieces)]
    assert pack_pieces([], 10) == []


def test_pieces_are_for_several_workers_and_neither_tiny_nor_huge(tmp_path):
    (source,) = find_sources([write(tmp_path / "e.csv", plain_csv())])
    sized = [SourceFile(source.filesystem, source.path, "csv", n_bytes) for n_bytes in (1 << 10, 1 << 30, 1 << 45)]
    assert choose_piece_bytes(sized, 1) is None
    assert [choose_piece_bytes([file], 2) for file in sized] == [16 << 20, 128 << 20, 256 << 20]
