"""The same rows in every format give the same dataset, the same rejects, and a bounded memory."""

import csv
import datetime as dt
import gzip
import itertools
import json
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rgals.data.ingest import IngestOptions, ingest
from rgals.data.sources import find_sources
from rgals.data.splits import SplitRule
from rgals.data.values import parse_numbers, parse_times
from rgals.errors import InputError

FIELDS = ("user_id", "item_id", "weight", "time")
OPTIONS = IngestOptions(
    weight_column="weight",
    time_column="time",
    duplicates="sum",
    reject_limit=1.0,
    split=SplitRule(kind="random", validation_fraction=0.2),
)
IN_FOLDER = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])

IDS = st.one_of(st.integers(-5, 5).map(str), st.sampled_from(["a", "b c", "ü", "007", 'quo"te', "com,ma", " "]))
ROWS = st.lists(
    st.tuples(IDS, IDS, st.sampled_from(["1", "2.5", "-1", "nan", "x"]), st.sampled_from(["5", "2020-01-01", "never"])),
    min_size=1,
    max_size=25,
)


def write_csv(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(FIELDS)
        writer.writerows(rows)


def write_tsv_gz(path, rows):
    lines = ["\t".join('"' + value.replace('"', '""') + '"' for value in row) for row in [FIELDS, *rows]]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


def write_json_lines(path, rows):
    path.write_text("".join(json.dumps(dict(zip(FIELDS, row, strict=True))) + "\n" for row in rows))


def write_json_numbers(path, rows):
    """Ids that are integers as JSON numbers, keys in another order."""
    lines = []
    for user, item, weight, time in rows:
        ids = [int(text) if text.lstrip("-").isdigit() and str(int(text)) == text else text for text in (user, item)]
        lines.append(json.dumps({"time": time, "item_id": ids[1], "weight": weight, "more": [1], "user_id": ids[0]}))
    path.write_text("\n".join(lines))


def write_binary_parquet(path, rows):
    columns = {name: pa.array([row[n].encode() for row in rows], pa.binary()) for n, name in enumerate(FIELDS)}
    pa.parquet.write_table(pa.table(columns), path, row_group_size=3)


WRITERS = {
    "a.csv": write_csv,
    "b.tsv.gz": write_tsv_gz,
    "c.jsonl": write_json_lines,
    "d.ndjson": write_json_numbers,
    "e.parquet": write_binary_parquet,
}


@IN_FOLDER
@given(rows=ROWS)
def test_every_format_gives_the_same_dataset_and_the_same_ledger(tmp_path, rows):
    outcomes = {}
    for name, write in WRITERS.items():
        write(tmp_path / name, rows)
        try:
            dataset = ingest([tmp_path / name], tmp_path / "dataset", OPTIONS, overwrite=True)
        except InputError as error:
            outcomes[name] = str(error).replace(str(tmp_path / name), "")
        else:
            outcomes[name] = (dataset.fingerprint, dataset.manifest.ledger.model_dump_json())
    assert len(set(outcomes.values())) == 1, outcomes


@IN_FOLDER
@given(rows=ROWS, cuts=st.lists(st.integers(0, 25), max_size=4), seed=st.integers(0, 99))
def test_rows_may_be_shuffled_and_cut_into_files_of_any_format(tmp_path, rows, cuts, seed):
    folder = pathlib.Path(tmp_path) / f"parts{seed}"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    write_csv(tmp_path / "whole.csv", rows)
    shuffled = [rows[place] for place in np.random.default_rng(seed).permutation(len(rows))]
    bounds = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
    for place, (start, stop) in enumerate(itertools.pairwise(bounds)):
        name, write = list(WRITERS.items())[(place + seed) % len(WRITERS)]
        write(folder / f"{place}-{name}", shuffled[start:stop])
    try:
        whole = ingest([tmp_path / "whole.csv"], tmp_path / "dataset", OPTIONS, overwrite=True)
    except InputError:
        with pytest.raises(InputError, match="no interactions are left"):
            ingest([folder], tmp_path / "dataset", OPTIONS, overwrite=True, n_buckets=3)
        return
    fingerprint, ledger = whole.fingerprint, whole.manifest.ledger
    parts = ingest([folder], tmp_path / "dataset", OPTIONS, overwrite=True, n_buckets=3, batch_rows=2)
    assert (parts.fingerprint, parts.manifest.ledger) == (fingerprint, ledger)


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_survive_text_exactly(numbers):
    values, problems = parse_numbers(pa.array([repr(number).encode() for number in numbers], pa.binary()), "weight")
    assert values.tolist() == numbers
    assert not any(mask.any() for mask, _ in problems)


@settings(deadline=None)
@given(
    st.lists(
        st.datetimes(dt.datetime(1000, 1, 1), dt.datetime(9999, 1, 1), timezones=st.just(dt.UTC)),  # noqa: DTZ001
        min_size=1,
    ),
    st.integers(-14 * 60, 14 * 60),
)
def test_times_survive_iso_text_in_every_zone_and_as_timestamps(moments, offset_minutes):
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    expected = [(moment - epoch) // dt.timedelta(microseconds=1) for moment in moments]
    zone = dt.timezone(dt.timedelta(minutes=offset_minutes))
    columns = [
        pa.array([moment.astimezone(zone).isoformat() for moment in moments]),
        pa.array([moment.replace(tzinfo=None).isoformat(sep=" ") for moment in moments]),
        pa.array([moment.isoformat().replace("+00:00", "Z").encode() for moment in moments]),
        pa.array(moments, pa.timestamp("us", "UTC")),
        pa.array(expected),
    ]
    for column in columns:
        values, problems = parse_times(column, "us")
        assert values.tolist() == expected
        assert not any(mask.any() for mask, _ in problems)


@IN_FOLDER
@given(
    names=st.sets(st.from_regex(r"[ab]{1,2}(/[ab]{1,2})?\.csv", fullmatch=True), min_size=1, max_size=6),
    pattern=st.sampled_from(
        ["*.csv", "a*.csv", "?.csv", "**/*.csv", "*/*.csv", "[a]?.csv", "[!a].csv", "a/*.csv", "**/b.csv"]
    ),
)
def test_globs_find_what_pathlib_finds(tmp_path_factory, names, pattern):
    folder = tmp_path_factory.mktemp("glob")
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("u,i\n")
    expected = sorted(str(path) for path in folder.glob(pattern) if path.is_file())
    if expected:
        assert [source.path for source in find_sources([f"{folder}/{pattern}"])] == expected
    else:
        with pytest.raises(InputError, match="holds no file to read"):
            find_sources([f"{folder}/{pattern}"])


PEAK = """
import sys, pathlib
from rgals.data.ingest import ingest
peaks = {}
def note(stage, done, total):
    status = pathlib.Path("/proc/self/status").read_text().splitlines()
    peaks[stage] = int(next(line.split()[1] for line in status if line.startswith("VmHWM")))
ingest([sys.argv[1]], sys.argv[2], n_buckets=int(sys.argv[3]), batch_rows=20_000, progress=note)
print(peaks["split"], peaks["write"])
"""


def peaks_mib(source, output, n_buckets):
    """Peak memory of a child process up to the last bucket divided, and to the end."""
    command = [sys.executable, "-c", PEAK, str(source), str(output), str(n_buckets)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return np.array(printed.split(), dtype=float) / 1024


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_events(tmp_path):
    generator = np.random.default_rng(0)
    for n_files in (1, 12):
        folder = tmp_path / str(n_files)
        folder.mkdir()
        for place in range(n_files):
            table = pa.table(
                {
                    "user_id": generator.integers(0, 20_000, 250_000),
                    "item_id": generator.integers(0, 5_000, 250_000),
                }
            )
            pa.parquet.write_table(table, folder / f"{place}.parquet", row_group_size=20_000)
    small = peaks_mib(tmp_path / "1", tmp_path / "a", 2)
    large = peaks_mib(tmp_path / "12", tmp_path / "b", 24)
    until_split, until_end = large - small
    # Twelve times the events, in buckets of equal size. All 3 million events are 70 MiB as arrays.
    assert until_split < 35
    # Sorting works on ranges of rows, whose size is bounded but not yet reached by the small input.
    assert until_end < 140
