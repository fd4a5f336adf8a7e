"""Writing datasets: what goes in comes out, in reproducible bytes, or nothing does."""

import errno
import hashlib
import itertools
import json
import resource

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rgals.data import dataset_writer, runs, shard_files
from rgals.data.dataset import Dataset, DatasetWriter
from rgals.data.ids import IdDictionary
from rgals.data.ledger import Ledger
from rgals.data.splits import PART_NAMES, SplitRule
from rgals.data.storage import Folder, new_folder
from rgals.errors import DataError, InputError
from rgals.names import MANIFEST_NAME
from rgals.numerics.pairwise import BLOCK_ROWS
from tests.data.dataset_problems import (
    N_ITEMS,
    N_USERS,
    assert_same,
    expected_part,
    file_bytes,
    make_entries,
    make_ids,
    write,
)
from tests.data.object_store import object_store


@pytest.fixture
def small_sorts(monkeypatch):
    """Sort few entries, keep few in memory, group few rows, so that small data takes the path of large data."""
    monkeypatch.setattr(shard_files, "SORT_INTERACTIONS", 100)
    monkeypatch.setattr(dataset_writer, "_BUFFER_RECORDS", 333)
    monkeypatch.setattr(runs, "_MOST_BLOCKS", 70)


@pytest.mark.usefixtures("small_sorts")
def test_every_part_comes_back_by_user(tmp_path):
    entries = make_entries()
    dataset = write(tmp_path / "dataset", entries, n_shards=2, batches=7)
    assert (dataset.n_users, dataset.n_items) == (N_USERS, N_ITEMS)
    assert dataset.part_names == PART_NAMES
    for code, part in enumerate(PART_NAMES):
        assert dataset.has_part(part)
        rows = dataset.read_part(part)
        assert_same(rows, expected_part(entries, code))
        mine = np.flatnonzero(entries["part"] == code)
        order = mine[np.lexsort((entries["item"][mine], entries["user"][mine]))]
        assert dataset.read_times(part).tolist() == entries["time"][order].tolist()
        summary = dataset.manifest.parts[part]
        assert summary.n_interactions == mine.size
        assert summary.n_users == np.unique(entries["user"][mine]).size
        assert summary.n_items == np.unique(entries["item"][mine]).size


@pytest.mark.usefixtures("small_sorts")
@pytest.mark.parametrize("n_shards", [1, 2, 3, 100])
def test_the_shards_of_both_sides_together_are_the_training_interactions(tmp_path, n_shards):
    entries = make_entries()
    dataset = write(tmp_path / "dataset", entries, n_shards=n_shards)
    by_user = expected_part(entries, 0)
    for side, whole in (("user", by_user), ("item", by_user.transpose())):
        ranges = dataset.shard_ranges(side)
        assert ranges[0].start == 0
        assert ranges[-1].stop == whole.n_rows
        assert len(ranges) <= n_shards
        assert all(left.stop == right.start for left, right in itertools.pairwise(ranges))
        assert all(shard.start % BLOCK_ROWS == 0 for shard in ranges)
        for index, shard in enumerate(ranges):
            rows = dataset.load_shard(side, index)
            assert_same(rows, whole.row_slice(shard.start, shard.stop))
            assert rows.n_interactions == shard.n_interactions
    assert dataset.n_interactions == by_user.n_interactions


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1000),
    n=st.integers(0, 60),
    n_shards=st.integers(1, 5),
    batches=st.integers(1, 4),
    limit=st.integers(1, 30),
)
def test_files_do_not_depend_on_the_order_of_interactions_or_batches(
    tmp_path_factory, monkeypatch, seed, n, n_shards, batches, limit
):
    folder = tmp_path_factory.mktemp("pair")
    entries = make_entries(n, seed)
    first = write(folder / "first", entries, n_shards=n_shards)
    monkeypatch.setattr(dataset_writer, "_BUFFER_RECORDS", limit)
    monkeypatch.setattr(runs, "_MOST_BLOCKS", limit)
    order = np.random.default_rng(seed).permutation(n)
    shuffled = {name: values[order] for name, values in entries.items()}
    second = write(folder / "second", shuffled, n_shards=n_shards, batches=batches)
    assert file_bytes(folder / "first") == file_bytes(folder / "second")
    other = write(folder / "other", entries, n_shards=n_shards + 1)
    assert other.fingerprint == first.fingerprint == second.fingerprint


