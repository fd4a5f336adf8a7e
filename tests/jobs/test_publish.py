"""``rgals publish``, ``rgals versions`` and ``rgals rollback``, from the command line to the registry."""

import json
import re

import pytest
from typer.testing import CliRunner

from jobs import cli
from rgals.artifact.registry import list_versions, read_current, read_history
from rgals.artifact.registry_index import read_index_record
from rgals.artifact.registry_reports import read_attached, read_attached_page
from rgals.errors import InputError, OutputExistsError, RgalsError
from tests.artifact.registry_problems import planted_dataset, write_noisy_model

AT_5 = ("--metric", "ndcg@5", "--bootstrap", "100")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Make a dataset, and a good, a fair and a useless model."""
    folder = tmp_path_factory.mktemp("publish")
    dataset = planted_dataset(folder / "dataset")
    for name, noise in {"good": 0.0, "fair": 1.2, "useless": 30.0}.items():
        write_noisy_model(folder / name, dataset, noise)
    return folder


def run(*arguments, exit_code=0):
    """Run a command in this process; its own errors are raised here."""
    found = CliRunner().invoke(cli.app, [str(argument) for argument in arguments], env={"COLUMNS": "80"})
    if isinstance(found.exception, RgalsError):
        raise found.exception
    assert found.exit_code == exit_code, found.output
    return found


def publish(places, name, registry, *options, exit_code=0):
    return run("publish", places / name, registry, "-d", places / "dataset", *AT_5, *options, exit_code=exit_code)


def rows_of(text):
    """Give the cells of a printed table, line by line."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def test_a_better_model_takes_the_place_of_the_current_one(places, tmp_path):
    first = publish(places, "fair", tmp_path / "r").stdout
    assert "Published v00001\n" in first
    assert [row[0] for row in rows_of(first)] == ["candidate", "popularity"]
    second = publish(places, "good", tmp_path / "r").stdout
    assert "Published v00002 in place of v00001\n" in second
    rows = rows_of(second)
    assert [row[0] for row in rows] == ["candidate", "v00001", "popularity"]
    assert all(re.fullmatch(r"0\.\d{4} \[0\.\d{4}, 0\.\d{4}\]", row[1]) for row in rows)
    assert all(re.fullmatch(r"\+0\.\d{4} \[[+-]0\.\d{4}, \+0\.\d{4}\]", row[2]) for row in rows[1:])
    judgement = read_current(tmp_path / "r").event.judgement
    assert rows[0][1].startswith(f"{judgement.candidate.mean:.4f} [{judgement.candidate.ci_low:.4f}")
    assert rows[1][2].startswith(f"{judgement.over_current.mean:+.4f} [{judgement.over_current.ci_low:+.4f}")


def test_a_worse_model_is_refused_with_exit_code_1_a_reason_and_a_record(places, tmp_path):
    publish(places, "good", tmp_path / "r")
    found = publish(places, "fair", tmp_path / "r", exit_code=1)
    assert re.search(r"rgals: refused: ndcg@5 0\.\d{4} against 0\.\d{4} of v00001: the difference is -0", found.stderr)
    assert "v00001 stays current; train a better model, allow a wider --margin, or publish with --force" in found.stderr
    assert "Published" not in found.stdout
    assert read_current(tmp_path / "r").version == "v00001"
    assert [event.action for event in read_history(tmp_path / "r")] == ["publish", "refused"]


def test_a_first_model_below_popularity_is_refused(places, tmp_path):
    found = publish(places, "useless", tmp_path / "r", exit_code=1)
    assert "is not above popularity's" in found.stderr
    assert "nothing is published; train a better model" in found.stderr


def test_force_publishes_and_says_in_spite_of_what(places, tmp_path):
    publish(places, "good", tmp_path / "r")
    found = publish(places, "fair", tmp_path / "r", "--force")
    assert "rgals: warning: published by --force although ndcg@5" in found.stderr
    event = read_current(tmp_path / "r").event
    assert (event.version, event.is_forced) == ("v00002", True)
    assert event.judgement.over_current.mean < 0


