"""Ranked lists for known users, for new users by fold-in, and by popularity; ``docs/top-k-contract.md``."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import numpy as np

from rgals.artifact.arguments import check_k, find_rows, ids_of_rows, several_ids
from rgals.artifact.contents import Id, ModelContents, RankingContents, gather_rows
from rgals.data.ids import IdDictionary
from rgals.errors import InputError, UnknownIdError
from rgals.names import BoolArray, Factors, Offsets
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.topk import TopK, top_k

__all__ = [
    "Fallback",
    "History",
    "ItemFilter",
    "Recommendations",
    "Source",
    "rank_users",
    "recommend_history",
    "recommend_users",
]

Source: TypeAlias = Literal["factors", "fold_in", "popular"]
"""What a list was ranked by: the user's trained factors, factors solved just now, item popularity."""

Fallback: TypeAlias = Literal["none", "popular"]
"""What an unknown user gets: an error, or the most popular items, labeled as such."""

History: TypeAlias = Mapping[Id, float] | Iterable[Id]
"""Item ids with their weights, or item ids alone, each of weight 1."""


@dataclass(frozen=True, slots=True)
class Recommendations:
    """A ranked list.

    Parameters
    ----------
    user_id : str, int or None
        Whose list; None for a history that was not joined with a known user's.
    items : list of str or int
        At most ``k`` item ids: unique, none of them excluded, the best first, equals by id.
    scores : list of float
        Their scores, not rising. Scores order the items of one list; their size means the predicted
        score under ``factors`` and ``fold_in`` and the number of training interactions under ``popular``.
    exhausted : bool
        Whether fewer items than asked for were left after the exclusions.
    source : {"factors", "fold_in", "popular"}
        What ranked the items.
    unknown_items : list of str or int
        Ids from ``exclude``, ``candidates`` or the history that the model does not hold; they had no effect.
    """

    user_id: Id | None
    items: list[Id]
    scores: list[float]
    exhausted: bool
    source: Source
    unknown_items: list[Id] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """Which items a list may hold.

    Parameters
    ----------
    exclude_seen : bool
        Whether the user's own interactions are left out.
    is_allowed : bool array of shape (n_items,) or None
        Which items may be recommended to anyone; None allows all.
    unknown_items : tuple of str or int
        Ids that were named and that the model does not hold.
    """

    exclude_seen: bool = True
    is_allowed: BoolArray | None = None
    unknown_items: tuple[Id, ...] = ()

    @classmethod
    def build(
        cls, item_ids: IdDictionary, exclude_seen: bool, exclude: Iterable[Id], candidates: Iterable[Id] | None
    ) -> "ItemFilter":
        """Translate excluded and candidate ids; a list may hold candidates that are not excluded."""
        excluded = several_ids("exclude", exclude)
        chosen = None if candidates is None else several_ids("candidates", candidates)
        if not excluded and chosen is None:
            return cls(exclude_seen)
        is_allowed = np.full(len(item_ids), chosen is None)
        unknown: list[Id] = []
        for named, value in ((chosen or [], True), (excluded, False)):
            rows = find_rows(item_ids, named)
            is_allowed[rows[rows >= 0]] = value
            unknown += [item for item, row in zip(named, rows, strict=True) if row < 0]
        return cls(exclude_seen, is_allowed, tuple(dict.fromkeys(unknown)))


def rank_users(
    contents: RankingContents,
    user_factors: Factors,
    seen: InteractionRows,
    k: int,
    item_filter: ItemFilter,
    n_threads: int | None,
) -> tuple[TopK, BoolArray]:
    """Rank the items for a block of known users.

    Parameters
    ----------
    contents : RankingContents
        The model's items.
    user_factors : float32 array of shape (n_rows, n_factors)
        The block's factors.
    seen : InteractionRows
        The block's training interactions.
    k : int
        Length of the lists.
    item_filter : ItemFilter
        Which items a list may hold.
    n_threads : int or None
        Number of threads; None uses every processor.

    Returns
    -------
    tuple of TopK and bool array of shape (n_rows,)
        The lists; and which of them are by popularity, because the user has no training interactions
        and so no factors to rank by.
    """
    is_popular = seen.degrees == 0
    lists = top_k(
        user_factors,
        contents.item_factors,
        k,
        seen=seen if item_filter.exclude_seen else None,
        is_allowed=item_filter.is_allowed,
        n_threads=n_threads,
    )
    if is_popular.any():
        popular = _rank_popular(contents, k, item_filter)
        lists = TopK(
            np.where(is_popular[:, None], popular.items, lists.items),
            np.where(is_popular[:, None], popular.scores, lists.scores),
        )
    return lists, is_popular


