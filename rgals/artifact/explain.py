"""Why an item stands where it stands: its score as a sum over the user's interactions and the background."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rgals.artifact.arguments import ids_of_rows
from rgals.artifact.contents import Id, ModelContents
from rgals.artifact.queries import Query, RankingRequest, prepare_query
from rgals.errors import InputError
from rgals.numerics.explain import ExplainedUser, explain_user

__all__ = ["Contribution", "Explanation", "explain_query", "explain_request"]


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one interaction adds to a score.

    Parameters
    ----------
    item_id : str or int
        The item that the user interacted with.
    score : float
        Its contribution; negative where it speaks against the explained item.
    """

    item_id: Id
    score: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """A score, divided: the contributions, ``others``, ``background`` and ``remainder`` add up to it.

    Parameters
    ----------
    item_id : str or int
        The explained item.
    score : float
        The user's score of it, as in the ranked list.
    contributions : list of Contribution
        Those of the interactions that add most, the largest first, equals by item.
    n_others, others : int and float
        Number of the interactions that are not listed, and what they add together.
    background : float
        What the items add that the user did not interact with; 0 for ``ials``.
    remainder : float
        The score less all that: under ``factors`` what the item half-step after the user's last one moved, since
        the division is that of the user's half-step; under ``fold_in`` the rounding of 32-bit factors.
    """

    item_id: Id
    score: float
    contributions: list[Contribution]
    n_others: int
    others: float
    background: float
    remainder: float


def explain_request(
    contents: ModelContents, request: RankingRequest, items: Sequence[Id], n_listed: int
) -> list[Explanation]:
    """Divide the scores of items; see `Model.explain`."""
    query = prepare_query(contents, request)
    rows = [contents.item_ids.row_of(item) for item in items]
    if query.factors is None:
        raise InputError(
            "explain: only popularity ranks for this user, and it needs no explanation; explain a user with "
            "interactions, or send a history"
        )
    return explain_query(contents, query, rows, n_listed)


def explain_query(
    contents: ModelContents, query: Query, rows: Sequence[int], n_listed: int, scores: Sequence[float] | None = None
) -> list[Explanation]:
    """Divide the scores of items for a prepared query.

    Parameters
    ----------
    contents : ModelContents
        The model.
    query : Query
        Whose scores.
    rows : sequence of int
        Item rows.
    n_listed : int
        How many of the largest contributions are listed for each.
    scores : sequence of float or None
        The items' scores in a ranked list, which rounds them to 32 bits; None computes them in 64 bits.

    Returns
    -------
    list of Explanation
        One for each item; none at all where only popularity ranks.

    Raises
    ------
    InputError
        If ``n_listed`` is negative.
    """
    if n_listed < 0:
        raise InputError(f"n_listed: expected at least 0, found {n_listed}")
    if query.factors is None:
        return []
    user = explain_user(
        query.interactions,
        contents.item_factors,
        contents.loss,
        contents.fold_in_arrays,
        contents.popularity,
        contents.weight_scale,
    )
    factors = query.factors.astype(np.float64)
    if scores is None:
        scores = [float(factors @ contents.item_factors[row].astype(np.float64)) for row in rows]
    return [_explain(contents, user, row, score, n_listed) for row, score in zip(rows, scores, strict=True)]


def _explain(contents: ModelContents, user: ExplainedUser, row: int, score: float, n_listed: int) -> Explanation:
    vector = contents.item_factors[row]
    shares = user.contributions(vector)
    order = np.argsort(-shares, kind="stable")
    listed = order[:n_listed]
    ids = ids_of_rows(contents.item_ids, user.items[listed].astype(np.int64))
    contributions = [Contribution(item, float(share)) for item, share in zip(ids, shares[listed], strict=True)]
    others = math.fsum(shares[order[n_listed:]])
    background = user.background_score(vector)
    parts = [*(found.score for found in contributions), others, background]
    return Explanation(
        ids_of_rows(contents.item_ids, np.array([row]))[0],
        score,
        contributions,
        int(order.size - listed.size),
        others,
        background,
        score - math.fsum(parts),
    )
