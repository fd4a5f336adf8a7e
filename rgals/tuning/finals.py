"""The last fit of a model, with chosen options, on all that may be known before the test."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rgals.baselines.model import FittedBaseline, FittedScorer
from rgals.data.dataset import Dataset
from rgals.data.merged import TrainAndValidation
from rgals.execution import Executor
from rgals.numerics.fold_in import UserSystem
from rgals.training.config import TrainingConfig
from rgals.training.trainer import train
from rgals.tuning.contenders import Contender
from rgals.tuning.fitting import load_kernels

__all__ = ["final_source", "fit_final"]


def final_source(dataset: Dataset) -> Dataset | TrainAndValidation:
    """Give what the last fit sees.

    The training and the validation part together where both are of the same users. Under the
    held-out-users split the training part alone: validation users, like test users, are new to the model.
    """
    if dataset.has_part("validation_fold_in") or not dataset.has_part("validation"):
        return dataset
    return TrainAndValidation(dataset)


def fit_final(
    contender: Contender,
    options: Mapping[str, Any],
    n_rounds: int,
    source: Dataset | TrainAndValidation,
    *,
    n_factors: int,
    seed: int,
    executor: Executor,
) -> FittedBaseline | FittedScorer:
    """Fit a model with the options and the number of rounds that validation chose.

    Parameters
    ----------
    contender : Contender
        The model.
    options : mapping
        The chosen values of what was searched.
    n_rounds : int
        The chosen number of sweeps or epochs. Schedules are those of the search: it ends where the search's
        best fit was best, not sooner on a faster schedule.
    source : Dataset or TrainAndValidation
        What it sees.
    n_factors, seed : int
        As in the search.
    executor : Executor
        Trains a loss of the family; a baseline is fitted in this process, with this process's threads.

    Returns
    -------
    FittedBaseline or FittedScorer
        Its name is the contender's; ``train_s`` are the seconds of fitting alone.
    """
    if contender.loss is not None:
        return _fit_family(contender, options, n_rounds, source, n_factors, seed, executor)
    load_kernels(contender.name, n_factors)
    rows = source.read_part("train") if isinstance(source, Dataset) else source.read_all()
    fitted = contender.fit(
        rows,
        options,
        n_factors=n_factors,
        n_rounds=contender.n_rounds,
        seed=seed,
        n_threads=executor.caller_threads,
        watch=lambda found: found.number < n_rounds,
    )
    return replace(fitted, name=contender.name)


def _fit_family(
    contender: Contender,
    options: Mapping[str, Any],
    n_rounds: int,
    source: Dataset | TrainAndValidation,
    n_factors: int,
    seed: int,
    executor: Executor,
) -> FittedBaseline:
    settings = {"loss": contender.loss, "n_factors": n_factors, "n_sweeps": n_rounds, "seed": seed, **options}
    config = TrainingConfig.from_options({**settings, "softmax_users": 0})
    result = train(source, config, executor=executor)
    items = result.item_factors
    system = UserSystem.build(items, config.to_loss(), result.item_degrees, result.weight_scale)
    return FittedBaseline(contender.name, result.train_s, settings, result.user_factors, items, system.solve)
