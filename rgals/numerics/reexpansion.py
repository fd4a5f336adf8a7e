"""The softmax loss expanded where the model stands: every user's slope, entries, background and exact loss.

The loss of a user with observed weights g, c = sum g, an item prior pi and scores s is

    L = c log sum_j pi_j exp(s_j) - sum_i g_i s_i

At scores s0 its gradient by s_j is ``c p_j - g_j`` with ``p_j = pi_j exp(s0_j) / Z``. The expansion has that gradient
for every item, and one of three curvatures:

    observed        c p + eta g
    hard negative   kappa c p           the ``n_hard`` others of the largest p
    all others      omega pi            omega = c (their probability) / (their prior)

To keep one background matrix B = sum_j pi_j q_j q_j' for all rows, the background covers all items, and the entries
(observed items and hard negatives) take its curvature back: h = their own less ``omega pi``. A row z, which stands at
z0, then has the system

    (omega B + sum_e h_e x_e x_e' + ridge I) z = omega B z0 + sum_e l_e x_e - t        l = h s0 + g

with the slope ``t = sum_j c p_j q_j`` of a user, over all items, and ``t = sum_u c_u p_ui p_u`` of an item, over all
users at their new vectors. It is a Newton-type step on the exact gradient: where it stands still, the loss with
its ridge is stationary. At s0 = 0 with n_hard = 0, omega = c, h = eta g and t = c sum_j pi_j q_j: RG² itself. With all
items as entries it is a damped Newton step of the dense softmax.
"""

from dataclasses import dataclass

import numpy as np

from rgals.names import Factors, Float64Array, Offsets, Rows, Weights
from rgals.numerics.loss import Loss
from rgals.numerics.pairwise import BLOCK_ROWS, SumNode, merge_nodes
from rgals.numerics.reexpansion_kernels import (
    add_tile,
    expand_users,
    exponentiate_apart,
    exponentiate_between,
    join_entries,
    sort_by_item,
)
from rgals.numerics.selection import BUFFER_FACTOR, collect_tile
from rgals.numerics.softmax_gradient_kernels import longest_row
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import run_blocks

__all__ = ["Entries", "Expansion", "cross_sums", "expand", "item_slopes", "join_items", "log_prior_of", "split_by_item"]

_TILE_USERS = 128
_TILE_ITEMS = 2048
"""A tile of scores is a megabyte: it stays in a second-level cache. Fixed, so that no result depends on the machine."""

_SPARE_PLACES = 128
"""Room of a buffer for what one step of the selection adds."""

_ABSENT = np.float32(-1e30)
"""log pi of an item of prior 0: finite, so that no tile makes a NaN."""

