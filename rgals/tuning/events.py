"""What happens in a comparison, as objects for those who show it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rgals.tuning.trial import CurvePoint, TrialResult

__all__ = [
    "CompareEvent",
    "CompareListener",
    "LeftOutEvent",
    "RepeatEvent",
    "RoundEvent",
    "Stage",
    "StageEvent",
    "TrialEvent",
]

Stage: TypeAlias = Literal["tune", "curve", "final", "test"]
"""Search for options; a timed fit on the training part that validation watches; the last fit; ranking the test part."""


@dataclass(frozen=True, slots=True)
class StageEvent:
    """A stage of a model begins, or was found finished on disk."""

    model: str
    stage: Stage
    is_reused: bool
    """Whether it is finished already, in an earlier run of the same command."""
    n_trials: int | None = None
    """Trials of a search, where their number is the budget."""


@dataclass(frozen=True, slots=True)
class RoundEvent:
    """A round of a fit was looked at."""

    model: str
    stage: Stage
    trial: int
    """Number of the trial, from 0; -1 outside the search."""
    point: CurvePoint


@dataclass(frozen=True, slots=True)
class TrialEvent:
    """A trial ended."""

    model: str
    trial: int
    """Its number, from 0."""
    n_done: int
    """Trials that have ended."""
    result: TrialResult
    best_ndcg: float
    """Highest validation NDCG of the search so far; NaN without one."""


@dataclass(frozen=True, slots=True)
class LeftOutEvent:
    """A model cannot take part."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class RepeatEvent:
    """What an earlier run of the same command finished cannot be used, so that the stage is done again."""

    model: str
    stage: Stage
    reason: str


CompareEvent: TypeAlias = StageEvent | RoundEvent | TrialEvent | LeftOutEvent | RepeatEvent
CompareListener: TypeAlias = Callable[[CompareEvent], None]
