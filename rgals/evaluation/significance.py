"""Paired tests of differences between two models, and the correction for many of them."""

import numpy as np
from scipy.stats import wilcoxon

from rgals.names import Float64Array
from rgals.numerics.threads import available_threads, run_blocks

__all__ = ["holm_correct", "round_differences", "wilcoxon_p_values"]

_EXACT_PAIRS = 50
"""Up to here the distribution of the statistic is computed exactly, where no two differences are of equal size."""

_DECIMALS = 12
"""Differences are compared to these: what rounding made unequal is equal."""


def wilcoxon_p_values(differences: Float64Array, *, n_threads: int | None = None) -> Float64Array:
    """Give the two-sided p-value of Wilcoxon's signed-rank test for each row of paired differences.

    Parameters
    ----------
    differences : float64 array of shape (n_metrics, n_users)
        One difference for each user, finite.
    n_threads : int or None
        Number of threads; None uses every processor. The result does not depend on it.

    Returns
    -------
    float64 array of shape (n_metrics,)
        1 where no user differs; NaN without users.

    Notes
    -----
    Users without a difference are left out, as Wilcoxon does. The p-value is exact for up to 50
    users with differences of distinct sizes; otherwise it is that of the normal approximation with the
    variance corrected for ties. The test asks whether the differences of single users lie
    symmetrically around zero: with skewed differences it can disagree with the sign of the mean.

    References
    ----------
    .. [1] Wilcoxon, Individual comparisons by ranking methods, Biometrics Bulletin 1945.
    """
    if not differences.shape[1]:
        return np.full(differences.shape[0], np.nan)
    threads = available_threads() if n_threads is None else n_threads
    return np.array(run_blocks(_test, list(round_differences(differences)), threads), dtype=np.float64)


def round_differences(differences: Float64Array) -> Float64Array:
    """Make equal what only the rounding of two means made unequal: 12 decimals are kept."""
    return np.round(differences, _DECIMALS)


def _test(differences: Float64Array) -> float:
    unequal = differences[differences != 0]
    if not unequal.size:
        return 1.0
    is_exact = unequal.size <= _EXACT_PAIRS and np.unique(np.abs(unequal)).size == unequal.size
    return float(wilcoxon(unequal, method="exact" if is_exact else "asymptotic").pvalue)


def holm_correct(p_values: Float64Array) -> Float64Array:
    """Correct p-values so that the chance of any false finding among them is bounded.

    Parameters
    ----------
    p_values : float64 array of shape (n_tests,)
        NaN where a test is undefined; those are not counted.

    Returns
    -------
    float64 array of shape (n_tests,)
        At least as large, at most 1, in the same order; NaN where undefined.

    Notes
    -----
    With p_(1) <= ... <= p_(m): the j-th becomes the largest of (m - i + 1) p_(i) over i <= j, at most 1.

    References
    ----------
    .. [1] Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979.
    """
    corrected = np.full(p_values.shape, np.nan)
    defined = np.flatnonzero(~np.isnan(p_values))
    order = defined[np.argsort(p_values[defined], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1.0)
    return corrected
