"""The tables of the report page by activity of users and popularity of items."""

from collections.abc import Mapping, Sequence

from rgals.evaluation.page_format import UNDEFINED, fixed, metric_name, metric_value, percent, signed
from rgals.evaluation.page_pictures import ModelStyle
from rgals.evaluation.page_tables import OF_ALL_LISTS, Cell, Row, Table
from rgals.evaluation.report import BucketDifference, Comparison, ModelSection, Report, UserBucketDifference

__all__ = ["bias_table", "item_recall_table", "user_bucket_table", "wins_table"]

_BIAS_NOTES = {"coverage": "of all items", "gini": "0 is even", "popularity": "mean degree"}


def wins_table(
    comparisons: Sequence[Comparison], labels: Mapping[str, str], styles: Mapping[str, ModelStyle], side: str
) -> Table | None:
    """Make the table of wins and losses by bucket of users or of items.

    Parameters
    ----------
    comparisons : sequence of Comparison
        The reference against the others.
    labels : mapping of str to str
        Names to show, by model.
    styles : mapping of str to ModelStyle
        Looks, by model.
    side : {"users", "items"}
        Whose buckets.
    """
    found: list[tuple[Comparison, Sequence[BucketDifference | UserBucketDifference]]] = [
        (one, one.user_buckets if side == "users" else one.item_buckets) for one in comparisons
    ]
    found = [(one, buckets) for one, buckets in found if buckets]
    if not found:
        return None
    names = list(dict.fromkeys(bucket.label for _, buckets in found for bucket in buckets))
    reference = labels.get(found[0][0].model, found[0][0].model)
    rows = []
    for one, buckets in found:
        by_label = {bucket.label: bucket for bucket in buckets}
        largest = max(max(bucket.n_better, bucket.n_worse) for bucket in buckets) or 1
        cells = []
        for name in names:
            bucket = by_label.get(name)
            if bucket is None:
                cells.append(Cell(UNDEFINED))
                continue
            cells.append(
                Cell(
                    f"{bucket.n_better:,} / {bucket.n_worse:,}",
                    f"mean {signed(bucket.mean)}",
                    split=(bucket.n_better / largest, bucket.n_worse / largest),
                )
            )
        rows.append(Row(labels.get(one.other, one.other), cells, styles.get(one.other)))
    if side == "users":
        caption = f"Users with a better / worse list from {reference}, by number of items that they have seen"
        return Table(caption, ["against", *(f"{name} seen" for name in names)], rows)
    what = "Held-out interactions that only {} finds / only the other finds, by training interactions of the item"
    return Table(what.format(reference), ["against", *names], rows, ["", *_ends(len(names))])


def user_bucket_table(models: Sequence[ModelSection], styles: Mapping[str, ModelStyle], key: str) -> Table | None:
    """Make the table of a metric by user activity."""
    found = [model for model in models if model.user_buckets]
    if not found:
        return None
    buckets = found[0].user_buckets
    best = [
        max((_bucket_value(model, place, key) or 0.0 for model in found), default=0.0) for place in range(len(buckets))
    ]
    rows = [
        Row(
            model.label,
            [
                Cell(
                    fixed(_bucket_value(model, place, key)),
                    is_best=best[place] > 0 and _bucket_value(model, place, key) == best[place],
                )
                for place in range(len(buckets))
            ],
            styles[model.name],
        )
        for model in found
    ]
    columns = ["model", *(f"{bucket.label} seen" for bucket in buckets)]
    smalls = ["", *(f"{bucket.n_users:,} users" for bucket in buckets)]
    return Table(f"{metric_name(key)} by number of items that a user has seen", columns, rows, smalls)


def _bucket_value(model: ModelSection, place: int, key: str) -> float | None:
    return model.user_buckets[place].metrics.get(key) if place < len(model.user_buckets) else None


def item_recall_table(models: Sequence[ModelSection], styles: Mapping[str, ModelStyle], cutoff: str) -> Table | None:
    """Make the table of recall by item popularity."""
    found = [model for model in models if model.item_buckets]
    if not found:
        return None
    buckets = found[0].item_buckets
    best = [max(model.item_buckets[place].recall or 0.0 for model in found) for place in range(len(buckets))]
    rows = [
        Row(
            model.label,
            [
                Cell(fixed(bucket.recall), is_best=best[place] > 0 and bucket.recall == best[place])
                for place, bucket in enumerate(model.item_buckets)
            ],
            styles[model.name],
        )
        for model in found
    ]
    columns = ["model", *(bucket.label for bucket in buckets)]
    smalls = ["", *(f"{bucket.n_items:,} items\n{bucket.n_held_out:,} held out" for bucket in buckets)]
    caption = f"Share of held-out interactions found in lists of {cutoff}, by training interactions of the item"
    return Table(caption, columns, rows, smalls)


def bias_table(report: Report, models: Sequence[ModelSection], styles: Mapping[str, ModelStyle]) -> Table:
    """Make the table of popularity bias: whole-catalog metrics, and who takes the places of the lists."""
    cutoff = report.metric.partition("@")[2]
    keys = [
        key for key in (f"{name}@{cutoff}" for name in OF_ALL_LISTS) if any(key in model.metrics for model in models)
    ]
    buckets = next((model.item_buckets for model in models if model.item_buckets), [])
    rows = []
    for model in models:
        cells = [
            Cell(UNDEFINED if key not in model.metrics else _bias_value(key, model.metrics[key].mean)) for key in keys
        ]
        shares = [bucket.share for bucket in model.item_buckets] or [None] * len(buckets)
        cells += [Cell(percent(share), bar=share) for share in shares]
        rows.append(Row(model.label, cells, styles[model.name]))
    if buckets:
        rows.append(_truth_row(models, len(keys)))
    names = [metric_name(key).partition("@")[0] for key in keys]
    columns = ["model", *names, *(bucket.label for bucket in buckets)]
    smalls = ["", *(_BIAS_NOTES[key.partition("@")[0]] for key in keys), *_ends(len(buckets))]
    return Table(f"What the lists of {cutoff} are made of", columns, rows, smalls)


def _ends(n_buckets: int) -> list[str]:
    """Give what the buckets of items at the ends are called, for the small print of their columns."""
    return [""] * n_buckets if n_buckets < 2 else ["the tail", *[""] * (n_buckets - 2), "the head"]


def _bias_value(key: str, value: float | None) -> str:
    return percent(value) if key.startswith("coverage") else metric_value(key, value)


def _truth_row(models: Sequence[ModelSection], n_before: int) -> Row:
    """Give what users took in truth, to hold the lists against."""
    buckets = next(model.item_buckets for model in models if model.item_buckets)
    total = sum(bucket.n_held_out for bucket in buckets)
    shares = [bucket.n_held_out / total if total else None for bucket in buckets]
    cells = [Cell("") for _ in range(n_before)] + [Cell(percent(share), bar=share) for share in shares]
    return Row("held-out truth", cells, small="what users took")
