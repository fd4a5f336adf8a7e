"""The loops of the softmax gradient between its matrix products."""

import numpy as np

from rgals.names import Factors, Float64Array, Offsets, Rows, Weights
from rgals.numerics.compile import kernel, strict_kernel

__all__ = [
    "add_observed",
    "add_ridge",
    "combine_tiles",
    "exp_below_zero",
    "exponentiate",
    "longest_row",
    "normalize",
    "scale_rows",
    "shift_scores",
    "through_norm",
]

_LOG2_E = np.float32(1.44269504088896341)
# ln 2 in two pieces, the first of which has so few bits that its product with the exponent is exact.
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_LOWEST = np.float32(-87.0)
_HARMLESS = np.float32(42.0)
"""exp(-2 * 42) is still an ordinary float32, so that scores up to 42 need no maximum taken off."""
_N_LANES = 64
_ABSENT = np.float32(-1e30)
"""Score of an item that is not there: finite, so that a tile without any item makes no NaN."""


@strict_kernel
def exp_below_zero(x: np.float32) -> np.float32:
    """Give exp(x) for x <= 0, to 5e-7 relative; below -87 the value at -87 (1.6e-38).

    Made of operations that the compiler turns into vector instructions, unlike a call of libm. The
    polynomial is Cephes's ``expf`` (Moshier).
    """
    x = x if x > _LOWEST else _LOWEST  # max() would keep the loop from being vectorised
    exponent = np.int32(x * _LOG2_E - np.float32(0.5))  # rounds to nearest: x <= 0 is cut towards 0
    whole = np.float32(exponent)
    x = (x - whole * _LN2_HIGH) - whole * _LN2_LOW
    value = np.float32(1.9875691500e-4)
    value = value * x + np.float32(1.3981999507e-3)
    value = value * x + np.float32(8.3334519073e-3)
    value = value * x + np.float32(4.1665795894e-2)
    value = value * x + np.float32(1.6666665459e-1)
    value = value * x + np.float32(5.0000001201e-1)
    value = value * x * x + x + np.float32(1)
    return value * np.int32((exponent + np.int32(127)) << np.int32(23)).view(np.float32)


@kernel
def longest_row(values: Factors) -> np.float32:
    """Give the largest norm of a row."""
    largest = np.float32(0)
    for r in range(values.shape[0]):
        row = values[r]
        square = np.float32(0)
        for f in range(row.size):
            square += row[f] * row[f]
        largest = square if square > largest else largest
    longest: np.float32 = np.sqrt(largest)
    return longest


@kernel
def _maximum(row: Weights, lanes: Weights) -> np.float32:
    last = row.size - row.size % _N_LANES
    for lane in range(_N_LANES):
        lanes[lane] = row[0]
    for start in range(0, last, _N_LANES):
        for lane in range(_N_LANES):
            value = row[start + lane]
            lanes[lane] = value if value > lanes[lane] else lanes[lane]
    maximum: np.float32 = lanes[0]
    for lane in range(_N_LANES):
        maximum = max(maximum, lanes[lane])
    for c in range(last, row.size):
        maximum = max(maximum, row[c])
    return maximum


@kernel
def exponentiate(tile: Factors, bounds: Weights, maxima: Weights, sums: Weights) -> None:
    """Overwrite each row of scores s with exp(s - m); write each row's m and its sum.

    m is the row's ``bounds`` where that is small enough: no score is larger in absolute value, so that
    nothing is lost then. Otherwise m is the row's maximum, which takes as long to find as the rest.
    """
    n_rows, n_columns = tile.shape
    lanes = np.empty(_N_LANES, dtype=np.float32)
    for r in range(n_rows):
        row = tile[r]
        maximum = bounds[r] if bounds[r] <= _HARMLESS else _maximum(row, lanes)
        total = np.float32(0)
        for c in range(n_columns):
            value = exp_below_zero(row[c] - maximum)
            row[c] = value
            total += value
        maxima[r] = maximum
        sums[r] = total


@kernel
def shift_scores(
    tile: Factors, first_user: int, first_item: int, log_weights: Weights, users: Rows, items: Rows
) -> None:
    """Add each item's log weight to its scores, and take the observed entries of the tile's users out."""
    n_rows, n_columns = tile.shape
    for r in range(n_rows):
        for c in range(n_columns):
            tile[r, c] += log_weights[c]
    for e in range(users.size):
        r = users[e] - first_user
        if 0 <= r < n_rows:
            tile[r, items[e] - first_item] = _ABSENT


