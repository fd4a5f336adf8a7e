"""Bootstrap confidence intervals of means over users."""

import numpy as np

from rgals.errors import InputError
from rgals.names import Float64Array
from rgals.numerics.threads import available_threads, run_blocks

__all__ = ["bootstrap_intervals"]

_BLOCK_COUNTS = 1 << 22
"""Counts of a block of resamples held at once: 32 MiB."""


def bootstrap_intervals(
    values: Float64Array, *, n_resamples: int, seed: int, level: float = 0.95, n_threads: int | None = None
) -> tuple[Float64Array, Float64Array]:
    """Give percentile intervals of the mean of each row of values.

    Parameters
    ----------
    values : float64 array of shape (n_metrics, n_users)
        One value for each user, finite. All rows are resampled with the same users, so an interval of
        the differences between two models is a paired one.
    n_resamples : int
        Number of resamples; 0 leaves the intervals undefined.
    seed : int
        Together with a resample's number the key of its draws.
    level : float
        Confidence level, between 0 and 1.
    n_threads : int or None
        Number of threads; None uses every processor. The result does not depend on it.

    Returns
    -------
    tuple of two float64 arrays of shape (n_metrics,)
        Lower and upper ends; NaN without users or without resamples.

    Raises
    ------
    InputError
        If ``n_resamples`` is negative or ``level`` is not between 0 and 1.

    Notes
    -----
    A resample draws as many users as there are, with replacement, and counts how often each was
    drawn; counts times values gives the means of all metrics at once. The ends are the
    ``(1 - level) / 2`` and ``(1 + level) / 2`` quantiles of the means, linearly interpolated.

    References
    ----------
    .. [1] Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    if n_resamples < 0 or not 0 < level < 1:
        raise InputError(
            f"bootstrap: expected n_resamples of at least 0 and a level between 0 and 1, "
            f"found {n_resamples} and {level}"
        )
    n_metrics, n_users = values.shape
    if n_resamples == 0 or n_users == 0 or n_metrics == 0:
        return np.full(n_metrics, np.nan), np.full(n_metrics, np.nan)
    by_user = np.ascontiguousarray(values.T)
    # Blocks do not depend on the number of threads, so the products have the same shapes and bits.
    block_rows = max(1, min(64, _BLOCK_COUNTS // n_users))
    blocks = [range(start, min(start + block_rows, n_resamples)) for start in range(0, n_resamples, block_rows)]
    means = run_blocks(
        lambda block: _resample_means(by_user, block, seed),
        blocks,
        available_threads() if n_threads is None else n_threads,
    )
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _resample_means(by_user: Float64Array, resamples: range, seed: int) -> Float64Array:
    """Give the means of some resamples, float64 of shape (n_resamples, n_metrics)."""
    n_users = by_user.shape[0]
    counts = np.empty((len(resamples), n_users), dtype=np.float64)
    for row, resample in enumerate(resamples):
        generator = np.random.Generator(np.random.Philox(key=np.array([seed, resample], dtype=np.uint64)))
        counts[row] = np.bincount(generator.integers(0, n_users, n_users), minlength=n_users)
    means: Float64Array = counts @ by_user / n_users
    return means
