"""The softmax loss expanded where the model stands: every user's entries, background and exact loss.

The loss of a user with observed weights g, c = sum g, an item prior pi and scores s is

    L = c log sum_j pi_j exp(s_j) - sum_i g_i s_i

At scores s0 its gradient by s_j is ``c p_j - g_j`` with ``p_j = pi_j exp(s0_j) / Z``. The observed items and the
``n_hard`` others of the largest p are kept as entries of their own: gradient exact, curvature damped,

    observed        h = c p + eta g           hard negative        h = kappa c p

All other items share what is left of the probability, ``rho = 1 - sum of the entries' p``. Over their share
``sigma = 1 - sum of the entries' pi`` of the prior their scores are taken to lie around one level m,

    exp(m) = rho Z / sigma        omega = c rho / sigma        c p_j ~ omega pi_j exp(s_j - m)

so that to second order they cost ``omega sum_j pi_j [(s_j - m) + (s_j - m)^2 / 2]``. To keep one background
matrix for all rows, that sum goes over all items, and the entries take their own part of it back: of h they
lose ``omega pi_j``, of the gradient ``omega pi_j (1 + s0_j - m)``. The system of a row z is then

    (omega B + sum_e h_e x_e x_e' + ridge I) z = sum_e l_e x_e - omega (1 - m) v

with ``l = h s0 - gradient``, B and v as for RG². At s0 = 0 with no hard negatives, omega = c, m = 0, h = eta g and
l = g: RG² itself. With all items as entries it is a damped Newton step of the dense softmax.
"""

from dataclasses import dataclass

import numpy as np

from rgals.names import Factors, Float64Array, Offsets, Rows, Weights
from rgals.numerics.loss import Loss
from rgals.numerics.pairwise import BLOCK_ROWS, SumNode, merge_nodes
from rgals.numerics.reexpansion_kernels import expand_users, join_entries, sort_by_item, sum_exponentials
from rgals.numerics.selection import BUFFER_FACTOR, collect_tile
from rgals.numerics.softmax_gradient_kernels import longest_row
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import run_blocks

__all__ = ["Entries", "Expansion", "expand", "join_items", "log_prior_of", "split_by_item"]

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
    backgrounds, pulls : float64 arrays of shape (n_users,)
        omega, and omega (1 - m).
    losses : float64 array of shape (n_users,)
        The exact softmax loss of each user.
    nodes : list of SumNode
        Their sum, as roots of the fixed tree over blocks of users.
    """

    entries: Entries
    backgrounds: Float64Array
    pulls: Float64Array
    losses: Float64Array
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
    2 n_users n_items n_factors operations in float32, as many exponentials as scores, and a buffer of the
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
        np.zeros(n_users),
        np.zeros(n_users),
        np.zeros(n_users),
    )
    longest = [longest_row(items[start : start + _TILE_ITEMS]) for start in range(0, n_items, _TILE_ITEMS)]
    pass_ = _Pass(vectors, items, rows, log_prior, loss, np.array(longest, dtype=np.float32), found)

    def work(block: int) -> SumNode:
        stop = min((block + 1) * BLOCK_ROWS, n_users)
        for start in range(block * BLOCK_ROWS, stop, _TILE_USERS):
            pass_.expand_tile(start, min(start + _TILE_USERS, stop), n_hard)
        total = found.losses[block * BLOCK_ROWS : stop].sum()
        return SumNode(0, first_block + block, np.array([total]))

    nodes = merge_nodes(run_blocks(work, range(-(-n_users // BLOCK_ROWS)), n_threads))
    entries = Entries(InteractionRows(indptr, found.columns, found.curvatures, n_items), found.linears)
    return Expansion(entries, found.backgrounds, found.pulls, found.losses, nodes)


@dataclass(frozen=True, slots=True)
class _Found:
    """Arrays that the threads fill, each in its own users' places."""

    indptr: Offsets
    columns: Rows
    curvatures: Weights
    linears: Weights
    backgrounds: Float64Array
    pulls: Float64Array
    losses: Float64Array


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
        n_items, n_tiles = self.items.shape[0], self.longest.size
        maxima = np.empty((n_tiles, n_users), dtype=np.float32)
        sums = np.empty((n_tiles, n_users), dtype=np.float32)
        n_buffer = BUFFER_FACTOR * n_hard + _SPARE_PLACES
        hard_scores = np.empty((n_users, n_buffer), dtype=np.float32)
        hard_items = np.empty((n_users, n_buffer), dtype=np.int32)
        counts, thresholds = np.zeros(n_users, dtype=np.int64), np.full(n_users, -np.inf, dtype=np.float32)
        norms = np.float32(1.0001) * np.sqrt(np.square(vectors).sum(axis=1))
        cursors, ends = indptr[:-1].copy(), indptr[1:]
        memory = np.empty(n_users * min(_TILE_ITEMS, n_items), dtype=np.float32)
        has_prior = self.log_prior.size > 0
        for tile, first in enumerate(range(0, n_items, _TILE_ITEMS)):
            last = min(first + _TILE_ITEMS, n_items)
            scores = memory[: n_users * (last - first)].reshape(n_users, last - first)
            np.matmul(vectors, self.items[first:last].T, out=scores)
            bounds = norms * self.longest[tile]
            if has_prior:
                scores += self.log_prior[first:last]
                bounds[:] = np.inf
            sum_exponentials(scores, bounds, maxima[tile], sums[tile])
            if n_hard:
                collect_tile(
                    scores, first, self.rows.columns, cursors, ends, hard_scores, hard_items, counts, thresholds, n_hard
                )
        found, users = self.found, slice(start, stop)
        expand_users(
            maxima, sums, vectors, self.items, indptr, self.rows.columns,
            _NOTHING if self.rows.weights is None else self.rows.weights,
            hard_items, hard_scores, counts, n_hard, self.log_prior, self.loss.eta, self.loss.kappa,
            found.indptr[start : stop + 1], found.columns, found.curvatures, found.linears,
            found.backgrounds[users], found.pulls[users], found.losses[users],
        )  # fmt: skip


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
    assert rows.weights is not None  # noqa: S101 - they are the curvatures
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
        assert part.rows.weights is not None  # noqa: S101
        join_entries(
            part.rows.indptr, part.rows.columns, part.rows.weights, part.linears, places, users, curvatures, linears
        )
    return Entries(InteractionRows(indptr, users, curvatures, n_users), linears)
