"""The event file: one JSON object per line, appended, readable while the run goes on."""

import json
from datetime import datetime

import pytest

from rgals.errors import DataError
from rgals.training.events import EventLog, HalfStepEvent, SoftmaxEvent, ValidationEvent, to_json


def half_step(sweep=1):
    return HalfStepEvent(
        sweep,
        "user",
        14.0,
        objective=10.5,
        fall=0.25,
        seconds=0.5,
        interactions_per_s=2e6,
        n_workers=2,
        slowest_worker="worker 1",
        slowest_s=0.5,
        mean_s=0.375,
    )


def test_a_line_holds_time_kind_and_every_field(tmp_path):
    with EventLog(tmp_path / "events.jsonl") as log:
        log(half_step())
    line = json.loads((tmp_path / "events.jsonl").read_text())
    assert datetime.fromisoformat(line.pop("time")).utcoffset().total_seconds() == 0
    assert line == {
        "kind": "half_step",
        "sweep": 1,
        "side": "user",
        "objective_before": 14.0,
        "objective": 10.5,
        "fall": 0.25,
        "seconds": 0.5,
        "interactions_per_s": 2e6,
        "n_workers": 2,
        "slowest_worker": "worker 1",
        "slowest_s": 0.5,
        "mean_s": 0.375,
    }


def test_a_line_is_on_disk_before_the_log_is_closed(tmp_path):
    with EventLog(tmp_path / "events.jsonl") as log:
        log(half_step())
        assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 1


def test_a_second_run_appends(tmp_path):
    for sweep in (1, 2):
        with EventLog(tmp_path / "deep" / "events.jsonl") as log:
            log(half_step(sweep))
    lines = (tmp_path / "deep" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["sweep"] for line in lines] == [1, 2]


def test_undefined_numbers_become_null():
    event = SoftmaxEvent(1, float("nan"), float("inf"), 0.5, 0.0, 10, 0.1)
    found = to_json(event)
    assert (found["softmax"], found["surrogate"], found["surrogate_gap"]) == (None, None, 0.5)


def test_truth_values_stay_truth_values():
    found = to_json(ValidationEvent(1, 20, 0.1, 10, True, 0.1))
    assert found["is_best"] is True


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"events\.jsonl: the event file cannot be written"):
        EventLog(tmp_path / "file" / "events.jsonl")


def test_a_full_disk_is_named():
    with pytest.raises(DataError, match="free space"), EventLog("/dev/full") as log:
        log(half_step())
