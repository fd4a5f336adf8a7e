"""What a sweep did: objectives, seconds, and how the work was spread."""

from dataclasses import dataclass

from rgals.execution import BlockResult
from rgals.names import Factors
from rgals.training.half_step_tasks import ShardSummary

__all__ = ["ExpansionRecord", "StepLoad", "SweepRecord"]


@dataclass(frozen=True, slots=True)
class StepLoad:
    """How the work of a half-step was spread over the workers.

    Parameters
    ----------
    n_workers : int
        Workers that took part.
    slowest : str
        Name of the worker that was busy longest.
    slowest_s, mean_s : float
        Its busy seconds, and the mean over the workers.
    """

    n_workers: int
    slowest: str
    slowest_s: float
    mean_s: float

    @classmethod
    def of(cls, results: list[BlockResult[Factors, ShardSummary]]) -> "StepLoad":
        """Add up the seconds of each worker."""
        busy: dict[str, float] = {}
        for result in results:
            busy[result.worker] = busy.get(result.worker, 0.0) + result.seconds + result.prepare_s
        slowest = max(busy, key=lambda worker: busy[worker])
        return cls(len(busy), slowest, busy[slowest], sum(busy.values()) / len(busy))


@dataclass(frozen=True, slots=True)
class ExpansionRecord:
    """The expansion around the factors that a sweep found.

    Parameters
    ----------
    objective : float
        The exact softmax loss with its ridge, of these factors.
    step_length : float
        How far the sweep went towards the minimum of the expansion before: 1, or less where the exact objective
        would have risen; 0 where no step was short enough, and the factors stayed as they were.
    seconds : float
        Seconds of the passes over all scores.
    error : float
        Standard error of the objective, at most, where the passes look at a sample; else 0.
    """

    objective: float
    step_length: float
    seconds: float
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """What one sweep did.

    Parameters
    ----------
    sweep : int
        Its number, from 1.
    objective_before, objective_after_users, objective_after_items : float
        The objective, including its constant, before and after the two half-steps; for a re-expanded loss the
        expansion's, which agrees with the loss before.
    user_s, item_s : float
        Seconds of the two half-steps.
    user_load, item_load : StepLoad
        How each half-step was spread over the workers.
    expanded : ExpansionRecord or None
        What the expansion around the new factors found; None for a loss that is quadratic itself.
    """

    sweep: int
    objective_before: float
    objective_after_users: float
    objective_after_items: float
    user_s: float
    item_s: float
    user_load: StepLoad
    item_load: StepLoad
    expanded: ExpansionRecord | None = None

    @property
    def objective(self) -> float:
        """The objective after the sweep."""
        return self.objective_after_items if self.expanded is None else self.expanded.objective
