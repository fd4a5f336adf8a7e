"""Whether a plan fits a machine or a cluster, and which settings near it do."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rgals.errors import CapacityError, ClusterError
from rgals.execution.doctor_machine import read_memory
from rgals.execution.finding import readable_bytes
from rgals.execution.status import ClusterStatus
from rgals.training.plan import Plan, make_plan
from rgals.training.plan_input import PlanInput

__all__ = ["Limits", "Shortage", "check_plan", "find_shortages", "nearest_fits"]

MOST_NODES = 4096
"""Clusters larger than this are not looked at."""

RESERVED_FRACTION = 0.05
"""Fraction of the memory that is left alone: Ray ends workers when less than that is free."""

_SHARED_MEMORY = Path("/dev") / "shm"


@dataclass(frozen=True, slots=True)
class Limits:
    """What there is on each node; None where it is not known or does not matter.

    Parameters
    ----------
    where : str
        What has these limits, for messages.
    memory_bytes : int or None
        Memory for the processes of a node, and for its object store where that has no size of its own yet.
    object_store_bytes : int or None
        Size of a node's object store; None: it takes what it needs from the memory.
    shared_memory_bytes : int or None
        Room for the object store in the shared memory filesystem.
    disk_bytes : int or None
        Free disk space where checkpoints and model go.
    """

    where: str
    memory_bytes: int | None = None
    object_store_bytes: int | None = None
    shared_memory_bytes: int | None = None
    disk_bytes: int | None = None

    @classmethod
    def of_this_machine(cls, folder: str | Path | None = None) -> "Limits":
        """Read the limits of this machine, and of the control groups (containers) around this process.

        Memory is what is available, less 5% of all of it. Of the shared memory half is counted: a local Ray
        takes no more.

        Parameters
        ----------
        folder : str, Path or None
            Where checkpoints and model will be written; None does not look at the disk.
        """
        return cls(
            "this machine",
            memory_bytes=_available_memory(),
            shared_memory_bytes=_half_of_shared_memory(),
            disk_bytes=_free_space(folder),
        )

    @classmethod
    def of_cluster(cls, status: ClusterStatus, folder: str | Path | None = None) -> "Limits":
        """Take the smallest of the nodes that have CPUs.

        Parameters
        ----------
        status : ClusterStatus
            What the cluster says of itself.
        folder : str, Path or None
            As in `of_this_machine`.

        Raises
        ------
        ClusterError
            If the cluster was not reached or has no CPUs.
        """
        if not status.is_reachable:
            raise ClusterError(status.message)
        nodes = [node for node in status.nodes if node.n_cpus > 0]
        if not nodes:
            raise ClusterError(f"{status.message}; expected a node with CPUs, found none; add a worker node")
        smallest = min(nodes, key=lambda node: node.memory_bytes)
        return cls(
            f"each node of the cluster (the smallest: {smallest.name})",
            memory_bytes=smallest.memory_bytes,
            object_store_bytes=min(node.object_store_bytes for node in nodes),
            disk_bytes=_free_space(folder),
        )


@dataclass(frozen=True, slots=True)
class Shortage:
    """One limit that does not hold.

    Parameters
    ----------
    name : str
        What is short.
    needed_bytes, available_bytes : int
        How much is needed and how much there is.
    detail : str
        What the need consists of.
    """

    name: str
    needed_bytes: int
    available_bytes: int
    detail: str

    def __str__(self) -> str:
        return (
            f"{self.name}: {readable_bytes(self.needed_bytes)} needed ({self.detail}), "
            f"{readable_bytes(self.available_bytes)} available"
        )


def find_shortages(plan: Plan, limits: Limits) -> list[Shortage]:
    """List the limits that a plan does not keep, in the order memory, object store, shared memory, disk."""
    asked, store = plan.asked, plan.object_store_bytes
    memory, detail = plan.node_bytes, _memory_detail(plan)
    if limits.object_store_bytes is None and store:
        memory, detail = memory + store, f"{detail}, object store {readable_bytes(store)}"
    factors = f"{asked.n_users + asked.n_items:,} rows of {asked.n_factors} factors on {asked.n_nodes} nodes"
    candidates = (
        ("memory of a node", memory, limits.memory_bytes, detail),
        ("object store of a node", store, limits.object_store_bytes, factors),
        ("shared memory (/dev/shm) of a node", store, limits.shared_memory_bytes, factors),
        ("disk", plan.disk_bytes, limits.disk_bytes, _disk_detail(plan)),
    )
    return [
        Shortage(name, needed, available, detail)
        for name, needed, available, detail in candidates
        if available is not None and needed > available
    ]


def check_plan(plan: Plan, limits: Limits) -> None:
    """Refuse a plan that does not fit.

    Parameters
    ----------
    plan : Plan
        What is needed.
    limits : Limits
        What there is.

    Raises
    ------
    CapacityError
        If it does not fit; the message lists each limit that does not hold, and the nearest settings
        that would fit, as options to type.
    """
    shortages = find_shortages(plan, limits)
    if not shortages:
        return
    lines = [f"the training does not fit on {limits.where}:", *(f"  {shortage}" for shortage in shortages)]
    fits = [f"  {_describe_change(plan.asked, asked)}" for asked in nearest_fits(plan, limits)]
    lines += (
        ["what fits instead:", *fits]
        if fits
        else ["neither fewer factors nor more nodes like these would be enough alone"]
    )
    raise CapacityError("\n".join(lines))


def nearest_fits(plan: Plan, limits: Limits) -> list[PlanInput]:
    """Find the settings nearest to a plan that fit, each with one thing changed.

    Returns
    -------
    list of PlanInput
        Those that exist, of: the most workers on the same nodes, with the same CPUs altogether; the
        smallest number of nodes, with as many workers on each (with one, where neither of the two fits);
        the largest number of factors; the most checkpoints kept. Empty when the plan fits.
    """
    asked = plan.asked

    def fits(changed: PlanInput) -> bool:
        return not find_shortages(make_plan(changed), limits)

    if fits(asked):
        return []

    def fewest_nodes(per_node: int) -> PlanInput | None:
        return _first_fitting(asked.n_nodes + 1, MOST_NODES, lambda n: _with_nodes(asked, n, per_node), fits)

    fewer_workers = _last_fitting(1, asked.workers_per_node - 1, lambda n: _with_workers_per_node(asked, n), fits)
    more_nodes = fewest_nodes(asked.workers_per_node)
    if more_nodes is None and fewer_workers is None:
        more_nodes = fewest_nodes(1)
    found = (
        fewer_workers,
        more_nodes,
        _last_fitting(1, asked.n_factors - 1, lambda n: replace(asked, n_factors=n), fits),
        _last_fitting(1, asked.keep_checkpoints - 1, lambda n: replace(asked, keep_checkpoints=n), fits),
    )
    return [one for one in found if one is not None]


def _available_memory() -> int | None:
    """Give the memory that is left on this machine; None where the system does not say."""
    try:
        memory = read_memory()
    except (OSError, KeyError):
        return None
    return max(0, memory.available_bytes - int(memory.total_bytes * RESERVED_FRACTION))


def _half_of_shared_memory() -> int | None:
    free = _free_space(_SHARED_MEMORY) if _SHARED_MEMORY.is_dir() else None
    return None if free is None else free // 2


def _free_space(folder: str | Path | None) -> int | None:
    """Give the free space where a folder is, or will be; None for none and for a URI."""
    if folder is None or "://" in str(folder):
        return None
    place = Path(folder).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def _with_workers_per_node(asked: PlanInput, per_node: int) -> PlanInput:
    """Change the workers of each node; they share the CPUs of those that were there."""
    cpus = asked.worker_cpus * asked.workers_per_node // per_node
    return replace(asked, n_workers=per_node * asked.n_nodes, worker_cpus=cpus)


def _with_nodes(asked: PlanInput, n_nodes: int, per_node: int) -> PlanInput:
    return replace(
        _with_workers_per_node(asked, per_node), n_nodes=n_nodes, n_workers=per_node * n_nodes, is_in_process=False
    )


def _last_fitting(
    first: int, last: int, change: Callable[[int], PlanInput], fits: Callable[[PlanInput], bool]
) -> PlanInput | None:
    """Bisect for the largest number that fits, where everything below one that fits does."""
    if first > last or not fits(change(first)):
        return None
    while first < last:
        middle = (first + last + 1) // 2
        first, last = (middle, last) if fits(change(middle)) else (first, middle - 1)
    return change(first)


def _first_fitting(
    first: int, last: int, change: Callable[[int], PlanInput], fits: Callable[[PlanInput], bool]
) -> PlanInput | None:
    """Bisect for the smallest number that fits, where everything above one that fits does."""
    if first > last or not fits(change(last)):
        return None
    while first < last:
        middle = (first + last) // 2
        first, last = (first, middle) if fits(change(middle)) else (middle + 1, last)
    return change(first)


def _memory_detail(plan: Plan) -> str:
    if plan.asked.is_in_process:
        return "one process"
    n_workers = plan.asked.workers_per_node
    workers = f"{n_workers} worker{'s' if n_workers > 1 else ''} of {readable_bytes(plan.worker_bytes)}"
    return f"{workers}, driver {readable_bytes(plan.driver_bytes)}"


def _disk_detail(plan: Plan) -> str:
    return ", ".join(f"{item.name} {readable_bytes(item.n_bytes)}" for item in plan.disk if item.n_bytes)


def _describe_change(asked: PlanInput, changed: PlanInput) -> str:
    """Write what was changed as options to type."""
    if changed.n_factors != asked.n_factors:
        return f"--n-factors {changed.n_factors}"
    if changed.keep_checkpoints != asked.keep_checkpoints:
        return f"--keep-checkpoints {changed.keep_checkpoints}"
    workers = f"--workers {changed.n_workers} --worker-cpus {changed.worker_cpus}"
    if changed.n_nodes == asked.n_nodes:
        return workers
    return f"{'--executor ray ' if asked.is_in_process else ''}{workers}, with {changed.n_nodes} nodes like these"
