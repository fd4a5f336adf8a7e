"""For whoever watches the service: alive, ready, and numbers for Prometheus."""

from fastapi import APIRouter, Response

from services.recommender.answers import respond_json
from services.recommender.problems import documented
from services.recommender.schemas import Health
from services.recommender.state import Worker

__all__ = ["router"]

router = APIRouter(tags=["operation"])


@router.get("/livez", response_model=Health, summary="Is the process alive?")
async def livez() -> Response:
    """Answer at once, also while a model is being loaded."""
    return respond_json({"status": "alive", "problem": None}, None)


@router.get("/readyz", response_model=Health, responses=documented("not-ready"), summary="Can it answer requests?")
async def readyz(worker: Worker) -> Response:
    """Tell whether a model is loaded; and why a newer one is not served."""
    served = worker.slot.take()
    return respond_json({"status": "ready", "problem": worker.slot.problem}, served.version)


@router.get(
    "/metrics",
    response_class=Response,
    responses=documented("unauthorized", "key-in-query") | {200: {"content": {"text/plain": {}}}},
    summary="Numbers for Prometheus",
)
async def metrics(worker: Worker) -> Response:
    """Give the counts of all workers."""
    content, kind = worker.metrics.render()
    return Response(content, media_type=kind)
