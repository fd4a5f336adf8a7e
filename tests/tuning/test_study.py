"""Studies on disk: durable, resumable, owned by one process, and the same after a resume."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import optuna
import pytest

from rgals.errors import DataError, FormatVersionError, InputError, StaleCheckpointError
from rgals.tuning.sampling import N_STARTING_POINTS
from rgals.tuning.search import search
from rgals.tuning.space import Dimension, SearchSpace
from rgals.tuning.trial import TrialResult
from tests.tuning.problems import IDENTITY, SPACE, height, open_study, result_of, run

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "study.jsonl"


def tried(study):
    return [trial.result.options for trial in study.trials]


def test_the_first_trial_has_the_defaults_and_values_stay_in_bounds(path):
    with open_study(path) as study:
        search(study, run, budget_trials=12)
        found = tried(study)
    assert found[0] == SPACE.defaults()
    assert len({json.dumps(options) for options in found}) == 12
    for options in found:
        assert list(options) == list(SPACE.names)
        assert 1e-3 <= options["rate"] <= 1
        assert -1 <= options["tilt"] <= 1
        assert options["depth"] in range(1, 11)
        assert options["kind"] in ("flat", "round")


def test_a_study_is_on_disk_and_counts_what_became_of_its_trials(path):
    with open_study(path) as study:
        assert study.best is None
        for result in (
            result_of(0.1, 0.4),
            result_of(0.1, 0.5, verdict="pruned"),
            result_of(0.2, 0.2, verdict="deadline"),
        ):
            [(number, options)] = study.ask()
            study.tell(number, TrialResult(**{**_fields(result), "options": options}))
        [(number, options)] = study.ask()
        study.tell(number, TrialResult.failure(options, "no finite solution", 2.0))
        trials = study.trials
    again = open_study(path)
    assert [repr(trial) for trial in again.trials] == [repr(trial) for trial in trials]
    assert [trial.number for trial in again.trials] == [0, 1, 2, 3]
    assert (again.n_trials, again.n_pruned, again.n_failed, again.tune_s) == (4, 1, 1, 5.0)
    assert again.best.number == 0, "what was cut is not the best, whatever it had reached"
    journal = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(path))))  # fmt: skip
    assert [trial.state.name for trial in journal.trials] == ["COMPLETE", "PRUNED", "COMPLETE", "FAIL"]
    assert journal.best_value == 0.4


def _fields(result):
    return {name: getattr(result, name) for name in TrialResult.__dataclass_fields__}


def test_a_curve_is_read_from_the_journal_once(path, monkeypatch):
    read, real = [], TrialResult.from_json

    def from_json(values):
        read.append(values)
        return real(values)

    monkeypatch.setattr(TrialResult, "from_json", from_json)
    with open_study(path) as study:
        search(study, run, budget_trials=6)
        assert [trial.number for trial in study.trials] == list(range(6))
        assert study.best.number in range(6)
    assert len(read) == 6


def test_a_trial_is_charged_what_it_is_told_with_and_its_own_seconds_otherwise(path):
    with open_study(path) as study:
        for charged_s in (None, 0.25):
            [(number, _)] = study.ask()
            study.tell(number, result_of(0.1), charged_s)
    assert [trial.charged_s for trial in open_study(path).trials] == [1.0, 0.25]
    assert open_study(path).tune_s == 1.25


def test_of_equal_trials_the_first_is_the_best(path):
    with open_study(path) as study:
        for value in (0.3, 0.4, 0.4):
            [(number, _)] = study.ask()
            study.tell(number, result_of(value))
        assert study.best.number == 1


def test_a_resumed_study_proposes_what_an_uninterrupted_one_does(path, tmp_path):
    n_trials = N_STARTING_POINTS + 5
    with open_study(path) as study:
        search(study, run, budget_trials=n_trials)
        expected = tried(study)
    other = tmp_path / "other.jsonl"
    for number in range(n_trials):
        with open_study(other) as study:
            [(asked, options)] = study.ask()
            assert asked == number
        with open_study(other) as study:
            assert study.ask() == [(number, options)], "left running, it is offered again"
            assert study.ask()[0][0] == number + 1
        _forget_trial(other, number + 1)
        with open_study(other) as study:
            search(study, run, budget_trials=number + 1)
    assert tried(open_study(other)) == expected


def _forget_trial(path, number):
    """Cut the journal before a trial was begun."""
    lines = path.read_text().splitlines(keepends=True)
    begun = [index for index, line in enumerate(lines) if json.loads(line)["op_code"] == 4]
    path.write_text("".join(lines[: begun[number]]))


@pytest.mark.parametrize("number", [1, N_STARTING_POINTS + 1])
def test_a_process_killed_at_any_line_of_the_journal_changes_nothing(tmp_path, number):
    with open_study(tmp_path / "whole") as study:
        search(study, run, budget_trials=number + 1)
        expected = tried(study)
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    begun = [index for index, line in enumerate(lines) if json.loads(line)["op_code"] == 4]
    for last in range(begun[number], len(lines)):
        cut = tmp_path / f"cut-{last}"
        cut.write_bytes(b"".join(lines[:last]) + lines[last][: len(lines[last]) // 2])
        with open_study(cut) as study:
            search(study, run, budget_trials=number + 1)
            assert tried(study) == expected


@pytest.mark.parametrize("n_lines", [0, 1])
def test_a_process_killed_while_it_began_a_study_leaves_one_that_can_begin(path, n_lines):
    open_study(path).close()
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    path.write_bytes(b"".join(lines[:n_lines]) + lines[n_lines][:20])
    with open_study(path) as study:
        search(study, run, budget_trials=1)
    assert open_study(path).n_trials == 1


def test_a_killed_process_leaves_a_study_that_goes_on(path):
    script = f"""
        import time
        from tests.tuning.problems import open_study, result_of, run
        from rgals.tuning.search import search
        study = open_study({str(path)!r})
        search(study, run, budget_trials=3)
        study.ask()
        print("ready", flush=True)
        time.sleep(60)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "ready\n"
        reader = open_study(path)
        assert reader.n_trials == 3, "another process may read"
        with pytest.raises(InputError, match="in use by another process"):
            reader.ask()
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    started = time.perf_counter()
    with open_study(path) as study:
        assert study.ask()[0][0] == 3
        study.tell(3, result_of(0.1))
    assert time.perf_counter() - started < 5, "no lock was left behind"


