"""One trial of a loss of the family: a training, watched on the validation part after each sweep."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rgals.data.dataset import Dataset
from rgals.errors import NumericalError
from rgals.execution import Executor
from rgals.names import Part
from rgals.numerics.loss import LossName
from rgals.numerics.ranking import Gains
from rgals.numerics.sparse import InteractionRows
from rgals.training.config import TrainingConfig
from rgals.training.events import SoftmaxEvent, SweepEvent, TrainingEvent, ValidationEvent
from rgals.training.trainer import train
from rgals.tuning.trial import CurvePoint, Pruner, TrialResult, Verdict

__all__ = ["TrainingRules", "count_start_sweeps", "run_training"]


@dataclass(frozen=True, slots=True)
class TrainingRules:
    """What all trials of a search share.

    Parameters
    ----------
    dataset : Dataset
        With a validation part.
    loss : LossName
        The member of the family.
    n_factors : int
        Length of a user's and an item's vector.
    n_sweeps : int
        Largest number of sweeps.
    cutoff : int
        Length k of the ranked lists of the validation NDCG@k.
    gains : {"binary", "graded"}
        What a relevant item is worth in it.
    validation_users : int
        Size of the sample of users; 0 takes all.
    seed : int
        Keys the sample, and the starting factors.
    fixed : mapping
        Options of the training that are not searched and not the defaults.
    """

    dataset: Dataset
    loss: LossName
    n_factors: int
    n_sweeps: int
    cutoff: int
    gains: Gains
    validation_users: int
    seed: int
    fixed: Mapping[str, Any] = field(default_factory=dict)


def run_training(
    rules: TrainingRules,
    options: Mapping[str, Any],
    pruner: Pruner,
    executor: Executor,
    listener: Callable[[CurvePoint], None] | None = None,
    *,
    watches_softmax: bool = False,
) -> TrialResult:
    """Run one trial on the training part.

    Parameters
    ----------
    rules : TrainingRules
        What all trials share.
    options : mapping
        The searched options of `rgals.training.config.TrainingConfig`.
    pruner : Pruner
        When to end it before the last sweep; how many sweeps are of another loss is known from the options.
    executor : Executor
        Who trains.
    listener : callable or None
        Told of each sweep.
    watches_softmax : bool
        Whether the exact softmax loss of a sample of users is computed as well.

    Returns
    -------
    TrialResult
        Its curve has a point for each sweep; the best one is a sweep of the loss itself. A training without a
        finite solution is a failed trial.
    """
    started = time.perf_counter()
    config = TrainingConfig.from_options(
        {
            "loss": rules.loss,
            "n_factors": rules.n_factors,
            "n_sweeps": rules.n_sweeps,
            "seed": rules.seed,
            "validation_cutoff": rules.cutoff,
            "validation_gains": rules.gains,
            "validation_users": rules.validation_users,
            **({} if watches_softmax else {"softmax_users": 0}),
            **rules.fixed,
            **options,
        }
    )
    n_start = count_start_sweeps(config)
    watch = _Watch(replace(pruner, n_start=n_start), started, listener)
    try:
        train(
            rules.dataset,
            config,
            executor=executor,
            validation=_read(rules.dataset, "validation"),
            validation_fold_in=_read(rules.dataset, "validation_fold_in"),
            on_event=watch.see,
            should_stop=watch.should_stop,
        )
    except NumericalError as error:
        return TrialResult.failure(options, str(error), time.perf_counter() - started)
    watch.tell()
    return TrialResult.of_curve(options, watch.curve, time.perf_counter() - started, watch.verdict, n_start)


def count_start_sweeps(config: TrainingConfig) -> int:
    """Count the sweeps of RG× that ``rg-softmax`` begins with: a model stopped in them is not one of its loss."""
    return config.start_sweeps if config.to_loss().is_reexpanded else 0


@dataclass(slots=True)
class _Watch:
    """Puts the events of a sweep together."""

    pruner: Pruner
    started: float
    listener: Callable[[CurvePoint], None] | None
    verdict: Verdict | None = None
    _sweeps: dict[int, dict[str, float]] = field(default_factory=dict)
    _n_told: int = 0

    @property
    def curve(self) -> list[CurvePoint]:
        """The sweeps that were validated, in order."""
        return [
            CurvePoint(sweep, found["train_s"], found["ndcg"], found["objective"], *self._softmax(found))
            for sweep, found in sorted(self._sweeps.items())
            if "ndcg" in found and "train_s" in found
        ]

    def see(self, event: TrainingEvent) -> None:
        """Note what an event says of its sweep."""
        match event:
            case SweepEvent():
                self._note(event.sweep, train_s=event.train_s, objective=event.objective)
            case ValidationEvent():
                self._note(event.sweep, ndcg=event.ndcg)
            case SoftmaxEvent():
                self._note(event.sweep, softmax=event.softmax, surrogate=event.surrogate)
            case _:
                pass

    def should_stop(self) -> bool:
        """Tell, between two sweeps, whether the trial should end."""
        self.tell()
        self.verdict = self.pruner.should_stop(self.curve, time.perf_counter() - self.started)
        return self.verdict is not None

    def tell(self) -> None:
        """Tell the listener of the newest sweep; nobody asks whether to stop after the last one of a training."""
        curve = self.curve
        if self.listener is not None and len(curve) > self._n_told:
            self._n_told = len(curve)
            self.listener(curve[-1])

    def _note(self, sweep: int, **values: float) -> None:
        self._sweeps.setdefault(sweep, {}).update(values)

    @staticmethod
    def _softmax(found: Mapping[str, float]) -> tuple[float | None, float | None]:
        return found.get("softmax"), found.get("surrogate")


def _read(dataset: Dataset, part: Part) -> InteractionRows | None:
    return dataset.read_part(part) if dataset.has_part(part) else None
