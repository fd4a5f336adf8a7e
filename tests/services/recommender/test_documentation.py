"""docs/service.md: its examples run, its tables hold what there is."""

import re
import subprocess
from pathlib import Path

import pytest

from services.recommender.app import create_app
from services.recommender.metrics import Metrics
from services.recommender.settings import PREFIX, Settings
from tests.artifact.model_factory import Parts
from tests.services.recommender.harness import served, wait_until
from tests.services.recommender.test_server import is_ready

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "service.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    import pyarrow as pa

    from rgals.data.ids import IdDictionary

    folder = tmp_path_factory.mktemp("documentation") / "model"
    parts = Parts(60, 80, 3)
    parts.changes = {
        side + "_ids": IdDictionary.from_values(pa.array([f"{side[0]}{number:04d}" for number in range(1, count + 1)]))
        for side, count in (("user", 60), ("item", 80))
    }
    parts.write(folder)
    with served("--model", str(folder)) as service:
        wait_until(lambda: is_ready(service.url))
        yield service.url


def commands() -> list[str]:
    """Give the curl commands of the page; one goes on as long as its quotes are open."""
    found: list[str] = []
    for line in PAGE.splitlines():
        if line.startswith("    curl"):
            found.append(line.strip())
        elif found and found[-1].count("'") % 2:
            found[-1] += line.strip()
    return found


@pytest.mark.parametrize("command", commands())
def test_the_commands_of_the_page_are_answered(url, command):
    found = subprocess.run(command.replace(ADDRESS, url), shell=True, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert '"model_version"' in found.stdout
    assert '"problem":{' not in found.stdout


def test_there_are_commands_for_every_kind_of_request():
    assert len(commands()) == 5


def test_the_client_of_the_page_runs(url, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(compile(code.replace(ADDRESS, url), "service.md", "exec"), names)
    names["shop"]._client.close()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[-1] == "fold_in"


def test_every_path_is_on_the_page(tmp_path):
    Parts().write(tmp_path / "model")
    paths = create_app(Settings(model=str(tmp_path / "model"))).openapi()["paths"]
    for path, methods in paths.items():
        for method in methods:
            assert f"{method.upper()} {path}`" in PAGE, path


def test_every_setting_is_on_the_page_with_its_default():
    for name, field in Settings.model_fields.items():
        (row,) = re.findall(rf"^\| `{PREFIX}{name.upper()}` \| (.*) \| (.*) \|$", PAGE, re.MULTILINE)
        assert row[1] == ("none" if field.default in (None, ()) else str(field.default))
        assert row[0] == " ".join(str(field.description).split())


def test_every_metric_is_on_the_page():
    for name in re.findall(r"^# TYPE (\S+) ", Metrics().render()[0].decode(), re.MULTILINE):
        if not name.endswith("_created"):
            assert f"`{name}`" in PAGE, name
