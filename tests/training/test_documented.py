"""docs/training.md names every event field, every reason to stop and every option that may change on resume."""

import dataclasses
import re
from pathlib import Path
from typing import get_args

import pytest

from rgals.training.config import MUTABLE_ON_RESUME
from rgals.training.events import StopReason, TrainingEvent
from rgals.training.history import RISE_TOLERANCE

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()


@pytest.mark.parametrize("event_type", get_args(TrainingEvent), ids=lambda event_type: event_type.kind)
def test_every_event_field_is_documented_in_its_row_and_no_other(event_type):
    row = re.search(rf"^\| `{event_type.kind}` \| (.*) \|$", PAGE, re.MULTILINE)[1]
    documented = re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", row))
    assert documented == [field.name for field in dataclasses.fields(event_type)]


def test_every_reason_to_stop_is_documented():
    for reason in get_args(StopReason):
        assert f"| `{reason}` |" in PAGE


def test_the_options_that_may_change_on_resume_are_listed():
    sentence = PAGE[PAGE.index("except for") : PAGE.index("which may")]
    assert set(re.findall(r"`(\w+)`", sentence)) == MUTABLE_ON_RESUME


def test_the_tolerance_of_a_rise_is_the_documented_one():
    assert f"more than {RISE_TOLERANCE:.0e}".replace("e-0", "e-") in PAGE
