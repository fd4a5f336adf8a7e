"""Reading files of each format in bounded batches."""

import gzip
import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from rgals.data import readers
from rgals.data.readers import estimate_rows, read_batches
from rgals.data.sources import find_sources
from rgals.errors import DataError, InputError


def read(path, values=("w",), **options):
    """All rows of a file as (row number, user, item, ...), and what could not be read."""
    (source,) = find_sources([path])
    rows, malformed = [], []
    for batch in read_batches(source, ("u", "i"), values, **options):
        columns = [batch.columns[name].to_pylist() for name in ("u", "i", *values)]
        assert len(batch.rows) == len(columns[0])
        rows += zip(batch.rows.tolist(), *columns, strict=True)
        malformed += [(row.row, row.reason) for row in batch.malformed]
    return rows, malformed


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_csv_values_come_as_they_stand_in_the_file(tmp_path):
    path = write(tmp_path / "e.csv", 'w,u,other,i\n1.50,007,x,"a,b"\n, 1,NULL,"line\nbreak"\n')
    assert read(path) == ([(2, b"007", b"a,b", b"1.50"), (3, b" 1", b"line\nbreak", b"")], [])


def test_csv_delimiters_headers_and_compression(tmp_path):
    expected = ([(2, b"1", b"2", b"3")], [])
    assert read(write(tmp_path / "a.tsv", "u\ti\tw\n1\t2\t3\n")) == expected
    assert read(write(tmp_path / "b.csv", "u|i|w\n1|2|3\n"), delimiter="|") == expected
    assert read(write(tmp_path / "c.csv.gz", gzip.compress(b"\xef\xbb\xbfu,i,w\r\n1,2,3\r\n"))) == expected
    assert read(write(tmp_path / "d.csv", "1,2,3\n"), csv_columns=("u", "i", "w")) == ([(1, b"1", b"2", b"3")], [])


def test_csv_rows_with_a_wrong_number_of_fields_are_set_aside_with_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_BLOCK_BYTES", 64)
    lines = ["u,i,w", *(f"{n},{n},{n}" if n % 7 else f"{n},{n}" for n in range(2, 200)), "1,2,3,4"]
    rows, malformed = read(write(tmp_path / "e.csv", "\n".join(lines)))
    # Line n + 1 of an editor is row n + 1 here; the header is row 1.
    assert rows == [(n, *[str(n).encode()] * 3) for n in range(2, 200) if n % 7]
    assert malformed == [(n, "wrong number of fields") for n in [*range(7, 200, 7), 200]]


def test_csv_text_that_is_not_utf8_is_passed_on(tmp_path):
    assert read(write(tmp_path / "e.csv", b"u,i,w\n\xff,2,3\n"))[0] == [(2, b"\xff", b"2", b"3")]


def test_json_lines_take_text_and_numbers(tmp_path):
    lines = ['{"u": "007", "i": 12, "w": 1.5}', "", '{"i": "é", "w": "2", "u": -3, "x": [1]}', '{"u": "", "i": 1}']
    rows, malformed = read(write(tmp_path / "e.jsonl", "\n".join(lines)))
    assert rows == [(1, b"007", b"12", b"1.5"), (3, b"-3", "é".encode(), b"2"), (4, b"", b"1", None)]
    assert malformed == []


def test_json_lines_that_cannot_be_used_are_set_aside(tmp_path):
    lines = ['{"u": 1, "i": 2, "w": 3}', "{", "[1]", '{"u": 1.5, "i": 2}', '{"u": 1, "i": true}', '{"u": 1, "i": {}}']
    rows, malformed = read(write(tmp_path / "e.jsonl", "\n".join(lines)))
    assert rows == [(1, b"1", b"2", b"3")]
    assert malformed == [
        (2, "not a JSON object"),
        (3, "not a JSON object"),
        (4, "user id is neither text nor an integer"),
        (5, "item id is neither text nor an integer"),
        (6, "item id is neither text nor an integer"),
    ]