@pytest.mark.usefixtures("small_sorts")
def test_the_fingerprint_is_the_documented_stream(tmp_path):
    entries = make_entries(500)
    dataset = write(tmp_path / "dataset", entries)
    digest = hashlib.sha256(b"rgals dataset 1\n")
    digest.update(b"int64 1300\n" + b"".join((3 * n).to_bytes(8, "little") for n in range(N_USERS)))
    texts = [f"i{number:06d}".encode() for number in range(N_ITEMS)]
    digest.update(b"string 700\n" + b"".join(len(text).to_bytes(8, "little") for text in texts) + b"".join(texts))
    digest.update(b"times\n")
    for code, name in enumerate(PART_NAMES):
        mine = sorted(
            (user, item, weight, time)
            for part, user, item, weight, time in zip(*(entries[key].tolist() for key in entries), strict=True)
            if part == code
        )
        digest.update(f"{name} {len(mine)}\n".encode())
        for user, item, weight, time in mine:
            digest.update(user.to_bytes(4, "little") + item.to_bytes(4, "little"))
            digest.update(np.float32(weight).tobytes() + time.to_bytes(8, "little", signed=True))
    assert dataset.fingerprint == digest.hexdigest()


@pytest.mark.parametrize("change", ["part", "user", "item", "weight", "time", "ids"])
def test_any_change_changes_the_fingerprint(tmp_path, change):
    entries = make_entries(50)
    first = write(tmp_path / "first", entries)
    changed = {name: values.copy() for name, values in entries.items()}
    n_users = N_USERS
    if change == "ids":
        n_users += 1
    else:
        value = changed[change][0]
        changed[change][0] = (value + 1) % 5 if change == "part" else value + 1 if value < 600 else value - 1
    assert write(tmp_path / "second", changed, n_users=n_users).fingerprint != first.fingerprint


def test_unit_weights_and_absent_times_are_not_stored(tmp_path):
    entries = make_entries()
    entries["weight"][:] = 1
    plain = write(tmp_path / "plain", entries, weights=False, times=False)
    ones = write(tmp_path / "ones", entries, weights=True, times=False)
    assert plain.fingerprint == ones.fingerprint
    assert plain.read_part("train").weights is None
    assert pq.read_schema(tmp_path / "plain" / "by_user" / "train-00000.parquet").names == ["user_row", "item_row"]
    assert not plain.manifest.has_times
    with pytest.raises(InputError, match="has no times"):
        plain.read_times("train")


def test_the_documented_way_without_rgals_gives_the_ids_of_every_interaction(tmp_path):
    entries = make_entries()
    write(tmp_path / "dataset", entries, n_shards=2)
    table = pq.read_table(tmp_path / "dataset" / "by_user")
    user_ids = pq.read_table(tmp_path / "dataset" / "user_ids.parquet")["id"]
    item_ids = pq.read_table(tmp_path / "dataset" / "item_ids.parquet")["id"]
    found = set(
        zip(
            user_ids.take(table["user_row"]).to_pylist(),
            item_ids.take(table["item_row"]).to_pylist(),
            table["weight"].to_pylist(),
            strict=True,
        )
    )
    mine = np.flatnonzero(entries["part"] == 0)
    assert len(found) == mine.size
    assert found == {
        (3 * int(entries["user"][at]), f"i{entries['item'][at]:06d}", float(entries["weight"][at])) for at in mine
    }


