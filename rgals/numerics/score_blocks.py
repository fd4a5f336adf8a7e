"""Scores of all items for blocks of users: summed from rows, and the best of them under the rules of `top_k`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgals.errors import InputError, NumericalError
from rgals.names import BoolArray, Factors, Offsets, Rows, Weights
from rgals.numerics.compile import kernel
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import available_threads, run_blocks
from rgals.numerics.topk import TopK, find_not_finite, offer_tile, sort_heaps

__all__ = ["add_dense_rows", "add_sparse_rows", "top_k_of_scores", "users_per_block"]

_BLOCK_BYTES = 1 << 26
"""Memory of a block of scores."""
_MAX_BLOCK_USERS = 256
_THREAD_USERS = 16
"""Users that a thread ranks at a time."""
_TILE_USERS = 128
_ITEM_TILE = 4096
"""Items whose scores are added up together, so that they stay in the cache."""


def users_per_block(n_items: int) -> int:
    """Give the number of users whose scores are held at once: 256, or fewer where there are very many items."""
    return max(1, min(_MAX_BLOCK_USERS, _BLOCK_BYTES // (4 * max(1, n_items))))


def top_k_of_scores(
    scores: Factors,
    k: int,
    *,
    seen: InteractionRows | None = None,
    is_allowed: BoolArray | None = None,
    n_threads: int | None = None,
) -> TopK:
    """Give the best ``k`` items of each user by given scores.

    Parameters
    ----------
    scores : float32 array of shape (n_users, n_items)
        Scores of all items, in C order and finite. Overwritten: items that may not appear get -inf.
    k : int
        Length of the lists, at least 1; more than ``n_items`` is allowed.
    seen : InteractionRows of shape (n_users, n_items) or None
        Items that never appear in their user's list.
    is_allowed : bool array of shape (n_items,) or None
        Items that may appear in any list; None allows all.
    n_threads : int or None
        Number of threads; None uses every processor. No list depends on it.

    Returns
    -------
    TopK
        Score descending, equal scores by item row ascending. A list with fewer than ``k`` eligible
        items ends with -1 and -inf.

    Raises
    ------
    InputError
        If shapes or types do not fit, ``k`` is below 1, or ``scores`` cannot be written to.
    NumericalError
        If a score is NaN or infinite.
    """
    _check(scores, k, seen, is_allowed, n_threads)
    n_users, n_items = scores.shape
    lists = TopK(np.full((n_users, k), -1, dtype=np.int32), np.full((n_users, k), -np.inf, dtype=np.float32))
    banned = np.empty(0, dtype=np.int32) if is_allowed is None else np.flatnonzero(~is_allowed).astype(np.int32)
    columns = np.empty(0, dtype=np.int32) if seen is None else seen.columns

    def rank(start: int) -> tuple[int, int]:
        stop = min(start + _THREAD_USERS, n_users)
        block = scores[start:stop]
        n_bad, first_bad = find_not_finite(block)
        if n_bad:
            return n_bad, start + first_bad
        cursors = np.zeros(stop - start, dtype=np.int64) if seen is None else seen.indptr[start:stop].copy()
        ends = cursors if seen is None else seen.indptr[start + 1 : stop + 1]
        items, kept = lists.items[start:stop], lists.scores[start:stop]
        offer_tile(block, 0, n_items, columns, cursors, ends, banned, kept, items)
        sort_heaps(kept, items)
        return 0, -1

    threads = available_threads() if n_threads is None else n_threads
    found = run_blocks(rank, range(0, n_users, _THREAD_USERS), threads)
    n_bad = sum(n for n, _ in found)
    if n_bad:
        first = min(row for n, row in found if n)
        raise NumericalError(
            f"top_k_of_scores: {n_bad} of {n_users} user rows have scores that are NaN or infinite, the first is "
            f"row {first}; fit the model again with a larger reg"
        )
    return lists


def add_dense_rows(rows: InteractionRows, matrix: Factors, scores: Factors, *, n_threads: int) -> None:
    """Add to each user's scores the rows of a dense matrix that their interactions name, times the weights.

    Parameters
    ----------
    rows : InteractionRows of shape (n_users, n_rows)
        Which rows of the matrix, and their weights; 1 where there are none.
    matrix : float32 array of shape (n_rows, n_items)
        The summands, in C order.
    scores : float32 array of shape (n_users, n_items)
        Added to.
    n_threads : int
        Number of threads; no bit depends on it, nor on which users are asked for together.
    """
    weights = np.ones(rows.n_interactions, dtype=np.float32) if rows.weights is None else rows.weights

    def add(block: tuple[int, int]) -> None:
        first, start = block
        last, stop = min(first + _TILE_USERS, rows.n_rows), min(start + _ITEM_TILE, matrix.shape[1])
        _add_dense_rows(rows.indptr[first : last + 1], rows.columns, weights, matrix, start, stop, scores[first:last])

    firsts, starts = range(0, rows.n_rows, _TILE_USERS), range(0, matrix.shape[1], _ITEM_TILE)
    run_blocks(add, [(first, start) for first in firsts for start in starts], n_threads)


def add_sparse_rows(rows: InteractionRows, matrix: InteractionRows, scores: Factors, *, n_threads: int) -> None:
    """Add to each user's scores the rows of a sparse matrix that their interactions name, times the weights.

    Parameters
    ----------
    rows : InteractionRows of shape (n_users, n_rows)
        Which rows of the matrix, and their weights; 1 where there are none.
    matrix : InteractionRows of shape (n_rows, n_items)
        The summands; their weights may be of any sign.
    scores : float32 array of shape (n_users, n_items)
        Added to.
    n_threads : int
        Number of threads; no bit depends on it, nor on which users are asked for together.
    """
    weights = np.ones(rows.n_interactions, dtype=np.float32) if rows.weights is None else rows.weights
    values = np.ones(matrix.n_interactions, dtype=np.float32) if matrix.weights is None else matrix.weights

    def add(start: int) -> None:
        stop = min(start + _THREAD_USERS, rows.n_rows)
        indptr = rows.indptr[start : stop + 1]
        _add_sparse_rows(indptr, rows.columns, weights, matrix.indptr, matrix.columns, values, scores[start:stop])

    run_blocks(add, range(0, rows.n_rows, _THREAD_USERS), n_threads)


@kernel
def _add_dense_rows(
    indptr: Offsets,
    columns: Rows,
    weights: Weights,
    matrix: Factors,
    start: int,
    stop: int,
    scores: Factors,
) -> None:
    for row in range(indptr.size - 1):
        sums = scores[row]
        for entry in range(indptr[row], indptr[row + 1]):
            weight, summand = weights[entry], matrix[columns[entry]]
            for item in range(start, stop):
                sums[item] += weight * summand[item]


@kernel
def _add_sparse_rows(
    indptr: Offsets,
    columns: Rows,
    weights: Weights,
    matrix_indptr: Offsets,
    matrix_columns: Rows,
    values: Weights,
    scores: Factors,
) -> None:
    for row in range(indptr.size - 1):
        sums = scores[row]
        for entry in range(indptr[row], indptr[row + 1]):
            weight, column = weights[entry], columns[entry]
            for place in range(matrix_indptr[column], matrix_indptr[column + 1]):
                sums[matrix_columns[place]] += weight * values[place]


def _check(
    scores: NDArray[Any],
    k: int,
    seen: InteractionRows | None,
    is_allowed: BoolArray | None,
    n_threads: int | None,
) -> None:
    if scores.ndim != 2 or scores.dtype != np.float32 or not scores.flags.c_contiguous or not scores.flags.writeable:
        raise InputError(
            "top_k_of_scores: expected writable float32 scores of shape (n_users, n_items) in C order, found "
            f"{scores.dtype} of shape {scores.shape}; convert with numpy.array(scores, numpy.float32, order='C')"
        )
    if k < 1:
        raise InputError(f"top_k_of_scores: expected k of at least 1, found {k}")
    if n_threads is not None and n_threads < 1:
        raise InputError(
            f"top_k_of_scores: expected n_threads of at least 1, found {n_threads}; leave it out to use all"
        )
    if seen is not None and (seen.n_rows, seen.n_columns) != scores.shape:
        raise InputError(
            f"top_k_of_scores: expected seen interactions of shape {scores.shape}, found "
            f"{(seen.n_rows, seen.n_columns)}; take the rows of the users that are asked for"
        )
    if is_allowed is not None and (is_allowed.shape != scores.shape[1:] or is_allowed.dtype != np.bool_):
        raise InputError(
            f"top_k_of_scores: expected is_allowed as {scores.shape[1]} booleans, found {is_allowed.dtype} of shape "
            f"{is_allowed.shape}"
        )
