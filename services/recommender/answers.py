"""From the library's answers to those of the service: plain values, ids as text."""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from fastapi import Response

from rgals.artifact.contents import Id
from rgals.artifact.explain import Explanation, explain_query
from rgals.artifact.model import Model
from rgals.artifact.queries import RankingRequest, prepare_query
from rgals.artifact.recommend import Recommendations
from services.recommender.metrics import Metrics
from services.recommender.schemas import HistoryEntry, RecommendationRequest

__all__ = ["VERSION_HEADER", "count_list", "describe_list", "explain_list", "respond_json", "to_ranking_request"]

VERSION_HEADER = "x-model-version"

_N_LISTED = 10
"""Contributions that are shown of each explained item."""


def respond_json(content: Any, version: str | None, headers: Mapping[str, str] | None = None) -> Response:
    """Make an answer; the version of its model is in a header too."""
    named = {} if version is None else {VERSION_HEADER: version}
    return Response(orjson.dumps(content), 200, {**named, **(headers or {})}, "application/json")


def to_ranking_request(sent: RecommendationRequest) -> RankingRequest:
    """Translate a request; a user whom the model does not know may come with a history."""
    history: dict[Id, float] | list[Id] | None = None
    if sent.history is not None:
        history = _to_history(sent.history)
    return RankingRequest(
        k=sent.k,
        user_id=sent.user_id,
        history=history,
        exclude_seen=sent.exclude_seen,
        exclude=sent.exclude,
        candidates=sent.candidates,
        fallback=sent.fallback,
        is_new_user_allowed=True,
    )


def _to_history(entries: Iterable[Id | HistoryEntry]) -> "dict[Id, float] | list[Id]":
    """Give weights by item; where an item is there twice, a list, which the library refuses by name."""
    listed = list(entries)
    pairs = [(e.item_id, e.weight) if isinstance(e, HistoryEntry) else (e, 1.0) for e in listed]
    weights = dict(pairs)
    return weights if len(weights) == len(pairs) else [item for item, _ in pairs]


def describe_list(
    found: Recommendations, k: int, exclude_seen: bool, explanations: list[Explanation] | None = None
) -> dict[str, Any]:
    """Describe a ranked list."""
    items: list[dict[str, Any]] = [
        {"item_id": str(item), "score": score} for item, score in zip(found.items, found.scores, strict=True)
    ]
    for item, explanation in zip(items, explanations or (), strict=False):
        item["explanation"] = _describe_explanation(explanation)
    return {
        "user_id": None if found.user_id is None else str(found.user_id),
        "known_user": found.is_known_user,
        "items": items,
        "k": k,
        "exhausted": found.exhausted,
        "source": found.source,
        "exact": found.is_exact,
        "exclude_seen": exclude_seen,
        "unknown_items": [str(item) for item in found.unknown_items],
    }


def explain_list(model: Model, request: RankingRequest, found: Recommendations) -> list[Explanation]:
    """Divide the scores of a list; nothing for a list by popularity."""
    if found.source == "popular":
        return []
    contents = model.contents
    rows = [contents.item_ids.row_of(item) for item in found.items]
    return explain_query(contents, prepare_query(contents, request), rows, _N_LISTED, found.scores)


def count_list(metrics: Metrics, found: Recommendations) -> None:
    """Count a list by what ranked it, and what was not known."""
    metrics.lists.labels(found.source).inc()
    if found.is_known_user is False:
        metrics.unknown_users.inc()
    if found.unknown_items:
        metrics.unknown_items.inc(len(found.unknown_items))


def _describe_explanation(explanation: Explanation) -> dict[str, Any]:
    return {
        "contributions": [{"item_id": str(share.item_id), "score": share.score} for share in explanation.contributions],
        "n_others": explanation.n_others,
        "others": explanation.others,
        "background": explanation.background,
        "remainder": explanation.remainder,
    }
