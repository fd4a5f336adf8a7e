"""Datasets on S3: from events there, into a folder there, with every damage named."""

import json
import pickle

import pytest

from rgals.data.dataset import Dataset
from rgals.errors import ChecksumError, DataError, InputError, OutputExistsError
from rgals.names import MANIFEST_NAME
from tests.s3.commands import planted_csv, run, run_alone
from tests.s3.conftest import KEY, SECRET


@pytest.fixture(scope="module")
def bucket(store):
    name = store.new_bucket()
    store.write(f"{name}/events/one.csv", planted_csv())
    run("ingest", f"s3://{name}/events/one.csv", "--output", f"s3://{name}/dataset", "--split", "random")
    return name


@pytest.fixture
def copy(store, bucket, request):
    """Give a copy of the dataset that a test may break."""
    name = f"{bucket}/copies/{request.node.name.replace('[', '-').replace(']', '')}"
    for key in store.keys(f"{bucket}/dataset"):
        store.write(f"{name}/{key}", store.read(f"{bucket}/dataset/{key}"))
    return name


def test_the_dataset_is_the_one_that_a_local_disk_gets(bucket, tmp_path):
    (tmp_path / "one.csv").write_bytes(planted_csv())
    run("ingest", tmp_path / "one.csv", "--output", tmp_path / "dataset", "--split", "random")
    here, there = Dataset.open(tmp_path / "dataset"), Dataset.open(f"s3://{bucket}/dataset")
    assert here.fingerprint == there.fingerprint
    assert {name: entry["sha256"] for name, entry in files_of(there).items()} == {
        name: entry["sha256"] for name, entry in files_of(here).items()
    }


def files_of(dataset):
    return json.loads(dataset._folder.read_bytes(MANIFEST_NAME))["files"]


def test_nothing_but_the_dataset_is_left(store, bucket):
    dataset = Dataset.open(f"s3://{bucket}/dataset")
    assert store.keys(f"{bucket}/dataset") == sorted([*files_of(dataset), MANIFEST_NAME])


def test_a_folder_and_a_glob_of_events_are_read(store, bucket):
    location = f"s3://{bucket}/from-folder"
    run("ingest", f"s3://{bucket}/events", "--output", location, "--split", "random")
    assert Dataset.open(location).fingerprint == Dataset.open(f"s3://{bucket}/dataset").fingerprint
    location = f"s3://{bucket}/from-glob"
    run("ingest", f"s3://{bucket}/events/*.csv", "--output", location, "--split", "random")
    assert Dataset.open(location).fingerprint == Dataset.open(f"s3://{bucket}/dataset").fingerprint


def test_describe_reads_and_verifies_it(bucket):
    found = json.loads(run("describe", f"s3://{bucket}/dataset", "--json").stdout)
    assert found["location"] == f"s3://{bucket}/dataset"
    assert found["n_users"] == 60


def test_describe_does_not_show_credentials(store, bucket):
    location = f"s3://{KEY}:{SECRET}@{bucket}/dataset?{store.options}"
    for arguments in ((), ("--json",)):
        found = run("describe", location, *arguments)
        assert f"s3://***@{bucket}/dataset" in found.stdout
        assert SECRET not in found.output


def test_a_dataset_is_opened_again_in_another_process(bucket):
    dataset = Dataset.open(f"s3://{bucket}/dataset")
    sent = pickle.dumps(dataset)
    assert SECRET.encode() not in sent
    assert pickle.loads(sent).fingerprint == dataset.fingerprint
    assert pickle.loads(sent).read_part("train").n_interactions == dataset.n_interactions


def test_an_output_that_exists_is_replaced_only_on_demand(store, bucket, copy):
    events = f"s3://{bucket}/events/one.csv"
    before = store.keys(copy)
    with pytest.raises(OutputExistsError, match=rf"s3://{copy}: exists already"):
        run("ingest", events, "--output", f"s3://{copy}", "--split", "random")
    assert store.keys(copy) == before
    store.write(f"{copy}/left-over", b"of an older version")
    run("ingest", events, "--output", f"s3://{copy}", "--split", "random", "--overwrite")
    assert store.keys(copy) == before
    assert Dataset.open(f"s3://{copy}").fingerprint == Dataset.open(f"s3://{bucket}/dataset").fingerprint


def test_files_of_somebody_else_are_not_replaced(store, bucket):
    with pytest.raises(OutputExistsError, match=rf"s3://{bucket}/events: holds files but no manifest"):
        run("ingest", f"s3://{bucket}/events/one.csv", "--output", f"s3://{bucket}/events", "--overwrite")
    assert store.keys(f"{bucket}/events") == ["one.csv"]


