"""One trial of a search: its curve, its outcome, and the rule that ends a hopeless one.

Everything here is plain data: a trial may run in another process.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

__all__ = ["CurvePoint", "Pruner", "TrialResult", "TrialState", "Verdict", "best_point"]

TrialState: TypeAlias = Literal["complete", "pruned", "failed", "stopped"]
"""How a trial ended: by its own rules, as hopeless, with an error, or out of time."""

Verdict: TypeAlias = Literal["pruned", "patience", "deadline"]
"""Why a trial should end before its last round."""

_STATES: dict[Verdict | None, TrialState] = {
    None: "complete",
    "patience": "complete",
    "pruned": "pruned",
    "deadline": "stopped",
}


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A look at a model in the middle of its training."""

    round: int
    """Sweep, epoch or iteration, from 1."""
    train_s: float
    """Seconds of training so far, without looking."""
    ndcg: float
    """Validation NDCG at this point; NaN where undefined."""
    objective: float | None = None
    """The trained objective, where the method has one."""
    softmax: float | None = None
    """Exact softmax loss per unit of weight of a sample of users, where it was watched."""
    surrogate: float | None = None
    """The trained expansion of it on the same users, likewise."""


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What came out of a trial.

    Parameters
    ----------
    options : dict
        The values that were tried.
    curve : tuple of CurvePoint
        In order of rounds; empty for a trial that failed before its first look.
    best_round : int
        Round of the highest NDCG; 0 without one.
    best_ndcg : float
        That NDCG; NaN without one.
    seconds : float
        Seconds of the trial, everything included.
    state : TrialState
        How it ended.
    reason : str or None
        Why, in words, where it did not run to its last round.
    """

    options: dict[str, Any]
    curve: tuple[CurvePoint, ...]
    best_round: int
    best_ndcg: float
    seconds: float
    state: TrialState
    reason: str | None = None

    @classmethod
    def of_curve(
        cls,
        options: Mapping[str, Any],
        curve: Sequence[CurvePoint],
        seconds: float,
        verdict: Verdict | None = None,
        n_start: int = 0,
    ) -> "TrialResult":
        """Make the result of a trial from what was seen of it.

        Parameters
        ----------
        options : mapping
            The values that were tried.
        curve : sequence of CurvePoint
            What was seen.
        seconds : float
            Seconds of the trial.
        verdict : str or None
            What `Pruner.should_stop` said, if the trial ended by it.
        n_start : int
            Rounds at the beginning that minimize another loss: none of them can be the best round.

        Returns
        -------
        TrialResult
            A trial that never had an NDCG after these rounds has failed.
        """
        best = best_point(curve, n_start)
        if best is None:
            reason = "no round had a defined NDCG" if curve else "it ended before the first round"
            if curve and curve[-1].round <= n_start:
                reason = f"it ended in the {n_start} rounds at the start, before a round of its own loss"
            return cls(dict(options), tuple(curve), 0, math.nan, seconds, "failed", reason)
        reasons: dict[Verdict | None, str | None] = {
            None: None,
            "patience": f"no better NDCG after round {best.round}",
            "pruned": f"below the median of the other trials at round {curve[-1].round}",
            "deadline": f"out of time after round {curve[-1].round}",
        }
        state = _STATES[verdict]
        return cls(dict(options), tuple(curve), best.round, best.ndcg, seconds, state, reasons[verdict])

    @classmethod
    def failure(cls, options: Mapping[str, Any], reason: str, seconds: float) -> "TrialResult":
        """Make the result of a trial that ended with an error."""
        return cls(dict(options), (), 0, math.nan, seconds, "failed", reason)

    @property
    def watched_ndcg(self) -> float:
        """NDCG of its best round on the users it was watched on, who may be fewer than it was judged on; or NaN."""
        return next((point.ndcg for point in self.curve if point.round == self.best_round), math.nan)

    @property
    def is_scored(self) -> bool:
        """Whether its NDCG counts: it ran to its end, or out of time, and was not cut as hopeless."""
        return self.state in ("complete", "stopped")

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values; numbers that are not finite become None."""
        values = asdict(self)
        values["curve"] = [{name: _finite(value) for name, value in asdict(point).items()} for point in self.curve]
        return {name: _finite(value) for name, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrialResult":
        """Read what `to_json` gave."""
        curve = tuple(CurvePoint(**{**point, "ndcg": _number(point["ndcg"])}) for point in values["curve"])
        return cls(**{**values, "curve": curve, "best_ndcg": _number(values["best_ndcg"])})


@dataclass(frozen=True, slots=True)
class Pruner:
    """The rule that ends a trial early; plain numbers, sent along with the trial.

    Parameters
    ----------
    thresholds : tuple of float
        For rounds 1, 2, ...: the best NDCG so far below which the trial is hopeless; minus infinity where
        there is no such number. Later rounds use the last one.
    patience : int or None
        Rounds without a better NDCG that end the trial; None: off.
    deadline_s : float or None
        Seconds after which the trial ends; None: off.
    n_start : int
        Rounds at the beginning that minimize another loss: patience and the best NDCG are about those after them.
    """

    thresholds: tuple[float, ...] = ()
    patience: int | None = None
    deadline_s: float | None = None
    n_start: int = 0

    def should_stop(self, curve: Sequence[CurvePoint], elapsed_s: float | None = None) -> Verdict | None:
        """Tell whether a trial should end after its newest round, and why.

        Parameters
        ----------
        curve : sequence of CurvePoint
            What was seen of the trial so far.
        elapsed_s : float or None
            Seconds of the trial so far; None takes its seconds of training.

        Returns
        -------
        str or None
            ``"pruned"``, ``"patience"``, ``"deadline"``, or None to go on. A trial whose NDCG has been
            undefined so far counts as minus infinity.
        """
        if not curve:
            return None
        last, best = curve[-1], best_point(curve, self.n_start)
        if self.thresholds and last.round > self.n_start:
            threshold = self.thresholds[min(last.round, len(self.thresholds)) - 1]
            if (-math.inf if best is None else best.ndcg) < threshold:
                return "pruned"
        since = curve[0].round if best is None else best.round
        if self.patience is not None and last.round - max(since, self.n_start) >= self.patience:
            return "patience"
        if self.deadline_s is not None and (last.train_s if elapsed_s is None else elapsed_s) >= self.deadline_s:
            return "deadline"
        return None


def best_point(curve: Sequence[CurvePoint], n_start: int = 0) -> CurvePoint | None:
    """Give the first point of the highest NDCG after ``n_start`` rounds; None where no NDCG is defined."""
    defined = [point for point in curve if math.isfinite(point.ndcg) and point.round > n_start]
    return max(defined, key=lambda point: point.ndcg, default=None)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else value
