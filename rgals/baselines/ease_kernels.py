"""Kernels of EASE: gram matrices of sparse rows, and quadratic forms."""

import numpy as np

from rgals.names import Factors, Float64Array, Offsets, Rows, Weights
from rgals.numerics.compile import kernel
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import run_blocks

__all__ = ["fill_gram", "quadratic_forms"]

_ROWS_PER_BLOCK = 64


def fill_gram(rows: InteractionRows, columns: InteractionRows, reg: float, gram: Factors, *, n_threads: int) -> None:
    """Write the lower triangle of A Aᵀ + reg·I.

    Parameters
    ----------
    rows, columns : InteractionRows of shapes (n_rows, n_columns) and (n_columns, n_rows)
        A and its transpose.
    reg : float
        Added to the diagonal.
    gram : float32 array of shape (n_rows, n_rows)
        Zeros; its upper triangle stays as it is.
    n_threads : int
        Number of threads; no bit depends on it.
    """
    weights, column_weights = _weights_of(rows), _weights_of(columns)

    def fill(start: int) -> None:
        stop = min(start + _ROWS_PER_BLOCK, rows.n_rows)
        _fill_gram_rows(
            start, stop, rows.indptr, rows.columns, weights, columns.indptr, columns.columns, column_weights, reg, gram
        )

    # The last rows have the longest parts of the triangle.
    run_blocks(fill, range(0, rows.n_rows, _ROWS_PER_BLOCK)[::-1], n_threads)


def quadratic_forms(rows: InteractionRows, matrix: Factors, *, n_threads: int) -> Float64Array:
    """Give aᵀ M a for each row a.

    Parameters
    ----------
    rows : InteractionRows of shape (n_rows, n_columns)
        The vectors.
    matrix : float32 array of shape (n_columns, n_columns)
        Symmetric.
    n_threads : int
        Number of threads; no bit depends on it.

    Returns
    -------
    float64 array of shape (n_rows,)
        Summed in float64; 0 for a row without entries.
    """
    forms = np.zeros(rows.n_rows)
    weights = _weights_of(rows)

    def fill(start: int) -> None:
        stop = min(start + _ROWS_PER_BLOCK, rows.n_rows)
        _fill_forms(rows.indptr[start : stop + 1], rows.columns, weights, matrix, forms[start:stop])

    run_blocks(fill, range(0, rows.n_rows, _ROWS_PER_BLOCK), n_threads)
    return forms


def _weights_of(rows: InteractionRows) -> Weights:
    return np.ones(rows.n_interactions, dtype=np.float32) if rows.weights is None else rows.weights


@kernel
def _fill_gram_rows(
    start: int,
    stop: int,
    indptr: Offsets,
    columns: Rows,
    weights: Weights,
    column_indptr: Offsets,
    column_rows: Rows,
    column_weights: Weights,
    reg: float,
    gram: Factors,
) -> None:
    for row in range(start, stop):
        sums = gram[row]
        for entry in range(indptr[row], indptr[row + 1]):
            weight, column = weights[entry], columns[entry]
            for place in range(column_indptr[column], column_indptr[column + 1]):
                other = column_rows[place]
                if other > row:
                    break
                sums[other] += weight * column_weights[place]
        sums[row] += np.float32(reg)


@kernel
def _fill_forms(indptr: Offsets, columns: Rows, weights: Weights, matrix: Factors, forms: Float64Array) -> None:
    for row in range(indptr.size - 1):
        total = 0.0
        for entry in range(indptr[row], indptr[row + 1]):
            inner, weight = 0.0, np.float64(weights[entry])
            values = matrix[columns[entry]]
            for other in range(indptr[row], entry):
                inner += np.float64(weights[other]) * np.float64(values[columns[other]])
            total += weight * (2.0 * inner + weight * np.float64(values[columns[entry]]))
        forms[row] = total
