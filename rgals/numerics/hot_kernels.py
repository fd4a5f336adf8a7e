"""Kernels that sum over a segment of a row's entries, in the symbols of `rgals.numerics.row_kernels`.

Entries are read in tiles. Sums are float32 within a tile and float64 from tile to tile: a segment may be
part of a row with many millions of entries.
"""

import numpy as np

from rgals.names import Factors, Float64Array, Rows, Weights
from rgals.numerics.compile import kernel
from rgals.numerics.vector_kernels import add_combination, load_entries, score_entries

__all__ = ["gather_entries", "multiply_entries", "open_entries"]


@kernel
def gather_entries(
    fixed: Factors,
    columns: Rows,
    weights: Weights,
    given_linears: Weights,
    linear_factor: float,
    linear_constant: float,
    tile: Factors,
    right: Float64Array,
) -> None:
    """Fill ``tile[e] = sqrt(g) x_e`` and add ``sum l x`` to ``right``."""
    n_factors = right.size
    for e in range(columns.size):
        x, y = fixed[columns[e]], tile[e]
        g = weights[e] if weights.size > 0 else np.float32(1)
        root, share = np.sqrt(g), np.float32(linear_constant + linear_factor * g)
        if given_linears.size > 0:
            share = given_linears[e]
        for f in range(n_factors):
            y[f] = root * x[f]
            right[f] += np.float64(share * x[f])


@kernel
def open_entries(
    fixed: Factors,
    columns: Rows,
    weights: Weights,
    given_linears: Weights,
    alpha: float,
    linear_factor: float,
    linear_constant: float,
    vector: Weights,
    tile: Factors,
    sums: Float64Array,
) -> None:
    """Add ``sum h (x . vector) x``, ``sum l x`` and ``sum h x^2``."""
    n_factors, width = vector.size, tile.shape[0]
    curvatures, linears = np.empty(width, np.float32), np.empty(width, np.float32)
    scores, partial = np.empty(width, np.float32), np.empty((3, n_factors), np.float32)
    natural = np.arange(width).astype(np.int32)
    for start in range(0, columns.size, width):
        count = min(width, columns.size - start)
        for e in range(count):
            g = weights[start + e] if weights.size > 0 else np.float32(1)
            curvatures[e] = alpha * g
            linears[e] = given_linears[start + e] if given_linears.size > 0 else linear_constant + linear_factor * g
        for i in range(3):
            for f in range(n_factors):
                partial[i, f] = 0
        load_entries(fixed, columns[start : start + count], count, curvatures, tile, vector, scores, partial[2])
        for e in range(count):
            scores[e] *= curvatures[e]
        add_combination(tile, natural, count, scores, partial[0])
        add_combination(tile, natural, count, linears, partial[1])
        for i in range(3):
            for f in range(n_factors):
                sums[i, f] += partial[i, f]


@kernel
def multiply_entries(
    fixed: Factors,
    columns: Rows,
    weights: Weights,
    given_linears: Weights,  # noqa: ARG001 - one signature for both sums over vectors
    alpha: float,
    linear_factor: float,  # noqa: ARG001
    linear_constant: float,  # noqa: ARG001
    vector: Weights,
    tile: Factors,
    sums: Float64Array,
) -> None:
    """Add ``sum h (x . vector) x``; entries are read in place, the second time from a cache."""
    n_factors, width = vector.size, tile.shape[0]
    scores, partial = np.empty(width, np.float32), np.empty(n_factors, np.float32)
    for start in range(0, columns.size, width):
        count = min(width, columns.size - start)
        index = columns[start : start + count]
        score_entries(fixed, index, count, vector, scores)
        for e in range(count):
            scores[e] *= alpha * weights[start + e] if weights.size > 0 else np.float32(alpha)
        for f in range(n_factors):
            partial[f] = 0
        add_combination(fixed, index, count, scores, partial)
        for f in range(n_factors):
            sums[0, f] += partial[f]
