"""The report as one HTML page that needs nothing else: no network, no scripts; ``docs/report-page.md`` describes it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rgals.data.storage import replace_file
from rgals.evaluation.page_bucket_tables import bias_table, item_recall_table, user_bucket_table, wins_table
from rgals.evaluation.page_format import (
    bytes_text,
    count,
    fixed,
    metric_name,
    option_value,
    percent,
    plain,
    seconds,
    short,
    unbroken,
)
from rgals.evaluation.page_pictures import (
    ModelStyle,
    convergence_charts,
    gap_charts,
    model_styles,
    objective_charts,
    reach_sentence,
    trial_chart,
)
from rgals.evaluation.page_tables import (
    comparison_table,
    difference_table,
    key_table,
    list_metrics,
    metric_table,
)
from rgals.evaluation.page_verdict import headline_mean, make_verdict
from rgals.evaluation.report import ModelSection, Report, SampleUser

__all__ = ["PAGE_NAME", "render_page", "write_page"]

PAGE_NAME = "report.html"

_MAX_LISTED = 20
"""Items of a sample user's list, history or truth that are shown."""


def render_page(report: Report) -> str:
    """Make the page.

    Parameters
    ----------
    report : Report
        Of one model or many; sections without numbers are left out.

    Returns
    -------
    str
        A whole HTML document; every text of the report is escaped.
    """
    environment = Environment(
        loader=PackageLoader("rgals.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=count, fixed=fixed, metric=metric_name, option=option_value, percent=percent, seconds=seconds,
        short=short, bytes=bytes_text, unbroken=unbroken,
    )  # fmt: skip
    return environment.get_template("page.html.j2").render(_contents(report))


def write_page(report: Report, path: str | Path) -> None:
    """Write the page whole or not at all.

    Parameters
    ----------
    report : Report
        What to show.
    path : str or Path
        The HTML file, on a local disk; replaced when it is there.

    Raises
    ------
    DataError
        If the disk is full or the place cannot be written to; an older page stays as it was.
    """
    replace_file(Path(path), render_page(report).encode("utf-8", "replace"))


def _contents(report: Report) -> dict[str, Any]:
    """Gather everything that the template shows."""
    styles = model_styles(report.models)
    models = sorted(report.models, key=lambda model: _rank(report, model))
    labels = {model.name: model.label for model in report.models}
    cutoff = report.metric.partition("@")[2]
    keys = list(dict.fromkeys(key for comparison in report.comparisons for key in comparison.metrics))
    contents: dict[str, Any] = {
        "report": report,
        "models": models,
        "styles": styles,
        "verdict": make_verdict(report),
        "heading": _heading(report),
        "key_table": key_table(report, models, styles),
        "convergence": convergence_charts(report, styles),
        "without_curve": [model.label for model in models if not any(point.ndcg is not None for point in model.curve)],
        "reach": reach_sentence(report),
        "objectives": objective_charts(report, styles),
        "has_start": any(model.n_start_rounds and model.curve for model in models),
        "gaps": gap_charts(report, styles),
        "metric_tables": [(number, metric_table(models, styles, number)) for number in list_metrics(report)],
        "comparison": comparison_table(report, labels, styles, report.metric) if report.metric in keys else None,
        "difference_tables": [
            (number, difference_table(report, labels, styles, number))
            for number in list_metrics(report)
            if any(key.endswith(f"@{number}") for key in keys)
        ],
        "is_corrected": any(
            one.p_holm is not None for comparison in report.comparisons for one in comparison.metrics.values()
        ),
        "user_wins": wins_table(report.comparisons, labels, styles, "users"),
        "item_wins": wins_table(report.comparisons, labels, styles, "items"),
        "user_buckets": user_bucket_table(models, styles, report.metric),
        "item_recall": item_recall_table(models, styles, cutoff),
        "bias": bias_table(report, models, styles),
        "tunings": _tunings(report, models, styles),
        "users": [_sample_user(report, user, models, styles) for user in report.sample_users],
    }
    contents["has_importance"] = any(one["importance"] for one in contents["tunings"])
    contents["sections"] = _sections(contents)
    return contents


def _rank(report: Report, model: ModelSection) -> tuple[bool, float]:
    """Sort the best first, what is undefined last."""
    mean = headline_mean(report, model)
    return mean is None, -(mean or 0.0)


def _heading(report: Report) -> str:
    dataset = report.provenance.dataset if report.provenance is not None else ""
    place = dataset.rstrip("/").rpartition("/")[2] or f"dataset {report.dataset.fingerprint[:12]}"
    n_models = len(report.models)
    models = "1 model" if n_models == 1 else f"{n_models} models"
    return f"{report.kind.capitalize()} of {models} on {place}"


def _sections(contents: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the sections that have something to show: their anchors and names, in the order of the page."""
    report: Report = contents["report"]
    found = [
        ("models", "Models", True),
        ("time", "Quality and time", bool(contents["convergence"])),
        ("objective", "Objective", bool(contents["objectives"])),
        ("gap", "Surrogate gap", bool(contents["gaps"])),
        ("metrics", "All metrics", bool(contents["metric_tables"])),
        ("tests", "Paired tests", contents["comparison"] is not None or bool(contents["difference_tables"])),
        ("buckets", "Wins and losses", _has_buckets(contents)),
        ("bias", "Popularity bias", len(contents["bias"].columns) > 1),
        ("tuning", "Tuning", bool(contents["tunings"])),
        ("users", "Sample users", bool(contents["users"])),
        ("left-out", "Left out", bool(report.left_out)),
        ("provenance", "Provenance", True),
    ]
    return [(anchor, name) for anchor, name, is_there in found if is_there]


def _has_buckets(contents: Mapping[str, Any]) -> bool:
    return any(contents[name] is not None for name in ("user_wins", "item_wins", "user_buckets", "item_recall"))


def _tunings(report: Report, models: Sequence[ModelSection], styles: Mapping[str, ModelStyle]) -> list[dict[str, Any]]:
    """Gather the searches: the chart of trials, the best options, their importance, largest first."""
    found = []
    for model in models:
        tuning = model.tuning
        if tuning is None:
            continue
        best = next((trial for trial in tuning.trials if trial.number == tuning.best_trial), None)
        options = dict(best.options) if best is not None else {}
        found.append({
            "label": model.label,
            "style": styles[model.name],
            "tuning": tuning,
            "chart": trial_chart(model.label, tuning, styles[model.name], metric_name(report.metric)),
            "importance": tuning.importance or {},
            "names": sorted(
                dict.fromkeys([*options, *tuning.space]), key=lambda name: -(tuning.importance or {}).get(name, 0.0)
            ),
            "options": options,
            "ranges": {name: _range(dimension) for name, dimension in tuning.space.items()},
        })  # fmt: skip
    return found


def _range(dimension: Any) -> str:
    if dimension.choices is not None:
        return " or ".join(option_value(choice) for choice in dimension.choices)
    log = ", log" if dimension.log else ""
    return f"{plain(dimension.low)} to {plain(dimension.high)}{log}"


def _sample_user(
    report: Report, user: SampleUser, models: Sequence[ModelSection], styles: Mapping[str, ModelStyle]
) -> dict[str, Any]:
    """Gather what a sample user has seen, what is held out, and each model's list."""

    def title(item_id: str) -> str:
        return report.titles.get(item_id, item_id)

    lists = []
    for model in models:
        if model.name not in user.lists:
            continue
        items = user.lists[model.name]
        lists.append({
            "label": model.label,
            "style": styles[model.name],
            "places": [(title(item.item_id), item.is_hit) for item in items[:_MAX_LISTED]],
            "n_hits": sum(item.is_hit for item in items),
            "n_items": len(items),
        })  # fmt: skip
    found = {item.item_id for items in user.lists.values() for item in items if item.is_hit}
    return {
        "user_id": user.user_id,
        "n_seen": user.n_seen,
        "seen": [title(item_id) for item_id in user.seen[:_MAX_LISTED]],
        "held_out": [(title(item_id), item_id in found) for item_id in user.held_out[:_MAX_LISTED]],
        "n_held_out": len(user.held_out),
        "lists": lists,
        "max_hits": max((sum(item.is_hit for item in items) for items in user.lists.values()), default=0),
    }
