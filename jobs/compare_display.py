"""What a comparison shows on standard error while it works, and its table at the end."""

import math
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rgals.evaluation.report import ModelSection, Report
from rgals.tuning.compare_options import CompareOptions
from rgals.tuning.events import CompareEvent, LeftOutEvent, RepeatEvent, RoundEvent, StageEvent, TrialEvent

__all__ = ["CompareDisplay", "print_table"]

_LINE_INTERVAL_S = 10.0
_STAGES = {
    "tune": "searching on the validation part",
    "curve": "timed fit on the training part",
    "final": "last fit, on all but the test part",
    "test": "ranking the test part",
}
_STATES = {"complete": "", "pruned": ", ended early", "failed": ", failed", "stopped": ", out of time"}


class CompareDisplay:
    """A `CompareListener`: a line for each stage and trial, and what the present round reached.

    On a terminal the present round is one line that changes; elsewhere a line at most every ten seconds.

    Parameters
    ----------
    options : CompareOptions
        What was asked for.
    """

    def __init__(self, options: CompareOptions) -> None:
        self._metric = f"NDCG@{options.cutoff}"
        self._n_models = len(options.models)
        self._positions = {name: position for position, name in enumerate(options.models, 1)}
        self._is_terminal = sys.stderr.isatty()
        self._last_s = time.monotonic()

    def __call__(self, event: CompareEvent) -> None:
        """Show an event."""
        match event:
            case StageEvent():
                budget = (
                    f", {event.n_trials} trial{'s' if event.n_trials != 1 else ''}"
                    if event.stage == "tune" and event.n_trials
                    else ""
                )
                done = ": done before" if event.is_reused else ""
                where = f"{self._positions.get(event.model, 0)}/{self._n_models}"
                self._line(f"{event.model} ({where}): {_STAGES[event.stage]}{budget}{done}")
            case TrialEvent():
                result = event.result
                reached = f"{self._metric} {_number(result.best_ndcg)} at round {result.best_round}"
                found = result.reason if result.state == "failed" else reached
                options = ", ".join(f"{name} {_short(value)}" for name, value in result.options.items())
                self._line(
                    f"{event.model}: trial {event.trial}: {found}{_STATES[result.state]}, {result.seconds:.1f} s, "
                    f"best {_number(event.best_ndcg)} ({options})"
                )
            case LeftOutEvent():
                self._line(f"{event.model}: left out: {event.reason}")
            case RepeatEvent():
                self._line(f"{event.model}: {_STAGES[event.stage]}: done again, as {event.reason}")
            case RoundEvent():
                self._round(event)

    def __enter__(self) -> "CompareDisplay":
        """Give the display itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Clear the changing line."""
        self._clear()

    def _round(self, event: RoundEvent) -> None:
        point = event.point
        trial = f"trial {event.trial}, " if event.trial >= 0 else ""
        ndcg = f"{self._metric} {_number(point.ndcg)}, " if math.isfinite(point.ndcg) else ""
        text = f"{event.model}: {trial}round {point.round}: {ndcg}{point.train_s:.1f} s of training"
        if self._is_terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self._last_s >= _LINE_INTERVAL_S:
            self._line(text)

    def _line(self, text: str) -> None:
        self._clear()
        self._last_s = time.monotonic()
        print(text, file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def print_table(report: Report) -> None:
    """Print the headline numbers of each model, the best first."""
    k = report.metric.partition("@")[2]
    console = Console()
    title = f"{report.protocol.n_users_evaluated:,} users, test part, all {report.dataset.n_items:,} items ranked"
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for name in (f"NDCG@{k}", f"Recall@{k}", "seconds to 99%", "seconds of training", "trials"):
        table.add_column(name, justify="right")
    for model in sorted(report.models, key=lambda found: -(found.metrics[report.metric].mean or 0.0)):
        table.add_row(*_row(model, report.metric, f"recall@{k}"))
    console.print(table)
    for missing in report.left_out:
        console.print(f"left out: {missing.name}: {missing.reason}", markup=False, highlight=False, soft_wrap=True)
    if report.protocol.bootstrap.n_resamples:
        level = report.protocol.bootstrap.level
        console.print(f"±: half of the {level:.0%} bootstrap interval of the mean over users.", highlight=False)
    console.print(
        "Seconds to 99%: training seconds until the validation NDCG first reaches 99% of its best, in a fit on the "
        "training part.",
        highlight=False,
    )


def _row(model: ModelSection, metric: str, recall: str) -> list[str]:
    value = model.metrics[metric]
    half = "" if value.ci_low is None or value.ci_high is None else f" ± {(value.ci_high - value.ci_low) / 2:.4f}"
    return [
        escape(model.label),
        f"{_number(value.mean)}{half}",
        _number(model.metrics[recall].mean),
        _seconds(model.seconds_to_99),
        _seconds(model.train_s),
        "-" if model.tuning is None else str(model.tuning.n_trials),
    ]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _number(value: float | None) -> str:
    return "undefined" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
