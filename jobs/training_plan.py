"""The plan of a training run on the command line: what it needs, checked against what there is."""

import math

from rgals.data.shards import InteractionSource
from rgals.data.storage import Folder
from rgals.errors import InputError, MissingDependencyError
from rgals.execution import ExecutorOptions
from rgals.execution.status import ClusterStatus
from rgals.numerics.threads import available_threads
from rgals.training.capacity import Limits, check_plan
from rgals.training.config import TrainingConfig
from rgals.training.plan import Plan, plan_training

__all__ = ["check_training", "count_workers", "read_cluster_status"]

_CONNECT_TIMEOUT_S = 10.0


def check_training(
    source: InteractionSource, config: TrainingConfig, where: ExecutorOptions, output: Folder, *, is_checked: bool
) -> Plan:
    """Plan a run and refuse what does not fit.

    Parameters
    ----------
    source : InteractionSource
        Training interactions.
    config : TrainingConfig
        All options.
    where : ExecutorOptions
        Where it is to run.
    output : Folder
        Where the model goes; looked at for free disk space when it is local.
    is_checked : bool
        Whether a plan that does not fit is an error.

    Raises
    ------
    CapacityError
        If it does not fit; the message gives numbers and the nearest settings that do.
    ClusterError
        If the cluster cannot be reached.
    """
    status = read_cluster_status(where.address) if where.kind == "ray" and where.address is not None else None
    n_nodes, n_workers, worker_cpus = count_workers(
        where.kind, where.threads, where.workers, where.worker_cpus, None, status
    )
    plan = plan_training(
        source,
        config,
        n_workers=n_workers,
        worker_cpus=worker_cpus,
        n_nodes=n_nodes,
        is_in_process=where.kind == "in-process",
    )
    if is_checked:
        folder = output.local_path
        check_plan(plan, Limits.of_this_machine(folder) if status is None else Limits.of_cluster(status, folder))
    return plan


def read_cluster_status(address: str) -> ClusterStatus:
    """Ask a cluster what it has.

    Raises
    ------
    ClusterError
        If it cannot be reached or has no CPUs.
    MissingDependencyError
        If Ray is not installed.
    """
    try:
        from rgals.execution.ray_backend import cluster_status  # noqa: PLC0415 - only who asks for Ray needs it
    except ModuleNotFoundError as error:
        raise MissingDependencyError("--address: the package ray is not installed; install rgals[ray]") from error
    status = cluster_status(address, _CONNECT_TIMEOUT_S)
    Limits.of_cluster(status)  # refuses one that cannot work
    return status


def count_workers(
    kind: str,
    threads: int | None,
    workers: int | None,
    worker_cpus: int | None,
    nodes: int | None,
    status: ClusterStatus | None,
) -> tuple[int, int, int]:
    """Give nodes, workers and CPUs of each worker, as training chooses them.

    Parameters
    ----------
    kind : str
        ``in-process`` or ``ray``.
    threads, workers, worker_cpus : int or None
        See `rgals.execution.ExecutorOptions`.
    nodes : int or None
        Nodes of a cluster that is not there yet.
    status : ClusterStatus or None
        A cluster that is there.

    Raises
    ------
    InputError
        If the options contradict each other.
    """
    if kind == "in-process":
        if nodes is not None:
            raise InputError("--nodes: only with --executor ray, found in-process; choose ray")
        return 1, 1, threads or available_threads()
    if status is not None and nodes is not None:
        raise InputError("--nodes: the cluster has nodes of its own; leave --nodes or --address out")
    cpus = [available_threads()] if status is None else [node.n_cpus for node in status.nodes if node.n_cpus > 0]
    n_nodes = nodes or (len(cpus) if status is not None else 1)
    n_workers = workers or n_nodes
    if status is not None:
        n_nodes = min(n_nodes, n_workers)
    default = min(cpus, default=1) // math.ceil(n_workers / n_nodes)
    return n_nodes, n_workers, worker_cpus or max(1, default)
