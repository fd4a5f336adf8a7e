"""What the routes of one worker share."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from services.recommender.engine import Engine
from services.recommender.metrics import Metrics
from services.recommender.problems import ServiceError
from services.recommender.settings import Settings
from services.recommender.slot import ModelSlot

__all__ = ["DEADLINE_HEADER", "State", "Worker", "deadline_in", "deadline_of"]

DEADLINE_HEADER = "x-timeout-ms"
"""Header in which a caller says how long it waits."""


@dataclass(frozen=True, slots=True)
class State:
    """The parts of one worker.

    Parameters
    ----------
    settings : Settings
        What it was told.
    slot : ModelSlot
        Its model.
    engine : Engine
        Where it computes.
    metrics : Metrics
        What it counts.
    state_dir : Path
        The folder that all workers share.
    """

    settings: Settings
    slot: ModelSlot
    engine: Engine
    metrics: Metrics
    state_dir: Path


def _state(request: Request) -> State:
    state: State = request.app.state.worker
    return state


Worker = Annotated[State, Depends(_state)]


def deadline_of(request: Request, settings: Settings) -> float:
    """Give the moment of `time.monotonic` at which a request has to be answered.

    Raises
    ------
    ServiceError
        If the caller's header is not a whole number of milliseconds.
    """
    sent = request.headers.get(DEADLINE_HEADER)
    allowed_ms = settings.timeout_ms
    if sent is not None:
        if not (sent.isascii() and sent.isdigit() and 0 < len(sent) < 10 and int(sent) > 0):
            raise ServiceError("bad-request", f"{DEADLINE_HEADER}: expected milliseconds, at least 1, such as 250")
        allowed_ms = min(allowed_ms, int(sent))
    return time.monotonic() + allowed_ms / 1000


def deadline_in(seconds: float) -> float:
    """Give the moment of `time.monotonic` in some seconds, for what takes longer than a list."""
    return time.monotonic() + seconds