def test_row_groups_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_files, "_ROW_GROUP_ROWS", 64)
    dataset = write(tmp_path / "dataset", make_entries(), n_shards=1)
    metadata = pq.read_metadata(tmp_path / "dataset" / "by_user" / "train-00000.parquet")
    assert metadata.num_rows == dataset.n_interactions
    assert max(metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)) <= 64


def test_ranges_hold_no_more_than_is_sorted_at_a_time_unless_one_row_does(monkeypatch):
    monkeypatch.setattr(shard_files, "SORT_INTERACTIONS", 7)
    degrees = np.array([3, 0, 4, 1, 50, 1, 1, 1], dtype=np.int64)
    assert shard_files.row_ranges(degrees, [0, 6, 8]) == [[(0, 3), (3, 4), (4, 5), (5, 6)], [(6, 8)]]
    assert shard_files.row_ranges(np.zeros(0, np.int64), [0, 0]) == [[(0, 0)]]
    assert shard_files.row_ranges(np.zeros(5, np.int64), [0, 5]) == [[(0, 5)]]


@pytest.mark.parametrize("n_users", [0, 1, 5])
def test_a_dataset_without_interactions_is_whole(tmp_path, n_users):
    ids = IdDictionary.from_values(pa.array(np.arange(n_users)))
    with new_folder(tmp_path / "dataset") as staged:
        DatasetWriter(staged, ids, make_ids(2), None, tmp_path / "scratch").finish()
    dataset = Dataset.open(tmp_path / "dataset")
    assert dataset.n_interactions == 0
    assert dataset.has_part("train")
    assert dataset.read_part("train").n_rows == n_users
    assert dataset.load_shard("item", 0).n_rows == 2
    assert not dataset.has_part("test")


def test_the_manifest_tells_split_options_ledger_and_the_quarantine_file_is_listed(tmp_path):
    n = 4000
    split = SplitRule(kind="time", test_from="2020-01-01")
    ledger = Ledger(read=n + 3, kept=n, merged=1, dropped={"rule": 1}, rejected={"reason": 1})
    dataset = write(
        tmp_path / "dataset",
        make_entries(n),
        before=lambda staged: staged.write_bytes("quarantine.parquet", b"rejects"),
        split=split,
        options={"seed": 3, "weight_column": None},
        ledger=ledger,
    )
    assert dataset.manifest.split == split
    assert dataset.manifest.ledger == ledger
    assert dataset.manifest.options == {"seed": 3, "weight_column": None}
    assert set(dataset.manifest.versions) == {"rgals", "pyarrow"}
    document = json.loads((tmp_path / "dataset" / MANIFEST_NAME).read_bytes())
    assert document["split"] == {"kind": "time", "test_from": "2020-01-01T00:00:00Z"}
    assert document["files"]["quarantine.parquet"]["n_bytes"] == 7
    dataset.verify()


@pytest.mark.parametrize("ledger", [Ledger(read=50, kept=49, merged=1), Ledger(read=51, kept=50)])
def test_a_ledger_that_does_not_add_up_is_refused_and_nothing_is_left(tmp_path, ledger):
    with pytest.raises(InputError, match="ledger: expected 50 interactions kept"):
        write(tmp_path / "dataset", make_entries(50), ledger=ledger)
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, [0, 5], [0, 0]), "user_rows: expected 0 to 4, found 0 to 5"),
        ((0, [0, -1], [0, 0]), "user_rows: expected 0 to 4, found -1 to 0"),
        ((0, [0, 1], [0, 2]), "item_rows: expected 0 to 1, found 0 to 2"),
        ((0, [0, 1], [0]), r"item_rows: expected shape \(2,\), found \(1,\)"),
        ((0, [0, 1], [0, 0], [1.0]), r"weights: expected shape"),
        ((0, [0, 1], [0, 0], [1.0, np.nan]), "found nan at position 1 and 0 more"),
        ((0, [0, 1], [0, 0], [0.0, -1.0]), "found 0.0 at position 0 and 1 more"),
        ((0, [0, 1], [0, 0], [1.0, np.inf]), "found inf at position 1"),
        ((0, [0, 1], [0, 0], [1.0, 1e-60]), "found 0.0 at position 1"),
        ((0, [0, 1], [0, 0], None, [1]), r"times: expected shape"),
        ((5, [0, 1], [0, 0]), "part_code: expected 0 to 4, found 5"),
    ],
)
def test_interactions_that_cannot_be_stored_are_refused(tmp_path, arguments, message):
    ids = IdDictionary.from_values(pa.array(np.arange(5)))
    writer = DatasetWriter(Folder.at(tmp_path / "staged"), ids, make_ids(2), None, tmp_path / "scratch")
    code, *arrays = arguments
    with pytest.raises(InputError, match=message):
        writer.add(code, *(None if values is None else np.array(values) for values in arrays))


