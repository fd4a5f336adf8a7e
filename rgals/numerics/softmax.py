"""The exact softmax loss of some users, beside the two quadratic expansions that stand in for it.

The loss of a user is what the RG losses approximate, with ``c_u = sum_i g_ui`` and ``pi`` summing to 1::

    softmax   sum_i g_ui [ -s_ui + log sum_j pi_j exp(s_uj) ]
    RGx       sum_i g_ui [ -s_ui ] + c_u [ mu_u + (sum_j pi_j s_uj^2 - mu_u^2) / 2 ]        mu_u = sum_j pi_j s_uj
    RG2       sum_i g_ui [ -s_ui ] + c_u [ mu_u + sum_j pi_j s_uj^2 / 2 ]

All three are 0 at ``s = 0``. RGx is the softmax loss expanded to second order there; RG2 is never below
RGx. Neither the extra weight ``alpha`` nor the ridge is part of them.
"""

from dataclasses import dataclass

import numpy as np

from rgals.errors import InputError, NumericalError
from rgals.names import Factors, Float64Array
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import run_blocks

__all__ = ["SoftmaxCheck", "softmax_loss"]

_BLOCK_USERS = 256
_TILE_ITEMS = 4096
"""Bounds the scores held by one thread at 8 MiB. Fixed, so that results do not depend on the machine."""


@dataclass(frozen=True, slots=True)
class SoftmaxCheck:
    """The softmax loss of a sample of users and its expansions, per unit of interaction weight.

    Parameters
    ----------
    softmax : float
        The exact softmax loss divided by the sum of all weights; NaN when the sample has no interactions.
    rg2_surrogate, rgx_surrogate : float
        The expansions on the same users, likewise.
    outside_fraction : float
        Share of all scores of these users with ``|s| > 1``, where the expansion is no longer close; NaN
        when there are no scores.
    n_users : int
        Number of users of the sample that have interactions.
    """

    softmax: float
    rg2_surrogate: float
    rgx_surrogate: float
    outside_fraction: float
    n_users: int


def softmax_loss(
    user_factors: "Factors | Float64Array",
    item_factors: "Factors | Float64Array",
    rows: InteractionRows,
    prior: Float64Array,
    *,
    n_threads: int = 1,
) -> SoftmaxCheck:
    """Give the exact softmax loss of some users beside its quadratic expansions.

    Parameters
    ----------
    user_factors : float array of shape (n_sample, n_factors)
        Factors of the users of the sample; not modified.
    item_factors : float array of shape (n_items, n_factors)
        Factors of all items; not modified.
    rows : InteractionRows of shape (n_sample, n_items)
        The users' observed items; the weights are the loss's g, all 1 where absent.
    prior : float64 array of shape (n_items,)
        The item prior pi: at least 0, sums to 1.
    n_threads : int
        Threads to use; the result does not depend on it.

    Returns
    -------
    SoftmaxCheck
        Losses per unit of weight. A user without interactions counts in ``outside_fraction`` only.

    Raises
    ------
    InputError
        If the shapes disagree, or ``prior`` is not a distribution.
    NumericalError
        If a loss is not finite.

    Notes
    -----
    Computed in float64 with a running maximum (log-sum-exp), tile by tile: memory is bounded by the
    tiles, time is O(n_sample * n_items * n_factors).
    """
    _check_arguments(user_factors, item_factors, rows, prior)
    n_sample, n_items = rows.n_rows, rows.n_columns
    weight_sums = np.array([rows.weights_of(row).sum(dtype=np.float64) for row in range(n_sample)])
    total_weight = float(weight_sums.sum())
    n_users = int(np.count_nonzero(weight_sums))
    if n_sample == 0 or n_items == 0:
        return SoftmaxCheck(np.nan, np.nan, np.nan, np.nan, n_users)
    with np.errstate(divide="ignore"):
        log_prior = np.log(prior)

    def reduce_tile(corner: tuple[int, int]) -> Float64Array:
        users = slice(corner[0], corner[0] + _BLOCK_USERS)
        items = slice(corner[1], corner[1] + _TILE_ITEMS)
        scores = user_factors[users].astype(np.float64) @ item_factors[items].astype(np.float64).T
        return _reduce_scores(scores, prior[items], log_prior[items])

    item_starts = range(0, n_items, _TILE_ITEMS)
    user_starts = range(0, n_sample, _BLOCK_USERS)
    corners = [(user, item) for user in user_starts for item in item_starts]
    tiles = run_blocks(reduce_tile, corners, n_threads)
    n_tiles = len(item_starts)
    moments = np.concatenate(
        [_merge_tiles(tiles[start * n_tiles : (start + 1) * n_tiles]) for start in range(len(user_starts))], axis=1
    )
    log_partition, mean, mean_square, n_outside = moments

    observed = _observed_scores(user_factors, item_factors, rows)
    # A user without interactions has weight 0 and adds nothing.
    losses = [
        float(np.dot(weight_sums, background) - observed) / total_weight if total_weight > 0 else np.nan
        for background in (log_partition, mean + mean_square / 2, mean + (mean_square - mean**2) / 2)
    ]
    if total_weight > 0 and not np.isfinite(losses).all():
        raise NumericalError(
            f"softmax loss of {n_users} users: expected finite values, found softmax {losses[0]}, RG2 {losses[1]}, "
            f"RGx {losses[2]}; the factors hold NaN, infinite or huge values: raise reg or lower alpha"
        )
    return SoftmaxCheck(
        softmax=losses[0],
        rg2_surrogate=losses[1],
        rgx_surrogate=losses[2],
        outside_fraction=float(n_outside.sum()) / (n_sample * n_items),
        n_users=n_users,
    )


