"""Requests for single lists, each with its own user, history and filters, ranked together in one product.

`rgals.artifact.recommend.recommend_users` ranks many known users under one filter; this module answers
requests that have nothing in common but the model, as they arrive at a service.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rgals.artifact.arguments import check_k, find_rows, several_ids
from rgals.artifact.contents import Id, ModelContents
from rgals.artifact.item_index import ItemIndex
from rgals.artifact.recommend import (
    Fallback,
    History,
    RankedRows,
    Recommendations,
    Source,
    check_fallback,
    to_recommendations,
)
from rgals.data.ids import IdDictionary
from rgals.errors import InputError, RgalsError, UnknownIdError
from rgals.names import BoolArray, Factors, Offsets, Rows
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.topk import TopK, top_k

__all__ = ["Query", "RankingRequest", "answer_requests", "interactions_of", "prepare_query", "rank_queries"]

_NO_ROWS: Rows = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class RankingRequest:
    """What one list is asked for.

    Parameters
    ----------
    k : int
        Length of the list, at least 1; more than there are items is allowed, the list then ends early.
    user_id : str, int or None
        Whose list.
    history : mapping of id to float, iterable of ids, or None
        Items with their weights, or items alone, each of weight 1; solved by fold-in. With a known user,
        whose training interactions join it, and where both name an item the history's weight counts.
    exclude_seen : bool
        Whether the user's training interactions and the items of the history are left out.
    exclude : iterable of str or int
        Items to leave out.
    candidates : iterable of str or int or None
        The only items that the list may hold; None allows all.
    fallback : {"none", "popular"}
        What there is where nothing else can rank: an error, or the most popular items, labeled so.
    is_new_user_allowed : bool
        Whether an unknown ``user_id`` that comes with a history is a new user; else it is an error.
    """

    k: int = 10
    user_id: Id | None = None
    history: History | None = None
    exclude_seen: bool = True
    exclude: Iterable[Id] = ()
    candidates: Iterable[Id] | None = None
    fallback: Fallback = "none"
    is_new_user_allowed: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A request in rows, ready to be ranked.

    Parameters
    ----------
    user_id : str, int or None
        Whose list; a known user's id as the model holds it.
    is_known_user : bool or None
        Whether the model holds the user; None where none was named.
    k : int
        Length of the list.
    source : {"factors", "fold_in", "popular"}
        What ranks.
    factors : float32 array of shape (n_factors,) or None
        The user's factors; None under ``popular``.
    interactions : InteractionRows with one row
        What the factors stand for: the training interactions, the history, or both.
    hidden : int32 array of shape (n_hidden,)
        Item rows that may not appear, ascending and unique.
    candidates : int32 array of shape (n_candidates,) or None
        The only item rows that may appear, ascending and unique.
    unknown_items : tuple of str or int
        Ids that were named and that the model does not hold.
    """

    user_id: Id | None
    is_known_user: bool | None
    k: int
    source: Source
    factors: Factors | None
    interactions: InteractionRows
    hidden: Rows
    candidates: Rows | None
    unknown_items: tuple[Id, ...]


def answer_requests(
    contents: ModelContents,
    requests: Sequence[RankingRequest],
    n_threads: int | None,
    index: ItemIndex | None = None,
) -> list[Recommendations | RgalsError]:
    """Rank the items for several requests; see `Model.answer`."""
    prepared: list[Query | RgalsError] = []
    for request, user_row in zip(requests, _find_users(contents, requests), strict=True):
        try:
            prepared.append(prepare_query(contents, request, user_row))
        except RgalsError as error:
            prepared.append(error)
    lists = iter(rank_queries(contents, [found for found in prepared if isinstance(found, Query)], n_threads, index))
    return [next(lists) if isinstance(found, Query) else found for found in prepared]


