"""Ingest against a twin in plain Python, and what its result may not depend on."""

import csv
import json
import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rgals.data.ingest import BELOW_CORE, OVERLAP, IngestOptions, ingest
from rgals.data.splits import SplitRule
from rgals.data.spool import BELOW_MINIMUM
from rgals.data.storage import Folder

FIELDS = ("user_id", "item_id", "weight", "time")
SEVERAL = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write_csv(path, rows, fields=FIELDS):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(fields)
        writer.writerows(row[: len(fields)] for row in rows)
    return path


def contents(dataset):
    """All interactions as {(part, user id, item id): (weight, time)}."""
    users, items = dataset.user_ids.values.to_pylist(), dataset.item_ids.values.to_pylist()
    found = {}
    for part in dataset.manifest.parts:
        rows = dataset.read_part(part)
        for user in range(rows.n_rows):
            for item, weight in zip(rows.columns_of(user), rows.weights_of(user), strict=True):
                found[part, users[user], items[item]] = float(weight)
    return found


def twin(rows, options):
    """What an ingest of good and bad rows must give: interactions, and counts by fate."""
    fates, merged = Counter(), {}
    for user, item, weight, time in rows:
        if not user.strip() or not item.strip():
            fates["rejected"] += 1
            continue
        try:
            rating, moment = float(weight), float(time)
        except ValueError:
            fates["rejected"] += 1
            continue
        lowest = options.minimum_rating if options.grades is None else options.grades[0]
        if lowest is not None and rating < lowest:
            fates["below"] += 1
            continue
        if options.grades is not None and math.isfinite(rating):
            rating = float(sum(rating >= least for least in options.grades))
        gain = {"linear": rating, "binary": 1.0, "gain": 2.0**rating - 1 if rating < 1000 else math.inf}
        value = gain[options.weight_from_rating]
        if not math.isfinite(rating) or not 0 < value <= float(np.finfo(np.float32).max):
            fates["rejected"] += 1
            continue
        merged.setdefault((user, item), []).append((moment, value))
    policies = {
        "max": lambda events: max(value for _, value in events),
        "sum": lambda events: sum(sorted(value for _, value in events)),
        "last": lambda events: max(events)[1],
        "count": len,
    }
    fates["merged"] = sum(len(events) - 1 for events in merged.values())
    weights = {pair: policies[options.duplicates](events) for pair, events in merged.items()}
    live, previous = dict(weights), None
    while previous != len(live):
        previous = len(live)
        degrees = Counter(user for user, _ in live)
        live = {pair: w for pair, w in live.items() if degrees[pair[0]] >= options.user_core}
        degrees = Counter(item for _, item in live)
        live = {pair: w for pair, w in live.items() if degrees[pair[1]] >= options.item_core}
    fates["below core"] = len(weights) - len(live)
    return live, fates


IDS = st.sampled_from(["1", "2", "3", "04", "x", "ä", ""])
ROWS = st.lists(
    st.tuples(
        IDS,
        IDS,
        st.sampled_from(["1", "2.5", "0.5", "4", "nan", "-1", "0", "", "x", "1e300"]),
        st.sampled_from(["0", "10", "20.5", "soon"]),
    ),
    min_size=1,
    max_size=30,
)


@SEVERAL
@given(
    rows=ROWS,
    duplicates=st.sampled_from(["max", "sum", "last", "count"]),
    weight_from_rating=st.sampled_from(["linear", "binary", "gain"]),
    below=st.sampled_from([{}, {"minimum_rating": 1.0}, {"minimum_rating": 2.0}, {"grades": (1.0, 2.5, 3.0)}]),
    cores=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    n_buckets=st.integers(1, 5),
)
def test_ingest_gives_what_the_twin_gives_and_its_ledger_adds_up(
    tmp_path, rows, duplicates, weight_from_rating, below, cores, n_buckets
):
    options = IngestOptions(
        weight_column="weight",
        time_column="time",
        duplicates=duplicates,
        weight_from_rating=weight_from_rating,
        **below,
        user_core=cores[0],
        item_core=cores[1],
        reject_limit=1.0,
        id_type="string",
    )
    expected, fates = twin(rows, options)
    path = write_csv(tmp_path / "events.csv", rows)
    output = tmp_path / "dataset"
    if not expected:
        with pytest.raises(ValueError, match="no interactions are left"):
            ingest([path], output, options, overwrite=True, n_buckets=n_buckets)
        return
    dataset = ingest([path], output, options, overwrite=True, n_buckets=n_buckets)
    found = contents(dataset)
    assert found == pytest.approx({("train", *pair): weight for pair, weight in expected.items()}, rel=1e-6)
    ledger = dataset.manifest.ledger
    assert ledger.is_balanced
    assert (ledger.read, ledger.kept, ledger.merged) == (len(rows), len(expected), fates["merged"])
    assert ledger.n_rejected == fates["rejected"]
    assert ledger.dropped.get(BELOW_MINIMUM, 0) == fates["below"]
    assert ledger.dropped.get(BELOW_CORE, 0) == fates["below core"]
    # No row of a dictionary is without an interaction.
    assert sorted({user for _, user, _ in found}) == sorted(dataset.user_ids.values.to_pylist())
    assert sorted({item for _, _, item in found}) == sorted(dataset.item_ids.values.to_pylist())


