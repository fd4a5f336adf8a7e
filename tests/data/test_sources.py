"""Which files a location names."""

import pyarrow.fs as pafs
import pytest

from rgals.data.sources import find_sources
from rgals.errors import DataError, InputError


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b.csv",
        "a.parquet",
        "c/d.jsonl",
        "c/e.tsv.gz",
        "notes.txt",
        "_SUCCESS.csv",
        ".hidden/f.csv",
        "manifest.json",
        "F.CSV",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(sources, folder):
    return [source.path.removeprefix(f"{folder}/") for source in sources]


def test_a_folder_gives_its_visible_files_of_known_endings_sorted_by_path(folder):
    sources = find_sources([folder])
    assert names(sources, folder) == ["F.CSV", "a.parquet", "b.csv", "c/d.jsonl", "c/e.tsv.gz"]
    assert [source.format for source in sources] == ["csv", "parquet", "csv", "jsonl", "csv"]
    assert [source.index for source in sources] == [0, 1, 2, 3, 4]


def test_locations_keep_their_given_order(folder):
    sources = find_sources([folder / "b.csv", folder / "a.parquet"], part="test", first_index=7)
    assert names(sources, folder) == ["b.csv", "a.parquet"]
    assert [(source.index, source.part) for source in sources] == [(7, "test"), (8, "test")]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.csv", ["b.csv"]),
        ("?.*", ["a.parquet", "b.csv"]),
        ("[ab].*", ["a.parquet", "b.csv"]),
        ("[!a].csv", ["b.csv"]),
        ("**/*.jsonl", ["c/d.jsonl"]),
        ("c/*", ["c/d.jsonl", "c/e.tsv.gz"]),
        ("*/d.*", ["c/d.jsonl"]),
        ("c/**", ["c/d.jsonl", "c/e.tsv.gz"]),
    ],
)
def test_a_glob_gives_the_files_that_match_it(folder, pattern, expected):
    (folder / "F.CSV").unlink()
    assert names(find_sources([f"{folder}/{pattern}"]), folder) == expected


def test_a_name_that_looks_like_a_glob_but_exists_is_taken_as_it_is(folder):
    (folder / "x[1].csv").write_text("u,i\n")
    assert names(find_sources([folder / "x[1].csv"]), folder) == ["x[1].csv"]


def test_a_filesystem_uri_names_files_as_a_path_does(folder):
    assert names(find_sources([f"file://{folder}/c"]), folder) == ["c/d.jsonl", "c/e.tsv.gz"]
    assert isinstance(find_sources([f"file://{folder}/b.csv"])[0].filesystem, pafs.LocalFileSystem)


def test_a_given_format_reads_files_of_any_ending(folder):
    assert find_sources([folder / "notes.txt"], "csv")[0].format == "csv"
    assert "notes.txt" in names(find_sources([folder], "csv"), folder)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("absent.csv", "no such file or folder"),
        ("notes.txt", "'.txt' names no known format"),
        ("*.txt", "the glob holds no file to read"),
        ("*.absent", "the glob holds no file to read"),
    ],
)
def test_a_location_without_readable_files_is_an_error_with_a_way_out(folder, location, message):
    with pytest.raises(InputError, match=message):
        find_sources([folder / location])


def test_a_folder_without_readable_files_is_an_error(tmp_path):
    with pytest.raises(InputError, match="the folder holds no file to read"):
        find_sources([tmp_path])


def test_a_file_named_twice_is_an_error(folder):
    with pytest.raises(InputError, match=r"b\.csv: named twice"):
        find_sources([folder, folder / "b.csv"])


def test_an_empty_file_is_an_error(folder):
    (folder / "empty.csv").touch()
    with pytest.raises(DataError, match=r"empty\.csv: the file is empty"):
        find_sources([folder])


def test_no_location_is_an_error():
    with pytest.raises(InputError, match="no source given"):
        find_sources([])
