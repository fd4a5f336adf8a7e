"""The page at ``/``: try a model by hand."""

from functools import cache
from importlib import resources
from typing import Final

from fastapi import APIRouter, Response

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Inline styles are those of the report's page, which opens from this one where it needs a key."""


@router.get("/")
async def page() -> Response:
    """Give the page."""
    return _file("index.html", "text/html")


@router.get("/assets/app.js")
async def script() -> Response:
    """Give its script."""
    return _file("app.js", "text/javascript")


@router.get("/assets/app.css")
async def style() -> Response:
    """Give its style."""
    return _file("app.css", "text/css")


@cache
def _content(name: str) -> bytes:
    return (resources.files("services.recommender") / "page" / name).read_bytes()


def _file(name: str, kind: str) -> Response:
    """Give a file of the page by a name that no client chose."""
    headers = {"content-security-policy": _POLICY, "cache-control": "no-cache"}
    return Response(_content(name), headers=headers, media_type=kind)
