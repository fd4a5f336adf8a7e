"""Observed weights g from stored weights and degrees, the same bits by user and by item."""

import numpy as np

from rgals.names import Float64Array, Offsets, Rows, Weights
from rgals.numerics.compile import kernel, strict_kernel
from rgals.numerics.sparse import InteractionRows

__all__ = ["row_weight_sums", "weigh_entries"]

_NO_WEIGHTS = np.empty(0, dtype=np.float32)


@strict_kernel
def _fill_weights(
    indptr: Offsets,
    columns: Rows,
    weights: Weights,
    row_factors: Float64Array,
    column_factors: Float64Array,
    out: Weights,
) -> None:
    for r in range(indptr.size - 1):
        for e in range(indptr[r], indptr[r + 1]):
            stored = np.float64(weights[e]) if weights.size > 0 else 1.0
            # The product of the two factors first: multiplication commutes, so both orientations agree.
            out[e] = np.float32(stored * (row_factors[r] * column_factors[columns[e]]))


@kernel
def _sum_rows(indptr: Offsets, weights: Weights, out: Float64Array) -> None:
    for r in range(indptr.size - 1):
        total = 0.0
        for e in range(indptr[r], indptr[r + 1]):
            total += np.float64(weights[e])
        out[r] = total


def weigh_entries(rows: InteractionRows, row_factors: Float64Array, column_factors: Float64Array) -> InteractionRows:
    """Give the same interactions with the weights ``weight * (row_factor * column_factor)``.

    Parameters
    ----------
    rows : InteractionRows
        Interactions with stored weights.
    row_factors : float64 array of shape (n_rows,)
        Factor of each row.
    column_factors : float64 array of shape (n_columns,)
        Factor of each column.

    Returns
    -------
    InteractionRows
        Shares offsets and columns; an entry has the same bits in the transposed orientation.
    """
    out = np.empty(rows.columns.size, dtype=np.float32)
    stored = _NO_WEIGHTS if rows.weights is None else rows.weights
    _fill_weights(rows.indptr, rows.columns, stored, row_factors, column_factors, out)
    return InteractionRows(rows.indptr, rows.columns, out, rows.n_columns)


def row_weight_sums(rows: InteractionRows) -> Float64Array:
    """Give the sum of each row's weights, float64 of shape (n_rows,); 0 for an empty row."""
    if rows.weights is None:
        return rows.degrees.astype(np.float64)
    out = np.empty(rows.n_rows, dtype=np.float64)
    _sum_rows(rows.indptr, rows.weights, out)
    return out
