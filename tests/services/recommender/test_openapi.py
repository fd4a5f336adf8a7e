"""The OpenAPI document is true: thousands of generated requests get answers that it describes."""

import re
import subprocess
import sys

import pytest

from services.recommender.app import create_app
from services.recommender.settings import Settings
from tests.artifact.model_factory import Parts
from tests.services.recommender.harness import publish_model, served, wait_until, write_keys
from tests.services.recommender.test_server import is_ready

N_CASES = 2000


def document(tmp_path, **settings) -> dict:
    Parts().write(tmp_path / "model")
    return create_app(Settings(model=str(tmp_path / "model"), **settings)).openapi()


def test_problems_and_keys_are_in_the_document(tmp_path):
    write_keys(tmp_path / "keys", a="read")
    found = document(tmp_path, api_keys_file=tmp_path / "keys")
    assert set(found["components"]["securitySchemes"]) == {"ApiKey", "Bearer"}
    for path, methods in found["paths"].items():
        for operation in methods.values():
            assert operation["summary"]
            needs_key = path.startswith("/v1/") or path == "/metrics"
            assert ("security" in operation) == needs_key
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == ["application/problem+json"], (path, status)


def test_every_operation_has_a_name_of_its_own(tmp_path):
    names = [each["operationId"] for methods in document(tmp_path)["paths"].values() for each in methods.values()]
    assert len(names) == len(set(names)) >= 14


def test_the_document_has_no_broken_references(tmp_path):
    found = document(tmp_path)
    names = set(re.findall(r"#/components/schemas/([A-Za-z]+)", str(found)))
    assert names <= set(found["components"]["schemas"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_generated_requests_get_the_answers_that_the_document_describes(tmp_path):
    """No 5xx, no undocumented status, nothing that does not fit its schema, over 2,000 cases and more."""
    publish_model(tmp_path / "registry", Parts(30, 40, 3, kind="int64", density=0.3).write(tmp_path / "m"))
    keys = write_keys(tmp_path / "keys", operator="admin")
    with served("--registry", str(tmp_path / "registry"), "--api-keys", str(tmp_path / "keys")) as service:
        wait_until(lambda: is_ready(service.url))
        found = subprocess.run(
            [
                sys.executable, "-m", "schemathesis.cli", "run", service.url + "/openapi.json",
                "--header", f"X-API-Key: {keys['operator']}", "--max-examples", "150", "--seed", "1",
                "--phases", "examples,coverage,fuzzing", "--checks", "all",
                "--generation-database", "none", "--no-color",
            ],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
    text = found.stdout + found.stderr
    assert found.returncode == 0, text[-6000:]
    (n_cases,) = re.findall(r"([0-9,]+) generated", text)
    assert int(n_cases.replace(",", "")) >= N_CASES, text[-2000:]
