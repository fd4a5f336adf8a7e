"""Gradient of the softmax loss over all items, for a batch of users, in tiles that stay in the processor's cache.

For users u with vectors x_u, items with vectors y_j and scores s_uj = x_u . y_j::

    L = sum_u sum_i g_ui [ -s_ui + log sum_j exp(s_uj) ]

    dL/dx_u = sum_j (c_u p_uj - g_ui) y_j        c_u = sum_i g_ui,  p_uj = exp(s_uj) / sum_j exp(s_uj)
    dL/dy_j = sum_u (c_u p_uj - g_uj) x_u

Each score is computed once: the user pass makes the exponentials of a tile of items right after its
product, relative to the tile's own maximum, and takes the tile's share of the users' gradients from
them while they are in the cache. Only when all tiles are done is the partition sum known; what is still
missing then is one factor per user and tile, which the item pass puts on the users' side of its product.
"""

from collections.abc import Callable

import numpy as np

from rgals.errors import InputError
from rgals.names import Factors, Float64Array, Rows, Weights
from rgals.numerics.softmax_gradient_kernels import add_positives, combine_tiles, exponentiate, scale_rows
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import run_blocks

__all__ = ["BatchEntries", "SoftmaxGradient", "buffer_bytes"]

_TILE_ITEMS = 512
_BLOCK_USERS = 256
"""A tile of scores has half a megabyte, for a cache of one. Fixed: results do not depend on the machine."""

_COMBINE_USERS = 64


class BatchEntries:
    """The observed entries of a batch, by user and, for the item pass, by item.

    Parameters
    ----------
    rows : InteractionRows of shape (n_batch, n_items)
        The entries of the users of the batch.
    divisor : float
        Divides all weights; the loss and the gradients are then per unit of it.
    """

    def __init__(self, rows: InteractionRows, divisor: float = 1.0) -> None:
        weights = np.ones(rows.n_interactions, np.float32) if rows.weights is None else rows.weights
        self.n_users = rows.n_rows
        self.n_items = rows.n_columns
        self.indptr = rows.indptr
        self.columns = rows.columns
        self.weights: Weights = (weights / np.float32(divisor)).astype(np.float32, copy=False)
        order = np.argsort(rows.columns, kind="stable")
        users = np.repeat(np.arange(rows.n_rows, dtype=np.int32), rows.degrees)
        self.item_rows: Rows = rows.columns[order]
        self.user_rows: Rows = users[order]
        self.item_weights: Weights = self.weights[order]

    def of_items(self, start: int, stop: int) -> tuple[Rows, Rows, Weights]:
        """Give item, user and weight of the entries of a range of items, by item and then by user."""
        first, last = np.searchsorted(self.item_rows, (start, stop))
        return self.item_rows[first:last], self.user_rows[first:last], self.item_weights[first:last]


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
        Number of items.
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
        self._tiles = [(start, min(start + _TILE_ITEMS, n_items)) for start in range(0, n_items, _TILE_ITEMS)]
        self._n_users = n_users
        self._n_items = n_items
        self._n_threads = n_threads
        n_tiles = len(self._tiles)
        self._exponentials = np.empty(n_users * n_items, dtype=np.float32) if keeps_scores else None
        self._partial = np.empty((n_tiles, n_users, n_factors), dtype=np.float32)
        self._maxima = np.empty((n_tiles, n_users), dtype=np.float32)
        self._sums = np.empty((n_tiles, n_users), dtype=np.float32)
        self._coefficients = np.empty((n_tiles, n_users), dtype=np.float32)

    def user_pass(self, vectors: Factors, items: Factors, entries: BatchEntries) -> tuple[Float64Array, Factors]:
        """Give the loss of each user and its gradient by the user's vector.

        Parameters
        ----------
        vectors : float32 array of shape (n_batch, n_factors)
            Vectors of the users of the batch, at most ``n_users``.
        items : float32 array of shape (n_items, n_factors)
            Vectors of all items.
        entries : BatchEntries of shape (n_batch, n_items)
            What the users have observed.

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
        self._check(vectors, items, entries)
        n_batch = len(vectors)
        partial, maxima = self._partial[:, :n_batch], self._maxima[:, :n_batch]
        sums, coefficients = self._sums[:, :n_batch], self._coefficients[:, :n_batch]
        gradients = np.empty_like(vectors)
        losses = np.empty(n_batch, dtype=np.float64)

        def fill(corner: tuple[int, int]) -> None:
            tile, first = corner
            users = slice(first, min(first + _BLOCK_USERS, n_batch))
            item_vectors = items[slice(*self._tiles[tile])]
            scores = self._scores(tile, n_batch, users)
            np.matmul(vectors[users], item_vectors.T, out=scores)
            exponentiate(scores, maxima[tile, users], sums[tile, users])
            np.matmul(scores, item_vectors, out=partial[tile, users])

        def combine(start: int) -> None:
            stop = min(start + _COMBINE_USERS, n_batch)
            combine_tiles(
                partial, maxima, sums, entries.indptr, entries.columns, entries.weights,
                vectors, items, start, stop, coefficients, gradients, losses,
            )  # fmt: skip

        corners = [(tile, first) for tile in range(len(self._tiles)) for first in range(0, n_batch, _BLOCK_USERS)]
        run_blocks(fill, corners, self._n_threads)
        run_blocks(combine, range(0, n_batch, _COMBINE_USERS), self._n_threads)
        return losses, gradients

    def item_pass(self, vectors: Factors, entries: BatchEntries, take: Callable[[int, Factors], None]) -> None:
        """Give the gradients by the items' vectors, tile by tile; call it after `user_pass` on the same batch.

        Parameters
        ----------
        vectors : float32 array of shape (n_batch, n_factors)
            As for the user pass.
        entries : BatchEntries of shape (n_batch, n_items)
            As for the user pass.
        take : callable
            Receives the first item and the gradients (float32, of shape (n_tile, n_factors), its own to
            change) of each tile; called from several threads at once. It may change the items' vectors.
        """
        n_batch = len(vectors)
        if self._exponentials is None:
            raise InputError("softmax gradient: the item pass needs the scores; make it with keeps_scores=True")

        def work(tile: int) -> None:
            start, stop = self._tiles[tile]
            scaled = np.empty_like(vectors)
            scale_rows(vectors, self._coefficients[tile, :n_batch], scaled)
            gradients = self._scores(tile, n_batch, slice(None)).T @ scaled
            add_positives(start, *entries.of_items(start, stop), vectors, gradients)
            take(start, gradients)

        run_blocks(work, range(len(self._tiles)), self._n_threads)

    def _scores(self, tile: int, n_batch: int, users: slice) -> Factors:
        """Give the stored scores of a tile and some users; the tiles of a batch lie one after the other."""
        start, stop = self._tiles[tile]
        if self._exponentials is None:
            return np.empty((len(range(*users.indices(n_batch))), stop - start), dtype=np.float32)
        return self._exponentials[start * n_batch : stop * n_batch].reshape(n_batch, stop - start)[users]

    def _check(self, vectors: Factors, items: Factors, entries: BatchEntries) -> None:
        expected = (entries.n_users, self._n_items, items.shape[1])
        if (len(vectors), len(items), vectors.shape[1]) != expected or len(vectors) > self._n_users:
            raise InputError(
                f"softmax gradient: expected at most {self._n_users} users with entries, {self._n_items} items and "
                f"equally long vectors, found entries of {entries.n_users} users, users of shape {vectors.shape} "
                f"and items of shape {items.shape}"
            )