_NOTHING = np.empty(0, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries of consecutive rows, each with a curvature and a linear weight.

    Parameters
    ----------
    rows : InteractionRows
        Where they are; the weights are the curvatures h.
    linears : float32 array of shape (n_entries,)
        The l.
    """

    rows: InteractionRows
    linears: Weights

    @property
    def n_bytes(self) -> int:
        """Memory of the arrays, in bytes."""
        return 8 * self.rows.indptr.size + 12 * self.linears.size


@dataclass(frozen=True, slots=True)
class Expansion:
    """What the softmax loss of consecutive users looks like around their present scores.

    Parameters
    ----------
    entries : Entries
        Of the users, over the items.
    slopes : float32 array of shape (n_users, n_factors)
        t of each user, in the basis of the vectors.
    backgrounds : float64 array of shape (n_users,)
        omega.
    losses : float64 array of shape (n_users,)
        The exact softmax loss of each user.
    log_partitions : float64 array of shape (n_users,)
        Logarithm of the sum of exp(s) pi, without pi where it is uniform.
    nodes : list of SumNode
        Their sum, as roots of the fixed tree over blocks of users.
    """

    entries: Entries
    slopes: Factors
    backgrounds: Float64Array
    losses: Float64Array
    log_partitions: Float64Array
    nodes: list[SumNode]


def log_prior_of(prior: Float64Array) -> Weights:
    """Give log pi as `expand` wants it: float32, empty where the prior is uniform."""
    if prior.size == 0 or np.all(prior == prior[0]):
        return _NOTHING
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(prior), _ABSENT).astype(np.float32)


def expand(
    vectors: Factors,
    items: Factors,
    rows: InteractionRows,
    log_prior: Weights,
    loss: Loss,
    *,
    first_block: int,
    n_threads: int,
) -> Expansion:
    """Expand the softmax loss of consecutive users: one pass over all their scores.

    Parameters
    ----------
    vectors : float32 array of shape (n_users, n_factors)
        Where the users stand.
    items : float32 array of shape (n_items, n_factors)
        All items, in the same basis.
    rows : InteractionRows of shape (n_users, n_items)
        The observed entries; weights are the observed weights g.
    log_prior : float32 array of shape (n_items,) or empty
        `log_prior_of` the item prior.
    loss : Loss
        Gives n_hard, eta and kappa.
    first_block : int
        Number of the first user's block of ``BLOCK_ROWS`` rows.
    n_threads : int
        Threads; the result does not depend on it.

    Returns
    -------
    Expansion
        Of a user without interactions: nothing. A loss that is not finite tells of factors that are not.

    Notes
    -----
    4 n_users n_items n_factors operations in float32, as many exponentials as scores, and a buffer of the
    hardest negatives of each user. Memory beside the result: a tile of scores and the buffers of `_TILE_USERS`
    users for each thread.
    """
    n_users, n_items = rows.n_rows, items.shape[0]
    n_hard = min(loss.n_hard, n_items)
    degrees = rows.degrees
    counts = np.where(degrees > 0, degrees + np.minimum(n_hard, n_items - degrees), 0)
    indptr = np.zeros(n_users + 1, dtype=np.int64)
    np.cumsum(counts, out=indptr[1:])
    found = _Found(
        indptr,
        np.empty(indptr[-1], dtype=np.int32),
        np.empty(indptr[-1], dtype=np.float32),
        np.empty(indptr[-1], dtype=np.float32),
        np.zeros_like(vectors),
        np.zeros((n_users, 3)),
    )
    longest = [longest_row(items[start : start + _TILE_ITEMS]) for start in range(0, n_items, _TILE_ITEMS)]
    pass_ = _Pass(vectors, items, rows, log_prior, loss, np.array(longest, dtype=np.float32), found)

    def work(block: int) -> SumNode:
        stop = min((block + 1) * BLOCK_ROWS, n_users)
        for start in range(block * BLOCK_ROWS, stop, _TILE_USERS):
            pass_.expand_tile(start, min(start + _TILE_USERS, stop), n_hard)
        total = found.numbers[block * BLOCK_ROWS : stop, 1].sum()
        return SumNode(0, first_block + block, np.array([total]))

    nodes = merge_nodes(run_blocks(work, range(-(-n_users // BLOCK_ROWS)), n_threads))
    entries = Entries(InteractionRows(indptr, found.columns, found.curvatures, n_items), found.linears)
    backgrounds, losses, log_partitions = found.numbers.T.copy()
    return Expansion(entries, found.slopes, backgrounds, losses, log_partitions, nodes)


@dataclass(frozen=True, slots=True)
class _Found:
    """Arrays that the threads fill, each in its own users' places."""

    indptr: Offsets
    columns: Rows
    curvatures: Weights
    linears: Weights
    slopes: Factors
    numbers: Float64Array


@dataclass(frozen=True, slots=True)
class _Pass:
    """One pass over the scores of some users with all items."""

    vectors: Factors
    items: Factors
    rows: InteractionRows
    log_prior: Weights
    loss: Loss
    longest: Weights
    found: _Found

    def expand_tile(self, start: int, stop: int, n_hard: int) -> None:
        """Expand users ``start`` to ``stop``, of one block; those without interactions are left out."""
        indptr = self.rows.indptr[start : stop + 1]
        if indptr[0] == indptr[-1]:
            return
        vectors, n_users = self.vectors[start:stop], stop - start
        n_items = self.items.shape[0]
        largest, partitions = np.full(n_users, _ABSENT, dtype=np.float32), np.zeros(n_users)
        totals, partial = np.zeros_like(vectors), np.empty_like(vectors)
        maxima, sums = np.empty(n_users, dtype=np.float32), np.empty(n_users, dtype=np.float32)
        n_buffer = BUFFER_FACTOR * n_hard + _SPARE_PLACES
        hard_scores = np.empty((n_users, n_buffer), dtype=np.float32)
        hard_items = np.empty((n_users, n_buffer), dtype=np.int32)
        counts, thresholds = np.zeros(n_users, dtype=np.int64), np.full(n_users, -np.inf, dtype=np.float32)
        norms = np.float32(1.0001) * np.sqrt(np.square(vectors).sum(axis=1))
        cursors, ends = indptr[:-1].copy(), indptr[1:]
        memory = np.empty((2, n_users * min(_TILE_ITEMS, n_items)), dtype=np.float32)
        has_prior = self.log_prior.size > 0
        for tile, first in enumerate(range(0, n_items, _TILE_ITEMS)):
            last = min(first + _TILE_ITEMS, n_items)
            scores, exponentials = memory[:, : n_users * (last - first)].reshape(2, n_users, last - first)
            np.matmul(vectors, self.items[first:last].T, out=scores)
            bounds = norms * self.longest[tile]
            if has_prior:
                scores += self.log_prior[first:last]
                bounds[:] = np.inf
            exponentiate_apart(scores, bounds, exponentials, maxima, sums)
            np.matmul(exponentials, self.items[first:last], out=partial)
            add_tile(partial, maxima, sums, totals, largest, partitions)
            if n_hard:
                collect_tile(
                    scores, first, self.rows.columns, cursors, ends, hard_scores, hard_items, counts, thresholds, n_hard
                )
        found = self.found
        expand_users(
            largest, partitions, totals, vectors, self.items, indptr, self.rows.columns,
            _NOTHING if self.rows.weights is None else self.rows.weights,
            hard_items, hard_scores, counts, n_hard, self.log_prior, self.loss.eta, self.loss.kappa,
            found.indptr[start : stop + 1], found.columns, found.curvatures, found.linears,
            found.slopes[start:stop], found.numbers[start:stop],
        )  # fmt: skip


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
        rows = slice(start, min(start + _TILE_ITEMS // 16, items.shape[0]))
        vectors, partial = items[rows], np.empty_like(slopes[rows])
        for first in range(0, n_users, _TILE_ITEMS):
            users = slice(first, min(first + _TILE_ITEMS, n_users))
            scores = vectors @ former[users].T
            exponentiate_between(scores, log_prior[rows], log_partitions[users], weight_sums[users])
            slopes[rows] += np.matmul(scores, current[users], out=partial)

    run_blocks(work, range(0, items.shape[0], _TILE_ITEMS // 16), n_threads)
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
