"""``rgals serve``: answer requests for recommendations over HTTP from the models of a registry."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.service_extra import needs_service

__all__ = ["serve"]


def serve(
    registry: Annotated[
        str | None,
        typer.Option(
            metavar="REGISTRY", help="Registry whose current version is served: a path or a URI such as s3://..."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A model folder to serve instead, which is not followed.")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; other than loopback needs --api-keys.", show_default="127.0.0.1"),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.", show_default="8000")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; they share the memory of the model.", show_default="1")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads of each worker that compute.", show_default="the processors, shared out"),
    ] = None,
    api_keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File of hashed API keys, made by rgals api-key.")
    ] = None,
) -> None:
    """Serve top-k recommendations over HTTP, with a page to try them at /, until Ctrl-C or SIGTERM.

    Options count before the environment's RGALS_SERVICE_... variables; docs/service.md lists all of them, and the API.
    """
    with needs_service("rgals serve"):
        from services.recommender.server import serve as run  # noqa: PLC0415
        from services.recommender.settings import read_settings  # noqa: PLC0415
    run(
        read_settings(
            registry=registry,
            model=model,
            host=host,
            port=port,
            workers=workers,
            threads=threads,
            api_keys_file=api_keys,
        )
    )
