"""``rgals ingest`` on the command line."""

import os
import signal

import pytest
import typer
from typer.testing import CliRunner

from jobs import ingest as command
from rgals.data.dataset import Dataset
from rgals.errors import InputError, OutputExistsError
from rgals.execution import ExecutorOptions, InProcessExecutor

ROWS = ["user,item,stars,when", *(f"u{n % 5},i{n % 7},{n % 5 + 1},2020-01-{n + 1:02}" for n in range(30))]
COLUMNS = ("--user-column", "user", "--item-column", "item")


@pytest.fixture
def events(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text("\n".join(ROWS))
    return path


def run(*arguments):
    app = typer.Typer()
    app.command()(command.ingest)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def error_of(*arguments):
    result = run(*arguments)
    assert result.exit_code != 0
    return result.exception


def test_the_summary_names_counts_parts_and_ledger(events, tmp_path):
    result = run(events, "-o", tmp_path / "d", *COLUMNS, "--rating-column", "stars", "--minimum-rating", 2)
    assert result.exit_code == 0, result.output
    for line in (
        "users",
        "4 (string ids)",
        "interactions in train",
        "rows read",
        "below the minimum rating",
        "Next: rgals train",
    ):
        assert line in result.stdout
    assert f"{Dataset.open(tmp_path / 'd').manifest.ledger.read}" in result.stdout
    assert Dataset.open(tmp_path / "d").manifest.ledger.dropped == {"below the minimum rating": 6}


def test_every_option_reaches_the_dataset(events, tmp_path):
    result = run(
        events, "--output", tmp_path / "d", *COLUMNS, "--weight-column", "stars", "--time-column", "when",
        "--time-unit", "ms", "--format", "csv", "--delimiter", ",", "--id-type", "string",
        "--grades", "2,4,5", "--weight-from-rating", "gain", "--duplicates", "last", "--k-core", 2, "--item-core", 3,
        "--reject-limit", 0.1, "--split", "leave-last",
        "--n-test", 2, "--n-validation", 1, "--seed", 9, "--shards", 3,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    manifest = Dataset.open(tmp_path / "d").manifest
    assert manifest.options == {
        "user_column": "user",
        "item_column": "item",
        "weight_column": "stars",
        "time_column": "when",
        "time_unit": "ms",
        "format": "csv",
        "delimiter": ",",
        "csv_columns": None,
        "id_type": "string",
        "minimum_rating": None,
        "grades": [2.0, 4.0, 5.0],
        "weight_from_rating": "gain",
        "duplicates": "last",
        "user_core": 2,
        "item_core": 3,
        "seed": 9,
        "n_shards": 3,
        "reject_limit": 0.1,
    }
    assert (manifest.split.kind, manifest.split.n_test, manifest.split.n_validation) == ("leave-last", 2, 1)


def test_held_out_users_are_a_number_or_a_fraction(events, tmp_path):
    for text, expected in (("2", 2), ("0.4", 0.4)):
        arguments = (events, "-o", tmp_path / text, *COLUMNS, "--split", "held-out-users", "--test-users", text)
        assert run(*arguments).exit_code == 0
        assert Dataset.open(tmp_path / text).manifest.split.test_users == expected


def test_train_and_test_files_make_an_official_split(events, tmp_path):
    test = tmp_path / "test.tsv"
    test.write_text("u1\ti0\nu1\tnew\n")
    train = tmp_path / "train.tsv"
    train.write_text("u1\ti0\nu2\ti1\n")
    arguments = ("--train", train, "--test", test, "--csv-columns", "user,item", *COLUMNS, "-o", tmp_path / "d")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    manifest = Dataset.open(tmp_path / "d").manifest
    assert {part: summary.n_interactions for part, summary in manifest.parts.items()} == {"train": 2, "test": 1}
    assert "test interaction that train holds too" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no source given"),
        (("--train", "a.csv"), "an official split is --train FILES --test FILES"),
        (("a.csv", "--train", "a.csv", "--test", "b.csv"), "and nothing else"),
        (("--train", "a.csv", "--test", "b.csv", "--split", "random"), "found --split random; leave it out"),
        (("absent.csv",), "no such file or folder"),
        (("a.csv", "--split", "official"), "needs test sources"),
        (("a.csv", "--split", "tme"), "--split: input should be 'none', 'random'"),
        (("a.csv", "--split", "random", "--n-test", "3"), "split 'random' has no option n_test"),
        (("a.csv", "--split", "time"), "needs test_from"),
        (("a.csv", "--split", "time", "--test-from", "soon"), "--test-from: "),
        (("a.csv", "--split", "held-out-users", "--test-users", "many"), "--test-users: expected a number of users"),
        (("a.csv", "--test-fraction", "3", "--split", "random"), "--test-fraction: input should be less than 1"),
        (("a.csv", "--duplicates", "first"), "--duplicates: input should be 'max', 'sum'"),
        (("a.csv", "--k-core", "0"), "--user-core: input should be greater than or equal to 1"),
        (("a.csv", "--shards", "0"), "--shards: input should be greater than or equal to 1"),
        (("a.csv", "--delimiter", "::"), "--delimiter: string should have at most 1 character"),
        (("a.csv", "--minimum-rating", "3"), "needs a column of ratings"),
    ],
)
def test_mistakes_are_input_errors_in_the_words_of_the_command_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    error = error_of(*arguments, "-o", tmp_path / "d")
    assert isinstance(error, InputError)
    assert message in str(error)
    assert list(tmp_path.iterdir()) == []


