"""Ranked lists: for one user in a GET, for anything in a POST."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from rgals.artifact.queries import RankingRequest
from rgals.artifact.recommend import Recommendations
from rgals.errors import RgalsError
from services.recommender.answers import count_list, describe_list, explain_list, respond_json, to_ranking_request
from services.recommender.problems import documented, problem_of
from services.recommender.routes.base import COMMON_PROBLEMS, JsonRoute
from services.recommender.schemas import (
    MAX_ID_LENGTH,
    BatchRequest,
    BatchResponse,
    RecommendationQuery,
    RecommendationRequest,
    RecommendationResponse,
)
from services.recommender.served import ServedModel
from services.recommender.state import State, Worker, deadline_of

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["recommendations"], route_class=JsonRoute)

_CHUNK = 256
"""Requests of a batch that are ranked at once, a tile of the product: single requests get their turn in between."""


@router.get(
    "/users/{user_id:path}/recommendations",
    response_model=RecommendationResponse,
    responses=COMMON_PROBLEMS | documented("unknown-id", "unsolvable"),
    summary="Recommend to a user",
)
async def recommend_user(
    request: Request,
    worker: Worker,
    user_id: Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH, examples=["42"])],
    options: Annotated[RecommendationQuery, Query()],
) -> Response:
    """Rank the items for a user by the trained factors; an unknown user gets the most popular items, labeled so."""
    served = worker.slot.take()
    deadline_s = deadline_of(request, worker.settings)
    wanted = RankingRequest(options.k, user_id, None, options.exclude_seen, (), None, options.fallback)
    found = await worker.engine.rank(served, wanted, deadline_s)
    if isinstance(found, RgalsError):
        raise found
    count_list(worker.metrics, found)
    explanations = None
    if options.explain:
        explanations = await worker.engine.run(lambda: explain_list(served.model, wanted, found), deadline_s)
    answer = describe_list(found, options.k, options.exclude_seen, explanations)
    return respond_json({**answer, "model_version": served.version}, served.version)


@router.post(
    "/recommendations",
    response_model=BatchResponse,
    response_model_exclude_unset=True,
    responses=COMMON_PROBLEMS | documented("too-large", "slow-request", "media-type"),
    summary="Recommend to users and histories",
)
async def recommend(request: Request, worker: Worker, batch: BatchRequest) -> Response:
    """Rank the items for one or many requests, all by one model.

    A request that cannot be answered has a problem in its place; the others are answered.
    """
    served = worker.slot.take()
    deadline_s = deadline_of(request, worker.settings)
    if len(batch.requests) == 1:
        answers = [await _answer_one(worker, served, batch.requests[0], deadline_s)]
    else:
        answers = []
        for start in range(0, len(batch.requests), _CHUNK):
            chunk = batch.requests[start : start + _CHUNK]
            answers += await worker.engine.run(_chunk_job(worker, served, chunk), deadline_s)
    return respond_json({"model_version": served.version, "answers": answers}, served.version)


async def _answer_one(
    worker: State, served: ServedModel, sent: RecommendationRequest, deadline_s: float
) -> dict[str, Any]:
    """Rank one request together with others that wait."""
    wanted = to_ranking_request(sent)
    found = await worker.engine.rank(served, wanted, deadline_s)
    if sent.explain and isinstance(found, Recommendations):
        return await worker.engine.run(lambda: _describe(worker, served, sent, wanted, found), deadline_s)
    return _describe(worker, served, sent, wanted, found)


def _chunk_job(worker: State, served: ServedModel, chunk: list[RecommendationRequest]) -> Any:
    def compute() -> list[dict[str, Any]]:
        wanted = [to_ranking_request(sent) for sent in chunk]
        # One product for all: an index would save nothing here.
        found = served.model.answer(wanted, n_threads=worker.engine.n_threads)
        return [_describe(worker, served, *each) for each in zip(chunk, wanted, found, strict=True)]

    return compute


def _describe(
    worker: State,
    served: ServedModel,
    sent: RecommendationRequest,
    wanted: RankingRequest,
    found: Recommendations | RgalsError,
) -> dict[str, Any]:
    if isinstance(found, RgalsError):
        return {"problem": problem_of(found)}
    count_list(worker.metrics, found)
    explanations = explain_list(served.model, wanted, found) if sent.explain else None
    return describe_list(found, sent.k, sent.exclude_seen, explanations)
