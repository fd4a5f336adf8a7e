"""What happens in a training run, as objects, and the JSON Lines file that keeps them.

``docs/training.md`` documents the file, one line per object. Undefined numbers are ``null``.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, TypeAlias

from rgals.errors import DataError
from rgals.names import Side

__all__ = [
    "CheckpointEvent",
    "EventLog",
    "HalfStepEvent",
    "Listener",
    "RecoveryEvent",
    "SoftmaxEvent",
    "StartEvent",
    "StopEvent",
    "StopReason",
    "SweepEvent",
    "TrainingEvent",
    "ValidationEvent",
    "to_json",
]

StopReason: TypeAlias = Literal["sweeps", "tolerance", "patience", "interrupted"]
"""Why a run ended: all sweeps done, the objective or the validation NDCG settled, or it was asked to stop."""


@dataclass(frozen=True, slots=True)
class StartEvent:
    """The run begins, anew at sweep 0 or from a checkpoint."""

    kind: ClassVar[str] = "start"
    sweep: int
    """Sweeps done before; above 0 after a resume."""
    n_sweeps: int
    """Largest number of sweeps."""
    n_users: int
    n_items: int
    n_interactions: int
    dataset: str
    """Fingerprint of the dataset."""
    config: dict[str, Any]
    """All options."""
    setup_s: float
    """Seconds from the call to the first sweep: counting degrees, starting factors, reading a checkpoint."""


@dataclass(frozen=True, slots=True)
class HalfStepEvent:
    """One side was solved."""

    kind: ClassVar[str] = "half_step"
    sweep: int
    side: Side
    objective_before: float
    objective: float
    """Objective after the half-step."""
    fall: float
    """Fall of the objective in this half-step, relative to its largest absolute value in the run."""
    seconds: float
    interactions_per_s: float
    n_workers: int
    """Workers that took part."""
    slowest_worker: str
    slowest_s: float
    """Seconds for which the slowest worker was busy."""
    mean_s: float
    """Mean over the workers; the closer to `slowest_s`, the better the shards are balanced."""


@dataclass(frozen=True, slots=True)
class SweepEvent:
    """Both sides were solved."""

    kind: ClassVar[str] = "sweep"
    sweep: int
    objective: float
    """Objective after the sweep."""
    fall: float
    """Fall of the objective in this sweep, relative likewise; `tolerance` is compared with it."""
    seconds: float
    """Seconds spent solving, the objective included."""
    train_s: float
    """Seconds spent solving since sweep 0, over all resumed runs."""
    interactions_per_s: float
    """Interactions visited per second: each one once by user and once by item."""
    step_length: float | None = None
    """Of a re-expanded sweep, how far it went: less than 1 where the exact loss would have risen, 0 where it stayed."""
    pass_s: float | None = None
    """Of a re-expanded sweep, the seconds of its passes over all scores, which are part of ``seconds``: those of the
    worker that was longest in each pass. There is one by item and one by user, and another one for each halving of the
    step and where the expansion begins."""
    scores_per_s: float | None = None
    """Of a re-expanded sweep, scores visited per second of ``pass_s``, each with four operations per factor."""
    objective_error: float | None = None
    """Of a re-expanded sweep with ``pass_fraction`` below 1, the standard error of the objective, at most."""


@dataclass(frozen=True, slots=True)
class SoftmaxEvent:
    """The exact softmax loss of a fixed sample of users, beside the expansion that is trained."""

    kind: ClassVar[str] = "softmax"
    sweep: int
    softmax: float
    """Softmax loss per unit of interaction weight."""
    surrogate: float
    """The trained loss's expansion on the same users, without alpha and ridge; NaN for ials."""
    surrogate_gap: float
    """``surrogate - softmax``."""
    outside_fraction: float
    """Share of the sample's scores with ``|s| > 1``, outside the expansion's radius."""
    n_users: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ValidationEvent:
    """The validation sample was ranked."""

    kind: ClassVar[str] = "validation"
    sweep: int
    cutoff: int
    """Length k of the ranked lists."""
    ndcg: float
    """Mean NDCG@k over the sample."""
    n_users: int
    is_best: bool
    """Whether it is the best so far."""
    seconds: float


@dataclass(frozen=True, slots=True)
class CheckpointEvent:
    """A checkpoint was committed."""

    kind: ClassVar[str] = "checkpoint"
    sweep: int
    folder: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RecoveryEvent:
    """Factors were lost with a machine; the run goes on from an earlier sweep."""

    kind: ClassVar[str] = "recovery"
    sweep: int
    """The sweep that the run goes on from: that of the last checkpoint, or the start."""
    lost_sweep: int
    """Sweeps done when the factors were lost."""
    reason: str


@dataclass(frozen=True, slots=True)
class StopEvent:
    """The run ended."""

    kind: ClassVar[str] = "stop"
    sweep: int
    """Sweeps done."""
    reason: StopReason
    kept_sweep: int
    """The sweep whose factors are given back."""
    best_sweep: int | None
    best_ndcg: float | None
    objective: float
    """Objective after the last sweep."""
    train_s: float
    """Seconds spent solving since sweep 0, over all resumed runs."""
    validate_s: float
    monitor_s: float
    checkpoint_s: float
    total_s: float
    """Seconds of this call, everything included."""


TrainingEvent: TypeAlias = (
    StartEvent
    | HalfStepEvent
    | SweepEvent
    | SoftmaxEvent
    | ValidationEvent
    | CheckpointEvent
    | RecoveryEvent
    | StopEvent
)
Listener: TypeAlias = Callable[[TrainingEvent], None]


class EventLog:
    """Appends events to a JSON Lines file, unbuffered, line by line; a `Listener` and a context manager.

    Parameters
    ----------
    path : str or Path
        A local file; created with the folders above it, or appended to.

    Raises
    ------
    DataError
        If the file cannot be opened or written to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.path.open("ab", buffering=0)
        except OSError as error:
            raise DataError(f"{self.path}: the event file cannot be written ({error}); choose another place") from error

    def __call__(self, event: TrainingEvent) -> None:
        """Append one event, with the time (UTC) and its kind."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **to_json(event)}
        try:
            self._stream.write((json.dumps(line, allow_nan=False) + "\n").encode())
        except OSError as error:
            raise DataError(f"{self.path}: the event file cannot be written ({error}); free space") from error

    def __enter__(self) -> "EventLog":
        """Give the log itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._stream.close()


def to_json(event: TrainingEvent) -> dict[str, Any]:
    """Give an event as JSON values, its kind first; numbers that are not finite become None."""
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    return {
        "kind": event.kind,
        **{
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        },
    }
