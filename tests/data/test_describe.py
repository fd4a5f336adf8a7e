"""Descriptions of datasets, as numbers, as a picture and on the command line."""

import io
import json

import matplotlib.image
import numpy as np
import pyarrow as pa
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import jobs.describe
from rgals.data.dataset import Dataset, DatasetWriter
from rgals.data.describe import DatasetDescription, describe, draw_degrees, gini, summarize_degrees
from rgals.data.ids import IdDictionary
from rgals.data.ledger import Ledger
from rgals.data.splits import SplitRule
from rgals.data.storage import new_folder
from rgals.errors import ChecksumError, OutputExistsError

MICROSECONDS = 1_000_000
# part, user, item, weight, time in seconds
ENTRIES = [
    (0, 0, 0, 1.0, 0),
    (0, 0, 1, 2.0, 60),
    (0, 0, 2, 3.0, 120),
    (0, 1, 0, 0.5, 86400),
    (0, 3, 0, 1.0, 30),
    (2, 1, 1, 4.0, 2 * 86400),
]


def write(path, entries=ENTRIES, *, weights=True, times=True, n_users=4):
    columns = [np.array(column) for column in zip(*entries, strict=True)] or [np.zeros(0, dtype=np.int64)] * 5
    part, user, item, weight, time = columns
    with new_folder(path) as staged:
        writer = DatasetWriter(
            staged,
            IdDictionary.from_values(pa.array(np.arange(n_users))),
            IdDictionary.from_values(pa.array(["a", "b", "c"])),
            2,
            path.parent / "scratch",
        )
        for code in np.unique(part):
            mine = part == code
            writer.add(
                code,
                user[mine],
                item[mine],
                weight[mine] if weights else None,
                time[mine] * MICROSECONDS if times else None,
            )
        n = len(entries)
        writer.finish(
            SplitRule(kind="leave-last"),
            {"seed": 7},
            Ledger(read=n + 5, kept=n, merged=1, dropped={"core filter": 2}, rejected={"missing [user] id": 2}),
        )
    return Dataset.open(path)


def run(*arguments):
    app = typer.Typer()
    app.command()(jobs.describe.describe)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "80"})


def test_counts_ranges_and_degrees_are_those_of_the_entries(tmp_path):
    seen = []
    found = describe(write(tmp_path / "dataset"), lambda done, total: seen.append((done, total)))
    assert (found.n_users, found.n_items, found.n_interactions) == (4, 3, 6)
    assert found.density == 0.5
    train, test = found.parts["train"], found.parts["test"]
    assert list(found.parts) == ["train", "test"]
    assert (train.n_interactions, train.n_users, train.n_items, train.share) == (5, 3, 3, 5 / 6)
    assert (train.smallest_weight, train.mean_weight, train.largest_weight) == (0.5, 1.5, 3.0)
    assert (train.first_time, train.last_time) == ("1970-01-01T00:00:00.000000Z", "1970-01-02T00:00:00.000000Z")
    assert (test.smallest_weight, test.first_time) == (4.0, "1970-01-03T00:00:00.000000Z")
    users, items = found.degrees["user"], found.degrees["item"]
    assert (users.n_rows, users.n_empty, users.mean) == (4, 1, 1.25)
    assert [(bin_.low, bin_.high, bin_.n_rows) for bin_ in users.histogram] == [(1, 1, 2), (2, 3, 1)]
    assert [(bin_.low, bin_.high, bin_.n_rows) for bin_ in items.histogram] == [(1, 1, 2), (2, 3, 1)]
    assert users.quantiles["0.5"] == 1
    assert users.quantiles["1"] == 3
    assert found.ledger.n_rejected == 2
    assert found.options == {"seed": 7}
    assert seen[-1] == (6, 6)


def test_absent_weights_are_one_and_absent_times_are_none(tmp_path):
    train = describe(write(tmp_path / "dataset", weights=False, times=False)).parts["train"]
    assert (train.smallest_weight, train.mean_weight, train.largest_weight) == (1.0, 1.0, 1.0)
    assert train.first_time is None