def many_rows(n=600, seed=3):
    """Rows of text ids and numbers, with duplicates and ties in time."""
    generator = np.random.default_rng(seed)
    return [
        (f"u{generator.integers(40)}", str(generator.integers(60)), str(generator.integers(1, 10) / 2), str(time))
        for time in generator.integers(0, 50, n)
    ]


@pytest.mark.parametrize("duplicates", ["max", "sum", "last", "count"])
@pytest.mark.parametrize(
    "split",
    [
        SplitRule(kind="random", validation_fraction=0.2),
        SplitRule(kind="leave-last", n_validation=1),
        SplitRule(kind="time", test_from=40, validation_from=30),
        SplitRule(kind="held-out-users", test_users=5, validation_users=0.2),
    ],
    ids=lambda rule: rule.kind,
)
def test_the_fingerprint_does_not_depend_on_files_their_order_batches_buckets_and_shards(tmp_path, duplicates, split):
    rows = many_rows()
    options = IngestOptions(weight_column="weight", time_column="time", duplicates=duplicates, split=split, item_core=2)
    whole = write_csv(tmp_path / "whole.csv", rows)
    reference = ingest([whole], tmp_path / "a", options, n_buckets=1)

    (tmp_path / "parts").mkdir()
    for place, start in enumerate(range(0, len(rows), 150)):
        part = [[float(v) if n > 1 else v for n, v in enumerate(row)] for row in rows[start : start + 150]][::-1]
        table = pa.table(dict(zip(FIELDS, map(list, zip(*part, strict=True)), strict=True)))
        # Item ids are integers in these files and text in the CSV file.
        pa.parquet.write_table(table, tmp_path / "parts" / f"{9 - place}.parquet", row_group_size=40)
    other = ingest(
        [tmp_path / "parts"], tmp_path / "b", options.model_copy(update={"n_shards": 7}), n_buckets=5, batch_rows=7
    )
    assert contents(other) == {(p, u, str(i)): w for (p, u, i), w in contents(reference).items()}
    assert {part: n.n_interactions for part, n in other.manifest.parts.items()} == {
        part: n.n_interactions for part, n in reference.manifest.parts.items()
    }
    # The text files alone, in two orders and formats.
    lines = [json.dumps(dict(zip(FIELDS, row, strict=True))) for row in rows[:300]]
    (tmp_path / "first.jsonl").write_text("\n".join(lines))
    second = write_csv(tmp_path / "second.csv", rows[300:])
    for place, sources in enumerate(([tmp_path / "first.jsonl", second], [second, tmp_path / "first.jsonl"])):
        again = ingest(sources, tmp_path / f"c{place}", options, n_buckets=3 + place)
        assert again.fingerprint == reference.fingerprint


