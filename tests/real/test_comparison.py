"""Models compared on MovieLens latest-small: graded relevance end to end, and new users folded in."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from rgals.data.dataset import Dataset
from rgals.evaluation.report import Report, read_report

pytestmark = pytest.mark.realdata

COLUMNS = ["--user-column=userId", "--item-column=movieId", "--rating-column=rating", "--time-column=timestamp"]
GRADES = ["--grades=3,4,5", "--weight-from-rating=gain"]


def run(*arguments: object) -> None:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def compare(dataset: Path, output: Path, *arguments: str) -> Report:
    models = "rg2,softmax-cosine,ease,popularity"
    run("compare", dataset, "--models", models, "--factors=32", "--budget=2", "--output", output, *arguments)
    return read_report(output / "report.json")


def test_grades_are_weights_of_the_losses_and_gains_of_ndcg(real_data: Path, tmp_path: Path) -> None:
    source, dataset = real_data / "ml-latest-small" / "ratings.csv", tmp_path / "dataset"
    split = ("--split=random", "--test-fraction=0.2", "--validation-fraction=0.1")
    run("ingest", source, *COLUMNS, *GRADES, *split, "--output", dataset)
    for part in ("train", "validation", "test"):
        weights = Dataset.open(dataset).read_part(part).weights
        assert weights is not None
        assert set(weights.tolist()) == {1.0, 3.0, 7.0}
    report = compare(dataset, tmp_path / "graded", "--gains=graded")
    assert report.protocol.gains == "graded"
    ndcg = {model.name: model.metrics["ndcg@20"].mean or 0.0 for model in report.models}
    assert ndcg["popularity"] + 0.05 < min(ndcg["rg2"], ndcg["softmax-cosine"], ndcg["ease"])
    binary = compare(dataset, tmp_path / "binary")
    # The same lists of the same popularity, judged otherwise; recall knows no gains.
    one, other = (found.models[-1].metrics for found in (report, binary))
    assert one["recall@20"].mean == other["recall@20"].mean
    assert one["ndcg@20"].mean != other["ndcg@20"].mean


def test_new_users_are_folded_in_by_every_model(real_data: Path, tmp_path: Path) -> None:
    source, dataset = real_data / "ml-latest-small" / "ratings.csv", tmp_path / "dataset"
    # As Liang et al. 2018: binary, held-out users, four fifths of their items shown, NDCG@100 and Recall@20, @50.
    split = ("--split=held-out-users", "--test-users=60", "--validation-users=60", "--fold-in-fraction=0.8")
    rules = ("--minimum-rating=4", "--weight-from-rating=binary", "--user-core=5")
    run("ingest", source, *COLUMNS, *rules, *split, "--output", dataset)
    report = compare(dataset, tmp_path / "report", "--cutoff=100", "--k=20,50")
    assert (report.protocol.generalization, report.metric) == ("strong", "ndcg@100")
    ndcg = {model.name: model.metrics["ndcg@100"].mean or 0.0 for model in report.models}
    assert ndcg["popularity"] < min(ndcg["rg2"], ndcg["softmax-cosine"], ndcg["ease"])
    assert {"recall@20", "recall@50"} <= report.models[0].metrics.keys()
