"""``rgals evaluate``: a model's ranking metrics on held-out interactions, beside baselines."""

import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.compare import compare
from jobs.console import progress_bar
from jobs.evaluate_baselines import SoftmaxChoice, fit_baselines, read_baselines
from jobs.executor_options import (
    AddressOption,
    ExecutorOption,
    ThreadsOption,
    WorkerCpusOption,
    WorkersOption,
    read_executor_options,
)
from jobs.report_details import (
    TitleColumnsOption,
    TitlesOption,
    add_titles,
    describe_baseline,
    describe_run,
    describe_training,
)
from rgals.artifact.alignment import align_to_dataset
from rgals.artifact.model import Model
from rgals.baselines.implicit_als import IalsOptions
from rgals.data.dataset import Dataset
from rgals.errors import InputError, RgalsError
from rgals.evaluation.alignment import AlignedModel
from rgals.evaluation.evaluator import evaluate as evaluate_models
from rgals.evaluation.page import write_page
from rgals.evaluation.per_user import per_user_path, write_per_user
from rgals.evaluation.protocol import EvaluatedModel, EvaluationOptions
from rgals.evaluation.report import (
    Difference,
    Measurement,
    Report,
    check_free,
    check_report_path,
    headline_metric,
    write_report,
)
from rgals.evaluation.titles import TitleTable
from rgals.execution import open_executor

__all__ = ["evaluate", "main"]

