"""``rgals tune``: the options of a loss, searched on the validation part of a dataset."""

import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from jobs.executor_options import (
    AddressOption,
    ExecutorOption,
    ThreadsOption,
    WorkerCpusOption,
    WorkersOption,
    read_executor_options,
)
from jobs.training_plan import check_training
from rgals.data.dataset import Dataset
from rgals.data.storage import Folder, redact, replace_file
from rgals.errors import DataError, InputError, OutputExistsError, RgalsError
from rgals.execution import ExecutorOptions, open_executor
from rgals.numerics.loss import LOSS_NAMES
from rgals.training.interrupt import StopSignals
from rgals.tuning.results import draw_search, write_trials
from rgals.tuning.rg_space import SEARCHABLE, default_search
from rgals.tuning.search import MAX_FAILURES_IN_A_ROW
from rgals.tuning.study import FinishedTrial, Study
from rgals.tuning.trial import CurvePoint
from rgals.tuning.tune import TuneOptions, best_config, search_identity
from rgals.tuning.tune import tune as search_options

__all__ = ["main", "tune"]

EXIT_INTERRUPTED = 130
"""What shells give for a command ended by Ctrl-C."""

_STUDY = "study.jsonl"
_SHOWN_TRIALS = 8
_STOPPING = "rgals: stopping after this sweep; once more stops at once"
_RESUME_MODES = ("never", "auto", "required")


def tune(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="Dataset folder with a validation part: a local path or a URI.")
    ],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="STUDY", help="Local folder of the study and of what comes out of it."),
    ],
    loss: Annotated[str, typer.Option(metavar="|".join(LOSS_NAMES), help="The loss.")] = "rgx",
    factors: Annotated[int, typer.Option(metavar="N", help="Length of a user's and an item's vector.")] = 64,
    trials: Annotated[
        int | None, typer.Option(metavar="N", help="Trials in all.", show_default="40, or as many as --seconds allow")
    ] = None,
    seconds: Annotated[float | None, typer.Option(metavar="S", help="Seconds of search in all.")] = None,
    searched: Annotated[
        str | None,
        typer.Option(
            "--search",
            metavar="NAME,...",
            help=f"Options to search, of {', '.join(SEARCHABLE)}; start_reg and eta are options of rg-softmax.",
            show_default="; ".join(f"{name}: {','.join(default_search(name))}" for name in LOSS_NAMES),
        ),
    ] = None,
    fixed: Annotated[
        list[str] | None,
        typer.Option(
            "--fix", metavar="NAME=VALUE", help="Another option of rgals train, the same in every trial; repeatable."
        ),
    ] = None,
    sweeps: Annotated[int, typer.Option(metavar="N", help="Largest number of sweeps; the best one counts.")] = 12,
    patience: Annotated[int, typer.Option(metavar="N", help="Sweeps without a better NDCG that end a trial.")] = 3,
    metric: Annotated[str, typer.Option(metavar="ndcg@K", help="What is searched for, on validation.")] = "ndcg@20",
    gains: Annotated[str, typer.Option(help="What a relevant item is worth: 'binary' 1, 'graded' its weight.")] = (
        "binary"
    ),
    watched_users: Annotated[
        int, typer.Option(metavar="N", help="Users of the sample on which trials are watched and cut; 0: all.")
    ] = 5000,
    judged_users: Annotated[
        int, typer.Option(metavar="N", help="Users on whom trials that come near the best are judged; 0: all.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the search, the samples and the starting factors.")] = 0,
    resume: Annotated[
        str,
        typer.Option(metavar="never|auto|required", help="Go on with the study: 'auto' where there is one."),
    ] = "never",
    executor: ExecutorOption = "in-process",
    threads: ThreadsOption = None,
    address: AddressOption = None,
    workers: WorkersOption = None,
    worker_cpus: WorkerCpusOption = None,
) -> None:
    """Search the options of a loss on the validation part, and write the best as a configuration for rgals train.

    Ctrl-C ends the search; the same command with --resume auto goes on.
    """
    options = TuneOptions(
        loss=loss,  # type: ignore[arg-type]
        n_factors=factors,
        searched=None if searched is None else tuple(name.strip() for name in searched.split(",") if name.strip()),
        n_sweeps=sweeps,
        patience=patience,
        cutoff=_read_metric(metric),
        gains=gains,  # type: ignore[arg-type]
        watched_users=watched_users,
        judged_users=judged_users,
        seed=seed,
        fixed=_read_fixed(fixed or []),
    )
    budget = 40 if trials is None and seconds is None else trials
    where = read_executor_options(executor, threads, address, workers, worker_cpus)
    opened = Dataset.open(dataset)
    folder = _study_folder(output, resume)
    path = folder / _STUDY
    with Study.open(path, search_identity(opened, options), options.space, seed) as study:
        is_ended = _run(opened, options, study, where, budget, seconds)
        _write(folder, study, options)
    if not is_ended:
        print(
            f"rgals: interrupted after {study.n_trials} trials, which are kept in {path}; "
            "to go on, run the same command with --resume auto",
            file=sys.stderr,
        )
        raise typer.Exit(EXIT_INTERRUPTED)
    _print_summary(dataset, opened, folder, study, options)


