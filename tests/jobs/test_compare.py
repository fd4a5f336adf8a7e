"""``rgals compare``: a report and a page, continued, refused with a reason; the evaluation job under one name."""

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from jobs import compare as job
from rgals.errors import InputError, OutputExistsError, RgalsError, StaleCheckpointError
from rgals.evaluation.report import read_report
from rgals.training.capacity import Limits
from rgals.tuning.compare_folder import ComparisonFolder
from tests.tuning.comparisons import make_dataset

QUICK = ("--factors", "6", "--budget", "2", "--k", "5,10", "--cutoff", "5", "--bootstrap", "50")

app = typer.Typer()
app.command()(job.compare)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("compare") / "dataset"
    make_dataset(path)
    return path


def run_compare(*arguments):
    """Run the command in this process; its own exceptions are raised here."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(found.exception, RgalsError):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found


def test_a_report_and_a_page_are_written(dataset, tmp_path):
    found = run_compare(dataset, "--models", "rg2,popularity", "--output", tmp_path / "r", *QUICK)
    report = read_report(tmp_path / "r" / "report.json")
    assert [model.name for model in report.models] == ["rg2", "popularity"]
    assert (report.kind, report.metric, report.protocol.cutoffs) == ("comparison", "ndcg@5", [5, 10])
    assert report.provenance.fingerprint == report.dataset.fingerprint
    assert "in-process" in report.provenance.executor
    assert "rg2" in (tmp_path / "r" / "report.html").read_text()
    assert "first reaches 99% of its best" in " ".join(found.stdout.split())
    assert "rg2: trial 1" in found.stderr
    assert "popularity (2/2): ranking the test part" in found.stderr


def test_titles_of_a_table_are_shown_for_items(dataset, tmp_path):
    plain = ("--models", "popularity", "--output", tmp_path / "r", *QUICK)
    run_compare(dataset, *plain)
    report = read_report(tmp_path / "r" / "report.json")
    shown = report.sample_users[0].lists["popularity"][0].item_id
    (tmp_path / "items.csv").write_text(f"item_id,title\n{shown},The Third Man\n")
    run_compare(dataset, *plain, "--titles", tmp_path / "items.csv")
    assert read_report(tmp_path / "r" / "report.json").titles == {shown: "The Third Man"}
    assert ">The Third Man</li>" in (tmp_path / "r" / "report.html").read_text()


def test_the_same_command_goes_on(dataset, tmp_path):
    run_compare(dataset, "--models", "rg2", "--output", tmp_path, *QUICK)
    first = json.loads((tmp_path / "report.json").read_text())
    found = run_compare(dataset, "--models", "rg2,popularity", "--output", tmp_path, *QUICK)
    assert "rg2 (1/2): searching on the validation part, 2 trials: done before" in found.stderr
    second = json.loads((tmp_path / "report.json").read_text())
    assert second["models"][0]["metrics"] == first["models"][0]["metrics"]
    assert second["models"][0]["train_s"] == first["models"][0]["train_s"]
    timed = run_compare(dataset, "--models", "rg2", "--output", tmp_path, *QUICK, "--time-again")
    assert "timed fit on the training part\n" in timed.stderr
    assert "2 trials: done before" in timed.stderr


def test_a_report_counts_the_seconds_of_all_runs(dataset, tmp_path):
    arguments = (dataset, "--models", "popularity", "--output", tmp_path, *QUICK)
    run_compare(*arguments)
    first = read_report(tmp_path / "report.json")
    kept = json.loads((tmp_path / "comparison" / "runs.json").read_text())
    kept["runs"][0] = {"started_at": "2026-01-02T03:04:05+00:00", "seconds": 1000.0}
    (tmp_path / "comparison" / "runs.json").write_text(json.dumps(kept))
    run_compare(*arguments)
    second = read_report(tmp_path / "report.json")
    assert second.provenance.started_at == "2026-01-02T03:04:05+00:00"
    assert 1000 < second.provenance.seconds < 1600
    assert second.created_at >= first.created_at > "2026-01-03"


def test_two_commands_do_not_work_in_one_folder(dataset, tmp_path):
    command = [sys.executable, "-m", "jobs.compare", str(dataset), "--models=popularity", *QUICK, "--output", tmp_path]
    with ComparisonFolder(tmp_path / "comparison") as folder:
        folder.open({}, {"kind": "trials", "size": 1}, resume=None)
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stderr.startswith("rgals: error: ")
    assert "in use by another process" in found.stderr
    assert not (tmp_path / "report.json").exists()


def test_a_loss_that_does_not_fit_is_left_out_with_numbers(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(Limits, "of_this_machine", classmethod(lambda cls, folder: cls("this machine", memory_bytes=9)))
    found = run_compare(dataset, "--models", "rg2,popularity", "--output", tmp_path, *QUICK)
    report = read_report(tmp_path / "report.json")
    [left] = report.left_out
    assert left.name == "rg2"
    assert "memory of a node: " in left.reason
    assert "9 B available" in left.reason
    assert [model.name for model in report.models] == ["popularity"]
    assert "rg2: left out: the training does not fit" in found.stderr


def test_where_a_stage_is_done_again_it_says_why(dataset, tmp_path):
    run_compare(dataset, "--models", "popularity", "--output", tmp_path, *QUICK, "--threads", "1")
    found = run_compare(dataset, "--models", "popularity", "--output", tmp_path, *QUICK, "--threads", "2")
    assert (
        "popularity: timed fit on the training part: done again, as its seconds are of another place: threads 1 then, "
        "2 now"
    ) in found.stderr


def test_what_is_there_is_not_lost_by_mistake(dataset, tmp_path):
    run_compare(dataset, "--models", "popularity", "--output", tmp_path, *QUICK)
    with pytest.raises(StaleCheckpointError, match="seed"):
        run_compare(dataset, "--models", "popularity", "--output", tmp_path, *QUICK, "--seed", "3")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        run_compare(dataset, "--models", "popularity", "--output", tmp_path, *QUICK, "--resume", "never")
    changed = ("--seed", "3", "--resume", "never", "--overwrite")
    run_compare(dataset, "--models", "popularity", "--output", tmp_path, *QUICK, *changed)
    with pytest.raises(RgalsError, match="found none"):
        run_compare(dataset, "--models", "popularity", "--output", tmp_path / "new", *QUICK, "--resume", "required")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--models", "rg2,tower"), "found 'tower'"),
        (("--models", ","), "found none"),
        (("--budget", "0"), "--budget"),
        (("--budget-seconds", "5"), "expected one of them, found both"),
        (("--k", "ten"), "--k: expected whole numbers"),
        (("--k", "0"), "--k"),
        (("--factors", "0"), "--factors"),
        (("--gains", "linear"), "--gains"),
        (("--resume", "maybe"), "--resume"),
        (("--models", "rg2", "--reference", "ease"), "--reference"),
    ],
)
def test_mistakes_are_named(dataset, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        run_compare(dataset, "--output", tmp_path / "r", *QUICK, *arguments)
    assert not (tmp_path / "r").exists()


def test_the_evaluation_job_compares_where_models_are_named(dataset, tmp_path):
    command = [sys.executable, "-m", "jobs.evaluate", str(dataset), "--models=popularity,random", *QUICK]
    found = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert [model.name for model in read_report(tmp_path / "report.json").models] == ["popularity", "random"]
    failed = subprocess.run(
        [*command[:4], "--models=nothing", "--output", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    assert failed.stderr.startswith("rgals: error: models: expected some of rg2")


def test_a_report_is_written_to_a_local_folder(dataset, tmp_path):
    with pytest.raises(InputError, match="local disks"):
        run_compare(dataset, "--models", "popularity", *QUICK, "--output", "s3://bucket/report")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputExistsError, match="in the way"):
        run_compare(dataset, "--models", "popularity", *QUICK, "--output", tmp_path / "file")


@pytest.mark.slow
def test_on_ray_the_numbers_are_those_of_one_process(dataset, tmp_path):
    models, ray = "rg2,softmax-cosine,popularity", ("--executor", "ray", "--workers", "1", "--worker-cpus", "2")
    run_compare(dataset, "--models", models, *QUICK, "--output", tmp_path / "here")
    command = [sys.executable, "-m", "jobs.evaluate", str(dataset), "--models", models, *QUICK, *ray]
    found = subprocess.run([*command, "--output", str(tmp_path / "ray")], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    here, there = (read_report(tmp_path / name / "report.json") for name in ("here", "ray"))
    assert "ray, workers: 1" in there.provenance.executor
    for one, two in zip(here.models, there.models, strict=True):
        assert (one.name, one.metrics, one.n_rounds) == (two.name, two.metrics, two.n_rounds)
        if one.tuning is not None:
            assert [trial.options for trial in one.tuning.trials] == [trial.options for trial in two.tuning.trials]
