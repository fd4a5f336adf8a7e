"""When a trial is hopeless: the median of what the others had reached by then."""

import math
from collections.abc import Sequence

import numpy as np

from rgals.tuning.trial import CurvePoint, TrialResult

__all__ = ["MIN_TRIALS", "WARM_UP_ROUNDS", "median_thresholds", "warm_up_rounds"]

MIN_TRIALS = 3
"""Finished trials before any is cut."""

WARM_UP_ROUNDS = 2
"""Rounds for which a trial is left alone, unless more are asked for."""


def warm_up_rounds(n_rounds: int, n_start: int) -> int:
    """Give the rounds for which a trial is left alone: the start, and a third of the others, at least two."""
    return n_start + max(WARM_UP_ROUNDS, (n_rounds - n_start) // 3)


def median_thresholds(
    results: Sequence[TrialResult], warm_up: int = WARM_UP_ROUNDS, n_start: int = 0
) -> tuple[float, ...]:
    """Give, for each round, the median over the finished trials of the best NDCG that each had seen by then.

    Parameters
    ----------
    results : sequence of TrialResult
        Finished trials; those that failed do not count.
    warm_up : int
        Rounds for which a trial is left alone. How soon a round tells good from hopeless depends on the method: after
        three sweeps of alternating least squares, and not after three epochs of a gradient method whose rate falls.
    n_start : int
        Rounds at the beginning that minimize another loss, whose NDCG does not count.

    Returns
    -------
    tuple of float
        For rounds 1, 2, ... to the longest curve. A trial that ended before a round, by its own rules or because it
        was cut, counts with its best: were cut trials left out, the median would be that of ever fewer, ever better
        trials, and cut nearly all. Minus infinity in the first rounds and where fewer than three trials had been
        looked at. Empty before three trials were finished.
    """
    curves = [result.curve for result in results if result.state != "failed"]
    if len(curves) < MIN_TRIALS:
        return ()
    n_rounds = max(curve[-1].round for curve in curves)
    reached = np.array([_running_best(curve, n_rounds, n_start) for curve in curves])
    thresholds = []
    for index in range(n_rounds):
        seen = reached[np.isfinite(reached[:, index]), index]
        is_known = index >= warm_up and seen.size >= MIN_TRIALS
        thresholds.append(float(np.median(seen)) if is_known else -math.inf)
    return tuple(thresholds)


def _running_best(curve: Sequence[CurvePoint], n_rounds: int, n_start: int) -> list[float]:
    """Give the best NDCG up to each round; minus infinity before the first look that counts."""
    by_round = {point.round: point.ndcg for point in curve if math.isfinite(point.ndcg) and point.round > n_start}
    best, reached = -math.inf, []
    for number in range(1, n_rounds + 1):
        best = max(best, by_round.get(number, -math.inf))
        reached.append(best)
    return reached
