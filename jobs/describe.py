"""``rgals describe``: what a dataset holds."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.console import progress_bar
from rgals.data.dataset import Dataset
from rgals.data.describe import DatasetDescription, DegreeSummary, draw_degrees
from rgals.data.describe import describe as describe_dataset
from rgals.data.storage import replace_file
from rgals.errors import OutputExistsError

__all__ = ["describe"]

_BAR_CHARACTERS = 40


def describe(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="Dataset folder: a local path or a URI such as s3://...")
    ],
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE.png", help="Draw the degree distributions as a PNG file.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing picture.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show a dataset's counts, parts, degree distributions and ledger, and verify its files."""
    if picture is not None and picture.exists() and not overwrite:
        raise OutputExistsError(f"{picture}: exists already; choose another file or pass --overwrite")
    opened = Dataset.open(dataset)
    opened.verify()
    with progress_bar("reading interactions") as report:
        description = describe_dataset(opened, report)
    if picture is not None:
        replace_file(picture, draw_degrees(description))
    if as_json:
        typer.echo(description.model_dump_json(indent=2))
        return
    console = Console()
    _print_overview(console, description)
    console.print(_counts_table(description))
    if (ranges := _ranges_table(description)) is not None:
        console.print(ranges)
    for side in ("user", "item"):
        _print_degrees(console, side, description.degrees["user" if side == "user" else "item"])
    console.print(_ledger_table(description))
    if picture is not None:
        console.print(f"Picture: {picture}", markup=False, highlight=False, soft_wrap=True)


def _print_overview(console: Console, description: DatasetDescription) -> None:
    """Print what the dataset is, one line for each fact."""
    split = description.split.model_dump(mode="json", exclude_none=True)
    options = ", ".join(f"{name} {value}" for name, value in split.items() if name != "kind")
    density = "undefined" if description.density is None else f"{description.density:.3g}"
    lines = (
        ("dataset", description.location),
        ("fingerprint", description.fingerprint),
        (
            "size",
            f"{description.n_bytes / 1e6:,.1f} MB in {description.n_shards['user']} shards by user, "
            f"{description.n_shards['item']} by item",
        ),
        ("users", f"{description.n_users:,} ({description.user_id_kind} ids)"),
        ("items", f"{description.n_items:,} ({description.item_id_kind} ids)"),
        ("interactions", f"{description.n_interactions:,}, density {density}"),
        ("split", split["kind"] + (f": {options}" if options else "")),
    )
    for name, value in lines:
        console.print(f"{name:<13}{value}", markup=False, highlight=False, soft_wrap=True)


def _counts_table(description: DatasetDescription) -> Table:
    """Make one row of counts for each part."""
    table = _table("Parts", "part", numbers=("interactions", "share", "users", "items"))
    for name, part in description.parts.items():
        share = "" if part.share is None else f"{part.share:.1%}"
        table.add_row(name, f"{part.n_interactions:,}", share, f"{part.n_users:,}", f"{part.n_items:,}")
    return table


def _ranges_table(description: DatasetDescription) -> Table | None:
    """Make one row of weights and times for each part; None where all weights are 1 and there are no times."""
    parts = {name: part for name, part in description.parts.items() if part.n_interactions}
    has_weights = any(part.smallest_weight != 1 or part.largest_weight != 1 for part in parts.values())
    has_times = any(part.first_time is not None for part in parts.values())
    if not has_weights and not has_times:
        return None
    weight_columns = ("least weight", "mean", "largest") if has_weights else ()
    time_columns = ("first (UTC)", "last (UTC)") if has_times else ()
    table = _table("Weights and times", "part", numbers=(*weight_columns, *time_columns))
    for name, part in parts.items():
        cells: list[str] = [name]
        if has_weights:
            cells += [f"{value:.4g}" for value in (part.smallest_weight, part.mean_weight, part.largest_weight)]
        if has_times:
            cells += [_to_the_minute(part.first_time), _to_the_minute(part.last_time)]
        table.add_row(*cells)
    return table


def _print_degrees(console: Console, side: str, summary: DegreeSummary) -> None:
    """Print the quantiles of a side's degrees, and its distribution as bars."""
    inequality = "undefined" if summary.gini is None else f"{summary.gini:.3f}"
    mean = "undefined" if summary.mean is None else f"{summary.mean:,.1f}"
    quantiles = ", ".join(f"{float(name):.0%} {value:,}" for name, value in summary.quantiles.items())
    console.print(
        f"\nTraining interactions of each {side}: mean {mean}, Gini {inequality}, {summary.n_empty:,} without\n"
        f"quantiles: {quantiles}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=None, padding=(0, 1))
    table.add_column("degree", justify="right")
    table.add_column(f"{side}s", justify="right")
    table.add_column("")
    largest = max((bin_.n_rows for bin_ in summary.histogram), default=1)
    first = next((position for position, bin_ in enumerate(summary.histogram) if bin_.n_rows), 0)
    for bin_ in summary.histogram[first:]:
        degrees = f"{bin_.low:,}" if bin_.low == bin_.high else f"{bin_.low:,} to {bin_.high:,}"
        # A row that is there at all is seen, however long the longest bar.
        length = max(round(_BAR_CHARACTERS * bin_.n_rows / largest), 1 if bin_.n_rows else 0)
        table.add_row(degrees, f"{bin_.n_rows:,}", "█" * length)
    console.print(table)


def _ledger_table(description: DatasetDescription) -> Table:
    table = _table("Ledger", "rows", numbers=("count",))
    for name, count in description.ledger.describe():
        table.add_row(escape(name), f"{count:,}")
    return table


def _table(title: str, first: str, *, numbers: tuple[str, ...]) -> Table:
    """Make a table whose numbers are never cut, however narrow the terminal."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _to_the_minute(time: str | None) -> str:
    return "" if time is None else time[:-11].replace("T", " ")
