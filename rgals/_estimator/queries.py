"""Ranked lists of the fitted estimator: items for users, and neighbors by cosine."""

from typing import Any

import numpy as np

from rgals._estimator.fold_in import FoldIn
from rgals._estimator.inputs import (
    check_length,
    check_shape,
    interaction_rows,
    is_single,
    mask_without,
    row_numbers,
)
from rgals.errors import InputError
from rgals.names import BoolArray, Factors, Offsets, Rows, Weights
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.topk import top_k

__all__ = ["NO_SCORE", "Queries"]

NO_SCORE = np.finfo(np.float32).min
"""The score of what may not be ranked, and of padding; as in implicit, where infinity is not used."""


class Queries(FoldIn):
    """The ranking part of `rgals.RankingALS`."""

    def recommend(
        self,
        userid: Any,
        user_items: Any,
        N: int = 10,  # noqa: N803
        filter_already_liked_items: bool = True,
        filter_items: Any = None,
        recalculate_user: bool = False,
        items: Any = None,
    ) -> tuple[Rows, Weights]:
        """Rank items for one user or for several.

        Parameters
        ----------
        userid : int or array-like of int
            The users. With ``recalculate_user`` they need not be known to the model.
        user_items : scipy CSR matrix of shape (number of users asked about, n_items)
            Their interactions, row by row in the order of ``userid``; may be None when they are neither
            filtered nor solved from.
        N : int
            Length of the lists.
        filter_already_liked_items : bool
            Whether the items of ``user_items`` are left out.
        filter_items : array-like of int or None
            Items that are left out for every user; not together with ``items``.
        recalculate_user : bool
            Whether the users are solved from ``user_items`` instead of taken from the training.
        items : array-like of int or None
            Items to rank instead of all; named twice counts once.

        Returns
        -------
        ids : int32 array of shape (N,) or (number of users asked about, N)
            The items, one dimension for a single user: by descending score, equals by item. Places for
            which no item is left hold -1. With ``items``, the lists have ``min(N, number of items)``
            places, and items of the user that are filtered stand at their end, in ascending order.
        scores : float32 array of the same shape
            Their scores; the lowest float32 where the place holds -1 or a filtered item.

        Raises
        ------
        InputError
            If the model is not fitted, the matrix is not CSR or has another shape, or both ``items``
            and ``filter_items`` are given.
        RowIndexError
            If the model does not hold a user or an item.
        """
        user_factors, item_factors = self._fitted_factors()
        n_items = item_factors.shape[0]
        users = row_numbers(userid, "userid", None if recalculate_user else user_factors.shape[0])
        n_listed = check_length(N)
        chosen = _chosen_rows(items, filter_items, "items", "filter_items", n_items)
        is_allowed = mask_without(filter_items, "filter_items", n_items)
        seen: InteractionRows | None = None
        if filter_already_liked_items or recalculate_user:
            seen = interaction_rows(user_items, "user_items", converts=False)
            check_shape(seen, "user_items", users.size, n_items, "items")
        if recalculate_user and seen is not None:
            vectors = self._user_system().solve(seen, self._thread_count())
        else:
            vectors = user_factors[users]
        ids, scores = _rank(
            vectors,
            item_factors,
            n_listed,
            seen if filter_already_liked_items else None,
            chosen,
            is_allowed,
            self._thread_count(),
        )
        return (ids[0], scores[0]) if is_single(userid) else (ids, scores)

    def similar_items(
        self,
        itemid: Any,
        N: int = 10,  # noqa: N803
        recalculate_item: bool = False,
        item_users: Any = None,
        filter_items: Any = None,
        items: Any = None,
    ) -> tuple[Rows, Weights]:
        """Rank items by the cosine of their factors with those of one item or of several.

        Parameters
        ----------
        itemid : int or array-like of int
            The items to compare with.
        N : int
            Length of the lists.
        recalculate_item : bool
            Whether the items are solved from ``item_users`` instead of taken from the training; they
            need not be known to the model then.
        item_users : scipy CSR matrix of shape (number of items asked about, n_users) or None
            Their interactions, row by row; used only with ``recalculate_item``.
        filter_items : array-like of int or None
            Items that are left out; not together with ``items``.
        items : array-like of int or None
            Items to rank instead of all; named twice counts once.

        Returns
        -------
        ids : int32 array of shape (N,) or (number of items asked about, N)
            The items, one dimension for a single item. An item of the model comes first in its own list,
            recalculated or not, unless it is left out. Padding as in `recommend`. An item with zero
            factors has no direction: it is nobody's neighbor and has none.
        scores : float32 array of the same shape
            The cosines, from -1 to 1.

        Raises
        ------
        InputError
            If the model is not fitted, ``item_users`` is missing or has another shape, or both
            ``items`` and ``filter_items`` are given.
        RowIndexError
            If the model does not hold an item.
        """
        _, item_factors = self._fitted_factors()
        n_items = item_factors.shape[0]
        chosen = _chosen_rows(items, filter_items, "items", "filter_items", n_items)
        is_allowed = mask_without(filter_items, "filter_items", n_items)
        n_listed = check_length(N)
        own = row_numbers(itemid, "itemid", None if recalculate_item else n_items)
        if recalculate_item:
            vectors = np.atleast_2d(self.recalculate_item(itemid, item_users))
            own = np.where(own < n_items, own, -1)
        else:
            vectors = item_factors[own]
        directions = self._derive("item_directions", (item_factors,), lambda: _directions(item_factors))
        ids, scores = _neighbors(vectors, own, directions, n_listed, chosen, is_allowed, self._thread_count())
        return (ids[0], scores[0]) if is_single(itemid) else (ids, scores)

    def similar_users(
        self,
        userid: Any,
        N: int = 10,  # noqa: N803
        filter_users: Any = None,
        users: Any = None,
    ) -> tuple[Rows, Weights]:
        """Rank users by the cosine of their factors with those of one user or of several.

        Parameters
        ----------
        userid : int or array-like of int
            The users to compare with.
        N : int
            Length of the lists.
        filter_users : array-like of int or None
            Users that are left out; not together with ``users``.
        users : array-like of int or None
            Users to rank instead of all; named twice counts once.

        Returns
        -------
        ids : int32 array of shape (N,) or (number of users asked about, N)
            The users, one dimension for a single user; as `similar_items`.
        scores : float32 array of the same shape
            The cosines, from -1 to 1.

        Raises
        ------
        InputError
            If the model is not fitted, or both ``users`` and ``filter_users`` are given.
        RowIndexError
            If the model does not hold a user.
        """
        user_factors, _ = self._fitted_factors()
        n_users = user_factors.shape[0]
        chosen = _chosen_rows(users, filter_users, "users", "filter_users", n_users)
        is_allowed = mask_without(filter_users, "filter_users", n_users)
        own = row_numbers(userid, "userid", n_users)
        directions = self._derive("user_directions", (user_factors,), lambda: _directions(user_factors))
        ids, scores = _neighbors(
            user_factors[own], own, directions, check_length(N), chosen, is_allowed, self._thread_count()
        )
        return (ids[0], scores[0]) if is_single(userid) else (ids, scores)


