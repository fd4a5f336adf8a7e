"""Geometry of the report page's charts: axes, curves, labels that keep out of each other's way.

The templates turn it into SVG. Everything is in the units of the chart's own box, from its top left corner.
"""

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from rgals.evaluation.page_format import UNDEFINED, short

__all__ = ["MARKERS", "Chart", "Curve", "EndLabel", "Mark", "Series", "Tick", "draw_chart", "text_width", "thin_out"]

FONT = 12.0
"""Height of the letters."""

_LABEL_STEP = 16.0
_MAX_POINTS = 150
"""Points that a curve is drawn with."""

MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-5 5 0 0 5-5 0z",
    "M0-4.8 4.6 3.6h-9.2z",
    "M0 4.8 4.6-3.6h-9.2z",
    "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "M-4.8 0 3.6-4.6v9.2z",
    "M4.8 0-3.6-4.6v9.2z",
    "M-2.4-4.4h4.8l2.4 4.4-2.4 4.4h-4.8l-2.4-4.4z",
    "M0-5.2 1.5-1.8 5-1.6 2.2.8 3.2 4.4 0 2.4-3.2 4.4-2.2.8-5-1.6-1.5-1.8z",
    "M-5-2.2h10v4.4h-10z",
    "M-2.2-5h4.4v10h-4.4z",
)
"""Shapes as SVG paths around 0, one for each model; they tell curves apart without color."""


@dataclass(frozen=True, slots=True)
class Series:
    """A curve to draw.

    Parameters
    ----------
    label : str
        Its name, written at its end.
    points : sequence of (float, float)
        By rising x.
    color : str
        Name of the color in the style sheet, such as ``rg-0``.
    marker : int
        Place in `MARKERS`.
    dash : str
        Dashes of the line; empty for a solid one.
    best : tuple of float or None
        The point to mark; a dotted line goes on from there to the right edge.
    reached : tuple of float or None
        A point to mark with a ring.
    """

    label: str
    points: Sequence[tuple[float, float]]
    color: str
    marker: int = 0
    dash: str = ""
    best: tuple[float, float] | None = None
    reached: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: its place and its text, empty for a small mark."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A marker: its place, and its shape as a path."""

    x: float
    y: float
    path: str


@dataclass(frozen=True, slots=True)
class EndLabel:
    """A name at the end of a curve: its place and text, the full name, and where the curve ends."""

    x: float
    y: float
    text: str
    full: str
    from_y: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A drawn series: paths and marks."""

    label: str
    color: str
    dash: str
    path: str
    held: str
    mark: Mark | None
    ring: Mark | None
    end: EndLabel | None


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart ready for the template."""

    title: str
    description: str
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    curves: list[Curve] = field(default_factory=list)


def text_width(text: str, size: float = FONT) -> float:
    """Estimate from above how wide a text is in a common sans-serif font."""
    em = 0.0
    for letter in text:
        if unicodedata.east_asian_width(letter) in {"W", "F"}:
            em += 1.05
        elif letter in "mwMW@%—":
            em += 0.95
        elif letter in "iljtfrI.,:;|'!()[] ":
            em += 0.38
        else:
            em += 0.7 if letter.isupper() else 0.62
    return em * size


