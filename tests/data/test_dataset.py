"""Datasets: what goes in comes out, reproducible bytes, and every kind of damage is found."""

import errno
import hashlib
import itertools
import json
import pickle
import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rgals.data import shard_files
from rgals.data.dataset import Dataset, DatasetWriter
from rgals.data.ids import IdDictionary
from rgals.data.ledger import Ledger
from rgals.data.splits import PART_NAMES, SplitRule
from rgals.data.storage import Folder, new_folder
from rgals.errors import ChecksumError, DataError, FormatVersionError, InputError, OutputExistsError
from rgals.names import MANIFEST_NAME
from rgals.numerics.pairwise import BLOCK_ROWS
from rgals.numerics.sparse import InteractionRows
from tests.data.object_store import object_store

N_USERS, N_ITEMS = 1300, 700


def make_entries(n=4000, seed=0, n_users=N_USERS, n_items=N_ITEMS):
    """Random unique pairs with a part each, weights and times."""
    random = np.random.default_rng(seed)
    pairs = random.permutation(n_users * n_items)[:n]
    return {
        "part": random.choice(5, size=n, p=[0.7, 0.1, 0.1, 0.05, 0.05]),
        "user": pairs // n_items,
        "item": pairs % n_items,
        "weight": random.choice([0.5, 1.0, 2.25], size=n),
        "time": random.integers(-(10**15), 10**15, size=n),
    }


def make_ids(n, prefix="i"):
    return IdDictionary.from_values(pa.array([f"{prefix}{number:06d}" for number in range(n)]))


def write(path, entries, *, n_shards=None, batches=1, weights=True, times=True, before=None, n_users=N_USERS, **finish):
    """Write entries in batches and open the dataset."""
    scratch = Path(f"{path}-scratch")
    user_ids = IdDictionary.from_values(pa.array(np.arange(n_users) * 3))
    with new_folder(path) as staged:
        if before is not None:
            before(staged)
        writer = DatasetWriter(staged, user_ids, make_ids(N_ITEMS), n_shards, scratch)
        for batch in np.array_split(np.arange(entries["user"].size), batches):
            for code in range(5):
                mine = batch[entries["part"][batch] == code]
                writer.add(
                    code,
                    entries["user"][mine],
                    entries["item"][mine],
                    entries["weight"][mine] if weights else None,
                    entries["time"][mine] if times else None,
                )
        writer.finish(**finish)
    assert list(scratch.iterdir()) == []
    return Dataset.open(path)


