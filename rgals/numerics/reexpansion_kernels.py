"""The loops of the softmax expansion between its matrix products; symbols as in `rgals.numerics.reexpansion`."""

import numpy as np

from rgals.names import Factors, Float64Array, Offsets, Rows, Weights
from rgals.numerics.compile import kernel
from rgals.numerics.selection import keep_best
from rgals.numerics.softmax_gradient_kernels import exp_below_zero

__all__ = [
    "add_entry_slopes",
    "add_observed",
    "add_squares",
    "add_tile",
    "expand_users",
    "exponentiate_apart",
    "exponentiate_between",
    "join_entries",
    "mask_tile",
    "sort_by_item",
]

_HARMLESS = np.float32(42.0)
"""exp(-2 * 42) is still an ordinary float32, so that scores up to 42 need no maximum taken off."""
_VANISHING = np.float32(-80.0)
"""exp(-80) is nothing beside any other probability."""
_LEAST_REST = 1e-7
_LEAST_SPACE = 1e-6
"""Below them, what the entries leave over of probability and prior is the rounding of float32."""
_LEAST_CURVATURE = 1e-10
"""Keeps every system definite, and divisions by roots of curvatures harmless."""


@kernel
def exponentiate_apart(tile: Factors, bounds: Weights, out: Factors, maxima: Weights, sums: Weights) -> None:
    """Write exp(s - m) of each row, m and the row's sum; m is the row's bound if that is small, else its maximum."""
    n_rows, n_columns = tile.shape
    for r in range(n_rows):
        row, values = tile[r], out[r]
        maximum = bounds[r]
        if not maximum <= _HARMLESS:
            maximum = row[0]
            for c in range(n_columns):
                maximum = row[c] if row[c] > maximum else maximum
        total = np.float32(0)
        for c in range(n_columns):
            value = exp_below_zero(row[c] - maximum)
            values[c] = value
            total += value
        maxima[r] = maximum
        sums[r] = total


@kernel
def add_tile(
    partial: Factors,
    maxima: Weights,
    sums: Weights,
    totals: Factors,
    largest: Weights,
    partitions: Float64Array,
) -> None:
    """Add a tile's sums of exp(s - m) and of exp(s - m) q, bringing them to the largest m so far."""
    for u in range(partial.shape[0]):
        new, old = np.float32(1), np.float32(1)
        if maxima[u] > largest[u]:
            old = np.exp(largest[u] - maxima[u])
            largest[u] = maxima[u]
        else:
            new = np.exp(maxima[u] - largest[u])
        partitions[u] = old * partitions[u] + new * np.float64(sums[u])
        for f in range(partial.shape[1]):
            totals[u, f] = old * totals[u, f] + new * partial[u, f]


@kernel
def mask_tile(tile: Factors, first_column: int, columns: Rows, cursors: Offsets, ends: Offsets) -> None:
    """Set the scores of the named columns to -inf; the cursors move on. Tiles come in ascending order."""
    for r in range(tile.shape[0]):
        cursor = cursors[r]
        while cursor < ends[r] and columns[cursor] < first_column + tile.shape[1]:
            tile[r, columns[cursor] - first_column] = -np.inf
            cursor += 1
        cursors[r] = cursor


@kernel
def add_squares(
    tile: Factors, spreads: Weights, maxima: Weights, former: Weights, largest: Weights, squares: Float64Array
) -> None:
    """Add a tile's sums of spread * exp(s - m)^2: the variance of a sampled sum, on the scale that ``add_tile`` left.

    ``former`` holds the largest m from before that call.
    """
    for u in range(tile.shape[0]):
        row, total = tile[u], np.float32(0)
        for c in range(row.size):
            total += spreads[c] * row[c] * row[c]
        old = np.exp(np.float64(former[u] - largest[u]))
        new = np.exp(np.float64(maxima[u] - largest[u]))
        squares[u] = old * old * squares[u] + new * new * np.float64(total)


@kernel
def add_observed(
    vectors: Factors,
    items: Factors,
    indptr: Offsets,
    columns: Rows,
    log_prior: Weights,
    totals: Factors,
    largest: Weights,
    partitions: Float64Array,
    squares: Float64Array,
) -> None:
    """Add the observed entries, which no tile held, to the sums of `add_tile` and `add_squares`."""
    for u in range(vectors.shape[0]):
        for e in range(indptr[u], indptr[u + 1]):
            item = items[columns[e]]
            lifted = _score(vectors[u], item)
            if log_prior.size > 0:
                lifted += log_prior[columns[e]]
            if lifted > largest[u]:
                old = np.exp(np.float64(largest[u] - lifted))
                largest[u] = lifted
                partitions[u] *= old
                squares[u] *= old * old
                for f in range(item.size):
                    totals[u, f] *= np.float32(old)
            value = np.exp(np.float64(lifted - largest[u]))
            partitions[u] += value
            for f in range(item.size):
                totals[u, f] += np.float32(value) * item[f]


