"""What happens to every request before and after it is answered: keys, limits, headers, counts, the log."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.recommender import problems
from services.recommender.metrics import Metrics
from services.recommender.problems import ServiceError
from services.recommender.security import ApiKeys, authorize
from services.recommender.security import Scope as KeyScope
from services.recommender.settings import Settings

__all__ = ["REQUEST_ID_HEADER", "Gatekeeper"]

REQUEST_ID_HEADER: Final = "x-request-id"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS: Final[Mapping[str, str]] = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
}
_OPEN_PATHS = frozenset({"/", "/livez", "/readyz", "/openapi.json"})
_QUIET_ROUTES = frozenset({"/livez", "/readyz", "/metrics"})

logger = logging.getLogger("rgals.service.access")


class Gatekeeper:
    """The outermost layer of a service.

    Parameters
    ----------
    app : ASGI application
        What answers.
    settings : Settings
        The limits.
    keys : ApiKeys
        The keys.
    metrics : Metrics
        Where requests are counted.
    """

    def __init__(self, app: ASGIApp, settings: Settings, keys: ApiKeys, metrics: Metrics) -> None:
        self._app, self._settings, self._keys, self._metrics = app, settings, keys, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, send)
        self._metrics.in_flight.inc()
        try:
            await self._answer(request, scope, receive)
        finally:
            self._metrics.in_flight.dec()
            self._record(request, scope)

    async def _answer(self, request: "_Request", scope: Scope, receive: Receive) -> None:
        try:
            needed = _scope_of(scope["path"])
            if needed is not None:
                request.key_name = authorize(HTTPConnection(scope), self._keys, needed)
            body = await self._read_body(scope, receive)
        except ServiceError as error:
            answer = problems.respond(problems.problem_of(error), error.headers)
            await answer(scope, receive, request.send)
            return
        await self._app(scope, receive if body is None else _replayed(body, receive), request.send)

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes | None:
        """Read a body whole, within its limits of size and time; None where there is none."""
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        if length == "0" and "transfer-encoding" not in headers:
            return None
        limit = self._settings.max_body_bytes
        too_large = ServiceError(
            "too-large", f"expected at most {limit} bytes; send fewer requests at once", {"Connection": "close"}
        )
        if not length.isascii() or not length.isdigit() or int(length) > limit:
            raise too_large
        parts: list[bytes] = []
        n_bytes = 0
        try:
            async with asyncio.timeout(self._settings.read_timeout_s):
                is_more = True
                while is_more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ServiceError("bad-request", "the client went away before its request was complete")
                    part = message.get("body", b"")
                    n_bytes += len(part)
                    if n_bytes > limit:
                        raise too_large
                    parts.append(part)
                    is_more = message.get("more_body", False)
        except TimeoutError as error:
            raise ServiceError(
                "slow-request",
                f"the body did not arrive within {self._settings.read_timeout_s:g} s; send it faster",
                {"Connection": "close"},
            ) from error
        return b"".join(parts)

    def _record(self, request: "_Request", scope: Scope) -> None:
        """Count a request and write its line; neither holds ids, histories or queries."""
        seconds = time.perf_counter() - request.started_s
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if route != "unmatched" else "any"
        self._metrics.requests.labels(route, method, str(request.status)).inc()
        self._metrics.latency.labels(route, method).observe(seconds)
        self._metrics.response_bytes.labels(route, method).observe(request.n_bytes)
        level = logging.DEBUG if route in _QUIET_ROUTES and request.status < 500 else logging.INFO
        if logger.isEnabledFor(level):
            details: dict[str, Any] = {
                "route": route,
                "method": method,
                "status": request.status,
                "ms": round(seconds * 1000, 3),
                "bytes": request.n_bytes,
                "request_id": request.id,
                "model_version": request.model_version,
                "key": request.key_name,
            }
            logger.log(level, "request", extra={name: value for name, value in details.items() if value is not None})


class _Request:
    """What becomes known of a request while it is answered."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.started_s = time.perf_counter()
        sent = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        self.id = sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex
        self.status = 500
        self.n_bytes = 0
        self.key_name: str | None = None
        self.model_version: str | None = None
        self._send = send

    async def send(self, message: Message) -> None:
        """Send a part of the answer, its headers with those that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID_HEADER] = self.id
            self.model_version = headers.get("x-model-version")
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
        elif message["type"] == "http.response.body":
            self.n_bytes += len(message.get("body", b""))
        await self._send(message)


def _scope_of(path: str) -> KeyScope | None:
    """Tell which key a path needs; what does not exist needs one too, so that nothing is learned without."""
    if path in _OPEN_PATHS or path.startswith("/assets/"):
        return None
    return "admin" if "/v1/admin" in path else "read"


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read already as one message; afterwards what the client does."""
    is_given = False

    async def replay() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
