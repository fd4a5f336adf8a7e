"""Bad input through the real command: a clear error, exit code 1, nothing half-written, nothing lost."""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

RGALS = [sys.executable, "-m", "jobs.cli"]
HEADER = "user_id,item_id,rating,time\n"


def invoke(*arguments: object, max_file_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command; a limit on file sizes makes every larger write fail, as a full disk does."""

    def limit() -> None:
        if max_file_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))

    command = [*RGALS, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=False, timeout=120)


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 1, (result.stdout, result.stderr)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("rgals: error: "), result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in last, last


def names_in(folder: Path) -> set[str]:
    """Everything below a folder, hidden files too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def make_events(n_users: int = 60, n_items: int = 40, n_rows: int = 900) -> pa.Table:
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, n_users * n_items, n_rows))
    return pa.table({"user_id": pairs // n_items, "item_id": pairs % n_items, "time": pairs * 3600})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    pq.write_table(make_events(), folder / "events.parquet")
    made = invoke("ingest", folder / "events.parquet", "--split=random", "--output", folder / "dataset")
    assert made.returncode == 0, made.stderr
    return folder / "dataset"


CSV_CASES = {
    "missing column": ("user_id,rating\nu,1\n", [], ["item_id", "user_id", "rating"]),
    "no rows": (HEADER, [], ["events.csv"]),
    "no bytes": ("", [], ["events.csv"]),
    "NaN weight": (HEADER + "u,i,NaN,1\n", ["--rating-column=rating"], ["events.csv", "row 2", "NaN"]),
    "negative weight": (HEADER + "u,i,-3,1\n", ["--rating-column=rating"], ["row 2", "-3"]),
    "weight that is no number": (HEADER + "u,i,good,1\n", ["--rating-column=rating"], ["row 2", "good"]),
    "time that is no time": (HEADER + "u,i,1,soon\n", ["--time-column=time"], ["row 2", "soon"]),
    "empty user": (HEADER + ",i,1,1\n", [], ["row 2", "missing user id"]),
    "time split without time": (HEADER + "u,i,1,1\n", ["--split=time", "--test-from=2020-01-01"], ["--time-column"]),
}


@pytest.mark.parametrize("case", CSV_CASES)
def test_a_bad_csv_is_refused_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    text, options, words = CSV_CASES[case]
    (tmp_path / "events.csv").write_text(text)
    before = names_in(tmp_path)
    assert_refused(invoke("ingest", tmp_path / "events.csv", *options, "--output", tmp_path / "out"), *words)
    assert names_in(tmp_path) == before


def test_a_column_of_the_wrong_type_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user_id": [[1], [2]], "item_id": [1, 2]}), tmp_path / "events.parquet")
    result = invoke("ingest", tmp_path / "events.parquet", "--output", tmp_path / "out")
    assert_refused(result, "events.parquet", "user_id", "list")
    assert names_in(tmp_path) == {"events.parquet"}


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(make_events(), tmp_path / "events.parquet")
    content = (tmp_path / "events.parquet").read_bytes()
    (tmp_path / "events.parquet").write_bytes(content[: len(content) // 2])
    assert_refused(invoke("ingest", tmp_path / "events.parquet", "--output", tmp_path / "out"), "events.parquet")
    assert names_in(tmp_path) == {"events.parquet"}


def test_test_events_before_the_train_cut_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("user_id,item_id,time\na,x,100\na,y,300\n")
    (tmp_path / "test.csv").write_text("user_id,item_id,time\na,z,200\n")
    result = invoke(
        "ingest", "--train", tmp_path / "train.csv", "--test", tmp_path / "test.csv", "--time-column=time",
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert_refused(result, "train")
    assert names_in(tmp_path) == {"train.csv", "test.csv"}


def test_an_unknown_loss_and_no_factors_are_refused_together(dataset: Path, tmp_path: Path) -> None:
    result = invoke("train", dataset, "--loss=bpr", "--n-factors=0", "--output", tmp_path / "model")
    assert result.returncode == 1
    assert "bpr" in result.stderr
    assert "n_factors" in result.stderr
    assert names_in(tmp_path) == set()


@pytest.mark.parametrize("command", ["ingest", "train"])
def test_an_existing_output_stays_as_it_is(command: str, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = {
        "ingest": ["ingest", dataset.parent / "events.parquet", "--output", out],
        "train": ["train", dataset, "--n-factors=2", "--n-sweeps=1", "--output", out],
    }[command]
    assert invoke(*arguments).returncode == 0
    before = {name: (out / name).stat().st_mtime_ns for name in names_in(out)}
    assert_refused(invoke(*arguments), "--overwrite")
    assert {name: (out / name).stat().st_mtime_ns for name in names_in(out)} == before
    assert invoke(*arguments, "--overwrite").returncode == 0


def test_a_folder_of_somebody_else_is_not_replaced(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    result = invoke("ingest", dataset.parent / "events.parquet", "--output", tmp_path / "out", "--overwrite")
    assert_refused(result, "manifest.json")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("command", ["ingest", "train", "recommend"])
def test_a_full_disk_leaves_nothing_half_written(command: str, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    model = tmp_path / "model"
    if command == "recommend":
        assert invoke("train", dataset, "--n-factors=2", "--n-sweeps=1", "--output", model).returncode == 0
    arguments = {
        "ingest": ["ingest", dataset.parent / "events.parquet", "--output", out],
        "train": ["train", dataset, "--n-factors=32", "--n-sweeps=1", "--output", out],
        "recommend": ["recommend", model, "--all", "--output", tmp_path / "out.parquet"],
    }[command]
    before = names_in(tmp_path)
    assert_refused(invoke(*arguments, max_file_bytes=1500), "out", "free space")
    assert names_in(tmp_path) == before


def test_a_corrupted_shard_is_refused(dataset: Path, tmp_path: Path) -> None:
    events = dataset.parent / "events.parquet"
    assert invoke("ingest", events, "--output", tmp_path / "dataset").returncode == 0
    shard = sorted((tmp_path / "dataset" / "by_item").iterdir())[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(bytes(content))
    result = invoke("train", tmp_path / "dataset", "--n-factors=2", "--output", tmp_path / "model")
    assert_refused(result, shard.name, "SHA-256")
    assert not (tmp_path / "model").exists()


def test_a_model_of_a_newer_format_is_refused(dataset: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    assert invoke("train", dataset, "--n-factors=2", "--n-sweeps=1", "--output", model).returncode == 0
    manifest = json.loads((model / "manifest.json").read_text())
    manifest["format_version"] += 1
    (model / "manifest.json").write_text(json.dumps(manifest))
    assert_refused(invoke("recommend", model, "--user=1"), "format version", "upgrade")


def test_an_unknown_user_is_refused(dataset: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    assert invoke("train", dataset, "--n-factors=2", "--n-sweeps=1", "--output", model).returncode == 0
    assert_refused(invoke("recommend", model, "--user=nobody"), "nobody")


def test_usage_errors_keep_the_exit_code_of_usage_errors() -> None:
    result = invoke("train", "--no-such-option")
    assert result.returncode == 2
    assert "no-such-option" in result.stderr
