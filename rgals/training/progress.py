"""The progress of a training run: one live line in a terminal, plain log lines anywhere else."""

import math
import sys
from types import TracebackType

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from rgals.training.events import (
    CheckpointEvent,
    HalfStepEvent,
    RecoveryEvent,
    SoftmaxEvent,
    StartEvent,
    StopEvent,
    SweepEvent,
    TrainingEvent,
    ValidationEvent,
)

__all__ = ["ProgressDisplay"]


class ProgressDisplay:
    """Shows events on standard error; a `rgals.training.events.Listener` and a context manager.

    Parameters
    ----------
    console : rich.console.Console or None
        Where to; None takes standard error. In a terminal a live line shows sweep, objective, its
        fall, validation NDCG, seconds and interactions per second, within 80 columns; elsewhere each sweep is a line.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console if console is not None else Console(file=sys.stderr, highlight=False)
        self._live: Progress | None = None
        self._n_sweeps = 0
        self._parts: dict[str, tuple[str, str]] = {}  # long for a log, short for the live line
        self._sweep = 0
        if self._console.is_terminal:
            self._live = Progress(
                SpinnerColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                console=self._console,
            )

    def __enter__(self) -> "ProgressDisplay":
        """Start the live line."""
        if self._live is not None:
            self._live.start()
            self._task = self._live.add_task("preparing", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Print what is pending and stop the live line."""
        self._flush()
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: TrainingEvent) -> None:
        """Show one event."""
        if isinstance(event, StartEvent):
            self._start(event)
        elif isinstance(event, RecoveryEvent):
            self._parts = {}
            self._sweep = event.sweep
            self._say(
                f"factors lost after sweep {event.lost_sweep}: {event.reason}; "
                + (f"going on from the checkpoint of sweep {event.sweep}" if event.sweep else "beginning anew")
            )
        elif isinstance(event, HalfStepEvent):
            if event.n_workers > 1:
                self._flush()
                self._say(
                    f"sweep {event.sweep}, {event.side} half-step: {event.seconds:.2f} s on {event.n_workers} workers, "
                    f"slowest {event.slowest_s:.2f} s ({event.slowest_worker}), mean {event.mean_s:.2f} s",
                    is_detail=True,
                )
        elif isinstance(event, SweepEvent):
            self._flush()
            self._sweep = event.sweep
            self._parts |= {
                "objective": (f"objective {event.objective:.6g}",) * 2,
                "fall": (f"fell {_percent(event.fall)}", f"-{_percent(event.fall)}"),
                "seconds": (f"{event.seconds:.2f} s",) * 2,
                "rate": _rate(event),
            }
        elif isinstance(event, ValidationEvent):
            mark = " (best)" if event.is_best else ""
            short = f"NDCG@{event.cutoff} {event.ndcg:.4f}"
            self._parts["ndcg"] = f"validation {short}{mark}", short
        elif isinstance(event, SoftmaxEvent):
            gap = "" if math.isnan(event.surrogate_gap) else f", surrogate {event.surrogate_gap:+.3g}"
            self._parts["softmax"] = (
                f"softmax {event.softmax:.4f}{gap}, {event.outside_fraction:.1%} of |s| > 1",
                "",
            )
        elif isinstance(event, CheckpointEvent):
            self._flush()
            self._say(f"checkpoint of sweep {event.sweep}: {event.folder}", is_detail=True)
        elif isinstance(event, StopEvent):
            self._flush()
        self._refresh()

    def _start(self, event: StartEvent) -> None:
        self._n_sweeps, self._sweep = event.n_sweeps, event.sweep
        after = f", resumed after sweep {event.sweep}" if event.sweep else ""
        self._say(
            f"training {event.config['loss']} with {event.config['n_factors']} factors on {event.n_users:,} users, "
            f"{event.n_items:,} items, {event.n_interactions:,} interactions{after}"
        )

    def _line(self, *, is_short: bool = False) -> str:
        order = ("objective", "fall", "ndcg", "softmax", "seconds", "rate")
        texts = [self._parts[name][is_short] for name in order if name in self._parts]
        return (" " if is_short else "  ").join(text for text in texts if text)

    def _flush(self) -> None:
        """Print the finished sweep as a line where there is no live one; its values stay on the live line."""
        if self._live is None and self._parts:
            self._say(f"sweep {self._sweep}/{self._n_sweeps}  {self._line()}")
            self._parts = {}

    def _refresh(self) -> None:
        if self._live is not None and self._n_sweeps:
            self._live.update(
                self._task,
                completed=self._sweep,
                total=self._n_sweeps,
                description=self._line(is_short=True) or "solving",
            )

    def _say(self, text: str, *, is_detail: bool = False) -> None:
        """Print a line above the live one; details only where there is no live line."""
        if self._live is None or not is_detail:
            self._console.print(text, soft_wrap=True, markup=False)


def _rate(event: SweepEvent) -> tuple[str, str]:
    """Write how fast a sweep was, in what takes its time: an expanded one passes over all scores."""
    if event.pass_s is None or event.scores_per_s is None:
        rate = event.interactions_per_s / 1e6
        return f"{rate:.2f} M interactions/s", f"{rate:.2f} M/s"
    rate = event.scores_per_s / 1e6
    return f"passes {event.pass_s:.2f} s, {rate:.0f} M scores/s", f"{rate:.0f} M scores/s"


def _percent(fall: float) -> str:
    """Write a relative fall; the first one starts near 0, so that its percentage says nothing."""
    return ">99%" if fall > 0.99 else f"{100 * fall:.3g}%"