def test_json_lines_are_cut_into_blocks_without_losing_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_BLOCK_BYTES", 50)
    text = "".join(json.dumps({"u": n, "i": "x" * (n % 40), "w": True}) + "\n" for n in range(100))
    rows, _ = read(write(tmp_path / "e.ndjson", text))
    assert rows == [(n + 1, str(n).encode(), b"x" * (n % 40), b"true") for n in range(100)]
    with pytest.raises(DataError, match="a line of more than 400 bytes"):
        read(write(tmp_path / "long.jsonl", '{"u": "' + "x" * 1000 + '"}'))


def test_parquet_comes_in_its_own_types_batch_by_batch(tmp_path):
    table = pa.table({"u": range(10), "w": pa.array([None] * 10, pa.float32()), "i": [str(n) for n in range(10)]})
    pa.parquet.write_table(table, tmp_path / "e.parquet", row_group_size=4)
    (source,) = find_sources([tmp_path / "e.parquet"])
    batches = list(read_batches(source, ("u", "i"), ("w",), batch_rows=3))
    assert [batch.rows.tolist() for batch in batches] == [[1, 2, 3], [4], [5, 6, 7], [8], [9, 10]]
    assert [batches[0].columns[name].type for name in "uiw"] == [pa.int64(), pa.string(), pa.float32()]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_missing_column_is_an_error_that_names_those_there(tmp_path, ending):
    table = pa.table({"u": [1], "item": [2], "w": [3]})
    path = tmp_path / f"e.{ending}"
    if ending == "csv":
        pa.csv.write_csv(table, path)
    elif ending == "parquet":
        pa.parquet.write_table(table, path)
    else:
        path.write_text(json.dumps(table.to_pylist()[0]))
    with pytest.raises(InputError, match=r"no column 'i'.*its columns are 'u', 'item', 'w'.*--item-column"):
        read(path)


def test_a_missing_column_names_the_closest_one_there(tmp_path):
    with pytest.raises(InputError, match=r"no column 'w' \(did you mean 'W'\?\)|no column 'w'"):
        read(write(tmp_path / "e.csv", "u,i,W\n1,2,3\n"))
    with pytest.raises(InputError, match=r"did you mean 'rating'"):
        read(write(tmp_path / "f.csv", "u,i,rating\n1,2,3\n"), values=("ratings",))


def test_a_column_that_occurs_twice_is_an_error(tmp_path):
    with pytest.raises(InputError, match="column 'u' occurs twice"):
        read(write(tmp_path / "e.csv", "u,i,w,u\n1,2,3,4\n"))


@pytest.mark.parametrize("kept_bytes", [20, -20])
def test_a_truncated_parquet_file_is_a_data_error_with_its_path(tmp_path, kept_bytes):
    pa.parquet.write_table(pa.table({"u": [1], "i": [2], "w": [3]}), tmp_path / "whole.parquet")
    path = write(tmp_path / "cut.parquet", (tmp_path / "whole.parquet").read_bytes()[:kept_bytes])
    with pytest.raises(DataError, match=r"cut\.parquet: cannot be read as parquet"):
        read(path)


def test_a_truncated_gzip_file_is_a_data_error(tmp_path):
    text = gzip.compress(b"u,i,w\n" + b"".join(b"%d,%d,1\n" % (n, n * n) for n in range(50_000)))
    with pytest.raises(DataError, match="cannot be read as csv"):
        read(write(tmp_path / "e.csv.gz", text[: len(text) // 2]))


def test_a_quote_that_never_closes_is_a_data_error_not_a_filled_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "_BLOCK_BYTES", 1000)
    with pytest.raises(DataError, match="cannot be read as csv"):
        read(write(tmp_path / "e.csv", 'u,i,w\n1,2,3\n"1,2,3\n' + "4,5,6\n" * 1000))


def test_rows_are_estimated_from_sizes(tmp_path):
    write(tmp_path / "a.csv", "u,i\n" + "1,2\n" * 100)
    assert 10 < estimate_rows(find_sources([tmp_path])) < 200
