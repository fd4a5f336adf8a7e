"""Errors as problem details, RFC 9457: one form for every answer that is not what was asked for."""

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from rgals.errors import DataError, InputError, NumericalError, RgalsError, UnknownIdError

__all__ = ["MEDIA_TYPE", "Problem", "ServiceError", "add_handlers", "documented", "problem_of", "respond"]

MEDIA_TYPE = "application/problem+json"

_MAX_LISTED = 20

logger = logging.getLogger("rgals.service")
_TITLES = {
    "bad-request": (400, "The request cannot be understood"),
    "key-in-query": (400, "Keys do not belong into a URL"),
    "unauthorized": (401, "A valid API key is needed"),
    "forbidden": (403, "The API key may not do this"),
    "unknown-id": (404, "There is no such user or item"),
    "unknown-path": (404, "There is nothing at this path"),
    "no-registry": (404, "The service does not serve a registry"),
    "no-report": (404, "There is no report for the served model"),
    "method-not-allowed": (405, "The path has no such method"),
    "slow-request": (408, "The request took too long to arrive"),
    "too-large": (413, "The request body is too large"),
    "media-type": (415, "The request body is not JSON"),
    "invalid": (422, "The request does not hold what is expected"),
    "unsolvable": (422, "The history has no finite solution"),
    "internal": (500, "The service failed; it was logged"),
    "unavailable": (503, "What is needed to answer cannot be read now"),
    "overloaded": (503, "Too many requests wait already"),
    "not-ready": (503, "No model is loaded yet"),
    "deadline": (504, "The request waited longer than it may"),
}


class Problem(BaseModel):
    """What went wrong, in the form of RFC 9457."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(
        examples=["urn:rgals:unknown-id"], description="A name for the kind of problem; it does not change."
    )
    title: str = Field(description="The kind of problem in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What was expected, what was found, and the way out.")
    errors: list[dict[str, str]] | None = Field(
        default=None, description="Each field that is not as expected: where it is, and what is wrong with it."
    )


class ServiceError(Exception):
    """An answer that is a problem.

    Parameters
    ----------
    kind : str
        The kind of problem, such as ``"overloaded"``.
    detail : str
        What was expected, what was found, and the way out.
    headers : mapping of str to str or None
        Headers of the answer.
    """

    def __init__(self, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.headers = kind, detail, headers

    @property
    def status(self) -> int:
        """The HTTP status."""
        return _TITLES[self.kind][0]


def problem_of(error: RgalsError | ServiceError, **more: Any) -> dict[str, Any]:
    """Describe an error of the library or of the service."""
    if isinstance(error, ServiceError):
        kind = error.kind
    elif isinstance(error, UnknownIdError):
        kind = "unknown-id"
    elif isinstance(error, InputError):
        kind = "invalid"
    elif isinstance(error, NumericalError):
        kind = "unsolvable"
    elif isinstance(error, DataError):  # its message names files, which are nobody's business; the log has it
        return _problem("unavailable", "a file of the registry cannot be read; try again later", **more)
    else:
        return _problem("internal", "the service could not answer; try again later", **more)
    return _problem(kind, str(error), **more)


def respond(problem: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """Make the answer of a problem."""
    return Response(orjson.dumps(problem), problem["status"], dict(headers or {}), MEDIA_TYPE)


def documented(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """Describe the problems that a route may answer with, for the OpenAPI document."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        status, title = _TITLES[kind]
        entry = by_status.setdefault(
            status,
            {"description": title, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}},
        )
        if title not in entry["description"]:
            entry["description"] += f"; or: {title}"
    return by_status


def add_handlers(app: FastAPI) -> None:
    """Let an application answer every error with problem details."""
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(RgalsError, _on_library_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_bug)


def _problem(kind: str, detail: str, **more: Any) -> dict[str, Any]:
    status, title = _TITLES[kind]
    return {"type": f"urn:rgals:{kind}", "title": title, "status": status, "detail": detail, **more}


def _on_service_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return respond(problem_of(error), error.headers)


def _on_library_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RgalsError)
    if not isinstance(error, InputError | UnknownIdError | NumericalError):
        logger.error("a request failed", extra={"error": str(error)})
    return respond(problem_of(error))


def _on_bug(_: Request, __: Exception) -> Response:
    """Answer what nobody foresaw; the server logs it with its traceback."""
    return respond(_problem("internal", "the service failed; try again, and tell its operators the request id"))


def _on_invalid(_: Request, error: Exception) -> Response:
    """List what is wrong with a request, without repeating what it held: that can be large, or private."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    listed = [
        {"where": ".".join(str(step) for step in problem["loc"])[:200], "problem": str(problem["msg"])[:300]}
        for problem in found[:_MAX_LISTED]
    ]
    more = f" and {len(found) - _MAX_LISTED} more" if len(found) > _MAX_LISTED else ""
    detail = f"{listed[0]['where']}: {listed[0]['problem']}" if listed else "the request cannot be read"
    if len(found) > 1:
        detail += f"; {len(listed)} problems are listed{more}"
    return respond(_problem("invalid", detail, errors=listed))


def _on_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kinds = {404: "unknown-path", 405: "method-not-allowed", 413: "too-large", 415: "media-type"}
    kind = kinds.get(error.status_code, "bad-request")
    details = {
        "unknown-path": "check the path; /openapi.json lists all",
        "method-not-allowed": "check the method; /openapi.json lists those of each path",
    }
    return respond(_problem(kind, details.get(kind, str(error.detail))), error.headers)
