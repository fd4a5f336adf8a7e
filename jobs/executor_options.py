"""The options that choose where a command runs: in this process, on a local Ray or on a cluster."""

import os
from typing import Annotated, TypeAlias

import typer

from rgals.execution import ExecutorOptions

__all__ = [
    "AddressOption",
    "ExecutorOption",
    "ThreadsOption",
    "WorkerCpusOption",
    "WorkersOption",
    "read_executor_options",
]

_PANEL = "Execution"

ExecutorOption: TypeAlias = Annotated[
    str, typer.Option("--executor", metavar="in-process|ray", help="Where tasks run.", rich_help_panel=_PANEL)
]
"""``--executor``"""

AddressOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="A running Ray cluster; auto for the one that this machine belongs to.",
        show_default="RAY_ADDRESS, or a local Ray",
        rich_help_panel=_PANEL,
    ),
]
"""``--address``"""

WorkersOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="Ray workers.",
        show_default="one on each node, one on a local Ray",
        rich_help_panel=_PANEL,
    ),
]
"""``--workers``"""

WorkerCpusOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--worker-cpus",
        help="CPUs, and threads, of each Ray worker.",
        show_default="all of its node",
        rich_help_panel=_PANEL,
    ),
]
"""``--worker-cpus``"""

ThreadsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--threads", help="Threads to use in this process.", show_default="every processor", rich_help_panel=_PANEL
    ),
]
"""``--threads``"""


def read_executor_options(
    executor: str, threads: int | None, address: str | None, workers: int | None, worker_cpus: int | None
) -> ExecutorOptions:
    """Check the options of a command and put them together.

    Parameters
    ----------
    executor : str
        ``in-process`` or ``ray``.
    threads, address, workers, worker_cpus : int, str or None
        See `rgals.execution.ExecutorOptions`. With Ray and without an address the variable ``RAY_ADDRESS``
        counts, as it is set for a command that was handed to a cluster.

    Raises
    ------
    InputError
        If an option cannot be used.
    """
    if executor == "ray" and address is None:
        address = os.environ.get("RAY_ADDRESS") or None
    if executor == "ray" and address == "local":
        address = None
    options = ExecutorOptions(executor, threads, address, workers, worker_cpus)
    options.check()
    return options
