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
    add_observed,
    add_squares,
    add_tile,
    expand_users,
    exponentiate_apart,
    mask_tile,
)
from rgals.numerics.row_sample import RowSample
from rgals.numerics.selection import BUFFER_FACTOR, collect_tile
from rgals.numerics.softmax_gradient_kernels import longest_row
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import run_blocks

__all__ = ["Entries", "Expansion", "expand", "log_prior_of"]

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
    errors : float64 array of shape (n_users,)
        Standard error of each loss, where it was estimated from a sample of the items; else 0.
    nodes : list of SumNode
        The sums of losses and errors, as roots of the fixed tree over blocks of users.
    """

    entries: Entries
    slopes: Factors
    backgrounds: Float64Array
    losses: Float64Array
    log_partitions: Float64Array
    errors: Float64Array
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
    sample: RowSample | None = None,
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
    sample : RowSample or None
        Items that stand for all that are not observed; None looks at all of them.

    Returns
    -------
    Expansion
        Of a user without interactions: nothing. A loss that is not finite tells of factors that are not.

    Notes
    -----
    4 n_users n_items n_factors operations in float32, as many exponentials as scores, and a buffer of the
    hardest negatives of each user. Memory beside the result: a tile of scores and the buffers of `_TILE_USERS`
    users for each thread.

    From a sample, the partition sum and the sum of the slope are the exact sum over the observed items plus that over
    the others in the sample, each divided by its expected number of draws: without bias. Their ratio, the slope, and
    the logarithm in the loss have a bias of the order of the variance. Hard negatives are those of the sample. The
    standard error of a loss is that of independent draws, ``c sqrt(sum w (w - 1) p^2)`` with the weights w: at most,
    since the draws are spread evenly. The errors of users who share a sample may all point the same way, so that
    their sum is the most that the error of the sum can be.
    """
    n_users = rows.n_rows
    scored = _Scored.of(items, rows, log_prior, sample)
    n_hard = min(loss.n_hard, scored.items.shape[0])
    degrees = rows.degrees
    n_others = scored.items.shape[0] - scored.observed.degrees
    counts = np.where(degrees > 0, degrees + np.minimum(n_hard, n_others), 0)
    indptr = np.zeros(n_users + 1, dtype=np.int64)
    np.cumsum(counts, out=indptr[1:])
    found = _Found(
        indptr,
        np.empty(indptr[-1], dtype=np.int32),
        np.empty(indptr[-1], dtype=np.float32),
        np.empty(indptr[-1], dtype=np.float32),
        np.zeros_like(vectors),
        np.zeros((n_users, 4)),
    )
    pass_ = _Pass(vectors, items, rows, log_prior, loss, scored, found)

    def work(block: int) -> SumNode:
        stop = min((block + 1) * BLOCK_ROWS, n_users)
        for start in range(block * BLOCK_ROWS, stop, _TILE_USERS):
            pass_.expand_tile(start, min(start + _TILE_USERS, stop), n_hard)
        loss_and_error = found.numbers[block * BLOCK_ROWS : stop, 1::2].sum(axis=0)
        return SumNode(0, first_block + block, loss_and_error)

    nodes = merge_nodes(run_blocks(work, range(-(-n_users // BLOCK_ROWS)), n_threads))
    entries = Entries(InteractionRows(indptr, found.columns, found.curvatures, items.shape[0]), found.linears)
    backgrounds, losses, log_partitions, errors = found.numbers.T.copy()
    return Expansion(entries, found.slopes, backgrounds, losses, log_partitions, errors, nodes)


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
class _Scored:
    """The items whose scores are computed: all, or a sample; ``observed`` names them by their place in it."""

    items: Factors
    observed: InteractionRows
    log_prior: Weights
    sample: RowSample | None
    longest: Weights

    @classmethod
    def of(cls, items: Factors, rows: InteractionRows, log_prior: Weights, sample: RowSample | None) -> "_Scored":
        scored, observed, shifts = items, rows, log_prior
        if sample is not None:
            scored, observed = np.ascontiguousarray(items[sample.rows]), sample.places_of(rows)
            shifts = log_prior[sample.rows] if log_prior.size else log_prior
        longest = [longest_row(scored[start : start + _TILE_ITEMS]) for start in range(0, len(scored), _TILE_ITEMS)]
        return cls(scored, observed, shifts, sample, np.array(longest, dtype=np.float32))

    @property
    def tiles(self) -> list[tuple[int, int, int]]:
        """Number, first and end of each tile of items."""
        n_items = self.items.shape[0]
        starts = range(0, n_items, _TILE_ITEMS)
        return [(tile, first, min(first + _TILE_ITEMS, n_items)) for tile, first in enumerate(starts)]


class _Sums:
    """What some users' tiles add up to."""

    def __init__(self, vectors: Factors) -> None:
        n_users = vectors.shape[0]
        self.largest = np.full(n_users, _ABSENT, dtype=np.float32)
        self.partitions, self.squares = np.zeros(n_users), np.zeros(n_users)
        self.totals, self.partial = np.zeros_like(vectors), np.empty_like(vectors)
        self.maxima, self.sums = np.empty(n_users, dtype=np.float32), np.empty(n_users, dtype=np.float32)

    def add(
        self, scores: Factors, bounds: Weights, exponentials: Factors, items: Factors, spreads: Weights | None
    ) -> None:
        """Add a tile; ``spreads``: what the squares of a sampled one are multiplied with."""
        exponentiate_apart(scores, bounds, exponentials, self.maxima, self.sums)
        np.matmul(exponentials, items, out=self.partial)
        former = self.largest.copy()
        add_tile(self.partial, self.maxima, self.sums, self.totals, self.largest, self.partitions)
        if spreads is not None:
            add_squares(exponentials, spreads, self.maxima, former, self.largest, self.squares)


class _Hard:
    """Buffers in which the hard negatives of some users are collected."""

    def __init__(self, n_users: int, n_hard: int) -> None:
        n_buffer = BUFFER_FACTOR * n_hard + _SPARE_PLACES
        self.n_hard = n_hard
        self.scores = np.empty((n_users, n_buffer), dtype=np.float32)
        self.items = np.empty((n_users, n_buffer), dtype=np.int32)
        self.counts = np.zeros(n_users, dtype=np.int64)
        self.thresholds = np.full(n_users, -np.inf, dtype=np.float32)

    def collect(self, scores: Factors, first: int, columns: Rows, cursors: Offsets, ends: Offsets) -> None:
        """Collect from a tile, in which the named columns are overwritten."""
        if self.n_hard:
            collect_tile(
                scores, first, columns, cursors, ends,
                self.scores, self.items, self.counts, self.thresholds, self.n_hard,
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Pass:
    """One pass over the scores of some users."""

    vectors: Factors
    items: Factors
    rows: InteractionRows
    log_prior: Weights
    loss: Loss
    scored: _Scored
    found: _Found

    def expand_tile(self, start: int, stop: int, n_hard: int) -> None:
        """Expand users ``start`` to ``stop``, of one block; those without interactions are left out."""
        indptr = self.rows.indptr[start : stop + 1]
        if indptr[0] == indptr[-1]:
            return
        vectors, scored, sample = self.vectors[start:stop], self.scored, self.scored.sample
        sums, hard = _Sums(vectors), _Hard(stop - start, n_hard)
        norms = np.float32(1.0001) * np.sqrt(np.square(vectors).sum(axis=1))
        observed, ends = scored.observed.columns, scored.observed.indptr[start + 1 : stop + 1]
        cursors = scored.observed.indptr[start:stop].copy()
        memory = np.empty((2, len(vectors) * min(_TILE_ITEMS, scored.items.shape[0])), dtype=np.float32)
        for tile, first, last in scored.tiles:
            items = scored.items[first:last]
            scores, exponentials = memory[:, : len(vectors) * len(items)].reshape(2, len(vectors), len(items))
            np.matmul(vectors, items.T, out=scores)
            bounds = norms * scored.longest[tile]
            if scored.log_prior.size:
                scores += scored.log_prior[first:last]
                bounds[:] = np.inf
            if sample is None:
                sums.add(scores, bounds, exponentials, items, None)
                hard.collect(scores, first, observed, cursors, ends)
                continue
            mask_tile(scores, first, observed, cursors, ends)
            hard.collect(scores, first, observed, cursors, cursors)  # nothing is left to overwrite
            np.maximum(scores, _ABSENT, out=scores)  # a row may have nothing but observed items
            scores += sample.log_weights[first:last]
            bounds[:] = np.inf
            sums.add(scores, bounds, exponentials, items, sample.spreads[first:last])
        if sample is not None:
            add_observed(
                vectors, self.items, indptr, self.rows.columns, self.log_prior,
                sums.totals, sums.largest, sums.partitions, sums.squares,
            )  # fmt: skip
            for names, count in zip(hard.items, hard.counts, strict=True):
                names[:count] = sample.rows[names[:count]]
        self._finish(start, stop, sums, hard)

    def _finish(self, start: int, stop: int, sums: _Sums, hard: _Hard) -> None:
        """Write what was found of users ``start`` to ``stop``."""
        found = self.found
        expand_users(
            sums.largest, sums.partitions, sums.squares, sums.totals, self.vectors[start:stop], self.items,
            self.rows.indptr[start : stop + 1], self.rows.columns,
            _NOTHING if self.rows.weights is None else self.rows.weights,
            hard.items, hard.scores, hard.counts, hard.n_hard, self.log_prior, self.loss.eta, self.loss.kappa,
            found.indptr[start : stop + 1], found.columns, found.curvatures, found.linears,
            found.slopes[start:stop], found.numbers[start:stop],
        )  # fmt: skip
