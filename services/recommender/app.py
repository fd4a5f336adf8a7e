"""The application of one worker; ``create_app`` is what an ASGI server is given."""

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi

import rgals
from rgals.numerics.threads import available_threads, one_blas_thread
from services.recommender.answers import VERSION_HEADER
from services.recommender.engine import Engine, EngineOptions
from services.recommender.gatekeeper import REQUEST_ID_HEADER, Gatekeeper
from services.recommender.metrics import Metrics
from services.recommender.problems import Problem, add_handlers
from services.recommender.routes import ROUTERS
from services.recommender.security import ApiKeys
from services.recommender.served import FolderSource, ModelSource, RegistrySource
from services.recommender.settings import Settings, read_settings
from services.recommender.slot import ModelSlot
from services.recommender.state import DEADLINE_HEADER, State

__all__ = ["create_app"]

_DESCRIPTION = """Top-k recommendations from a model trained by rgals.

Ids are text in every answer; integer ids may be sent as text, or as numbers up to 2^53. Every answer names the model's
version, in the body and in the header `X-Model-Version`. Errors are problem details (RFC 9457). A caller may say how
long it waits in `X-Timeout-Ms`; a request that waits longer is answered with 504."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application.

    Parameters
    ----------
    settings : Settings or None
        What it is told; None reads the environment.

    Returns
    -------
    FastAPI
        The application. It loads its model in the background once it is started.

    Raises
    ------
    InputError
        If the environment's settings are unusable.
    DataError
        If the file of keys cannot be read.
    """
    settings = settings or read_settings()
    keys, metrics = ApiKeys(settings.api_keys_file), Metrics()
    n_threads = settings.threads or max(1, available_threads() // settings.workers)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        scratch = Path(tempfile.mkdtemp(prefix="rgals-service-"))
        state_dir = settings.state_dir or scratch
        engine = Engine(
            EngineOptions(n_threads, settings.queue_size, settings.max_gathered, settings.gather_us / 1e6), metrics
        )
        slot = ModelSlot(_source(settings, scratch), settings.poll_s, state_dir, metrics)
        app.state.worker = State(settings, slot, engine, metrics, state_dir)
        slot.start()
        try:
            with one_blas_thread:  # here once, so that no request has to ask for it
                yield
        finally:
            slot.close()
            engine.close()
            shutil.rmtree(scratch, ignore_errors=True)

    app = FastAPI(
        title="rgals",
        summary="Top-k recommendations",
        description=_DESCRIPTION,
        version=rgals.__version__,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
    )
    add_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    _set_openapi(app, has_keys=not keys.is_open)
    app.add_middleware(Gatekeeper, settings=settings, keys=keys, metrics=metrics)
    if settings.cors_origins:  # outermost: browsers ask for permission without a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["content-type", "x-api-key", "authorization", DEADLINE_HEADER],
            expose_headers=[VERSION_HEADER, REQUEST_ID_HEADER],
        )
    return app


def _source(settings: Settings, scratch: Path) -> ModelSource:
    if settings.registry is None:
        return FolderSource(settings.model or "")
    return RegistrySource(settings.registry, settings.cache_dir or scratch / "models", uses_index=settings.uses_index)


def _set_openapi(app: FastAPI, *, has_keys: bool) -> None:
    """Let the OpenAPI document know keys, problems and the headers of every answer."""

    def document() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        schema = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
        )
        parts = schema.setdefault("components", {})
        parts.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
        for unused in ("HTTPValidationError", "ValidationError"):
            parts["schemas"].pop(unused, None)
        if has_keys:
            parts["securitySchemes"] = {
                "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "Bearer": {"type": "http", "scheme": "bearer"},
            }
        for path, methods in schema["paths"].items():
            for operation in methods.values():
                if has_keys and (path.startswith("/v1/") or path == "/metrics"):
                    operation["security"] = [{"ApiKey": []}, {"Bearer": []}]
        app.openapi_schema = schema
        return schema

    app.openapi = document  # type: ignore[method-assign]
