"""What a report holds beside the measured numbers: how a model was trained, the run itself, titles of items."""

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from rgals.artifact.model import Model
from rgals.data.dataset import Dataset
from rgals.evaluation.provenance import describe_provenance
from rgals.evaluation.report import CurvePoint, ModelDetails, Provenance, Report
from rgals.evaluation.titles import TitleTable
from rgals.execution import ExecutorOptions
from rgals.numerics.loss import LOSS_NAMES
from rgals.numerics.threads import available_threads
from rgals.tuning.contenders import contender_named

__all__ = [
    "TitleColumnsOption",
    "TitlesOption",
    "add_titles",
    "describe_baseline",
    "describe_run",
    "describe_training",
    "name_executor",
    "recorded_command",
]

TitlesOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="Titles to show for items: a CSV, JSON Lines or Parquet file.")
]
TitleColumnsOption = Annotated[str, typer.Option(metavar="ITEM,TITLE", help="Its columns of item ids and of titles.")]

_RG_LOSSES = tuple(name for name in LOSS_NAMES if name != "ials")
"""The members of the library's family that are its own; weighted squares are everybody's."""


def describe_training(model: Model, name: str, k: int, gains: str = "binary") -> ModelDetails:
    """Give a model's family and, where it was validated during its training, its curve.

    Parameters
    ----------
    model : Model
        The opened model; its metrics hold a record of each sweep.
    name : str
        Name in the report.
    k : int
        Cutoff of the report's headline metric; a curve of NDCG at another cutoff is left out.
    gains : str
        What a relevant item is worth in the report; likewise.
    """
    metrics = model.metrics
    is_comparable = (metrics.get("validation_cutoff"), model.config.get("validation_gains", "binary")) == (k, gains)
    family = "rg" if model.config.get("loss") in _RG_LOSSES else "other"
    n_rounds, history = metrics.get("kept_sweep"), metrics.get("history") or ()
    # Only re-expanded sweeps have a step; those before them are the start, which a continued training leaves out.
    is_reexpanded = any(sweep.get("step_length") is not None for sweep in history)
    n_start_rounds = sum(sweep.get("step_length") is None for sweep in history) if is_reexpanded else 0
    found = ModelDetails(name=name, family=family, n_rounds=n_rounds, n_start_rounds=n_start_rounds)
    curve: list[CurvePoint] = []
    train_s = 0.0
    for sweep in history:
        if sweep.get("ndcg") is None or "seconds" not in sweep or not is_comparable:
            return found
        train_s += sweep["seconds"]
        curve.append(
            CurvePoint(
                round=sweep["sweep"],
                train_s=train_s,
                ndcg=sweep["ndcg"],
                objective=sweep.get("objective_after_items"),
                softmax=sweep.get("softmax"),
            )
        )
    return found.model_copy(update={"curve": curve})


def describe_baseline(name: str) -> ModelDetails:
    """Give the family of a baseline."""
    contender = contender_named(name)
    return ModelDetails(name=name, family=contender.family)


def add_titles(report: Report, table: TitleTable | None) -> Report:
    """Give a report with the titles of its items, where there is a table; warn if it holds none of them."""
    if table is None:
        return report
    found = table.add_to(report)
    if not found.titles:
        print(
            f"rgals: warning: --titles: no item of the sample users is in column {table.item_column!r}", file=sys.stderr
        )
    return found


def describe_run(dataset: Dataset, started_at: datetime, where: ExecutorOptions) -> Provenance:
    """Say where a report comes from: the command of this process, from its start until now.

    Parameters
    ----------
    dataset : Dataset
        What was evaluated on.
    started_at : datetime
        When the command began, UTC.
    where : ExecutorOptions
        Who did the work.
    """
    return describe_provenance(
        str(dataset.location),
        dataset.fingerprint,
        command=recorded_command(),
        started_at=started_at,
        seconds=(datetime.now(UTC) - started_at).total_seconds(),
        executor=name_executor(where),
    )


def recorded_command() -> str:
    """Give the command of this process as it can be run again: ``rgals ...``, or ``python -m jobs.NAME ...``."""
    program = Path(sys.argv[0])
    is_job = program.parent.name == "jobs" and program.suffix == ".py" and program.stem != "cli"
    return shlex.join([*(["python", "-m", f"jobs.{program.stem}"] if is_job else ["rgals"]), *sys.argv[1:]])


def name_executor(where: ExecutorOptions) -> str:
    """Describe who does the work, for a reader."""
    if where.kind == "in-process":
        return f"in-process, threads: {where.threads or available_threads()}"
    workers = where.workers or ("one" if where.address is None else "one on each node")
    return f"ray, workers: {workers}, CPUs of each: {where.worker_cpus or 'all'}"
