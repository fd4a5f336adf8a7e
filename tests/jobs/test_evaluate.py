"""``rgals evaluate``: a model beside baselines, from the command line to the report."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from jobs import evaluate as job
from jobs import evaluate_baselines
from rgals.artifact.model import Model
from rgals.artifact.model_writer import write_model
from rgals.data.dataset import Dataset
from rgals.errors import InputError, OutputExistsError, RgalsError
from rgals.evaluation.report import read_report
from rgals.numerics.fold_in import UserSystem
from rgals.numerics.loss import Loss
from rgals.numerics.sparse import InteractionRows
from tests.evaluation.problems import Pairs, make_ids, random_parts, write_dataset

N_USERS, N_ITEMS = 40, 30
LOSS = Loss("rg2", alpha=1.0, reg=0.1)

app = typer.Typer()
app.command()(job.evaluate)


def planted_parts(names: dict[str, float]) -> dict[str, Pairs]:
    """Users like items of their own parity."""
    parts = random_parts(N_USERS, N_ITEMS, names, seed=4)
    return {name: [(u, i) for u, i in pairs if u % 2 == i % 2] for name, pairs in parts.items()}


def write_parity_model(
    path: Path,
    dataset: Dataset,
    fingerprint: str | None,
    *,
    first_item: int = 0,
    user_factors: Any = None,
    trained_on: Sequence[str] = ("train",),
) -> Model:
    """Score 1 for items of the user's parity and -1 for the others; the later items a little higher."""
    items = np.arange(first_item, N_ITEMS)
    item_factors = np.stack([np.where(items % 2 == 0, 1, -1), items / 100], axis=1).astype(np.float32)
    if user_factors is None:
        parity = np.where(np.arange(N_USERS) % 2 == 0, 1, -1)
        user_factors = np.stack([parity, np.ones(N_USERS)], axis=1).astype(np.float32)
    train = dataset.read_part("train")
    kept = train.columns >= first_item
    users = np.repeat(np.arange(N_USERS), train.degrees)[kept]
    seen = InteractionRows.from_pairs(users, train.columns[kept] - first_item, None, N_USERS, items.size)
    return write_model(
        path,
        user_factors=user_factors,
        item_factors=item_factors,
        user_ids=dataset.user_ids,
        item_ids=make_ids("i", items.size, first_item),
        seen=seen,
        loss=LOSS,
        weight_scale=1.0,
        item_degrees=np.bincount(seen.columns, minlength=items.size).astype(np.int64),
        config={"n_factors": 2},
        metrics={"train_s": 1.25},
        lineage={"dataset_fingerprint": fingerprint, "trained_on": list(trained_on)},
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("evaluate")
    parts = planted_parts({"train": 0.4, "validation": 0.1, "test": 0.2})
    dataset = write_dataset(folder / "dataset", N_USERS, N_ITEMS, parts)
    write_parity_model(folder / "parity", dataset, dataset.fingerprint)
    return folder / "parity", folder / "dataset"


def run(*arguments: object) -> Result:
    """Run the command in this process; its own exceptions are raised here."""
    if "--baselines" not in arguments:
        arguments = (*arguments, "--baselines", "none")
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(found.exception, RgalsError):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found


def test_the_report_and_the_table_hold_the_model_and_its_baselines(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, dataset = folders
    assert "[default: popularity,ials]" in " ".join(
        CliRunner().invoke(app, ["--help"], env={"COLUMNS": "300"}).output.split()
    )
    output = run(
        model, "--dataset", dataset, "--k", "3,5", "--output", tmp_path / "out", "--bootstrap", 50,
        "--baselines", "popularity,ials", "--ials-alpha", 5, "--ials-factors", 2,
    ).output  # fmt: skip
    report = read_report(tmp_path / "out" / "report.json")
    assert [section.name for section in report.models] == ["parity", "popularity", "ials"]
    assert report.models[0].train_s == 1.25
    assert report.models[0].options["factor_sha256"] == Model.open(model).factor_checksum
    assert report.models[2].options["alpha"] == 5
    assert report.protocol.cutoffs == [3, 5]
    ndcg = [section.metrics["ndcg@5"].mean for section in report.models]
    assert ndcg[0] is not None
    assert ndcg[1] is not None
    assert ndcg[0] > ndcg[1]
    assert f"{ndcg[0]:.4f}" in output
    assert "ndcg@5, parity minus popularity: +" in output
    assert "report.json" in output


def test_the_models_lists_are_judged_by_the_dataset(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, location = folders
    run(model, "-d", location, "-k", 4, "-o", tmp_path / "r.json", "--bootstrap", 0, "--per-user")
    dataset = Dataset.open(location)
    parts = {name: dataset.read_part(name) for name in ("train", "validation", "test")}  # type: ignore[arg-type]
    expected = []
    for user in np.flatnonzero(parts["test"].degrees):
        seen = {*parts["train"].columns_of(user).tolist(), *parts["validation"].columns_of(user).tolist()}
        order = sorted(range(N_ITEMS), key=lambda item: (item % 2 != user % 2, -item))
        ranked = [item for item in order if item not in seen][:4]
        expected.append(np.isin(ranked, parts["test"].columns_of(user)).sum() / 4)
    table = pq.read_table(tmp_path / "r.per_user.parquet")
    np.testing.assert_allclose(np.array(table["precision@4"]), expected)
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["models"][0]["metrics"]["precision@4"]["mean"] == pytest.approx(np.mean(expected))
    assert document["models"][0]["metrics"]["precision@4"]["ci_low"] is None


def test_a_page_stands_beside_the_report_when_asked_for(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, dataset = folders
    run(
        model,
        "-d",
        dataset,
        "-k",
        4,
        "-o",
        tmp_path / "r.json",
        "--bootstrap",
        0,
        "--baselines",
        "none",
        "--name",
        "mine",
    )
    assert not (tmp_path / "r.html").exists()
    arguments = ("-k", 4, "-o", tmp_path / "r.json", "--overwrite", "--baselines", "popularity", "--name", "mine")
    found = run(model, "-d", dataset, *arguments, "--page")
    page = (tmp_path / "r.html").read_text()
    assert "mine" in page
    assert page.startswith("<!DOCTYPE html>")
    assert "in-process, threads" in page  # where the numbers come from
    assert "r.html" in found.stdout


def test_softmax_baselines_have_their_defaults_and_say_so(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, dataset = folders
    options = ("-o", tmp_path / "r.json", "--bootstrap", 0, "--name", "mine", "--softmax-epochs", 3)
    found = run(model, "-d", dataset, *options, "--baselines", "softmax,softmax-cosine")
    _, dot, cosine = read_report(tmp_path / "r.json").models
    assert [(section.name, section.family) for section in (dot, cosine)] == [
        ("softmax", "softmax"),
        ("softmax-cosine", "softmax"),
    ]
    assert [section.options["scores"] for section in (dot, cosine)] == ["dot", "cosine"]
    assert [section.options["n_epochs"] for section in (dot, cosine)] == [3, 3]
    assert dot.options["n_factors"] == Model.open(model).n_factors
    assert "not tuned" in dot.notes[0]
    assert "softmax: fitted for 3 epochs with its defaults, not tuned" in found.stderr


def test_titles_of_a_table_are_shown_in_place_of_ids(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, dataset = folders
    (tmp_path / "items.csv").write_text("movie,name\n" + "".join(f"i{row:05d},Film {row}\n" for row in range(N_ITEMS)))
    arguments = (model, "-d", dataset, "-o", tmp_path / "r.json", "--bootstrap", 0, "--page")
    with pytest.raises(InputError, match="--title-columns"):
        run(*arguments, "--titles", tmp_path / "items.csv")
    assert not (tmp_path / "r.json").exists()
    found = run(*arguments, "--titles", tmp_path / "items.csv", "--title-columns", "movie,name")
    assert "--titles" not in found.stderr
    report = read_report(tmp_path / "r.json")
    shown = report.sample_users[0].lists["parity"][0].item_id
    assert report.titles[shown] == f"Film {int(shown.removeprefix('i'))}"
    assert f">{report.titles[shown]}</li>" in (tmp_path / "r.html").read_text()
    found = run(*arguments, "--titles", tmp_path / "items.csv", "--title-columns", "name,movie", "--overwrite")
    assert "rgals: warning: --titles: no item of the sample users is in column 'name'" in found.stderr


def test_files_beside_a_report_are_not_replaced_unasked(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, dataset = folders
    arguments = (model, "-d", dataset, "-o", tmp_path / "r.json", "--bootstrap", 0, "--baselines", "none")
    for name, option in (("r.html", "--page"), ("r.per_user.parquet", "--per-user")):
        (tmp_path / name).write_text("mine")
        with pytest.raises(OutputExistsError, match=f"{name}: exists already"):
            run(*arguments, option)
        assert (tmp_path / name).read_text() == "mine"
        assert not (tmp_path / "r.json").exists()
        (tmp_path / name).unlink()


def test_a_model_of_another_dataset_is_matched_by_id_with_a_warning(folders: tuple[Path, Path], tmp_path: Path) -> None:
    location = folders[1]
    write_parity_model(tmp_path / "other", Dataset.open(location), "0" * 64, first_item=6)
    found = run(tmp_path / "other", "-d", location, "-o", tmp_path / "r.json", "--bootstrap", 0, "--name", "mine")
    section = read_report(tmp_path / "r.json").models[0]
    assert section.name == "mine"
    assert section.n_items_unranked == 6
    assert "6 of 30 items" in section.notes[0]
    assert "rgals: warning: mine: trained on another dataset" in found.stderr


def test_held_out_users_are_folded_in_with_the_models_own_system(tmp_path: Path) -> None:
    parts = planted_parts({"test_fold_in": 0.3, "test": 0.3})
    parts = {name: [(u, i) for u, i in pairs if u >= 20] for name, pairs in parts.items()}
    parts["train"] = [(u, i) for u in range(20) for i in range(N_ITEMS) if (u + i) % 4 == 0]
    dataset = write_dataset(tmp_path / "d", N_USERS, N_ITEMS, parts)
    useless = np.zeros((N_USERS, 2), np.float32)
    model = write_parity_model(tmp_path / "m", dataset, dataset.fingerprint, user_factors=useless)
    run(
        tmp_path / "m",
        "-d",
        tmp_path / "d",
        "-k",
        5,
        "-o",
        tmp_path / "r.json",
        "--baselines",
        "popularity,random,ials",
    )
    report = read_report(tmp_path / "r.json")
    assert report.protocol.generalization == "strong"
    assert report.models[0].n_users_unranked == 0
    rows = dataset.read_part("test_fold_in").take(np.flatnonzero(dataset.read_part("test").degrees))
    degrees = np.bincount(dataset.read_part("train").columns, minlength=N_ITEMS).astype(np.int64)
    factors = UserSystem.build(np.ascontiguousarray(model.item_factors), LOSS, degrees).solve(rows)
    scores = factors @ model.item_factors.T
    for position in range(rows.n_rows):
        scores[position, rows.columns_of(position)] = -np.inf
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    truth = dataset.read_part("test").take(np.flatnonzero(dataset.read_part("test").degrees))
    hits = [np.isin(ranked[user], truth.columns_of(user)).any() for user in range(rows.n_rows)]
    assert report.models[0].metrics["hit_rate@5"].mean == pytest.approx(np.mean(hits))


def without_run(document: dict[str, Any]) -> dict[str, Any]:
    """Leave out times, and where the report comes from."""
    models = [
        {name: value for name, value in section.items() if name not in ("evaluate_s", "train_s")}
        for section in document["models"]
    ]
    kept = {name: value for name, value in document.items() if name not in ("created_at", "provenance")}
    return {**kept, "models": models}


def test_two_runs_give_the_same_numbers_on_any_number_of_threads(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, dataset = folders
    documents = []
    for threads in (1, 2):
        run(model, "-d", dataset, "-o", tmp_path / f"{threads}.json", "--threads", threads, "--baselines", "random")
        document = json.loads((tmp_path / f"{threads}.json").read_text())
        documents.append(without_run(document))
    assert documents[0] == documents[1]


def run_alone(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run the command as a program of its own, as a Ray job does."""
    command = [sys.executable, "-m", "jobs.evaluate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)


def test_the_report_from_ray_workers_is_that_of_one_process(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, dataset = folders
    options = (model, "-d", dataset, "--baselines", "popularity,ials", "--bootstrap", 20)
    run(*options, "-o", tmp_path / "here.json")
    on_ray = (*options, "-o", tmp_path / "ray.json", "--executor", "ray", "--workers", 2, "--worker-cpus", 1)
    found = run_alone(*on_ray)
    assert found.returncode == 0, found.stderr
    documents = [json.loads((tmp_path / name).read_text()) for name in ("here.json", "ray.json")]
    assert [document["provenance"]["executor"][:3] for document in documents] == ["in-", "ray"]
    again = shlex.split(documents[1]["provenance"]["command"])
    assert again == ["python", "-m", "jobs.evaluate", *map(str, on_ray)]
    documents = [without_run(document) for document in documents]
    assert documents[0]["models"][0]["metrics"]["ndcg@10"]["mean"] > 0
    assert documents[0] == documents[1]


def test_a_known_error_of_the_program_is_one_line_and_exit_code_one(tmp_path: Path) -> None:
    found = run_alone(tmp_path / "model", "-d", tmp_path / "d", "-o", tmp_path / "r.json")
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith("rgals: error: ")
    assert found.stderr.count("\n") == 1


def test_validation_can_be_evaluated_and_graded_gains_chosen(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, dataset = folders
    run(model, "-d", dataset, "-o", tmp_path / "r.json", "--part", "validation", "--gains", "graded", "--bootstrap", 0)
    protocol = read_report(tmp_path / "r.json").protocol
    assert (protocol.part, protocol.gains, protocol.seen_parts) == ("validation", "graded", ["train"])


def test_validation_items_can_be_left_in_the_lists_judged_on_test(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, dataset = folders
    run(model, "-d", dataset, "-o", tmp_path / "r.json", "--rank-validation", "--bootstrap", 0)
    assert read_report(tmp_path / "r.json").protocol.seen_parts == ["train"]


BOTH = ("train", "validation")


def test_baselines_are_fitted_on_the_validation_part_too_where_the_model_was(tmp_path: Path) -> None:
    # The last item is popular in the validation part alone, and the truth of those who have not seen it there.
    parts = {
        "train": [pair for pair in planted_parts({"train": 0.3})["train"] if pair[1] < N_ITEMS - 1],
        "validation": [(user, N_ITEMS - 1) for user in range(0, N_USERS, 2)],
        "test": [(user, N_ITEMS - 1) for user in range(1, N_USERS, 2)] + [(0, 1)],
    }
    dataset = write_dataset(tmp_path / "d", N_USERS, N_ITEMS, parts)
    hits = {}
    for trained_on in (("train",), BOTH):
        name = "-".join(trained_on)
        write_parity_model(tmp_path / name, dataset, dataset.fingerprint, trained_on=trained_on)
        options = ("-k", "1,5", "--bootstrap", 0, "--baselines", "popularity,random,ials", "--ials-factors", 2)
        run(tmp_path / name, "-d", tmp_path / "d", "-o", tmp_path / f"{name}.json", *options)
        report = read_report(tmp_path / f"{name}.json")
        assert [model.options["trained_on"] for model in report.models] == [list(trained_on)] * 4
        hits[trained_on] = report.models[1].metrics["hit_rate@1"].mean
        # What one model may not list, none may.
        assert report.protocol.seen_parts == list(BOTH)
        seen = {pair for part in BOTH for pair in parts[part]}
        for user in report.sample_users:
            row = int(user.user_id.removeprefix("u"))
            listed = {item.item_id for items in user.lists.values() for item in items}
            assert not listed & {f"i{item:05d}" for u, item in seen if u == row}
    assert hits == {("train",): 0.0, BOTH: pytest.approx(20 / 21)}


def test_a_model_that_was_trained_on_what_judges_it_has_a_note(folders: tuple[Path, Path], tmp_path: Path) -> None:
    dataset = Dataset.open(folders[1])
    write_parity_model(tmp_path / "m", dataset, dataset.fingerprint, trained_on=BOTH)
    options = ("-d", folders[1], "--bootstrap", 0, "--baselines", "popularity")
    found = run(tmp_path / "m", *options, "-o", tmp_path / "v.json", "--part", "validation")
    report = read_report(tmp_path / "v.json")
    assert "trained on the validation part too" in report.models[0].notes[0]
    assert report.models[1].options["trained_on"] == ["train"]
    assert "rgals: warning: m: trained on the validation part too" in found.stderr
    assert "validation part too" not in run(tmp_path / "m", *options, "-o", tmp_path / "t.json").stderr


def test_validation_items_are_not_ranked_for_a_model_trained_on_them(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    dataset = Dataset.open(folders[1])
    write_parity_model(tmp_path / "m", dataset, dataset.fingerprint, trained_on=BOTH)
    with pytest.raises(InputError, match="--rank-validation: the model was trained on the validation part"):
        run(tmp_path / "m", "-d", folders[1], "-o", tmp_path / "r.json", "--rank-validation")


def test_the_fits_of_baselines_show_how_far_they_are(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, list[tuple[int, int | None]]] = {}

    @contextmanager
    def record(description: str) -> Iterator[Callable[[int, int | None], None]]:
        steps = shown.setdefault(description, [])
        yield lambda done, total: steps.append((done, total))

    monkeypatch.setattr(evaluate_baselines, "progress_bar", record)
    options = ("--bootstrap", 0, "--baselines", "popularity,random,ials", "--ials-sweeps", 3)
    run(folders[0], "-d", folders[1], "-o", tmp_path / "r.json", *options)
    assert shown["fitting popularity"] == shown["fitting random"] == [(1, 1)]
    assert shown["fitting ials"] == [(1, 3), (2, 3), (3, 3)]


def test_users_without_factors_are_reported(folders: tuple[Path, Path], tmp_path: Path) -> None:
    dataset = Dataset.open(folders[1])
    zeros = np.zeros((N_USERS, 2), np.float32)
    write_parity_model(tmp_path / "m", dataset, dataset.fingerprint, user_factors=zeros)
    found = run(tmp_path / "m", "-d", folders[1], "-o", tmp_path / "r.json", "--bootstrap", 0, "--cold-users", "miss")
    section = read_report(tmp_path / "r.json").models[0]
    assert section.n_users_unranked == section.metrics["ndcg@10"].n_users
    assert section.metrics["gini@10"].mean is None
    assert "undefined" in found.output
    assert "they count as misses" in found.stderr


def test_an_existing_report_is_kept_unless_it_may_be_replaced(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, dataset = folders
    (tmp_path / "r.json").write_text("precious")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        run(model, "-d", dataset, "-o", tmp_path / "r.json")
    assert (tmp_path / "r.json").read_text() == "precious"
    run(model, "-d", dataset, "-o", tmp_path / "r.json", "--overwrite", "--bootstrap", 0)
    assert read_report(tmp_path / "r.json").models


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--k", "ten"), "--k: expected whole numbers"),
        (("--k", "0"), "--k: .*at least 1"),
        (("--part", "train"), "--part"),
        (("--gains", "cubic"), "--gains"),
        (("--bootstrap", "-1"), "--bootstrap"),
        (("--threads", "0"), "--threads"),
        (("--workers", "2"), "workers: only for executor ray"),
        (("--executor", "ray", "--threads", "2"), "threads: only for executor in-process"),
        (("--baselines", "popularity,bpr"), "--baselines: .* found 'bpr'"),
        (("--baselines", "ials", "--ials-reg", "-1"), "--ials-reg"),
        (("--baselines", "ials", "--ials-sweeps", "0"), "--ials-sweeps"),
        (("--baselines", "ials", "--ials-factors", "-3"), "--ials-factors"),
        (("--baselines", "popularity", "--name", "popularity"), "--name"),
    ],
)
def test_wrong_options_are_refused_in_the_words_of_the_command_line(
    folders: tuple[Path, Path], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(folders[0], "-d", folders[1], "-o", tmp_path / "r.json", *arguments)
    assert list(tmp_path.iterdir()) == []