def file_bytes(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_same(rows, expected):
    assert rows.n_rows == expected.n_rows
    assert rows.n_columns == expected.n_columns
    assert rows.indptr.dtype == np.int64
    assert rows.indptr.tolist() == expected.indptr.tolist()
    assert rows.columns.tolist() == expected.columns.tolist()
    if expected.weights is None:
        assert rows.weights is None
    else:
        assert rows.weights.tolist() == expected.weights.tolist()


def expected_part(entries, code, *, weights=True):
    mine = entries["part"] == code
    values = entries["weight"][mine] if weights else None
    return InteractionRows.from_pairs(entries["user"][mine], entries["item"][mine], values, N_USERS, N_ITEMS)


@pytest.fixture
def small_sorts(monkeypatch):
    """Sort few entries and read few records at a time, so that small data takes the path of large data."""
    monkeypatch.setattr(shard_files, "SORT_INTERACTIONS", 100)
    monkeypatch.setattr(shard_files, "_CHUNK_RECORDS", 333)


@pytest.fixture
def dataset(tmp_path):
    return write(tmp_path / "dataset", make_entries(), n_shards=2, split=SplitRule(kind="held-out-users"))


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
    monkeypatch.setattr(shard_files, "_CHUNK_RECORDS", limit)
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


def test_the_files_are_plain_parquet_for_other_tools(dataset):
    folder = Path(dataset.location)
    by_user = pq.read_table(folder / "by_user" / "train-00001.parquet")
    assert by_user.schema.names == ["user_row", "item_row", "weight", "time"]
    assert by_user.schema.field("time").type == pa.timestamp("us", "UTC")
    assert pq.read_schema(folder / "by_item" / "train-00000.parquet").names == ["item_row", "user_row", "weight"]
    assert pq.read_table(folder / "item_ids.parquet").column_names == ["id"]


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


def test_a_sort_holds_no_more_than_its_limit_unless_one_row_does(tmp_path, monkeypatch):
    degrees = np.array([3, 0, 4, 1, 50, 1, 1, 1], dtype=np.int64)
    users = np.repeat(np.arange(8), degrees)
    items = np.concatenate([np.arange(count) for count in degrees])
    spool = shard_files.EntrySpool(tmp_path / "all.bin", shard_files.entry_dtype(has_times=False))
    records = np.zeros(users.size, dtype=spool.dtype)
    records["user"], records["item"] = users, items
    spool.append(records[::-1])
    monkeypatch.setattr(shard_files, "SORT_INTERACTIONS", 7)
    ranges = list(shard_files.sorted_ranges(spool, "user", degrees, [0, 6, 8], tmp_path))
    assert [(owner, found["user"].tolist()) for owner, found in ranges] == [
        (0, [0, 0, 0, 2, 2, 2, 2]),
        (0, [3]),
        (0, [4] * 50),
        (0, [5]),
        (1, [6, 7]),
    ]
    assert np.concatenate([found for _, found in ranges])["item"].tolist() == items.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["all.bin"]


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


def test_an_existing_dataset_is_replaced_only_on_request(tmp_path, dataset):
    with pytest.raises(OutputExistsError, match="--overwrite"):
        write(Path(dataset.location), make_entries(5))
    assert Dataset.open(dataset.location).fingerprint == dataset.fingerprint


def test_a_dataset_opens_again_in_another_process(dataset):
    dataset.read_part("train")
    content = pickle.dumps(dataset)
    assert len(content) < 500  # the location, not the data
    again = pickle.loads(content)
    assert again.fingerprint == dataset.fingerprint
    assert again.location == dataset.location
    assert_same(again.read_part("test"), dataset.read_part("test"))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("by_user/train-00001.parquet", lambda dataset: dataset.load_shard("user", 1)),
        ("by_user/train-00001.parquet", lambda dataset: dataset.read_part("train")),
        ("by_item/train-00000.parquet", lambda dataset: dataset.load_shard("item", 0)),
        ("test.parquet", lambda dataset: dataset.read_part("test")),
        ("validation_fold_in.parquet", lambda dataset: dataset.read_times("validation_fold_in")),
        ("user_ids.parquet", lambda dataset: dataset.user_ids),
        ("item_ids.parquet", lambda dataset: dataset.item_ids),
        ("by_item/train-00001.parquet", lambda dataset: dataset.verify()),
    ],
)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_found_when_the_file_is_read_and_named(dataset, name, read, damage):
    path = Path(dataset.location) / name
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(content[:-10])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    opened = Dataset.open(dataset.location)
    with pytest.raises(DataError if damage == "remove" else ChecksumError) as caught:
        read(opened)
    assert str(path) in str(caught.value)


def test_undamaged_files_stay_readable_beside_a_damaged_one(dataset):
    (Path(dataset.location) / "test.parquet").write_bytes(b"")
    opened = Dataset.open(dataset.location)
    assert_same(opened.read_part("train"), dataset.read_part("train"))


def test_a_checksum_is_computed_once_for_each_file(dataset, monkeypatch):
    hashed = []
    original = Folder.sha256
    monkeypatch.setattr(Folder, "sha256", lambda folder, name: hashed.append(name) or original(folder, name))
    for _ in range(3):
        dataset.load_shard("user", 0)
    assert hashed == ["by_user/train-00000.parquet"]


