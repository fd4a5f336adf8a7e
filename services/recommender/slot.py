"""The model that a worker serves, and the thread that follows the registry and swaps it."""

import json
import logging
import os
import threading
import time
import uuid
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from rgals.data.storage import redact, replace_file
from rgals.errors import DataError, RgalsError
from services.recommender.metrics import Metrics
from services.recommender.problems import ServiceError
from services.recommender.served import Found, ModelSource, ServedModel

__all__ = ["ModelSlot", "Outcome", "Reload", "read_worker_states"]

Outcome: TypeAlias = Literal["unchanged", "swapped", "refused"]
"""What a look at the source led to."""

_TICK_S = 0.25
_RETRY_S = 30.0
_RELOAD_NAME = "reload"
_STATE_NAME = "worker-{}.json"

logger = logging.getLogger("rgals.service")


@dataclass(frozen=True, slots=True)
class Reload:
    """What a look at the source led to.

    Parameters
    ----------
    outcome : {"unchanged", "swapped", "refused"}
        Whether another model is served now.
    version : str or None
        The version that is served now.
    detail : str or None
        Why the other version was refused.
    """

    outcome: Outcome
    version: str | None
    detail: str | None = None


class ModelSlot:
    """Holds the model of one worker. Requests take it once, and keep what they took until they are answered.

    Parameters
    ----------
    source : ModelSource
        Where models come from.
    poll_s : float
        Seconds between two looks at it.
    state_dir : Path
        Folder that the workers share: each writes what it serves, and anyone can ask all for a reload.
    metrics : Metrics
        Where swaps are counted.
    """

    def __init__(self, source: ModelSource, poll_s: float, state_dir: Path, metrics: Metrics) -> None:
        self._source, self._poll_s, self._state_dir, self._metrics = source, poll_s, state_dir, metrics
        self._current: ServedModel | None = None
        self._identity: str | None = None
        self._problem: str | None = "the first model is being loaded"
        self._detail: str | None = None
        self._refused: tuple[str, float] | None = None
        self._wanted: list[Future[Reload]] = []
        self._wake = threading.Event()
        self._is_closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._follow, name="rgals-slot", daemon=True)

    @property
    def problem(self) -> str | None:
        """Why the newest version is not served, or none is, in words for anyone; None where all is well."""
        return self._problem

    def take(self) -> ServedModel:
        """Give the model for one request.

        Raises
        ------
        ServiceError
            ``not-ready`` if none is loaded.
        """
        current = self._current
        if current is None:
            raise ServiceError("not-ready", f"{self._problem}; try again soon", {"Retry-After": "1"})
        return current

    def peek(self) -> ServedModel | None:
        """Give the model, None before the first one."""
        return self._current

    def start(self) -> None:
        """Begin to follow the source, in a thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._is_closed = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10.0)
        with suppress(OSError):
            (self._state_dir / _STATE_NAME.format(os.getpid())).unlink(missing_ok=True)

    def reload(self) -> "Future[Reload]":
        """Look at the source now, in all workers, also at a version that was refused before."""
        with suppress(DataError):
            replace_file(self._state_dir / _RELOAD_NAME, uuid.uuid4().hex.encode())
        answer: Future[Reload] = Future()
        with self._lock:
            self._wanted.append(answer)
        self._wake.set()
        return answer

    def _follow(self) -> None:
        stamp = self._reload_stamp()
        next_s = 0.0
        while not self._is_closed:
            with self._lock:
                wanted, self._wanted = self._wanted, []
            found = self._reload_stamp()
            is_asked = bool(wanted) or found != stamp
            stamp = found
            if is_asked or time.monotonic() >= next_s:
                answer = self._look(is_asked)
                next_s = time.monotonic() + self._poll_s
                for future in wanted:
                    future.set_result(answer)
            self._wake.wait(min(_TICK_S, self._poll_s))
            self._wake.clear()
        with self._lock:
            wanted, self._wanted = self._wanted, []
        for future in wanted:
            future.set_result(Reload("refused", self._version(), "the service is being stopped"))

    def _look(self, is_asked: bool) -> Reload:
        """Compare the source with what is served, and swap; whatever happens, the old model keeps serving."""
        found: Found | None = None
        try:
            found = self._source.look()
            if found.identity == self._identity:
                self._problem = self._detail = None
                return Reload("unchanged", self._version())
            if not is_asked and self._was_refused(found.identity):
                return Reload("refused", self._version(), self._detail)
            model = found.load()
        except Exception as error:  # noqa: BLE001 - a model that cannot be opened must not end the thread
            return self._refuse(found, error)
        self._swap(model, found.identity)
        return Reload("swapped", model.version)

    def _swap(self, model: ServedModel, identity: str) -> None:
        former = self._current
        self._current, self._identity = model, identity
        self._problem = self._detail = self._refused = None
        self._metrics.reloads.labels("swapped").inc()
        if former is not None and former.version != model.version:
            self._metrics.serving.labels(former.version).set(0)
        self._metrics.serving.labels(model.version).set(1)
        logger.info(
            "model swapped",
            extra={"model_version": model.version, "former": None if former is None else former.version},
        )
        self._write_state()

    def _refuse(self, found: Found | None, error: Exception) -> Reload:
        """Keep the old model; log a problem once, and try again later: a store can be away for a moment."""
        detail = redact(str(error)) or type(error).__name__
        what = "the registry cannot be read" if found is None else f"version {found.version} was refused"
        is_news = (self._problem, self._detail) != (what, detail)
        self._problem, self._detail = what, detail
        if found is not None:
            self._refused = (found.identity, time.monotonic() + _RETRY_S)
            self._metrics.reloads.labels("refused").inc()
        if is_news:
            is_known = isinstance(error, RgalsError)
            logger.error(what, extra={"error": detail}, exc_info=None if is_known else error)
            self._write_state()
        return Reload("refused", self._version(), detail)

    def _was_refused(self, identity: str) -> bool:
        return self._refused is not None and self._refused[0] == identity and time.monotonic() < self._refused[1]

    def _version(self) -> str | None:
        return None if self._current is None else self._current.version

    def _reload_stamp(self) -> bytes:
        with suppress(OSError):
            return (self._state_dir / _RELOAD_NAME).read_bytes()
        return b""

    def _write_state(self) -> None:
        current = self._current
        state = {
            "pid": os.getpid(),
            "version": self._version(),
            "loaded_at": None if current is None else current.loaded_at.isoformat(timespec="milliseconds"),
            "problem": None if self._problem is None else f"{self._problem}: {self._detail}",
            "as_of": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        with suppress(DataError):
            replace_file(self._state_dir / _STATE_NAME.format(os.getpid()), json.dumps(state).encode())


def read_worker_states(state_dir: Path) -> list[dict[str, Any]]:
    """Read what each living worker serves, by process number."""
    states: list[dict[str, Any]] = []
    for path in sorted(state_dir.glob(_STATE_NAME.format("*"))):
        with suppress(OSError, ValueError):
            state = json.loads(path.read_bytes())
            os.kill(state["pid"], 0)
            states.append(state)
    return states