@pytest.mark.parametrize(("margin", "amount"), [("0.9", 0.9), ("90%", None)])
def test_a_margin_is_an_amount_or_a_share_of_the_current_versions_mean(places, tmp_path, margin, amount):
    publish(places, "good", tmp_path / "r")
    publish(places, "fair", tmp_path / "r", "--margin", margin)
    judgement = read_current(tmp_path / "r").event.judgement
    assert judgement.margin == pytest.approx(amount or 0.9 * judgement.current.mean)
    assert not read_current(tmp_path / "r").event.is_forced


def test_old_versions_are_deleted_on_demand(places, tmp_path):
    for _ in range(3):
        publish(places, "good", tmp_path / "r")
    assert "Deleted v00001, v00002\n" in publish(places, "good", tmp_path / "r", "--keep", 2).stdout
    assert [version.name for version in list_versions(tmp_path / "r")] == ["v00003", "v00004"]


def test_a_report_of_the_model_is_attached_to_its_version(places, tmp_path):
    options = ("-d", places / "dataset", "--baselines", "popularity,softmax", "--softmax-epochs", 2, "--bootstrap", 100)
    run("evaluate", places / "good", *options, "-o", tmp_path / "report", "--page", "-k", "5")
    publish(places, "good", tmp_path / "r", "--report", tmp_path / "report")
    current = read_current(tmp_path / "r")
    checksum = current.open().factor_checksum
    attached = read_attached(tmp_path / "r", current.manifest_sha256, checksum)
    assert attached.section.name == "good"
    assert [section.family for section in attached.report.models] == ["other", "trivial", "softmax"]
    assert attached.has_page
    page = read_attached_page(tmp_path / "r", current.manifest_sha256)
    assert page == (tmp_path / "report" / "report.html").read_bytes()


def test_an_index_is_attached_if_it_finds_enough(places, tmp_path):
    found = publish(places, "good", tmp_path / "r", "--index", "--index-recall", "0.2")
    assert re.search(
        r"Attached an index of \d+ MB, which finds \d+\.\d\d% of the items of \d+ exact lists", found.stdout
    )
    record = read_index_record(tmp_path / "r", read_current(tmp_path / "r").manifest_sha256)
    assert record.options.gate == 0.2
    assert record.is_passed


def test_a_share_that_is_none_is_refused_before_anything_is_measured(places, tmp_path):
    with pytest.raises(InputError, match="--index-recall"):
        publish(places, "good", tmp_path / "r", "--index", "--index-recall", "1.5")
    assert not (tmp_path / "r").exists()


def test_a_report_of_another_model_stops_the_publication(places, tmp_path):
    options = ("-d", places / "dataset", "--baselines", "none", "--bootstrap", 0)
    run("evaluate", places / "fair", *options, "-o", tmp_path / "report.json", "-k", "5")
    with pytest.raises(InputError, match="holds no model with the factor checksum"):
        publish(places, "good", tmp_path / "r", "--report", tmp_path / "report.json")
    assert not (tmp_path / "r").exists()


def test_the_versions_are_listed_with_their_numbers_and_the_current_one_is_marked(places, tmp_path):
    publish(places, "good", tmp_path / "r")
    publish(places, "fair", tmp_path / "r", "--force")
    run("rollback", tmp_path / "r")
    table = run("versions", tmp_path / "r").stdout
    assert max(map(len, table.splitlines())) <= 80
    versions = list_versions(tmp_path / "r")
    event = versions[0].event
    judgement, estimate = event.judgement, event.judgement.candidate
    trained_on = event.model.dataset_fingerprint[:8]
    assert rows_of(table)[:2] == [
        ["v00001", event.at[:10], f"ndcg@5 {estimate.mean:.4f}", "", "rg2 3", trained_on],
        [
            "current",
            event.at[11:19],
            f"{estimate.ci_low:.4f} to {estimate.ci_high:.4f}",
            "",
            event.model.factor_sha256[:8],
            judgement.dataset_fingerprint[:8],
        ],
    ]
    assert [row[0] for row in rows_of(table)[2:]] == ["v00002", "forced"]
    assert rows_of(table)[2][3] == "v00001"
    records = json.loads(run("versions", tmp_path / "r", "--json").stdout)
    assert [(record["version"], record["is_current"]) for record in records] == [("v00001", True), ("v00002", False)]
    assert records[1]["event"]["is_forced"] is True
    assert records[1]["event"]["judgement"]["reasons"]