def prepare_query(contents: ModelContents, request: RankingRequest, user_row: int | None = None) -> Query:
    """Translate a request into rows and solve its history.

    Parameters
    ----------
    contents : ModelContents
        The model.
    request : RankingRequest
        What is asked for.
    user_row : int or None
        The row of its user where that is known already, -1 if the model does not hold it; None looks it up.

    Raises
    ------
    UnknownIdError
        If the user, or every item of the history, is unknown and neither the history nor the fallback helps.
    InputError
        If an option is out of range, or the history holds an unusable weight or an item twice.
    NumericalError
        If the history has no finite solution, which takes ``reg=0``.
    """
    check_k(request.k, None, "items")
    check_fallback(request.fallback)
    if user_row is None:
        user_row = _find_user(contents, request.user_id)
    is_known = None if request.user_id is None else user_row >= 0
    user_id = _canonical(contents.user_ids, request.user_id) if is_known else request.user_id
    unknown: list[Id] = []
    source: Source = "factors"
    factors: Factors | None = None
    if request.history is None:
        if request.user_id is None:
            raise InputError("expected a user_id, a history, or both, found neither")
        interactions = interactions_of(contents, user_row)
        if not is_known and request.fallback == "none":
            _raise_unknown_user(contents, request.user_id)
        if interactions.n_interactions:
            factors = contents.user_factors[user_row]
    else:
        if is_known is False and not request.is_new_user_allowed:
            _raise_unknown_user(contents, request.user_id)
        weights, unknown = _known_history(contents.item_ids, request.history)
        interactions = _joined(contents, user_row, weights)
        source = "fold_in"
        if interactions.n_interactions:
            factors = contents.user_system.solve(interactions, 1)[0]
        elif request.fallback == "none":
            _raise_empty_history(unknown)
    candidates = None
    if request.candidates is not None:
        candidates = _rows_of("candidates", contents.item_ids, request.candidates, unknown)
    excluded = _rows_of("exclude", contents.item_ids, request.exclude, unknown)
    hidden = excluded
    if request.exclude_seen:
        hidden = np.union1d(interactions.columns, excluded) if excluded.size else interactions.columns
    return Query(
        user_id,
        is_known,
        request.k,
        "popular" if factors is None else source,
        factors,
        interactions,
        hidden,
        candidates,
        tuple(dict.fromkeys(unknown)),
    )


def rank_queries(
    contents: ModelContents, queries: Sequence[Query], n_threads: int | None, index: ItemIndex | None = None
) -> list[Recommendations]:
    """Rank the items for prepared queries; those without candidates share one product.

    Parameters
    ----------
    contents : ModelContents
        The model.
    queries : sequence of Query
        What to rank.
    n_threads : int or None
        Number of threads; None uses every processor. No list depends on it, nor on the other queries.
    index : ItemIndex or None
        Finds the items of lists without candidates, where it can; None looks at all items.
    """
    ranked: dict[int, RankedRows] = {}
    together: list[int] = []
    for position, query in enumerate(queries):
        if query.factors is None:
            ranked[position] = _ranked(query, *_rank_popular(contents, query))
        elif query.candidates is None:
            found = None if index is None else index.rank(query.factors, contents.item_factors, query.k, query.hidden)
            if found is None:
                together.append(position)
            else:
                ranked[position] = _ranked(query, *found, is_exact=False)
        else:
            is_allowed = np.zeros(contents.n_items, dtype=np.bool_)
            is_allowed[query.candidates] = True
            lists = _rank(contents, [query], is_allowed, n_threads)
            ranked[position] = _ranked(query, lists.items[0], lists.scores[0])
    if together:
        lists = _rank(contents, [queries[position] for position in together], None, n_threads)
        for row, position in enumerate(together):
            ranked[position] = _ranked(queries[position], lists.items[row], lists.scores[row])
    return to_recommendations(contents, [ranked[position] for position in range(len(queries))])


def interactions_of(contents: ModelContents, user_row: int) -> InteractionRows:
    """Give the training interactions of one user, none where the row is -1; views."""
    if user_row < 0:
        return InteractionRows(np.zeros(2, dtype=np.int64), _NO_ROWS, None, contents.n_items)
    return contents.seen.row_slice(user_row, user_row + 1)


def _rank(
    contents: ModelContents, queries: Sequence[Query], is_allowed: BoolArray | None, n_threads: int | None
) -> TopK:
    """Rank with factors. A shorter list is the beginning of a longer one, so all have the longest length."""
    indptr = np.zeros(len(queries) + 1, dtype=np.int64)
    np.cumsum([query.hidden.size for query in queries], out=indptr[1:])
    hidden = np.concatenate([query.hidden for query in queries])
    return top_k(
        np.stack([query.factors for query in queries if query.factors is not None]),
        contents.item_factors,
        min(max(query.k for query in queries), contents.n_items),
        seen=InteractionRows(indptr, hidden, None, contents.n_items),
        is_allowed=is_allowed,
        n_threads=n_threads,
        longest_item=contents.longest_item,
    )


