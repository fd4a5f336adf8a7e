"""``rgals recommend``: ranked items for users, for a history, or for all users into a file."""

import json
import re
import sys
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.console import progress_bar
from jobs.executor_options import (
    AddressOption,
    ExecutorOption,
    ThreadsOption,
    WorkerCpusOption,
    WorkersOption,
    read_executor_options,
)
from rgals.artifact.batch import recommend_all
from rgals.artifact.model import Model
from rgals.artifact.output_file import check_output_file
from rgals.artifact.recommend import Fallback, Recommendations
from rgals.data.storage import redact
from rgals.errors import InputError, RgalsError
from rgals.execution import ExecutorOptions, open_executor

__all__ = ["main", "recommend"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?", re.IGNORECASE)
_PREFIXES = "KMGT"
_RESULT_BYTES = 16
"""Of one ranked item that a worker sends: row and score, in the object stores of both."""


def recommend(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder: a local path or a URI such as s3://...")],
    user: Annotated[
        list[str] | None, typer.Option("--user", metavar="ID", help="A user to recommend to; may be repeated.")
    ] = None,
    history: Annotated[
        list[str] | None,
        typer.Option(
            "--history",
            metavar="ITEM[:WEIGHT]",
            help="An item of a new user's history (weight 1 unless given); may be repeated. Solved by fold-in.",
        ),
    ] = None,
    is_all: Annotated[bool, typer.Option("--all", help="Write the lists of every user to --output.")] = False,
    k: Annotated[int, typer.Option("-k", "--k", help="Length of a list, from 1 to the number of items.")] = 10,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Keep items that the user has interacted with.")
    ] = False,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="ITEM", help="An item to leave out; may be repeated.")
    ] = None,
    fallback: Annotated[
        str,
        typer.Option(help="For an unknown user: 'none' is an error, 'popular' gives the most popular items."),
    ] = "none",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    output: Annotated[
        str | None, typer.Option("--output", metavar="FILE.parquet", help="File for --all; a local path or a URI.")
    ] = None,
    memory_budget: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory for the lists under way with --all, such as 500MB or 1GiB.")
    ] = "1GiB",
    executor: ExecutorOption = "in-process",
    threads: ThreadsOption = None,
    address: AddressOption = None,
    workers: WorkersOption = None,
    worker_cpus: WorkerCpusOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the --output file.")] = False,
) -> None:
    """Recommend items: to users by id, to a new user by history, or to all users into a Parquet file.

    The options of execution are those of --all; its file is the same whoever ranks. Workers on other
    nodes open MODEL themselves.
    """
    chosen = [name for name, value in (("--user", user), ("--history", history), ("--all", is_all)) if value]
    if len(chosen) != 1:
        raise InputError(f"expected one of --user, --history and --all, found {' and '.join(chosen) or 'none of them'}")
    if is_all != (output is not None):
        raise InputError("--all needs --output FILE.parquet, and --output needs --all")
    if is_all and (fallback != "none" or as_json):
        raise InputError("--all writes a file: --fallback and --json do not apply; leave them out")
    where = read_executor_options(executor, threads, address, workers, worker_cpus)
    if not is_all and where != ExecutorOptions():
        raise InputError("--executor, --threads, --address, --workers and --worker-cpus need --all; leave them out")
    opened = Model.open(model)
    if output is not None:
        budget = _parse_size(memory_budget)
        _write_all(opened, output, k, budget, not include_seen, exclude or [], where, overwrite)
        return
    checked = _check_fallback(fallback)
    if history:
        weights = _parse_history(opened, history)
        answers = [
            opened.recommend_history(weights, k, exclude_seen=not include_seen, exclude=exclude or [], fallback=checked)
        ]
    else:
        answers = opened.recommend(
            user or [], k, exclude_seen=not include_seen, exclude=exclude or [], fallback=checked
        )
    if as_json:
        typer.echo(json.dumps([_json_answer(answer) for answer in answers], indent=2, ensure_ascii=False))
    else:
        _print_tables(answers)


def main() -> None:
    """Run the command on its own, as ``python -m jobs.recommend``; a known error gives exit code 1."""
    try:
        typer.run(recommend)
    except RgalsError as error:
        print(f"rgals: error: {error}", file=sys.stderr)
        sys.exit(1)


