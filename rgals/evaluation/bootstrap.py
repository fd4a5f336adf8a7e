"""Bootstrap of means over users: confidence intervals and p-values from the same resamples."""

from collections.abc import Sequence

import numpy as np

from rgals.errors import InputError
from rgals.names import Float64Array
from rgals.numerics.threads import available_threads, run_blocks

__all__ = ["bootstrap_intervals", "bootstrap_p_values", "percentile_intervals", "resample_means"]

_BLOCK_COUNTS = 1 << 22
"""Counts of a block of resamples held at once: 32 MiB."""

_ZERO = 1e-12
"""Mean differences up to here are rounding."""


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
    (means,) = resample_means([values], n_resamples=n_resamples, seed=seed, n_threads=n_threads)
    return percentile_intervals(means, level)


def resample_means(
    tables: Sequence[Float64Array], *, n_resamples: int, seed: int, n_threads: int | None = None
) -> list[Float64Array]:
    """Give the means of each row of several tables under one resampling of the users.

    Parameters
    ----------
    tables : sequence of float64 arrays of shape (n_metrics, n_users)
        One for each model: one value for each user, finite; all over the same users.
    n_resamples : int
        Number of resamples.
    seed : int
        Together with a resample's number the key of its draws: the same users are drawn for every
        table, so that the means of two models may be subtracted.
    n_threads : int or None
        Number of threads; None uses every processor. The result does not depend on it.

    Returns
    -------
    list of float64 arrays of shape (n_resamples, n_metrics)
        In the order of the tables; without rows if there are no users. The means of a table do not
        depend on the others.

    Raises
    ------
    InputError
        If ``n_resamples`` is negative, or the tables differ in their number of users.
    """
    numbers = {table.shape[1] for table in tables}
    if n_resamples < 0 or len(numbers) > 1:
        raise InputError(
            f"bootstrap: expected n_resamples of at least 0 and tables over the same users, found {n_resamples} "
            f"and tables of {sorted(numbers)} users"
        )
    n_users = max(numbers, default=0)
    if n_resamples == 0 or n_users == 0:
        return [np.zeros((0, table.shape[0])) for table in tables]
    by_user = [np.ascontiguousarray(table.T) for table in tables]
    # Blocks do not depend on the number of threads, so the products have the same shapes and bits.
    block_rows = max(1, min(64, _BLOCK_COUNTS // n_users))
    blocks = [range(start, min(start + block_rows, n_resamples)) for start in range(0, n_resamples, block_rows)]
    means = run_blocks(
        lambda block: _resample_means(by_user, block, seed),
        blocks,
        available_threads() if n_threads is None else n_threads,
    )
    return [np.concatenate(of_table) for of_table in zip(*means, strict=True)]


def percentile_intervals(means: Float64Array, level: float) -> tuple[Float64Array, Float64Array]:
    """Give the quantiles of resampled means that enclose a share of them.

    Parameters
    ----------
    means : float64 array of shape (n_resamples, n_metrics)
        From `resample_means`, or the difference of two such.
    level : float
        Confidence level, between 0 and 1.

    Returns
    -------
    tuple of two float64 arrays of shape (n_metrics,)
        Lower and upper ends; NaN without resamples.
    """
    if not means.size:
        return np.full(means.shape[1], np.nan), np.full(means.shape[1], np.nan)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def bootstrap_p_values(means: Float64Array) -> Float64Array:
    """Give two-sided p-values of mean differences: how far out 0 lies among the resampled means.

    Parameters
    ----------
    means : float64 array of shape (n_resamples, n_metrics)
        Resampled mean differences.

    Returns
    -------
    float64 array of shape (n_metrics,)
        At least 2 / (n_resamples + 1); NaN without resamples.

    Notes
    -----
    With b the smaller number of the resamples not above 0 and of those not below: 2 (b + 1) / (n_resamples + 1),
    at most 1. It is below 1 - level about when the percentile interval of that level leaves out 0.

    References
    ----------
    .. [1] Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 4.2.
    """
    if not means.size:
        return np.full(means.shape[1], np.nan)
    n_below, n_above = (means <= _ZERO).sum(axis=0), (means >= -_ZERO).sum(axis=0)
    p_values: Float64Array = np.minimum(2 * (np.minimum(n_below, n_above) + 1) / (means.shape[0] + 1), 1.0)
    return p_values


def _resample_means(by_user: Sequence[Float64Array], resamples: range, seed: int) -> list[Float64Array]:
    """Give the means of some resamples, float64 of shape (n_resamples, n_metrics) for each table."""
    n_users = by_user[0].shape[0]
    counts = np.empty((len(resamples), n_users), dtype=np.float64)
    for row, resample in enumerate(resamples):
        generator = np.random.Generator(np.random.Philox(key=np.array([seed, resample], dtype=np.uint64)))
        counts[row] = np.bincount(generator.integers(0, n_users, n_users), minlength=n_users)
    return [counts @ table / n_users for table in by_user]
