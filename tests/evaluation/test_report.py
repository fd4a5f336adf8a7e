import json
import math
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rgals.errors import DataError, FormatVersionError, InputError, OutputExistsError
from rgals.evaluation.evaluator import Evaluation, evaluate
from rgals.evaluation.per_user import per_user_path, write_per_user
from rgals.evaluation.protocol import EvaluationOptions
from rgals.evaluation.report import (
    SCHEMA_VERSION,
    Measurement,
    Report,
    check_report_path,
    headline_metric,
    read_report,
    write_report,
)
from tests.evaluation.problems import random_parts, whole_numbered, write_dataset

SCHEMA_1 = Path(__file__).parent / "reports" / "schema_1.json"
DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "report-schema.md"


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    dataset = write_dataset(tmp_path / "d", 20, 12, random_parts(20, 12, {"train": 0.3, "test": 0.2}))
    models = [whole_numbered(20, 12, name, seed) for seed, name in enumerate(("first", "second"))]
    return evaluate(models, dataset, EvaluationOptions(cutoffs=(3, 5), n_resamples=20))


def test_what_was_written_is_read_back(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(evaluation.report, tmp_path / "deep" / "report.json")
    assert read_report(tmp_path / "deep" / "report.json") == evaluation.report
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["report.json"]


def test_the_json_has_the_documented_shape(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(evaluation.report, tmp_path / "r.json")
    document = json.loads((tmp_path / "r.json").read_text())
    assert list(document) == [
        "schema_version", "kind", "created_at", "rgals_version", "metric", "dataset", "protocol", "models",
        "comparisons", "left_out", "sample_users", "titles", "provenance",
    ]  # fmt: skip
    assert [model["name"] for model in document["models"]] == ["first", "second"]
    measured = document["models"][0]["metrics"]["ndcg@3"]
    assert set(measured) == {"mean", "ci_low", "ci_high", "n_users"}
    assert document["models"][0]["train_s"] is None


def test_undefined_numbers_are_null_never_nan_or_zero(evaluation: Evaluation, tmp_path: Path) -> None:
    measured = Measurement(mean=math.nan, ci_low=math.inf, ci_high=None, n_users=0)
    assert measured.model_dump() == {"mean": None, "ci_low": None, "ci_high": None, "n_users": 0}
    section = evaluation.report.models[0].model_copy(update={"metrics": {"gini@3": measured}})
    write_report(evaluation.report.model_copy(update={"models": [section]}), tmp_path / "r.json")
    assert "NaN" not in (tmp_path / "r.json").read_text()


def test_a_folder_gets_a_report_json_and_a_json_name_is_the_file_itself(tmp_path: Path) -> None:
    assert check_report_path(tmp_path / "new", False) == tmp_path / "new" / "report.json"
    assert check_report_path(tmp_path, False) == tmp_path / "report.json"
    assert check_report_path(tmp_path / "x.json", False) == tmp_path / "x.json"


def test_an_existing_report_is_replaced_only_on_request(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        check_report_path(tmp_path, False)
    assert check_report_path(tmp_path, True) == tmp_path / "report.json"


def test_files_and_folders_in_the_way_and_remote_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    for name in ("file", "folder.json"):
        with pytest.raises(OutputExistsError, match="in the way"):
            check_report_path(tmp_path / name, True)
    with pytest.raises(InputError, match="local disks"):
        check_report_path("mock://bucket/report.json", False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "not a readable report"),
        ("{", "not a readable report"),
        ("[]", "not a readable report"),
        ("{}", "KeyError"),
        ('{"schema_version": 1}', "field rgals_version"),
    ],
)
def test_a_file_that_is_no_report_is_an_error_with_its_path(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "r.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_report(path)
    assert str(path) in str(caught.value)


def test_a_report_of_a_newer_schema_is_refused(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(evaluation.report.model_copy(update={"schema_version": SCHEMA_VERSION + 1}), tmp_path / "r.json")
    with pytest.raises(FormatVersionError, match=f"schema version {SCHEMA_VERSION + 1}"):
        read_report(tmp_path / "r.json")


def test_a_report_of_schema_1_is_read_and_can_be_written_as_one_of_today(tmp_path: Path) -> None:
    before = json.loads(SCHEMA_1.read_text())
    report = read_report(SCHEMA_1)
    assert before["schema_version"] == 1
    assert (report.schema_version, report.kind, report.metric) == (SCHEMA_VERSION, "evaluation", "ndcg@3")
    assert [model.label for model in report.models] == ["first", "second"]
    assert report.models[1].metrics["ndcg@3"].mean == before["models"][1]["metrics"]["ndcg@3"]["mean"]
    difference = report.comparisons[0].metrics["ndcg@3"]
    assert (difference.p_wilcoxon, difference.p_holm) == (None, None)
    assert (report.sample_users, report.provenance, report.models[0].user_buckets) == ([], None, [])
    write_report(report, tmp_path / "r.json")
    assert read_report(tmp_path / "r.json") == report


def test_a_broken_report_of_schema_1_is_refused(tmp_path: Path) -> None:
    document = json.loads(SCHEMA_1.read_text())
    del document["models"][0]["train_s"]
    (tmp_path / "r.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"field models\.0\.train_s"):
        read_report(tmp_path / "r.json")


def test_a_field_that_the_schema_does_not_know_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({**json.loads(SCHEMA_1.read_text()), "surprise": 1}))
    with pytest.raises(DataError, match="field surprise"):
        read_report(tmp_path / "r.json")


def test_the_headline_is_ndcg_at_20_or_at_the_first_cutoff() -> None:
    assert headline_metric((10, 20, 100)) == "ndcg@20"
    assert headline_metric((10, 5)) == "ndcg@10"


def test_a_failed_write_leaves_the_old_report(
    evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out" / "r.json"
    write_report(evaluation.report, path)
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DataError, match="No space left"):
        write_report(evaluation.report, path)
    assert path.read_bytes() == before
    assert [found.name for found in path.parent.iterdir()] == ["r.json"]


def test_every_field_is_documented() -> None:
    text = DOCUMENTATION.read_text()
    definitions = Report.model_json_schema()
    sections = [definitions, *definitions["$defs"].values()]
    fields = {name for section in sections for name in section.get("properties", {})}
    assert len(fields) > 30
    assert [name for name in sorted(fields) if f"`{name}`" not in text] == []


def test_per_user_values_have_the_means_of_the_report(evaluation: Evaluation, tmp_path: Path) -> None:
    dataset_ids = write_dataset(tmp_path / "again", 20, 12, {"train": [(0, 0)], "test": [(0, 1)]}).user_ids
    path = per_user_path(tmp_path / "report.json")
    write_per_user(evaluation, dataset_ids, path)
    table = pq.read_table(path)
    names = np.array(table["model"].to_pylist())
    assert table.num_rows == 2 * evaluation.users.n_users
    for section in evaluation.report.models:
        values = np.array(table["ndcg@5"])[names == section.name]
        assert values.mean() == pytest.approx(section.metrics["ndcg@5"].mean)
    rows = evaluation.users.user_rows
    assert table["user_id"].to_pylist()[: rows.size] == [f"u{row:05d}" for row in rows]
    assert table["n_held_out"].to_pylist()[: rows.size] == evaluation.users.held_out.degrees.tolist()
    assert table["n_seen"].to_pylist()[: rows.size] == evaluation.users.seen.degrees.tolist()


def test_per_user_values_stand_beside_their_report() -> None:
    assert per_user_path(Path("/x/report.json")) == Path("/x/per_user.parquet")
    assert per_user_path(Path("/x/gowalla.json")) == Path("/x/gowalla.per_user.parquet")
