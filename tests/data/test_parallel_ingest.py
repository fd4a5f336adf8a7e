"""Ingest by several workers: the same bytes, the same errors, and folders that all of them must see."""

import csv
import json
import os
import signal
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from moto.server import ThreadedMotoServer

from rgals.data import dataset_writer, runs, shard_files
from rgals.data import ingest as ingest_module
from rgals.data.dataset import Dataset
from rgals.data.ingest import IngestOptions, ingest
from rgals.data.splits import SplitRule
from rgals.data.storage import Folder
from rgals.errors import DataError, InputError, RgalsError
from rgals.execution import ExecutorOptions, InProcessExecutor, open_executor
from rgals.names import MANIFEST_NAME
from tests.data.dataset_problems import file_bytes
from tests.data.object_store import object_store
from tests.data.runners import ScrambledRunner

FIELDS = ("user_id", "item_id", "weight", "time")
OPTIONS = IngestOptions(
    weight_column="weight",
    time_column="time",
    duplicates="sum",
    user_core=2,
    item_core=3,
    split=SplitRule(kind="random", validation_fraction=0.2),
    reject_limit=0.5,
    n_shards=3,
)


def make_rows(n, seed):
    """Rows of text ids and numbers with duplicates; some cannot be used."""
    generator = np.random.default_rng(seed)
    rows = []
    for time in generator.integers(0, 50, n):
        user, item = f"u{generator.integers(700)}", str(generator.integers(600))
        rows.append((user, item, str(generator.integers(1, 10) / 2), str(time)))
        if generator.random() < 0.05:
            rows.append([("", item, "1", "0"), (user, item, "nan", "0"), (user, item, "1")][generator.integers(3)])
    return rows


