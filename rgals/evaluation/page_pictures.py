"""Which charts the report page has: NDCG against seconds, objectives, surrogate gaps, trials of the search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rgals.evaluation.page_charts import MARKERS, Chart, Mark, Series, draw_chart
from rgals.evaluation.page_format import fixed, metric_name, seconds, short
from rgals.evaluation.report import CurvePoint, ModelSection, Report, Tuning

__all__ = [
    "ModelStyle",
    "TrialChart",
    "convergence_charts",
    "gap_charts",
    "model_styles",
    "objective_charts",
    "reach_sentence",
    "trial_chart",
]

_WIDE, _NARROW, _SMALL = (1080.0, 440.0), (360.0, 320.0), (340.0, 230.0)
_N_COLORS = {"rg": 4, "softmax": 4, "other": 5, "trivial": 2}
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_CLOSE_UP = 0.12
"""How far below the best the close-up of the curves looks."""
_SHORTEST_S = 1e-4
"""Where a training without measurable seconds stands on the logarithmic axis."""


@dataclass(frozen=True, slots=True)
class ModelStyle:
    """How a model looks in every chart and table: color, shape of its marker, dashes, place of the marker's shape."""

    color: str
    path: str
    dash: str
    marker: int


@dataclass(frozen=True, slots=True)
class TrialChart:
    """The trials of a search: the chart of the best so far, and marks of the trials by how they ended."""

    chart: Chart
    complete: list[Mark]
    pruned: list[Mark]