@pytest.mark.parametrize("n_users", [0, 4])
def test_what_is_undefined_without_interactions_is_none(tmp_path, n_users):
    found = describe(write(tmp_path / "dataset", [], n_users=n_users))
    assert found.density == (None if n_users == 0 else 0.0)
    assert found.parts["train"].share is None
    assert found.parts["train"].mean_weight is None
    assert found.degrees["user"].gini is None
    assert found.degrees["user"].histogram == ()
    assert found.degrees["user"].mean == (None if n_users == 0 else 0.0)
    assert draw_degrees(found).startswith(b"\x89PNG")
    assert run(tmp_path / "dataset").exit_code == 0


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60))
def test_the_histogram_counts_every_row_with_interactions_once(degrees):
    found = summarize_degrees(np.array(degrees, dtype=np.int64))
    assert found.n_empty == degrees.count(0)
    for bin_ in found.histogram:
        assert bin_.n_rows == sum(bin_.low <= degree <= bin_.high for degree in degrees)
    assert sum(bin_.n_rows for bin_ in found.histogram) + found.n_empty == len(degrees)
    ordered = sorted(degrees)
    assert found.quantiles["0"] == ordered[0]
    assert found.quantiles["1"] == ordered[-1]
    assert found.quantiles["0.5"] == ordered[(len(ordered) - 1) // 2]


def test_the_histogram_holds_degrees_beyond_31_bits():
    found = summarize_degrees(np.array([2**40, 2**40 - 1], dtype=np.int64))
    assert [(bin_.low, bin_.n_rows) for bin_ in found.histogram if bin_.n_rows] == [(2**39, 1), (2**40, 1)]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40))
def test_gini_is_the_mean_difference_of_pairs(degrees):
    found = gini(np.array(degrees, dtype=np.int64))
    if sum(degrees) == 0:
        assert found is None
        return
    differences = sum(abs(left - right) for left in degrees for right in degrees)
    assert found == pytest.approx(differences / (2 * len(degrees) * sum(degrees)), abs=1e-12)
    assert -1e-12 <= found <= 1 - 1 / len(degrees) + 1e-12


def test_the_picture_is_a_png_with_something_drawn(tmp_path):
    pixels = matplotlib.image.imread(io.BytesIO(draw_degrees(describe(write(tmp_path / "dataset")))))
    assert pixels.shape[0] > 300
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10


def test_the_command_prints_every_count_in_80_columns(tmp_path):
    dataset = write(tmp_path / "dataset")
    result = run(tmp_path / "dataset")
    assert result.exit_code == 0
    text = result.stdout
    assert dataset.fingerprint in text
    assert "4 (int64 ids)" in text
    assert "3 (string ids)" in text
    assert "6, density 0.5" in text
    assert "leave-last: n_test 1, n_validation 0" in text
    assert ["train", "5", "83.3%", "3", "3"] in [line.split() for line in text.splitlines()]
    assert "train 0.5 1.5 3 1970-01-01 00:00 1970-01-02 00:00" in [" ".join(line.split()) for line in text.splitlines()]
    assert "mean 1.2, Gini 0.450, 1 without" in text
    assert "2 to 3      1  ████████████████████" in text
    assert "rejected: missing [user] id" in text
    assert "…" not in text


def test_json_is_the_whole_description(tmp_path):
    dataset = write(tmp_path / "dataset")
    result = run(tmp_path / "dataset", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["density"] == 0.5
    assert DatasetDescription.model_validate_json(result.stdout) == describe(dataset).model_copy(
        update={"location": str(tmp_path / "dataset")}
    )


def test_a_picture_is_written_and_replaced_only_on_request(tmp_path):
    write(tmp_path / "dataset")
    picture = tmp_path / "out" / "degrees.png"
    result = run(tmp_path / "dataset", "--picture", picture)
    assert result.exit_code == 0
    assert f"Picture: {picture}" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    picture.write_bytes(b"precious")
    refused = run(tmp_path / "dataset", "--picture", picture)
    assert isinstance(refused.exception, OutputExistsError)
    assert picture.read_bytes() == b"precious"
    assert run(tmp_path / "dataset", "--picture", picture, "--overwrite").exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_describing_verifies_the_files_it_reads(tmp_path):
    write(tmp_path / "dataset")
    path = tmp_path / "dataset" / "by_user" / "train-00000.parquet"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    assert isinstance(run(tmp_path / "dataset").exception, ChecksumError)
