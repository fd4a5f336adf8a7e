"""The record of a training run, sweep by sweep, and the rule that its objective falls."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from rgals.errors import NumericalError
from rgals.names import Side
from rgals.training.config import TrainingConfig

__all__ = ["RISE_TOLERANCE", "SweepSummary", "check_half_step", "objective_scale", "relative_fall"]

RISE_TOLERANCE = 1e-5
"""Largest rise of the objective in a half-step, relative to its largest absolute value in the run, that
rounding of float32 factors explains. Converged runs rise and fall by about 1e-7 of it."""


@dataclass(frozen=True, slots=True)
class SweepSummary:
    """What is remembered of a sweep.

    Parameters
    ----------
    sweep : int
        Its number, from 1.
    objective_before, objective_after_users, objective_after_items : float
        The objective before the sweep and after each half-step.
    seconds : float
        Seconds spent solving.
    ndcg : float or None
        Mean validation NDCG@k; None where it was not validated.
    softmax : float or None
        Exact softmax loss of the sample; None where it was not computed.
    step_length : float or None
        Of a re-expanded sweep, how far it went: 1 unless the exact objective would have risen; else None.
    """

    sweep: int
    objective_before: float
    objective_after_users: float
    objective_after_items: float
    seconds: float
    ndcg: float | None = None
    softmax: float | None = None
    step_length: float | None = None


def objective_scale(history: Iterable[SweepSummary], *objectives: float) -> float:
    """Give the largest absolute value of the objective so far: what its changes are measured against.

    The objective can pass through 0, so that its present value alone is no measure.

    Parameters
    ----------
    history : iterable of SweepSummary
        Sweeps before.
    *objectives : float
        Values of the present sweep.
    """
    known = [abs(value) for summary in history for value in (summary.objective_before, summary.objective_after_items)]
    return max([*map(abs, objectives), *known, 1e-300])


def relative_fall(before: float, after: float, scale: float) -> float:
    """Give the fall of the objective relative to ``scale``; negative for a rise."""
    return (before - after) / scale


def check_half_step(sweep: int, side: Side, before: float, after: float, scale: float, config: TrainingConfig) -> None:
    """Check that the objective is finite and did not rise.

    Raises
    ------
    NumericalError
        If it is not finite, or rose by more than ``RISE_TOLERANCE`` of ``scale``.
    """
    options = f"loss {config.loss}, n_factors {config.n_factors}, alpha {config.alpha:g}, reg {config.reg:g}, " + (
        f"nu {config.nu:g}, beta {config.beta:g}, user_exponent {config.user_exponent:g}, "
        f"item_exponent {config.item_exponent:g}, solver {config.solver}, cg_steps {config.cg_steps}"
    )
    where = f"sweep {sweep}, {side} half-step"
    if not (math.isfinite(before) and math.isfinite(after)):
        raise NumericalError(
            f"{where}: expected a finite objective, found {before!r} before and {after!r} after ({options}); "
            "raise reg, or lower alpha or the exponents"
        )
    if after - before > RISE_TOLERANCE * scale:
        raise NumericalError(
            f"{where}: expected the objective to fall, found a rise from {before!r} to {after!r} ({options}); "
            "raise reg, choose the solver 'exact', or raise cg_steps"
        )