@kernel
def _score(vector: Weights, item: Weights) -> np.float32:
    score = np.float32(0)
    for f in range(vector.size):
        score += vector[f] * item[f]
    return score


@kernel
def _bend(
    omega: float,
    weight: float,
    start: int,
    stop: int,
    columns: Rows,
    weights: Weights,
    log_prior: Weights,
    n_items: int,
    eta: float,
    kappa: float,
    first: int,
    last: int,
    out_columns: Rows,
    curvatures: Weights,
    linears: Weights,
) -> None:
    """Turn probabilities and scores of a user's entries into curvatures and linear weights."""
    e = start
    for k in range(first, last):
        item, score, probability = out_columns[k], np.float64(linears[k]), np.float64(curvatures[k])
        spread = omega * (1.0 / n_items if log_prior.size == 0 else np.exp(np.float64(log_prior[item])))
        g, bend = np.float64(0), np.float64(kappa * weight * probability)
        if e < stop and columns[e] == item:
            g = np.float64(weights[e] if weights.size > 0 else 1)
            bend = weight * probability + eta * g
            e += 1
        # The background covers every item: what it says of this one is taken back.
        bend = np.float64(max(bend - spread, _LEAST_CURVATURE))
        curvatures[k] = bend
        linears[k] = bend * score + g


@kernel
def expand_users(
    largest: Weights,
    partitions: Float64Array,
    squares: Float64Array,
    totals: Factors,
    vectors: Factors,
    items: Factors,
    indptr: Offsets,
    columns: Rows,
    weights: Weights,
    hard_items: Rows,
    hard_scores: Factors,
    counts: Offsets,
    most_hard: int,
    log_prior: Weights,
    eta: float,
    kappa: float,
    out_indptr: Offsets,
    out_columns: Rows,
    curvatures: Weights,
    linears: Weights,
    slopes: Factors,
    numbers: Float64Array,
) -> None:
    """Write the entries, the background and the slope of consecutive users.

    Parameters
    ----------
    largest, partitions, squares, totals : arrays of n_users rows
        Of `add_tile` and `add_squares`, over all items; scores have the log prior added unless ``log_prior`` is empty.
    vectors, items : float32 arrays of n_factors columns
        Where the model stands.
    indptr, columns, weights
        Observed entries of these users and their g; empty ``weights`` stand for 1.
    hard_items, hard_scores : int32 and float32 arrays of shape (n_users, n_buffer)
        Where the hard negatives are among the first of ``counts``, in any order; reordered. Scores as in the tiles.
    counts : int64 array of shape (n_users,)
        How many have been collected.
    most_hard : int
        How many are kept.
    log_prior : float32 array of shape (n_items,), or empty
        log pi; empty: uniform.
    eta, kappa : float
        Damping.
    out_indptr : int64 array of shape (n_users + 1,)
        Where each user's entries go: as many as observed and hard together.
    out_columns, curvatures, linears
        Out: the entries, items ascending.
    slopes : float32 array of shape (n_users, n_factors)
        Out: ``c sum_j p_j q_j``.
    numbers : float64 array of shape (n_users, 4)
        Out: omega, softmax loss, log partition and the standard error of the loss.
    """
    n_items, is_uniform = items.shape[0], log_prior.size == 0
    for u in range(vectors.shape[0]):
        start, stop = indptr[u], indptr[u + 1]
        if start == stop:
            for f in range(slopes.shape[1]):
                slopes[u, f] = 0
            for k in range(numbers.shape[1]):
                numbers[u, k] = 0.0
            continue
        n_hard = min(counts[u], most_hard)
        if counts[u] > most_hard:
            keep_best(hard_scores[u], hard_items[u], counts[u], most_hard)
        names = hard_items[u]
        order = np.argsort(names[:n_hard])
        log_partition = largest[u] + np.log(partitions[u])
        # First the probabilities: what they leave over is the background.
        weight, observed, mass, share = 0.0, 0.0, 0.0, 0.0
        e, h, at = start, 0, out_indptr[u]
        while e < stop or h < n_hard:
            is_observed = h == n_hard or (e < stop and columns[e] < names[order[h]])
            if is_observed:
                item, g = columns[e], weights[e] if weights.size > 0 else np.float32(1)
                score = np.float64(_score(vectors[u], items[item]))
                weight += float(g)
                observed += float(g * score)
                lifted = score if is_uniform else score + log_prior[item]
                e += 1
            else:
                item, lifted = names[order[h]], np.float64(hard_scores[u, order[h]])
                score = lifted if is_uniform else lifted - np.float64(log_prior[item])
                h += 1
            probability = np.exp(lifted - log_partition)
            mass += probability
            share += 1.0 / n_items if is_uniform else np.exp(np.float64(log_prior[item]))
            out_columns[at] = item
            # Until the weight of the user is known: score and probability.
            linears[at] = score
            curvatures[at] = probability
            at += 1
        rest, space = max(1.0 - mass, 0.0), 1.0 - share
        has_others = at - out_indptr[u] < n_items and rest > _LEAST_REST and space > _LEAST_SPACE
        omega = weight * rest / space if has_others else 0.0
        _bend(
            omega, weight, start, stop, columns, weights, log_prior, n_items, eta, kappa,
            out_indptr[u], at, out_columns, curvatures, linears,
        )  # fmt: skip
        for f in range(slopes.shape[1]):
            slopes[u, f] = weight / partitions[u] * totals[u, f]
        numbers[u, 0] = omega
        numbers[u, 1] = weight * (log_partition - (np.log(np.float64(n_items)) if is_uniform else 0.0)) - observed
        numbers[u, 2] = log_partition
        numbers[u, 3] = weight * np.sqrt(squares[u]) / partitions[u]


