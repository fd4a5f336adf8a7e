"""The last fit of a model, with chosen options, on all that may be known before the test; and the test."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rgals.baselines.model import FittedBaseline, Round
from rgals.data.dataset import Dataset
from rgals.data.merged import TrainAndValidation
from rgals.evaluation.evaluator import measure
from rgals.evaluation.protocol import EvaluatedUsers, EvaluationOptions
from rgals.evaluation.values import ModelValues
from rgals.execution import Executor, WorkerContext
from rgals.numerics.fold_in import UserSystem
from rgals.training.config import TrainingConfig
from rgals.training.events import SweepEvent, TrainingEvent
from rgals.training.trainer import train
from rgals.tuning.contenders import Contender, contender_named
from rgals.tuning.fitting import RoundListener, load_kernels
from rgals.tuning.trial import CurvePoint

__all__ = ["FinalRules", "FinalTask", "final_source", "measure_final", "run_final"]


@dataclass(frozen=True, slots=True)
class FinalRules:
    """What the last fits of all models share.

    Parameters
    ----------
    source : Dataset or TrainAndValidation
        What they see.
    users : EvaluatedUsers
        The users of the test part.
    options : EvaluationOptions
        The protocol of the test.
    n_factors, seed : int
        As in the search.
    listener : callable or None
        Told of each round of a fit that runs in the calling process; no number and no second depends on it.
    on_fitted : callable or None
        Called when a fit has ended, likewise.
    """

    source: Dataset | TrainAndValidation
    users: EvaluatedUsers
    options: EvaluationOptions
    n_factors: int
    seed: int
    listener: RoundListener | None = None
    on_fitted: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class FinalTask:
    """One model's last fit.

    Parameters
    ----------
    model : str
        Name of the contender.
    options : mapping
        The chosen values of what was searched.
    n_rounds : int
        The chosen number of sweeps or epochs. Schedules are those of the search: the fit ends where the search's
        best fit was best, not sooner on a faster schedule.
    """

    model: str
    options: Mapping[str, Any]
    n_rounds: int


def final_source(dataset: Dataset) -> Dataset | TrainAndValidation:
    """Give what the last fit sees.

    The training and the validation part together where both are of the same users. Under the
    held-out-users split the training part alone: validation users, like test users, are new to the model.
    """
    if dataset.has_part("validation_fold_in") or not dataset.has_part("validation"):
        return dataset
    return TrainAndValidation(dataset)


def measure_final(rules: FinalRules, task: FinalTask, executor: Executor) -> ModelValues:
    """Fit a model with the options and the number of rounds that validation chose, and rank the test part.

    Parameters
    ----------
    rules : FinalRules
        What all models share.
    task : FinalTask
        What to fit.
    executor : Executor
        Trains and ranks a loss of the family with all its workers. A baseline is fitted where its timed fit was, by
        one worker, which ranks with it too: what it fitted may be too large to be sent about.

    Returns
    -------
    ModelValues
        Their name is the contender's; ``train_s`` are the seconds of fitting alone.
    """
    contender = contender_named(task.model)
    if contender.loss is None:
        [values] = executor.map_ordered(run_final, rules, [task])
        return values
    model = _fit_family(contender, rules, task, executor)
    if rules.on_fitted is not None:
        rules.on_fitted()
    return measure(model, rules.users, rules.options, n_threads=executor.caller_threads, executor=executor)


def run_final(rules: FinalRules, task: FinalTask, context: WorkerContext) -> ModelValues:
    """Fit a baseline and rank the test part; a task."""
    contender = contender_named(task.model)
    load_kernels(task.model, rules.n_factors)
    source = rules.source

    def look(found: Round) -> bool:
        if rules.listener is not None:
            rules.listener(CurvePoint(found.number, found.train_s, math.nan, found.loss))
        return found.number < task.n_rounds

    fitted = contender.fit(
        source.read_part("train") if isinstance(source, Dataset) else source.read_all(),
        task.options,
        n_factors=rules.n_factors,
        n_rounds=contender.n_rounds,
        seed=rules.seed,
        n_threads=context.n_threads,
        watch=look,
    )
    if rules.on_fitted is not None:
        rules.on_fitted()
    return measure(replace(fitted, name=contender.name), rules.users, rules.options, n_threads=context.n_threads)


def _fit_family(contender: Contender, rules: FinalRules, task: FinalTask, executor: Executor) -> FittedBaseline:
    settings = {
        "loss": contender.loss,
        "n_factors": rules.n_factors,
        "n_sweeps": task.n_rounds,
        "seed": rules.seed,
        **contender.fixed,
        **task.options,
    }
    config = TrainingConfig.from_options({**settings, "softmax_users": 0})

    def listen(event: TrainingEvent) -> None:
        if rules.listener is not None and isinstance(event, SweepEvent):
            rules.listener(CurvePoint(event.sweep, event.train_s, math.nan, event.objective))

    result = train(rules.source, config, executor=executor, on_event=listen)
    items = result.item_factors
    system = UserSystem.build(items, config.to_loss(), result.item_degrees, result.weight_scale)
    return FittedBaseline(contender.name, result.train_s, settings, result.user_factors, items, system.solve)
