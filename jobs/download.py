"""``rgals download``: fetch a public data set."""

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.console import progress_bar
from rgals.data.download import PUBLIC_SOURCES, find_source
from rgals.data.download import download as fetch
from rgals.data.storage import check_output
from rgals.errors import InputError

__all__ = ["download"]


def download(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The data set; --list shows them.")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="The folder to make.")] = None,
    is_list: Annotated[bool, typer.Option("--list", help="Show the data sets and end.")] = False,
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", help="Accept the publisher's terms without being asked.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing download.")] = False,
) -> None:
    """Fetch a public data set: terms, checksum, unpacked into a new folder."""
    if is_list:
        _print_sources()
        return
    if name is None or output is None:
        raise InputError("expected NAME and --output FOLDER; rgals download --list shows the names")
    source = find_source(name)
    check_output(output, overwrite)
    typer.echo(f"{source.name}: {source.description}\n{source.url}\nTerms: {source.terms}")
    if not accept_terms and sys.stdin.isatty():
        accept_terms = typer.confirm("Accept these terms?")
    with progress_bar(f"downloading {name}", counts_bytes=True) as progress:
        summary = fetch(source, output, accept_terms=accept_terms, overwrite=overwrite, progress=progress)
    checked = "equals the publisher's MD5" if summary.md5_checked else "the publisher gives no checksum to compare with"
    typer.echo(f"\nReceived {summary.n_bytes / 1e6:,.1f} MB; {checked}.\nSHA-256 {summary.sha256}")
    typer.echo("Files: " + ", ".join(summary.file_names))
    typer.echo(f"Next: rgals ingest {summary.location}/{source.events_file} --output DATASET")
    columns = zip(("user", "item", "time", "rating"), source.columns, strict=False)
    typer.echo("Its columns: " + ", ".join(f"{role} {column}" for role, column in columns))


def _print_sources() -> None:
    table = Table(title="Public data sets", title_justify="left")
    for heading in ("name", "what", "download", "checksum"):
        table.add_column(heading, overflow="fold")
    for source in PUBLIC_SOURCES:
        size = f"{source.about_bytes / 1e6:,.0f} MB"
        table.add_row(source.name, escape(source.description), size, "MD5" if source.md5_url else "none published")
    Console().print(table)
