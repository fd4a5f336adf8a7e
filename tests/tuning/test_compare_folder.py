"""The folder of a comparison: one process at a time, whole or not at all, damaged files and other places."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from rgals.errors import DataError, FormatVersionError, InputError, OutputExistsError, StaleCheckpointError
from rgals.evaluation import values as stored_values
from rgals.execution import InProcessExecutor
from rgals.tuning import compare as compare_module
from rgals.tuning import compare_folder
from rgals.tuning.compare_folder import ComparisonFolder
from rgals.tuning.events import RepeatEvent, StageEvent, TrialEvent
from tests.tuning.comparisons import make_dataset, run_comparison

REPOSITORY = Path(__file__).resolve().parents[2]
IDENTITY = {"dataset": "abc", "seed": 3}
TRIALS = {"kind": "trials", "size": 4}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("compare") / "dataset")


def open_folder(path, budget=TRIALS, identity=IDENTITY, **how):
    folder = ComparisonFolder(path)
    folder.open(identity, budget, **{"resume": None, **how})
    return folder


def test_a_second_process_is_refused_until_the_first_is_done(tmp_path):
    with open_folder(tmp_path / "c"):
        with pytest.raises(InputError, match="in use by another process"):
            open_folder(tmp_path / "c")
        with pytest.raises(InputError, match="in use by another process"):
            open_folder(tmp_path / "c", resume=False, overwrite=True)
        open_folder(tmp_path / "d").close()
    open_folder(tmp_path / "c").close()


def test_what_is_refused_does_not_keep_the_folder(tmp_path):
    open_folder(tmp_path / "c").close()
    with pytest.raises(StaleCheckpointError) as found:
        open_folder(tmp_path / "c", identity={**IDENTITY, "seed": 4})
    assert "seed: 3 there, 4 here" in str(found.value)
    open_folder(tmp_path / "c").close()


def test_a_killed_process_lets_the_folder_go(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from rgals.tuning.compare_folder import ComparisonFolder\n"
        f"folder = ComparisonFolder(Path(sys.argv[1])); folder.open({IDENTITY!r}, {TRIALS!r}, resume=None)\n"
        "print('open', flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    child = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "c"], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert child.stdout.readline() == "open\n"
        with pytest.raises(InputError, match="in use"):
            open_folder(tmp_path / "c")
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    open_folder(tmp_path / "c").close()


def test_a_budget_may_grow_and_not_shrink_or_change_its_kind(tmp_path):
    open_folder(tmp_path / "c").close()
    open_folder(tmp_path / "c", {"kind": "trials", "size": 9}).close()
    for budget, asked in (({"kind": "trials", "size": 8}, "8 trials"), ({"kind": "seconds", "size": 1e3}, "1000 sec")):
        with pytest.raises(InputError, match=f"was given 9 trials, asked for were {asked}"):
            open_folder(tmp_path / "c", budget)
    open_folder(tmp_path / "c", {"kind": "seconds", "size": 2.5}, resume=False, overwrite=True).close()
    with pytest.raises(InputError, match=r"was given 2.5 seconds, asked for were 2 seconds"):
        open_folder(tmp_path / "c", {"kind": "seconds", "size": 2.0})


def test_half_removed_stages_are_not_taken_for_those_of_the_next_comparison(tmp_path, monkeypatch):
    with open_folder(tmp_path / "c") as folder:
        folder.write_final("rg2", {}, {}, 1.0, ())
    removed = []

    def killed(path, ignore_errors=False):
        if not path.exists():
            return
        removed.append(path)
        (path / "identity.json").unlink()  # the first of the files, and then the process is gone
        raise KeyboardInterrupt

    monkeypatch.setattr(compare_folder.shutil, "rmtree", killed)
    other = {**IDENTITY, "seed": 4}
    with pytest.raises(KeyboardInterrupt):
        open_folder(tmp_path / "c", identity=other, resume=False, overwrite=True)
    monkeypatch.undo()
    assert len(removed) == 1
    with open_folder(tmp_path / "c", identity=other):
        assert [path.name for path in (tmp_path / "c").iterdir()] == ["identity.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".c.lock", "c"], "what was left is gone"


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("mine")
    for how in ({}, {"resume": False, "overwrite": True}):
        with pytest.raises(OutputExistsError, match="holds files but no comparison"):
            open_folder(tmp_path / "c", **how)
    assert (tmp_path / "c" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_an_identity_that_cannot_be_read_says_what_to_do(tmp_path, content):
    open_folder(tmp_path / "c").close()
    (tmp_path / "c" / "identity.json").write_text(content)
    with pytest.raises(DataError, match="--resume never --overwrite"):
        open_folder(tmp_path / "c")
    open_folder(tmp_path / "c", resume=False, overwrite=True).close()


def test_seconds_of_all_runs_are_kept(tmp_path, monkeypatch):
    now = 50.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with open_folder(tmp_path / "c") as folder:
        now += 20
        folder.keep_time()
        now += 5
        assert folder.seconds == 25
        begun = folder.started_at
    with open_folder(tmp_path / "c") as folder:  # the last five seconds were lost with the process
        now += 3
        folder.keep_time()
        folder.keep_time()
        assert folder.seconds == 23
        assert folder.started_at == begun.replace(microsecond=0)
    with open_folder(tmp_path / "c") as folder:
        assert folder.seconds == 23
    (tmp_path / "c" / "runs.json").write_text('{"runs": [{"seconds": 3}]}')
    with open_folder(tmp_path / "c") as folder:
        assert folder.seconds == 0
        assert abs((folder.started_at - datetime.now(UTC)).total_seconds()) < 600


def repeats(events):
    return [(event.model, event.stage) for event in events if isinstance(event, RepeatEvent)]


def reused(events):
    return {event.stage: event.is_reused for event in events if isinstance(event, StageEvent)}


def damage(path):
    found = json.loads(path.read_text())
    del found["found"]
    path.write_text(json.dumps(found))


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{"])
@pytest.mark.parametrize(("name", "stage"), [("curve.json", "curve"), ("final.json", "final"), ("values-*", "final")])
def test_a_damaged_stage_is_done_again_and_says_so(dataset, tmp_path, content, name, stage):
    [first] = run_comparison(dataset, tmp_path, models=("popularity",)).records
    [path] = (tmp_path / "popularity").glob(name)
    if content is None and path.suffix == ".json":
        damage(path)
    else:
        path.write_bytes(content or path.read_bytes()[:-40])
    events = []
    [second] = run_comparison(dataset, tmp_path, models=("popularity",), listener=events.append).records
    assert repeats(events) == [("popularity", stage)]
    [reason] = [event.reason for event in events if isinstance(event, RepeatEvent)]
    assert path.name in reason
    assert reused(events)["tune"]
    np.testing.assert_array_equal(first.values.by_user["ndcg@5"], second.values.by_user["ndcg@5"])
    events.clear()
    run_comparison(dataset, tmp_path, models=("popularity",), listener=events.append)
    assert set(reused(events).values()) == {True}


def test_values_of_a_newer_rgals_are_not_thrown_away(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(stored_values, "_FORMAT_VERSION", 99)
    run_comparison(dataset, tmp_path, models=("popularity",))
    monkeypatch.undo()
    with pytest.raises(FormatVersionError):
        run_comparison(dataset, tmp_path, models=("popularity",))


def test_seconds_of_other_threads_are_measured_again_and_the_search_stays(dataset, tmp_path):
    [first] = run_comparison(dataset, tmp_path, models=("rg2",)).records
    events = []
    executor = InProcessExecutor(2)
    [second] = run_comparison(dataset, tmp_path, models=("rg2",), executor=executor, listener=events.append).records
    assert repeats(events) == [("rg2", "curve"), ("rg2", "final")]
    assert {event.reason for event in events if isinstance(event, RepeatEvent)} == {
        "its seconds are of another place: threads 1 then, 2 now"
    }
    assert not [event for event in events if isinstance(event, TrialEvent)]
    assert second.curve.curve[-1].train_s != first.curve.curve[-1].train_s
    np.testing.assert_array_equal(first.values.by_user["ndcg@5"], second.values.by_user["ndcg@5"])


@pytest.mark.parametrize("changed", ["cpu", "rgals", "numpy", "implicit"])
def test_seconds_of_another_machine_or_version_are_measured_again(dataset, tmp_path, monkeypatch, changed):
    run_comparison(dataset, tmp_path, models=("popularity",))
    real = compare_module.describe_place
    monkeypatch.setattr(compare_module, "describe_place", lambda executor: {**real(executor), changed: "another"})
    events = []
    run_comparison(dataset, tmp_path, models=("popularity",), listener=events.append)
    assert repeats(events) == [("popularity", "curve"), ("popularity", "final")]
