"""Gradient of the softmax loss over all items, for a batch of users, in tiles that stay in the processor's cache.

For users u with vectors x_u, items with vectors y_j and scores s_uj = x_u . y_j::

    L = sum_u sum_i g_ui [ -s_ui + log sum_j exp(s_uj) ]

    dL/dx_u = sum_j (c_u p_uj - g_ui) y_j        c_u = sum_i g_ui,  p_uj = exp(s_uj) / sum_j exp(s_uj)
    dL/dy_j = sum_u (c_u p_uj - g_uj) x_u

Each score is computed once: the user pass makes the exponentials of a tile of items right after its
product, relative to the tile's own maximum, and takes the tile's share of the users' gradients from
them while they are in the cache. Only when all tiles are done is the partition sum known; what is still
missing then is one factor per user and tile, which the item pass puts on the users' side of its product.

Where there are too many items for that, the partition sum is estimated from a sample of them::

    sum_j exp(s_uj)  ~  sum of exp(s_ui) over the user's observed items
                      + sum of w_j exp(s_uj) over the sampled ones that the user has not observed

with w_j the number of times that j was drawn over the expected number: unbiased for any proposal (the
logQ correction is the score's shift by log w_j), and exact when every item is in the sample once.
"""

from collections.abc import Callable

import numpy as np

from rgals.errors import InputError
from rgals.names import Factors, Float64Array, Offsets, Rows, Weights
from rgals.numerics.softmax_gradient_kernels import (
    add_observed,
    combine_tiles,
    exponentiate,
    longest_row,
    scale_rows,
    shift_scores,
)
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import run_blocks

__all__ = ["BatchEntries", "SoftmaxGradient", "buffer_bytes"]

_TILE_ITEMS = 512
_BLOCK_USERS = 256
"""A tile of scores has half a megabyte, for a cache of one. Fixed: results do not depend on the machine."""

_COMBINE_USERS = 64


class BatchEntries:
    """The observed entries of a batch, by user and, for the items' gradients, by item.

    Parameters
    ----------
    indptr : int64 array of shape (n_batch + 1,)
        Entries of each user.
    columns : int32 array of shape (n_entries,)
        Row of each entry's item among the vectors of the passes, in any order within a user.
    weights : float32 array of shape (n_entries,)
        The loss's g.
    """

    def __init__(self, indptr: Offsets, columns: Rows, weights: Weights) -> None:
        self.n_users = indptr.size - 1
        self.indptr, self.columns, self.weights = indptr, columns, weights
        self.by_item = np.argsort(columns, kind="stable")
        users = np.repeat(np.arange(self.n_users, dtype=np.int32), np.diff(indptr))
        self.item_rows: Rows = columns[self.by_item]
        self.user_rows: Rows = users[self.by_item]

    @classmethod
    def from_rows(cls, rows: InteractionRows, divisor: float = 1.0) -> "BatchEntries":
        """Take the entries of all rows, their weights divided by ``divisor``."""
        weights = np.ones(rows.n_interactions, np.float32) if rows.weights is None else rows.weights
        return cls(rows.indptr, rows.columns, (weights / np.float32(divisor)).astype(np.float32, copy=False))

    def of_items(self, start: int, stop: int) -> tuple[Rows, Weights]:
        """Give item and weight of each entry of a range of items."""
        mine = self.range_of(start, stop)
        return self.item_rows[mine], self.weights[self.by_item[mine]]

    def range_of(self, start: int, stop: int) -> slice:
        """Give where the entries of a range of items lie in the arrays by item."""
        first, last = np.searchsorted(self.item_rows, (start, stop))
        return slice(int(first), int(last))


