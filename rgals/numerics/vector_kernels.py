"""The small pieces that the row kernels are made of: products over entries, Cholesky, substitution.

Loops are written out: whole-slice assignments and calls into BLAS cost more than the work itself at
the sizes of a row (tens of entries, tens to hundreds of factors).
"""

import numpy as np

from rgals.names import Factors, Float64Array, Rows, Weights
from rgals.numerics.compile import kernel

__all__ = [
    "add_combination",
    "factorize",
    "load_entries",
    "measure_rows",
    "scale_and_sum",
    "score_entries",
    "substitute",
]


@kernel
def load_entries(
    fixed: Factors,
    columns: Rows,
    n_entries: int,
    curvatures: Weights,
    tile: Factors,
    row: Weights,
    scores: Weights,
    diagonal: Weights,
) -> None:
    """Copy the entries' vectors into ``tile``, and make two results on the way, while memory is waited for.

    Fills ``scores[e] = x_e . row`` and adds ``sum_e h_e x_e^2`` to ``diagonal``. A tile with fewer than
    ``n_entries`` rows stays as it is: the row is then read in place.
    """
    n_factors = row.size
    has_room = tile.shape[0] >= n_entries
    for e in range(n_entries):
        x = fixed[columns[e]]
        h = curvatures[e]
        total = np.float32(0)
        if has_room:
            copy = tile[e]
            for f in range(n_factors):
                value = x[f]
                copy[f] = value
                total += value * row[f]
                diagonal[f] += h * value * value
        else:
            for f in range(n_factors):
                value = x[f]
                total += value * row[f]
                diagonal[f] += h * value * value
        scores[e] = total


@kernel
def score_entries(source: Factors, index: Rows, n_entries: int, vector: Weights, out: Weights) -> None:
    """Fill ``out[e] = x_e . vector``; four entries at a time share the reads of the vector."""
    n_factors = vector.size
    last = n_entries - n_entries % 4
    for e in range(0, last, 4):
        x0, x1, x2, x3 = source[index[e]], source[index[e + 1]], source[index[e + 2]], source[index[e + 3]]
        s0, s1, s2, s3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for f in range(n_factors):
            value = vector[f]
            s0 += x0[f] * value
            s1 += x1[f] * value
            s2 += x2[f] * value
            s3 += x3[f] * value
        out[e], out[e + 1], out[e + 2], out[e + 3] = s0, s1, s2, s3
    for e in range(last, n_entries):
        x0 = source[index[e]]
        s0 = np.float32(0)
        for f in range(n_factors):
            s0 += x0[f] * vector[f]
        out[e] = s0


@kernel
def add_combination(source: Factors, index: Rows, n_entries: int, coefficients: Weights, out: Weights) -> None:
    """Add ``sum_e coefficients[e] x_e`` to ``out``; four entries at a time share its reads and writes."""
    n_factors = out.size
    last = n_entries - n_entries % 4
    for e in range(0, last, 4):
        x0, x1, x2, x3 = source[index[e]], source[index[e + 1]], source[index[e + 2]], source[index[e + 3]]
        c0, c1, c2, c3 = coefficients[e], coefficients[e + 1], coefficients[e + 2], coefficients[e + 3]
        for f in range(n_factors):
            out[f] += (c0 * x0[f] + c1 * x1[f]) + (c2 * x2[f] + c3 * x3[f])
    for e in range(last, n_entries):
        x0 = source[index[e]]
        c0 = coefficients[e]
        for f in range(n_factors):
            out[f] += c0 * x0[f]


@kernel
def factorize(matrix: Float64Array, size: int) -> bool:
    """Overwrite the lower triangle of a symmetric matrix with its Cholesky factor; False if not positive."""
    for i in range(size):
        row_i = matrix[i]
        for j in range(i):
            row_j = matrix[j]
            total = 0.0
            for f in range(j):
                total += row_i[f] * row_j[f]
            row_i[j] = (row_i[j] - total) / row_j[j]
        total = 0.0
        for f in range(i):
            total += row_i[f] * row_i[f]
        pivot = row_i[i] - total
        if not pivot > 0.0:
            return False
        row_i[i] = np.sqrt(pivot)
    return True


@kernel
def substitute(factor: Float64Array, size: int, vector: Float64Array) -> None:
    """Overwrite ``vector`` with the solution of ``L L' y = vector``."""
    for i in range(size):
        row = factor[i]
        total = 0.0
        for f in range(i):
            total += row[f] * vector[f]
        vector[i] = (vector[i] - total) / row[i]
    for i in range(size - 1, -1, -1):
        row = factor[i]
        value = vector[i] / row[i]
        vector[i] = value
        for f in range(i):
            vector[f] -= row[f] * value


@kernel
def scale_and_sum(
    factors: Factors, backgrounds: Float64Array, ridges: Float64Array, scaled: Factors, linear: Float64Array
) -> float:
    """Fill ``scaled = sqrt(w) z`` and ``linear = sum w z``; give ``sum ridge |z|^2``. Sums are in float64."""
    n_rows, n_factors = factors.shape
    for f in range(n_factors):
        linear[f] = 0.0
    norm = 0.0
    for r in range(n_rows):
        row, out, weight = factors[r], scaled[r], backgrounds[r]
        root = np.float32(np.sqrt(weight))
        square = 0.0
        for f in range(n_factors):
            value = row[f]
            out[f] = root * value
            linear[f] += weight * value
            square += np.float64(value) * value
        norm += ridges[r] * square
    return norm


@kernel
def measure_rows(rows: Factors, lengths: Float64Array) -> None:
    """Write the length of each row; it is finite where all of its entries are."""
    for r in range(rows.shape[0]):
        total = 0.0
        for f in range(rows.shape[1]):
            value = np.float64(rows[r, f])
            total += value * value
        lengths[r] = np.sqrt(total)
