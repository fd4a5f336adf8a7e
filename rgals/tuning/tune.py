"""The search for the options of one loss: trainings watched on the validation part, the good ones judged on all of it.

Ranking costs far more than a sweep. So a trial is watched, and cut, on a sample of the validation users, and only a
trial that comes near the best is ranked for all of them, at its best sweep.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rgals.data.dataset import Dataset
from rgals.errors import InputError
from rgals.execution import Executor
from rgals.numerics.loss import LOSS_NAMES, LossName
from rgals.numerics.ranking import Gains
from rgals.training.config import TrainingConfig
from rgals.tuning.family_trial import TrainingRules, count_start_sweeps, run_training
from rgals.tuning.rg_space import family_space
from rgals.tuning.search import search
from rgals.tuning.space import SearchSpace
from rgals.tuning.study import FinishedTrial, Study
from rgals.tuning.thresholds import WARM_UP_ROUNDS, warm_up_rounds
from rgals.tuning.trial import CurvePoint, Pruner, TrialResult

__all__ = ["WORTH_JUDGING", "TuneOptions", "best_config", "run_trial", "search_identity", "tune"]

WORTH_JUDGING = 0.97
"""A trial is judged on all users if the sample gives it this share of the best so far."""

_CHOSEN_HERE = ("loss", "n_factors", "n_sweeps", "patience", "seed", "validation_cutoff", "validation_gains",
                "validation_users", "validate_every", "softmax_users")  # fmt: skip


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """What is searched, and how a trial is judged.

    Parameters
    ----------
    loss : LossName
        The member of the family.
    n_factors : int
        Length of a user's and an item's vector.
    searched : tuple of str or None
        Names of the options that are searched; None takes those of `rgals.tuning.rg_space.default_search`.
    n_sweeps : int
        Largest number of sweeps of a trial; each counts with its best one.
    patience : int
        Sweeps without a better NDCG that end a trial.
    cutoff : int
        Length k of the ranked lists of the validation NDCG@k.
    gains : {"binary", "graded"}
        What a relevant item is worth in it.
    watched_users : int
        Users of the sample on which trials are watched and cut; 0 takes all.
    judged_users : int
        Users on whom a trial that comes near the best is judged; 0 takes all.
    seed : int
        Of the search, the samples and the starting factors.
    fixed : mapping
        Other options of `rgals.training.config.TrainingConfig`, the same for every trial.

    Raises
    ------
    InputError
        If an option is out of bounds, or fixed and searched.
    """

    loss: LossName = "rgx"
    n_factors: int = 64
    searched: tuple[str, ...] | None = None
    n_sweeps: int = 12
    patience: int = 3
    cutoff: int = 20
    gains: Gains = "binary"
    watched_users: int = 5000
    judged_users: int = 0
    seed: int = 0
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.loss not in LOSS_NAMES:
            raise InputError(f"loss: expected one of {', '.join(LOSS_NAMES)}, found {self.loss!r}")
        for name in ("watched_users", "judged_users"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: expected at least 0 (all users), found {getattr(self, name)}")
        twice = [name for name in self.fixed if name in self.space.names]
        if twice:
            raise InputError(f"{', '.join(twice)}: fixed and searched; leave it out of one of the two")
        chosen = [name for name in self.fixed if name in _CHOSEN_HERE]
        if chosen:
            raise InputError(f"{', '.join(chosen)}: set by the search itself, so that it cannot be fixed; leave it out")
        self.to_config(self.space.defaults())
        if self.n_start >= self.n_sweeps:
            raise InputError(
                f"n_sweeps: expected more than the {self.n_start} sweeps that {self.loss} starts with, found "
                f"{self.n_sweeps}; allow more sweeps, or fix fewer start_sweeps"
            )

    @property
    def n_start(self) -> int:
        """Sweeps at the beginning that minimize another loss."""
        return count_start_sweeps(self.to_config(self.space.defaults()))

    @property
    def warm_up(self) -> int:
        """Sweeps for which a trial is left alone."""
        return warm_up_rounds(self.n_sweeps, self.n_start) if self.n_start else WARM_UP_ROUNDS

    @property
    def space(self) -> SearchSpace:
        """What is searched."""
        return family_space(self.searched, self.loss)

    def to_config(self, values: Mapping[str, Any]) -> TrainingConfig:
        """Give the training configuration with the searched values."""
        return TrainingConfig.from_options(
            {
                "loss": self.loss,
                "n_factors": self.n_factors,
                "n_sweeps": self.n_sweeps,
                "patience": self.patience,
                "validation_cutoff": self.cutoff,
                "validation_gains": self.gains,
                "seed": self.seed,
                **self.fixed,
                **values,
            }
        )


def tune(
    dataset: Dataset,
    options: TuneOptions,
    study: Study,
    *,
    executor: Executor,
    budget_trials: int | None = None,
    budget_s: float | None = None,
    on_trial: Callable[[Study, FinishedTrial], None] | None = None,
    on_sweep: Callable[[int, CurvePoint], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Study:
    """Search the options of a loss on the validation part of a dataset.

    Parameters
    ----------
    dataset : Dataset
        With a validation part.
    options : TuneOptions
        What is searched.
    study : Study
        Where trials are kept; opened with `search_identity` and ``options.space``.
    executor : Executor
        Who trains.
    budget_trials, budget_s : int or float or None
        Trials and seconds in all, those of earlier calls included; at least one of them.
    on_trial : callable or None
        Called after each trial.
    on_sweep : callable or None
        Called after each sweep with the trial's number.
    should_stop : callable or None
        Asked after each sweep; True ends the search with a KeyboardInterrupt, and the trial is offered again later.

    Returns
    -------
    Study
        ``study``.

    Raises
    ------
    InputError
        If the dataset has no validation part, or there is no budget.
    """
    if not dataset.has_part("validation"):
        raise InputError(
            f"{dataset!r}: expected a validation part to judge trials by, found none; ingest the data again with "
            "--validation-fraction"
        )
    n_validated = int(np.count_nonzero(dataset.read_part("validation").degrees))

    def run(number: int, values: dict[str, Any], pruner: Pruner) -> TrialResult:
        def listen(point: CurvePoint) -> None:
            if should_stop is not None and should_stop():
                raise KeyboardInterrupt
            if on_sweep is not None:
                on_sweep(number, point)

        watched = (trial.result.watched_ndcg for trial in study.trials)
        reached = [ndcg for ndcg in watched if math.isfinite(ndcg)]
        return run_trial(
            dataset,
            options,
            values,
            pruner,
            executor,
            n_validated=n_validated,
            judged_from=WORTH_JUDGING * max(reached, default=0.0),
            listener=listen,
        )

    return search(
        study,
        run,
        budget_trials=budget_trials,
        budget_s=budget_s,
        patience=options.patience,
        warm_up=options.warm_up,
        n_start=options.n_start,
        on_trial=on_trial,
    )


def run_trial(
    dataset: Dataset,
    options: TuneOptions,
    values: Mapping[str, Any],
    pruner: Pruner,
    executor: Executor,
    *,
    n_validated: int,
    judged_from: float = 0.0,
    listener: Callable[[CurvePoint], None] | None = None,
) -> TrialResult:
    """Train with some values, watched on the small sample; judge on the large one where it is worth it.

    Parameters
    ----------
    dataset : Dataset
        With a validation part.
    options : TuneOptions
        What all trials share.
    values : mapping
        The searched values.
    pruner : Pruner
        When to end before the last sweep.
    executor : Executor
        Who trains.
    n_validated : int
        Users with validation interactions.
    judged_from : float
        NDCG on the small sample below which a trial is not judged, as it cannot be the best.
    listener : callable or None
        Told of each sweep.

    Returns
    -------
    TrialResult
        The curve is of the small sample, ``best_ndcg`` of the large one, unless the trial was cut or not judged. To
        judge it, the training is repeated up to its best sweep, which gives the same factors again and keeps none in
        between.
    """
    started = time.perf_counter()
    n_watched, n_judged = (min(n or n_validated, n_validated) for n in (options.watched_users, options.judged_users))
    rules = TrainingRules(
        dataset,
        options.loss,
        options.n_factors,
        options.n_sweeps,
        options.cutoff,
        options.gains,
        options.watched_users,
        options.seed,
    )
    found = run_training(rules, {**options.fixed, **values}, pruner, executor, listener)
    found = replace(found, options=dict(values))
    if not found.is_scored or n_watched == n_judged:
        return found
    if found.best_ndcg < judged_from:
        reason = "far below the best on the sample of users, so not judged on all"
        # An NDCG of the sample cannot be compared with one of all users: such a trial must not become the best.
        reason = reason if found.reason is None else f"{found.reason}; {reason}"
        return replace(found, state="pruned", reason=reason)
    again = {**options.fixed, **values, "validate_every": found.best_round}
    last = replace(rules, n_sweeps=found.best_round, validation_users=options.judged_users)
    judged = run_training(last, again, Pruner(), executor)
    return replace(found, best_ndcg=judged.best_ndcg, seconds=time.perf_counter() - started)


def search_identity(dataset: Dataset, options: TuneOptions) -> dict[str, Any]:
    """Give what the trials of a search are comparable under, as JSON values."""
    # Left out where there is no start: studies of the other losses from before go on.
    start = {"n_start": options.n_start, "warm_up": options.warm_up} if options.n_start else {}
    return {
        "dataset": dataset.fingerprint,
        "model": options.loss,
        "n_factors": options.n_factors,
        "metric": f"ndcg@{options.cutoff}",
        "gains": options.gains,
        "n_sweeps": options.n_sweeps,
        "patience": options.patience,
        "watched_users": options.watched_users,
        "judged_users": options.judged_users,
        "fixed": dict(options.fixed),
        **start,
    }


def best_config(options: TuneOptions, best: TrialResult) -> TrainingConfig:
    """Give the configuration that trains a trial's best sweep again, and stops there."""
    return options.to_config({**best.options, "n_sweeps": best.best_round, "patience": None})
