"""``rgals ingest``: turn raw events into a dataset."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from jobs.console import progress_bar
from jobs.executor_options import (
    AddressOption,
    ExecutorOption,
    WorkerCpusOption,
    WorkersOption,
    read_executor_options,
)
from rgals.data.dataset import Dataset
from rgals.data.ingest import IngestOptions, ProgressCallback
from rgals.data.ingest import ingest as write_dataset
from rgals.data.storage import redact
from rgals.errors import InputError, RgalsError
from rgals.execution import Executor, ExecutorOptions, open_executor

__all__ = ["ingest", "main"]

_COLUMNS = "Columns and formats"
_RULES = "Rules"
_SPLIT = "Split"
_DEFAULTS = IngestOptions()
_STAGES = {
    "read": "reading rows",
    "merge": "merging duplicates, bucket",
    "filter": "core filter, round",
    "split": "splitting, bucket",
    "write": "writing shards, interaction",
}


def ingest(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders, globs or filesystem URIs: CSV, JSON Lines, Parquet.", show_default=False),
    ] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder of the dataset.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing dataset.")] = False,
    train: Annotated[
        list[str] | None, typer.Option(help="Train files of an official split; needs --test, takes no SOURCES.")
    ] = None,
    test: Annotated[list[str] | None, typer.Option(help="Test files of an official split.")] = None,
    user_column: Annotated[
        str, typer.Option(help="Column of user ids.", rich_help_panel=_COLUMNS)
    ] = _DEFAULTS.user_column,
    item_column: Annotated[
        str, typer.Option(help="Column of item ids.", rich_help_panel=_COLUMNS)
    ] = _DEFAULTS.item_column,
    weight_column: Annotated[
        str | None,
        typer.Option(
            "--weight-column", "--rating-column", help="Column of weights or ratings.", rich_help_panel=_COLUMNS
        ),
    ] = None,
    time_column: Annotated[
        str | None,
        typer.Option(help="Column of times: numbers, ISO-8601 or timestamps; UTC.", rich_help_panel=_COLUMNS),
    ] = None,
    time_unit: Annotated[
        str, typer.Option(help="Unit of times that are numbers since 1970: s, ms, us, ns.", rich_help_panel=_COLUMNS)
    ] = _DEFAULTS.time_unit,
    file_format: Annotated[
        str, typer.Option("--format", help="auto (by ending), csv, jsonl, parquet.", rich_help_panel=_COLUMNS)
    ] = _DEFAULTS.format,
    delimiter: Annotated[
        str | None, typer.Option(help="Separator of CSV files (\\t for a tab).", rich_help_panel=_COLUMNS)
    ] = None,
    csv_columns: Annotated[
        str | None,
        typer.Option(help="Column names, by commas, of CSV files without a header.", rich_help_panel=_COLUMNS),
    ] = None,
    id_type: Annotated[
        str,
        typer.Option(
            help="auto, int64 or string. auto: int64 for integer columns of Parquet and for text files whose "
            "every id is an integer such as 42 (not 042).",
            rich_help_panel=_COLUMNS,
        ),
    ] = _DEFAULTS.id_type,
    minimum_rating: Annotated[
        float | None, typer.Option(help="Leave out rows rated below.", rich_help_panel=_RULES)
    ] = None,
    grades: Annotated[
        str | None,
        typer.Option(
            metavar="R,R,...",
            help="Lowest ratings of grades 1, 2, ...: 3,4,5 makes three; rows rated below are left out.",
            rich_help_panel=_RULES,
        ),
    ] = None,
    weight_from_rating: Annotated[
        str,
        typer.Option(help="linear (r), binary (1) or gain (2^r - 1), of ratings or grades.", rich_help_panel=_RULES),
    ] = _DEFAULTS.weight_from_rating,
    duplicates: Annotated[
        str,
        typer.Option(
            help="Weight of several rows of one user and item: max, sum, last (by time) or count.",
            rich_help_panel=_RULES,
        ),
    ] = _DEFAULTS.duplicates,
    k_core: Annotated[
        int | None, typer.Option(help="Both --user-core and --item-core.", rich_help_panel=_RULES)
    ] = None,
    user_core: Annotated[
        int | None, typer.Option(help="Keep users with at least this many items.", rich_help_panel=_RULES)
    ] = None,
    item_core: Annotated[
        int | None, typer.Option(help="Keep items with at least this many users.", rich_help_panel=_RULES)
    ] = None,
    reject_limit: Annotated[
        float,
        typer.Option(
            help="Largest fraction of bad rows that go to the quarantine file; with 0 the first is an error.",
            rich_help_panel=_RULES,
        ),
    ] = _DEFAULTS.reject_limit,
    split: Annotated[
        str,
        typer.Option(
            help="none, random (per user), leave-last (by time), time (one cut), held-out-users.",
            rich_help_panel=_SPLIT,
        ),
    ] = "none",
    test_fraction: Annotated[
        float | None, typer.Option(help="random: share of each user's interactions (0.2).", rich_help_panel=_SPLIT)
    ] = None,
    validation_fraction: Annotated[
        float | None,
        typer.Option(help="random, --train: share of each user's interactions (0).", rich_help_panel=_SPLIT),
    ] = None,
    n_test: Annotated[
        int | None, typer.Option(help="leave-last: last interactions of a user for test (1).", rich_help_panel=_SPLIT)
    ] = None,
    n_validation: Annotated[
        int | None, typer.Option(help="leave-last: those before them for validation (0).", rich_help_panel=_SPLIT)
    ] = None,
    test_from: Annotated[
        str | None, typer.Option(help="time: first moment of test, such as 2024-01-31.", rich_help_panel=_SPLIT)
    ] = None,
    validation_from: Annotated[
        str | None, typer.Option(help="time: first moment of validation.", rich_help_panel=_SPLIT)
    ] = None,
    test_users: Annotated[
        str | None,
        typer.Option(help="held-out-users: fraction (0.1) or number of test users.", rich_help_panel=_SPLIT),
    ] = None,
    validation_users: Annotated[
        str | None,
        typer.Option(help="held-out-users: fraction or number of validation users (0).", rich_help_panel=_SPLIT),
    ] = None,
    fold_in_fraction: Annotated[
        float | None,
        typer.Option(help="held-out-users: share shown to the model (0.8).", rich_help_panel=_SPLIT),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split.", rich_help_panel=_SPLIT)] = _DEFAULTS.seed,
    shards: Annotated[
        int | None, typer.Option(help="Shards on each side; by size when left out.", show_default=False)
    ] = None,
    executor: ExecutorOption = "in-process",
    address: AddressOption = None,
    workers: WorkersOption = None,
    worker_cpus: WorkerCpusOption = None,
    scratch: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Where temporary files go; workers on several machines need a volume that all of them share.",
            show_default="beside a local output",
            rich_help_panel="Execution",
        ),
    ] = None,
) -> None:
    """Turn raw events into a dataset: check, merge duplicates, filter, split, and write sorted shards."""
    rule = {
        "kind": "official" if train or test else split,
        "test_fraction": test_fraction,
        "validation_fraction": validation_fraction,
        "n_test": n_test,
        "n_validation": n_validation,
        "test_from": test_from,
        "validation_from": validation_from,
        "test_users": _count_or_fraction("--test-users", test_users),
        "validation_users": _count_or_fraction("--validation-users", validation_users),
        "fold_in_fraction": fold_in_fraction,
    }
    train_sources, test_sources = _choose_sources(sources or [], train or [], test or [], split)
    if not output:
        raise InputError("--output: expected the folder of the dataset, found nothing; pass --output DATASET")
    options = _options(
        user_column=user_column,
        item_column=item_column,
        weight_column=weight_column,
        time_column=time_column,
        time_unit=time_unit,
        format=file_format,
        delimiter="\t" if delimiter == "\\t" else delimiter,
        csv_columns=csv_columns.split(",") if csv_columns else None,
        id_type=id_type,
        minimum_rating=minimum_rating,
        grades=_read_grades(grades),
        weight_from_rating=weight_from_rating,
        duplicates=duplicates,
        user_core=user_core if user_core is not None else (k_core if k_core is not None else 1),
        item_core=item_core if item_core is not None else (k_core if k_core is not None else 1),
        reject_limit=reject_limit,
        split={name: value for name, value in rule.items() if value is not None},
        seed=seed,
        n_shards=shards,
    )
    where = read_executor_options(executor, None, address, workers, worker_cpus)
    with _ending_on_sigterm(), _runner(where) as runner, _stage_progress() as progress:
        dataset = write_dataset(
            train_sources,
            output,
            options,
            test_sources=test_sources,
            overwrite=overwrite,
            progress=progress,
            runner=runner,
            scratch=scratch,
        )
    _print_summary(dataset, output)
    typer.echo(f"Next: rgals train {redact(output)} --output MODEL")


def _read_grades(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--grades: expected ratings such as 3,4,5, found {text!r}") from error


def main() -> None:
    """Run the command on its own, as ``python -m jobs.ingest``; a known error gives exit code 1."""
    try:
        typer.run(ingest)
    except RgalsError as error:
        print(f"rgals: error: {error}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def _runner(where: ExecutorOptions) -> Iterator[Executor | None]:
    """Open what runs the tasks; None, this process itself, shows its progress in finer steps."""
    if where.kind == "in-process":
        yield None
        return
    with open_executor(where) as executor:
        yield executor


def _choose_sources(sources: list[str], train: list[str], test: list[str], split: str) -> tuple[list[str], list[str]]:
    """Give the sources of train, or of everything, and those of test."""
    if not train and not test:
        if not sources:
            raise InputError("no source given; name files, folders or globs, or pass --train FILES --test FILES")
        return sources, []
    if sources or not (train and test):
        raise InputError(
            f"an official split is --train FILES --test FILES and nothing else, found {len(train)} train, {len(test)} "
            f"test and {len(sources)} other sources"
        )
    if split != "none":
        raise InputError(f"--train and --test are a split already, found --split {split}; leave it out")
    return train, test


def _options(**fields: Any) -> IngestOptions:
    try:
        return IngestOptions.model_validate(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        message = problem["msg"].removeprefix("Value error, ")
        names = [str(step) for step in problem["loc"] if not str(step).endswith(("]", "float", "int"))]
        if not names or names == ["split"]:
            raise InputError(f"{message}; see rgals ingest --help") from error
        option = {"kind": "split", "n_shards": "shards"}.get(names[-1], names[-1]).replace("_", "-")
        raise InputError(
            f"--{option}: {message[0].lower()}{message[1:]}, found {problem['input']!r}; see rgals ingest --help"
        ) from error


def _count_or_fraction(option: str, text: str | None) -> int | float | None:
    """Read ``100`` as a number of users and ``0.1`` as a fraction."""
    if text is None:
        return None
    try:
        return int(text) if text.strip().isdigit() else float(text)
    except ValueError as error:
        raise InputError(f"{option}: expected a number of users or a fraction, found {text!r}") from error


@contextmanager
def _stage_progress() -> Iterator[ProgressCallback]:
    """Show one progress bar after the other, each for a stage."""
    with ExitStack() as bars:
        current: dict[str, Callable[[int, int | None], None]] = {}

        def report(stage: str, done: int, total: int | None) -> None:
            if stage not in current:
                bars.close()
                current.clear()
                current[stage] = bars.enter_context(progress_bar(_STAGES.get(stage, stage)))
            current[stage](done, total)

        yield report


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Leave by an exception when asked to end, so that temporary folders are removed."""

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_summary(dataset: Dataset, output: str) -> None:
    manifest = dataset.manifest
    typer.echo(f"Dataset {redact(output)}")  # not the table's title, which would wrap a long path
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("users", f"{manifest.n_users:,} ({manifest.user_id_kind} ids)")
    table.add_row("items", f"{manifest.n_items:,} ({manifest.item_id_kind} ids)")
    for part, summary in manifest.parts.items():
        table.add_row(f"interactions in {part.replace('_', ' ')}", f"{summary.n_interactions:,}")
    table.add_section()
    for line, count in manifest.ledger.describe():
        table.add_row(line, f"{count:,}")
    table.add_section()
    table.add_row("fingerprint", manifest.fingerprint[:16])
    Console().print(table)


if __name__ == "__main__":
    main()