def _chosen_rows(chosen: Any, excluded: Any, name: str, excluded_name: str, n_rows: int) -> Offsets | None:
    """Give the rows that are ranked instead of all, ascending and unique."""
    if chosen is None:
        return None
    if excluded is not None and np.size(excluded):
        raise InputError(
            f"{name} and {excluded_name}: expected one of the two, found both; take the rows to leave out of {name}"
        )
    if np.size(chosen) == 0:
        raise InputError(f"{name}: expected at least one row number, found none; leave it out to rank all")
    return np.unique(row_numbers(chosen, name, n_rows))


def _rank(
    vectors: Factors,
    factors: Factors,
    n_listed: int,
    seen: InteractionRows | None,
    chosen: Offsets | None,
    is_allowed: BoolArray | None,
    n_threads: int,
) -> tuple[Rows, Weights]:
    """Rank rows of ``factors`` by their product with each vector; see `Queries.recommend` for padding."""
    if chosen is not None:
        factors, n_listed = factors[chosen], min(n_listed, chosen.size)
        seen = None if seen is None else _select_columns(seen, chosen)
        is_allowed = None if is_allowed is None else is_allowed[chosen]
    lists = top_k(
        np.ascontiguousarray(vectors), factors, n_listed, seen=seen, is_allowed=is_allowed, n_threads=n_threads
    )
    ids = lists.items
    is_padding = ids < 0
    scores = np.where(is_padding, NO_SCORE, lists.scores)
    if chosen is None:
        return ids, scores
    for row in np.flatnonzero(is_padding.any(axis=1)):
        is_left = np.ones(chosen.size, dtype=np.bool_)
        is_left[ids[row][~is_padding[row]]] = False
        ids[row][is_padding[row]] = np.flatnonzero(is_left)[: np.count_nonzero(is_padding[row])]
    return chosen[ids].astype(np.int32), scores


