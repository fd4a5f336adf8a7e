"""Starting factors, drawn per row: the same for any number of shards, workers and threads."""

import numpy as np

from rgals.names import Factors
from rgals.numerics.compile import kernel

__all__ = ["initial_factors"]

_SCALE = 0.1
"""Standard deviation of a row's norm. Small enough that the first scores are inside the expansion's radius."""


@kernel
def _mix(value: np.uint64) -> np.uint64:
    """Scramble 64 bits (the finalizer of splitmix64, Steele, Lea, Flood, OOPSLA 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@kernel
def _fill_normal(key: np.uint64, first_row: int, deviation: float, out: Factors) -> None:
    n_rows, n_factors = out.shape
    golden = np.uint64(0x9E3779B97F4A7C15)
    unit = 1.0 / 9007199254740992.0
    for r in range(n_rows):
        state = _mix(key + golden * np.uint64(first_row + r + 1))
        for f in range(n_factors):
            state += golden
            radius = np.float64(_mix(state) >> np.uint64(11)) * unit
            state += golden
            angle = np.float64(_mix(state) >> np.uint64(11)) * unit
            # Box-Muller; 1 - radius lies in (0, 1], so the logarithm is finite.
            out[r, f] = deviation * np.sqrt(-2.0 * np.log(1.0 - radius)) * np.cos(2.0 * np.pi * angle)


def initial_factors(n_rows: int, n_factors: int, seed: int, *, first_row: int = 0) -> Factors:
    """Draw normal starting factors, each row from its own stream keyed by (seed, row).

    Parameters
    ----------
    n_rows, n_factors : int
        The shape.
    seed : int
        Any 64-bit integer.
    first_row : int
        Number of the first row, when only a range is drawn.

    Returns
    -------
    float32 array of shape (n_rows, n_factors)
        Mean 0, standard deviation ``0.1 / sqrt(n_factors)``, as Rendle et al. (arXiv 2110.14037) advise.
    """
    out = np.empty((n_rows, n_factors), dtype=np.float32)
    with np.errstate(over="ignore"):
        key = np.uint64(seed & 0xFFFFFFFFFFFFFFFF) * np.uint64(0xD1342543DE82EF95) + np.uint64(1)
        _fill_normal(key, first_row, _SCALE / np.sqrt(n_factors), out)
    return out
