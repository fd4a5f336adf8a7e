"""The tables of the report page: cells with text, small print and little bars."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rgals.evaluation.page_format import (
    UNDEFINED,
    fixed,
    metric_name,
    p_value,
    percent,
    seconds,
    signed,
    times,
)
from rgals.evaluation.page_pictures import ModelStyle
from rgals.evaluation.page_verdict import headline_mean, judge, pick_pair
from rgals.evaluation.report import Difference, Measurement, ModelSection, Report

__all__ = [
    "OF_ALL_LISTS",
    "Cell",
    "Row",
    "Table",
    "comparison_table",
    "difference_table",
    "key_table",
    "list_metrics",
    "metric_table",
]

OF_ALL_LISTS = ("coverage", "gini", "popularity")
"""Metrics of all lists together, which have no interval."""

_JUDGEMENT = {"better": "better", "worse": "worse", "unclear": "no clear difference", "unknown": "not tested"}


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell.

    Parameters
    ----------
    text, small : str
        What it says, and what it says below in small print.
    is_best : bool
        Whether it is the best of its column.
    bar : float or None
        Length of a bar, 0 to 1.
    span : tuple of float or None
        Low end, middle and high end of an interval, 0 to 1 of the column's scale.
    zero : float or None
        Where 0 is on that scale.
    beyond : {"", "left", "right"}
        Where the middle lies outside of the scale.
    split : tuple of float or None
        Parts of a bar, 0 to 1: better and worse.
    """

    text: str
    small: str = ""
    is_best: bool = False
    bar: float | None = None
    span: tuple[float, float, float] | None = None
    zero: float | None = None
    beyond: str = ""
    split: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row: the model or bucket it is about, its look, and its cells."""

    name: str
    cells: list[Cell]
    style: ModelStyle | None = None
    small: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table: caption, names of the columns (the first is that of the rows' names), rows, what columns say below."""

    caption: str
    columns: list[str]
    rows: list[Row] = field(default_factory=list)
    smalls: list[str] = field(default_factory=list)

    def small(self, place: int) -> str:
        """Give the small print of a column."""
        return self.smalls[place] if place < len(self.smalls) else ""

    def without_blanks(self) -> "Table":
        """Leave out columns in which nothing is defined."""
        kept = [
            place
            for place in range(len(self.columns))
            if place == 0 or not self.rows or any(row.cells[place - 1].text != UNDEFINED for row in self.rows)
        ]
        return Table(
            self.caption,
            [self.columns[place] for place in kept],
            [replace(row, cells=[row.cells[place - 1] for place in kept[1:]]) for row in self.rows],
            [self.small(place) for place in kept],
        )

    @property
    def has_arrow(self) -> bool:
        """Whether an interval lies beyond the scale of its column."""
        return any(cell.beyond for row in self.rows for cell in row.cells)

    def label(self, place: int) -> str:
        """Give a column's name with its small print, in one line."""
        small = self.small(place).replace("\n", ", ")
        return f"{self.columns[place]} ({small})" if small else self.columns[place]


def list_metrics(report: Report) -> list[int]:
    """Give the cutoffs to show, that of the headline metric first."""
    first = int(report.metric.partition("@")[2] or 0)
    return sorted(report.protocol.cutoffs, key=lambda cutoff: (cutoff != first, cutoff))


