"""A sample of rows that stands for all of them, each with the weight that makes sums over it right on average."""

from dataclasses import dataclass

import numpy as np

from rgals.names import Float64Array, Rows, Weights
from rgals.numerics.softmax_gradient_sample import ItemSampler
from rgals.numerics.sparse import InteractionRows

__all__ = ["RowSample", "draw_rows"]

_UNIFORM_SHARE = 0.5
"""Share of the draws that goes to all rows alike: no weight is more than twice that of a uniform sample."""


@dataclass(frozen=True, slots=True)
class RowSample:
    """Rows drawn from ``n_all``.

    Parameters
    ----------
    rows : int32 array of shape (n_sampled,)
        The rows, ascending, each once.
    log_weights : float32 array of shape (n_sampled,)
        Logarithm of w: the number of draws over the expected number. 0 where a row is in every sample.
    n_all : int
        Rows from which they were drawn.
    """

    rows: Rows
    log_weights: Weights
    n_all: int

    @property
    def spreads(self) -> Weights:
        """``1 - 1 / w``: what ``(w x)^2`` is multiplied with to have the variance of a sampled x."""
        spreads: Weights = np.maximum(1 - np.exp(-self.log_weights), np.float32(0))
        return spreads

    def places_of(self, rows: InteractionRows) -> InteractionRows:
        """Give the entries whose columns are in the sample, with their place in it as columns.

        Parameters
        ----------
        rows : InteractionRows of shape (n_rows, n_all)
            Entries.

        Returns
        -------
        InteractionRows of shape (n_rows, n_sampled)
            Without weights; columns still ascend.
        """
        places = np.full(self.n_all, -1, dtype=np.int32)
        places[self.rows] = np.arange(self.rows.size, dtype=np.int32)
        found = places[rows.columns]
        n_before = np.zeros(found.size + 1, dtype=np.int64)
        np.cumsum(found >= 0, out=n_before[1:])
        return InteractionRows(n_before[rows.indptr], found[found >= 0], None, self.rows.size)


def draw_rows(weight_sums: Float64Array, fraction: float, key: tuple[int, ...]) -> RowSample:
    """Draw a share of the rows, those of much weight more often.

    Parameters
    ----------
    weight_sums : float64 array of shape (n_all,)
        Of each row, at least 0.
    fraction : float
        Share of the rows, above 0 and at most 1; at least one row is drawn.
    key : tuple of int
        What the draw follows from, each at least 0: a seed, the number of a sweep, and so on.

    Returns
    -------
    RowSample
        Half of the draws go to all rows alike, the other half in proportion to ``weight_sums``, at most one to a row.
    """
    n_all, total = weight_sums.size, float(weight_sums.sum())
    shares = np.full(n_all, 1.0 / n_all)
    if total > 0:
        shares = _UNIFORM_SHARE * shares + (1 - _UNIFORM_SHARE) * weight_sums / total
    rows, log_weights = ItemSampler(shares, max(1, round(fraction * n_all))).draw(np.random.default_rng(key))
    return RowSample(rows, log_weights, n_all)