def test_an_output_is_needed_and_not_replaced_unasked(events, tmp_path):
    assert "--output" in str(error_of(events, *COLUMNS))
    assert run(events, *COLUMNS, "-o", tmp_path / "d").exit_code == 0
    assert isinstance(error_of(events, *COLUMNS, "-o", tmp_path / "d"), OutputExistsError)
    assert run(events, *COLUMNS, "-o", tmp_path / "d", "--overwrite").exit_code == 0


def test_the_executor_and_the_scratch_folder_are_those_asked_for(events, tmp_path, monkeypatch):
    seen = []

    class Recorder(InProcessExecutor):
        def map_ordered(self, function, shared, tasks, **options):
            seen.append(function.__name__)
            assert len(list((tmp_path / "scratch").iterdir())) == 1
            return super().map_ordered(function, shared, tasks, **options)

        def close(self):
            seen.append("closed")

    def open_executor(options):
        seen.append(options)
        return Recorder()

    monkeypatch.setattr(command, "open_executor", open_executor)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    arguments = (events, "-o", tmp_path / "d", *COLUMNS, "--scratch", tmp_path / "scratch")
    assert run(*arguments, "--overwrite").exit_code == 0
    assert seen == []  # this process needs no executor
    result = run(*arguments, "--overwrite", "--executor", "ray", "--workers", 2, "--worker-cpus", 3)
    assert result.exit_code == 0, result.output
    assert seen[0] == ExecutorOptions("ray", workers=2, worker_cpus=3)
    assert {"spool_pieces", "reduce_bucket", "write_file"} < set(seen[1:-1])
    assert seen[-1] == "closed"
    assert list((tmp_path / "scratch").iterdir()) == []
    run(*arguments, "--overwrite", "--executor", "ray", "--address", "head:6379")
    assert ExecutorOptions("ray", address="head:6379") in seen
    assert "only for executor ray" in str(error_of(*arguments, "--overwrite", "--workers", 2))


def test_a_request_to_end_leaves_nothing_behind(events, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "_print_summary", lambda *_: pytest.fail("the run should have ended"))
    real = command.write_dataset

    def interrupted(*arguments, progress, **options):
        return real(*arguments, progress=lambda *_: os.kill(os.getpid(), signal.SIGTERM), **options)

    monkeypatch.setattr(command, "write_dataset", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    result = run(events, *COLUMNS, "-o", tmp_path / "d")
    assert result.exit_code == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["events.csv"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_ratings_become_the_gains_of_their_grades(events, tmp_path):
    chosen = ("--rating-column", "stars", "--grades", "2,4,5", "--weight-from-rating", "gain")
    assert run(events, "-o", tmp_path / "d", *COLUMNS, *chosen).exit_code == 0
    # Stars 1 are left out, 2 and 3 are grade 1, 4 is grade 2, 5 is grade 3.
    assert sorted(set(Dataset.open(tmp_path / "d").read_part("train").weights.tolist())) == [1.0, 3.0, 7.0]
    assert isinstance(error_of(events, "-o", tmp_path / "e", *COLUMNS, "--grades", "good"), InputError)