_OBJECT_STORE_SPARE_BYTES = 64 << 20
"""For the blocks of users under way."""
_SHOWN_FIRST = ("ndcg", "recall", "precision", "map", "mrr", "hit_rate", "coverage", "gini", "popularity")


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder: a local path or a URI such as s3://...")],
    dataset: Annotated[
        str, typer.Option("--dataset", "-d", metavar="DATASET", help="Dataset folder with the held-out part.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="REPORT", help="A file NAME.json, or a folder for report.json.")
    ],
    k: Annotated[str, typer.Option("--k", "-k", metavar="K,K,...", help="Lengths of the ranked lists.")] = "10,20,100",
    baselines: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Fit and evaluate these too: popularity, random, ials, softmax, softmax-cosine; or none.",
        ),
    ] = "popularity,ials",
    part: Annotated[str, typer.Option(help="The held-out part: 'test' or 'validation'.")] = "test",
    gains: Annotated[
        str, typer.Option(help="What a relevant item is worth in NDCG: 'binary' 1, 'graded' its weight.")
    ] = "binary",
    rank_validation: Annotated[
        bool,
        typer.Option("--rank-validation", help="Let a user's validation items appear in the lists judged on test."),
    ] = False,
    cold_users: Annotated[
        str, typer.Option(help="What users without factors get: 'popular' items, as when serving, or 'miss'.")
    ] = "popular",
    bootstrap: Annotated[int, typer.Option(metavar="N", help="Bootstrap resamples; 0 for no intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap and of the baselines.")] = 0,
    name: Annotated[
        str | None, typer.Option(help="Name of the model in the report.", show_default="the name of its folder")
    ] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Write a page to read beside the report: NAME.html, without network.")
    ] = False,
    per_user: Annotated[
        bool, typer.Option("--per-user", help="Write every user's values to a Parquet file beside the report.")
    ] = False,
    titles: TitlesOption = None,
    title_columns: TitleColumnsOption = "item_id,title",
    ials_factors: Annotated[
        int | None, typer.Option(help="Factors of the iALS baseline.", show_default="those of the model")
    ] = None,
    ials_reg: Annotated[float, typer.Option(help="Ridge of the iALS baseline (implicit's regularization).")] = 0.01,
    ials_alpha: Annotated[float, typer.Option(help="Confidence of an observed entry in the iALS baseline.")] = 1.0,
    ials_sweeps: Annotated[int, typer.Option(help="Sweeps of the iALS baseline (implicit's iterations).")] = 15,
    softmax_epochs: Annotated[
        int, typer.Option(min=1, help="Epochs of the softmax baselines, which are not tuned here; rgals compare does.")
    ] = 60,
    executor: ExecutorOption = "in-process",
    threads: ThreadsOption = None,
    address: AddressOption = None,
    workers: WorkersOption = None,
    worker_cpus: WorkerCpusOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing report.")] = False,
) -> None:
    """Rank all items for every user with held-out interactions and report NDCG, Recall, Precision, MAP, MRR, HitRate.

    The report holds means with bootstrap intervals; docs/metrics.md and docs/report-schema.md explain it. Its numbers
    do not depend on the executor. Baselines are fitted in this process.
    """
    started_at = datetime.now(UTC)
    path = check_report_path(output, overwrite)
    check_free([*[path.with_suffix(".html")] * page, *[per_user_path(path)] * per_user], overwrite)
    options = _read_options(k, part, gains, not rank_validation, cold_users, bootstrap, seed)
    if threads is not None and threads < 1:
        raise InputError(f"--threads: expected at least 1, found {threads}; leave it out to use every processor")
    where = read_executor_options(executor, threads, address, workers, worker_cpus)
    wanted = read_baselines(baselines)
    table = None if titles is None else TitleTable.open(titles, title_columns)
    opened, data = Model.open(model), Dataset.open(dataset)
    shown_name = name or PurePosixPath(opened.location).name
    if shown_name in wanted:
        raise InputError(f"the model and a baseline are both called {shown_name!r}; give the model another --name")
    trained_on = tuple(map(str, opened.lineage.get("trained_on") or ("train",)))
    if rank_validation and part == "test" and "validation" in trained_on:
        raise InputError(
            "--rank-validation: the model was trained on the validation part, whose items would fill its lists; "
            "leave the option out"
        )
    aligned = _align(opened, data, shown_name, part, trained_on)
    cutoff = int(headline_metric(options.cutoffs).partition("@")[2])
    details = [describe_training(opened, shown_name, cutoff, gains), *map(describe_baseline, wanted)]
    ials = _read_ials(ials_factors or opened.n_factors, ials_reg, ials_alpha, ials_sweeps, seed)
    softmax = SoftmaxChoice(opened.n_factors, softmax_epochs, seed)
    # The items of a model and of the one before it.
    needed_bytes = 2 * aligned.item_factors.nbytes + _OBJECT_STORE_SPARE_BYTES
    with open_executor(where, needed_object_store_bytes=needed_bytes) as workforce:
        fitted = fit_baselines(wanted, data, options.part, trained_on, ials, softmax, threads)
        with progress_bar("ranking all items for the held-out users") as progress:
            models: list[EvaluatedModel] = [aligned, *fitted]
            found = evaluate_models(
                models, data, options, details=details, n_threads=threads, executor=workforce, progress=progress
            )
    provenance = describe_run(data, started_at, where)
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    report = found.report.model_copy(update={"created_at": created_at, "provenance": provenance})
    report = add_titles(report, table)
    if per_user:
        write_per_user(found, data.user_ids, per_user_path(path))
    write_report(report, path)
    if page:
        write_page(report, path.with_suffix(".html"))
    _print_summary(report)
    console = Console()
    console.print(f"Wrote {path}", markup=False, highlight=False, soft_wrap=True)
    if page:
        console.print(f"Wrote {path.with_suffix('.html')}", markup=False, highlight=False, soft_wrap=True)
    if per_user:
        console.print(f"Wrote {per_user_path(path)}", markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command on its own, as ``python -m jobs.evaluate``; a known error gives exit code 1.

    With ``--models`` it is the comparison, ``python -m jobs.compare``: the evaluation job under one name.
    """
    is_comparison = any(argument.split("=")[0] == "--models" for argument in sys.argv[1:])
    try:
        typer.run(compare if is_comparison else evaluate)
    except RgalsError as error:
        print(f"rgals: error: {error}", file=sys.stderr)
        sys.exit(1)


def _read_options(
    k: str, part: str, gains: str, filter_validation: bool, cold_users: str, n_resamples: int, seed: int
) -> EvaluationOptions:
    try:
        cutoffs = [int(text) for text in k.split(",")]
    except ValueError as error:
        raise InputError(f"--k: expected whole numbers such as 10,20,100, found {k!r}") from error
    try:
        return EvaluationOptions.model_validate(
            {
                "cutoffs": cutoffs,
                "part": part,
                "gains": gains,
                "filter_validation": filter_validation,
                "cold_users": cold_users,
                "n_resamples": n_resamples,
                "seed": seed,
            }
        )
    except ValidationError as error:
        flags = {"cutoffs": "--k", "n_resamples": "--bootstrap", "cold_users": "--cold-users"}
        raise InputError(_first_problem(error, flags)) from error


def _read_ials(n_factors: int, reg: float, alpha: float, n_sweeps: int, seed: int) -> IalsOptions:
    try:
        return IalsOptions(n_factors=n_factors, reg=reg, alpha=alpha, n_sweeps=n_sweeps, seed=seed)
    except ValidationError as error:
        names = ("n_factors", "reg", "alpha", "n_sweeps")
        raise InputError(
            _first_problem(error, {name: f"--ials-{name.removeprefix('n_')}" for name in names})
        ) from error


def _first_problem(error: ValidationError, flags: dict[str, str]) -> str:
    """Say which option is wrong, in the words of the command line."""
    first = error.errors()[0]
    field = str(first["loc"][0])
    return f"{flags.get(field, f'--{field}')}: {first['msg']}, found {first['input']!r}"


def _align(model: Model, dataset: Dataset, name: str, part: str, trained_on: tuple[str, ...]) -> AlignedModel:
    """Put a model into the dataset's rows, with what a reader has to know of what it was trained on."""
    aligned = align_to_dataset(model, dataset, name)
    notes = aligned.notes
    if part in trained_on:
        notes = (
            f"trained on the {part} part too, which judges it here, so its numbers mean nothing; judge it on the test "
            "part, or train without --with-validation",
            *notes,
        )
    return replace(aligned, options={**aligned.options, "trained_on": list(trained_on)}, notes=notes)


def _print_summary(report: Report) -> None:
    console = Console()
    protocol, level = report.protocol, report.protocol.bootstrap.level
    users = "new users, folded in" if protocol.generalization == "strong" else "users of the training"
    ranked = f"all {report.dataset.n_items:,} items ranked"
    table = Table(title=f"{protocol.n_users_evaluated:,} {users}, {protocol.part} part, {ranked}", title_justify="left")
    table.add_column("metric")
    for model in report.models:
        table.add_column(escape(model.name), justify="right")
    table.add_row("train_s", *(_number(model.train_s, ".2f") for model in report.models))
    ordered = [f"{metric}@{k}" for metric in _SHOWN_FIRST for k in protocol.cutoffs]
    for key in ordered:
        table.add_row(key, *(_cell(key, model.metrics[key]) for model in report.models))
    console.print(table)
    if protocol.bootstrap.n_resamples:
        console.print(f"±: half of the {level:.0%} bootstrap interval of the mean over users.", highlight=False)
    if protocol.n_users_without_held_out:
        console.print(
            f"{protocol.n_users_without_held_out:,} users without held-out interactions are left out.", highlight=False
        )
    _print_comparisons(report, console)
    for model in report.models:
        if model.n_users_unranked:
            what = "get the most popular items" if protocol.cold_users == "popular" else "count as misses"
            typer.echo(f"{model.name}: no factors for {model.n_users_unranked:,} users; they {what}", err=True)
        for note in model.notes:
            typer.echo(f"rgals: warning: {model.name}: {note}", err=True)


def _print_comparisons(report: Report, console: Console) -> None:
    for comparison in report.comparisons:
        for k in report.protocol.cutoffs:
            difference = comparison.metrics[f"ndcg@{k}"]
            ends = f"[{_number(difference.ci_low, '+.4f')}, {_number(difference.ci_high, '+.4f')}]"
            console.print(
                f"ndcg@{k}, {comparison.model} minus {comparison.other}: {_number(difference.mean, '+.4f')} {ends}, "
                f"better for {difference.n_better:,} users, worse for {difference.n_worse:,}{_p_value(difference)}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )


def _cell(key: str, measured: Measurement) -> str:
    if measured.ci_low is None or measured.ci_high is None:
        return _number(measured.mean, ",.1f" if key.startswith("popularity") else ".4f")
    return f"{_number(measured.mean, '.4f')} ± {(measured.ci_high - measured.ci_low) / 2:.4f}"


def _p_value(difference: Difference) -> str:
    """Give the paired test's p-value, corrected for the number of comparisons."""
    if difference.p_holm is None:
        return ""
    return ", p < 0.0001" if difference.p_holm < 0.0001 else f", p = {difference.p_holm:.4f}"


def _number(value: float | None, form: str) -> str:
    return "undefined" if value is None else format(value, form)


if __name__ == "__main__":
    main()
