"""The model that is served, and operating it: with a key of scope admin."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Response

from rgals.artifact.registry import list_versions
from services.recommender.answers import respond_json
from services.recommender.problems import ServiceError, documented
from services.recommender.routes.base import READ_PROBLEMS, JsonRoute
from services.recommender.schemas import ModelInfo, ReloadResponse, VersionList
from services.recommender.slot import read_worker_states
from services.recommender.state import Worker

__all__ = ["router"]

router = APIRouter(prefix="/v1", route_class=JsonRoute)

_RELOAD_WAIT_S = 60.0


@router.get("/model", response_model=ModelInfo, responses=READ_PROBLEMS, tags=["model"], summary="The served model")
async def model(worker: Worker) -> Response:
    """Show version, size, how it was trained, from what, and how it was judged."""
    served = worker.slot.take()
    found, event = served.model, served.publication
    judgement = None if event is None or event.judgement is None else event.judgement.model_dump(mode="json")
    answer = {
        "model_version": served.version,
        "loss": found.loss.name,
        "n_users": found.n_users,
        "n_items": found.n_items,
        "n_factors": found.n_factors,
        "n_interactions": found.seen.n_interactions,
        "factor_sha256": found.factor_checksum,
        "since": None if served.since is None else served.since.isoformat(timespec="milliseconds"),
        "loaded_at": served.loaded_at.isoformat(timespec="milliseconds"),
        "config": found.config,
        "lineage": found.lineage,
        "metrics": found.metrics,
        "judgement": judgement,
        "problem": worker.slot.problem,
        "as_of": _now(),
    }
    return respond_json(answer, served.version)


@router.post(
    "/admin/reload",
    response_model=ReloadResponse,
    responses=documented("bad-request", "key-in-query", "unauthorized", "forbidden"),
    tags=["operation"],
    summary="Look at the registry now",
)
async def reload(worker: Worker) -> Response:
    """Let all workers look for another version at once, also at one that was refused before; answer for this one."""
    waiting = asyncio.wrap_future(worker.slot.reload())
    try:
        found = await asyncio.wait_for(asyncio.shield(waiting), _RELOAD_WAIT_S)
    except TimeoutError:
        served = worker.slot.peek()
        return respond_json(
            {"outcome": "pending", "model_version": None if served is None else served.version, "detail": None}, None
        )
    return respond_json(
        {"outcome": found.outcome, "model_version": found.version, "detail": found.detail}, found.version
    )


@router.get(
    "/admin/versions",
    response_model=VersionList,
    responses=documented("bad-request", "key-in-query", "unauthorized", "forbidden", "no-registry"),
    tags=["operation"],
    summary="Versions and workers",
)
async def versions(worker: Worker) -> Response:
    """List the versions of the registry, and what each worker serves."""
    registry = worker.settings.registry
    if registry is None:
        raise ServiceError("no-registry", "a model folder is served, which has no versions; serve a registry")
    held = await asyncio.to_thread(list_versions, registry)
    described: list[dict[str, Any]] = []
    for version in held:
        judgement = version.event.judgement
        described.append(
            {
                "version": version.name,
                "is_current": version.is_current,
                "published_at": version.event.at,
                "metric": None if judgement is None else judgement.metric,
                "value": None if judgement is None else judgement.candidate.mean,
            }
        )
    return respond_json({"versions": described, "workers": read_worker_states(worker.state_dir), "as_of": _now()}, None)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
