"""``rgals train``: factors from a dataset, written as a model."""

import json
import sys
import tomllib
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

import rgals
from jobs.config_options import with_config_options
from jobs.executor_options import (
    AddressOption,
    ExecutorOption,
    ThreadsOption,
    WorkerCpusOption,
    WorkersOption,
    read_executor_options,
)
from jobs.report_details import recorded_command
from jobs.training_plan import check_training
from rgals.artifact.model import Model
from rgals.artifact.model_writer import write_model
from rgals.data.arrays import FactorBlocks
from rgals.data.dataset import Dataset
from rgals.data.merged import TrainAndValidation
from rgals.data.storage import Folder, check_output, redact
from rgals.errors import InputError, RgalsError
from rgals.execution import Executor, open_executor
from rgals.names import Part
from rgals.numerics.fold_in import user_background
from rgals.numerics.sparse import InteractionRows
from rgals.training.checkpoint import check_writable
from rgals.training.config import TrainingConfig
from rgals.training.events import EventLog, Listener, TrainingEvent
from rgals.training.interrupt import StopSignals
from rgals.training.progress import ProgressDisplay
from rgals.training.result import TrainResult
from rgals.training.run import Resume
from rgals.training.trainer import train as train_factors
from rgals.training.warm_start import WarmStart, match_by_id

__all__ = ["main", "train"]

EXIT_INTERRUPTED = 130
"""What shells give for a command ended by Ctrl-C."""

_STOPPING = "rgals: stopping after this sweep; once more stops at once"
_RESUME_MODES: dict[str, Resume] = {"never": False, "auto": "auto", "required": True}
_STOP_WORDS = {
    "sweeps": "n_sweeps",
    "tolerance": "tolerance",
    "patience": "patience",
}


@with_config_options
def train(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="Dataset folder: a local path or a URI such as s3://...")
    ],
    *,
    output: Annotated[str, typer.Option("--output", "-o", metavar="MODEL", help="Folder of the new model.")],
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Training options as .json or .toml, or a model's config.json; options given here go before it.",
        ),
    ] = None,
    executor: ExecutorOption = "in-process",
    threads: ThreadsOption = None,
    address: AddressOption = None,
    workers: WorkersOption = None,
    worker_cpus: WorkerCpusOption = None,
    warm_start: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Start from this model's factors, matched by id.")
    ] = None,
    checkpoints: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where checkpoints go.", show_default="MODEL.checkpoints"),
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            metavar="never|auto|required",
            help="Go on from the newest checkpoint: 'auto' where there is one, 'required' or not at all.",
        ),
    ] = "never",
    events: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Append every event of the run to this file.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the model, and checkpoints that are not resumed.")
    ] = False,
    with_validation: Annotated[
        bool,
        typer.Option(
            "--with-validation",
            help="Train on the validation part too: the last training, with options that are chosen already.",
        ),
    ] = False,
    is_planned: Annotated[
        bool, typer.Option("--plan/--no-plan", help="Refuse what does not fit into memory or disk, see rgals plan.")
    ] = True,
    **options: Any,
) -> None:
    """Train a model by alternating least squares.

    Ctrl-C ends the run after the present sweep and leaves a checkpoint for --resume auto.
    """
    chosen = {name: value for name, value in options.items() if value is not None}
    settings = TrainingConfig.from_options({**_read_options(config), **chosen})
    where = read_executor_options(executor, threads, address, workers, worker_cpus)
    if resume not in _RESUME_MODES:
        raise InputError(f"--resume: expected never, auto or required, found {resume!r}")
    target = check_output(output, overwrite)
    check_writable(target)
    place = Folder.at(checkpoints) if checkpoints else target.beside(".checkpoints")
    opened = Dataset.open(dataset)
    source = TrainAndValidation(opened) if with_validation else opened
    initial = None if warm_start is None else _read_warm_start(Model.open(warm_start), opened)
    plan = check_training(opened, settings, where, target, is_checked=is_planned)
    store_bytes = plan.block_bytes if is_planned else 0
    with open_executor(where, needed_object_store_bytes=store_bytes) as workforce:
        run = _Run(opened, source, settings, workforce, initial, place, _RESUME_MODES[resume], overwrite, events)
        result = _train(run)
        lineage = _describe_lineage(dataset, run, warm_start)
        model = _write(output, run, result, lineage)
    _print_summary(output, model, result, settings)


def main() -> None:
    """Run the command on its own, as ``python -m jobs.train``; a known error gives exit code 1."""
    try:
        typer.run(train)
    except RgalsError as error:
        print(f"rgals: error: {error}", file=sys.stderr)
        sys.exit(1)


def _read_options(path: Path | None) -> dict[str, Any]:
    """Read training options from a JSON or TOML file."""
    if path is None:
        return {}
    if path.suffix not in (".json", ".toml"):
        raise InputError(f"--config {path}: expected a .json or .toml file, found {path.suffix or 'no suffix'!r}")
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read ({error}); check the path") from error
    except ValueError as error:
        raise InputError(f"--config {path}: not valid {path.suffix[1:].upper()} ({error}); correct it") from error
    if not isinstance(found, dict):
        raise InputError(f"--config {path}: expected an object of options, found {type(found).__name__}")
    # The config.json of a model keeps the options of its training under this name.
    training = found.get("training", found)
    return training if isinstance(training, dict) else found


@dataclass(frozen=True, slots=True)
class _Run:
    """What the command line asks for, read and checked."""

    dataset: Dataset
    source: Dataset | TrainAndValidation
    settings: TrainingConfig
    executor: Executor
    initial: WarmStart | None
    checkpoints: Folder
    resume: Resume
    overwrite: bool
    events: Path | None