def test_times_in_some_calls_only_are_refused(tmp_path):
    ids = IdDictionary.from_values(pa.array(np.arange(5)))
    writer = DatasetWriter(Folder.at(tmp_path / "staged"), ids, make_ids(2), None, tmp_path / "scratch")
    one = np.array([1])
    writer.add(0, one, one, None, one)
    with pytest.raises(InputError, match="in every call or in none"):
        writer.add(0, one, one)


def test_fewer_than_one_shard_is_refused(tmp_path):
    with pytest.raises(InputError, match="n_shards: expected at least 1, found 0"):
        write(tmp_path / "dataset", make_entries(5), n_shards=0)


def test_a_pair_added_twice_is_refused_and_nothing_is_left(tmp_path):
    entries = make_entries(50)
    for name in ("user", "item", "part"):
        entries[name][30] = entries[name][3]
    with pytest.raises(InputError, match=f"user row {entries['user'][3]}, item row {entries['item'][3]}"):
        write(tmp_path / "dataset", entries)
    assert not (tmp_path / "dataset").exists()


def test_a_dataset_lives_in_an_object_store_with_the_same_bytes(tmp_path):
    store, filesystem = object_store()
    entries = make_entries()
    local = write(tmp_path / "dataset", entries, n_shards=2)
    with new_folder(Folder(filesystem, "bucket/dataset")) as staged:
        user_ids = IdDictionary.from_values(pa.array(np.arange(N_USERS) * 3))
        writer = DatasetWriter(staged, user_ids, make_ids(N_ITEMS), 2, tmp_path / "scratch")
        for code in range(5):
            mine = entries["part"] == code
            writer.add(code, *(entries[name][mine] for name in ("user", "item", "weight", "time")))
        writer.finish()
    remote = Dataset.open(Folder(filesystem, "bucket/dataset"))
    assert_same(remote.read_part("train"), local.read_part("train"))
    assert remote.user_ids == local.user_ids
    remote.verify()
    assert store.log[-1] == f"bucket/dataset/{MANIFEST_NAME}"
    assert {name.removeprefix("bucket/dataset/"): content for name, content in store.keys.items()} == file_bytes(
        tmp_path / "dataset"
    )


@pytest.mark.parametrize("limit_bytes", [1 << 10, 1 << 14, 1 << 15])
def test_a_full_disk_leaves_no_dataset(tmp_path, limit_bytes):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        with pytest.raises(DataError, match="writing failed"):
            write(tmp_path / "dataset", make_entries(n=20_000), n_shards=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["dataset-scratch"]


def test_a_full_disk_while_a_shard_is_written_leaves_no_dataset(tmp_path, monkeypatch):
    original = Folder.open_output

    def open_output(folder, name):
        stream = original(folder, name)
        if name.startswith("by_item"):
            stream.close()
            raise OSError(errno.ENOSPC, "No space left on device")
        return stream

    monkeypatch.setattr(Folder, "open_output", open_output)
    with pytest.raises(DataError, match="No space left on device"):
        write(tmp_path / "dataset", make_entries())
    assert not (tmp_path / "dataset").exists()
