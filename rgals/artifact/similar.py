"""Nearest users or items by the cosine of their factors."""

from dataclasses import dataclass

import numpy as np

from rgals.artifact.arguments import check_k, ids_of_rows
from rgals.artifact.contents import Id
from rgals.data.ids import IdDictionary
from rgals.names import Factors, Float64Array, Side
from rgals.numerics.threads import run_blocks

__all__ = ["Neighbors", "find_neighbors"]

_BLOCK_ROWS = 1 << 13


@dataclass(frozen=True, slots=True)
class Neighbors:
    """The rows most alike to one row.

    Parameters
    ----------
    id : str or int
        The user or item that was asked about; never among its neighbors.
    neighbors : list of str or int
        At most ``k`` ids, the most alike first, equals by id.
    scores : list of float
        Their cosines, from -1 to 1.
    exhausted : bool
        Whether fewer than ``k`` other rows have a direction to compare.
    """

    id: Id
    neighbors: list[Id]
    scores: list[float]
    exhausted: bool


def find_neighbors(
    side: Side, ids: IdDictionary, factors: Factors, norms: Float64Array, wanted: Id, k: int, n_threads: int
) -> Neighbors:
    """Rank all other rows by their cosine with one row.

    Parameters
    ----------
    side : {"user", "item"}
        What the rows are.
    ids : IdDictionary
        The ids of the rows.
    factors : float32 array of shape (n_rows, n_factors)
        Users' or items' factors.
    norms : float64 array of shape (n_rows,)
        Their lengths. A row of length 0 has no direction: it is nobody's neighbor and has none.
    wanted : str or int
        The row to compare with.
    k : int
        Length of the list, 1 to the number of rows.
    n_threads : int
        Number of threads; the result does not depend on it.

    Raises
    ------
    UnknownIdError
        If the dictionary does not hold ``wanted``.
    InputError
        If ``k`` is out of range.
    """
    check_k(k, factors.shape[0], f"{side}s")
    row = ids.row_of(wanted)
    found_id = ids_of_rows(ids, np.array([row]))[0]
    if norms[row] == 0:
        return Neighbors(found_id, [], [], exhausted=True)
    query = factors[row].astype(np.float64) / norms[row]
    starts = range(0, factors.shape[0], _BLOCK_ROWS)
    parts = run_blocks(lambda start: factors[start : start + _BLOCK_ROWS].astype(np.float64) @ query, starts, n_threads)
    is_candidate = norms > 0
    is_candidate[row] = False
    rows = np.flatnonzero(is_candidate)
    # Rounded to float32, so that equal factors tie even where their products were rounded differently.
    scores = np.clip(np.concatenate(parts)[rows] / norms[rows], -1, 1).astype(np.float32)
    if rows.size > k:
        is_near = scores >= np.partition(scores, rows.size - k)[rows.size - k]
        rows, scores = rows[is_near], scores[is_near]
    order = np.argsort(-scores, kind="stable")[:k]
    return Neighbors(
        found_id, ids_of_rows(ids, rows[order]), [float(score) for score in scores[order]], exhausted=order.size < k
    )
