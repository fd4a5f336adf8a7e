"""The evaluation job's numbers beside the served model: from a report that was attached, or from the gate."""

import pytest

from rgals.artifact.model import Model
from rgals.artifact.registry import rollback
from rgals.artifact.registry_reports import attach_report, read_attached
from rgals.errors import DataError, InputError
from rgals.evaluation.page import write_page
from rgals.evaluation.report import Report, write_report
from tests.artifact.model_factory import Parts
from tests.evaluation.page_reports import full_report
from tests.services.recommender.harness import publish_model, running


def report_of(model: Model, name: str = "rgx-weighted") -> Report:
    """Give a report whose model of that name is the given one."""
    report = full_report()
    for section in report.models:
        if section.name == name:
            section.options["factor_sha256"] = model.factor_checksum
    return report


@pytest.fixture
def published(tmp_path):
    model = Parts(kind="int64").write(tmp_path / "model")
    publish_model(tmp_path / "registry", model)
    return tmp_path / "registry", model


def test_without_a_report_there_is_what_the_gate_measured(published):
    registry, _ = published
    with running(registry=str(registry)) as client:
        found = client.get("/v1/reports/ndcg").json()
        assert (found["origin"], found["metric"], found["softmax"], found["has_page"]) == (
            "judgement",
            "ndcg@20",
            None,
            False,
        )
        assert found["model"]["mean"] == 0.2
        assert client.get("/v1/reports/latest").json()["type"] == "urn:rgals:no-report"


def test_an_attached_report_shows_the_model_beside_the_best_softmax(published, tmp_path):
    registry, model = published
    report = report_of(model)
    write_report(report, tmp_path / "r" / "report.json")
    write_page(report, tmp_path / "r" / "report.html")
    attach_report(registry, model, tmp_path / "r")
    with running(registry=str(registry)) as client:
        found = client.get("/v1/reports/ndcg").json()
        page = client.get("/v1/reports/latest")
    by_name = {section.name: section for section in report.models}
    assert found["origin"] == "report"
    assert found["model"]["mean"] == by_name["rgx-weighted"].metrics["ndcg@20"].mean
    assert found["softmax"]["mean"] == by_name["softmax-cosine"].metrics["ndcg@20"].mean
    assert found["softmax_train_s"] == by_name["softmax-cosine"].train_s
    (comparison,) = [each for each in report.comparisons if each.other == "softmax-cosine"]
    assert found["difference"]["mean"] == comparison.metrics["ndcg@20"].mean
    assert found["p_value"] == comparison.metrics["ndcg@20"].p_holm
    assert (found["n_users"], found["has_page"], found["created_at"]) == (29858, True, report.created_at)
    assert page.text == (tmp_path / "r" / "report.html").read_text()
    assert page.headers["content-type"].startswith("text/html")
    assert "sandbox" in page.headers["content-security-policy"]
    assert page.headers["x-model-version"] == "v00001"


def test_a_report_belongs_to_its_version_also_after_a_rollback(published, tmp_path):
    registry, model = published
    write_report(report_of(model), tmp_path / "report.json")
    attach_report(registry, model, tmp_path / "report.json")
    publish_model(registry, Parts(kind="int64", seed=3).write(tmp_path / "other"), value=0.3)
    with running(registry=str(registry)) as client:
        assert client.get("/v1/reports/ndcg").json()["origin"] == "judgement"
        rollback(registry)
        client.post("/v1/admin/reload")
        assert client.get("/v1/reports/ndcg").json()["origin"] == "report"
        assert client.get("/v1/model").json()["judgement"]["candidate"]["mean"] == 0.2


def test_a_model_that_the_report_does_not_compare_has_no_difference(published, tmp_path):
    registry, model = published
    write_report(report_of(model, "rg2"), tmp_path / "report.json")
    attach_report(registry, model, tmp_path / "report.json")
    with running(registry=str(registry)) as client:
        found = client.get("/v1/reports/ndcg").json()
    assert found["difference"] is None
    assert found["p_value"] is None
    assert found["softmax"] is not None


def test_a_report_of_another_model_is_not_attached(published, tmp_path):
    registry, model = published
    write_report(full_report(), tmp_path / "report.json")
    with pytest.raises(InputError, match="holds no model with the factor checksum"):
        attach_report(registry, model, tmp_path / "report.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match="not a readable report"):
        attach_report(registry, model, tmp_path / "broken.json")


def test_a_report_that_was_exchanged_is_an_error_without_a_path(published, tmp_path):
    registry, model = published
    write_report(report_of(model), tmp_path / "report.json")
    attach_report(registry, model, tmp_path / "report.json")
    (stored,) = (registry / "reports").glob("*/report.json")
    write_report(full_report(), stored)
    with pytest.raises(DataError, match="is not about this version"):
        read_attached(registry, stored.parent.name, model.factor_checksum)
    with running(registry=str(registry)) as client:
        answer = client.get("/v1/reports/ndcg")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:rgals:unavailable")
    assert str(tmp_path) not in answer.text


def test_a_model_folder_has_no_report(tmp_path):
    Parts().write(tmp_path / "model")
    with running(model=str(tmp_path / "model")) as client:
        assert client.get("/v1/reports/ndcg").json()["type"] == "urn:rgals:no-report"
        assert client.get("/v1/reports/latest").json()["type"] == "urn:rgals:no-report"
        assert client.get("/v1/admin/versions").json()["type"] == "urn:rgals:no-registry"