def recommend_users(
    contents: ModelContents,
    user_ids: Sequence[Id],
    k: int,
    item_filter: ItemFilter,
    fallback: Fallback,
    n_threads: int | None,
) -> list[Recommendations]:
    """Rank the items for users by id; see `Model.recommend`."""
    check_k(k, contents.n_items, "items")
    _check_fallback(fallback)
    wanted = several_ids("user_ids", user_ids)
    rows = find_rows(contents.user_ids, wanted)
    if fallback == "none" and (rows < 0).any():
        _raise_unknown_user(contents, wanted, rows)
    known = rows[rows >= 0]
    known_ids = iter(ids_of_rows(contents.user_ids, known))
    lists, is_popular = rank_users(
        contents, contents.user_factors[known], gather_rows(contents.seen, known), k, item_filter, n_threads
    )
    answers: list[Recommendations] = []
    position = 0
    for user_id, row in zip(wanted, rows, strict=True):
        if row < 0:
            answers.append(
                _answer(contents, user_id, _rank_popular(contents, k, item_filter), 0, "popular", item_filter)
            )
            continue
        source: Source = "popular" if is_popular[position] else "factors"
        answers.append(_answer(contents, next(known_ids), lists, position, source, item_filter))
        position += 1
    return answers


def recommend_history(
    contents: ModelContents,
    history: History,
    k: int,
    item_filter: ItemFilter,
    fallback: Fallback,
    user_id: Id | None,
) -> Recommendations:
    """Rank the items for a history by fold-in; see `Model.recommend_history`."""
    check_k(k, contents.n_items, "items")
    _check_fallback(fallback)
    weights, unknown = _known_history(contents.item_ids, history)
    known_id: Id | None = None
    if user_id is not None:
        user_row = contents.user_ids.row_of(user_id)
        known_id = ids_of_rows(contents.user_ids, np.array([user_row]))[0]
        stored = zip(contents.seen.columns_of(user_row), contents.seen.weights_of(user_row), strict=True)
        weights = {int(column): float(weight) for column, weight in stored} | weights
    asked = ItemFilter(
        item_filter.exclude_seen, item_filter.is_allowed, tuple(dict.fromkeys((*unknown, *item_filter.unknown_items)))
    )
    if not weights:
        if fallback == "popular":
            return _answer(contents, known_id, _rank_popular(contents, k, asked), 0, "popular", asked)
        if unknown:
            raise UnknownIdError(
                f"history: the model knows none of its {len(unknown)} items, the first is {unknown[0]!r}; "
                "send items of the training data, or ask for the fallback 'popular'"
            )
        raise InputError("history: expected at least one item, found none; or ask for the fallback 'popular'")
    columns = np.array(sorted(weights), dtype=np.int32)
    rows = InteractionRows(
        np.array([0, columns.size], dtype=np.int64),
        columns,
        np.array([weights[int(column)] for column in columns], dtype=np.float32),
        contents.n_items,
    )
    lists = top_k(
        contents.user_system.solve(rows, 1),
        contents.item_factors,
        k,
        seen=rows if asked.exclude_seen else None,
        is_allowed=asked.is_allowed,
    )
    return _answer(contents, known_id, lists, 0, "fold_in", asked)


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


def _rank_popular(contents: RankingContents, k: int, item_filter: ItemFilter) -> TopK:
    """Give one list of the most popular allowed items, in the form of `top_k`."""
    rows = contents.popular_rows
    if item_filter.is_allowed is not None:
        rows = rows[item_filter.is_allowed[rows]]
    rows = rows[:k]
    items = np.full((1, k), -1, dtype=np.int32)
    scores = np.full((1, k), -np.inf, dtype=np.float32)
    items[0, : rows.size] = rows
    scores[0, : rows.size] = contents.popularity[rows]
    return TopK(items, scores)


def _answer(
    contents: ModelContents, user_id: Id | None, lists: TopK, position: int, source: Source, item_filter: ItemFilter
) -> Recommendations:
    """Translate one ranked list into ids."""
    n_ranked = int(np.count_nonzero(lists.items[position] >= 0))
    items = lists.items[position, :n_ranked].astype(np.int64)
    return Recommendations(
        user_id,
        ids_of_rows(contents.item_ids, items),
        [float(score) for score in lists.scores[position, :n_ranked]],
        n_ranked < lists.items.shape[1],
        source,
        list(item_filter.unknown_items),
    )


def _raise_unknown_user(contents: ModelContents, wanted: Sequence[Id], rows: Offsets) -> None:
    unknown = [user_id for user_id, row in zip(wanted, rows, strict=True) if row < 0]
    raise UnknownIdError(
        f"user {unknown[0]!r} and {len(unknown) - 1} more of {len(wanted)} are not among the {contents.n_users} users "
        f"of {contents.folder}; check the id, send a history for fold-in, or ask for the fallback 'popular'"
    )


def _check_fallback(fallback: str) -> None:
    if fallback not in get_args(Fallback):
        raise InputError(f"fallback: expected 'none' or 'popular', found {fallback!r}")
