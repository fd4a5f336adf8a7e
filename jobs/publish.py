"""``rgals publish``: make a model the current one of a registry, if it ranks no worse than the one before."""

import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.console import progress_bar
from jobs.executor_options import ThreadsOption
from rgals.artifact.item_index import IndexOptions
from rgals.artifact.model import Model
from rgals.artifact.registry import CurrentVersion, Publication
from rgals.artifact.registry import publish as publish_model
from rgals.artifact.registry_gate import Gate, GateOptions
from rgals.artifact.registry_index import attach_index, build_index
from rgals.artifact.registry_records import Estimate, Judgement
from rgals.artifact.registry_reports import attach_report, check_report
from rgals.data.dataset import Dataset
from rgals.errors import InputError
from rgals.numerics.threads import available_threads

__all__ = ["publish"]


def publish(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder: a local path or a URI such as s3://...")],
    registry: Annotated[
        str, typer.Argument(metavar="REGISTRY", help="Registry: a local path or a URI; made where it is not there.")
    ],
    dataset: Annotated[
        str, typer.Option("--dataset", "-d", metavar="DATASET", help="Dataset folder with the held-out part.")
    ],
    part: Annotated[str, typer.Option(help="The held-out part: 'test' or 'validation'.")] = "test",
    metric: Annotated[str, typer.Option(metavar="NAME@K", help="The metric that decides.")] = "ndcg@20",
    margin: Annotated[
        str,
        typer.Option(metavar="AMOUNT|PERCENT", help="By how much it may fall: 0.001, or 1% of the current version's."),
    ] = "0",
    gains: Annotated[
        str, typer.Option(help="What a relevant item is worth in NDCG: 'binary' 1, 'graded' its weight.")
    ] = "binary",
    bootstrap: Annotated[int, typer.Option(metavar="N", help="Bootstrap resamples, at least 100.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Publish even if the gate objects; the history keeps that, and the numbers.")
    ] = False,
    keep: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Delete versions beyond the newest N, at least 2.", show_default="all versions are kept"
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="REPORT",
            help="Report of rgals evaluate for this model, with its page: the service shows them beside the model.",
        ),
    ] = None,
    index: Annotated[
        bool,
        typer.Option(
            "--index", help="Attach an approximate index, for catalogs of some hundred thousand items and more."
        ),
    ] = False,
    index_recall: Annotated[
        float, typer.Option(metavar="SHARE", help="Least share of the exact lists' items that the index must find.")
    ] = 0.99,
    threads: ThreadsOption = None,
) -> None:
    """Compare a model with the current version and with popularity; copy it into the registry if it holds its own.

    The exit code is 1 if it is refused: the interval of its difference from the current version reaches below the
    margin, or it is not above popularity. docs/registry.md explains the gate and the folder.
    """
    options = _read_options(part, metric, margin, gains, bootstrap, seed)
    if threads is not None and threads < 1:
        raise InputError(f"--threads: expected at least 1, found {threads}; leave it out to use every processor")
    candidate, data = Model.open(model), Dataset.open(dataset)
    if report is not None:
        check_report(report, candidate)
    if not 0 < index_recall <= 1:
        raise InputError(f"--index-recall: expected a share above 0 and up to 1, found {index_recall}")
    gate = Gate(candidate, data, options, n_threads=threads)

    def judge(current: CurrentVersion | None) -> Judgement:
        with progress_bar("ranking all items for the held-out users") as ranked:
            return gate(current, ranked)

    def attach() -> None:
        if report is not None:
            attach_report(registry, candidate, report)
        if index:
            _attach_index(registry, candidate, index_recall, threads)

    command = shlex.join(["rgals", *sys.argv[1:]])
    with ExitStack() as stack:
        copied = _bar_on_first_call(stack, "copying the model")
        publication = publish_model(
            registry, candidate, judge, force=force, keep=keep, command=command, progress=copied, before=attach
        )
    _print(publication)
    if not publication.is_published:
        raise typer.Exit(1)


