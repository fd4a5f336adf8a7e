"""MovieLens latest-small from its raw CSV, through the command line: splits, graded weights, ids."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from rgals.data.dataset import Dataset

pytestmark = pytest.mark.realdata

COLUMNS = ["--user-column=userId", "--item-column=movieId", "--rating-column=rating", "--time-column=timestamp"]


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def ndcg_by_model(report: Path) -> dict[str, float]:
    document = json.loads(report.read_text())
    return {model["name"]: model["metrics"]["ndcg@20"]["mean"] for model in document["models"]}


@pytest.mark.parametrize(
    ("split", "floor", "lead"),
    [
        (["--split=random", "--test-fraction=0.2", "--validation-fraction=0.1", "--seed=3"], 0.25, 0.05),
        (["--split=leave-last", "--n-test=5", "--n-validation=2"], 0.05, 0.01),
        # Nearly all users of the test part are new then, and new users get popular items from every model.
        (["--split=time", "--test-from=2016-01-01"], 0.2, -0.01),
    ],
    ids=["random", "leave-last", "time"],
)
def test_raw_ratings_become_a_measured_model(
    real_data: Path, tmp_path: Path, split: list[str], floor: float, lead: float
) -> None:
    source = real_data / "ml-latest-small" / "ratings.csv"
    dataset, model, report = tmp_path / "dataset", tmp_path / "model", tmp_path / "report.json"
    run("ingest", source, *COLUMNS, "--minimum-rating=3", "--weight-from-rating=gain", *split, "--output", dataset)
    weights = Dataset.open(dataset).read_part("train").weights
    assert weights is not None
    # Grades 3, 3.5, 4, 4.5, 5 as gains 2^r - 1.
    assert sorted({round(float(weight), 3) for weight in weights}) == [7.0, 10.314, 15.0, 21.627, 31.0]
    run("train", dataset, "--n-factors=32", "--alpha=0.05", "--reg=0.1", "--n-sweeps=5", "--output", model)
    run("evaluate", model, "--dataset", dataset, "--gains=graded", "--baselines=popularity", "--output", report)
    ndcg = ndcg_by_model(report)
    assert ndcg["model"] > ndcg["popularity"] + lead
    assert ndcg["model"] > floor


def test_string_ids_survive_from_the_raw_file_to_the_recommendation(real_data: Path, tmp_path: Path) -> None:
    lines = (real_data / "ml-latest-small" / "ratings.csv").read_text().splitlines()[1:]
    source = tmp_path / "ratings.csv"
    rows = [line.split(",") for line in lines]
    named = [f"user-{int(user):03},film:{item}/é,{rating},{time}" for user, item, rating, time in rows]
    source.write_text("userId,movieId,rating,timestamp\n" + "\n".join(named) + "\n", encoding="utf-8")
    dataset, model = tmp_path / "dataset", tmp_path / "model"
    run("ingest", source, *COLUMNS, "--split=random", "--seed=1", "--output", dataset)
    assert Dataset.open(dataset).item_ids.kind == "string"
    run("train", dataset, "--n-factors=16", "--n-sweeps=3", "--output", model)
    answer = json.loads(run("recommend", model, "--user", "user-007", "-k", "5", "--json").stdout)
    (listed,) = answer if isinstance(answer, list) else [answer]
    items = [entry if isinstance(entry, str) else entry["item_id"] for entry in listed["items"]]
    assert len(items) == 5
    known = {f"film:{item}/é" for _, item, _, _ in rows}
    seen = {f"film:{item}/é" for user, item, _, _ in rows if int(user) == 7}
    assert set(items) <= known
    kept = Dataset.open(dataset)
    row = kept.user_ids.row_of("user-007")
    trained_on = set(kept.item_ids.ids_of(kept.read_part("train").columns_of(row)))
    assert trained_on <= seen
    assert not trained_on & set(items)
