"""What a sweep did: objectives, seconds, and how the work was spread."""

from collections.abc import Iterable
from dataclasses import dataclass

from rgals.execution import BlockResult
from rgals.names import Factors
from rgals.training.half_step_tasks import PassWork, ShardSummary

__all__ = ["ExpansionRecord", "PassLoad", "StepLoad", "SweepRecord"]


@dataclass(frozen=True, slots=True)
class PassLoad:
    """Passes over all scores.

    Parameters
    ----------
    seconds : float
        For how long the worker was in them that was longest; of several passes, the sum.
    n_scores : int
        Scores that they looked at, all workers together.
    """

    seconds: float = 0.0
    n_scores: int = 0

    @classmethod
    def of(cls, parts: Iterable[tuple[str, PassWork]]) -> "PassLoad":
        """Put the parts of one pass together, each with the name of its worker."""
        busy: dict[str, float] = {}
        n_scores = 0
        for worker, part in parts:
            busy[worker] = busy.get(worker, 0.0) + part.seconds
            n_scores += part.n_scores
        return cls(max(busy.values(), default=0.0), n_scores)

    def __add__(self, other: "PassLoad") -> "PassLoad":
        return PassLoad(self.seconds + other.seconds, self.n_scores + other.n_scores)


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
    passed : PassLoad
        The pass over all scores that was part of it, if any.
    """

    n_workers: int
    slowest: str
    slowest_s: float
    mean_s: float
    passed: PassLoad = PassLoad()

    @classmethod
    def of(cls, results: list[BlockResult[Factors, ShardSummary]]) -> "StepLoad":
        """Add up the seconds of each worker."""
        busy: dict[str, float] = {}
        for result in results:
            busy[result.worker] = busy.get(result.worker, 0.0) + result.seconds + result.prepare_s
        slowest = max(busy, key=lambda worker: busy[worker])
        parts = [(result.worker, result.summary.passed) for result in results]
        passed = PassLoad.of((worker, part) for worker, part in parts if part is not None)
        return cls(len(busy), slowest, busy[slowest], sum(busy.values()) / len(busy), passed)


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
    passed : PassLoad
        All passes over the scores that the sweep made: that of the items, and one of the users for each expansion.
    error : float
        Standard error of the objective, at most, where the passes look at a sample; else 0.
    """

    objective: float
    step_length: float
    passed: PassLoad
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