def key_table(report: Report, models: Sequence[ModelSection], styles: Mapping[str, ModelStyle]) -> Table:
    """Make the table to look at first: quality with its interval, seconds, and both beside softmax."""
    cutoff = report.metric.partition("@")[2]
    recall = f"recall@{cutoff}"
    anchor = _softmax_anchor(report)
    name, level = metric_name(report.metric), percent(report.protocol.bootstrap.level, 0)
    columns = ["model", name, f"{level} interval", metric_name(recall), "time to 99%", "training"]
    smalls = ["", "", "", "", "of its own best", "to the end"]
    if anchor is not None:
        columns += [f"{name} ratio", "time ratio"]
        smalls += [f"to {anchor.label}", f"to 99%, to {anchor.label}"]
    headline = [model.metrics.get(report.metric) for model in models]
    scale = _scale(
        [
            end
            for model in _those_that_learn(models)
            if (one := model.metrics.get(report.metric)) is not None
            for end in (one.ci_low, one.mean, one.ci_high)
        ]
    )
    best = _largest(headline)
    best_recall = _largest([model.metrics.get(recall) for model in models])
    rows = []
    for model, measured in zip(models, headline, strict=True):
        mean = None if measured is None else measured.mean
        other = model.metrics.get(recall)
        other_mean = None if other is None else other.mean
        cells = [
            Cell(fixed(mean), is_best=mean is not None and mean == best),
            _interval_cell(measured, scale),
            Cell(fixed(other_mean), is_best=other_mean is not None and other_mean == best_recall),
            Cell(seconds(model.seconds_to_99)),
            Cell(seconds(model.train_s), _rounds(model)),
        ]
        if anchor is not None:
            cells += [_quality_cell(report, model, anchor), _speed_cell(model, anchor)]
        rows.append(Row(model.label, cells, styles[model.name]))
    return Table(
        f"Models by {name} on the {report.protocol.part} part, the best first", columns, rows, smalls
    ).without_blanks()


def _those_that_learn(models: Sequence[ModelSection]) -> list[ModelSection]:
    """Leave out models that learn nothing, unless there are no others: they would stretch a scale to no use."""
    return [model for model in models if model.family != "trivial"] or list(models)


def _softmax_anchor(report: Report) -> ModelSection | None:
    """Give the softmax model that the others are held against: that of the verdict, else the best."""
    for model in pick_pair(report):
        if model is not None and model.family == "softmax":
            return model
    softmax = [model for model in report.models if model.family == "softmax"]
    return max(softmax, key=lambda model: headline_mean(report, model) or 0.0, default=None)


def _rounds(model: ModelSection) -> str:
    if model.n_rounds is None:
        return ""
    return f"{model.n_rounds:,} {'round' if model.n_rounds == 1 else 'rounds'}"


def _quality_cell(report: Report, model: ModelSection, anchor: ModelSection) -> Cell:
    mean, other = headline_mean(report, model), headline_mean(report, anchor)
    if model.name == anchor.name:
        return Cell("the yardstick")
    return Cell(UNDEFINED if mean is None or not other else percent(mean / other))


def _speed_cell(model: ModelSection, anchor: ModelSection) -> Cell:
    if model.name == anchor.name:
        return Cell("the yardstick")
    own, other = model.seconds_to_99, anchor.seconds_to_99
    if model.family == "trivial" or not own or not other:
        return Cell(UNDEFINED)
    return Cell(f"1 / {times(other / own)}" if own <= other else f"{times(own / other)} / 1")


def _largest(measured: Sequence[Measurement | None]) -> float | None:
    return max((one.mean for one in measured if one is not None and one.mean is not None), default=None)


def _scale(ends: Sequence[float | None]) -> tuple[float, float]:
    """Give the range of a column of intervals, with a little room."""
    known = [end for end in ends if end is not None]
    if not known:
        return 0.0, 1.0
    spare = 0.04 * (max(known) - min(known)) or 1.0
    return min(known) - spare, max(known) + spare


def _interval_cell(
    measured: Measurement | Difference | None, scale: tuple[float, float], with_zero: bool = False
) -> Cell:
    if measured is None or measured.mean is None or measured.ci_low is None or measured.ci_high is None:
        return Cell(UNDEFINED)
    low, high = scale
    # What lies outside of the scale stands at its edge, as an arrow.
    placed = [
        min(1.0, max(0.0, (end - low) / (high - low))) for end in (measured.ci_low, measured.mean, measured.ci_high)
    ]
    write = signed if with_zero else fixed
    return Cell(
        f"{write(measured.ci_low)} to {write(measured.ci_high)}",
        span=(placed[0], placed[1], placed[2]),
        beyond="left" if measured.mean < low else "right" if measured.mean > high else "",
        zero=-low / (high - low) if with_zero and low < 0 < high else None,
    )


