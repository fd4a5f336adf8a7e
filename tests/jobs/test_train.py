"""``rgals train``: from a dataset to a model, stopped and resumed, with every mistake named."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from jobs import train as job
from rgals.artifact.model import Model
from rgals.data.dataset import Dataset
from rgals.data.ingest import IngestOptions, ingest
from rgals.data.splits import SplitRule
from rgals.errors import ChecksumError, DataError, InputError, OutputExistsError, RgalsError, StaleCheckpointError
from rgals.training.config import TrainingConfig
from tests.training.runs import planted

SMALL = ("--n-factors", "6", "--n-sweeps", "4", "--alpha", "1", "--reg", "0.05", "--softmax-users", "20")

app = typer.Typer()
app.command()(job.train)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), validation_fraction=0.1)


def write_dataset(folder, user_name="u{:04d}", **split):
    rows = planted()[0]
    users = np.repeat(np.arange(rows.n_rows), rows.degrees)
    lines = [f"{user_name.format(u)},i{i:03d}" for u, i in zip(users, rows.columns, strict=True)]
    (folder / "events.csv").write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    rule = SplitRule(kind="random", test_fraction=0.1, **split)
    ingest([folder / "events.csv"], folder / "dataset", IngestOptions(split=rule))
    return folder / "dataset"


def run_train(*arguments):
    """Run the command in this process; its own exceptions are raised here."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(found.exception, RgalsError):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found