def _write_all(
    model: Model,
    output: str,
    k: int,
    budget_bytes: int,
    exclude_seen: bool,
    exclude: list[str],
    where: ExecutorOptions,
    overwrite: bool,
) -> None:
    check_output_file(output, overwrite)
    started = time.monotonic()
    needed_bytes = min(budget_bytes, _RESULT_BYTES * k * model.n_users)
    with (
        open_executor(where, needed_object_store_bytes=needed_bytes) as workforce,
        progress_bar("recommending to users") as report,
    ):
        summary = recommend_all(
            model,
            output,
            k,
            memory_budget_bytes=budget_bytes,
            exclude_seen=exclude_seen,
            exclude=exclude,
            executor=workforce,
            overwrite=overwrite,
            progress=report,
        )
    seconds = time.monotonic() - started
    console = Console()
    console.print(f"Wrote {redact(output)}", markup=False, highlight=False, soft_wrap=True)
    table = Table(show_header=False)
    rows = (
        ("users", f"{summary.n_users:,}"),
        ("rows", f"{summary.n_rows:,}"),
        ("lists by popularity", f"{summary.n_popular:,}"),
        (f"lists shorter than {k}", f"{summary.n_exhausted:,}"),
        ("users in a row group", f"{summary.tile_users:,}"),
        ("seconds", f"{seconds:.1f}"),
    )
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)


def _print_tables(answers: list[Recommendations]) -> None:
    console = Console()
    for answer in answers:
        name = "this history" if answer.user_id is None else f"user {answer.user_id}"
        console.print(
            f"For {name}, by {answer.source.replace('_', '-')}", markup=False, highlight=False, soft_wrap=True
        )
        table = Table()
        table.add_column("rank", justify="right")
        table.add_column("item")
        table.add_column("interactions" if answer.source == "popular" else "score", justify="right")
        for rank, (item, score) in enumerate(zip(answer.items, answer.scores, strict=True), start=1):
            shown = f"{score:.0f}" if answer.source == "popular" else f"{score:.4f}"
            table.add_row(str(rank), escape(str(item)), shown)
        console.print(table)
        if answer.exhausted:
            console.print(f"No more than {len(answer.items)} items are left after the exclusions.")
    if answers and answers[0].unknown_items:
        names = ", ".join(str(item) for item in answers[0].unknown_items)
        print(f"rgals: the model does not hold these items, they had no effect: {names}", file=sys.stderr)


def _json_answer(answer: Recommendations) -> dict[str, Any]:
    items = [
        {"rank": rank, "item_id": item, "score": score}
        for rank, (item, score) in enumerate(zip(answer.items, answer.scores, strict=True), start=1)
    ]
    return {
        "user_id": answer.user_id,
        "source": answer.source,
        "exhausted": answer.exhausted,
        "unknown_items": answer.unknown_items,
        "items": items,
    }


def _parse_history(model: Model, texts: list[str]) -> dict[str | int, float]:
    """Read ITEM or ITEM:WEIGHT; an id that itself holds a colon is taken whole where the model knows it."""
    weights: dict[str | int, float] = {}
    for text in texts:
        item, separator, weight_text = text.rpartition(":")
        weight = _number(weight_text) if separator and not model.has_item(text) else None
        item, weight = (text, 1.0) if weight is None else (item, weight)
        if item in weights:
            raise InputError(f"--history: item {item!r} is given twice; give each item once")
        weights[item] = weight
    return weights


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _parse_size(text: str) -> int:
    """Read a number of bytes: 1073741824, 500MB (powers of 1000), 1GiB (powers of 1024)."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InputError(f"--memory-budget: expected a size such as 500MB or 1GiB, found {text!r}")
    number, prefix = float(match[1]), (match[2] or "").upper()
    base = 1024 if prefix.endswith("I") else 1000
    return int(number * base ** (_PREFIXES.index(prefix[0]) + 1 if prefix else 0))


def _check_fallback(text: str) -> Fallback:
    if text == "none":
        return "none"
    if text == "popular":
        return "popular"
    raise InputError(f"--fallback: expected 'none' or 'popular', found {text!r}")


if __name__ == "__main__":
    main()
