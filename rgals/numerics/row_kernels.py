"""Kernels that solve the rows of a half-step, three ways.

Everything here lives in the shared basis, where the background matrix B is diagonal. In the symbols
of ``docs/objective.md``, a row with entries e has the system ``A z = b`` with

    A = D + sum_e h_e x_e x_e'       D = w diag(lambda) + ridge I
    b = sum_e l_e x_e + k       k = -w v

``fixed`` holds the x, ``eigenvalues`` the lambda, ``linear`` the v, ``background`` the w, ``constant`` the k.
The weights g of the entries come as an array with ``h = alpha g`` and ``l = linear_constant + linear_factor
g``; an empty array stands for g = 1 and costs nothing. The row's objective is ``z'Az/2 - b'z``.

A re-expanded row has h for weights, an array of its own for the l, and a slope t in place of v: from its
starting point z0, ``k = w diag(lambda) z0 - t`` (`rgals.numerics.reexpansion`).
"""

import numpy as np

from rgals.names import Factors, Float64Array, Offsets, Rows, Weights
from rgals.numerics.compile import kernel
from rgals.numerics.vector_kernels import add_combination, factorize, load_entries, score_entries, substitute

__all__ = ["METHOD_CG", "METHOD_CHOLESKY", "METHOD_EXACT", "METHOD_WOODBURY", "solve_rows"]

METHOD_WOODBURY = 0
METHOD_CHOLESKY = 1
METHOD_CG = 2
METHOD_EXACT = 3

_TILE_FLOATS = 1 << 17
"""Rows whose entries fit into this many floats (half a second-level cache) are copied together once."""

_DIVISION = -1
"""The way of a row whose matrix is diagonal."""

_GRAM_ENTRIES = 256
"""Entries per matrix product when the d by d matrix of a long row is formed."""


@kernel
def _row_method(method: int, n_entries: int, n_factors: int) -> int:
    """Choose between the exact ways: Woodbury costs n^2 d, Cholesky n d^2 + d^3 / 3."""
    if method != METHOD_EXACT:
        return method
    return METHOD_WOODBURY if n_entries <= n_factors else METHOD_CHOLESKY


@kernel
def _choose_way(method: int, curvatures: Weights, n_entries: int, n_factors: int) -> int:
    """Choose how a row is solved, entries without curvature considered.

    There are some where alpha is 0, and where an item is new to a model with degree weights: its degree is 0.
    """
    n_bent = 0
    for e in range(n_entries):
        n_bent += 1 if curvatures[e] > 0 else 0
    if n_bent == 0:
        return _DIVISION
    way = _row_method(method, n_entries, n_factors)
    # Woodbury divides by curvatures.
    return METHOD_CHOLESKY if way == METHOD_WOODBURY and n_bent < n_entries else way


@kernel
def _row_objective(
    scores: Weights,
    curvatures: Weights,
    linears: Weights,
    n_entries: int,
    vector: Weights,
    diagonal: Weights,
    constant: Weights,
) -> float:
    """Give ``z'Az/2 - b'z`` from the scores ``x_e . z``, added in float64."""
    total = 0.0
    for e in range(n_entries):
        total += (0.5 * curvatures[e] * scores[e] - linears[e]) * np.float64(scores[e])
    for f in range(vector.size):
        total += (0.5 * diagonal[f] * vector[f] - constant[f]) * np.float64(vector[f])
    return total


@kernel
def _solve_woodbury(
    source: Factors,
    index: Rows,
    n_entries: int,
    curvatures: Weights,
    linears: Weights,
    diagonal: Weights,
    constant: Weights,
    scaled: Factors,
    small: Float64Array,
    right: Float64Array,
    row: Weights,
) -> bool:
    """Solve one row through the n by n system ``M = I + Y Y'`` with ``Y = H^(1/2) X D^(-1/2)``.

    With ``b = X'l + k``, push-through gives
    ``z = D^(-1/2) Y' M^(-1) (H^(-1/2) l - Y D^(-1/2) k) + D^(-1) k``: no difference of large
    numbers when the ridge is small.
    """
    n_factors = row.size
    for f in range(n_factors):
        if not diagonal[f] > 0:
            return False
    for e in range(n_entries):
        x = source[index[e]]
        y = scaled[e]
        root = np.sqrt(curvatures[e])
        along = 0.0
        for f in range(n_factors):
            y[f] = root * x[f] / np.sqrt(diagonal[f])
            along += np.float64(y[f]) * constant[f] / np.sqrt(diagonal[f])
        right[e] = linears[e] / root - along
    for i in range(n_entries):
        y_i = scaled[i]
        for j in range(i + 1):
            y_j = scaled[j]
            total = np.float32(0)
            for f in range(n_factors):
                total += y_i[f] * y_j[f]
            small[i, j] = total
        small[i, i] += 1.0
    if not factorize(small, n_entries):
        return False
    substitute(small, n_entries, right)
    for f in range(n_factors):
        row[f] = 0
    for e in range(n_entries):
        y = scaled[e]
        value = np.float32(right[e])
        for f in range(n_factors):
            row[f] += value * y[f]
    for f in range(n_factors):
        row[f] = row[f] / np.sqrt(diagonal[f]) + constant[f] / diagonal[f]
    return True


