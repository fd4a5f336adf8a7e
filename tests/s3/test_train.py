"""Training from S3 to S3: the same bits as on a local disk, checkpoints, resume, every damage named."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from rgals.artifact.model import Model
from rgals.errors import ChecksumError, DataError, OutputExistsError
from tests.s3.commands import SMALL, planted_csv, run, run_alone
from tests.s3.conftest import KEY, SECRET

DEADLINE_S = 120


@pytest.fixture(scope="module")
def bucket(store):
    name = store.new_bucket()
    store.write(f"{name}/events.csv", planted_csv())
    split = ("--split", "random", "--validation-fraction", "0.1")
    run("ingest", f"s3://{name}/events.csv", "--output", f"s3://{name}/dataset", *split)
    run("train", f"s3://{name}/dataset", "--output", f"s3://{name}/model", *SMALL)
    return name


@pytest.fixture(scope="module")
def checksum(bucket):
    """Give the checksum of the factors after three sweeps."""
    return Model.open(f"s3://{bucket}/model").factor_checksum


def train(bucket, name, *options):
    return run("train", f"s3://{bucket}/dataset", "--output", f"s3://{bucket}/{name}", *SMALL, *options)


def checksum_of(bucket, name):
    return Model.open(f"s3://{bucket}/{name}").factor_checksum


def test_the_factors_are_those_of_a_local_run(bucket, checksum, tmp_path):
    (tmp_path / "events.csv").write_bytes(planted_csv())
    split = ("--split", "random", "--validation-fraction", "0.1")
    run("ingest", tmp_path / "events.csv", "--output", tmp_path / "dataset", *split)
    run("train", tmp_path / "dataset", "--output", tmp_path / "model", *SMALL)
    assert Model.open(tmp_path / "model").factor_checksum == checksum


def test_a_command_of_its_own_ends_without_warnings(bucket, checksum):
    found = run_alone("train", f"s3://{bucket}/dataset", "--output", f"s3://{bucket}/alone", *SMALL)
    assert found.returncode == 0, found.stderr
    assert "sweep 3/3" in found.stderr
    assert not [line for line in found.stderr.splitlines() if "arning" in line or "rror" in line]
    assert checksum in found.stdout


def test_checkpoints_lie_beside_the_model_and_none_is_half_written(store, bucket, checksum):
    train(bucket, "beside", "--checkpoint-every", "1", "--resume", "auto")
    assert checksum_of(bucket, "beside") == checksum
    keys = store.keys(f"{bucket}/beside.checkpoints")
    folders = {key.split("/")[0] for key in keys}
    assert "sweep-00003" in folders
    assert all(f"{folder}/manifest.json" in keys for folder in folders)
    assert not [key for key in keys if "writing" in key]


def test_a_resumed_run_ends_with_the_same_factors(store, bucket, checksum):
    place = f"s3://{bucket}/resumed-state"
    begun = ("--checkpoints", place, "--checkpoint-every", "1")
    train(bucket, "resumed-1", *begun, "--n-sweeps", "1")
    events = train(bucket, "resumed-2", *begun, "--resume", "required").stderr
    assert "sweep 1/3" not in events
    assert "sweep 2/3" in events
    assert checksum_of(bucket, "resumed-2") == checksum


def test_a_checkpoint_whose_writing_was_cut_off_does_not_count(store, bucket, checksum):
    place = f"{bucket}/cut-off-state"
    begun = ("--checkpoints", f"s3://{place}", "--checkpoint-every", "1")
    train(bucket, "cut-off-1", *begun, "--n-sweeps", "2")
    store.filesystem.delete_file(f"{place}/sweep-00002/manifest.json")
    store.write(f"{place}/sweep-00002/.rgals-writing", b"")
    events = train(bucket, "cut-off-2", *begun, "--resume", "auto").stderr
    assert "sweep 2/3" in events
    assert checksum_of(bucket, "cut-off-2") == checksum


def test_a_damaged_checkpoint_is_named(store, bucket):
    place = f"{bucket}/damaged-state"
    begun = ("--checkpoints", f"s3://{place}", "--checkpoint-every", "1")
    train(bucket, "damaged-1", *begun, "--n-sweeps", "1")
    key = next(key for key in store.keys(place) if key.endswith(".npy") and "user" in key)
    content = bytearray(store.read(f"{place}/{key}"))
    content[-1] ^= 1
    store.write(f"{place}/{key}", bytes(content))
    with pytest.raises(ChecksumError, match=rf"s3://{place}/{key}: expected SHA-256"):
        train(bucket, "damaged-2", *begun, "--resume", "auto")
    store.filesystem.delete_file(f"{place}/{key}")
    with pytest.raises(DataError, match=rf"s3://{place}/{key}: the file is missing"):
        train(bucket, "damaged-2", *begun, "--resume", "auto")
    assert store.keys(f"{bucket}/damaged-2") == []


def test_a_killed_run_goes_on_when_it_is_started_again(store, bucket, tmp_path):
    long_run = [*SMALL, "--n-sweeps", "400", "--checkpoint-every", "1", "--resume", "auto", "--softmax-users", "0"]
    arguments = ["train", f"s3://{bucket}/dataset", "--output", f"s3://{bucket}/killed", *long_run]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "jobs.cli", *arguments], stdout=log, stderr=log)
    deadline = time.monotonic() + DEADLINE_S
    while "sweep-00002/manifest.json" not in store.keys(f"{bucket}/killed.checkpoints"):
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=20)
    assert store.keys(f"{bucket}/killed") == []
    done = max(
        int(key.split("/")[0][-5:])
        for key in store.keys(f"{bucket}/killed.checkpoints")
        if key.endswith("manifest.json")
    )
    assert 2 <= done < 400
    n_sweeps = ("--n-sweeps", done + 2)
    again = run(*arguments, *n_sweeps).stderr
    assert f"sweep {done + 1}/{done + 2}" in again
    assert f"sweep {done}/{done + 2}" not in again
    train(bucket, "unbroken", *n_sweeps, "--softmax-users", "0")
    assert checksum_of(bucket, "killed") == checksum_of(bucket, "unbroken")


def test_a_model_that_exists_is_replaced_only_on_demand(store, bucket):
    train(bucket, "twice")
    before = store.keys(f"{bucket}/twice")
    with pytest.raises(OutputExistsError, match=rf"s3://{bucket}/twice: exists already"):
        train(bucket, "twice")
    first = checksum_of(bucket, "twice")
    train(bucket, "twice", "--overwrite", "--n-sweeps", "1")
    assert checksum_of(bucket, "twice") != first
    assert store.keys(f"{bucket}/twice") == before


def test_checkpoints_of_another_run_are_not_mixed_in(bucket):
    begun = ("--checkpoints", f"s3://{bucket}/mixed-state", "--checkpoint-every", "1")
    train(bucket, "mixed-1", *begun)
    with pytest.raises(OutputExistsError, match=rf"s3://{bucket}/mixed-state: holds checkpoints up to sweep 3"):
        train(bucket, "mixed-2", *begun)


def test_a_removed_or_corrupted_part_of_a_model_is_named(store, bucket):
    train(bucket, "broken")
    name = f"{bucket}/broken/item_factors.npy"
    content = bytearray(store.read(name))
    content[-1] ^= 1
    store.write(name, bytes(content))
    with pytest.raises(ChecksumError, match=rf"s3://{name}: expected SHA-256"):
        run("recommend", f"s3://{bucket}/broken", "--user", "u001")
    store.filesystem.delete_file(name)
    with pytest.raises(DataError, match=rf"s3://{name}: the file is missing"):
        run("recommend", f"s3://{bucket}/broken", "--user", "u001")


def test_a_bucket_for_the_model_that_does_not_exist_is_told_before_training(bucket):
    with pytest.raises(DataError, match=r"s3://no-such-bucket/model: .*NO_SUCH_BUCKET"):
        run("train", f"s3://{bucket}/dataset", "--output", "s3://no-such-bucket/model", *SMALL)


def test_credentials_of_locations_are_in_no_file_and_no_line(store, bucket):
    def own(name):
        return f"s3://{KEY}:{SECRET}@{bucket}/{name}?{store.options}"

    options = ("--warm-start", own("model"), "--checkpoint-every", "1", *SMALL)
    found = run("train", own("dataset"), "--output", own("secretive"), *options)
    assert SECRET not in found.output
    lineage = json.loads(store.read(f"{bucket}/secretive/lineage.json"))
    assert lineage["dataset"].startswith(f"s3://***@{bucket}/dataset")
    assert lineage["warm_start"].startswith(f"s3://***@{bucket}/model")
    for name in ("secretive", "secretive.checkpoints"):
        keys = store.keys(f"{bucket}/{name}")
        assert keys
        assert not [key for key in keys if SECRET.encode() in store.read(f"{bucket}/{name}/{key}")]


def test_the_command_that_lineage_keeps_has_no_credentials(store, bucket, monkeypatch):
    location = f"s3://{KEY}:{SECRET}@{bucket}/dataset?{store.options}"
    monkeypatch.setattr(sys, "argv", ["rgals", "train", location])
    run("train", location, "--output", f"s3://{bucket}/told", *SMALL)
    command = Model.open(f"s3://{bucket}/told").lineage["command"]
    assert f"s3://***@{bucket}/dataset" in command
    assert SECRET not in command


def test_workers_of_ray_read_and_write_there(bucket, checksum):
    ray = ("--executor", "ray", "--workers", "1", "--worker-cpus", "1")
    train(bucket, "by-ray", *ray, "--checkpoint-every", "1", "--resume", "auto")
    assert checksum_of(bucket, "by-ray") == checksum