def test_a_study_is_owned_from_the_first_question_until_it_is_closed(path):
    first = open_study(path)
    first.ask()
    second = open_study(path)
    with pytest.raises(InputError, match="in use"):
        second.tell(0, result_of(0.1))
    first.close()
    first.close()
    second.tell(0, result_of(0.1))
    assert first.n_trials == 1
    second.close()


def test_several_trials_can_be_asked_for_at_once_and_told_in_any_order(path):
    with open_study(path) as study:
        search(study, run, budget_trials=N_STARTING_POINTS)
        asked = study.ask(3)
        assert [number for number, _ in asked] == [6, 7, 8]
        assert len({json.dumps(options) for _, options in asked}) == 3
        for number, options in reversed(asked):
            study.tell(number, run(number, options, study.pruner()))
        assert [trial.number for trial in study.trials] == list(range(9))
        assert study.trials[7].result.options == asked[1][1]


def test_what_was_not_asked_for_cannot_be_told(path):
    with open_study(path) as study:
        study.ask()
        with pytest.raises(InputError, match="trial 5 is not running, those running are 0; ask first"):
            study.tell(5, result_of(0.1))
        study.tell(0, result_of(0.1))
        with pytest.raises(InputError, match="trial 0 is not running, those running are none"):
            study.tell(0, result_of(0.1))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"identity": {**IDENTITY, "dataset": "xyz"}}, "dataset: 'abc' there, 'xyz' here"),
        ({"identity": {**IDENTITY, "n_factors": 8}}, "n_factors: None there, 8 here"),
        ({"identity": {"dataset": "abc"}}, "model: 'toy' there, None here"),
        ({"seed": 4}, "seed: 3 there, 4 here"),
        ({"space": SPACE.select(("rate", "tilt"))}, "space: "),
        ({"space": SearchSpace(SPACE.dimensions, (SPACE.at(dict.fromkeys(SPACE.names, 0.5)),))}, "known: [] there"),
        ({"space": SearchSpace((*SPACE.dimensions[:2], Dimension("depth", 1, 10, default=3), SPACE.dimensions[3]))},
         "whole_numbers: ['depth'] there, [] here"),
    ],
)  # fmt: skip
def test_a_study_of_another_search_is_refused(path, change, named):
    open_study(path).close()
    with pytest.raises(StaleCheckpointError) as found:
        open_study(path, **change)
    assert named in str(found.value)
    assert str(path) in str(found.value)