@kernel
def _solve_cholesky(
    source: Factors,
    index: Rows,
    n_entries: int,
    curvatures: Weights,
    linears: Weights,
    diagonal: Weights,
    constant: Weights,
    scaled: Factors,
    small: Float64Array,
    right: Float64Array,
    row: Weights,
) -> bool:
    """Solve one row through its d by d system."""
    n_factors = row.size
    for i in range(n_factors):
        right[i] = constant[i]
        for j in range(i):
            small[i, j] = 0.0
        small[i, i] = diagonal[i]
    for start in range(0, n_entries, _GRAM_ENTRIES):
        count = min(_GRAM_ENTRIES, n_entries - start)
        for e in range(count):
            x = source[index[start + e]]
            y = scaled[e]
            root = np.sqrt(curvatures[start + e])
            share = linears[start + e]
            for f in range(n_factors):
                y[f] = root * x[f]
                right[f] += share * x[f]
        tile = scaled[:count]
        product = np.dot(tile.T, tile)
        for i in range(n_factors):
            for j in range(i + 1):
                small[i, j] += product[i, j]
    if not factorize(small, n_factors):
        return False
    substitute(small, n_factors, right)
    for f in range(n_factors):
        row[f] = right[f]
    return True


@kernel
def _descend(
    source: Factors,
    index: Rows,
    n_entries: int,
    curvatures: Weights,
    linears: Weights,
    diagonal: Weights,
    constant: Weights,
    scores: Weights,
    slopes: Weights,
    preconditioner: Weights,
    work: Factors,
    steps: int,
    row: Weights,
) -> bool:
    """Take preconditioned conjugate gradient steps from ``row``, whose scores are given and kept up.

    The preconditioner is the exact diagonal of A; it is overwritten. ``work`` has three rows of n_factors.
    """
    n_factors = row.size
    residual, direction, image = work[0], work[1], work[2]
    for f in range(n_factors):
        residual[f] = constant[f] - diagonal[f] * row[f]
    for e in range(n_entries):
        slopes[e] = linears[e] - curvatures[e] * scores[e]
    add_combination(source, index, n_entries, slopes, residual)
    energy = 0.0
    for f in range(n_factors):
        if not preconditioner[f] > 0:
            preconditioner[f] = 1
        preconditioner[f] = 1 / preconditioner[f]
        direction[f] = residual[f] * preconditioner[f]
        energy += np.float64(residual[f] * direction[f])
    for step in range(steps):
        if not energy > 1e-30:
            return energy >= 0
        score_entries(source, index, n_entries, direction, slopes)
        bend = 0.0
        for f in range(n_factors):
            image[f] = diagonal[f] * direction[f]
            bend += np.float64(image[f] * direction[f])
        for e in range(n_entries):
            bend += np.float64(curvatures[e] * slopes[e] * slopes[e])
        if not bend > 0:
            return False
        length = np.float32(energy / bend)
        for f in range(n_factors):
            row[f] += length * direction[f]
        for e in range(n_entries):
            scores[e] += length * slopes[e]
            slopes[e] = curvatures[e] * slopes[e]
        if step + 1 == steps:
            break
        add_combination(source, index, n_entries, slopes, image)
        next_energy = 0.0
        for f in range(n_factors):
            residual[f] -= length * image[f]
            next_energy += np.float64(residual[f] * residual[f] * preconditioner[f])
        ratio = np.float32(next_energy / energy)
        energy = next_energy
        for f in range(n_factors):
            direction[f] = residual[f] * preconditioner[f] + ratio * direction[f]
    return True


@kernel
def _divide(
    source: Factors,
    index: Rows,
    n_entries: int,
    linears: Weights,
    diagonal: Weights,
    constant: Weights,
    row: Weights,
) -> bool:
    """Solve one row whose matrix is diagonal: no entries, or alpha = 0."""
    for f in range(row.size):
        row[f] = constant[f]
    add_combination(source, index, n_entries, linears, row)
    is_solved = True
    for f in range(row.size):
        if diagonal[f] > 0:
            row[f] /= diagonal[f]
        else:
            is_solved = is_solved and row[f] == 0
    return is_solved


