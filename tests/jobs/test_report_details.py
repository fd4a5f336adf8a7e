import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.report_details import describe_baseline, describe_run, describe_training, name_executor, recorded_command
from rgals.evaluation.report import read_report
from rgals.execution import ExecutorOptions
from rgals.numerics.loss import LOSS_NAMES
from tests.evaluation.problems import random_parts, write_dataset

SWEEPS = [
    {"sweep": 1, "seconds": 0.5, "ndcg": 0.1, "objective_after_items": -3.0, "softmax": None},
    {"sweep": 2, "seconds": 0.25, "ndcg": 0.2, "objective_after_items": -4.0, "softmax": 7.5},
]


def trained(history: Any, **metrics: Any) -> Any:
    """What is looked at of a model."""
    found = {"kept_sweep": 2, "validation_cutoff": 20, "history": history, **metrics}
    return SimpleNamespace(config={"loss": "rgx"}, metrics=found)


def test_the_curve_adds_up_the_seconds_of_the_sweeps() -> None:
    details = describe_training(trained(SWEEPS), "m", 20)
    assert (details.name, details.family, details.n_rounds) == ("m", "rg", 2)
    assert [(point.round, point.train_s, point.ndcg) for point in details.curve] == [(1, 0.5, 0.1), (2, 0.75, 0.2)]
    assert [(point.objective, point.softmax) for point in details.curve] == [(-3, None), (-4, 7.5)]


@pytest.mark.parametrize(
    ("history", "k"),
    [
        (SWEEPS, 10),  # NDCG at another cutoff
        ([SWEEPS[0], {**SWEEPS[1], "ndcg": None}], 20),  # not validated after each sweep
        ([{"sweep": 1, "ndcg@20": 0.25}], 20),  # written by somebody else
        (None, 20),
    ],
)
def test_without_a_comparable_value_for_each_sweep_there_is_no_curve(history: Any, k: int) -> None:
    assert describe_training(trained(history), "m", k).curve == []


def test_a_curve_of_other_gains_is_left_out() -> None:
    model = trained(SWEEPS)
    assert describe_training(model, "m", 20, "graded").curve == []
    model.config["validation_gains"] = "graded"
    assert describe_training(model, "m", 20, "binary").curve == []
    assert len(describe_training(model, "m", 20, "graded").curve) == 2


def test_families_are_those_of_the_loss_and_of_the_baseline() -> None:
    models: list[Any] = [SimpleNamespace(config={"loss": loss}, metrics={}) for loss in LOSS_NAMES]
    families = {model.config["loss"]: describe_training(model, "m", 20).family for model in models}
    assert families == {"rg2": "rg", "rgx": "rg", "rg-softmax": "rg", "ials": "other"}
    assert [describe_baseline(name).family for name in ("popularity", "random", "ials")] == ["trivial"] * 2 + ["other"]


@pytest.mark.parametrize(("step_lengths", "n_start"), [((None, 1.0), 1), ((1.0, 0.5), 0), ((None, None), 0)])
def test_the_sweeps_before_the_first_expansion_are_the_start(step_lengths: tuple[Any, ...], n_start: int) -> None:
    history = [{**sweep, "step_length": length} for sweep, length in zip(SWEEPS, step_lengths, strict=True)]
    for k in (20, 10):  # with a curve and without
        assert describe_training(trained(history), "m", k).n_start_rounds == n_start
    assert describe_training(trained(SWEEPS), "m", 20).n_start_rounds == 0


def test_executors_are_named_for_a_reader() -> None:
    assert name_executor(ExecutorOptions(threads=3)) == "in-process, threads: 3"
    assert name_executor(ExecutorOptions("ray")) == "ray, workers: one, CPUs of each: all"
    cluster = ExecutorOptions("ray", address="auto", worker_cpus=2)
    assert name_executor(cluster) == "ray, workers: one on each node, CPUs of each: 2"


def test_a_run_names_its_dataset_and_takes_from_its_start_until_now(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", 5, 6, {"train": [(0, 0)], "test": [(0, 1)]})
    started = datetime.now(UTC)
    found = describe_run(dataset, started, ExecutorOptions(threads=1))
    assert (found.dataset, found.fingerprint) == (str(tmp_path / "d"), dataset.fingerprint)
    assert found.seconds is not None
    assert 0 <= found.seconds < 10


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/usr/bin/rgals", "evaluate", "my model", "-o", "r"], "rgals evaluate 'my model' -o r"),
        (["/usr/bin/rgals", "compare", "d", "-o", "r"], "rgals compare d -o r"),
        (["/src/jobs/cli.py", "evaluate", "m"], "rgals evaluate m"),
        (["/src/jobs/evaluate.py", "m", "-d", "d"], "python -m jobs.evaluate m -d d"),
        (["/src/jobs/evaluate.py", "d", "--models", "rg2"], "python -m jobs.evaluate d --models rg2"),
        (["/src/jobs/compare.py", "d", "--models=rg2"], "python -m jobs.compare d --models=rg2"),
    ],
)
def test_the_recorded_command_names_the_program_that_ran(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], expected: str
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert recorded_command() == expected


def rgals(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", ["rgals", *map(str, arguments)])
    found = CliRunner().invoke(app, sys.argv[1:])
    assert found.exit_code == 0, found.output
    return found.output


def test_the_report_of_a_trained_model_has_its_curve_its_tests_and_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "d", 60, 30, random_parts(60, 30, {"train": 0.3, "validation": 0.1, "test": 0.1}))
    rgals(monkeypatch, "train", tmp_path / "d", "--output", tmp_path / "m", "--n-factors", 4, "--n-sweeps", 3)
    options = ("--k", "5,20", "--output", tmp_path / "r.json", "--bootstrap", 20, "--baselines", "popularity")
    printed = rgals(monkeypatch, "evaluate", tmp_path / "m", "--dataset", tmp_path / "d", *options)
    report = read_report(tmp_path / "r.json")
    model, popularity = report.models
    assert (model.family, popularity.family, popularity.curve) == ("rg", "trivial", [])
    assert [point.round for point in model.curve] == [1, 2, 3]
    assert model.seconds_to_99 in [point.train_s for point in model.curve]
    assert report.provenance is not None
    assert report.provenance.command.startswith("rgals evaluate ")
    assert report.provenance.command.endswith("--baselines popularity")
    assert report.created_at is not None
    assert report.created_at >= report.provenance.started_at
    assert len(report.sample_users) == 10
    p_value = report.comparisons[0].metrics["ndcg@20"].p_holm
    assert f", p = {p_value:.4f}" in printed or "p < 0.0001" in printed
    degree = popularity.metrics["popularity@5"].mean
    assert degree is not None
    assert f"{degree:,.1f}" in printed
    assert json.loads((tmp_path / "r.json").read_text())["kind"] == "evaluation"