def fit_text(text: str, width: float, size: float = FONT) -> str:
    """Cut a text that is too wide, in its middle: names of variants differ at their ends."""
    if text_width(text, size) <= width:
        return text
    for n_kept in range(len(text) - 1, 1, -1):
        head, tail = text[: (n_kept + 1) // 2], text[len(text) - n_kept // 2 :]
        if text_width(f"{head}…{tail}", size) <= width:
            return f"{head}…{tail}"
    return "…"


def thin_out(points: Sequence[tuple[float, float]], is_log: bool) -> list[tuple[float, float]]:
    """Leave out points that cannot be told apart: evenly along the axis, the first and the last kept."""
    if len(points) <= _MAX_POINTS:
        return list(points)
    scale: Callable[[float], float] = math.log if is_log else float
    low, high = scale(points[0][0]), scale(points[-1][0])
    kept, last_slot = [points[0]], 0
    for point in points[1:-1]:
        slot = int((scale(point[0]) - low) / ((high - low) or 1.0) * _MAX_POINTS)
        if slot > last_slot:
            kept.append(point)
            last_slot = slot
    return [*kept, points[-1]]


def draw_chart(
    series: Sequence[Series],
    *,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    size: tuple[float, float],
    is_log: bool = False,
    label_room: float = 0.0,
    y_range: tuple[float, float] | None = None,
    x_unit: str = "",
) -> Chart:
    """Lay a chart out.

    Parameters
    ----------
    series : sequence of Series
        At least one, each with at least one point; positive x on a logarithmic axis.
    title, description : str
        For those who do not see it.
    x_label, y_label : str
        What the axes show.
    size : tuple of float
        Width and height of the box.
    is_log : bool
        Whether the x axis is logarithmic.
    label_room : float
        The most room on the right that the names of the curves may take; 0 for no names.
    y_range : tuple of float or None
        What the y axis shows; None for the range of the points. Curves leave through its lower edge.
    x_unit : str
        Written after the numbers of the x axis.
    """
    width, height = size
    y_low, y_high = y_range or _padded([y for one in series for _, y in one.points])
    y_values = _linear_ticks(y_low, y_high, max(3, int(height // 60)))
    y_texts = _tick_texts(y_values)
    label_width = min(label_room, 34 + max(text_width(one.label) for one in series)) if label_room else 0.0
    left = round(max(text_width(text) for text in y_texts) + 14, 1)
    right, top, bottom = round(width - max(label_width, 26.0), 1), 30.0, height - 42
    xs = [x for one in series for x, _ in one.points]
    x_low, x_high = _x_range(xs, is_log)

    def across(x: float) -> float:
        share = math.log(x / x_low) / math.log(x_high / x_low) if is_log else (x - x_low) / (x_high - x_low)
        return round(left + share * (right - left), 1)

    def down(y: float) -> float:
        return round(bottom - (y - y_low) / (y_high - y_low) * (bottom - top), 1)

    room = right - left
    ticks = _log_ticks(x_low, x_high, room, x_unit) if is_log else _count_ticks(x_low, x_high, room)
    curves = [_draw_curve(one, across, down, right, is_log) for one in series]
    if label_width:
        curves = _with_end_labels(curves, series, down, (right, top, bottom), label_width)
    return Chart(
        title=title,
        description=description,
        width=width,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_label=x_label,
        y_label=y_label,
        x_ticks=[Tick(across(value), text) for value, text in ticks],
        y_ticks=[Tick(down(value), text) for value, text in zip(y_values, y_texts, strict=True)],
        curves=curves,
    )


def _draw_curve(
    series: Series, across: Callable[[float], float], down: Callable[[float], float], right: float, is_log: bool
) -> Curve:
    placed = [(across(x), down(y)) for x, y in thin_out(series.points, is_log)]
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in placed) if len(placed) > 1 else ""
    held, mark, ring = "", None, None
    if series.best is not None:
        x, y = across(series.best[0]), down(series.best[1])
        held = f"M{x:g} {y:g}H{right:g}"
        mark = Mark(x, y, MARKERS[series.marker % len(MARKERS)])
    if series.reached is not None:
        ring = Mark(
            across(series.reached[0]), down(series.reached[1]), "M-6.5 0a6.5 6.5 0 1 0 13 0a6.5 6.5 0 1 0-13 0z"
        )
    return Curve(series.label, series.color, series.dash, path, held, mark, ring, None)


def _with_end_labels(
    curves: Sequence[Curve],
    series: Sequence[Series],
    down: Callable[[float], float],
    box: tuple[float, float, float],
    label_width: float,
) -> list[Curve]:
    """Write names right of the box, at the height where the curves end, moved apart where they would overlap."""
    right, top, bottom = box
    ends = [min(bottom, max(top, down((one.best or one.points[-1])[1]))) for one in series]
    order = sorted(range(len(series)), key=lambda place: ends[place])
    step = min(_LABEL_STEP, (bottom - top + FONT) / max(1, len(series) - 1))
    heights = _spread([ends[place] for place in order], step, top, bottom + FONT / 2)
    found = list(curves)
    for place, height in zip(order, heights, strict=True):
        text = fit_text(series[place].label, label_width - 30)
        label = EndLabel(right + 26, round(height, 1), text, series[place].label, ends[place])
        found[place] = replace(curves[place], end=label)
    return found


def _spread(wanted: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Move rising heights apart by at least a step, as little as possible from above, inside the bounds."""
    placed: list[float] = []
    for height in wanted:
        placed.append(max(height, placed[-1] + step if placed else low))
    limit = high
    for place in range(len(placed) - 1, -1, -1):
        placed[place] = min(placed[place], limit)
        limit = placed[place] - step
    return placed


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    spare = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - spare, high + spare


def _x_range(xs: Sequence[float], is_log: bool) -> tuple[float, float]:
    low, high = min(xs), max(xs)
    if is_log:
        spare = max(1.15, (high / low) ** 0.03)
        return low / spare, high * spare
    return (low - 0.5, high + 0.5) if low == high else (low - 0.02 * (high - low), high + 0.02 * (high - low))


def _linear_ticks(low: float, high: float, n_wanted: int) -> list[float]:
    """Choose round numbers inside a range."""
    power = 10.0 ** math.floor(math.log10((high - low) / n_wanted))
    for factor in (10, 5, 2.5, 2, 1):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 >= n_wanted:
            break
    return [round(number * step, 12) for number in range(first, last + 1)]


def _tick_texts(values: Sequence[float]) -> list[str]:
    """Write them with the same number of decimals, as many as they need."""
    largest = max((abs(value) for value in values), default=0.0)
    if largest >= 1e6 or 0 < largest < 1e-4:
        return [short(value, 3) for value in values]
    for n_digits in range(8):
        texts = [f"{value:,.{n_digits}f}".replace("-", "\N{MINUS SIGN}") for value in values]
        if all(math.isclose(round(value, n_digits), value, abs_tol=1e-12) for value in values):
            return texts
    return [short(value, 3) for value in values] or [UNDEFINED]


def _count_ticks(low: float, high: float, room: float) -> list[tuple[float, str]]:
    """Whole numbers, no denser than their texts allow."""
    n_wanted = max(1, int(room // (text_width(f"{int(high):,}") + 22)))
    step = 1
    for step in (factor * 10**power for power in range(12) for factor in (1, 2, 5)):
        first = math.ceil(low / step)
        if int(high // step) - first + 1 <= n_wanted:
            break
    return [
        (float(number * step), f"{number * step:,}") for number in range(math.ceil(low / step), int(high // step) + 1)
    ]


def _log_ticks(low: float, high: float, room: float, unit: str) -> list[tuple[float, str]]:
    """Powers of ten with text, and what lies between them as small marks; text there too over a short range."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [(factor, float(f"{factor}e{decade}")) for decade in decades for factor in range(1, 10)]
    inside = [(factor, value) for factor, value in marks if low <= value <= high]
    for spoken in ({1, 2, 3, 4, 5, 6, 7, 8, 9}, {1, 2, 5}, {1, 3}, {1}):
        texts = [(value, f"{short(value, 1)}{unit}" if factor in spoken else "") for factor, value in inside]
        if _has_room([(value, text) for value, text in texts if text], low, high, room):
            return texts
    kept = [value for factor, value in inside if factor == 1]
    return [(value, f"{short(value, 1)}{unit}" if place % 2 == 0 else "") for place, value in enumerate(kept)]


def _has_room(ticks: Sequence[tuple[float, str]], low: float, high: float, room: float) -> bool:
    places = [room * math.log(value / low) / math.log(high / low) for value, _ in ticks]
    return len(ticks) > 0 and all(
        after - before >= (text_width(ticks[place][1]) + text_width(ticks[place + 1][1])) / 2 + 22
        for place, (before, after) in enumerate(pairwise(places))
    )
