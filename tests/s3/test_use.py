"""Models on S3 in use: evaluated, asked, written out for all users."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from rgals.errors import DataError, InputError, OutputExistsError
from tests.s3.commands import SMALL, planted_csv, run
from tests.s3.conftest import KEY, SECRET


@pytest.fixture(scope="module")
def bucket(store):
    name = store.new_bucket()
    store.write(f"{name}/events.csv", planted_csv())
    run("ingest", f"s3://{name}/events.csv", "--output", f"s3://{name}/dataset", "--split", "random")
    run("train", f"s3://{name}/dataset", "--output", f"s3://{name}/model", *SMALL)
    return name


@pytest.fixture(scope="module")
def local(store, bucket, tmp_path_factory):
    """Copy the model and the dataset to a local disk."""
    folder = tmp_path_factory.mktemp("local")
    for name in ("model", "dataset"):
        for key in store.keys(f"{bucket}/{name}"):
            path = folder / name / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(store.read(f"{bucket}/{name}/{key}"))
    return folder


def test_recommendations_are_those_of_the_same_files_on_a_local_disk(bucket, local):
    for question in (("--user", "u001", "--user", "u002"), ("--history", "i000", "--history", "i002")):
        there = run("recommend", f"s3://{bucket}/model", *question, "--json").stdout
        assert there == run("recommend", local / "model", *question, "--json").stdout
        assert json.loads(there)


def test_similar_items_are_those_of_the_same_files_on_a_local_disk(bucket, local):
    there = run("similar", f"s3://{bucket}/model", "--item", "i000").stdout
    assert there == run("similar", local / "model", "--item", "i000").stdout


def test_lists_of_all_users_go_to_an_object_whole_or_not_at_all(store, bucket, local, tmp_path):
    place = f"{bucket}/lists/all.parquet"
    run("recommend", f"s3://{bucket}/model", "--all", "--output", f"s3://{place}", "--k", "3")
    run("recommend", local / "model", "--all", "--output", tmp_path / "all.parquet", "--k", "3")
    assert store.read(place) == (tmp_path / "all.parquet").read_bytes()
    assert store.keys(f"{bucket}/lists") == ["all.parquet"]
    with pytest.raises(OutputExistsError, match="exists already"):
        run("recommend", f"s3://{bucket}/model", "--all", "--output", f"s3://{place}", "--k", "3")
    run("recommend", f"s3://{bucket}/model", "--all", "--output", f"s3://{place}", "--k", "2", "--overwrite")
    table = pq.read_table(place, filesystem=store.filesystem)
    assert np.max(table["rank"].to_numpy()) <= 2


def test_an_output_of_lists_in_a_bucket_that_does_not_exist_is_named(bucket):
    with pytest.raises(DataError, match="NO_SUCH_BUCKET"):
        run("recommend", f"s3://{bucket}/model", "--all", "--output", "s3://no-such-bucket/all.parquet")


def test_an_evaluation_reads_both_from_there(bucket, local, tmp_path):
    for name, model, dataset in (
        ("there", f"s3://{bucket}/model", f"s3://{bucket}/dataset"),
        ("here", local / "model", local / "dataset"),
    ):
        run("evaluate", model, "--dataset", dataset, "--k", "5", "--output", tmp_path / f"{name}.json")
    there, here = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("there", "here"))
    assert metrics_of(there) == metrics_of(here)


def metrics_of(report):
    return [model["metrics"] for model in report["models"]]


def test_a_report_does_not_show_credentials(store, bucket, tmp_path):
    def own(name):
        return f"s3://{KEY}:{SECRET}@{bucket}/{name}?{store.options}"

    found = run("evaluate", own("model"), "--dataset", own("dataset"), "--k", "5", "--output", tmp_path / "report.json")
    assert SECRET not in found.output
    assert SECRET not in (tmp_path / "report.json").read_text()
    with pytest.raises(InputError) as refused:
        run("evaluate", own("model"), "--dataset", own("dataset"), "--k", "5", "--output", own("report.json"))
    assert SECRET not in str(refused.value)


def test_lists_do_not_show_credentials(store, bucket):
    place = f"s3://{KEY}:{SECRET}@{bucket}/secretive.parquet?{store.options}"
    assert SECRET not in run("recommend", f"s3://{bucket}/model", "--all", "--output", place).output


def test_a_key_that_is_not_known_may_not_write_lists(store, bucket, local):
    store.ask_for_credentials(0)
    try:
        with pytest.raises(DataError, match=r"cannot be reached.*credentials"):
            run("recommend", local / "model", "--all", "--output", f"s3://{bucket}/refused.parquet")
    finally:
        store.ask_for_credentials(float("inf"))
