"""``rgals rollback``: make an older version of a registry current again."""

import shlex
import sys
from typing import Annotated

import typer
from rich.console import Console

from rgals.artifact.registry import rollback as roll_back

__all__ = ["rollback"]


def rollback(
    registry: Annotated[str, typer.Argument(metavar="REGISTRY", help="Registry: a local path or a URI.")],
    to: Annotated[
        str | None,
        typer.Option(
            metavar="vNNNNN", help="The version.", show_default="the one that the current version took the place of"
        ),
    ] = None,
) -> None:
    """Verify an older version's files and make it current; nothing is copied or deleted."""
    event = roll_back(registry, to, command=shlex.join(["rgals", *sys.argv[1:]]))
    text = f"{event.version} is current, in place of {event.previous}"
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
