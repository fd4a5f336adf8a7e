"""Which executor runs a job, chosen by a few options."""

import re
from dataclasses import dataclass

from rgals.errors import InputError, MissingDependencyError
from rgals.execution.executor import Executor
from rgals.execution.in_process import InProcessExecutor

__all__ = ["ExecutorOptions", "open_executor"]

KINDS = ("in-process", "ray")
_ADDRESS = re.compile(r"[^/\s]+:\d+")


@dataclass(frozen=True, slots=True)
class ExecutorOptions:
    """How tasks are run.

    Parameters
    ----------
    kind : str
        ``in-process`` or ``ray``.
    threads : int or None
        Threads of the in-process executor; None: every processor.
    address : str or None
        ``host:port`` of a running Ray cluster, or ``auto`` for the one that this machine belongs to; None starts
        a local one.
    workers : int or None
        Ray workers; None: one on each node with an address, one without.
    worker_cpus : int or None
        CPUs, and threads, of each worker; None: all CPUs of its node, or an equal share of this machine's.
    object_store_bytes : int or None
        Size of a local Ray's object store; None: as much as the job needs.
    start_timeout_s : float
        How long to wait for workers.
    """

    kind: str = "in-process"
    threads: int | None = None
    address: str | None = None
    workers: int | None = None
    worker_cpus: int | None = None
    object_store_bytes: int | None = None
    start_timeout_s: float = 60.0

    def check(self) -> None:
        """Refuse what cannot be used.

        Raises
        ------
        InputError
            If an option is out of its range, or belongs to the other kind of executor.
        """
        if self.kind not in KINDS:
            raise InputError(f"executor: expected {' or '.join(KINDS)}, found {self.kind!r}")
        for name in ("threads", "workers", "worker_cpus", "object_store_bytes", "start_timeout_s"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name}: expected more than 0, found {value}; leave it out for the default")
        of_ray = {"address": self.address, "workers": self.workers, "worker_cpus": self.worker_cpus}
        of_ray["object_store_bytes"] = self.object_store_bytes
        if self.kind == "in-process" and (given := [name for name, value in of_ray.items() if value is not None]):
            raise InputError(f"{', '.join(given)}: only for executor ray, found executor in-process; choose ray")
        if self.kind == "ray" and self.threads is not None:
            raise InputError("threads: only for executor in-process, found executor ray; give worker_cpus instead")
        if self.address is not None and self.object_store_bytes is not None:
            raise InputError("object_store_bytes: a running cluster has its size already; leave it or address out")
        if self.address is not None and self.address != "auto" and not _ADDRESS.fullmatch(self.address):
            raise InputError(
                f"address: expected host:port or auto, found {self.address!r}; give the head node's address and"
                " port (6379), on a machine of the cluster, or hand the command to it with `ray job submit`"
            )


def open_executor(options: ExecutorOptions, *, needed_object_store_bytes: int = 0) -> Executor:
    """Open the executor that the options describe; the caller closes it.

    Parameters
    ----------
    options : ExecutorOptions
        The options.
    needed_object_store_bytes : int
        Bytes of blocks that will live at the same time, over all nodes.

    Raises
    ------
    InputError
        If an option cannot be used.
    MissingDependencyError
        If Ray is asked for and not installed.
    ClusterError
        If the cluster cannot be reached, or has no room for a worker.
    CapacityError
        If the bytes do not fit into a local object store.
    """
    options.check()
    if options.kind == "in-process":
        return InProcessExecutor(options.threads)
    try:
        from rgals.execution.ray_backend import RayExecutor  # noqa: PLC0415 - only who asks for Ray needs it
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in {"ray", "grpc"}:
            raise
        raise MissingDependencyError(
            "executor ray: the package ray is not installed; install rgals[ray], or use the in-process executor"
        ) from error
    return RayExecutor(options, needed_object_store_bytes=needed_object_store_bytes)
