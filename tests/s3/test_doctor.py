"""``rgals doctor`` with a bucket: reachable, written to and left clean; or what is wrong with it."""

import json

import pytest
from typer.testing import CliRunner

from jobs import cli
from tests.s3.commands import planted_csv, run
from tests.s3.conftest import KEY, SECRET


@pytest.fixture(scope="module")
def bucket(store):
    name = store.new_bucket()
    store.write(f"{name}/events.csv", planted_csv())
    run("ingest", f"s3://{name}/events.csv", "--output", f"s3://{name}/dataset", "--split", "random")
    return name


def examine(*arguments):
    """Run the command; give its findings by name, and all that it printed."""
    found = CliRunner().invoke(cli.app, ["doctor", "--json", *arguments])
    return {finding["name"]: finding for finding in json.loads(found.stdout)["findings"]}, found.output


def test_a_dataset_and_an_output_that_are_fit(store, bucket):
    before = store.keys(bucket)
    findings, _ = examine("--dataset", f"s3://{bucket}/dataset", "--output", f"s3://{bucket}/models/new")
    assert (findings["dataset"]["status"], findings["output"]["status"]) == ("ok", "ok")
    assert findings["dataset"]["found"].startswith("60 users, 40 items")
    assert findings["output"]["found"].startswith(f"s3://{bucket}/models/new: an object of 1 MB")
    assert store.keys(bucket) == before


def test_a_bucket_that_does_not_exist(store):
    findings, _ = examine("--dataset", "s3://no-such-bucket/dataset", "--output", "s3://no-such-bucket/model")
    assert (findings["dataset"]["status"], findings["output"]["status"]) == ("problem", "problem")
    assert "NO_SUCH_BUCKET" in findings["output"]["found"]
    assert "credentials" in findings["dataset"]["advice"]


def test_a_key_that_is_not_known(store, bucket):
    store.ask_for_credentials(0)
    try:
        findings, output = examine("--dataset", f"s3://{bucket}/dataset", "--output", f"s3://{bucket}/model")
    finally:
        store.ask_for_credentials(float("inf"))
    assert (findings["dataset"]["status"], findings["output"]["status"]) == ("problem", "problem")
    assert SECRET not in output


def test_credentials_of_a_location_are_not_shown(store, bucket):
    for options in (store.options, "no_such=1"):
        own = f"s3://{KEY}:{SECRET}@{bucket}/dataset?{options}"
        _, output = examine("--dataset", own, "--output", own)
        assert SECRET not in output