def read_events(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_model_is_written_and_summarized(dataset, tmp_path):
    found = run_train(dataset, "--output", tmp_path / "model", *SMALL)
    model, opened = Model.open(tmp_path / "model"), Dataset.open(dataset)
    assert model.user_ids == opened.user_ids
    assert model.user_factors.shape == (opened.n_users, 6)
    assert model.seen.n_interactions == opened.n_interactions
    assert model.loss == TrainingConfig(alpha=1, reg=0.05).to_loss()
    assert model.lineage["dataset_fingerprint"] == opened.fingerprint
    assert model.metrics["n_sweeps"] == model.metrics["kept_sweep"] == 4
    assert model.metrics["validation_ndcg"] > 0.3
    assert model.metrics["objective"] == model.metrics["history"][-1]["objective_after_items"]
    assert 0 < model.metrics["train_s"] < model.metrics["total_s"]
    assert model.config["n_factors"] == 6
    assert model.factor_checksum in found.stdout
    for part in ("rg2, 6 factors", "4, stopped by n_sweeps", "validation NDCG@20", "solving"):
        assert part in found.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_progress_goes_to_standard_error(dataset, tmp_path):
    found = run_train(dataset, "--output", tmp_path / "model", *SMALL)
    assert "sweep 4/4  objective" in found.stderr
    assert "sweep 4/4" not in found.stdout


def test_training_twice_gives_the_same_factors_for_any_number_of_threads(dataset, tmp_path):
    checksums = set()
    for threads in (1, 2):
        run_train(dataset, "--output", tmp_path / f"model-{threads}", "--threads", threads, *SMALL)
        checksums.add(Model.open(tmp_path / f"model-{threads}").factor_checksum)
    assert len(checksums) == 1


def test_the_event_file_holds_the_whole_run(dataset, tmp_path):
    run_train(dataset, "--output", tmp_path / "model", "--events", tmp_path / "events.jsonl", *SMALL)
    events = read_events(tmp_path / "events.jsonl")
    assert [event["kind"] for event in events[:6]] == [
        "start",
        "half_step",
        "half_step",
        "sweep",
        "softmax",
        "validation",
    ]
    assert events[-1]["kind"] == "stop"
    assert events[0]["config"]["n_factors"] == 6
    assert all(event["fall"] > 0 for event in events if event["kind"] == "half_step")


def test_a_dataset_without_validation_part_trains_too(tmp_path):
    plain = write_dataset(tmp_path)
    run_train(plain, "--output", tmp_path / "model", *SMALL)
    assert Model.open(tmp_path / "model").metrics["validation_ndcg"] is None


def test_held_out_users_are_validated_by_fold_in(tmp_path):
    rows = planted()[0]
    users = np.repeat(np.arange(rows.n_rows), rows.degrees)
    lines = [f"u{u},i{i}" for u, i in zip(users, rows.columns, strict=True)]
    (tmp_path / "events.csv").write_text("user_id,item_id\n" + "\n".join(lines))
    rule = SplitRule(kind="held-out-users", test_users=0.1, validation_users=0.2)
    ingest([tmp_path / "events.csv"], tmp_path / "dataset", IngestOptions(split=rule))
    run_train(tmp_path / "dataset", "--output", tmp_path / "model", *SMALL)
    assert Model.open(tmp_path / "model").metrics["validation_ndcg"] > 0.3


def test_every_field_of_the_configuration_is_an_option():
    help_text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"}).stdout
    for name in TrainingConfig.model_fields:
        assert f"--{name.replace('_', '-')}" in help_text
    assert "rg2|rgx|ials|rg-softmax" in help_text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("options.json", '{"loss": "rgx", "alpha": 2.5, "patience": 3}'),
        ("options.toml", 'loss = "rgx"\nalpha = 2.5\npatience = 3\n'),
    ],
)
def test_options_come_from_a_file_and_the_command_line_goes_before_it(dataset, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    run_train(dataset, "--output", tmp_path / "model", "--config", tmp_path / name, *SMALL, "--alpha", "0.5")
    model = Model.open(tmp_path / "model")
    assert (model.loss.name, model.loss.alpha, model.config["patience"]) == ("rgx", 0.5, 3)


def test_the_config_of_a_model_trains_the_same_model_again(dataset, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    run_train(dataset, "--output", first, *SMALL, "--loss", "rgx", "--seed", "9")
    run_train(dataset, "--output", second, "--config", first / "config.json")
    assert Model.open(second).factor_checksum == Model.open(first).factor_checksum
    assert Model.open(second).config == Model.open(first).config


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("options.json", "{", "not valid JSON"),
        ("options.toml", "alpha = = 1", "not valid TOML"),
        ("options.json", "[1]", "expected an object of options, found list"),
        ("options.yaml", "", r"expected a \.json or \.toml file, found '\.yaml'"),
        ("options.json", '{"alfa": 1}', "alfa: no such option"),
    ],
)
def test_a_bad_option_file_is_named(dataset, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        run_train(dataset, "--output", tmp_path / "model", "--config", tmp_path / name)


def test_a_missing_option_file_is_named(dataset, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        run_train(dataset, "--output", tmp_path / "model", "--config", tmp_path / "none.toml")


def test_unknown_loss_and_zero_factors_are_listed_together(dataset, tmp_path):
    with pytest.raises(
        InputError, match=r"(?s)2 problems.*loss: expected .*found 'bpr'.*n_factors: expected .*found 0"
    ):
        run_train(dataset, "--output", tmp_path / "model", "--loss", "bpr", "--n-factors", "0")
    assert list(tmp_path.iterdir()) == []


def forbid_training(monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("training began")

    monkeypatch.setattr(job, "train_factors", fail)


def test_an_existing_output_is_refused_before_training(dataset, tmp_path, monkeypatch):
    run_train(dataset, "--output", tmp_path / "model", *SMALL)
    checksum = Model.open(tmp_path / "model").factor_checksum
    run_train(dataset, "--output", tmp_path / "model", "--overwrite", *SMALL, "--seed", "1")
    assert Model.open(tmp_path / "model").factor_checksum != checksum
    forbid_training(monkeypatch)
    with pytest.raises(OutputExistsError, match="pass --overwrite"):
        run_train(dataset, "--output", tmp_path / "model", *SMALL)


def test_a_place_that_cannot_be_written_is_refused_before_training(dataset, tmp_path, monkeypatch):
    forbid_training(monkeypatch)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written to"):
        run_train(dataset, "--output", tmp_path / "file" / "model", *SMALL)


def test_a_corrupted_shard_is_a_checksum_error_and_leaves_nothing(tmp_path):
    broken = write_dataset(tmp_path)
    shard = max(broken.rglob("*.parquet"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ChecksumError):
        run_train(broken, "--output", tmp_path / "model", *SMALL)
    assert not (tmp_path / "model").exists()


def test_a_folder_that_is_no_dataset_is_named(tmp_path):
    with pytest.raises(DataError, match="not a finished rgals dataset"):
        run_train(tmp_path, "--output", tmp_path / "model")


def test_a_warm_start_copies_factors_by_id_and_says_so(dataset, tmp_path):
    run_train(dataset, "--output", tmp_path / "first", *SMALL)
    # Other user ids, the same items: users start at zero, items where they were.
    other = write_dataset(tmp_path, user_name="n{:04d}")
    options = (*SMALL[:2], "--n-sweeps", "1", *SMALL[4:])
    run_train(other, "--output", tmp_path / "cold", *options)
    run_train(other, "--output", tmp_path / "warm", "--warm-start", tmp_path / "first", *options)
    cold, warm = (Model.open(tmp_path / name) for name in ("cold", "warm"))
    assert warm.metrics["objective"] < cold.metrics["objective"]
    assert warm.lineage["warm_start"] == str(tmp_path / "first")


def test_a_warm_start_with_another_number_of_factors_is_refused(dataset, tmp_path):
    run_train(dataset, "--output", tmp_path / "first", *SMALL)
    with pytest.raises(InputError, match="set n_factors to 6"):
        run_train(dataset, "--output", tmp_path / "second", "--warm-start", tmp_path / "first", "--n-factors", "7")


def test_checkpoints_stand_beside_the_model_and_can_be_resumed_with_more_sweeps(dataset, tmp_path):
    run_train(dataset, "--output", tmp_path / "short", "--checkpoint-every", "2", *SMALL)
    names = sorted(path.name for path in (tmp_path / "short.checkpoints").iterdir())
    assert names == ["sweep-00002", "sweep-00004"]
    more = [*SMALL, "--n-sweeps", "6"]
    run_train(
        dataset, "-o", tmp_path / "long", "--checkpoints", tmp_path / "short.checkpoints", "--resume", "auto", *more
    )
    run_train(dataset, "-o", tmp_path / "whole", *more)
    assert Model.open(tmp_path / "long").factor_checksum == Model.open(tmp_path / "whole").factor_checksum


def test_resuming_another_configuration_is_refused(dataset, tmp_path):
    run_train(dataset, "--output", tmp_path / "a", "--checkpoints", tmp_path / "c", "--checkpoint-every", "2", *SMALL)
    with pytest.raises(StaleCheckpointError, match=r"alpha 1\.0 there, 3\.0 here"):
        run_train(
            dataset, "-o", tmp_path / "b", "--checkpoints", tmp_path / "c", "--resume", "auto", *SMALL, "--alpha", "3"
        )


def test_resuming_from_nothing_is_an_error_unless_only_if_any(dataset, tmp_path):
    with pytest.raises(DataError, match="expected a checkpoint to resume from"):
        run_train(dataset, "--output", tmp_path / "model", "--resume", "required", *SMALL)
    run_train(dataset, "--output", tmp_path / "model", "--resume", "auto", *SMALL)


def start_process(*arguments):
    command = [sys.executable, "-m", "jobs.train", *(str(argument) for argument in arguments)]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for_sweeps(path, process, n_sweeps):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_text().count('"kind": "sweep"') >= n_sweeps:
            return
        time.sleep(0.01)
    raise AssertionError(f"no sweep after 60 s: {process.communicate()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_resumable_state_and_the_resumed_run_ends_with_the_same_factors(dataset, tmp_path, number):
    events = tmp_path / "events.jsonl"
    place = (dataset, "--output", tmp_path / "model", "--events", events)
    options = ("--n-factors", "6", "--reg", "0.05", "--softmax-users", "0", "--validate-every", "1000000")
    process = start_process(*place, *options, "--n-sweeps", "1000000")
    wait_for_sweeps(events, process, 3)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "stopping after this sweep" in error
    assert "to go on, run the same command with --resume auto" in error
    assert "Traceback" not in error
    assert not (tmp_path / "model").exists()
    stop = read_events(events)[-1]
    assert (stop["kind"], stop["reason"]) == ("stop", "interrupted")

    n_sweeps = ("--n-sweeps", stop["sweep"] + 3)
    run_train(*place, *options, *n_sweeps, "--resume", "auto")
    resumed_at = [event["sweep"] for event in read_events(events) if event["kind"] == "start"]
    assert resumed_at == [0, stop["sweep"]]
    run_train(dataset, "--output", tmp_path / "whole", *options, *n_sweeps)
    assert Model.open(tmp_path / "model").factor_checksum == Model.open(tmp_path / "whole").factor_checksum


def test_a_known_error_goes_to_standard_error_with_exit_code_1(tmp_path):
    process = start_process(tmp_path / "nothing", "--output", tmp_path / "model", "--loss", "bpr")
    output, error = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert error.startswith("rgals: error: training configuration, 1 problem")
    assert "Traceback" not in error


def test_a_second_signal_ends_the_command_at_once(dataset, tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "train_factors", interrupt)
    found = CliRunner().invoke(app, [str(dataset), "--output", str(tmp_path / "model"), *SMALL])
    assert found.exit_code == 130
    assert "interrupted at once" in found.stderr


def test_the_last_training_takes_the_validation_part_too(dataset, tmp_path):
    run_train(dataset, "--output", tmp_path / "model", *SMALL, "--with-validation")
    opened, model = Dataset.open(dataset), Model.open(tmp_path / "model")
    n_both = opened.n_interactions + opened.read_part("validation").n_interactions
    assert model.lineage["dataset_counts"]["interactions"] == n_both
    assert model.lineage["trained_on"] == ["train", "validation"]
    assert model.metrics["validation_ndcg"] is None
    run_train(dataset, "--output", tmp_path / "plain", *SMALL)
    assert Model.open(tmp_path / "plain").factor_checksum != model.factor_checksum
    assert Model.open(tmp_path / "plain").lineage["trained_on"] == ["train"]
