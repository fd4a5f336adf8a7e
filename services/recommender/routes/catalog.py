"""What a model holds: users and items by id, what they are alike to, what users interacted with."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from rgals.artifact.similar import Neighbors
from rgals.data.ids import IdDictionary
from rgals.names import Side
from services.recommender.answers import respond_json
from services.recommender.problems import documented
from services.recommender.routes.base import COMMON_PROBLEMS, JsonRoute
from services.recommender.schemas import (
    MAX_ID_LENGTH,
    HistoryQuery,
    HistoryResponse,
    IdList,
    IdQuery,
    NeighborQuery,
    NeighborResponse,
)
from services.recommender.served import ServedModel
from services.recommender.state import State, Worker, deadline_of

__all__ = ["router"]

router = APIRouter(prefix="/v1", route_class=JsonRoute)

_PathId = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH, examples=["42"])]
_PROBLEMS = COMMON_PROBLEMS | documented("unknown-id")


@router.get(
    "/items/{item_id:path}/similar", response_model=NeighborResponse, responses=_PROBLEMS, tags=["items"],
    summary="Items like an item",
)  # fmt: skip
async def similar_items(
    request: Request, worker: Worker, item_id: _PathId, options: Annotated[NeighborQuery, Query()]
) -> Response:
    """Find the items whose factors point the same way, by cosine."""
    return await _neighbors(request, worker, "item", item_id, options.k)


@router.get(
    "/users/{user_id:path}/similar", response_model=NeighborResponse, responses=_PROBLEMS, tags=["users"],
    summary="Users like a user",
)  # fmt: skip
async def similar_users(
    request: Request, worker: Worker, user_id: _PathId, options: Annotated[NeighborQuery, Query()]
) -> Response:
    """Find the users whose factors point the same way, by cosine."""
    return await _neighbors(request, worker, "user", user_id, options.k)


@router.get(
    "/users/{user_id:path}/history", response_model=HistoryResponse, responses=_PROBLEMS, tags=["users"],
    summary="A user's training interactions",
)  # fmt: skip
async def history(
    request: Request, worker: Worker, user_id: _PathId, options: Annotated[HistoryQuery, Query()]
) -> Response:
    """Show what the model was trained with of a user."""
    served = worker.slot.take()

    def compute() -> dict[str, Any]:
        found = served.model.history(user_id)
        return {
            "user_id": user_id,
            "items": [{"item_id": str(item), "weight": weight} for item, weight in found[: options.limit]],
            "n_items": len(found),
            "model_version": served.version,
        }

    answer = await worker.engine.run(compute, deadline_of(request, worker.settings))
    return respond_json(answer, served.version)


@router.get("/items", response_model=IdList, responses=COMMON_PROBLEMS, tags=["items"], summary="Items by id")
async def list_items(request: Request, worker: Worker, options: Annotated[IdQuery, Query()]) -> Response:
    """List the ids of items that begin with a prefix, in their order."""
    served = worker.slot.take()
    return await _ids(request, worker, served, served.model.item_ids, options)


@router.get("/users", response_model=IdList, responses=COMMON_PROBLEMS, tags=["users"], summary="Users by id")
async def list_users(request: Request, worker: Worker, options: Annotated[IdQuery, Query()]) -> Response:
    """List the ids of users that begin with a prefix, in their order."""
    served = worker.slot.take()
    return await _ids(request, worker, served, served.model.user_ids, options)


async def _ids(
    request: Request, worker: State, served: ServedModel, dictionary: IdDictionary, options: IdQuery
) -> Response:
    def compute() -> dict[str, Any]:
        rows = dictionary.rows_with_prefix(options.prefix, options.limit, options.offset)
        return {
            "ids": [str(found) for found in dictionary.ids_of(rows)],
            "n_total": len(dictionary),
            "model_version": served.version,
        }

    answer = await worker.engine.run(compute, deadline_of(request, worker.settings))
    return respond_json(answer, served.version)


async def _neighbors(request: Request, worker: State, side: Side, row_id: str, k: int) -> Response:
    served = worker.slot.take()
    model = served.model

    def compute() -> Neighbors:
        if side == "item":
            return model.similar_items(row_id, min(k, model.n_items), n_threads=1)
        return model.similar_users(row_id, min(k, model.n_users), n_threads=1)

    found = await worker.engine.run(compute, deadline_of(request, worker.settings))
    answer = {
        "id": str(found.id),
        "neighbors": [
            {"id": str(near), "score": score} for near, score in zip(found.neighbors, found.scores, strict=True)
        ],
        "exhausted": len(found.neighbors) < k,
        "model_version": served.version,
    }
    return respond_json(answer, served.version)