def _reduce_scores(scores: Float64Array, prior: Float64Array, log_prior: Float64Array) -> Float64Array:
    """Reduce a tile to rows (maximum, scaled sum of exponentials, mean, mean square, scores outside) by user."""
    shifted = scores + log_prior  # an item of prior 0 becomes exp(-inf) = 0
    maximum = shifted.max(axis=1)
    maximum[np.isneginf(maximum)] = 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # non-finite results are reported by the caller
        return np.stack(
            [
                maximum,
                np.exp(shifted - maximum[:, None]).sum(axis=1),
                scores @ prior,
                np.square(scores) @ prior,
                np.count_nonzero(np.abs(scores) > 1, axis=1).astype(np.float64),
            ]
        )


def _merge_tiles(tiles: list[Float64Array]) -> Float64Array:
    """Combine the tiles of a block of users into rows (log partition, mean, mean square, scores outside)."""
    stacked = np.stack(tiles)  # (n_tiles, 5, n_users)
    # A tile whose items all have prior 0 sums to 0: its stand-in maximum must not win.
    tile_maximum = np.where(stacked[:, 1] > 0, stacked[:, 0], -np.inf)
    maximum = tile_maximum.max(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        log_partition = maximum + np.log((stacked[:, 1] * np.exp(tile_maximum - maximum)).sum(axis=0))
    return np.concatenate([log_partition[None], stacked[:, 2:].sum(axis=0)])


def _observed_scores(
    user_factors: "Factors | Float64Array", item_factors: "Factors | Float64Array", rows: InteractionRows
) -> float:
    """Sum the weighted scores of the observed entries."""
    total = 0.0
    for row in range(rows.n_rows):
        fixed = item_factors[rows.columns_of(row)].astype(np.float64)
        weights = rows.weights_of(row).astype(np.float64)
        total += float((weights @ fixed) @ user_factors[row].astype(np.float64))
    return total


def _check_arguments(
    user_factors: "Factors | Float64Array",
    item_factors: "Factors | Float64Array",
    rows: InteractionRows,
    prior: Float64Array,
) -> None:
    if user_factors.ndim != 2 or item_factors.ndim != 2 or user_factors.shape[1] != item_factors.shape[1]:
        raise InputError(
            "softmax loss: expected user and item factors with equally many columns, found shapes "
            f"{user_factors.shape} and {item_factors.shape}; pass factors of one model"
        )
    expected = (user_factors.shape[0], item_factors.shape[0])
    if (rows.n_rows, rows.n_columns) != expected:
        raise InputError(
            f"softmax loss: expected interactions of shape {expected}, found {(rows.n_rows, rows.n_columns)}; "
            "take the rows of the sampled users"
        )
    if prior.shape != (rows.n_columns,):
        raise InputError(f"softmax loss: expected a prior of shape ({rows.n_columns},), found {prior.shape}")
    total = float(prior.sum())
    if rows.n_columns and not ((prior >= 0).all() and abs(total - 1) < 1e-6):
        raise InputError(
            f"softmax loss: expected a prior of values of at least 0 that sum to 1, found minimum {prior.min()} "
            f"and sum {total}; divide it by its sum"
        )
