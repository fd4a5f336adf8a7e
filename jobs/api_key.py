"""``rgals api-key``: make a key for the service, and keep its hash."""

import os
from pathlib import Path
from typing import Annotated

import typer

from jobs.service_extra import needs_service
from rgals.errors import DataError, InputError

__all__ = ["api_key"]


def api_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key; the service's log shows it.")],
    file: Annotated[
        Path, typer.Option("--file", metavar="FILE", help="File of hashed keys; made where it is not there.")
    ],
    scope: Annotated[str, typer.Option(help="'read': ask for recommendations; 'admin': reload models too.")] = "read",
) -> None:
    """Print a new API key, once, and add its hash to a file that `rgals serve --api-keys` reads.

    A running service reads the file again within a second. To replace a key, add the new one, let its users change
    over, and delete the old line.
    """
    if scope not in ("read", "admin"):
        raise InputError(f"--scope: expected 'read' or 'admin', found {scope!r}")
    with needs_service("rgals api-key"):
        from services.recommender.security import new_key, read_keys  # noqa: PLC0415
    key, entry = new_key(name, "admin" if scope == "admin" else "read")
    if file.exists() and any(former.name == name for former in read_keys(file)):
        typer.echo(f"rgals: warning: {file} holds another key of {name}; delete its line when it is replaced", err=True)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as stream:
            stream.write(entry.to_line() + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise DataError(f"{file}: cannot be written to ({error}); choose another file") from error
    typer.echo(key)
