import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from jobs.similar import similar
from rgals.artifact.model import Model
from rgals.errors import InputError, UnknownIdError
from tests.artifact.model_factory import Parts, ids_of

APP = typer.Typer()
APP.command("similar")(similar)


@pytest.fixture(scope="module", params=["string", "int64"])
def model(request, tmp_path_factory) -> Model:
    return Parts(5, 12, 3, kind=request.param).write(tmp_path_factory.mktemp("cli") / "model")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(APP, [str(argument) for argument in arguments], env={"COLUMNS": "120"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_similar_items_are_shown_in_a_table(model):
    item = ids_of(model.item_ids)[2]
    output = run(model.location, "--item", item, "-k", 4)
    answer = model.similar_items(item, 4)
    assert f"Items like {item}" in output
    lines = output.splitlines()
    for neighbor, score in zip(answer.neighbors, answer.scores, strict=True):
        assert any(str(neighbor) in line and f"{score:.4f}" in line for line in lines)


def test_similar_items_are_printed_as_json(model):
    item = ids_of(model.item_ids)[2]
    document = json.loads(run(model.location, "--item", item, "-k", 4, "--json"))
    answer = model.similar_items(item, 4)
    assert (document["item_id"], document["exhausted"]) == (item, answer.exhausted)
    assert [entry["item_id"] for entry in document["items"]] == answer.neighbors
    assert [entry["score"] for entry in document["items"]] == answer.scores
    assert [entry["rank"] for entry in document["items"]] == [1, 2, 3, 4]


def test_a_list_that_ends_early_says_so(model):
    item = ids_of(model.item_ids)[2]
    answer = model.similar_items(item, 12)
    assert f"No more than {len(answer.neighbors)} items" in run(model.location, "--item", item, "-k", 12)


def test_an_unknown_item_and_a_bad_length_are_refused(model):
    with pytest.raises(UnknownIdError):
        run(model.location, "--item", "nothing")
    with pytest.raises(InputError, match="k: expected an integer from 1 to 12"):
        run(model.location, "--item", ids_of(model.item_ids)[0], "-k", 13)


def test_an_unknown_item_exits_with_one(tmp_path):
    Parts(kind="int64").write(tmp_path / "model")
    code = (
        "from jobs import cli, similar; "
        "cli.app.command('similar')(similar.similar); cli.app.command('other')(lambda: None); cli.main()"
    )
    command = [sys.executable, "-c", code, "similar", str(tmp_path / "model"), "--item"]
    known = subprocess.run([*command, "15"], capture_output=True, text=True, check=False)
    assert (known.returncode, known.stderr) == (0, "")
    unknown = subprocess.run([*command, "16"], capture_output=True, text=True, check=False)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("rgals: error: ")
