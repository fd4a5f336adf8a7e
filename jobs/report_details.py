"""What ``rgals evaluate`` knows beside the measured numbers: how a model was trained, and the run itself."""

import shlex
import sys
from datetime import UTC, datetime

from rgals.artifact.model import Model
from rgals.data.dataset import Dataset
from rgals.evaluation.provenance import describe_provenance
from rgals.evaluation.report import CurvePoint, ModelDetails, Provenance
from rgals.execution import ExecutorOptions
from rgals.numerics.threads import available_threads

__all__ = ["describe_baseline", "describe_run", "describe_training", "name_executor"]

_TRIVIAL = ("popularity", "random")
_RG_LOSSES = ("rg2", "rgx")


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
    n_rounds = metrics.get("kept_sweep")
    curve: list[CurvePoint] = []
    train_s = 0.0
    for sweep in metrics.get("history") or ():
        if sweep.get("ndcg") is None or "seconds" not in sweep or not is_comparable:
            return ModelDetails(name=name, family=family, n_rounds=n_rounds)
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
    return ModelDetails(name=name, family=family, n_rounds=n_rounds, curve=curve)


def describe_baseline(name: str) -> ModelDetails:
    """Give the family of a baseline."""
    return ModelDetails(name=name, family="trivial" if name in _TRIVIAL else "other")


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
        command=shlex.join(["rgals", *sys.argv[1:]]),
        started_at=started_at,
        seconds=(datetime.now(UTC) - started_at).total_seconds(),
        executor=name_executor(where),
    )


def name_executor(where: ExecutorOptions) -> str:
    """Describe who does the work, for a reader."""
    if where.kind == "in-process":
        return f"in-process, threads: {where.threads or available_threads()}"
    workers = where.workers or ("one" if where.address is None else "one on each node")
    return f"ray, workers: {workers}, CPUs of each: {where.worker_cpus or 'all'}"