def _rank_popular(contents: ModelContents, query: Query) -> tuple[Rows, Factors]:
    """Give the most popular items that are left; a cost that does not grow with the number of all items."""
    if query.candidates is None:
        rows = contents.popular_rows[: query.k + query.hidden.size]
    else:
        order = np.argsort(-contents.popularity[query.candidates], kind="stable")
        rows = query.candidates[order]
    rows = rows[~np.isin(rows, query.hidden)][: query.k]
    return rows, contents.popularity[rows].astype(np.float32)


def _ranked(query: Query, items: Rows, scores: Factors, *, is_exact: bool = True) -> RankedRows:
    return RankedRows(
        items, scores, query.k, query.user_id, query.source, query.unknown_items, query.is_known_user, is_exact
    )


def _find_users(contents: ModelContents, requests: Sequence[RankingRequest]) -> list[int | None]:
    """Give the row of each request's user, -1 where there is none, looked up at once; None where one is no id."""
    named = [request.user_id for request in requests if request.user_id is not None]
    try:
        rows = iter(find_rows(contents.user_ids, named).tolist())
    except InputError:
        return [None] * len(requests)
    return [-1 if request.user_id is None else next(rows) for request in requests]


def _find_user(contents: ModelContents, user_id: Id | None) -> int:
    return -1 if user_id is None else int(find_rows(contents.user_ids, [user_id])[0])


def _canonical(dictionary: IdDictionary, known: Id | None) -> Id | None:
    """Give a known id as the dictionary holds it."""
    return known if known is None else int(known) if dictionary.kind == "int64" else str(known)


def _known_history(item_ids: IdDictionary, history: History) -> tuple[dict[int, float], list[Id]]:
    """Divide a history into weights by item row and ids that the dictionary does not hold."""
    if isinstance(history, Mapping):
        ids, values = list(history), [float(weight) for weight in history.values()]
    else:
        ids = several_ids("history", history)
        values = [1.0] * len(ids)
    weights: dict[int, float] = {}
    unknown: list[Id] = []
    for item, weight, row in zip(ids, values, find_rows(item_ids, ids), strict=True):
        if not (math.isfinite(weight) and weight > 0):
            raise InputError(f"history: item {item!r} has weight {weight}; expected a finite positive number")
        if row in weights:
            raise InputError(f"history: item {item!r} is given twice; send one weight for each item")
        if row < 0:
            unknown.append(item)
        else:
            weights[int(row)] = weight
    return weights, unknown


def _joined(contents: ModelContents, user_row: int, weights: dict[int, float]) -> InteractionRows:
    """Join a history with the training interactions of a user; the history's weights count."""
    if user_row >= 0:
        stored = zip(contents.seen.columns_of(user_row), contents.seen.weights_of(user_row), strict=True)
        weights = {int(column): float(weight) for column, weight in stored} | weights
    columns = np.array(sorted(weights), dtype=np.int32)
    return InteractionRows(
        np.array([0, columns.size], dtype=np.int64),
        columns,
        np.array([weights[int(column)] for column in columns], dtype=np.float32),
        contents.n_items,
    )


def _rows_of(name: str, item_ids: IdDictionary, ids: Iterable[Id], unknown: list[Id]) -> Rows:
    """Give the rows of items, ascending and unique; note those that the dictionary does not hold."""
    named = several_ids(name, ids)
    if not named:
        return _NO_ROWS
    rows: Offsets = find_rows(item_ids, named)
    unknown += [item for item, row in zip(named, rows, strict=True) if row < 0]
    return np.unique(rows[rows >= 0]).astype(np.int32)


def _raise_unknown_user(contents: ModelContents, user_id: Id | None) -> None:
    raise UnknownIdError(
        f"user {user_id!r} is not among the model's {contents.n_users} users; check the id, send a history for "
        "fold-in, or ask for the fallback 'popular'"
    )


def _raise_empty_history(unknown: list[Id]) -> None:
    if unknown:
        raise UnknownIdError(
            f"history: the model knows none of its {len(unknown)} items, the first is {unknown[0]!r}; "
            "send items of the training data, or ask for the fallback 'popular'"
        )
    raise InputError("history: expected at least one item, found none; or ask for the fallback 'popular'")