@kernel
def combine_tiles(
    partial: Factors,
    maxima: Factors,
    sums: Factors,
    indptr: Offsets,
    columns: Rows,
    weights: Weights,
    has_observed: bool,
    vectors: Factors,
    items: Factors,
    start: int,
    stop: int,
    coefficients: Factors,
    residuals: Weights,
    gradients: Factors,
    losses: Float64Array,
) -> None:
    """Finish users ``start`` to ``stop``: loss, gradient, and what each tile's exponentials count for.

    ``partial[t, u]`` is the sum over tile t of exp(s - its maximum) y. With the maximum over all tiles m
    and Z = sum exp(s - m), the softmax probability of an item of tile t is its stored exponential times
    exp(m_t - m) / Z; ``coefficients[t, u]`` is that factor times the user's weight. The observed items
    are in the tiles if ``has_observed``; else they are added here. ``residuals`` are the derivatives of
    the loss by the observed entries' scores, but for what comes from the tiles.
    """
    n_tiles, n_factors = maxima.shape[0], vectors.shape[1]
    for u in range(start, stop):
        maximum = _ABSENT
        for t in range(n_tiles):
            maximum = max(maximum, maxima[t, u])
        gradient = gradients[u]
        for f in range(n_factors):
            gradient[f] = 0
        user_weight, observed = 0.0, 0.0
        for e in range(indptr[u], indptr[u + 1]):
            item = items[columns[e]]
            score = np.float32(0)
            for f in range(n_factors):
                score += item[f] * vectors[u, f]
            residuals[e] = score
            user_weight += weights[e]
            observed += weights[e] * score
            if not has_observed:
                maximum = max(maximum, score)
        partition = 0.0
        for t in range(n_tiles):
            partition += sums[t, u] * np.exp(np.float64(maxima[t, u]) - maximum)
        if not has_observed:
            for e in range(indptr[u], indptr[u + 1]):
                partition += np.exp(np.float64(residuals[e]) - maximum)
        for e in range(indptr[u], indptr[u + 1]):
            item, residual = items[columns[e]], -weights[e]
            if not has_observed:
                residual += np.float32(user_weight * np.exp(np.float64(residuals[e]) - maximum) / partition)
            residuals[e] = residual
            for f in range(n_factors):
                gradient[f] += residual * item[f]
        for t in range(n_tiles):
            factor = np.float32(user_weight * np.exp(np.float64(maxima[t, u]) - maximum) / partition)
            coefficients[t, u] = factor
            for f in range(n_factors):
                gradient[f] += factor * partial[t, u, f]
        losses[u] = user_weight * (maximum + np.log(partition)) - observed


@kernel
def scale_rows(vectors: Factors, coefficients: Weights, out: Factors) -> None:
    """Fill ``out[u] = coefficients[u] vectors[u]``."""
    for u in range(vectors.shape[0]):
        for f in range(vectors.shape[1]):
            out[u, f] = coefficients[u] * vectors[u, f]


@kernel
def add_observed(
    first_item: int, items: Rows, users: Rows, residuals: Weights, vectors: Factors, gradients: Factors
) -> None:
    """Add ``residual * vector of the user`` to the gradient of each entry's item."""
    for e in range(items.size):
        gradient, vector, residual = gradients[items[e] - first_item], vectors[users[e]], residuals[e]
        for f in range(vector.size):
            gradient[f] += residual * vector[f]


@kernel
def normalize(values: Factors, scale: np.float32, out: Factors, norms: Weights) -> None:
    """Fill ``out`` with the rows scaled to length ``scale``, and ``norms`` with their lengths before.

    A row of zeros stays zero and is given length 1.
    """
    for r in range(values.shape[0]):
        row, unit = values[r], out[r]
        square = np.float32(0)
        for f in range(row.size):
            square += row[f] * row[f]
        norm = np.sqrt(square)
        if norm == 0:
            norm = np.float32(1)
        factor = scale / norm
        for f in range(row.size):
            unit[f] = factor * row[f]
        norms[r] = norm


@kernel
def through_norm(gradients: Factors, scaled: Factors, norms: Weights, scale: np.float32) -> None:
    """Turn gradients by the scaled rows of `normalize` into gradients by the rows themselves, in place.

    With x = scale w / |w|: dL/dw = scale / |w| (dL/dx - w/|w| (w/|w| . dL/dx)).
    """
    squared = np.float32(1) / (scale * scale)
    for r in range(gradients.shape[0]):
        gradient, row = gradients[r], scaled[r]
        along = np.float32(0)
        for f in range(row.size):
            along += gradient[f] * row[f]
        along *= squared
        factor = scale / norms[r]
        for f in range(row.size):
            gradient[f] = factor * (gradient[f] - along * row[f])


@kernel
def add_ridge(first_item: int, items: Rows, weights: Weights, l2: np.float32, values: Factors, out: Factors) -> None:
    """Add ``l2 * weight * row`` to the gradient of each entry's item; ``values`` and ``out`` hold the same rows."""
    for e in range(items.size):
        row, gradient, factor = values[items[e] - first_item], out[items[e] - first_item], l2 * weights[e]
        for f in range(row.size):
            gradient[f] += factor * row[f]
