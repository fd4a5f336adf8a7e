"""``rgals synthesize``: generate realistic interactions."""

from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from jobs.console import progress_bar
from rgals.data.storage import redact
from rgals.data.synthesize import SynthesisSummary, SynthesizeOptions
from rgals.data.synthesize import synthesize as write_synthetic
from rgals.errors import InputError

__all__ = ["synthesize"]

_DEFAULTS = SynthesizeOptions()


def synthesize(
    output: Annotated[
        str, typer.Option("--output", "-o", help="A file NAME.parquet, or a folder of part files (faster when large).")
    ],
    users: Annotated[int, typer.Option(help="Number of users.")] = _DEFAULTS.n_users,
    items: Annotated[int, typer.Option(help="Number of items on offer.")] = _DEFAULTS.n_items,
    interactions: Annotated[
        int, typer.Option(help="Number of distinct (user, item) pairs; met exactly.")
    ] = _DEFAULTS.n_interactions,
    topics: Annotated[int, typer.Option(help="Rank of the planted model of tastes.")] = _DEFAULTS.n_topics,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = _DEFAULTS.seed,
    id_type: Annotated[str, typer.Option(help="Ids as 'string' (u0042) or 'int64'.")] = _DEFAULTS.id_type,
    with_time: Annotated[bool, typer.Option("--time/--no-time", help="Write the column time.")] = _DEFAULTS.with_time,
    with_rating: Annotated[
        bool, typer.Option("--rating/--no-rating", help="Write the column rating (1 to 5).")
    ] = _DEFAULTS.with_rating,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    threads: Annotated[int | None, typer.Option(help="Threads; all processors when left out.")] = None,
) -> None:
    """Generate interactions with planted tastes, power-law popularity, sessions and ratings."""
    try:
        options = SynthesizeOptions.model_validate(
            {
                "n_users": users,
                "n_items": items,
                "n_interactions": interactions,
                "n_topics": topics,
                "seed": seed,
                "id_type": id_type,
                "with_time": with_time,
                "with_rating": with_rating,
            }
        )
    except ValidationError as error:
        raise InputError(_first_problem(error)) from error
    with progress_bar("generating interactions") as progress:
        summary = write_synthetic(output, options, overwrite=overwrite, progress=progress, n_threads=threads)
    _print_summary(summary)
    typer.echo(f"Next: rgals ingest {redact(output)} --output DATASET")


def _first_problem(error: ValidationError) -> str:
    """Say the first thing that is wrong with the options, in the words of the command line."""
    problem = error.errors()[0]
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    name = str(problem["loc"][0])
    option = "--" + name.removeprefix("n_").replace("_", "-")
    return f"{option}: {message[0].lower()}{message[1:]}, found {problem['input']!r}; see rgals synthesize --help"


def _print_summary(summary: SynthesisSummary) -> None:
    """Print what was generated as a small table."""
    table = Table(title=f"Generated {summary.location}", show_header=False, title_justify="left")
    rows = {
        "interactions": f"{summary.n_interactions:,} in {summary.n_files} file(s), {summary.n_bytes / 1e6:,.1f} MB",
        "users": f"{summary.n_users:,}, each with {summary.min_activity:,} to {summary.max_activity:,} interactions "
        f"(median {summary.median_activity:,.0f})",
        "items used": f"{summary.n_items_used:,}; the most popular 1% take {summary.top_percent_share:.1%}",
        "time": f"{summary.elapsed_s:.1f} s",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)
