"""What a search leaves behind for people: a table of its trials and a picture, beside the study."""

import csv
import math
from collections.abc import Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rgals.data.storage import replace_file
from rgals.tuning.space import Dimension, SearchSpace
from rgals.tuning.study import FinishedTrial

__all__ = ["draw_search", "write_trials"]

_INK, _SOFT, _ACCENT = "#22303c", "#9aa7b2", "#0b6e99"
_COLUMNS = 3


def write_trials(path: str | Path, trials: Sequence[FinishedTrial], space: SearchSpace) -> None:
    """Write one line per trial, numbered from 1: state, NDCG, best round, rounds, seconds, the options, the reason.

    Parameters
    ----------
    path : str or Path
        The CSV file; replaced when it is there.
    trials : sequence of FinishedTrial
        By number.
    space : SearchSpace
        Names the columns of the options.
    """
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    head = ("trial", "state", "ndcg", "best_round", "n_rounds", "train_s", "seconds")
    writer.writerow([*head, *space.names, "reason"])
    for trial in trials:
        found = trial.result
        n_rounds, train_s = (found.curve[-1].round, found.curve[-1].train_s) if found.curve else (0, 0.0)
        ndcg = "" if math.isnan(found.best_ndcg) else found.best_ndcg
        values = [found.options.get(name, "") for name in space.names]
        row = [trial.number + 1, found.state, ndcg, found.best_round, n_rounds, train_s, found.seconds]
        writer.writerow([*row, *values, found.reason or ""])
    replace_file(Path(path), stream.getvalue().encode())


def draw_search(path: str | Path, trials: Sequence[FinishedTrial], space: SearchSpace, metric: str) -> None:
    """Draw NDCG by trial, with the best so far, and by each option.

    Parameters
    ----------
    path : str or Path
        The PNG file; replaced when it is there.
    trials : sequence of FinishedTrial
        By number; those without an NDCG are left out.
    space : SearchSpace
        The options; one panel for each.
    metric : str
        Name of the NDCG, such as ``ndcg@20``.
    """
    shown = [trial for trial in trials if math.isfinite(trial.result.best_ndcg)]
    n_panels = len(space.dimensions) + 1
    n_lines = math.ceil(n_panels / _COLUMNS)
    figure = Figure(figsize=(4 * min(n_panels, _COLUMNS), 3 * n_lines), layout="constrained")
    axes = figure.subplots(n_lines, min(n_panels, _COLUMNS), squeeze=False).ravel().tolist()
    for empty in axes[n_panels:]:
        empty.set_axis_off()
    name = f"validation {metric.replace('ndcg', 'NDCG')}"
    _draw_trials(axes[0], shown, name)
    for dimension, panel in zip(space.dimensions, axes[1:], strict=False):
        _draw_dimension(panel, shown, dimension)
    for panel in axes[:n_panels]:
        panel.spines[["top", "right"]].set_visible(False)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    replace_file(Path(path), buffer.getvalue())


def _draw_trials(axes: Axes, trials: Sequence[FinishedTrial], name: str) -> None:
    """Draw each trial, and the best so far as a line."""
    best, reached, numbers = -math.inf, [], []
    for trial in trials:
        if trial.result.is_scored and trial.result.best_ndcg > best:
            best = trial.result.best_ndcg
        if math.isfinite(best):
            numbers.append(trial.number + 1)
            reached.append(best)
    axes.plot(numbers, reached, color=_INK, linewidth=1, drawstyle="steps-post", label="best so far")
    _draw_points(axes, trials, [trial.number + 1 for trial in trials])
    axes.set(xlabel="trial", ylabel=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if trials:
        axes.legend(frameon=False, fontsize="small", loc="lower right")


def _draw_dimension(axes: Axes, trials: Sequence[FinishedTrial], dimension: Dimension) -> None:
    """Draw each trial over its value of one option."""
    values: list[Any] = [trial.result.options[dimension.name] for trial in trials]
    if dimension.choices is not None:
        values = [dimension.choices.index(value) for value in values]
        axes.set_xticks(range(len(dimension.choices)), [str(choice) for choice in dimension.choices])
    elif dimension.log:
        axes.set_xscale("log")
    _draw_points(axes, trials, values)
    axes.set_xlabel(dimension.name)


def _draw_points(axes: Axes, trials: Sequence[FinishedTrial], across: Sequence[float]) -> None:
    """Draw whole trials filled, those that were cut hollow, and the best one large."""
    best = max((t for t in trials if t.result.is_scored), key=lambda t: t.result.best_ndcg, default=None)
    for is_scored, face, edge, label in ((True, _ACCENT, _ACCENT, "whole"), (False, "none", _SOFT, "cut")):
        chosen = [index for index, trial in enumerate(trials) if trial.result.is_scored is is_scored]
        heights = [trials[index].result.best_ndcg for index in chosen]
        axes.scatter([across[index] for index in chosen], heights, s=18, facecolors=face, edgecolors=edge, label=label)
    if best is not None:
        x = across[trials.index(best)]
        axes.plot(x, best.result.best_ndcg, "o", color=_ACCENT, markersize=11, fillstyle="none")
    # A few hopeless trials must not press the others into one line.
    scores = sorted(t.result.best_ndcg for t in trials)
    if len(scores) > _COLUMNS:
        low, high = scores[len(scores) // 4], scores[-1]
        margin = max(high - low, 1e-9)
        axes.set_ylim(max(scores[0] - 0.05 * margin, low - margin), high + 0.1 * margin)
