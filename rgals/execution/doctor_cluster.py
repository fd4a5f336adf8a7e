"""Checks of what is elsewhere: a Ray cluster, and a dataset."""

import importlib.metadata
import platform
import time
from collections.abc import Callable

from rgals.errors import RgalsError
from rgals.execution.executor import Executor, WorkerContext
from rgals.execution.finding import Finding, readable_bytes
from rgals.execution.options import ExecutorOptions, open_executor
from rgals.execution.status import ClusterStatus

__all__ = ["check_cluster", "check_dataset", "check_workers"]

_CLOCK_TOLERANCE_S = 1.0
_CLOCK_PROBLEM_S = 300.0
"""Object stores refuse requests that are some minutes off."""

_WAY = "start it (docs/operations.md), correct --address, or give this process the cluster's token"


def check_cluster(
    address: str, timeout_s: float, ask: Callable[[str, float], ClusterStatus] | None = None
) -> list[Finding]:
    """Look whether a cluster answers, asks for a token, and runs the versions that run here.

    Parameters
    ----------
    address : str
        ``host:port`` or ``auto``.
    timeout_s : float
        Seconds to wait for an answer.
    ask : callable or None
        Gives the status; None asks Ray.

    Returns
    -------
    list of Finding
        One where the cluster does not answer, else three.
    """
    try:
        status = (ask or _ask_ray)(address, timeout_s)
    except ImportError as error:
        return [Finding("cluster", "problem", f"Ray cannot be imported ({error})", "install rgals[ray]")]
    if not status.is_reachable:
        return [Finding("cluster", "problem", status.message, _WAY)]
    found = (
        f"{address}: {len(status.nodes)} nodes, {status.n_cpus} CPUs, "
        f"{readable_bytes(status.object_store_bytes)} of object store"
    )
    reached = Finding("cluster", "ok", found)
    if status.n_cpus == 0:
        reached = Finding("cluster", "problem", found, "nothing can run there: add nodes with `ray start --address`")
    return [reached, _compare_versions(status), _judge_authentication(status)]


def _ask_ray(address: str, timeout_s: float) -> ClusterStatus:
    """Ask by way of Ray, which is optional and slow to import."""
    from rgals.execution.ray_backend import cluster_status  # noqa: PLC0415

    return cluster_status(address, timeout_s)


def _compare_versions(status: ClusterStatus) -> Finding:
    here = {"Ray": importlib.metadata.version("ray"), "Python": platform.python_version()}
    there = {"Ray": status.ray_version, "Python": status.python_version}
    found = ", ".join(f"{name} {there[name] or 'unknown'} there, {here[name]} here" for name in here)
    advice = "install the same versions on every node and here"
    if any(there[name] not in (None, here[name]) for name in here):
        return Finding("cluster versions", "problem", found, advice)
    if not all(there.values()):
        return Finding("cluster versions", "warning", found, advice)
    return Finding("cluster versions", "ok", found)


def _judge_authentication(status: ClusterStatus) -> Finding:
    name = "cluster token"
    if status.authentication == "token":
        return Finding(name, "ok", "the cluster asks for a token")
    if status.authentication != "off":
        return Finding(name, "warning", "the cluster did not say whether it asks for a token", "look at its head node")
    is_local = all(node.address == "localhost" or node.address.startswith("127.") for node in status.nodes)
    advice = "start every node again with RAY_AUTH_MODE=token and the same token"
    found = "the cluster asks for no token: whoever reaches it can run code on every node"
    return Finding(name, "warning" if is_local else "problem", found, advice)


def _read_worker(shared: None, position: int, context: WorkerContext) -> tuple[str, float]:
    """Give a worker's name and its wall clock."""
    del shared, position
    return context.worker, time.time()


def check_workers(
    address: str,
    timeout_s: float,
    open_cluster: Callable[[ExecutorOptions], Executor] = open_executor,
    clock: Callable[[], float] = time.time,
) -> Finding:
    """Start a worker with one CPU on each node, and compare its clock with the one here.

    Parameters
    ----------
    address : str
        ``host:port`` or ``auto``.
    timeout_s : float
        Seconds to wait for the workers.
    open_cluster : callable
        Opens an executor.
    clock : callable
        Gives the wall clock here, in seconds.
    """
    name = "cluster workers"
    options = ExecutorOptions("ray", address=address, worker_cpus=1, start_timeout_s=timeout_s)
    try:
        with open_cluster(options) as executor:
            executor.on_each_worker(_read_worker, None)  # the first call also sends the code
            before = clock()
            clocks = executor.on_each_worker(_read_worker, None)
            after = clock()
    except RgalsError as error:
        advice = "see whether its CPUs are all taken (`ray status`), and whether rgals is installed on every node"
        return Finding(name, "problem", str(error), advice)
    # What can be told apart: the answer was given at some moment between before and after.
    offset_s, worker = max((max(time_s - after, before - time_s, 0.0), worker) for worker, time_s in clocks)
    if offset_s <= _CLOCK_TOLERANCE_S:
        found = f"{len(clocks)} started; clocks differ by at most {offset_s + (after - before):.2f} s from here"
        return Finding(name, "ok", found)
    found = f"{len(clocks)} started; the clock of {worker} is {offset_s:.1f} s off"
    advice = "run a time service (such as chrony) on every node"
    return Finding(name, "problem" if offset_s > _CLOCK_PROBLEM_S else "warning", found, advice)


def check_dataset(location: str, clock: Callable[[], float] = time.perf_counter) -> Finding:
    """Open a dataset and read its ids.

    Parameters
    ----------
    location : str
        Local path or URI.
    clock : callable
        Gives seconds.
    """
    from rgals.data.dataset import Dataset  # noqa: PLC0415 - compiles kernels, which is itself looked at

    started = clock()
    try:
        dataset = Dataset.open(location)
        n_ids = len(dataset.user_ids) + len(dataset.item_ids)
    except (OSError, RgalsError) as error:
        advice = "correct --dataset; for s3:// give credentials, region and endpoint on every node (docs/operations.md)"
        return Finding("dataset", "problem", str(error), advice)
    found = (
        f"{dataset.n_users:,} users, {dataset.n_items:,} items, {dataset.n_interactions:,} interactions, "
        f"{readable_bytes(dataset.n_bytes)}; {n_ids:,} ids read in {clock() - started:.2f} s"
    )
    return Finding("dataset", "ok", found)