def test_the_history_shows_every_event_with_its_objections(places, tmp_path):
    publish(places, "good", tmp_path / "r")
    publish(places, "fair", tmp_path / "r", exit_code=1)
    publish(places, "fair", tmp_path / "r", "--force")
    run("rollback", tmp_path / "r")
    lines = run("versions", tmp_path / "r", "--history").stdout.splitlines()
    events = [line.split("  ") for line in lines if not line.startswith(" ")]
    assert [words[1:4] for words in events] == [
        ["publish", "v00001", events[0][3]],
        ["refused", "after v00001", events[1][3]],
        ["publish", "v00002", "forced"],
        ["rollback", "v00001", "after v00002"],
    ]
    assert sum("against" in line for line in lines if line.startswith("    ")) == 2
    records = json.loads(run("versions", tmp_path / "r", "--history", "--json").stdout)
    assert [record["action"] for record in records] == ["publish", "refused", "publish", "rollback"]


def test_a_rollback_says_what_is_current(places, tmp_path):
    publish(places, "good", tmp_path / "r")
    publish(places, "good", tmp_path / "r")
    publish(places, "good", tmp_path / "r")
    assert run("rollback", tmp_path / "r").stdout == "v00002 is current, in place of v00003\n"
    assert run("rollback", tmp_path / "r", "--to", "v00001").stdout == "v00001 is current, in place of v00002\n"
    with pytest.raises(InputError, match="no version v00009"):
        run("rollback", tmp_path / "r", "--to", "v00009")


def test_the_command_is_recorded_without_credentials(places, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["rgals", "publish", "s3://key:secret@bucket/model", "r"])
    publish(places, "good", tmp_path / "r")
    assert read_current(tmp_path / "r").event.command == "rgals publish s3://***@bucket/model r"


def test_remarks_about_the_alignment_are_shown(places, tmp_path):
    dataset = planted_dataset(tmp_path / "dataset", test=[(0, 2), (0, 4), (1, 3), (2, 6), (3, 9)])
    write_noisy_model(tmp_path / "other", dataset, 0.0, first_item=2, fingerprint="0" * 64)
    found = run(
        "publish", tmp_path / "other", tmp_path / "r", "-d", tmp_path / "dataset", "--bootstrap", 100, "--force"
    )
    assert "rgals: warning: candidate: trained on another dataset" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metric", "ndcg"), "--metric: .*expected a metric and its cutoff.*found 'ndcg'"),
        (("--part", "train"), "--part: .*found 'train'"),
        (("--gains", "cubic"), "--gains"),
        (("--margin", "much"), "--margin: expected an amount such as 0.001, .*found 'much'"),
        (("--margin=-0.1",), "--margin: .*greater than or equal to 0"),
        (("--margin", "nan"), "--margin"),
        (("--bootstrap", "5"), "--bootstrap: .*100.*found 5"),
        (("--seed", "-1"), "--seed"),
        (("--keep", "1"), "keep: expected at least 2"),
        (("--threads", "0"), "--threads: expected at least 1"),
    ],
)
def test_wrong_options_are_refused_in_the_words_of_the_command_line(places, tmp_path, arguments, message):
    command = ("publish", places / "good", tmp_path / "r", "-d", places / "dataset", *arguments)
    with pytest.raises(InputError, match=message):
        run(*command)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_not_a_registry_is_refused(places, tmp_path):
    (tmp_path / "precious").write_text("")
    with pytest.raises(InputError, match="holds precious but no registry") as refused:
        publish(places, "good", tmp_path)
    assert not isinstance(refused.value, OutputExistsError)
