"""How well the served model ranks: the evaluation job's numbers, and its page."""

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Response

from rgals.artifact.registry_records import Estimate as GateEstimate
from rgals.artifact.registry_records import Judgement
from rgals.artifact.registry_reports import AttachedReport, read_attached, read_attached_page
from rgals.evaluation.report import Difference, Measurement, ModelSection, Report
from services.recommender.answers import VERSION_HEADER, respond_json
from services.recommender.problems import ServiceError, documented
from services.recommender.routes.base import COMMON_PROBLEMS, JsonRoute
from services.recommender.schemas import NdcgReport
from services.recommender.served import ServedModel
from services.recommender.state import State, Worker, deadline_in

__all__ = ["router"]

router = APIRouter(prefix="/v1/reports", tags=["reports"], route_class=JsonRoute)

_PROBLEMS = COMMON_PROBLEMS | documented("no-report")
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
_READ_S = 30.0
"""A registry on an object store takes its time."""


@router.get("/ndcg", response_model=NdcgReport, responses=_PROBLEMS, summary="NDCG against softmax")
async def ndcg(worker: Worker) -> Response:
    """Show the NDCG of the served model and of the best softmax baseline, from the evaluation job's report.

    Where none was attached when the model was published, what the gate measured; it knows no softmax.
    """
    served = worker.slot.take()
    answer = await worker.engine.run(lambda: _describe(worker, served), deadline_in(_READ_S))
    return respond_json(answer, served.version)


@router.get(
    "/latest",
    response_class=Response,
    responses=_PROBLEMS | {200: {"content": {"text/html": {}}}},
    summary="The report as a page",
)
async def latest(worker: Worker) -> Response:
    """Show the evaluation job's report of the served model as a page to read."""
    served = worker.slot.take()
    registry, manifest = worker.settings.registry, _manifest_of(served)
    page = None
    if registry is not None and manifest is not None:
        page = await worker.engine.run(lambda: read_attached_page(registry, manifest), deadline_in(_READ_S))
    if page is None:
        raise ServiceError(
            "no-report", "no page was attached to the served model; publish with --report, after rgals evaluate --page"
        )
    headers = {VERSION_HEADER: served.version, "content-security-policy": _PAGE_POLICY}
    return Response(page, headers=headers, media_type="text/html")


def _describe(worker: State, served: ServedModel) -> dict[str, Any]:
    registry, manifest = worker.settings.registry, _manifest_of(served)
    attached: AttachedReport | None = None
    if registry is not None and manifest is not None:
        attached = read_attached(registry, manifest, served.model.factor_checksum)
    if attached is not None:
        numbers = _from_report(attached)
    elif served.publication is not None and served.publication.judgement is not None:
        numbers = _from_judgement(served.publication.judgement, served.publication.at)
    else:
        raise ServiceError("no-report", "the served model was not evaluated; publish it to a registry")
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"model_version": served.version, **numbers, "as_of": now}


def _from_report(attached: AttachedReport) -> dict[str, Any]:
    report, model = attached.report, attached.section
    metric = report.metric
    softmaxes = [section for section in report.models if section.family == "softmax"]
    softmax = max(softmaxes, key=lambda section: section.metrics[metric].mean or 0.0, default=None)
    popularity = next((section for section in report.models if section.name == "popularity"), None)
    difference, p_value = _difference(report, model, softmax)
    return {
        "metric": metric,
        "part": report.protocol.part,
        "n_users": report.protocol.n_users_evaluated,
        "model": _estimate(model.metrics[metric]),
        "softmax": None if softmax is None else _estimate(softmax.metrics[metric]),
        "difference": difference,
        "p_value": p_value,
        "popularity": None if popularity is None else _estimate(popularity.metrics[metric]),
        "model_train_s": model.train_s,
        "softmax_train_s": None if softmax is None else softmax.train_s,
        "softmax_notes": [] if softmax is None else softmax.notes,
        "origin": "report",
        "created_at": report.created_at,
        "has_page": attached.has_page,
    }


def _difference(
    report: Report, model: ModelSection, softmax: ModelSection | None
) -> tuple[dict[str, float | None] | None, float | None]:
    """Find the paired difference of two models; None where the report compares others."""
    for found in report.comparisons if softmax is not None else ():
        if softmax is not None and (found.model, found.other) == (model.name, softmax.name):
            difference = found.metrics[report.metric]
            return _estimate(difference), difference.p_holm
    return None, None


def _from_judgement(judgement: Judgement, at: str) -> dict[str, Any]:
    return {
        "metric": judgement.metric,
        "part": judgement.part,
        "n_users": judgement.n_users,
        "model": _estimate(judgement.candidate),
        "softmax": None,
        "difference": None,
        "p_value": None,
        "popularity": _estimate(judgement.popularity),
        "model_train_s": None,
        "softmax_train_s": None,
        "softmax_notes": [],
        "origin": "judgement",
        "created_at": at,
        "has_page": False,
    }


def _estimate(found: Measurement | Difference | GateEstimate) -> dict[str, float | None]:
    return {"mean": found.mean, "ci_low": found.ci_low, "ci_high": found.ci_high}


def _manifest_of(served: ServedModel) -> str | None:
    event = served.publication
    return None if event is None or event.model is None else event.model.manifest_sha256