def _train(run: _Run) -> TrainResult:
    """Train under the eyes of the display and the event file; an interrupted run ends the command."""
    dataset, place = run.dataset, run.checkpoints
    try:
        with ExitStack() as stack:
            listeners: list[Listener] = [stack.enter_context(EventLog(run.events))] if run.events else []
            listeners.append(stack.enter_context(ProgressDisplay()))
            # What is trained on says nothing about quality, so that it is not watched.
            is_watched = run.source is dataset
            result = train_factors(
                run.source,
                run.settings,
                executor=run.executor,
                validation=_read_part(dataset, "validation") if is_watched else None,
                validation_fold_in=_read_part(dataset, "validation_fold_in") if is_watched else None,
                initial=run.initial,
                checkpoints=place,
                resume=run.resume,
                overwrite_checkpoints=run.overwrite,
                on_event=lambda event: _tell(listeners, event),
                should_stop=stack.enter_context(StopSignals(_STOPPING)),
            )
    except KeyboardInterrupt:
        _end_interrupted(
            f"at once; checkpoints written before, if any, are in {place}: --resume auto goes on from them"
        )
    if result.stop_reason == "interrupted":
        _end_interrupted(
            f"after sweep {result.n_sweeps}; its state is in {result.checkpoint}; "
            "to go on, run the same command with --resume auto"
        )
    return result


def _read_part(dataset: Dataset, part: Part) -> InteractionRows | None:
    return dataset.read_part(part) if dataset.has_part(part) else None


def _read_warm_start(model: Model, dataset: Dataset) -> WarmStart:
    return match_by_id(
        dataset.user_ids,
        dataset.item_ids,
        known_user_ids=model.user_ids,
        known_item_ids=model.item_ids,
        known_user_factors=model.user_factors,
        known_item_factors=model.item_factors,
    )


def _tell(listeners: list[Listener], event: TrainingEvent) -> None:
    for listener in listeners:
        listener(event)


def _end_interrupted(what: str) -> NoReturn:
    print(f"rgals: interrupted {what}", file=sys.stderr)
    raise typer.Exit(EXIT_INTERRUPTED)


def _describe_lineage(location: str, run: _Run, warm_start: str | None) -> dict[str, Any]:
    dataset = run.dataset
    return {
        "dataset": redact(location),
        "dataset_fingerprint": dataset.fingerprint,
        "dataset_counts": {
            "users": dataset.n_users,
            "items": dataset.n_items,
            "interactions": run.source.n_interactions,
        },
        "trained_on": ["train"] if run.source is dataset else ["train", "validation"],
        "rgals_version": rgals.__version__,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": redact(recorded_command()),
        "warm_start": None if warm_start is None else redact(warm_start),
    }


def _write(output: str, run: _Run, result: TrainResult, lineage: dict[str, Any]) -> Model:
    """Write the model block by block, its factors in the basis that fold-in needs."""
    settings, factors = run.settings, result.factors
    loss, users, items = settings.to_loss(), factors.state.users, factors.state.items
    fold_in = user_background(factors.read_blocks("item"), loss, result.item_degrees, run.executor.caller_threads)
    basis = None if fold_in.is_canonical else fold_in.basis
    kept = next((summary for summary in result.history if summary.sweep == result.kept_sweep), None)
    return write_model(
        output,
        user_factors=FactorBlocks(users.n_rows, users.n_factors, factors.read_blocks("user", basis)),
        item_factors=FactorBlocks(items.n_rows, items.n_factors, factors.read_blocks("item", basis)),
        user_ids=run.dataset.user_ids,
        item_ids=run.dataset.item_ids,
        seen=run.source,
        loss=loss,
        weight_scale=result.weight_scale,
        item_degrees=result.item_degrees,
        config=settings.model_dump(mode="json"),
        metrics={
            "train_s": result.train_s,
            "total_s": result.total_s,
            "n_sweeps": result.n_sweeps,
            "kept_sweep": result.kept_sweep,
            "stop_reason": result.stop_reason,
            "objective": None if kept is None else kept.objective_after_items,
            "validation_cutoff": settings.validation_cutoff,
            "validation_ndcg": None if kept is None else kept.ndcg,
            "history": [asdict(summary) for summary in result.history],
        },
        lineage=lineage,
        overwrite=run.overwrite,
    )


def _print_summary(output: str, model: Model, result: TrainResult, settings: TrainingConfig) -> None:
    table = Table(show_header=False)
    last = result.history[-1]
    # Sweeps of rg-softmax's start have an objective of their own.
    first = next((summary for summary in result.history if summary.step_length is not None), result.history[0])
    kept = result.history[result.kept_sweep - 1]
    rows = [
        ("loss", f"{settings.loss}, {settings.n_factors} factors"),
        ("sweeps", f"{result.n_sweeps}, stopped by {_STOP_WORDS[result.stop_reason]}"),
        ("kept", f"sweep {result.kept_sweep}"),
        ("objective", f"{first.objective_before:.6g} to {last.objective_after_items:.6g}"),
    ]
    if kept.ndcg is not None:
        rows.append((f"validation NDCG@{settings.validation_cutoff}", f"{kept.ndcg:.4f}"))
    seconds = (
        f"{result.train_s:.2f} solving, {result.validate_s:.2f} validating, {result.monitor_s:.2f} monitoring, "
        f"{result.checkpoint_s:.2f} checkpointing, {result.total_s:.2f} in all"
    )
    rows.append(("seconds", seconds))
    for name, value in rows:
        table.add_row(name, value)
    console = Console()
    console.print(f"Wrote {redact(output)}", markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    console.print(f"Factors {model.factor_checksum}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