def test_last_without_times_follows_the_order_of_the_sources(tmp_path):
    for name, weight in (("a", 1), ("b", 2)):
        write_csv(tmp_path / f"{name}.csv", [("u", "i", weight), ("u", "j", 5), ("u", "j", weight)], FIELDS[:3])
    options = IngestOptions(weight_column="weight", duplicates="last")
    forward = ingest([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "ab", options, n_buckets=4)
    backward = ingest([tmp_path / "b.csv", tmp_path / "a.csv"], tmp_path / "ba", options)
    folder = ingest([f"{tmp_path}/*.csv"], tmp_path / "folder", options)
    assert contents(forward) == {("train", "u", "i"): 2.0, ("train", "u", "j"): 2.0}
    assert contents(backward) == {("train", "u", "i"): 1.0, ("train", "u", "j"): 1.0}
    assert folder.fingerprint == forward.fingerprint


@pytest.mark.parametrize(
    ("texts", "id_type", "expected"),
    [
        (["7", "10", "-3"], "auto", [-3, 7, 10]),
        (["7", "10", "007"], "auto", ["007", "10", "7"]),
        (["7", "10", "9223372036854775808"], "auto", ["10", "7", "9223372036854775808"]),
        (["7", "10"], "string", ["10", "7"]),
        (["b", "a", "é", "Z"], "auto", ["Z", "a", "b", "é"]),
    ],
)
def test_ids_of_text_files_are_integers_only_if_every_one_is(tmp_path, texts, id_type, expected):
    path = write_csv(tmp_path / "e.csv", [(text, "i") for text in texts], FIELDS[:2])
    dataset = ingest([path], tmp_path / "d", IngestOptions(id_type=id_type))
    assert dataset.user_ids.values.to_pylist() == expected


def test_ids_of_parquet_files_keep_their_type_and_disagreeing_files_give_strings(tmp_path):
    pa.parquet.write_table(pa.table({"user_id": [7, 8], "item_id": ["7", "8"]}), tmp_path / "a.parquet")
    dataset = ingest([tmp_path / "a.parquet"], tmp_path / "d")
    assert (dataset.user_ids.kind, dataset.item_ids.kind) == ("int64", "string")
    write_csv(tmp_path / "b.csv", [("007", "8"), ("7", "8")], FIELDS[:2])
    both = ingest([tmp_path / "a.parquet", tmp_path / "b.csv"], tmp_path / "e")
    assert both.user_ids.values.to_pylist() == ["007", "7", "8"]
    # The 7 of the Parquet file and the "7" of the CSV file are one user.
    assert set(contents(both)) == {("train", "007", "8"), ("train", "7", "7"), ("train", "7", "8"), ("train", "8", "8")}


def test_unweighted_events_have_weight_one_and_counts_on_request(tmp_path):
    path = write_csv(tmp_path / "e.csv", [("u", "i"), ("u", "i"), ("v", "i")], FIELDS[:2])
    plain = ingest([path], tmp_path / "a")
    assert plain.read_part("train").weights is None
    assert plain.manifest.ledger.merged == 1
    for policy in ("sum", "count"):
        counted = ingest([path], tmp_path / policy, IngestOptions(duplicates=policy))
        assert contents(counted) == {("train", "u", "i"): 2.0, ("train", "v", "i"): 1.0}


def test_an_official_split_is_taken_as_it_is_without_what_train_holds_too(tmp_path):
    train = write_csv(tmp_path / "train.csv", [("u", "i"), ("u", "j"), ("v", "i")], FIELDS[:2])
    test = write_csv(tmp_path / "test.csv", [("u", "i"), ("u", "k"), ("u", "k"), ("w", "i")], FIELDS[:2])
    dataset = ingest([train], tmp_path / "d", test_sources=[test], n_buckets=2)
    assert set(contents(dataset)) == {
        ("train", "u", "i"),
        ("train", "u", "j"),
        ("train", "v", "i"),
        ("test", "u", "k"),
        ("test", "w", "i"),
    }
    ledger = dataset.manifest.ledger
    assert (ledger.read, ledger.kept, ledger.merged, ledger.dropped) == (7, 5, 1, {OVERLAP: 1})
    assert dataset.manifest.split.kind == "official"


def test_an_official_split_takes_its_validation_part_from_train_only(tmp_path):
    rows = many_rows()
    train, test = (
        write_csv(tmp_path / "a.csv", rows[:400], FIELDS[:2]),
        write_csv(tmp_path / "b.csv", rows[400:], FIELDS[:2]),
    )
    plain = ingest([train], tmp_path / "p", test_sources=[test])
    options = IngestOptions(split=SplitRule(kind="official", validation_fraction=0.25))
    dataset = ingest([train], tmp_path / "d", options, test_sources=[test])
    assert dataset.manifest.parts["test"] == plain.manifest.parts["test"]
    n_train, n_validation = (dataset.manifest.parts[part].n_interactions for part in ("train", "validation"))
    assert n_train + n_validation == plain.manifest.parts["train"].n_interactions
    assert 0.2 < n_validation / (n_train + n_validation) < 0.3


def test_times_are_stored_as_utc_microseconds_and_the_latest_of_duplicates_counts(tmp_path):
    rows = [("u", "i", 1, "2020-01-01"), ("u", "i", 1, "2020-01-01T01:00:00+00:00"), ("u", "j", 1, 1577836801)]
    path = write_csv(tmp_path / "e.csv", rows)
    options = IngestOptions(time_column="time", split=SplitRule(kind="leave-last"))
    dataset = ingest([path], tmp_path / "d", options)
    assert set(contents(dataset)) == {("train", "u", "j"), ("test", "u", "i")}
    (shard,) = {entry.name for entry in dataset.manifest.shards["user"]}
    table = pa.parquet.read_table(tmp_path / "d" / shard)
    assert 1_577_836_801_000_000 in table["time"].cast(pa.int64()).to_pylist()


def test_rejected_rows_are_in_the_quarantine_file_with_their_values(tmp_path):
    rows = [("u", "i", "1", "0"), ("", "i", "1", "0"), ("u", "j", "nan", "0"), ("u", "k", "2", "1"), ("u", "l", "1")]
    path = write_csv(tmp_path / "e.csv", rows)
    options = IngestOptions(weight_column="weight", time_column="time", reject_limit=0.7)
    dataset = ingest([path], tmp_path / "d", options)
    assert dataset.manifest.ledger.rejected == {
        "missing user id": 1,
        "weight is not finite": 1,
        "wrong number of fields": 1,
    }
    quarantine = pa.parquet.read_table(tmp_path / "d" / "quarantine.parquet").to_pylist()
    assert sorted(
        (row["row"], row["reason"], row["user"], row["weight"]) for row in quarantine if row["user"] is not None
    ) == [
        (3, "missing user id", "", "1"),
        (4, "weight is not finite", "u", "nan"),
    ]
    (line,) = [row for row in quarantine if row["line"] is not None]
    assert (line["row"], line["source"]) == (6, str(path))
    assert line["line"].startswith("u,l,1")


def test_a_dataset_without_rejects_has_no_quarantine_file(tmp_path):
    path = write_csv(tmp_path / "e.csv", [("u", "i")], FIELDS[:2])
    ingest([path], tmp_path / "d", IngestOptions(reject_limit=0.5))
    assert "quarantine.parquet" not in Folder.at(tmp_path / "d").file_names()


def test_progress_is_told_of_every_stage(tmp_path):
    path = write_csv(tmp_path / "e.csv", many_rows(), FIELDS)
    seen = []
    ingest([path], tmp_path / "d", IngestOptions(user_core=2), progress=lambda *state: seen.append(state), n_buckets=2)
    assert [stage for stage, _, _ in seen] == sorted(
        (stage for stage, _, _ in seen), key=["read", "merge", "filter", "split", "write"].index
    )
    assert ("read", 600, None) in seen
    assert ("merge", 2, 2) in seen


@pytest.mark.realdata
def test_movielens_ratings_become_a_dataset_with_time_and_random_splits(tmp_path, real_data):
    path = real_data / "ml-latest-small" / "ratings.csv"
    columns = {"user_column": "userId", "item_column": "movieId", "weight_column": "rating", "time_column": "timestamp"}
    options = IngestOptions(**columns, weight_from_rating="gain", split=SplitRule(kind="time", test_from="2017-01-01"))
    dataset = ingest([path], tmp_path / "time", options)
    with path.open() as stream:
        rows = list(csv.DictReader(stream))
    n_test = sum(int(row["timestamp"]) >= 1_483_228_800 for row in rows)
    assert (dataset.n_users, dataset.n_items) == (610, 9724)
    assert dataset.manifest.parts["test"].n_interactions == n_test
    expected = {(int(row["userId"]), int(row["movieId"])): 2 ** float(row["rating"]) - 1 for row in rows}
    found = {(user, item): weight for (_, user, item), weight in contents(dataset).items()}
    assert found == pytest.approx(expected, rel=1e-6)
    options = IngestOptions(**columns, id_type="string", split=SplitRule(kind="random"), minimum_rating=4)
    dataset = ingest([path], tmp_path / "random", options)
    assert dataset.user_ids.kind == "string"
    assert dataset.manifest.ledger.kept == sum(float(row["rating"]) >= 4 for row in rows)


@pytest.mark.realdata
def test_the_gowalla_split_is_taken_as_it_is(tmp_path, real_data):
    folder = real_data / "gowalla"
    dataset = ingest([folder / "train.parquet"], tmp_path / "d", test_sources=[folder / "test.parquet"])
    assert (dataset.n_users, dataset.n_items) == (29_858, 40_981)
    assert {part: n.n_interactions for part, n in dataset.manifest.parts.items()} == {"train": 810_128, "test": 217_242}
    assert dataset.manifest.ledger.n_dropped == 0
