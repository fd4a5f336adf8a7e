import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from jobs import recommend as job
from jobs.recommend import recommend
from rgals.artifact.model import Model
from rgals.data.ids import IdDictionary
from rgals.errors import InputError, RgalsError, UnknownIdError
from tests.artifact.model_factory import Parts, ids_of

APP = typer.Typer()
APP.command("recommend")(recommend)


@pytest.fixture(scope="module", params=["string", "int64"])
def model(request, tmp_path_factory) -> Model:
    parts = Parts(9, 12, 3, kind=request.param, empty_users=(4,))
    return parts.write(tmp_path_factory.mktemp("cli") / "model")


def run(*arguments: object) -> str:
    """Run the command in this process; its known errors are raised, as `jobs.cli.main` sees them."""
    result = CliRunner().invoke(APP, [str(argument) for argument in arguments], env={"COLUMNS": "120"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def run_json(*arguments: object) -> list[dict[str, object]]:
    return json.loads(run(*arguments, "--json"))


def run_process(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run the command as a program of its own."""
    code = (
        "import sys; from jobs import cli, recommend; "
        "cli.app.command('recommend')(recommend.recommend); cli.app.command('other')(lambda: None); cli.main()"
    )
    command = [sys.executable, "-c", code, "recommend", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "120"})


def answer_of(answer) -> list[tuple[int, object, float]]:
    return [(n, item, score) for n, (item, score) in enumerate(zip(answer.items, answer.scores, strict=True), 1)]


def items_of(document: dict) -> list[tuple[int, object, float]]:
    return [(entry["rank"], entry["item_id"], entry["score"]) for entry in document["items"]]


def test_a_user_gets_a_table_of_ranked_items(model):
    user = ids_of(model.user_ids)[0]
    output = run(model.location, "--user", user, "-k", 4)
    (answer,) = model.recommend([user], 4)
    assert f"For user {user}, by factors" in output
    for rank, item, score in answer_of(answer):
        assert any(str(rank) in line and str(item) in line and f"{score:.4f}" in line for line in output.splitlines())


def test_ids_typed_as_text_are_found_whatever_their_type(model):
    users = ids_of(model.user_ids)
    documents = run_json(model.location, "--user", users[1], "--user", users[0], "-k", 3)
    assert [document["user_id"] for document in documents] == [users[1], users[0]]
    for document, answer in zip(documents, model.recommend([users[1], users[0]], 3), strict=True):
        assert items_of(document) == answer_of(answer)
        assert (document["source"], document["exhausted"]) == ("factors", False)


def test_seen_items_are_kept_and_items_excluded_on_request(model):
    user, item = ids_of(model.user_ids)[0], ids_of(model.item_ids)[0]
    (document,) = run_json(model.location, "--user", user, "-k", 12, "--include-seen", "--exclude", item)
    assert items_of(document) == answer_of(model.recommend([user], 12, exclude_seen=False, exclude=[item])[0])
    assert (len(document["items"]), document["exhausted"]) == (11, True)
    assert "No more than 11 items are left" in run(
        model.location, "--user", user, "-k", 12, "--include-seen", "--exclude", item
    )


def test_a_user_without_training_interactions_is_labeled_popular(model):
    user = ids_of(model.user_ids)[4]
    assert f"For user {user}, by popular" in run(model.location, "--user", user)


def test_an_unknown_user_is_an_error_or_popular(model):
    with pytest.raises(UnknownIdError, match="nobody"):
        run(model.location, "--user", "nobody")
    (document,) = run_json(model.location, "--user", "nobody", "--fallback", "popular")
    assert (document["user_id"], document["source"]) == ("nobody", "popular")
    with pytest.raises(InputError, match="--fallback: expected 'none' or 'popular', found 'random'"):
        run(model.location, "--user", "nobody", "--fallback", "random")


def test_a_history_is_solved_by_fold_in(model):
    first, second, *_ = ids_of(model.item_ids)
    (document,) = run_json(model.location, "--history", f"{first}:2.5", "--history", second, "-k", 3)
    answer = model.recommend_history({first: 2.5, second: 1.0}, 3)
    assert (document["source"], document["user_id"]) == ("fold_in", None)
    assert items_of(document) == answer_of(answer)
    assert "by fold-in" in run(model.location, "--history", first)


def test_an_item_whose_id_looks_like_a_weight_is_taken_whole(tmp_path):
    item_ids = IdDictionary.from_values(pa.array(["a", "a:2", "b", "c:x"]))
    model = Parts(3, 4, 2, changes={"item_ids": item_ids}).write(tmp_path / "model")
    assert job._parse_history(model, ["a:2", "b:2", "c:x", "a:3"]) == {"a:2": 1.0, "b": 2.0, "c:x": 1.0, "a": 3.0}
    with pytest.raises(InputError, match="item 'b' is given twice"):
        job._parse_history(model, ["b:2", "b"])


def test_items_that_are_not_in_the_model_are_named(model):
    user = ids_of(model.user_ids)[0]
    result = CliRunner().invoke(APP, [model.location, "--user", str(user), "--exclude", "gone"])
    assert "the model does not hold these items, they had no effect: gone" in result.output
    (document,) = run_json(model.location, "--user", user, "--exclude", "gone")
    assert document["unknown_items"] == ["gone"]


def test_all_users_are_written_to_a_file(model, tmp_path):
    output = tmp_path / "lists.parquet"
    printed = run(model.location, "--all", "--output", output, "-k", 3, "--memory-budget", "4KiB")
    table = pq.read_table(output)
    assert table["user_id"].unique().to_pylist() == ids_of(model.user_ids)
    assert f"{table.num_rows}" in printed
    assert "lists by popularity" in printed
    (answer,) = model.recommend([ids_of(model.user_ids)[0]], 3)
    assert table.slice(0, 3)["item_id"].to_pylist() == answer.items
    with pytest.raises(RgalsError, match="exists already"):
        run(model.location, "--all", "--output", output)
    run(model.location, "--all", "--output", output, "-k", 5, "--overwrite", "--include-seen")
    assert pq.read_table(output).num_rows == 5 * model.n_users


def test_the_file_of_all_users_is_the_same_from_ray_workers_and_any_number_of_threads(tmp_path):
    model = Parts(9, 12, 3, empty_users=(4,)).write(tmp_path / "model")
    for threads in (1, 2):
        run(model.location, "--all", "-k", 3, "--output", tmp_path / str(threads), "--threads", threads)
    options = ["--all", "-k", "3", "--output", "ray", "--executor", "ray", "--workers", "2", "--worker-cpus", "1"]
    command = [sys.executable, "-m", "jobs.recommend", model.location, *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ)
    assert result.returncode == 0, result.stderr
    assert len({(tmp_path / name).read_bytes() for name in ("1", "2", "ray")}) == 1


def test_an_output_in_the_way_is_found_before_a_cluster_is_asked(model, tmp_path):
    (tmp_path / "x.parquet").write_text("PAR1")
    with pytest.raises(RgalsError, match="exists already"):
        run(
            model.location, "--all", "--output", tmp_path / "x.parquet",
            "--executor", "ray", "--address", "127.0.0.1:1",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one of --user, --history and --all, found none of them"),
        (["--user", "a", "--all"], "found --user and --all"),
        (["--user", "a", "--history", "b"], "found --user and --history"),
        (["--all"], "--all needs --output"),
        (["--user", "a", "--output", "x.parquet"], "--output needs --all"),
        (["--all", "--output", "x.parquet", "--json"], "--fallback and --json do not apply"),
        (["--all", "--output", "x.parquet", "--fallback", "popular"], "--fallback and --json do not apply"),
        (["--all", "--output", "x.parquet", "--memory-budget", "much"], "expected a size such as 500MB or 1GiB"),
        (["--all", "--output", "x.parquet", "--memory-budget", "1"], "do not hold the list of one user"),
        (["--user", "a", "--executor", "ray"], "--worker-cpus need --all; leave them out"),
        (["--history", "a", "--threads", "2"], "--worker-cpus need --all; leave them out"),
        (["--all", "--output", "x.parquet", "--workers", "2"], "workers: only for executor ray"),
        (["--all", "--output", "x.parquet", "--executor", "dask"], "expected in-process or ray, found 'dask'"),
        (["--user", "a", "-k", "0"], "k: expected an integer from 1 to 12"),
    ],
)
def test_options_that_do_not_go_together_are_refused(model, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        run(model.location, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("1024", 1024), ("500MB", 500 * 10**6), ("1GiB", 1 << 30), ("1.5 kib", 1536), ("2T", 2 * 10**12), ("3 B", 3)],
)
def test_sizes_are_read_in_powers_of_1000_and_of_1024(text, n_bytes):
    assert job._parse_size(text) == n_bytes


def test_markup_in_an_id_is_printed_as_it_is(tmp_path):
    changes = {
        "user_ids": IdDictionary.from_values(pa.array(["[bold]u", "v"])),
        "item_ids": IdDictionary.from_values(pa.array(["[red]i", "j"])),
    }
    Parts(2, 2, 2, density=0.0, changes=changes).write(tmp_path / "model")
    output = run(tmp_path / "model", "--user", "[bold]u", "-k", 2)
    assert "[bold]u" in output
    assert "[red]i" in output


def test_the_program_prints_a_table_and_exits_with_zero(tmp_path):
    Parts(kind="int64").write(tmp_path / "model")
    result = run_process(tmp_path / "model", "--user", "15")
    assert (result.returncode, result.stderr) == (0, "")
    assert "For user 15, by factors" in result.stdout


@pytest.mark.parametrize("damage", ["missing", "corrupted", "newer", "unknown user"])
def test_known_errors_exit_with_one_and_a_single_line(tmp_path, damage):
    folder = tmp_path / "model"
    Parts(kind="int64").write(folder)
    arguments: list[object] = [folder, "--user", "15"]
    if damage == "missing":
        arguments[0] = tmp_path / "elsewhere"
    elif damage == "corrupted":
        path = folder / "item_factors.npy"
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    elif damage == "newer":
        manifest = folder / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 2'))
    else:
        arguments[2] = "16"
    result = run_process(*arguments)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("rgals: error: ")
    assert "Traceback" not in result.stderr
    expected = {
        "missing": "not a finished rgals model",
        "corrupted": "item_factors.npy: expected SHA-256",
        "newer": "upgrade rgals",
        "unknown user": "user '16'",
    }
    assert expected[damage] in result.stderr


def test_help_names_every_option():
    output = CliRunner().invoke(APP, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    for option in ("--user", "--history", "--all", "--output", "--exclude", "--include-seen", "--fallback", "--json"):
        assert option in output
    for option in ("--executor", "--address", "--workers", "--worker-cpus", "--threads"):
        assert option in output
    assert Path(job.__file__).name == "recommend.py"
