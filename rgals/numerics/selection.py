"""The best of very many scores, found through a buffer: for lists that are long and whose order does not matter.

`rgals.numerics.topk` keeps a heap, which is best for short lists. Here scores above a threshold are collected
in a buffer of a few times the wanted number; when it is full, the best are kept and the threshold rises.
"""

import numpy as np

from rgals.names import Factors, Offsets, Rows, Weights
from rgals.numerics.compile import kernel

__all__ = ["BUFFER_FACTOR", "collect_tile", "keep_best"]

BUFFER_FACTOR = 4
"""Places of a buffer for each wanted score."""

_CHUNK = 64


@kernel
def _goes_before(score: np.float32, item: int, other_score: np.float32, other_item: int) -> bool:
    """Tell whether one entry ranks before another: by score, equals by item."""
    return bool(score > other_score or (score == other_score and item < other_item))


@kernel
def keep_best(scores: Weights, items: Rows, count: int, n_best: int) -> None:
    """Bring the ``n_best`` best of the first ``count`` entries to the front, in any order (Hoare's selection)."""
    low, high = 0, count - 1
    while low < high:
        middle = (low + high) // 2
        score, item = scores[middle], items[middle]
        left, right = low, high
        while left <= right:
            while _goes_before(scores[left], items[left], score, item):
                left += 1
            while _goes_before(score, item, scores[right], items[right]):
                right -= 1
            if left <= right:
                scores[left], scores[right] = scores[right], scores[left]
                items[left], items[right] = items[right], items[left]
                left += 1
                right -= 1
        # Everything up to ``right`` goes before everything from ``left`` on.
        if n_best - 1 <= right:
            high = right
        elif n_best - 1 >= left:
            low = left
        else:
            return


@kernel
def _any_above(chunk: Weights, threshold: np.float32) -> bool:
    """Tell whether any of `_CHUNK` scores is above a threshold."""
    # A fixed number of terms as wide as the scores, so that the loop becomes vector instructions.
    n_above = np.float32(0)
    for j in range(_CHUNK):
        n_above += np.float32(1) if chunk[j] > threshold else np.float32(0)
    return bool(n_above > 0)


@kernel
def collect_tile(
    tile: Factors,
    first_item: int,
    columns: Rows,
    cursors: Offsets,
    ends: Offsets,
    scores: Factors,
    items: Rows,
    counts: Offsets,
    thresholds: Weights,
    n_best: int,
) -> None:
    """Collect what may be among each user's ``n_best`` best.

    Parameters
    ----------
    tile : float32 array of shape (n_users, width)
        Scores of consecutive items; those of the named columns are overwritten with -inf.
    first_item : int
        The first of them. Tiles come in ascending order.
    columns, cursors, ends
        Items that are not wanted, ascending; the cursors move on.
    scores, items : float32 and int32 arrays of shape (n_users, n_buffer)
        The buffers, with room for ``n_best`` and a chunk more.
    counts, thresholds : int64 and float32 arrays of shape (n_users,)
        How many are collected; below or at the threshold nothing is. At first 0 and -inf.
    n_best : int
        How many are wanted, at least 1.
    """
    n_users, width = tile.shape
    room = scores.shape[1] - _CHUNK
    for u in range(n_users):
        row = tile[u]
        cursor = cursors[u]
        while cursor < ends[u] and columns[cursor] < first_item + width:
            row[columns[cursor] - first_item] = -np.inf
            cursor += 1
        cursors[u] = cursor
        threshold, count = thresholds[u], counts[u]
        best, names = scores[u], items[u]
        for start in range(0, width, _CHUNK):
            n_here = min(_CHUNK, width - start)
            if n_here == _CHUNK and not _any_above(row[start : start + _CHUNK], threshold):
                continue
            for j in range(start, start + n_here):
                # Written in any case, kept by moving on: a branch would be mispredicted.
                best[count] = row[j]
                names[count] = first_item + j
                count += 1 if row[j] > threshold else 0
            if count > room:
                keep_best(scores[u], items[u], count, n_best)
                count = n_best
                threshold = scores[u, 0]
                for k in range(1, n_best):
                    threshold = scores[u, k] if scores[u, k] < threshold else threshold
        thresholds[u], counts[u] = threshold, count