@kernel
def solve_rows(
    indptr: Offsets,
    columns: Rows,
    weights: Weights,
    given_linears: Weights,
    fixed: Factors,
    eigenvalues: Weights,
    linear: Weights,
    given_slopes: Factors,
    backgrounds: Float64Array,
    ridges: Float64Array,
    alpha: float,
    linear_factor: float,
    linear_constant: float,
    method: int,
    cg_steps: int,
    factors: Factors,
    objective_before: Float64Array,
    objective_after: Float64Array,
    status: Rows,
) -> None:
    """Solve consecutive rows; see the head of this module.

    Parameters
    ----------
    indptr : int64 array of shape (n_rows + 1,)
        Offsets into ``columns``; they need not begin at 0.
    columns : int32 array
        Rows of ``fixed`` that each solved row has observed.
    weights : float32 array of the shape of ``columns``, or empty
        Observed weights g; empty stands for 1.
    given_linears : float32 array of the shape of ``columns``, or empty
        The l of each entry; empty: ``l = linear_constant + linear_factor g``.
    fixed : float32 array of shape (n_fixed, n_factors)
        Factors of the fixed side, in the shared basis.
    eigenvalues, linear : float32 arrays of shape (n_factors,)
        Diagonal of B and the vector v, in the shared basis.
    given_slopes : float32 array of shape (n_rows, n_factors), or with no row
        The t of each row; none: the rows are not re-expanded.
    backgrounds, ridges : float64 arrays of shape (n_rows,)
        w and ridge of each row.
    alpha, linear_factor, linear_constant : float
        ``h = alpha g``, and l as above.
    method : int
        One of ``METHOD_*``; ``METHOD_EXACT`` takes the cheaper of the two exact ways for each row.
    cg_steps : int
        Steps of conjugate gradients.
    factors : float32 array of shape (n_rows, n_factors)
        In: the starting point. Out: the solution.
    objective_before, objective_after : float64 arrays of shape (n_rows,)
        Out: the row's objective at the starting point and at the solution.
    status : int32 array of shape (n_rows,)
        Out: 0 solved, 1 no finite solution.
    """
    n_rows, n_factors = factors.shape
    longest, widest = 0, 1
    for r in range(n_rows):
        count = int(indptr[r + 1] - indptr[r])
        longest = max(longest, count)
        if _row_method(method, count, n_factors) == METHOD_WOODBURY:
            widest = max(widest, count)
    tile = np.empty((min(longest, _TILE_FLOATS // n_factors), n_factors), np.float32)
    natural = np.arange(tile.shape[0]).astype(np.int32)
    curvatures, linears = np.empty(longest, np.float32), np.empty(longest, np.float32)
    scores, slopes = np.empty(longest, np.float32), np.empty(longest, np.float32)
    size = 1 if method == METHOD_CG else max(widest, n_factors)
    small, right = np.empty((size, size), np.float64), np.empty(size, np.float64)
    scaled = np.empty((1 if method == METHOD_CG else max(widest, _GRAM_ENTRIES), n_factors), np.float32)
    work = np.empty((3, n_factors), np.float32)
    diagonal, preconditioner = np.empty(n_factors, np.float32), np.empty(n_factors, np.float32)
    constant = np.empty(n_factors, np.float32)
    for r in range(n_rows):
        start = indptr[r]
        count = int(indptr[r + 1] - start)
        row = factors[r]
        background = np.float32(backgrounds[r])
        for f in range(n_factors):
            diagonal[f] = background * eigenvalues[f] + np.float32(ridges[r])
            constant[f] = -background * linear[f]
            if given_slopes.shape[0] > 0:
                constant[f] += background * eigenvalues[f] * row[f] - given_slopes[r, f]
            preconditioner[f] = diagonal[f]
        for e in range(count):
            g = weights[start + e] if weights.size > 0 else np.float32(1)
            curvatures[e] = alpha * g
            linears[e] = given_linears[start + e] if given_linears.size > 0 else linear_constant + linear_factor * g
        source, index = fixed, columns[start : start + count]
        load_entries(source, index, count, curvatures, tile, row, scores, preconditioner)
        if count <= tile.shape[0]:
            source, index = tile, natural
        objective_before[r] = _row_objective(scores, curvatures, linears, count, row, diagonal, constant)
        way = _choose_way(method, curvatures, count, n_factors)
        if way == _DIVISION:
            is_solved = _divide(source, index, count, linears, diagonal, constant, row)
        elif way == METHOD_CG:
            is_solved = _descend(
                source, index, count, curvatures, linears, diagonal, constant,
                scores, slopes, preconditioner, work, cg_steps, row,
            )  # fmt: skip
        elif way == METHOD_WOODBURY:
            is_solved = _solve_woodbury(
                source, index, count, curvatures, linears, diagonal, constant, scaled, small, right, row
            )
        else:
            is_solved = _solve_cholesky(
                source, index, count, curvatures, linears, diagonal, constant, scaled, small, right, row
            )
        if way != METHOD_CG:
            score_entries(source, index, count, row, scores)
        objective_after[r] = _row_objective(scores, curvatures, linears, count, row, diagonal, constant)
        status[r] = 0 if is_solved and np.isfinite(objective_after[r]) else 1
