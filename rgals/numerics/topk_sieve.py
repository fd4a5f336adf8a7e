"""For few users: which tiles of items can hold a user's best, found by products that need not have the right bits.

A product of few users with all items spends most of its time on bringing the items into the form that the linear
algebra library wants. A plain pass costs a quarter of it, adds up in another order, and so misses the right bits by at
most the error bound of a sum of products [1]_. What is best by the right bits is within twice that bound of the best
by the plain pass, so that only the tiles that hold such items have to be multiplied.

References
----------
.. [1] Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, SIAM 2002, equation 3.5.
"""

import math

import numpy as np

from rgals.names import Factors, Offsets, Rows, Weights
from rgals.numerics.compile import kernel
from rgals.numerics.threads import run_blocks

__all__ = ["find_tiles"]

_UNIT = 2.0**-24
"""Largest relative error of a rounding to float32."""
_LARGEST = 1e37
"""Scores beyond could overflow on the way: then all tiles are looked at."""
_ITEM_BLOCK = 4
_PIECE = 1 << 16
"""Items of a piece of work: some milliseconds, so that handing it to a thread costs nothing beside it."""
_CHUNK = 64
"""Scores compared with the threshold at once, before any is looked at."""


@kernel
def _plain_scores(user: Weights, items: Factors, out: Weights) -> None:
    """Multiply one user with all items, four items at a time so that the processor waits for none of them."""
    n_items, n_factors = items.shape
    n_whole = n_items - n_items % _ITEM_BLOCK
    for i in range(0, n_whole, _ITEM_BLOCK):
        first = second = third = fourth = np.float32(0.0)
        for f in range(n_factors):
            value = user[f]
            first += value * items[i, f]
            second += value * items[i + 1, f]
            third += value * items[i + 2, f]
            fourth += value * items[i + 3, f]
        out[i], out[i + 1], out[i + 2], out[i + 3] = first, second, third, fourth
    for i in range(n_whole, n_items):
        total = np.float32(0.0)
        for f in range(n_factors):
            total += user[f] * items[i, f]
        out[i] = total


@kernel
def _kth_largest(scores: Weights, kept: Weights) -> float:
    """Give the k-th largest score; ``kept`` has k places and is used up: a heap, the least on top."""
    size = kept.size
    kept[:] = -np.inf
    for start in range(0, scores.size, _CHUNK):
        stop = min(start + _CHUNK, scores.size)
        n_better = 0
        for i in range(start, stop):
            n_better += scores[i] > kept[0]
        if n_better == 0:
            continue
        for i in range(start, stop):
            if scores[i] > kept[0]:
                kept[0] = scores[i]
                parent = 0
                while True:
                    least = parent
                    for child in (2 * parent + 1, 2 * parent + 2):
                        if child < size and kept[child] < kept[least]:
                            least = child
                    if least == parent:
                        break
                    kept[parent], kept[least] = kept[least], kept[parent]
                    parent = least
    return float(kept[0])


def _score_all(user: Weights, items: Factors, scores: Weights, n_threads: int) -> None:
    """Write the plain scores of one user, in pieces that threads share."""

    def work(start: int) -> None:
        piece = slice(start, start + _PIECE)
        _plain_scores(user, items[piece], scores[piece])

    run_blocks(work, range(0, items.shape[0], _PIECE), n_threads)


def find_tiles(
    users: Factors,
    items: Factors,
    k: int,
    hidden: list[Rows],
    banned: Rows,
    longest_item: float,
    tile: int,
    n_threads: int,
) -> Offsets | None:
    """Find the tiles of items that can hold one of the best ``k`` of any of the users.

    Parameters
    ----------
    users : float32 array of shape (n_users, n_factors)
        Few users.
    items : float32 array of shape (n_items, n_factors)
        All items.
    k : int
        Length of the lists.
    hidden : list of int32 arrays
        Item rows that each user's list may not hold.
    banned : int32 array
        Item rows that no list may hold.
    longest_item : float
        Length of the longest item, or more.
    tile : int
        Items of a tile.
    n_threads : int
        Threads; few items are left to one.

    Returns
    -------
    int64 array or None
        First items of the tiles, ascending. None where all have to be looked at: scores could overflow, or a list
        has no more than ``k`` items to choose from.
    """
    n_items, n_factors = items.shape
    is_wanted = np.zeros(-(-n_items // tile), dtype=np.bool_)
    scores, kept = np.empty(n_items, dtype=np.float32), np.empty(k, dtype=np.float32)
    share = n_factors * _UNIT
    for user, own in zip(users, hidden, strict=True):
        length = math.sqrt(float(np.dot(user.astype(np.float64), user.astype(np.float64)))) * longest_item
        if not length < _LARGEST or share >= 0.5 or n_items - own.size - banned.size <= k:
            return None
        _score_all(user, items, scores, n_threads)
        scores[own] = -np.inf
        scores[banned] = -np.inf
        worst = _kth_largest(scores, kept)
        # Two sums of the same products, in whatever orders, differ by at most twice the bound; the underflow of each
        # product adds less than the last term.
        apart = 2 * share / (1 - share) * length * (1 + 1e-6) + n_factors * 1e-44
        is_wanted[np.flatnonzero(scores >= np.float32(worst - 2 * apart - abs(worst) * _UNIT)) // tile] = True
    return np.flatnonzero(is_wanted).astype(np.int64) * tile
