"""What the items need of an expansion of the users' softmax loss: their entries, their slopes, a sum over the users.

Symbols as in `rgals.numerics.reexpansion`.
"""

import numpy as np

from rgals.names import Factors, Float64Array, Weights
from rgals.numerics.pairwise import BLOCK_ROWS, SumNode, merge_nodes
from rgals.numerics.reexpansion import Entries
from rgals.numerics.reexpansion_kernels import (
    add_entry_slopes,
    exponentiate_between,
    join_entries,
    mask_tile,
    sort_by_item,
)
from rgals.numerics.row_sample import RowSample
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import run_blocks

__all__ = ["cross_sums", "item_slopes", "join_items", "sampled_item_slopes", "split_by_item"]

_TILE_ITEMS = 128
_TILE_USERS = 2048
"""A tile of scores is a megabyte, as in the pass of the users."""


def item_slopes(
    items: Factors,
    former: Factors,
    current: Factors,
    weight_sums: Weights,
    log_partitions: Weights,
    log_prior: Weights,
    *,
    n_threads: int,
) -> Factors:
    """Give ``t = sum_u c_u p_ui p_u`` of consecutive items: a pass over their scores with all users.

    Parameters
    ----------
    items : float32 array of shape (n_rows, n_factors)
        Where the items stand.
    former : float32 array of shape (n_users, n_factors)
        Where the users stood, in the same basis: what p is made of.
    current : float32 array of shape (n_users, n_factors)
        The users' new vectors.
    weight_sums : float32 array of shape (n_users,)
        c.
    log_partitions : float32 array of shape (n_users,)
        Of the expansion.
    log_prior : float32 array of shape (n_rows,) or empty
        log pi of these items; empty: uniform.
    n_threads : int
        Threads; the result does not depend on it.

    Returns
    -------
    float32 array of shape (n_rows, n_factors)
        The same bits however the items are cut at multiples of ``BLOCK_ROWS``.

    Notes
    -----
    4 n_rows n_users n_factors operations in float32, and as many exponentials as scores. A tile of scores for each
    thread is all the memory beside the result.
    """
    n_users = former.shape[0]
    slopes = np.zeros_like(items)

    def work(start: int) -> None:
        rows = slice(start, min(start + _TILE_ITEMS, items.shape[0]))
        vectors, partial = items[rows], np.empty_like(slopes[rows])
        for first in range(0, n_users, _TILE_USERS):
            users = slice(first, min(first + _TILE_USERS, n_users))
            scores = vectors @ former[users].T
            exponentiate_between(scores, log_prior[rows], log_partitions[users], weight_sums[users])
            slopes[rows] += np.matmul(scores, current[users], out=partial)

    run_blocks(work, range(0, items.shape[0], _TILE_ITEMS), n_threads)
    return slopes


def sampled_item_slopes(
    items: Factors,
    former: Factors,
    current: Factors,
    weight_sums: Weights,
    log_partitions: Weights,
    log_prior: Weights,
    entries: InteractionRows,
    sample: RowSample,
    *,
    n_threads: int,
) -> Factors:
    """Estimate the slopes of consecutive items: the exact sum over their entries, and a sample of the other users.

    Parameters
    ----------
    items, former, current, weight_sums, log_partitions, log_prior
        As of `item_slopes`.
    entries : InteractionRows of shape (n_rows, n_users)
        Entries of these items: users who have observed them, or for whom they are hard negatives.
    sample : RowSample
        Users that stand for all others.
    n_threads : int
        Threads; the result does not depend on it.

    Returns
    -------
    float32 array of shape (n_rows, n_factors)
        Without bias, given the log partitions; the same bits however the items are cut at multiples of
        ``BLOCK_ROWS``.
    """
    slopes = np.zeros_like(items)
    seen = sample.places_of(entries)
    weights = weight_sums[sample.rows] * np.exp(sample.log_weights)
    users = np.ascontiguousarray(former[sample.rows]), np.ascontiguousarray(current[sample.rows])
    partitions, n_users = log_partitions[sample.rows], sample.rows.size

    def work(start: int) -> None:
        rows = slice(start, min(start + _TILE_ITEMS, items.shape[0]))
        vectors, shifts, partial = items[rows], log_prior[rows], np.empty_like(slopes[rows])
        indptr = seen.indptr[rows.start : rows.stop + 1]
        cursors = indptr[:-1].copy()
        for first in range(0, n_users, _TILE_USERS):
            part = slice(first, min(first + _TILE_USERS, n_users))
            scores = vectors @ users[0][part].T
            mask_tile(scores, first, seen.columns, cursors, indptr[1:])
            exponentiate_between(scores, shifts, partitions[part], weights[part])
            slopes[rows] += np.matmul(scores, users[1][part], out=partial)
        add_entry_slopes(
            vectors, former, current, weight_sums, log_partitions, shifts,
            entries.indptr[rows.start : rows.stop + 1], entries.columns, slopes[rows],
        )  # fmt: skip

    run_blocks(work, range(0, items.shape[0], _TILE_ITEMS), n_threads)
    return slopes