def buffer_bytes(n_users: int, n_items: int, n_factors: int) -> int:
    """Tell the memory that a `SoftmaxGradient` of these sizes holds."""
    n_tiles = -(-n_items // _TILE_ITEMS)
    return 4 * n_users * (n_items + n_tiles * (n_factors + 3))


class SoftmaxGradient:
    """Buffers for the two passes over a batch.

    Parameters
    ----------
    n_users : int
        Most users of a batch.
    n_items : int
        Most items in the partition sum: all, or those of a sample.
    n_factors : int
        Length of a vector.
    n_threads : int
        Threads to use; no result depends on it.
    keeps_scores : bool
        Whether the item pass follows; without, the memory does not hold all scores of a batch.
    """

    def __init__(
        self, n_users: int, n_items: int, n_factors: int, n_threads: int = 1, *, keeps_scores: bool = True
    ) -> None:
        n_tiles = -(-n_items // _TILE_ITEMS)
        self._limits = (n_users, n_items)
        self._n_threads = n_threads
        self._tiles: list[tuple[int, int]] = []
        self._residuals = np.empty(0, dtype=np.float32)
        self._exponentials = np.empty(n_users * n_items, dtype=np.float32) if keeps_scores else None
        self._partial = np.empty((n_tiles, n_users, n_factors), dtype=np.float32)
        self._maxima = np.empty((n_tiles, n_users), dtype=np.float32)
        self._sums = np.empty((n_tiles, n_users), dtype=np.float32)
        self._coefficients = np.empty((n_tiles, n_users), dtype=np.float32)

    def user_pass(
        self, vectors: Factors, items: Factors, entries: BatchEntries, log_weights: Weights | None = None
    ) -> tuple[Float64Array, Factors]:
        """Give the loss of each user and its gradient by the user's vector.

        Parameters
        ----------
        vectors : float32 array of shape (n_batch, n_factors)
            Vectors of the users of the batch, at most ``n_users``.
        items : float32 array of shape (n_vectors, n_factors)
            Vectors of all items; with a sample, those of the sampled items, followed by those of the
            observed items that are not in the sample.
        entries : BatchEntries over (n_batch, n_vectors)
            What the users have observed.
        log_weights : float32 array of shape (n_sampled,) or None
            Logarithm of w_j for each sampled item; None where ``items`` are all items.

        Returns
        -------
        losses : float64 array of shape (n_batch,)
            0 for a user without entries. Not finite where a vector is not.
        gradients : float32 array of shape (n_batch, n_factors)
            Likewise 0 for a user without entries.

        Raises
        ------
        InputError
            If the shapes do not fit.

        Notes
        -----
        Two products of 2 n_batch n_items n_factors operations; scores are float32, sums of tiles float64.
        """
        n_batch, n_scored = len(vectors), len(items) if log_weights is None else len(log_weights)
        self._check(vectors, items, entries, n_scored)
        self._tiles = _cut(0, n_scored)
        n_tiles = len(self._tiles)
        gradients = np.empty_like(vectors)
        losses = np.empty(n_batch, dtype=np.float64)
        # A score is at most the product of the norms; a little more for its rounding.
        norms = np.float32(1.0001) * np.sqrt(np.square(vectors).sum(axis=1))
        residuals = self._residuals = np.empty_like(entries.weights)

        def fill(corner: tuple[int, int]) -> None:
            tile, first = corner
            users = slice(first, min(first + _BLOCK_USERS, n_batch))
            start, stop = self._tiles[tile]
            scores = self._scores(tile, n_batch, users)
            bounds = np.full(len(scores), np.inf, dtype=np.float32)
            np.matmul(vectors[users], items[start:stop].T, out=scores)
            if log_weights is not None:
                mine = entries.range_of(start, stop)
                shift_scores(
                    scores, first, start, log_weights[start:stop], entries.user_rows[mine], entries.item_rows[mine]
                )
            else:
                np.multiply(norms[users], longest_row(items[start:stop]), out=bounds)
            exponentiate(scores, bounds, self._maxima[tile, users], self._sums[tile, users])
            np.matmul(scores, items[start:stop], out=self._partial[tile, users])

        def combine(start: int) -> None:
            combine_tiles(
                self._partial[:n_tiles], self._maxima[:n_tiles], self._sums[:n_tiles],
                entries.indptr, entries.columns, entries.weights, log_weights is None, vectors, items,
                start, min(start + _COMBINE_USERS, n_batch), self._coefficients[:n_tiles], residuals, gradients, losses,
            )  # fmt: skip

        corners = [(tile, first) for tile in range(n_tiles) for first in range(0, n_batch, _BLOCK_USERS)]
        run_blocks(fill, corners, self._n_threads)
        run_blocks(combine, range(0, n_batch, _COMBINE_USERS), self._n_threads)
        return losses, gradients

    def item_pass(
        self, vectors: Factors, n_vectors: int, entries: BatchEntries, take: Callable[[int, Factors], None]
    ) -> None:
        """Give the gradients by the items' vectors, tile by tile; call it after `user_pass` on the same batch.

        Parameters
        ----------
        vectors : float32 array of shape (n_batch, n_factors)
            As for the user pass.
        n_vectors : int
            Number of ``items`` of the user pass.
        entries : BatchEntries over (n_batch, n_vectors)
            As for the user pass.
        take : callable
            Receives the first row and the gradients (float32, of shape (n_tile, n_factors), its own to
            change) of each tile; called from several threads at once. It may change the items' vectors.
        """
        if self._exponentials is None:
            raise InputError("softmax gradient: the item pass needs the scores; make it with keeps_scores=True")
        n_batch, n_tiles = len(vectors), len(self._tiles)
        by_item = self._residuals[entries.by_item]
        tiles = self._tiles + _cut(self._tiles[-1][1] if self._tiles else 0, n_vectors)

        def work(tile: int) -> None:
            start, stop = tiles[tile]
            if tile < n_tiles:
                scaled = np.empty_like(vectors)
                scale_rows(vectors, self._coefficients[tile, :n_batch], scaled)
                gradients = self._scores(tile, n_batch, slice(None)).T @ scaled
            else:
                gradients = np.zeros((stop - start, vectors.shape[1]), dtype=np.float32)
            mine = entries.range_of(start, stop)
            add_observed(start, entries.item_rows[mine], entries.user_rows[mine], by_item[mine], vectors, gradients)
            take(start, gradients)

        run_blocks(work, range(len(tiles)), self._n_threads)

    def _scores(self, tile: int, n_batch: int, users: slice) -> Factors:
        """Give the stored scores of a tile and some users; the tiles of a batch lie one after the other."""
        start, stop = self._tiles[tile]
        if self._exponentials is None:
            return np.empty((len(range(*users.indices(n_batch))), stop - start), dtype=np.float32)
        return self._exponentials[start * n_batch : stop * n_batch].reshape(n_batch, stop - start)[users]

    def _check(self, vectors: Factors, items: Factors, entries: BatchEntries, n_scored: int) -> None:
        most_users, most_items = self._limits
        fits = len(vectors) == entries.n_users and vectors.shape[1] == items.shape[1] == self._partial.shape[2]
        has_items = entries.item_rows.size == 0 or entries.item_rows[-1] < len(items)
        if not (fits and has_items) or len(vectors) > most_users or n_scored > min(most_items, len(items)):
            raise InputError(
                f"softmax gradient: expected at most {most_users} users with entries, at most {most_items} items in "
                f"the partition sum and vectors of length {self._partial.shape[2]}, found entries of "
                f"{entries.n_users} users up to item {entries.item_rows.max(initial=-1)}, users of shape "
                f"{vectors.shape}, items of shape {items.shape} and {n_scored} items in the partition sum"
            )


def _cut(start: int, stop: int) -> list[tuple[int, int]]:
    """Cut a range into tiles."""
    return [(first, min(first + _TILE_ITEMS, stop)) for first in range(start, stop, _TILE_ITEMS)]
