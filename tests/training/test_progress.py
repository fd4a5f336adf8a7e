"""Progress: a live line in a terminal, one plain line per sweep in a log."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from rgals.training.events import (
    CheckpointEvent,
    SoftmaxEvent,
    StartEvent,
    StopEvent,
    SweepEvent,
    ValidationEvent,
)
from rgals.training.progress import ProgressDisplay

START = StartEvent(0, 2, 1000, 200, 12345, "f" * 64, {"loss": "rgx", "n_factors": 8}, 0.1)
EVENTS = [
    START,
    SweepEvent(1, 1234.5, 0.25, 0.5, 0.5, 2.5e6),
    SoftmaxEvent(1, 3.25, 3.5, 0.25, 0.1, 50, 0.1),
    ValidationEvent(1, 20, 0.1234, 50, True, 0.1),
    CheckpointEvent(1, "/somewhere/sweep-00001", 0.1),
    SweepEvent(2, 1200.0, 0.028, 0.5, 1.0, 2.5e6),
    ValidationEvent(2, 20, 0.12, 50, False, 0.1),
    StopEvent(2, "sweeps", 2, 1, 0.1234, 1200.0, 1.0, 0.2, 0.1, 0.1, 1.5),
]


def shown(events, **console_options):
    stream = io.StringIO()
    console = Console(file=stream, highlight=False, **{"width": 200, **console_options})
    with ProgressDisplay(console) as display:
        for event in events:
            display(event)
    return stream.getvalue()


def test_a_log_has_one_plain_line_per_sweep_with_every_number():
    lines = shown(EVENTS).splitlines()
    assert lines == [
        "training rgx with 8 factors on 1,000 users, 200 items, 12,345 interactions",
        "sweep 1/2  objective 1234.5  fell 25%  validation NDCG@20 0.1234 (best)  softmax 3.2500, surrogate +0.25, "
        "10.0% of |s| > 1  0.50 s  2.50 M interactions/s",
        "checkpoint of sweep 1: /somewhere/sweep-00001",
        "sweep 2/2  objective 1200  fell 2.8%  validation NDCG@20 0.1200  0.50 s  2.50 M interactions/s",
    ]


def test_an_expanded_sweep_tells_its_passes_over_all_scores():
    expanded = SweepEvent(7, -4.35e6, 0.0123, 24.93, 67.5, 3.6e5, step_length=1.0, pass_s=23.95, scores_per_s=5.216e8)
    events = [replace(START, n_sweeps=7), expanded]
    lines = shown(events).splitlines()
    assert lines[1] == "sweep 7/7  objective -4.35e+06  fell 1.23%  24.93 s  passes 23.95 s, 522 M scores/s"
    assert "24.93 s 522 M scores/s" in shown(events, width=80, force_terminal=True, force_interactive=True)


def test_a_log_holds_no_control_characters():
    assert "\x1b" not in shown(EVENTS)


def test_a_sweep_that_was_cut_short_is_still_printed():
    assert "sweep 1/2" in shown(EVENTS[:2])


def test_a_resumed_run_says_after_which_sweep():
    resumed = StartEvent(5, 9, 1, 1, 1, "f" * 64, {"loss": "rg2", "n_factors": 8}, 0.1)
    assert "resumed after sweep 5" in shown([resumed])


def test_a_terminal_shows_a_live_line_that_ends_at_the_last_sweep():
    text = shown(EVENTS, force_terminal=True, force_interactive=True)
    assert "\x1b" in text
    assert "2/2" in text
    assert "2/2 objective 1200 -2.8% NDCG@20 0.1200 0.50 s 2.50 M/s" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_the_live_line_fits_into_eighty_columns():
    text = shown(EVENTS, width=80, force_terminal=True, force_interactive=True)
    assert "…" not in text


def test_the_live_line_is_stopped_when_the_run_fails():
    console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(ValueError, match="broken"), ProgressDisplay(console):
        raise ValueError("broken")
    with ProgressDisplay(console) as again:  # a second live line on one console would raise
        again(START)
