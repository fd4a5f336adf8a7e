"""Bad input: each with a clear error, and nothing left half-written."""

import errno
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet
import pytest

from rgals.data.ingest import IngestOptions, ingest
from rgals.data.splits import SplitRule
from rgals.data.spool import SpoolWriter
from rgals.errors import DataError, InputError, OutputExistsError, RgalsError

ROWS = "user_id,item_id,weight,time\nu,i,1,100\nv,j,2,200\n"


def write(path, text=ROWS):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def left_behind(folder):
    """Everything in a folder but the sources of these tests."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(("source", "train", "test")))


def cut_parquet(path, kept_bytes):
    table = pa.table({"user_id": list(range(100_000)), "item_id": list(range(100_000))})
    pa.parquet.write_table(table, path, compression="none", row_group_size=1000)
    return write(path, path.read_bytes()[:kept_bytes])


BAD_SOURCES = {
    "missing column": ("source.csv", ROWS.replace("item_id", "item"), {}, r"no column 'item_id'.*did you mean 'item'"),
    "empty file": ("source.csv", "", {}, "the file is empty"),
    "only a header": ("source.csv", "user_id,item_id\n", {}, r"source\.csv: no rows"),
    "not a table": ("source.csv", b"\x00\x01\x02", {}, r"source\.csv"),
    "NaN weight": (
        "source.csv",
        ROWS + "w,k,nan,300\n",
        {"weight_column": "weight"},
        r"source\.csv, row 4: weight is not finite .*weight 'nan'.*--reject-limit",
    ),
    "negative weight": (
        "source.csv",
        ROWS + "w,k,-2,300\n",
        {"weight_column": "weight"},
        r"row 4: weight is negative .*weight '-2'",
    ),
    "text where a number belongs": (
        "source.csv",
        ROWS + "w,k,two,300\n",
        {"weight_column": "weight"},
        r"row 4: weight is not a number .*'two'",
    ),
    "missing id": ("source.csv", ROWS + ",k,1,300\n", {}, "row 4: missing user id"),
    "unreadable time": (
        "source.csv",
        ROWS + "w,k,1,later\n",
        {"time_column": "time"},
        "row 4: time is neither a number nor ISO-8601",
    ),
    "milliseconds": (
        "source.csv",
        ROWS + "w,k,1,1577836800000\n",
        {"time_column": "time"},
        r"row 4: time is outside the years 1 to 9999 \(is its unit right\?\)",
    ),
    "ids that are no integers": ("source.csv", ROWS, {"id_type": "int64"}, "row 2: user id is not a 64-bit integer"),
    "short row": ("source.csv", ROWS + "w,k\n", {}, "row 4: wrong number of fields"),
    "broken JSON": ("source.jsonl", '{"user_id": 1, "item_id": 2}\n{"user_id"', {}, "row 2: not a JSON object"),
    "nothing left": (
        "source.csv",
        ROWS,
        {"weight_column": "weight", "minimum_rating": 9},
        r"no interactions are left \(rows read 2, dropped: below the minimum rating 2",
    ),
    "no core": ("source.csv", ROWS, {"user_core": 2}, r"no interactions are left .*below the core 2"),
    "too many rejects": (
        "source.csv",
        ROWS + ",k,1,1\nu,,1,1\n,,1,1\n",
        {"reject_limit": 0.5},
        r"3 of 5 rows rejected, more than the reject limit of 0\.5.*1 with missing item id.*2 with missing user id, "
        r"first .*row 4",
    ),
    "weights that add up to infinity": (
        "source.csv",
        ROWS + "u,i,3e38,1\nu,i,3e38,1\n",
        {"weight_column": "weight", "duplicates": "sum"},
        "user 'u', item 'i': the merged weight 6e.38 is beyond float32",
    ),
    "time split without times": (
        "source.csv",
        ROWS,
        {"split": SplitRule(kind="time", test_from=0)},
        r"split 'time' needs times.*--time-column",
    ),
    "official split without test": (
        "source.csv",
        ROWS,
        {"split": SplitRule(kind="official")},
        "split 'official' needs test sources",
    ),
}


@pytest.mark.parametrize(("name", "text", "fields", "message"), BAD_SOURCES.values(), ids=BAD_SOURCES.keys())
def test_bad_input_is_a_clear_error_and_leaves_nothing(tmp_path, name, text, fields, message):
    path = write(tmp_path / name, text)
    with pytest.raises(RgalsError, match=f"(?s){message}"):
        ingest([path], tmp_path / "dataset", IngestOptions(**fields))
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("kept_bytes", [100, 500_000, -1], ids=["start", "half", "almost all"])
def test_a_truncated_parquet_file_is_a_data_error_and_leaves_nothing(tmp_path, kept_bytes):
    path = cut_parquet(tmp_path / "source.parquet", kept_bytes)
    with pytest.raises(DataError, match=r"source\.parquet: cannot be read as parquet"):
        ingest([path], tmp_path / "dataset")
    assert left_behind(tmp_path) == []


def test_a_parquet_file_with_damaged_data_is_a_data_error_and_leaves_nothing(tmp_path):
    path = tmp_path / "source.parquet"
    table = pa.table({"user_id": [f"u{n}" for n in range(10_000)], "item_id": [f"i{n}" for n in range(10_000)]})
    pa.parquet.write_table(table, path, use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[4:2000] = b"\xff" * 1996
    write(path, bytes(content))
    with pytest.raises(DataError, match=r"source\.parquet: cannot be read as parquet"):
        ingest([path], tmp_path / "dataset")
    assert left_behind(tmp_path) == []


def test_a_column_of_a_wrong_type_is_an_error_at_once(tmp_path):
    pa.parquet.write_table(pa.table({"user_id": [[1]], "item_id": [1]}), tmp_path / "source.parquet")
    with pytest.raises(InputError, match=r"column 'user_id': expected user ids as text or integers, found list<"):
        ingest([tmp_path / "source.parquet"], tmp_path / "dataset", IngestOptions(reject_limit=1.0))
    assert left_behind(tmp_path) == []


def test_test_events_before_the_train_cut_are_an_error(tmp_path):
    train, test = write(tmp_path / "train.csv"), write(tmp_path / "test.csv", ROWS.replace("v,j,2,200", "v,k,2,199"))
    options = IngestOptions(time_column="time")
    with pytest.raises(
        InputError, match=r"(?s)test\.csv, row 2: test event at 1970-01-01T00:01:40.* before the train cut"
    ):
        ingest([train], tmp_path / "dataset", options, test_sources=[test])
    assert left_behind(tmp_path) == []
    # Without times nothing is known of a cut; at the cut itself an event may be in either part.
    ingest([train], tmp_path / "dataset", test_sources=[test])
    later = write(tmp_path / "test2.csv", ROWS.replace("u,i,1,100", "u,j,1,200").replace("v,j,2", "v,k,2"))
    ingest([train], tmp_path / "other", options, test_sources=[later])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": SplitRule(kind="random")}, "are a split already, found split 'random'"),
        ({"user_core": 2}, "a core filter would change an official split"),
    ],
)
def test_an_official_split_is_not_combined_with_rules_that_change_it(tmp_path, fields, message):
    train, test = write(tmp_path / "train.csv"), write(tmp_path / "test.csv")
    with pytest.raises(InputError, match=message):
        ingest([train], tmp_path / "dataset", IngestOptions(**fields), test_sources=[test])
    with pytest.raises(InputError, match="named as train and as test"):
        ingest([train], tmp_path / "dataset", test_sources=[train])
    assert left_behind(tmp_path) == []


def test_an_existing_output_is_refused_before_anything_is_read_and_survives_a_failure(tmp_path):
    good, bad = write(tmp_path / "source.csv"), write(tmp_path / "source_bad.csv", "user_id,item_id\n,x\n")
    first = ingest([good], tmp_path / "dataset")
    with pytest.raises(OutputExistsError, match="exists already; choose another output or pass --overwrite"):
        ingest([tmp_path / "source_absent.csv"], tmp_path / "dataset")
    with pytest.raises(InputError, match="missing user id"):
        ingest([bad], tmp_path / "dataset", overwrite=True)
    assert ingest([good], tmp_path / "again").fingerprint == first.fingerprint
    assert first.open(tmp_path / "dataset").fingerprint == first.fingerprint
    assert left_behind(tmp_path) == ["again", "dataset"]


def test_a_write_that_fails_is_a_data_error_and_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SpoolWriter, "write", fail)
    with pytest.raises(DataError, match=r"No space left on device.*nothing was left behind"):
        ingest([write(tmp_path / "source.csv")], tmp_path / "dataset")
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    "limit_bytes", [20_000, 300_000, 500_000], ids=["while spooling", "while merging", "while dividing"]
)
def test_a_disk_that_fills_up_is_a_data_error_and_leaves_nothing(tmp_path, limit_bytes):
    n = 50_000
    table = pa.table({"user_id": [k * k % 9_973 for k in range(n)], "item_id": [k * 7 % 4_999 for k in range(n)]})
    pa.parquet.write_table(table, tmp_path / "source.parquet")
    script = (
        "import resource, signal, sys; from rgals.data.ingest import ingest\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit_bytes}, {limit_bytes}))\n"
        "ingest([sys.argv[1]], sys.argv[2], n_buckets=1)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "source.parquet"), str(tmp_path / "dataset")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    assert "rgals.errors.DataError" in done.stderr, done.stderr
    assert "nothing was left behind" in done.stderr
    assert left_behind(tmp_path) == []


def test_an_interrupt_leaves_nothing(tmp_path):
    def interrupt(stage, _done, _total):
        if stage == "split":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest([write(tmp_path / "source.csv")], tmp_path / "dataset", progress=interrupt)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"user_column": "a", "item_column": "a"}, "user and item column are both 'a'"),
        ({"minimum_rating": 3}, "minimum_rating needs a column of ratings"),
        ({"grades": (3, 4)}, "grades need a column of ratings"),
        ({"grades": (4, 3), "weight_column": "r"}, "expected ascending ratings"),
        ({"grades": (), "weight_column": "r"}, "expected ascending ratings"),
        ({"grades": (3,), "weight_column": "r", "minimum_rating": 3}, "exclude each other"),
        ({"weight_from_rating": "gain"}, "'gain' needs a column of ratings"),
        ({"reject_limit": 1.5}, "less than or equal to 1"),
        ({"user_core": 0}, "greater than or equal to 1"),
        ({"unknown": 1}, "Extra inputs are not permitted"),
    ],
)
def test_options_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        IngestOptions(**fields)