@kernel
def exponentiate_between(tile: Factors, row_shifts: Weights, column_shifts: Weights, column_weights: Weights) -> None:
    """Overwrite scores s with c exp(s + row shift - column shift); the exponential is at most 1 but for rounding."""
    n_rows, n_columns = tile.shape
    for r in range(n_rows):
        row, shift = tile[r], row_shifts[r] if row_shifts.size > 0 else np.float32(0)
        for c in range(n_columns):
            value = row[c] + shift - column_shifts[c]
            probability = exp_below_zero(value if value < np.float32(0) else np.float32(0))
            # An item of prior 0 must get exactly nothing: it may have no ridge to hold it.
            row[c] = column_weights[c] * probability if value > _VANISHING else np.float32(0)


@kernel
def add_entry_slopes(
    items: Factors,
    former: Factors,
    current: Factors,
    weight_sums: Weights,
    log_partitions: Weights,
    log_prior: Weights,
    indptr: Offsets,
    users: Rows,
    slopes: Factors,
) -> None:
    """Add ``c_u p_ui p_u`` of the entries of consecutive items, which no tile held, to their slopes."""
    for i in range(items.shape[0]):
        item, slope = items[i], slopes[i]
        shift = log_prior[i] if log_prior.size > 0 else np.float32(0)
        for e in range(indptr[i], indptr[i + 1]):
            user = users[e]
            value = _score(former[user], item) + shift - log_partitions[user]
            share = weight_sums[user] * np.exp(min(value, np.float32(0))) if value > _VANISHING else np.float32(0)
            for f in range(item.size):
                slope[f] += share * current[user, f]


@kernel
def sort_by_item(
    first_user: int,
    indptr: Offsets,
    columns: Rows,
    curvatures: Weights,
    linears: Weights,
    item_indptr: Offsets,
    users: Rows,
    item_curvatures: Weights,
    item_linears: Weights,
) -> None:
    """Transpose entries; ``item_indptr`` holds where each item's go, and is used up: users stay ascending."""
    for u in range(indptr.size - 1):
        for e in range(indptr[u], indptr[u + 1]):
            at = item_indptr[columns[e]]
            item_indptr[columns[e]] = at + 1
            users[at] = first_user + u
            item_curvatures[at] = curvatures[e]
            item_linears[at] = linears[e]


@kernel
def join_entries(
    indptr: Offsets,
    users: Rows,
    curvatures: Weights,
    linears: Weights,
    places: Offsets,
    out_users: Rows,
    out_curvatures: Weights,
    out_linears: Weights,
) -> None:
    """Copy the entries of each item to ``places``, which move on."""
    for i in range(indptr.size - 1):
        at = places[i]
        for e in range(indptr[i], indptr[i + 1]):
            out_users[at] = users[e]
            out_curvatures[at] = curvatures[e]
            out_linears[at] = linears[e]
            at += 1
        places[i] = at