def write_csv(path, rows, **options):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, **options)
        writer.writerow(FIELDS)
        writer.writerows(rows)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Files of every format; one of them must not be cut."""
    folder = tmp_path_factory.mktemp("sources")
    write_csv(folder / "a.csv", make_rows(3000, 1))
    write_csv(folder / "b.csv", make_rows(800, 2), quoting=csv.QUOTE_ALL)
    lines = [json.dumps(dict(zip(FIELDS, row, strict=False))) for row in make_rows(2000, 3)]
    (folder / "c.jsonl").write_text("\n".join([*lines[:50], "{", *lines[50:]]))
    rows = [row for row in make_rows(2000, 4) if len(row) == 4]
    table = pa.table(dict(zip(FIELDS, map(list, zip(*rows, strict=True)), strict=True)))
    pa.parquet.write_table(table, folder / "d.parquet", row_group_size=300)
    (folder / "few").mkdir()
    for place in range(5):
        write_csv(folder / "few" / f"{place}.csv", make_rows(30, 10 + place))
    return folder


@pytest.fixture(scope="module")
def reference(sources, tmp_path_factory):
    """What one process writes, file after file."""
    folder = tmp_path_factory.mktemp("reference") / "dataset"
    ingest([sources], folder, OPTIONS)
    return folder


@pytest.fixture
def small_steps(monkeypatch):
    """Let small data take the path of large data, in this process."""
    monkeypatch.setattr(dataset_writer, "_BUFFER_RECORDS", 500)
    monkeypatch.setattr(runs, "_MOST_BLOCKS", 90)
    monkeypatch.setattr(ingest_module, "_QUARANTINE_ROWS", 64)
    monkeypatch.setattr(shard_files, "SORT_INTERACTIONS", 300)


@pytest.mark.parametrize("n_buckets", [1, 2, 13])
@pytest.mark.parametrize("piece_bytes", [700, 20_000, None])
def test_the_bytes_do_not_depend_on_workers_tasks_and_buckets(tmp_path, sources, reference, n_buckets, piece_bytes):
    runner = ScrambledRunner()
    ingest([sources], tmp_path / "d", OPTIONS, runner=runner, n_buckets=n_buckets, piece_bytes=piece_bytes)
    assert file_bytes(tmp_path / "d") == file_bytes(reference)
    n_tasks = dict(runner.maps)
    assert n_tasks["reduce_bucket"] == n_buckets
    if piece_bytes == 700:
        assert n_tasks["spool_pieces"] > 100
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize(
    "fields",
    [
        {"duplicates": "last"},
        {"duplicates": "last", "time_column": None, "split": SplitRule(kind="random")},
        {"split": SplitRule(kind="held-out-users", test_users=20, validation_users=0.2)},
        {"split": SplitRule(kind="leave-last", n_validation=1), "user_core": 1, "item_core": 1},
        {"split": SplitRule(), "weight_from_rating": "binary", "duplicates": "max"},
    ],
    ids=str,
)
def test_every_rule_gives_the_same_bytes_side_by_side(tmp_path, sources, fields):
    options = OPTIONS.model_copy(update=fields)
    ingest([sources], tmp_path / "one", options)
    ingest([sources], tmp_path / "many", options, runner=ScrambledRunner(), n_buckets=5, piece_bytes=5000)
    assert file_bytes(tmp_path / "one") == file_bytes(tmp_path / "many")


def test_an_official_split_gives_the_same_bytes_side_by_side(tmp_path, sources):
    options = OPTIONS.model_copy(update={"user_core": 1, "item_core": 1, "split": SplitRule(kind="official")})
    train, test = [sources / "c.jsonl", sources / "d.parquet"], [sources / "b.csv", sources / "few"]
    options = options.model_copy(update={"time_column": None})
    ingest(train, tmp_path / "one", options, test_sources=test)
    ingest(train, tmp_path / "many", options, test_sources=test, runner=ScrambledRunner(), piece_bytes=3000)
    assert file_bytes(tmp_path / "one") == file_bytes(tmp_path / "many")


def test_an_executor_of_this_process_gives_the_same_bytes(tmp_path, sources, reference):
    ingest([sources], tmp_path / "d", OPTIONS, runner=InProcessExecutor(), n_buckets=4, piece_bytes=4000)
    assert file_bytes(tmp_path / "d") == file_bytes(reference)


def test_rejected_rows_are_kept_in_the_order_of_the_sources(reference):
    rejects = pa.parquet.read_table(reference / "quarantine.parquet").to_pylist()
    assert len({row["source"] for row in rejects}) > 5
    assert len({row["reason"] for row in rejects}) == 5
    places = [(row["source"], row["row"]) for row in rejects]
    assert places == sorted(places)


@pytest.mark.usefixtures("small_steps")
def test_every_stage_tells_its_progress(tmp_path, sources):
    seen = []
    ingest(
        [sources],
        tmp_path / "d",
        OPTIONS,
        runner=ScrambledRunner(),
        n_buckets=3,
        piece_bytes=20_000,
        progress=lambda *state: seen.append(state),
    )
    stages = [stage for stage, _, _ in seen]
    assert stages == sorted(stages, key=["read", "merge", "filter", "split", "write"].index)
    by_stage = {stage: [(done, total) for name, done, total in seen if name == stage] for stage in stages}
    manifest = Dataset.open(tmp_path / "d").manifest
    assert by_stage["read"][-1] == (manifest.ledger.read, None)
    assert by_stage["merge"] == by_stage["split"] == [(1, 3), (2, 3), (3, 3)]
    n_written = manifest.ledger.kept + manifest.parts["train"].n_interactions  # train is written twice
    done = [done for done, _ in by_stage["write"]]
    assert done == sorted(set(done))
    assert done[0] == 0
    assert done[-1] == n_written
    assert len(done) > 5
    assert {total for _, total in by_stage["write"]} == {n_written}


def test_the_first_error_in_the_order_of_the_sources_is_reported_in_the_same_words(tmp_path, sources):
    bad = tmp_path / "sources"
    bad.mkdir()
    good = "1,2,3,4\n" * 400
    (bad / "a.csv").write_text("user_id,item_id,weight,time\n" + good + ",2,3,4\n" + good + "1,2,x,4\n")
    (bad / "b.csv").write_text("user,item_id\n1,2\n")
    (bad / "c.parquet").write_bytes(b"PAR1" + b"x" * 5000)
    strict = OPTIONS.model_copy(update={"reject_limit": 0.0})
    for locations, options in (([bad], strict), ([bad], OPTIONS), ([sources, bad / "c.parquet"], OPTIONS)):
        messages = []
        for runner in (None, ScrambledRunner()):
            with pytest.raises(RgalsError) as caught:
                ingest(locations, tmp_path / "d", options, runner=runner, n_buckets=2, piece_bytes=1000)
            messages.append((type(caught.value), str(caught.value)))
        assert messages[0] == messages[1]
        assert [path.name for path in tmp_path.iterdir()] == ["sources"]
    with pytest.raises(InputError, match=r"a\.csv, row 402: missing user id"):
        ingest([bad], tmp_path / "d", strict, runner=ScrambledRunner(), piece_bytes=1000)


class ElsewhereRunner(ScrambledRunner):
    """Its workers do not see some folder."""

    def __init__(self, **unseen):
        super().__init__()
        self._unseen = unseen

    def on_each_worker(self, function, shared):
        if hasattr(shared, "scratch"):
            shared = replace(shared, **self._unseen)
        return super().on_each_worker(function, shared)


@pytest.mark.parametrize(
    ("unseen", "message"),
    [
        (
            {"scratch": Path("/absent")},
            r"/absent: worker 1 on .* does not see this scratch folder; pass --scratch .*and 2 more workers",
        ),
        ({"token": "other"}, "does not see this scratch folder"),
        ({"staged": Path("/absent/x")}, r"/absent: worker 1 on .* does not see this folder of the output;.*s3://"),
        ({"sources": ("/absent.csv",)}, r"/absent\.csv: worker 1 on .* does not see this source"),
    ],
)
def test_a_worker_that_does_not_see_what_it_needs_is_named(tmp_path, sources, unseen, message):
    with pytest.raises(InputError, match=message):
        ingest([sources], tmp_path / "d", OPTIONS, runner=ElsewhereRunner(**unseen))
    assert list(tmp_path.iterdir()) == []


def test_an_object_store_gets_the_same_bytes_and_the_manifest_last(tmp_path, sources, reference, monkeypatch):
    store, filesystem = object_store()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    ingest([sources], Folder(filesystem, "bucket/d"), OPTIONS, runner=InProcessExecutor(), n_buckets=3)
    assert store.log[-1] == f"bucket/d/{MANIFEST_NAME}"
    assert {name.removeprefix("bucket/d/"): content for name, content in store.keys.items()} == file_bytes(reference)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def ray_executor():
    options = ExecutorOptions(kind="ray", workers=2, worker_cpus=1, object_store_bytes=80_000_000)
    with open_executor(options) as executor:
        yield executor


def test_two_ray_workers_give_the_same_bytes(tmp_path, sources, reference, ray_executor):
    ingest([sources], tmp_path / "d", OPTIONS, runner=ray_executor, n_buckets=5, piece_bytes=9000)
    assert file_bytes(tmp_path / "d") == file_bytes(reference)
    ingest([sources], tmp_path / "e", OPTIONS, runner=ray_executor, scratch=tmp_path / "scratch")
    assert file_bytes(tmp_path / "e") == file_bytes(reference)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_an_error_in_a_ray_worker_reads_as_one_here(tmp_path, sources, ray_executor):
    messages = set()
    strict = OPTIONS.model_copy(update={"reject_limit": 0.0})
    for runner in (None, ray_executor):
        with pytest.raises(InputError) as caught:
            ingest([sources], tmp_path / "d", strict, runner=runner, piece_bytes=2000)
        messages.add(str(caught.value))
        with pytest.raises(InputError, match="no interactions are left"):
            ingest([sources], tmp_path / "d", OPTIONS.model_copy(update={"user_core": 900}), runner=runner)
    assert len(messages) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_by_ray_leaves_nothing(tmp_path, sources, ray_executor):
    def interrupt(stage, done, _total):
        if stage == "write" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest([sources], tmp_path / "d", OPTIONS, runner=ray_executor, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def process_id(_shared, _position, _context):
    return os.getpid()


@pytest.mark.parametrize("stage", ["merge", "write"])
def test_a_ray_worker_that_dies_changes_nothing(tmp_path, sources, reference, ray_executor, stage):
    doomed = ray_executor.on_each_worker(process_id, None)[:1]

    def kill(now, done, _total):
        if now == stage and done and doomed:
            os.kill(doomed.pop(), signal.SIGKILL)

    ingest([sources], tmp_path / "d", OPTIONS, runner=ray_executor, n_buckets=12, progress=kill)
    assert doomed == []
    assert file_bytes(tmp_path / "d") == file_bytes(reference)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_ray_workers_read_and_write_an_object_store(tmp_path, sources, reference, ray_executor, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        where = f"endpoint_override={host}:{port}&scheme=http&allow_bucket_creation=true&region=us-east-1"
        keys = "none:none@"
        source = Folder.at(f"s3://{keys}bucket/sources?{where}")
        output = Folder.at(f"s3://{keys}bucket/d?{where}")
        output.filesystem.create_dir("bucket")
        for name, content in file_bytes(sources).items():
            source.write_bytes(name, content)
        location = f"s3://{keys}bucket/sources?{where}"
        ingest([location], output, OPTIONS, runner=ray_executor, scratch=tmp_path, n_buckets=3, piece_bytes=9000)
        expected = file_bytes(reference)
        found = {name: output.read_bytes(name) for name in output.file_names()}
        same = [name for name in expected if name not in (MANIFEST_NAME, "quarantine.parquet")]
        assert {name: found[name] for name in same} == {name: expected[name] for name in same}
        assert found.keys() == expected.keys()
        assert Dataset.open(output).fingerprint == Dataset.open(reference).fingerprint
        source.write_bytes("z.parquet", b"PAR1" + b"x" * 100)
        other = Folder.at(f"s3://{keys}bucket/e?{where}")
        with pytest.raises(DataError, match=r"z\.parquet: cannot be read"):
            ingest([location], other, OPTIONS, runner=ray_executor, scratch=tmp_path)
        assert not other.exists()
        assert list(tmp_path.iterdir()) == []
    finally:
        server.stop()
