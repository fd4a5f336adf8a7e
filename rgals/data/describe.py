"""What a dataset holds, in numbers: counts, density, how interactions are spread over users and items."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from rgals.data.dataset import Dataset
from rgals.data.ids import IdKind
from rgals.data.ledger import Ledger
from rgals.data.splits import SplitRule
from rgals.data.storage import redact
from rgals.names import Offsets, Part, Side

__all__ = [
    "DatasetDescription",
    "DegreeBin",
    "DegreeSummary",
    "PartDescription",
    "describe",
    "draw_degrees",
    "gini",
    "summarize_degrees",
]

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)

_SIDES: tuple[Side, Side] = ("user", "item")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DegreeBin(_Record):
    """How many rows have a degree from ``low`` to ``high``, both included."""

    low: int
    high: int
    n_rows: int


class DegreeSummary(_Record):
    """How the training interactions are spread over the rows of one side."""

    n_rows: int
    """All rows of the dictionary."""

    n_empty: int
    """Rows without a training interaction."""

    mean: float | None
    """Interactions per row; None if there are no rows."""

    quantiles: dict[str, int]
    """Degrees by quantile: the smallest degree that at least this fraction of rows does not exceed."""

    gini: float | None
    """0: all rows have the same degree; near 1: a few rows have nearly all. None without interactions."""

    histogram: tuple[DegreeBin, ...]
    """Rows with at least one interaction, in bins that double: 1, 2 to 3, 4 to 7 and so on."""


class PartDescription(_Record):
    """Counts and ranges of one part."""

    n_interactions: int
    """Interactions of the part."""

    share: float | None
    """Fraction of all interactions; None if there are none."""

    n_users: int
    """Users with at least one of them."""

    n_items: int
    """Items with at least one of them."""

    mean_weight: float | None
    """Mean weight; None without interactions."""

    smallest_weight: float | None
    """Smallest weight."""

    largest_weight: float | None
    """Largest weight."""

    first_time: str | None
    """Earliest time, UTC; None without times."""

    last_time: str | None
    """Latest time, UTC."""


class DatasetDescription(_Record):
    """Everything that ``rgals describe`` shows."""

    location: str
    """Where the dataset is."""

    fingerprint: str
    """Its identity."""

    n_bytes: int
    """Size of its files."""

    n_users: int
    """Rows of the user dictionary."""

    n_items: int
    """Rows of the item dictionary."""

    user_id_kind: IdKind
    """Type of the user ids."""

    item_id_kind: IdKind
    """Type of the item ids."""

    n_interactions: int
    """Interactions of all parts."""

    density: float | None
    """Their fraction of all pairs of a user and an item; None if there are no pairs."""

    n_shards: dict[Side, int]
    """Files of training interactions on each side."""

    split: SplitRule
    """The rule that made the parts."""

    parts: dict[Part, PartDescription]
    """By part."""

    degrees: dict[Side, DegreeSummary]
    """Of the training interactions, by side."""

    ledger: Ledger
    """What became of every row that was ingested."""

    options: dict[str, Any]
    """The options of the ingest."""

    versions: dict[str, str]
    """Versions of the packages that wrote it."""


def describe(dataset: Dataset, progress: Callable[[int, int], None] | None = None) -> DatasetDescription:
    """Read a dataset once and summarize it, one training shard in memory at a time.

    Parameters
    ----------
    dataset : Dataset
        What to describe; the files read are verified.
    progress : callable or None
        Told the number of interactions read and to read.

    Raises
    ------
    DataError
        If a file is missing or damaged.
    """
    manifest = dataset.manifest
    n_interactions = sum(summary.n_interactions for summary in manifest.parts.values())
    degrees: dict[Side, Offsets] = {
        "user": np.zeros(dataset.n_users, dtype=np.int64),
        "item": np.zeros(dataset.n_items, dtype=np.int64),
    }
    parts: dict[Part, PartDescription] = {}
    n_read = 0
    for part in dataset.part_names:
        ranges = _Ranges()
        for entries in dataset.iter_entries(part):
            ranges.add(entries.weights, entries.times, entries.rows.size)
            if part == "train":
                degrees["user"] += np.bincount(entries.rows, minlength=dataset.n_users)
                degrees["item"] += np.bincount(entries.columns, minlength=dataset.n_items)
            n_read += entries.rows.size
            if progress is not None:
                progress(n_read, n_interactions)
        summary = manifest.parts[part]
        parts[part] = PartDescription(
            n_interactions=summary.n_interactions,
            share=summary.n_interactions / n_interactions if n_interactions else None,
            n_users=summary.n_users,
            n_items=summary.n_items,
            **ranges.fields(),
        )
    n_pairs = dataset.n_users * dataset.n_items
    return DatasetDescription(
        location=redact(str(dataset.location)),
        fingerprint=dataset.fingerprint,
        n_bytes=dataset.n_bytes,
        n_users=dataset.n_users,
        n_items=dataset.n_items,
        user_id_kind=manifest.user_id_kind,
        item_id_kind=manifest.item_id_kind,
        n_interactions=n_interactions,
        density=n_interactions / n_pairs if n_pairs else None,
        n_shards={side: len(dataset.shard_ranges(side)) for side in _SIDES},
        split=manifest.split,
        parts=parts,
        degrees={side: summarize_degrees(degrees[side]) for side in _SIDES},
        ledger=manifest.ledger,
        options=manifest.options,
        versions=manifest.versions,
    )


def summarize_degrees(degrees: Offsets) -> DegreeSummary:
    """Summarize the degrees of one side.

    Parameters
    ----------
    degrees : int64 array of shape (n_rows,)
        Interactions of each row.
    """
    n_rows = degrees.size
    values: Any = np.quantile(degrees, QUANTILES, method="inverted_cdf") if n_rows else []
    bins = []
    n_largest = int(degrees.max()) if n_rows else 0
    counts = np.bincount(np.frexp(degrees[degrees > 0])[1] - 1)
    for exponent in range(n_largest.bit_length()):
        low = 1 << exponent
        bins.append(DegreeBin(low=low, high=2 * low - 1, n_rows=int(counts[exponent])))
    return DegreeSummary(
        n_rows=n_rows,
        n_empty=int(np.count_nonzero(degrees == 0)),
        mean=float(degrees.mean()) if n_rows else None,
        quantiles={f"{quantile:g}": int(value) for quantile, value in zip(QUANTILES, values, strict=False)},
        gini=gini(degrees),
        histogram=tuple(bins),
    )


def gini(degrees: Offsets) -> float | None:
    """Give the Gini coefficient of counts, rows without interactions included.

    Returns
    -------
    float or None
        Between 0 and 1 - 1/n; None where no row has an interaction.

    Notes
    -----
    With x ascending: sum_i (2 i - n - 1) x_i / (n sum_i x_i), i = 1..n.
    """
    n = degrees.size
    total = float(degrees.sum(dtype=np.float64))
    if not total:
        return None
    ranks = 2.0 * np.arange(1, n + 1) - n - 1
    return float(ranks @ np.sort(degrees).astype(np.float64)) / (n * total)


def draw_degrees(description: DatasetDescription) -> bytes:
    """Draw the degree distributions of users and items on logarithmic axes.

    Returns
    -------
    bytes
        A PNG file.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 (it costs every command a third of a second)

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for side, marker in zip(_SIDES, "os", strict=True):
        summary = description.degrees[side]
        filled = [bin_ for bin_ in summary.histogram if bin_.n_rows]
        centers = [(bin_.low * bin_.high) ** 0.5 for bin_ in filled]
        densities = [bin_.n_rows / (bin_.high - bin_.low + 1) for bin_ in filled]
        inequality = "" if summary.gini is None else f", Gini {summary.gini:.2f}"
        axes.plot(centers, densities, marker=marker, label=f"{summary.n_rows:,} {side}s{inequality}")
    if description.parts["train"].n_interactions:  # an axis without points cannot be logarithmic
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlabel("degree: training interactions of a row")
    axes.set_ylabel("rows for each degree")
    axes.set_title(f"{description.parts['train'].n_interactions:,} training interactions")
    axes.legend()
    axes.grid(visible=True, which="major", alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()


class _Ranges:
    """Running extremes and sums of weights and times."""

    def __init__(self) -> None:
        self._n, self._sum = 0, 0.0
        self._weights: tuple[float, float] | None = None
        self._times: tuple[int, int] | None = None

    def add(self, weights: Any, times: Any, n: int) -> None:
        if not n:
            return
        self._n += n
        self._sum += float(n if weights is None else weights.sum(dtype=np.float64))
        low, high = (1.0, 1.0) if weights is None else (float(weights.min()), float(weights.max()))
        self._weights = (
            (low, high) if self._weights is None else (min(self._weights[0], low), max(self._weights[1], high))
        )
        if times is not None:
            first, last = int(times.min()), int(times.max())
            self._times = (
                (first, last) if self._times is None else (min(self._times[0], first), max(self._times[1], last))
            )

    def fields(self) -> dict[str, Any]:
        low, high = self._weights or (None, None)
        first, last = (None, None) if self._times is None else (_time_text(time) for time in self._times)
        return {
            "mean_weight": self._sum / self._n if self._n else None,
            "smallest_weight": low,
            "largest_weight": high,
            "first_time": first,
            "last_time": last,
        }


def _time_text(microseconds: int) -> str:
    """Give a time in ISO-8601, for any year that int64 microseconds reach."""
    return f"{np.datetime_as_string(np.datetime64(microseconds, 'us'))}Z"
