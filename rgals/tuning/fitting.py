"""One trial of a baseline as a task of an executor: fit it, rank a validation sample after each round."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from rgals.baselines.model import FittedBaseline, FittedScorer, Round
from rgals.data.dataset import Dataset
from rgals.errors import NumericalError
from rgals.evaluation.evaluator import measure
from rgals.evaluation.protocol import EvaluatedUsers, EvaluationOptions
from rgals.execution import WorkerContext
from rgals.numerics.ranking import Gains
from rgals.numerics.sparse import InteractionRows
from rgals.training.monitor import sample_rows
from rgals.tuning.contenders import contender_named
from rgals.tuning.trial import CurvePoint, Pruner, TrialResult, Verdict

__all__ = [
    "OWNER",
    "FitTask",
    "FittingInputs",
    "FittingRules",
    "RoundListener",
    "load_kernels",
    "prepare_worker",
    "read_inputs",
    "run_fit",
    "sample_users",
]

OWNER = "comparison"
"""Under this name workers keep the data of the trials."""

RoundListener = Callable[[CurvePoint], None]
"""Told of each round of a trial that runs in this process."""


@dataclass(frozen=True, slots=True)
class FittingRules:
    """What all trials of a comparison share; sent to each worker once.

    Parameters
    ----------
    dataset : Dataset
        With a validation part.
    n_factors : int
        Factors of the models that have any.
    cutoff : int
        Length k of the ranked lists of the validation NDCG@k.
    gains : {"binary", "graded"}
        What a relevant item is worth in it.
    validation_users : int
        Size of the sample of users; 0 takes all.
    seed : int
        Keys the sample, and the models' starting values.
    listener : callable or None
        Told of each round; only where trials run in the calling process.
    """

    dataset: Dataset
    n_factors: int
    cutoff: int
    gains: Gains
    validation_users: int
    seed: int
    listener: RoundListener | None = None


@dataclass(frozen=True, slots=True)
class FittingInputs:
    """What the trials of a worker read.

    Parameters
    ----------
    train : InteractionRows of shape (n_users, n_items)
        The training part.
    users : EvaluatedUsers
        The validation sample.
    """

    train: InteractionRows
    users: EvaluatedUsers


@dataclass(frozen=True, slots=True)
class FitTask:
    """One trial.

    Parameters
    ----------
    model : str
        Name of the contender.
    options : mapping
        The searched options.
    n_rounds : int
        Largest number of rounds.
    pruner : Pruner
        When to end it before.
    """

    model: str
    options: Mapping[str, Any]
    n_rounds: int
    pruner: Pruner


def read_inputs(rules: FittingRules) -> FittingInputs:
    """Read the training part and the validation sample."""
    users = sample_users(EvaluatedUsers.read(rules.dataset, "validation"), rules.validation_users, rules.seed)
    return FittingInputs(rules.dataset.read_part("train"), users)


def run_fit(rules: FittingRules, task: FitTask, context: WorkerContext) -> TrialResult:
    """Run one trial; a task. The worker keeps the data for the next one.

    Parameters
    ----------
    rules : FittingRules
        What all trials share.
    task : FitTask
        What to fit.
    context : WorkerContext
        Whose threads it uses.

    Returns
    -------
    TrialResult
        Its curve has a point for each round. A fit without finite factors is a failed trial.

    Raises
    ------
    CapacityError
        If the model does not fit into memory.
    MissingDependencyError
        If its library is not installed.
    """
    inputs = context.resident(OWNER, "inputs", lambda: read_inputs(rules))
    contender = contender_named(task.model)
    load_kernels(task.model, rules.n_factors)
    started = time.perf_counter()
    measured = EvaluationOptions(cutoffs=(rules.cutoff,), part="validation", gains=rules.gains, n_resamples=0)
    curve: list[CurvePoint] = []
    verdict: list[Verdict] = []

    def look(found: Round) -> bool:
        model = found.model()
        ndcg = _ndcg(model, inputs.users, measured, context.n_threads)
        curve.append(CurvePoint(found.number, found.train_s, ndcg, found.loss))
        if rules.listener is not None:
            rules.listener(curve[-1])
        found_verdict = task.pruner.should_stop(curve, time.perf_counter() - started)
        if found_verdict is not None:
            verdict.append(found_verdict)
        return found_verdict is None

    try:
        contender.fit(
            inputs.train,
            task.options,
            n_factors=rules.n_factors,
            n_rounds=task.n_rounds,
            seed=rules.seed,
            n_threads=context.n_threads,
            watch=look,
        )
    except NumericalError as error:
        return TrialResult.failure(task.options, str(error), time.perf_counter() - started)
    return TrialResult.of_curve(task.options, curve, time.perf_counter() - started, verdict[0] if verdict else None)


def prepare_worker(shared: tuple[FittingRules, str], position: int, context: WorkerContext) -> None:
    """Read the data and compile what a baseline needs, in a worker, before its search is charged for it; a task."""
    del position
    rules, model = shared
    context.resident(OWNER, "inputs", lambda: read_inputs(rules))
    load_kernels(model, rules.n_factors)


@cache
def load_kernels(model: str, n_factors: int) -> None:
    """Fit a baseline to a few numbers and rank with it, once in a process, so that no measured second is of compiling.

    Raises
    ------
    CapacityError, MissingDependencyError
        As its fit does.
    """
    contender = contender_named(model)
    if contender.loss is not None:
        return
    n_users, n_items = 24, 20
    columns = (np.arange(n_users)[:, None] * 3 + np.arange(5)[None]) % n_items
    rows = InteractionRows.from_pairs(np.repeat(np.arange(n_users), 5), columns.ravel(), None, n_users, n_items)
    popularity = rows.transpose().degrees.astype(np.float32)[:, None]
    users = EvaluatedUsers("weak", np.arange(n_users), rows, rows, None, popularity, ("train",), 0)

    def look(found: Round) -> bool:
        _ndcg(found.model(), users, EvaluationOptions(cutoffs=(2,), part="validation", n_resamples=0), 1)
        return False

    with suppress(NumericalError):
        contender.fit(
            rows, contender.space.defaults(), n_factors=n_factors, n_rounds=1, seed=0, n_threads=1, watch=look
        )


def sample_users(users: EvaluatedUsers, n_users: int, seed: int) -> EvaluatedUsers:
    """Choose evaluated users by a keyed hash, as the validation of a training does.

    Parameters
    ----------
    users : EvaluatedUsers
        To choose from.
    n_users : int
        How many; 0, or more than there are, takes all.
    seed : int
        The key.
    """
    chosen = sample_rows(users.user_rows, n_users, seed)
    if chosen.size == users.n_users:
        return users
    positions = np.searchsorted(users.user_rows, chosen)
    return replace(
        users,
        user_rows=chosen,
        held_out=users.held_out.take(positions),
        seen=users.seen.take(positions),
        fold_in=None if users.fold_in is None else users.fold_in.take(positions),
    )


def _ndcg(
    model: FittedBaseline | FittedScorer, users: EvaluatedUsers, options: EvaluationOptions, n_threads: int
) -> float:
    values = measure(model, users, options, n_threads=n_threads)
    return float(values.by_user[f"ndcg@{options.cutoffs[0]}"].mean())