def test_a_study_of_a_newer_version_is_refused(path):
    open_study(path).close()
    path.write_text(path.read_text().replace('"format_version":1', '"format_version":2'))
    with pytest.raises(FormatVersionError, match="format version 2 of a study, this rgals reads up to 1"):
        open_study(path)


@pytest.mark.parametrize(
    "content",
    ["not json\nnot json\n", "[1]\n", '{"op_code":0}\n', '{"op_code":99,"worker_id":"x"}\n', "\x80\x81\n\n"],
)
def test_a_file_that_is_no_study_is_named(path, content):
    path.parent.mkdir()
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=str(path)):
        open_study(path).ask()


def test_a_journal_of_something_else_is_left_alone(path):
    path.parent.mkdir()
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    optuna.create_study(storage=optuna.storages.JournalStorage(backend), study_name="mine")
    before = path.read_bytes()
    with pytest.raises(DataError, match="no study of rgals"):
        open_study(path)
    assert path.read_bytes() == before


def test_a_study_that_does_not_say_what_it_searches_is_refused(path):
    path.parent.mkdir()
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    optuna.create_study(storage=optuna.storages.JournalStorage(backend), study_name="rgals").ask()
    with pytest.raises(DataError, match="does not say what it searches"):
        open_study(path)


def test_a_place_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        open_study(tmp_path / "file" / "study.jsonl")
    with pytest.raises(DataError, match="study"):
        open_study(tmp_path)


def test_a_full_disk_leaves_the_study_as_it_was(path, monkeypatch):
    with open_study(path) as study:
        search(study, run, budget_trials=2)
        [(number, options)] = study.ask()

        def full(descriptor):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(DataError, match="No space left"):
                study.tell(number, run(number, options, study.pruner()))
    with open_study(path) as study:
        assert study.n_trials == 2
        assert study.ask() == [(number, options)]


def test_optuna_says_nothing_and_keeps_its_own_settings(path):
    said = []
    listener = logging.Handler()
    listener.emit = said.append
    verbosity = optuna.logging.get_verbosity()
    logger = logging.getLogger("optuna")
    logger.addHandler(listener)
    try:
        optuna.create_study()
        assert len(said) == 1, "left alone, it speaks"
        with open_study(path) as study:
            search(study, run, budget_trials=9)
            assert study.importance()
    finally:
        logger.removeHandler(listener)
    assert len(said) == 1
    assert optuna.logging.get_verbosity() == verbosity


def test_a_search_gets_close_to_the_best_and_cuts_hopeless_trials(path):
    with open_study(path) as study:
        search(study, run, budget_trials=40)
        assert height(study.best.result.options) > 0.95
        assert 5 < study.n_pruned < 30
        assert all(math.isfinite(trial.result.best_ndcg) for trial in study.trials)
