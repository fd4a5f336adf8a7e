"""``rgals compare``: models tuned with equal budgets on validation, ranked once on test; a report and a page."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from jobs.compare_display import CompareDisplay, print_table
from jobs.executor_options import (
    AddressOption,
    ExecutorOption,
    ThreadsOption,
    WorkerCpusOption,
    WorkersOption,
    read_executor_options,
)
from jobs.report_details import TitleColumnsOption, TitlesOption, add_titles, describe_run
from jobs.training_plan import check_training
from rgals.data.dataset import Dataset
from rgals.data.storage import Folder, redact
from rgals.errors import CapacityError, InputError, OutputExistsError, RgalsError
from rgals.evaluation.page import write_page
from rgals.evaluation.report import REPORT_NAME, write_report
from rgals.evaluation.titles import TitleTable
from rgals.execution import ExecutorOptions, open_executor
from rgals.tuning.compare import Comparison
from rgals.tuning.compare import compare as compare_models
from rgals.tuning.compare_folder import ComparisonFolder
from rgals.tuning.compare_options import CompareOptions
from rgals.tuning.compare_report import build_comparison_report
from rgals.tuning.contenders import CONTENDERS, contender_named, contenders_named
from rgals.tuning.finals import final_source

__all__ = ["compare", "main"]

EXIT_INTERRUPTED = 130
_DEFAULT_MODELS = "rg2,rgx,rg2-degree,rgx-degree,rg-softmax,softmax,softmax-cosine,ials,ease,popularity"
_DEFAULT_BUDGET = 20
_RESUME: dict[str, bool | None] = {"never": False, "auto": None, "required": True}
_PAGE_NAME = "report.html"


def compare(
    dataset: Annotated[
        str,
        typer.Argument(metavar="DATASET", help="Dataset folder with a validation and a test part."),
    ],
    *,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="REPORT", help="Folder for report.json, report.html and what is resumed."
        ),
    ],
    models: Annotated[
        str, typer.Option(metavar="NAME,...", help=f"Models: {', '.join(CONTENDERS)}.")
    ] = _DEFAULT_MODELS,
    factors: Annotated[int, typer.Option(help="Factors of every model that has them.")] = 64,
    budget: Annotated[
        int | None, typer.Option(metavar="TRIALS", help="Trials of each model.", show_default="20")
    ] = None,
    budget_seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds of search of each model, in place of --budget.")
    ] = None,
    k: Annotated[
        str, typer.Option("--k", "-k", metavar="K,K,...", help="Lengths of the ranked lists.")
    ] = "10,20,50,100",
    cutoff: Annotated[int, typer.Option(help="The length whose NDCG is searched for and stands in the headline.")] = 20,
    gains: Annotated[
        str, typer.Option(help="What a relevant item is worth in NDCG: 'binary' 1, 'graded' its weight.")
    ] = "binary",
    validation_users: Annotated[
        int, typer.Option(help="Users in the sample that validation ranks for after each round; 0 takes all.")
    ] = 5000,
    cold_users: Annotated[
        str, typer.Option(help="What users without factors get: 'popular' items, as when serving, or 'miss'.")
    ] = "popular",
    bootstrap: Annotated[int, typer.Option(metavar="N", help="Bootstrap resamples; 0 for no intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of samples, searches, starting values and the bootstrap.")] = 0,
    reference: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The model that all are compared with.", show_default="best by validation"),
    ] = None,
    titles: TitlesOption = None,
    title_columns: TitleColumnsOption = "item_id,title",
    executor: ExecutorOption = "in-process",
    threads: ThreadsOption = None,
    address: AddressOption = None,
    workers: WorkersOption = None,
    worker_cpus: WorkerCpusOption = None,
    resume: Annotated[
        str,
        typer.Option(
            metavar="auto|never|required", help="Go on with what is in REPORT: 'auto' where there is something."
        ),
    ] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="With --resume never, discard the comparison that is there.")
    ] = False,
    time_again: Annotated[
        bool,
        typer.Option("--time-again", help="Keep the searches, but do the timed and the last fits again."),
    ] = False,
) -> None:
    """Tune models with equal budgets on the validation part, fit them once more, and rank the test part once.

    Writes report.json and report.html, a page that needs no network. Interrupted, the same command goes on.
    """
    options = _read_options(
        models, factors, budget, budget_seconds, k, cutoff, gains, validation_users, cold_users, bootstrap, seed
    )
    if resume not in _RESUME:
        raise InputError(f"--resume: expected auto, never or required, found {resume!r}")
    if reference is not None and reference not in options.models:
        raise InputError(f"--reference: expected one of {', '.join(options.models)}, found {reference!r}")
    where = read_executor_options(executor, threads, address, workers, worker_cpus)
    table = None if titles is None else TitleTable.open(titles, title_columns)
    opened = Dataset.open(dataset)
    place = _output_folder(output)
    with ComparisonFolder(place / "comparison") as folder:
        identity = options.identity(opened.fingerprint)
        folder.open(identity, options.kept_budget, resume=_RESUME[resume], overwrite=overwrite)
        if time_again:
            folder.drop_measurements(options.models)
        try:
            found = _run(opened, options, folder, where)
        except KeyboardInterrupt:
            print(f"rgals: interrupted; the same command goes on with what is in {output}", file=sys.stderr)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        finally:
            folder.keep_time()
        provenance = describe_run(opened, folder.started_at, where).model_copy(update={"seconds": folder.seconds})
        report = add_titles(build_comparison_report(found, opened, provenance, reference=reference), table)
        write_report(report, place / REPORT_NAME)
        write_page(report, place / _PAGE_NAME)
    print_table(report)
    console = Console()
    for name in (REPORT_NAME, _PAGE_NAME):
        console.print(f"Wrote {place / name}", markup=False, highlight=False, soft_wrap=True)


def _run(opened: Dataset, options: CompareOptions, folder: ComparisonFolder, where: ExecutorOptions) -> Comparison:
    """Compare under the eyes of the display."""
    block_bytes, too_large = _plan(opened, options, folder, where)
    with (
        open_executor(where, needed_object_store_bytes=block_bytes) as workforce,
        CompareDisplay(options) as display,
    ):
        return compare_models(
            opened,
            options,
            folder,
            executor=workforce,
            runs_here=where.kind == "in-process",
            listener=display,
            too_large=too_large,
        )


def _plan(
    opened: Dataset, options: CompareOptions, folder: ComparisonFolder, where: ExecutorOptions
) -> tuple[int, dict[str, str]]:
    """Plan the last, largest fit of each loss of the family: give bytes of blocks, and the models that do not fit."""
    source, place = final_source(opened), Folder.at(folder.path)
    block_bytes, too_large = 0, {}
    for contender in map(contender_named, options.models):
        config = contender.plan_config(options.n_factors)
        if config is None:
            continue
        try:
            block_bytes = max(block_bytes, check_training(source, config, where, place, is_checked=True).block_bytes)
        except CapacityError as error:
            too_large[contender.name] = str(error)
    return block_bytes, too_large


def main() -> None:
    """Run the command on its own, as ``python -m jobs.compare``; a known error gives exit code 1."""
    try:
        typer.run(compare)
    except RgalsError as error:
        print(f"rgals: error: {error}", file=sys.stderr)
        sys.exit(1)


def _read_options(
    models: str,
    factors: int,
    budget: int | None,
    budget_s: float | None,
    k: str,
    cutoff: int,
    gains: str,
    validation_users: int,
    cold_users: str,
    n_resamples: int,
    seed: int,
) -> CompareOptions:
    if budget is not None and budget_s is not None:
        raise InputError("--budget and --budget-seconds: expected one of them, found both")
    try:
        cutoffs = sorted({int(text) for text in k.split(",")} | {cutoff})
    except ValueError as error:
        raise InputError(f"--k: expected whole numbers such as 10,20,100, found {k!r}") from error
    values = {
        "models": tuple(contender.name for contender in contenders_named(models)),
        "n_factors": factors,
        "budget": budget if budget is not None or budget_s is not None else _DEFAULT_BUDGET,
        "budget_s": budget_s,
        "cutoffs": tuple(cutoffs),
        "cutoff": cutoff,
        "gains": gains,
        "validation_users": validation_users,
        "cold_users": cold_users,
        "n_resamples": n_resamples,
        "seed": seed,
    }
    try:
        return CompareOptions.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else "options"
        flags = {
            "n_factors": "--factors",
            "budget_s": "--budget-seconds",
            "n_resamples": "--bootstrap",
            "cutoffs": "--k",
        }
        flag = flags.get(field, f"--{field.replace('_', '-')}")
        raise InputError(f"{flag}: {first['msg']}, found {first['input']!r}") from error


def _output_folder(location: str) -> Path:
    """Give the folder of the report, which is on a local disk."""
    folder = Folder.at(location).local_path if "://" not in location else None
    if folder is None:
        raise InputError(f"--output {redact(location)}: reports are written to local disks; choose a local folder")
    if folder.exists() and not folder.is_dir():
        raise OutputExistsError(f"--output {folder}: a file is in the way; choose another folder")
    return folder


if __name__ == "__main__":
    main()
