"""Ranking metrics of ranked lists, user by user; ``docs/metrics.md`` gives the formulas and conventions."""

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from rgals.errors import InputError
from rgals.names import Float64Array, Offsets, Rows, Weights
from rgals.numerics.compile import kernel
from rgals.numerics.sparse import InteractionRows

__all__ = ["METRICS", "Gains", "coverage", "gini", "ranking_metrics", "recommendation_counts"]

Gains: TypeAlias = Literal["binary", "graded"]
"""What a relevant item is worth in NDCG: 1, or its held-out weight."""

METRICS = ("ndcg", "recall", "precision", "map", "mrr", "hit_rate")
"""Names of the metrics of a user's list, in the order in which the kernel writes them."""

_NO_WEIGHTS = np.empty(0, dtype=np.float32)


@kernel
def _find_column(columns: Rows, start: int, stop: int, wanted: int) -> int:
    """Search a row's ascending columns; -1 where the wanted one is not among them."""
    low, high = start, stop
    while low < high:
        middle = (low + high) // 2
        if columns[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    if low < stop and columns[low] == wanted:
        return low
    return -1


@kernel
def _fill_ideal(
    weights: Weights, start: int, stop: int, is_graded: bool, discounts: Float64Array, out: Float64Array
) -> int:
    """Write the DCG of the ideal list up to each of its positions; return its length."""
    length = min(stop - start, discounts.size)
    gains = np.ones(stop - start, dtype=np.float64)
    if is_graded:
        for e in range(start, stop):
            gains[e - start] = weights[e]
        gains = np.sort(gains)[::-1]
    total = 0.0
    for position in range(length):
        total += gains[position] * discounts[position]
        out[position] = total
    return length


@kernel
def _rank_users(
    ranked: Rows,
    indptr: Offsets,
    columns: Rows,
    weights: Weights,
    is_graded: bool,
    cutoffs: Offsets,
    discounts: Float64Array,
    out: Float64Array,
) -> None:
    """Fill ``out[metric, cutoff, user]``; ``cutoffs`` ascend and the last is the length of ``discounts``."""
    ideal = np.zeros(discounts.size, dtype=np.float64)
    for u in range(ranked.shape[0]):
        start, stop = indptr[u], indptr[u + 1]
        n_held_out = stop - start
        if n_held_out == 0:
            out[:, :, u] = np.nan
            continue
        ideal_length = _fill_ideal(weights, start, stop, is_graded, discounts, ideal)
        n_hits = 0
        dcg = 0.0
        precision_sum = 0.0
        reciprocal_rank = 0.0
        position = 0
        for c in range(cutoffs.size):
            while position < cutoffs[c]:
                item = ranked[u, position]
                found = _find_column(columns, start, stop, item) if item >= 0 else -1
                position += 1
                if found >= 0:
                    n_hits += 1
                    dcg += (np.float64(weights[found]) if is_graded else 1.0) * discounts[position - 1]
                    precision_sum += n_hits / position
                    if n_hits == 1:
                        reciprocal_rank = 1.0 / position
            out[0, c, u] = dcg / ideal[min(cutoffs[c], ideal_length) - 1]
            out[1, c, u] = n_hits / n_held_out
            out[2, c, u] = n_hits / cutoffs[c]
            out[3, c, u] = precision_sum / min(cutoffs[c], n_held_out)
            out[4, c, u] = reciprocal_rank
            out[5, c, u] = 1.0 if n_hits > 0 else 0.0


def ranking_metrics(
    ranked: Rows, held_out: InteractionRows, cutoffs: Sequence[int], gains: Gains = "binary"
) -> dict[str, Float64Array]:
    """Compute NDCG, Recall, Precision, MAP, MRR and HitRate of each user's ranked list.

    Parameters
    ----------
    ranked : int32 array of shape (n_users, k_max)
        Item rows, the best first, each at most once; -1 where the list has no more.
    held_out : InteractionRows of shape (n_users, n_items)
        The relevant items of each user; under graded gains their weights are the gains.
    cutoffs : sequence of int
        Lengths k at which the lists are judged, 1 to ``k_max``, in any order.
    gains : {"binary", "graded"}
        Gains of NDCG; the other metrics do not know gains.

    Returns
    -------
    dict of str to float64 array of shape (n_users,)
        Keys such as ``"ndcg@20"``, by cutoff in the given order, then by metric. NaN for a user
        without held-out items; 0 for one whose list is empty.

    Raises
    ------
    InputError
        If the shapes do not fit, a cutoff is out of range or given twice, or ``gains`` is unknown.

    Notes
    -----
    With n held-out items, of which those in the first k are hits:
    NDCG = sum over hits of gain / log2(rank + 1), divided by the same sum over the ideal list, which
    has the min(k, n) largest gains; Recall = hits / n; Precision = hits / k; MAP = sum over hits of
    the precision at their rank, divided by min(k, n); MRR = 1 / rank of the first hit; HitRate = 1 if
    there is a hit. All lie in [0, 1].

    References
    ----------
    .. [1] Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, TOIS 2002.
    """
    wanted = _check(ranked, held_out, cutoffs, gains)
    order = np.argsort(wanted)
    is_graded = gains == "graded" and held_out.weights is not None
    weights = held_out.weights if held_out.weights is not None else _NO_WEIGHTS
    discounts = 1.0 / np.log2(np.arange(2.0, wanted.max() + 2))
    out = np.empty((len(METRICS), wanted.size, len(ranked)), dtype=np.float64)
    lists = np.ascontiguousarray(ranked, dtype=np.int32)
    _rank_users(lists, held_out.indptr, held_out.columns, weights, is_graded, wanted[order], discounts, out)
    place = np.argsort(order)
    return {
        f"{metric}@{k}": out[m, place[c]] for c, k in enumerate(wanted.tolist()) for m, metric in enumerate(METRICS)
    }


def recommendation_counts(ranked: Rows, n_items: int, k: int) -> Offsets:
    """Count how often each item is among the first ``k`` of a list.

    Parameters
    ----------
    ranked : int32 array of shape (n_users, k_max)
        Item rows; -1 where a list has no more.
    n_items : int
        Number of items of the catalog.
    k : int
        Length of the lists, 1 to ``k_max``.

    Returns
    -------
    int64 array of shape (n_items,)
        Counts of different blocks of users may be added up.

    Raises
    ------
    InputError
        If ``k`` is out of range or an item row is not below ``n_items``.
    """
    if not 1 <= k <= ranked.shape[1]:
        raise InputError(f"recommendation_counts: expected k from 1 to {ranked.shape[1]}, found {k}")
    shown = ranked[:, :k].ravel()
    if shown.size and shown.max() >= n_items:
        raise InputError(f"recommendation_counts: expected item rows below {n_items}, found {shown.max()}")
    return np.bincount(shown[shown >= 0], minlength=n_items).astype(np.int64)


def coverage(counts: Offsets) -> float:
    """Give the share of the catalog's items that were recommended to somebody; NaN without items.

    Parameters
    ----------
    counts : int64 array of shape (n_items,)
        From `recommendation_counts`.
    """
    return float(np.count_nonzero(counts) / counts.size) if counts.size else float("nan")


def gini(counts: Offsets) -> float:
    """Give the Gini index of how often the catalog's items were recommended.

    Parameters
    ----------
    counts : int64 array of shape (n_items,)
        From `recommendation_counts`; items that were never recommended count too.

    Returns
    -------
    float
        0 if all items were recommended equally often, 1 - 1 / n_items if only one was; NaN if none was.

    Notes
    -----
    With counts x_1 <= ... <= x_n: sum_i (2 i - n - 1) x_i / (n sum_i x_i).
    """
    total = float(counts.sum())
    if total == 0:
        return float("nan")
    n_items = counts.size
    ranks = np.arange(1, n_items + 1, dtype=np.float64)
    return float(((2 * ranks - n_items - 1) * np.sort(counts)).sum() / (n_items * total))


def _check(
    ranked: NDArray[np.int32], held_out: InteractionRows, cutoffs: Sequence[int], gains: Gains
) -> NDArray[np.int64]:
    if ranked.ndim != 2 or len(ranked) != held_out.n_rows:
        raise InputError(
            f"ranking_metrics: expected one list for each of {held_out.n_rows} users, found shape {ranked.shape}"
        )
    if not cutoffs or min(cutoffs) < 1 or max(cutoffs) > ranked.shape[1] or len(set(cutoffs)) != len(cutoffs):
        raise InputError(
            f"ranking_metrics: expected different cutoffs from 1 to {ranked.shape[1]} (the length of the lists), "
            f"found {list(cutoffs)}"
        )
    if gains not in get_args(Gains):
        raise InputError(f"ranking_metrics: expected gains 'binary' or 'graded', found {gains!r}")
    return np.array(cutoffs, dtype=np.int64)
