"""``rgals demo``, at a size that takes a second."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from rgals.artifact.model import Model
from rgals.evaluation.pictures import draw_training

SMALL = ["--users=1500", "--items=600", "--interactions=45000"]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo") / "out"
    result = CliRunner().invoke(app, ["demo", "--output", str(folder), *SMALL], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_it_shows_each_step_as_a_command_and_says_what_came_out(shown: tuple[Path, str]) -> None:
    folder, output = shown
    for command in ("synthesize", "ingest", "train", "evaluate", "recommend"):
        assert f"$ rgals {command} " in output
    for name in ("model", "popularity", "ials"):
        assert name in output
    assert "demo.png" in output.replace("\n", "")
    assert folder.joinpath("demo.png").read_bytes().startswith(b"\x89PNG")


def test_its_model_is_trained_measured_and_beats_popularity(shown: tuple[Path, str]) -> None:
    folder, _ = shown
    report = json.loads((folder / "report.json").read_text())
    ndcg = {model["name"]: model["metrics"]["ndcg@20"]["mean"] for model in report["models"]}
    assert set(ndcg) == {"model", "popularity", "ials"}
    assert ndcg["model"] > ndcg["popularity"]
    assert Model.open(folder / "model").metrics["kept_sweep"] >= 1


def test_it_can_be_run_again_in_the_same_folder(shown: tuple[Path, str]) -> None:
    folder, _ = shown
    before = Model.open(folder / "model").factor_checksum
    result = CliRunner().invoke(app, ["demo", "--output", str(folder), *SMALL], catch_exceptions=False)
    assert result.exit_code == 0
    assert Model.open(folder / "model").factor_checksum == before


def test_a_picture_of_a_metric_that_was_not_measured_is_refused(shown: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = shown
    report = json.loads((folder / "report.json").read_text())
    metrics = Model.open(folder / "model").metrics
    with pytest.raises(ValueError, match="no 'ndcg@7'; it has ndcg@10"):
        draw_training(tmp_path / "picture.png", metrics, report, "ndcg@7")
    assert not list(tmp_path.iterdir())