def _attach_index(registry: str, model: Model, recall: float, threads: int | None) -> None:
    """Build an index, and attach it if it finds enough; the model is published either way."""
    with ExitStack() as stack:
        with progress_bar("building the index") as progress:
            options = IndexOptions(gate=recall)
            built = stack.enter_context(build_index(model, options, threads or available_threads(), progress))
        record = built.record
        found = f"finds {record.recall:.2%} of the items of {record.n_users:,} exact lists of {record.options.k}"
        if not record.is_passed:
            typer.echo(f"rgals: warning: the index {found}, less than {recall:.2%}, and is not attached", err=True)
            return
        attach_index(registry, model, built)
    Console().print(
        f"Attached an index of {record.n_bytes / 1e6:,.0f} MB, which {found}", highlight=False, soft_wrap=True
    )


def _bar_on_first_call(stack: ExitStack, description: str) -> Callable[[int, int | None], None]:
    """Make a progress function whose bar appears when there is something to show."""
    bars: list[Callable[[int, int | None], None]] = []

    def report(done: int, total: int | None) -> None:
        if not bars:
            bars.append(stack.enter_context(progress_bar(description, counts_bytes=True)))
        bars[0](done, total)

    return report


def _read_options(part: str, metric: str, margin: str, gains: str, n_resamples: int, seed: int) -> GateOptions:
    is_relative = margin.endswith("%")
    try:
        amount = float(margin.removesuffix("%")) / (100 if is_relative else 1)
    except ValueError as error:
        raise InputError(
            f"--margin: expected an amount such as 0.001, or a percentage such as 1%, found {margin!r}"
        ) from error
    try:
        return GateOptions.model_validate(
            {
                "metric": metric,
                "part": part,
                "gains": gains,
                "margin": amount,
                "is_relative": is_relative,
                "n_resamples": n_resamples,
                "seed": seed,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        name = "bootstrap" if field == "n_resamples" else field
        raise InputError(f"--{name}: {first['msg']}, found {first['input']!r}") from error


def _print(publication: Publication) -> None:
    """Print the numbers, then what became of the model."""
    event, console = publication.event, Console()
    judgement = event.judgement
    if judgement is not None:
        console.print(_table(judgement))
        for note in judgement.notes:
            typer.echo(f"rgals: warning: {note}", err=True)
    reasons = () if judgement is None else judgement.reasons
    if not publication.is_published:
        for reason in reasons:
            typer.echo(f"rgals: refused: {reason}", err=True)
        stays = f"{event.previous} stays current" if event.previous else "nothing is published"
        typer.echo(f"rgals: {stays}; train a better model, allow a wider --margin, or publish with --force", err=True)
        return
    for reason in reasons:
        typer.echo(f"rgals: warning: published by --force although {reason}", err=True)
    instead = f" in place of {event.previous}" if event.previous else ""
    console.print(f"Published {event.version}{instead}", markup=False, highlight=False, soft_wrap=True)
    if publication.warning is not None:
        typer.echo(f"rgals: warning: {publication.warning}", err=True)
    if publication.removed:
        console.print(f"Deleted {', '.join(publication.removed)}", markup=False, highlight=False, soft_wrap=True)


def _table(judgement: Judgement) -> Table:
    title = f"{judgement.metric}, {judgement.n_users:,} users, {judgement.part} part, {judgement.level:.0%} intervals"
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    table.add_column(judgement.metric, justify="right")
    table.add_column("candidate minus it", justify="right")
    table.add_row("candidate", _cell(judgement.candidate, ".4f"), "")
    for name, estimate, difference in (
        (judgement.current_version, judgement.current, judgement.over_current),
        ("popularity", judgement.popularity, judgement.over_popularity),
    ):
        if name is not None and estimate is not None and difference is not None:
            table.add_row(escape(name), _cell(estimate, ".4f"), _cell(difference, "+.4f"))
    return table


def _cell(estimate: Estimate, form: str) -> str:
    mean, low, high = (
        "undefined" if value is None else format(value, form)
        for value in (estimate.mean, estimate.ci_low, estimate.ci_high)
    )
    return escape(f"{mean} [{low}, {high}]")