def metric_table(models: Sequence[ModelSection], styles: Mapping[str, ModelStyle], cutoff: int) -> Table:
    """Make the table of the metrics of single lists at a cutoff, with intervals."""
    found = dict.fromkeys(key for model in models for key in model.metrics if key.endswith(f"@{cutoff}"))
    keys = [key for key in found if not key.startswith(OF_ALL_LISTS)]
    best = {key: _largest([model.metrics.get(key) for model in models]) for key in keys}
    rows = []
    for model in models:
        cells = []
        for key in keys:
            measured = model.metrics.get(key)
            mean = None if measured is None else measured.mean
            small = ""
            if measured is not None and measured.ci_low is not None and measured.ci_high is not None:
                small = f"{fixed(measured.ci_low)} to {fixed(measured.ci_high)}"
            cells.append(Cell(fixed(mean), small, is_best=mean is not None and mean == best[key]))
        rows.append(Row(model.label, cells, styles[model.name]))
    return Table(f"Means over users for lists of {cutoff}", ["model", *(metric_name(key) for key in keys)], rows)


def comparison_table(report: Report, labels: Mapping[str, str], styles: Mapping[str, ModelStyle], key: str) -> Table:
    """Make the table of paired tests of the reference against each other model, by one metric."""
    found = [(comparison, comparison.metrics[key]) for comparison in report.comparisons if key in comparison.metrics]
    trivial = {model.name for model in report.models if model.family == "trivial"}
    near = [one for comparison, one in found if comparison.other not in trivial] or [one for _, one in found]
    scale = _scale([0.0, *(end for one in near for end in (one.ci_low, one.ci_high))])
    reference = labels.get(found[0][0].model, found[0][0].model) if found else ""
    rows = []
    for comparison, one in found:
        outcome = judge(one, report.protocol.bootstrap.level)
        rows.append(
            Row(
                labels.get(comparison.other, comparison.other),
                [
                    Cell(signed(one.mean)),
                    _interval_cell(one, scale, with_zero=True),
                    Cell(f"{one.n_better:,} / {one.n_worse:,}"),
                    Cell(p_value(one.p_bootstrap)),
                    Cell(p_value(one.p_wilcoxon)),
                    Cell(p_value(one.p_holm)),
                    Cell(_JUDGEMENT[outcome]),
                ],
                styles.get(comparison.other),
            )
        )
    columns = [
        "against", "difference", f"{percent(report.protocol.bootstrap.level, 0)} interval", "users",
        "bootstrap", "Wilcoxon", "Holm", "verdict",
    ]  # fmt: skip
    smalls = ["", "", "", "better / worse", "p of the mean", "p of the ranks", "p corrected", "on the reference"]
    caption = f"{metric_name(key)} of {reference} minus that of each other model, paired by user"
    return Table(caption, columns, rows, smalls).without_blanks()


def difference_table(report: Report, labels: Mapping[str, str], styles: Mapping[str, ModelStyle], cutoff: int) -> Table:
    """Make the table of the paired differences of all metrics at a cutoff."""
    found = [comparison for comparison in report.comparisons if comparison.metrics]
    keys = [
        key
        for key in dict.fromkeys(key for comparison in found for key in comparison.metrics)
        if key.endswith(f"@{cutoff}")
    ]
    reference = labels.get(found[0].model, found[0].model) if found else ""
    rows = [
        Row(
            labels.get(comparison.other, comparison.other),
            [_difference_cell(comparison.metrics.get(key), report.protocol.bootstrap.level) for key in keys],
            styles.get(comparison.other),
        )
        for comparison in found
    ]
    caption = f"{reference} minus each other model, lists of {cutoff}: mean, interval, Holm-corrected p, verdict"
    return Table(caption, ["against", *(metric_name(key) for key in keys)], rows)


def _difference_cell(one: Difference | None, level: float) -> Cell:
    if one is None:
        return Cell(UNDEFINED)
    lines = []
    if one.ci_low is not None and one.ci_high is not None:
        lines.append(f"{signed(one.ci_low)} to {signed(one.ci_high)}")
    if one.p_holm is not None:
        p = p_value(one.p_holm)
        lines.append(f"p {p}" if p.startswith("<") else f"p = {p}")
    return Cell(signed(one.mean), "\n".join([*lines, _JUDGEMENT[judge(one, level)]]))