def main() -> None:
    """Run the command on its own, as ``python -m jobs.tune``; a known error gives exit code 1."""
    try:
        typer.run(tune)
    except RgalsError as error:
        print(f"rgals: error: {error}", file=sys.stderr)
        sys.exit(1)


def _read_metric(metric: str) -> int:
    """Read the cutoff of ``ndcg@K``."""
    name, _, cutoff = metric.partition("@")
    if name != "ndcg" or not cutoff.isdecimal() or int(cutoff) < 1:
        raise InputError(f"--metric: expected ndcg@K with K of at least 1, such as ndcg@20, found {metric!r}")
    return int(cutoff)


def _read_fixed(pairs: Sequence[str]) -> dict[str, Any]:
    """Read options given as NAME=VALUE."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name:
            raise InputError(f"--fix: expected NAME=VALUE, found {pair!r}")
        try:
            found[name.strip().replace("-", "_")] = json.loads(text)
        except ValueError:
            found[name.strip().replace("-", "_")] = text.strip()
    return found


def _study_folder(location: str, resume: str) -> Path:
    """Check the folder of the study."""
    if resume not in _RESUME_MODES:
        raise InputError(f"--resume: expected never, auto or required, found {resume!r}")
    folder = Folder.at(location).local_path if "://" not in location else None
    if folder is None:
        raise InputError(f"--output {redact(location)}: expected a folder on a local disk; a study is kept there")
    is_there = (folder / _STUDY).exists()
    if folder.is_file():
        raise OutputExistsError(f"{folder}: a file is in the way; choose another output")
    if is_there and resume == "never":
        raise OutputExistsError(f"{folder}: holds a study already; go on with --resume auto, or choose another output")
    if not is_there and resume == "required":
        raise DataError(f"{folder}: expected a study to go on with, found none; check the folder, or use --resume auto")
    if not is_there and folder.exists() and any(folder.iterdir()):
        raise OutputExistsError(f"{folder}: holds files but no study; choose another output")
    return folder


def _run(
    dataset: Dataset,
    options: TuneOptions,
    study: Study,
    where: ExecutorOptions,
    budget_trials: int | None,
    budget_s: float | None,
) -> bool:
    """Search under the eyes of the display; tell whether the budget was used up."""
    config = options.to_config(options.space.defaults())
    plan = check_training(dataset, config, where, Folder.at(study.path.parent), is_checked=True)
    try:
        with (
            open_executor(where, needed_object_store_bytes=plan.block_bytes) as workforce,
            _display(study, budget_trials, budget_s) as (on_sweep, on_trial),
            StopSignals(_STOPPING) as should_stop,
        ):
            search_options(
                dataset,
                options,
                study,
                executor=workforce,
                budget_trials=budget_trials,
                budget_s=budget_s,
                on_trial=on_trial,
                on_sweep=on_sweep,
                should_stop=should_stop,
            )
    except KeyboardInterrupt:
        return False
    return True


@contextmanager
def _display(
    study: Study, budget_trials: int | None, budget_s: float | None
) -> Iterator[tuple[Callable[[int, CurvePoint], None], Callable[[Study, FinishedTrial], None]]]:
    """Show a bar with the best so far on a terminal, one line per trial elsewhere; on standard error."""
    of_trials = f"/{budget_trials}" if budget_trials is not None else ""
    if not sys.stderr.isatty():

        def on_line(found: Study, trial: FinishedTrial) -> None:
            result = trial.result
            words = f"{result.state}, {result.reason}" if result.reason else result.state
            print(
                f"trial {trial.number + 1}{of_trials}  NDCG {_ndcg(result.best_ndcg)} at sweep {result.best_round}"
                f"  {result.seconds:.1f} s  {words}; {_best_words(found)}",
                file=sys.stderr,
                flush=True,
            )

        yield lambda *_: None, on_line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[words]}"), console=Console(stderr=True), transient=True) as bar:
        used, total = (study.n_trials, budget_trials) if budget_trials is not None else (study.tune_s, budget_s)
        unit = "trials" if budget_trials is not None else "seconds"
        task = bar.add_task(f"searching, {unit}", total=total, completed=int(used), words=_best_words(study))
        started = time.monotonic()

        def on_sweep(number: int, point: CurvePoint) -> None:
            words = f"trial {number + 1}, sweep {point.round}: {_ndcg(point.ndcg)}; {_best_words(study)}"
            bar.update(task, words=words)
            if budget_trials is None:
                bar.update(task, completed=int(used + time.monotonic() - started))

        def on_trial(found: Study, _: FinishedTrial) -> None:
            bar.update(task, words=_best_words(found))
            if budget_trials is not None:
                bar.update(task, completed=found.n_trials)

        yield on_sweep, on_trial


def _best_words(study: Study) -> str:
    best = study.best
    return "no best yet" if best is None else f"best {_ndcg(best.result.best_ndcg)} (trial {best.number + 1})"


def _ndcg(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _write(output: Path, study: Study, options: TuneOptions) -> None:
    """Write what people and ``rgals train`` read: trials, picture, the best options."""
    trials, best = study.trials, study.best
    if not trials:
        return
    write_trials(output / "trials.csv", trials, options.space)
    draw_search(output / "tuning.png", trials, options.space, f"ndcg@{options.cutoff}")
    if best is not None:
        found = best_config(options, best.result).model_dump(mode="json", exclude_unset=True)
        content = {name: value for name, value in found.items() if value is not None}
        replace_file(output / "best.json", (json.dumps(content, indent=2) + "\n").encode())


def _print_summary(dataset: str, opened: Dataset, output: Path, study: Study, options: TuneOptions) -> None:
    console = Console()
    best = study.best
    if best is None:
        reasons = sorted({trial.result.reason or trial.result.state for trial in study.trials})
        raise InputError(f"{output}: no trial reached an NDCG ({'; '.join(reasons)}); widen the data or fix options")
    scored = sorted(
        (trial for trial in study.trials if trial.result.is_scored), key=lambda trial: -trial.result.best_ndcg
    )
    table = Table(title=f"{options.loss}, {options.n_factors} factors: the best trials", title_justify="left")
    for name in ("trial", f"NDCG@{options.cutoff}", "sweeps", *study.space.names):
        table.add_column(name, justify="right")
    for trial in scored[:_SHOWN_TRIALS]:
        values = [f"{trial.result.options[name]:.4g}" for name in study.space.names]
        table.add_row(str(trial.number + 1), _ndcg(trial.result.best_ndcg), str(trial.result.best_round), *values)
    console.print(table)
    n_left = study.n_trials - len(scored) - study.n_failed
    console.print(
        f"{study.n_trials} trials in {study.tune_s:.0f} s: {len(scored)} whole, {n_left} cut, {study.n_failed} failed",
        highlight=False,
    )
    if study.n_failed_in_a_row >= MAX_FAILURES_IN_A_ROW:
        console.print(f"The search ended early: the last {MAX_FAILURES_IN_A_ROW} trials failed.", highlight=False)
    importance = study.importance()
    if importance is not None:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in importance.items())
        console.print(f"What set the good trials apart: {shares}", highlight=False, soft_wrap=True)
    console.print(f"Wrote {output}: best.json, trials.csv, tuning.png", markup=False, highlight=False, soft_wrap=True)
    command = ["rgals", "train", redact(dataset), "--config", str(output / "best.json")]
    if not opened.has_part("validation_fold_in"):
        command.append("--with-validation")
    console.print("To train with the best options:")
    console.print(f"  {shlex.join(command)} --output MODEL", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
