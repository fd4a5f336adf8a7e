"""Ranked lists of many known users under one filter, by factors or by popularity; ``docs/top-k-contract.md``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from rgals.artifact.arguments import check_k, find_rows, ids_of_rows, several_ids
from rgals.artifact.contents import Id, ModelContents, RankingContents, gather_rows
from rgals.data.ids import IdDictionary
from rgals.errors import InputError, UnknownIdError
from rgals.names import BoolArray, Factors, Offsets, Rows
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.topk import TopK, top_k

__all__ = [
    "Fallback",
    "History",
    "ItemFilter",
    "RankedRows",
    "Recommendations",
    "Source",
    "check_fallback",
    "rank_users",
    "recommend_users",
    "to_recommendations",
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
    is_known_user : bool or None
        Whether the model holds ``user_id``; None where no user was named.
    is_exact : bool
        Whether all items were looked at; else an index found them, and may have missed one.
    """

    user_id: Id | None
    items: list[Id]
    scores: list[float]
    exhausted: bool
    source: Source
    unknown_items: list[Id] = field(default_factory=list)
    is_known_user: bool | None = None
    is_exact: bool = True


class RankedRows(NamedTuple):
    """A ranked list in rows.

    Parameters
    ----------
    items : int32 array
        Item rows, the best first; from the first -1 on there is nothing.
    scores : float32 array
        Their scores.
    k : int
        Length that was asked for; what the list has beyond it is cut.
    user_id, source, unknown_items, is_known_user, is_exact
        As in `Recommendations`.
    """

    items: Rows
    scores: Factors
    k: int
    user_id: Id | None
    source: Source
    unknown_items: Sequence[Id]
    is_known_user: bool | None
    is_exact: bool = True


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
        longest_item=contents.longest_item,
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
    check_fallback(fallback)
    wanted = several_ids("user_ids", user_ids)
    rows = find_rows(contents.user_ids, wanted)
    if fallback == "none" and (rows < 0).any():
        _raise_unknown_user(contents, wanted, rows)
    known = rows[rows >= 0]
    known_ids = iter(ids_of_rows(contents.user_ids, known))
    lists, is_popular = rank_users(
        contents, contents.user_factors[known], gather_rows(contents.seen, known), k, item_filter, n_threads
    )
    ranked: list[RankedRows] = []
    position = 0
    unknown = item_filter.unknown_items
    for user_id, row in zip(wanted, rows, strict=True):
        if row < 0:
            popular = _rank_popular(contents, k, item_filter)
            ranked.append(RankedRows(popular.items[0], popular.scores[0], k, user_id, "popular", unknown, False))
            continue
        source: Source = "popular" if is_popular[position] else "factors"
        items, scores = lists.items[position], lists.scores[position]
        ranked.append(RankedRows(items, scores, k, next(known_ids), source, unknown, True))
        position += 1
    return to_recommendations(contents, ranked)


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


def to_recommendations(contents: ModelContents, ranked: Sequence[RankedRows]) -> list[Recommendations]:
    """Translate ranked lists into ids, all at once.

    Parameters
    ----------
    contents : ModelContents
        The model.
    ranked : sequence of RankedRows
        The lists.
    """
    counts = [min(int(np.count_nonzero(found.items >= 0)), found.k) for found in ranked]
    pieces = [found.items[:count] for found, count in zip(ranked, counts, strict=True)]
    ids = ids_of_rows(contents.item_ids, np.concatenate([np.empty(0, dtype=np.int64), *pieces]))
    answers: list[Recommendations] = []
    start = 0
    for found, count in zip(ranked, counts, strict=True):
        answers.append(
            Recommendations(
                found.user_id,
                ids[start : start + count],
                found.scores[:count].tolist(),
                count < found.k,
                found.source,
                list(found.unknown_items),
                found.is_known_user,
                found.is_exact,
            )
        )
        start += count
    return answers


def _raise_unknown_user(contents: ModelContents, wanted: Sequence[Id], rows: Offsets) -> None:
    unknown = [user_id for user_id, row in zip(wanted, rows, strict=True) if row < 0]
    raise UnknownIdError(
        f"user {unknown[0]!r} and {len(unknown) - 1} more of {len(wanted)} are not among the {contents.n_users} users "
        f"of {contents.folder}; check the id, send a history for fold-in, or ask for the fallback 'popular'"
    )


def check_fallback(fallback: str) -> None:
    """Refuse an unknown fallback.

    Raises
    ------
    InputError
        If it is neither ``"none"`` nor ``"popular"``.
    """
    if fallback not in get_args(Fallback):
        raise InputError(f"fallback: expected 'none' or 'popular', found {fallback!r}")
