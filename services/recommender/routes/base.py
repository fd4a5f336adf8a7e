"""How routes read bodies, and the problems that they share."""

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute

from services.recommender.problems import ServiceError, documented

__all__ = ["COMMON_PROBLEMS", "READ_PROBLEMS", "JsonRoute"]

READ_PROBLEMS = documented("bad-request", "key-in-query", "unauthorized", "invalid", "not-ready")
"""Problems of every path that needs a key and a model."""

COMMON_PROBLEMS = READ_PROBLEMS | documented("not-ready", "overloaded", "deadline")
"""And of those that compute."""


class _StrictRequest(Request):
    """A request whose JSON may be neither deep nor hold what JSON does not have, such as NaN."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = orjson.loads(await self.body())
        return self._json


class JsonRoute(APIRoute):
    """A route that reads JSON with a parser that bounds its depth."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler of the framework."""
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if (
                request.method in ("POST", "PUT", "PATCH")
                and self.body_field is not None
                and kind != "application/json"
            ):
                raise ServiceError("media-type", "expected the header Content-Type: application/json")
            return await inner(_StrictRequest(request.scope, request.receive))

        return handle
