"""Asking a training run to stop: the first signal is a request, the second is an order."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["StopSignals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STANDARD_ERROR = 2


class StopSignals:
    """Turns Ctrl-C (SIGINT) and SIGTERM into a question that a run asks between sweeps.

    A context manager, and the ``should_stop`` of `rgals.training.trainer.train`. The second signal raises
    KeyboardInterrupt at once; committed checkpoints stay whole. Outside the main thread, where
    Python allows no signal handlers, nothing is installed and the answer is always no.

    Parameters
    ----------
    message : str
        Written to standard error when the first signal comes, if not empty.
    """

    def __init__(self, message: str = "") -> None:
        self._message = message
        self._is_requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        """Tell whether a signal came."""
        return self._is_requested

    def __enter__(self) -> "StopSignals":
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put back the handlers that were there."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._is_requested:
            raise KeyboardInterrupt
        self._is_requested = True
        if self._message:
            # Not print: a buffered stream that is being written to may not be entered again.
            os.write(_STANDARD_ERROR, f"\n{self._message}\n".encode())