def _select_columns(rows: InteractionRows, chosen: Offsets) -> InteractionRows:
    """Keep the interactions with the chosen columns, renumbered by their place among these."""
    place = np.full(rows.n_columns, -1, dtype=np.int32)
    place[chosen] = np.arange(chosen.size, dtype=np.int32)
    columns = place[rows.columns]
    is_kept = columns >= 0
    n_kept_before = np.concatenate([[0], np.cumsum(is_kept)])
    return InteractionRows(n_kept_before[rows.indptr].astype(np.int64), columns[is_kept], None, chosen.size)


def _directions(factors: Factors) -> Factors:
    """Scale each row to length 1; a row of zeros stays."""
    norms = np.linalg.norm(factors.astype(np.float64), axis=1, keepdims=True)
    directions = np.zeros(factors.shape, dtype=np.float64)
    np.divide(factors, norms, out=directions, where=norms > 0)
    return directions.astype(np.float32)


def _neighbors(
    vectors: Factors,
    own: Offsets,
    directions: Factors,
    n_listed: int,
    chosen: Offsets | None,
    is_allowed: BoolArray | None,
    n_threads: int,
) -> tuple[Rows, Weights]:
    """Rank rows by cosine; ``own`` are the vectors' own rows, which come first in their lists, or -1."""
    queries, n_rows = _directions(vectors), directions.shape[0]
    has_direction: BoolArray = np.any(directions, axis=1)
    if not has_direction.all():
        is_allowed = has_direction if is_allowed is None else is_allowed & has_direction
    is_candidate = np.zeros(n_rows, dtype=np.bool_)
    is_candidate[slice(None) if chosen is None else chosen] = True
    if is_allowed is not None:
        is_candidate &= is_allowed
    # The own row's product with itself can round below that of a twin, so its place is not left to chance.
    is_known = own >= 0
    indptr = np.concatenate([[0], np.cumsum(is_known)]).astype(np.int64)
    own_rows = InteractionRows(indptr, own[is_known].astype(np.int32), None, n_rows)
    ids, scores = _rank(queries, directions, n_listed, own_rows, chosen, is_allowed, n_threads)
    scores = np.where(scores == NO_SCORE, scores, np.clip(scores, -1, 1))
    is_first = is_known & is_candidate[own]
    ids[is_first], scores[is_first] = _put_first(ids[is_first], scores[is_first], own[is_first])
    is_lost = ~queries.any(axis=1)
    scores[is_lost] = NO_SCORE
    ids[is_lost] = -1 if chosen is None else chosen[: ids.shape[1]]
    return ids, scores


def _put_first(ids: Rows, scores: Weights, own: Offsets) -> tuple[Rows, Weights]:
    """Put each list's own row before the others, with cosine 1."""
    n_lists, n_listed = ids.shape
    is_other = ids != own[:, None]
    # An own row among the filtered ones at the end gives up that place, otherwise the last place goes.
    is_other[:, -1] &= ~is_other.all(axis=1)
    shape = (n_lists, n_listed - 1)
    first = own[:, None].astype(np.int32), np.ones((n_lists, 1), dtype=np.float32)
    return np.hstack([first[0], ids[is_other].reshape(shape)]), np.hstack([first[1], scores[is_other].reshape(shape)])