def cross_sums(current: Factors, former: Factors, backgrounds: Float64Array, *, first_block: int) -> list[SumNode]:
    """Give ``sum_u omega_u p_u p0_u'`` of new and former vectors, along the fixed tree.

    The background of the expansion bends around the former scores: the items need this matrix to know them.

    Parameters
    ----------
    current, former : float32 arrays of shape (n_users, n_factors)
        The new and the former vectors, in one basis.
    backgrounds : float64 array of shape (n_users,)
        omega.
    first_block : int
        Number of the first user's block.
    """

    def sum_block(start: int) -> SumNode:
        part = slice(start, start + BLOCK_ROWS)
        weighted = backgrounds[part, None] * current[part]
        return SumNode(0, first_block + start // BLOCK_ROWS, weighted.T @ former[part].astype(np.float64))

    return merge_nodes(run_blocks(sum_block, range(0, current.shape[0], BLOCK_ROWS), 1))


def split_by_item(entries: Entries, first_user: int) -> Entries:
    """Transpose the entries of some users: rows are all items, columns the users by their number in the whole.

    Parameters
    ----------
    entries : Entries
        Of consecutive users.
    first_user : int
        Number of the first of them.

    Returns
    -------
    Entries
        Users ascend in each row; ``n_columns`` is not told.
    """
    rows = entries.rows
    indptr = np.zeros(rows.n_columns + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows.columns, minlength=rows.n_columns), out=indptr[1:])
    assert rows.weights is not None
    users, curvatures, linears = np.empty_like(rows.columns), np.empty_like(rows.weights), np.empty_like(rows.weights)
    sort_by_item(
        first_user, rows.indptr, rows.columns, rows.weights, entries.linears,
        indptr[:-1].copy(), users, curvatures, linears,
    )  # fmt: skip
    return Entries(InteractionRows(indptr, users, curvatures, first_user + rows.n_rows), linears)


def join_items(parts: list[Entries], n_users: int) -> Entries:
    """Put the entries of the same items from several ranges of users together.

    Parameters
    ----------
    parts : list of Entries
        Of `split_by_item`, cut to the same items; users of a later part are numbered higher.
    n_users : int
        Number of all users.

    Returns
    -------
    Entries
        Users ascend in each row.
    """
    if len(parts) == 1:
        rows = parts[0].rows
        return Entries(InteractionRows(rows.indptr, rows.columns, rows.weights, n_users), parts[0].linears)
    indptr = np.zeros(parts[0].rows.n_rows + 1, dtype=np.int64)
    for part in parts:
        indptr[1:] += part.rows.degrees
    np.cumsum(indptr, out=indptr)
    users = np.empty(indptr[-1], dtype=np.int32)
    curvatures, linears = np.empty(indptr[-1], dtype=np.float32), np.empty(indptr[-1], dtype=np.float32)
    places = indptr[:-1].copy()
    for part in parts:
        assert part.rows.weights is not None
        join_entries(
            part.rows.indptr, part.rows.columns, part.rows.weights, part.linears, places, users, curvatures, linears
        )
    return Entries(InteractionRows(indptr, users, curvatures, n_users), linears)