def edit_manifest(dataset, change):
    path = Path(dataset.location) / MANIFEST_NAME
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document.pop("parts"), "manifest field parts: Field required"),
        (lambda document: document.update(n_users=-1), "manifest field n_users: .*greater than or equal to 0"),
        (lambda document: document["parts"].pop("train"), "no train part"),
        (lambda document: document.update(n_users=2**31), "more than int32"),
        (lambda document: document.update(n_users=N_USERS + 1), "user shards of the manifest do not cover 1301 rows"),
        (lambda document: document["shards"]["item"].pop(), "item shards of the manifest do not cover"),
        (lambda document: document["shards"].pop("user"), "user shards of the manifest do not cover"),
        (lambda document: document["shards"]["user"][1].update(n_interactions=0), "do not cover"),
        (lambda document: document["files"].pop("test.parquet"), r"lists no file test\.parquet"),
        (lambda document: document["files"].pop("by_item/train-00000.parquet"), "lists no file by_item"),
        (lambda document: document.update(kind="model"), "expected a dataset, found a model"),
    ],
)
def test_a_manifest_that_does_not_add_up_is_refused_with_its_folder(dataset, change, message):
    edit_manifest(dataset, change)
    with pytest.raises(DataError, match=message) as caught:
        Dataset.open(dataset.location)
    assert str(dataset.location) in str(caught.value)


def test_a_newer_format_is_refused_and_unknown_fields_are_not(dataset):
    edit_manifest(dataset, lambda document: document.update(mood="good"))
    assert Dataset.open(dataset.location).fingerprint == dataset.fingerprint
    edit_manifest(dataset, lambda document: document.update(format_version=2))
    with pytest.raises(FormatVersionError, match="format version 2 of a dataset, this rgals reads up to 1"):
        Dataset.open(dataset.location)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("item_row", N_ITEMS, "columns below 700"),
        ("item_row", -1, "columns below 700"),
        ("user_row", N_USERS, "ascending rows from"),
        ("user_row", 0, "ascending rows from"),
        (None, None, "expected .* rows of user_row, item_row, weight, time, found"),
    ],
)
def test_a_file_with_rows_that_do_not_exist_is_refused_even_with_a_right_checksum(dataset, column, value, message):
    folder, name = Folder.at(dataset.location), "by_user/train-00001.parquet"
    path = Path(dataset.location) / name
    table = pq.read_table(path)
    if column is None:
        table = table.drop_columns(["time"])
    else:
        position = table.column_names.index(column)
        values = table.column(column).to_numpy().copy()
        values[-1] = value
        table = table.set_column(position, table.schema.field(column), pa.array(values, pa.int32()))
    pq.write_table(table, path)
    entry = {"n_bytes": folder.n_bytes(name), "sha256": folder.sha256(name)}
    edit_manifest(dataset, lambda document: document["files"].update({name: entry}))
    with pytest.raises(DataError, match=message) as caught:
        Dataset.open(dataset.location).load_shard("user", 1)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_parquet_is_refused_even_with_a_right_checksum(dataset):
    folder = Folder.at(dataset.location)
    folder.write_bytes("test.parquet", b"PAR1 but nothing more PAR1")
    entry = {"n_bytes": folder.n_bytes("test.parquet"), "sha256": folder.sha256("test.parquet")}
    edit_manifest(dataset, lambda document: document["files"].update({"test.parquet": entry}))
    with pytest.raises(DataError, match="not a readable Parquet file"):
        Dataset.open(dataset.location).read_part("test")


def test_ids_of_another_number_are_refused(dataset):
    folder = Folder.at(dataset.location)
    make_ids(5).write(folder, "item_ids.parquet")
    entry = {"n_bytes": folder.n_bytes("item_ids.parquet"), "sha256": folder.sha256("item_ids.parquet")}
    edit_manifest(dataset, lambda document: document["files"].update({"item_ids.parquet": entry}))
    with pytest.raises(DataError, match="expected 700 ids, found 5"):
        _ = Dataset.open(dataset.location).item_ids


def test_a_part_that_the_split_did_not_make_is_an_input_error(tmp_path):
    entries = make_entries()
    entries["part"][:] = 0
    dataset = write(tmp_path / "dataset", entries, split=SplitRule())
    assert not dataset.has_part("test")
    with pytest.raises(InputError, match=r"expected the part 'test', found train \(split 'none'\)"):
        dataset.read_part("test")


def test_a_folder_that_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(DataError, match="not a finished rgals dataset"):
        Dataset.open(tmp_path)


def test_a_dataset_says_what_it_is(dataset):
    assert repr(dataset) == (
        f"Dataset('{dataset.location}': 1300 users, 700 items, {dataset.n_interactions} training interactions)"
    )


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
