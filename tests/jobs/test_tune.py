"""``rgals tune``: a study, its best options, resumed and interrupted, with every mistake named."""

import csv
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
import typer
from typer.testing import CliRunner

from jobs import tune as job
from rgals.artifact.model import Model
from rgals.errors import DataError, InputError, NumericalError, OutputExistsError, RgalsError, StaleCheckpointError
from rgals.tuning import tune as tune_module
from tests.jobs.test_train import run_train, write_dataset
from tests.tuning.datasets import write_held_out_users

SMALL = ("--factors", "5", "--sweeps", "4", "--patience", "2", "--watched-users", "200", "--threads", "2")

app = typer.Typer()
app.command()(job.tune)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), validation_fraction=0.1)


def run_tune(*arguments):
    """Run the command in this process; its own exceptions are raised here."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(found.exception, RgalsError):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found


def read_trials(study):
    with (study / "trials.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_best_options_are_written_and_train_a_model(dataset, tmp_path):
    study = tmp_path / "study"
    found = run_tune(dataset, "--output", study, "--trials", "9", "--fix", "solver=exact", *SMALL)
    assert sorted(path.name for path in study.iterdir()) == ["best.json", "study.jsonl", "trials.csv", "tuning.png"]
    rows = read_trials(study)
    best = max((row for row in rows if row["state"] == "complete"), key=lambda row: float(row["ndcg"]))
    written = json.loads((study / "best.json").read_text())
    assert {name: written[name] for name in ("alpha", "reg", "nu", "user_exponent", "item_exponent")} == {
        name: float(best[name]) for name in ("alpha", "reg", "nu", "user_exponent", "item_exponent")
    }
    assert written["n_sweeps"] == int(best["best_round"])
    assert (written["loss"], written["n_factors"], written["solver"]) == ("rgx", 5, "exact")
    assert "9 trials in" in found.stdout
    assert f"{float(best['ndcg']):.4f}" in found.stdout
    assert "What set the good trials apart: " in found.stdout
    command = f"rgals train {dataset} --config {study / 'best.json'} --with-validation --output MODEL"
    assert command in found.stdout
    run_train(*command.split()[2:-1], tmp_path / "model")
    model = Model.open(tmp_path / "model")
    assert model.config["alpha"] == written["alpha"]
    assert model.lineage["trained_on"] == ["train", "validation"]
    lines = found.stderr.splitlines()
    assert len(lines) == 9
    assert lines[0].startswith("trial 1/9  NDCG 0.")
    assert "; best 0." in lines[8]


def test_the_best_options_give_the_ndcg_that_was_reported(dataset, tmp_path):
    run_tune(dataset, "--output", tmp_path / "study", "--trials", "2", *SMALL)
    best = max(float(row["ndcg"]) for row in read_trials(tmp_path / "study"))
    config = tmp_path / "study" / "best.json"
    run_train(dataset, "--config", config, "--output", tmp_path / "model", "--validation-users", "0")
    assert Model.open(tmp_path / "model").metrics["validation_ndcg"] == best


def test_a_study_goes_on_where_it_was(dataset, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_tune(dataset, "-o", whole, "--trials", "8", "--search", "alpha,reg", *SMALL)
    run_tune(dataset, "-o", parts, "--trials", "3", "--search", "alpha,reg", "--resume", "auto", *SMALL)
    found = run_tune(dataset, "-o", parts, "--trials", "8", "--search", "alpha, reg", "--resume", "required", *SMALL)
    assert len(found.stderr.splitlines()) == 5
    columns = ("trial", "state", "ndcg", "best_round", "alpha", "reg")
    rows = [[[row[name] for name in columns] for row in read_trials(study)] for study in (whole, parts)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 8
    again = run_tune(dataset, "-o", parts, "--trials", "8", "--search", "alpha,reg", "--resume", "auto", *SMALL)
    assert again.stderr == ""
    assert "8 trials in" in again.stdout


def test_seconds_are_a_budget_too(dataset, tmp_path):
    run_tune(dataset, "-o", tmp_path / "study", "--seconds", "0.5", "--search", "alpha", *SMALL)
    rows = read_trials(tmp_path / "study")
    assert rows
    assert sum(float(row["seconds"]) for row in rows[:-1]) < 0.5


def test_the_other_losses_and_the_prior_can_be_searched(dataset, tmp_path):
    run_tune(dataset, "-o", tmp_path / "ials", "--loss", "ials", "--trials", "2", *SMALL)
    assert set(json.loads((tmp_path / "ials" / "best.json").read_text())) >= {"alpha", "reg"}
    run_tune(dataset, "-o", tmp_path / "rg2", "--loss", "rg2", "--search", "alpha,beta", "--trials", "3", *SMALL)
    assert "beta" in json.loads((tmp_path / "rg2" / "best.json").read_text())


def test_the_softmax_is_searched_and_its_options_are_in_the_help(dataset, tmp_path):
    small = ("--sweeps", "4", "--fix", "start_sweeps=1", "--search", "eta,start_reg")
    run_tune(dataset, "-o", tmp_path / "study", "--loss", "rg-softmax", "--trials", "2", *SMALL, *small)
    assert json.loads((tmp_path / "study" / "best.json").read_text())["n_sweeps"] > 1
    environment = {"COLUMNS": "300", "TERMINAL_WIDTH": "300"}
    shown = CliRunner().invoke(app, ["--help"], env=environment, color=False).output
    for name in ("rg2|rgx|ials|rg-softmax", "eta", "start_reg", "rg-softmax: reg,nu,eta"):
        assert name in " ".join(shown.split())


def test_a_search_whose_trials_all_fail_says_that_it_gave_up(dataset, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise NumericalError("user row 3 has no finite solution")

    monkeypatch.setattr(tune_module, "run_trial", fail)
    with pytest.raises(InputError, match="no trial reached an NDCG"):
        run_tune(dataset, "-o", tmp_path / "study", "--trials", "40", *SMALL)
    assert len(read_trials(tmp_path / "study")) == 10


def test_under_held_out_users_the_validation_part_is_not_trained_on(tmp_path):
    held_out = write_held_out_users(tmp_path)
    found = run_tune(held_out, "-o", tmp_path / "study", "--trials", "2", *SMALL)
    assert "best.json --output MODEL" in found.stdout
    assert "--with-validation" not in found.stdout


@pytest.mark.parametrize(
    ("arguments", "error", "expected"),
    [
        (["--metric", "recall@20"], InputError, "--metric: expected ndcg@K"),
        (["--metric", "ndcg@0"], InputError, "found 'ndcg@0'"),
        (["--loss", "bpr"], InputError, "expected one of rg2, rgx, ials, rg-softmax"),
        (["--search", "alpha,speed"], InputError, "found speed"),
        (["--search", ","], InputError, "found none"),
        (["--fix", "solver"], InputError, "--fix: expected NAME=VALUE, found 'solver'"),
        (["--fix", "alpha=1"], InputError, "alpha: fixed and searched"),
        (["--fix", "cg-steps=none"], InputError, "cg_steps: expected"),
        (["--trials", "0"], InputError, "budget_trials: expected more than 0, found 0"),
        (["--resume", "maybe"], InputError, "--resume: expected never, auto or required"),
        (["--resume", "required"], DataError, "expected a study to go on with, found none"),
        (["--output", "s3://bucket/study"], InputError, "expected a folder on a local disk"),
    ],
)
def test_mistakes_are_named(dataset, tmp_path, arguments, error, expected):
    with pytest.raises(error) as found:
        run_tune(dataset, "-o", tmp_path / "study", "--trials", "1", *SMALL, *arguments)
    assert expected in str(found.value)


def test_what_is_there_is_not_overwritten(dataset, tmp_path):
    study = tmp_path / "study"
    run_tune(dataset, "-o", study, "--trials", "1", *SMALL)
    with pytest.raises(OutputExistsError, match="holds a study already; go on with --resume auto"):
        run_tune(dataset, "-o", study, "--trials", "1", *SMALL)
    with pytest.raises(StaleCheckpointError, match="n_factors: 5 there, 6 here"):
        run_tune(dataset, "-o", study, "--trials", "1", *SMALL, "--factors", "6", "--resume", "auto")
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="holds files but no study"):
        run_tune(dataset, "-o", other, "--trials", "1", *SMALL, "--resume", "auto")
    with pytest.raises(OutputExistsError, match="a file is in the way"):
        run_tune(dataset, "-o", other / "mine.txt", "--trials", "1", *SMALL)


def test_a_dataset_without_a_validation_part_says_what_to_do(tmp_path):
    plain = write_dataset(tmp_path)
    with pytest.raises(InputError, match="--validation-fraction"):
        run_tune(plain, "-o", tmp_path / "study", "--trials", "1", *SMALL)


def test_ctrl_c_leaves_a_study_that_goes_on(dataset, tmp_path):
    study = tmp_path / "study"
    command = [sys.executable, "-m", "jobs.tune", dataset, "-o", study, *SMALL, "--resume", "auto"]
    child = subprocess.Popen([*command, "--trials", "100000"], stderr=subprocess.PIPE, text=True)
    try:
        lines = [child.stderr.readline() for _ in range(3)]
        child.send_signal(signal.SIGINT)
        rest = child.communicate(timeout=300)[1]
    finally:
        child.kill()
    assert child.returncode == 130, rest
    assert lines[2].startswith("trial 3/100000")
    assert "rgals: interrupted after " in rest
    assert "--resume auto" in rest
    n_trials = len(read_trials(study))
    assert n_trials >= 3
    assert (study / "best.json").exists()
    found = run_tune(dataset, "-o", study, *SMALL, "--resume", "auto", "--trials", n_trials + 2)
    assert len(found.stderr.splitlines()) == 2
    assert [int(row["trial"]) for row in read_trials(study)] == list(range(1, n_trials + 3))


def test_on_a_terminal_a_bar_shows_the_best_so_far(dataset, tmp_path):
    import pty

    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "jobs.tune", dataset, "-o", tmp_path / "study", *SMALL, "--trials", "6"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "140"}
    child = subprocess.Popen(command, stderr=terminal, stdout=subprocess.DEVNULL, env=environment)
    os.close(terminal)
    shown = b""
    try:
        with suppress(OSError):  # the other end is closed
            while found := os.read(main, 65536):
                shown += found
        assert child.wait(timeout=300) == 0
    finally:
        child.kill()
        os.close(main)
    words = shown.decode(errors="replace")
    assert "searching, trials" in words
    assert "6/6" in words
    assert "best 0." in words