def damaged(store, copy, ending):
    return next(key for key in store.keys(copy) if ending in key and key != MANIFEST_NAME)


def test_a_removed_object_is_named(store, copy):
    key = damaged(store, copy, "user")
    store.filesystem.delete_file(f"{copy}/{key}")
    with pytest.raises(DataError, match=rf"s3://{copy}/{key}: the file is missing"):
        run("describe", f"s3://{copy}")


def test_a_corrupted_object_is_named(store, copy):
    key = damaged(store, copy, "user")
    content = bytearray(store.read(f"{copy}/{key}"))
    content[len(content) // 2] ^= 1
    store.write(f"{copy}/{key}", bytes(content))
    with pytest.raises(ChecksumError, match=rf"s3://{copy}/{key}: expected SHA-256"):
        run("describe", f"s3://{copy}")


def test_a_truncated_object_is_named(store, copy):
    key = damaged(store, copy, "item")
    store.write(f"{copy}/{key}", store.read(f"{copy}/{key}")[:-1])
    with pytest.raises(ChecksumError, match=rf"s3://{copy}/{key}: expected \d+ bytes"):
        run("describe", f"s3://{copy}")


def test_an_ingest_that_fails_leaves_no_folder(store, bucket):
    store.write(f"{bucket}/wrong/events.csv", b"user_id,article\na,b\n")
    with pytest.raises((DataError, InputError), match="item_id"):
        run("ingest", f"s3://{bucket}/wrong/events.csv", "--output", f"s3://{bucket}/failed")
    assert store.keys(f"{bucket}/failed") == []


def test_events_that_do_not_exist_are_named(store, bucket):
    with pytest.raises((DataError, InputError), match=rf"{bucket}/no-events"):
        run("ingest", f"s3://{bucket}/no-events", "--output", f"s3://{bucket}/never")


def test_a_command_of_its_own_ends_without_warnings(bucket):
    found = run_alone("describe", f"s3://{bucket}/dataset", "--json")
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    assert json.loads(found.stdout)["n_users"] == 60


@pytest.mark.parametrize(
    ("location", "variables", "said"),
    [
        ("s3://no-such-bucket/dataset", {}, "s3://no-such-bucket/dataset: no manifest.json"),
        ("s3://{bucket}/nothing", {}, "s3://{bucket}/nothing: no manifest.json"),
        (
            f"s3://{KEY}:{SECRET}@{{bucket}}/dataset?no_such=1",
            {},
            "s3://***@{bucket}/dataset?no_such=1: not a location",
        ),
    ],
)
def test_a_mistake_is_one_line(bucket, location, variables, said):
    found = run_alone("describe", location.format(bucket=bucket), **variables)
    assert found.returncode == 1
    assert found.stderr.startswith("rgals: error: " + said.format(bucket=bucket))
    assert found.stderr.count("\n") == 1
    assert SECRET not in found.stderr


def test_an_output_in_a_bucket_that_does_not_exist_is_one_line(bucket):
    found = run_alone("ingest", f"s3://{bucket}/events/one.csv", "--output", "s3://no-such-bucket/dataset")
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1].startswith("rgals: error: s3://no-such-bucket/dataset")
    assert "NO_SUCH_BUCKET" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_key_that_is_not_known_is_one_line(store, bucket):
    store.ask_for_credentials(0)
    try:
        found = run_alone("describe", f"s3://{bucket}/dataset")
    finally:
        store.ask_for_credentials(float("inf"))
    assert found.returncode == 1
    assert found.stderr.startswith(f"rgals: error: s3://{bucket}/dataset")
    assert "credentials" in found.stderr
    assert found.stderr.count("\n") == 1
    assert SECRET not in found.stderr


def test_an_ingest_does_not_show_credentials(store, bucket):
    def own(name):
        return f"s3://{KEY}:{SECRET}@{bucket}/{name}?{store.options}"

    found = run("ingest", own("events"), "--output", own("secretive"), "--split", "random")
    assert SECRET not in found.output
    assert f"s3://***@{bucket}/secretive" in found.stdout
    keys = store.keys(f"{bucket}/secretive")
    assert not [key for key in keys if SECRET.encode() in store.read(f"{bucket}/secretive/{key}")]


def test_generated_events_go_to_an_object(store, bucket):
    size = ("--users", "50", "--items", "30", "--interactions", "200")
    place = f"s3://{KEY}:{SECRET}@{bucket}/generated.parquet?{store.options}"
    found = run("synthesize", *size, "--output", place)
    assert SECRET not in found.output
    assert "generated.parquet" in store.keys(bucket)
    with pytest.raises(OutputExistsError, match=r"generated\.parquet: exists already"):
        run("synthesize", *size, "--output", place)