def model_styles(models: Sequence[ModelSection]) -> dict[str, ModelStyle]:
    """Give each model its look: a hue for its family, a shape of its own."""
    n_before = dict.fromkeys(_N_COLORS, 0)
    styles = {}
    for place, model in enumerate(models):
        number = n_before[model.family]
        n_before[model.family] += 1
        marker = place % len(MARKERS)
        color = f"{model.family}-{number % _N_COLORS[model.family]}"
        dash = _DASHES[number // _N_COLORS[model.family] % len(_DASHES)]
        styles[model.name] = ModelStyle(color, MARKERS[marker], dash, marker)
    return styles


def convergence_charts(report: Report, styles: Mapping[str, ModelStyle]) -> list[tuple[Chart, Chart]]:
    """Draw validation NDCG against training seconds.

    Returns
    -------
    list of (Chart, Chart)
        Each for wide and for narrow windows: all curves, and a close-up of the best if several come near it;
        empty if no model has a curve.
    """
    series = [_convergence_series(model, styles[model.name]) for model in report.models]
    drawn = [one for one in series if one is not None]
    if not drawn:
        return []
    top = max(y for one in drawn for _, y in one.points)
    floor = (1 - _CLOSE_UP) * top
    near = [one for one in drawn if max(y for _, y in one.points) >= floor]
    metric = metric_name(report.metric)
    lowest = min(y for one in drawn for _, y in one.points)
    spare = 0.06 * (top - min(0.0, lowest)) or 1.0
    views = [("Quality against training time", drawn, (min(0.0, lowest), top + spare))]
    if len(near) > 1 and top > 0 and lowest < floor:
        views.append((f"Close-up: the upper {_CLOSE_UP:.0%}", near, (floor, top + 0.005 * top)))
    described = "; ".join(f"{one.label}: {fixed(one.best[1])}" for one in drawn if one.best is not None)
    return [
        (
            _draw_convergence(title, shown, y_range, metric, described, _WIDE),
            _draw_convergence(title, shown, y_range, metric, described, _NARROW),
        )
        for title, shown, y_range in views
    ]


def _draw_convergence(
    title: str,
    series: Sequence[Series],
    y_range: tuple[float, float],
    metric: str,
    described: str,
    size: tuple[float, float],
) -> Chart:
    is_wide = size == _WIDE
    return draw_chart(
        series,
        title=title,
        description=f"Validation {metric} of each model against its training seconds. Best: {described}.",
        x_label="training seconds, log scale",
        y_label=f"validation {metric}",
        size=size,
        is_log=True,
        label_room=250.0 if is_wide else 0.0,
        y_range=y_range,
        x_unit=" s",
    )


def _convergence_series(model: ModelSection, style: ModelStyle) -> Series | None:
    points = [(max(point.train_s, _SHORTEST_S), point.ndcg) for point in model.curve if point.ndcg is not None]
    if not points:
        return None
    reached = None
    if model.seconds_to_99 is not None:
        passed = [point for point in points if point[0] >= max(model.seconds_to_99, _SHORTEST_S) * (1 - 1e-9)]
        reached = passed[0] if passed else None
    best = max(points, key=lambda point: point[1])
    return Series(model.label, points, style.color, style.marker, style.dash, best, reached)


def reach_sentence(report: Report) -> str:
    """Say when each model's curve reaches 99% of the best softmax curve, the same level for all."""
    best = {model.name: _best_ndcg(model.curve) for model in report.models}
    softmax = [model for model in report.models if model.family == "softmax" and best[model.name] is not None]
    if not softmax or sum(value is not None for value in best.values()) < 2:
        return ""
    strongest = max(softmax, key=lambda model: best[model.name] or 0.0)
    level = 0.99 * (best[strongest.name] or 0.0)
    reached, never = [], []
    for model in report.models:
        if best[model.name] is None or model.family == "trivial":
            continue
        first = next((point.train_s for point in model.curve if point.ndcg is not None and point.ndcg >= level), None)
        if first is None:
            never.append(model.label)
        else:
            reached.append((first, model.label))
    # Names may hold commas.
    listed = "; ".join(f"{label} after {seconds(first)}" for first, label in sorted(reached))
    sentence = f"One level for all: {fixed(level)}, which is 99% of the best of {strongest.label}. Reached by {listed}"
    return f"{sentence}. Not reached by {'; '.join(never)}." if never else f"{sentence}."


def _best_ndcg(curve: Sequence[CurvePoint]) -> float | None:
    return max((point.ndcg for point in curve if point.ndcg is not None), default=None)


def objective_charts(report: Report, styles: Mapping[str, ModelStyle]) -> list[Chart]:
    """Draw each model's own objective by round, where it has one at two rounds or more.

    A model that starts from the minimum of another loss has a chart for each of the two: their heights have
    nothing to do with each other.
    """
    charts = []
    for model in report.models:
        known = [(float(point.round), point.objective) for point in model.curve if point.objective is not None]
        start = [point for point in known if point[0] <= model.n_start_rounds]
        parts = [(f"{model.label}: its start", start), (model.label, known[len(start) :])]
        style = styles[model.name]
        for title, points in parts:
            if len(points) < 2:
                continue
            charts.append(
                draw_chart(
                    [Series("objective", points, style.color, style.marker, style.dash, best=points[-1])],
                    title=title,
                    description=f"Objective of {title} by round: from {short(points[0][1], 4)} at round "
                    f"{points[0][0]:g} to {short(points[-1][1], 4)} at round {points[-1][0]:g}.",
                    x_label="sweep or epoch",
                    y_label="objective",
                    size=_SMALL,
                )
            )
    return charts


def gap_charts(report: Report, styles: Mapping[str, ModelStyle]) -> list[Chart]:
    """Draw the true softmax loss and the surrogate that is trained in its place, by round."""
    charts = []
    for model in report.models:
        known = [
            (float(point.round), point.softmax, point.surrogate)
            for point in model.curve
            if point.softmax is not None and point.surrogate is not None
        ]
        if len(known) < 2:
            continue
        style = styles[model.name]
        softmax, surrogate = [(x, y) for x, y, _ in known], [(x, y) for x, _, y in known]
        last = known[-1]
        charts.append(
            draw_chart(
                [
                    Series("surrogate", surrogate, style.color, 0, "", best=surrogate[-1]),
                    Series("softmax", softmax, "plain", 1, "5 3", best=softmax[-1]),
                ],
                title=f"{model.label}: gap {short(last[2] - last[1])} at the end",
                description=f"At round {last[0]:g} the surrogate of {model.label} is {short(last[2], 4)}, "
                f"the true softmax loss {short(last[1], 4)}.",
                x_label="sweep",
                y_label="loss per unit of weight",
                size=_SMALL,
                label_room=100.0,
            )
        )
    return charts


def trial_chart(label: str, tuning: Tuning, style: ModelStyle, metric: str) -> TrialChart | None:
    """Draw the trials of a search and the best so far; None if fewer than two reached a value."""
    known = [(trial.number, trial.ndcg, trial.state) for trial in tuning.trials if trial.ndcg is not None]
    if len(known) < 2:
        return None
    best_so_far, steps = known[0][1], [(float(known[0][0]), known[0][1])]
    for number, ndcg, _ in known[1:]:
        steps.append((float(number), best_so_far))
        if ndcg > best_so_far:
            best_so_far = ndcg
            steps.append((float(number), best_so_far))
    # The trials are series of their own without a line, so that the axes make room for them.
    trials = [Series(state, [(float(number), ndcg)], style.color, best=(number, ndcg)) for number, ndcg, state in known]
    chart = draw_chart(
        [Series("best so far", steps, style.color), *trials],
        title=label,
        description=f"Validation {metric} of {len(known)} trials of {label}; the best reaches {fixed(best_so_far)}.",
        x_label="trial",
        y_label=f"validation {metric}",
        size=_SMALL,
    )
    marks = [curve.mark for curve in chart.curves[1:] if curve.mark is not None]
    states = [state for _, _, state in known]
    return TrialChart(
        chart=replace(chart, curves=chart.curves[:1]),
        complete=[mark for mark, state in zip(marks, states, strict=True) if state != "pruned"],
        pruned=[mark for mark, state in zip(marks, states, strict=True) if state == "pruned"],
    )
