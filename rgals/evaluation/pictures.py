"""Pictures of measured numbers, as PNG files."""

from collections.abc import Mapping
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rgals.data.storage import replace_file
from rgals.errors import InputError

__all__ = ["draw_training"]

_INK, _SOFT, _ACCENT = "#22303c", "#9aa7b2", "#0b6e99"


def draw_training(
    path: str | Path, training: Mapping[str, Any], report: Mapping[str, Any], metric: str = "ndcg@20"
) -> None:
    """Draw the validation NDCG by sweep and by seconds, and the test NDCG of every model in a report.

    Parameters
    ----------
    path : str or Path
        The PNG file; replaced when it is there.
    training : mapping
        A model's metrics: ``history`` with ``sweep``, ``seconds`` and ``ndcg`` of each sweep,
        ``kept_sweep`` and ``validation_cutoff``.
    report : mapping
        An evaluation report, as in ``docs/report-schema.md``.
    metric : str
        The report's metric on the right.

    Raises
    ------
    InputError
        If the report has no such metric.
    """
    for model in report["models"]:
        if metric not in model["metrics"]:
            raise InputError(f"the report has no {metric!r}; it has {', '.join(model['metrics'])}")
    figure = Figure(figsize=(12, 4), layout="constrained")
    by_sweep, by_seconds, by_model = figure.subplots(1, 3, width_ratios=[1, 1, 1.1])
    history = training["history"]
    elapsed_s = accumulate(entry["seconds"] for entry in history)
    measured = [
        (entry, total_s) for entry, total_s in zip(history, elapsed_s, strict=True) if entry["ndcg"] is not None
    ]
    sweeps, ndcg = [entry["sweep"] for entry, _ in measured], [entry["ndcg"] for entry, _ in measured]
    seconds = [total_s for _, total_s in measured]
    kept = [position for position, sweep in enumerate(sweeps) if sweep == training["kept_sweep"]]
    for axes, across, label in ((by_sweep, sweeps, "sweep"), (by_seconds, seconds, "seconds of training")):
        axes.plot(across, ndcg, color=_ACCENT, marker="o", markersize=4)
        for position in kept:
            axes.plot(across[position], ndcg[position], "o", color=_ACCENT, markersize=10, fillstyle="none")
            axes.annotate(
                f"kept: {ndcg[position]:.3f}", (across[position], ndcg[position]),
                textcoords="offset points", xytext=(0, -18), ha="center", color=_INK,
            )  # fmt: skip
        axes.set(xlabel=label, ylabel=f"validation NDCG@{training['validation_cutoff']}")
        axes.margins(y=0.2)
    by_sweep.xaxis.get_major_locator().set_params(integer=True)
    by_seconds.set_xlim(left=0)
    _draw_models(by_model, report, metric)
    for axes in (by_sweep, by_seconds, by_model):
        axes.spines[["top", "right"]].set_visible(False)
    by_sweep.set_title("Quality after each sweep", loc="left", color=_INK)
    by_seconds.set_title("The same against time", loc="left", color=_INK)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    replace_file(Path(path), buffer.getvalue())


def _draw_models(axes: Any, report: Mapping[str, Any], metric: str) -> None:
    """Draw one bar with its confidence interval per model, the best on top."""
    models = sorted(report["models"], key=lambda model: model["metrics"][metric]["mean"] or 0.0)
    for position, model in enumerate(models):
        value = model["metrics"][metric]
        mean = value["mean"] or 0.0
        low, high = (mean if value[end] is None else value[end] for end in ("ci_low", "ci_high"))
        is_first = model["name"] == report["models"][0]["name"]
        axes.barh(position, mean, color=_ACCENT if is_first else _SOFT, height=0.6)
        axes.plot([low, high], [position, position], color=_INK, linewidth=1.5)
        axes.annotate(f" {mean:.3f}", (high, position), va="center", color=_INK)
    axes.set_yticks(range(len(models)), [model["name"] for model in models])
    axes.set(xlabel=f"test {metric.replace('ndcg', 'NDCG')} with 95% interval")
    axes.margins(x=0.18)
    axes.set_xlim(left=0)
    axes.set_title("On the test part", loc="left", color=_INK)
