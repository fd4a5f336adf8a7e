"""Reading datasets: every part, every shard, and every kind of damage is found."""

import json
import pickle
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rgals.data.dataset import Dataset
from rgals.data.splits import SplitRule
from rgals.data.storage import Folder
from rgals.errors import ChecksumError, DataError, FormatVersionError, InputError, OutputExistsError
from rgals.names import MANIFEST_NAME
from tests.data.dataset_problems import N_ITEMS, N_USERS, assert_same, make_entries, make_ids, write


@pytest.fixture
def dataset(tmp_path):
    return write(tmp_path / "dataset", make_entries(), n_shards=2, split=SplitRule(kind="held-out-users"))


def test_the_files_are_plain_parquet_for_other_tools(dataset):
    folder = Path(dataset.location)
    by_user = pq.read_table(folder / "by_user" / "train-00001.parquet")
    assert by_user.schema.names == ["user_row", "item_row", "weight", "time"]
    assert by_user.schema.field("time").type == pa.timestamp("us", "UTC")
    assert pq.read_schema(folder / "by_item" / "train-00000.parquet").names == ["item_row", "user_row", "weight"]
    assert pq.read_table(folder / "item_ids.parquet").column_names == ["id"]


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


def test_a_relative_location_is_the_same_folder_in_another_process(dataset, tmp_path, monkeypatch):
    folder = Path(dataset.location)
    monkeypatch.chdir(folder.parent)
    content = pickle.dumps(Dataset.open(folder.name))
    monkeypatch.chdir(tmp_path.parent)
    assert pickle.loads(content).fingerprint == dataset.fingerprint


def test_another_dataset_in_its_place_is_an_error_when_it_is_first_used(tmp_path, dataset):
    content = pickle.dumps(dataset)
    shutil.rmtree(dataset.location)
    write(Path(dataset.location), make_entries(5))
    again = pickle.loads(content)
    with pytest.raises(DataError, match=r"expected dataset \w+, found \w+ on this machine; every node must see"):
        again.load_shard("user", 0)


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
