"""``rgals doctor``: lines for people, JSON for programs, an exit code for scripts."""

import json

import pytest
import typer
from typer.testing import CliRunner

from jobs import cli
from jobs import doctor as job
from rgals.execution.doctor import Finding

GOOD = Finding("memory", "ok", "8 GB available of 16 GB")
POOR = Finding("swap", "warning", "2 GB of 8 GB used [sic]", "take fewer factors")
BAD = Finding("Ray exposure", "problem", "the dashboard listens on 0.0.0.0:8265", "start it on 127.0.0.1")

app = typer.Typer()
app.command()(job.doctor)


def run(monkeypatch, findings, *arguments):
    asked = []
    monkeypatch.setattr(job, "examine", lambda **options: asked.append(options) or findings)
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert len(asked) == 1
    return found, asked[0]


@pytest.mark.parametrize(
    ("findings", "code", "last"),
    [
        ([GOOD], 0, "0 problems, 0 warnings"),
        ([GOOD, POOR], 0, "0 problems, 1 warning"),
        ([GOOD, POOR, BAD], 1, "1 problem, 1 warning"),
    ],
)
def test_only_a_problem_fails(monkeypatch, findings, code, last):
    found, _ = run(monkeypatch, findings)
    assert found.exit_code == code
    assert found.stdout.splitlines()[-1] == last


def test_each_finding_is_a_line_with_its_advice_below(monkeypatch):
    found, _ = run(monkeypatch, [GOOD, POOR])
    assert found.stdout.splitlines()[:3] == [
        "ok       memory  8 GB available of 16 GB",
        "warning  swap    2 GB of 8 GB used [sic]",
        "                 -> take fewer factors",
    ]


def test_json_holds_everything(monkeypatch):
    found, _ = run(monkeypatch, [GOOD, POOR, BAD], "--json")
    assert found.exit_code == 1
    document = json.loads(found.stdout)
    assert (document["n_problems"], document["n_warnings"]) == (1, 1)
    assert document["findings"][2] == {
        "name": "Ray exposure",
        "status": "problem",
        "found": "the dashboard listens on 0.0.0.0:8265",
        "advice": "start it on 127.0.0.1",
    }


def test_options_are_handed_over(monkeypatch):
    _, options = run(monkeypatch, [GOOD], "--address", "head:1", "--output", "s3://a/b", "--dataset", "d")
    assert options == {"address": "head:1", "output": "s3://a/b", "dataset": "d"}


def test_this_machine_is_looked_at(tmp_path):
    found = CliRunner().invoke(cli.app, ["doctor", "--json", "--output", str(tmp_path)])
    document = json.loads(found.stdout)
    assert found.exit_code == (1 if document["n_problems"] else 0)
    assert {"versions", "shared memory", "output"} <= {finding["name"] for finding in document["findings"]}
