"""The workers of a cluster: which are ready, which were lost, which are on their way.

What the cluster is made of is behind `Cluster`; nothing here imports it.
"""

import logging
import math
import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rgals.errors import ClusterError, WorkerLostError
from rgals.execution.worker import WorkerFacts, versions

__all__ = ["LOOK_INTERVAL_S", "Cluster", "Member", "NodeFacts", "WorkerGoneError", "WorkerPool", "share_cpus"]

LOGGER = logging.getLogger(__name__)
LOOK_INTERVAL_S = 1.0
"""How often to look for nodes that have come or gone, and for workers that are missing."""

MAX_FAILED_STARTS = 3
"""Starts that may fail in a row while there is no worker at all."""

MAX_PAUSE_S = 60.0


class WorkerGoneError(Exception):
    """The worker that a reference was awaited from is gone; the message says what the cluster knows."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A live node that can run workers.

    Parameters
    ----------
    node : str
        Its identifier.
    address : str
        Its address, for messages.
    n_cpus : int
        Its CPUs.
    """

    node: str
    address: str
    n_cpus: int


class Cluster(Protocol):
    """What an executor needs of a cluster; handles and references are opaque here."""

    def nodes(self) -> list[NodeFacts]:
        """Give the live nodes that have CPUs."""
        ...

    def start_worker(self, number: int, n_cpus: int, node: str | None) -> tuple[Any, Any]:
        """Start a worker, on a node if one is named; give its handle and the reference of its `WorkerFacts`."""
        ...

    def stop_worker(self, handle: Any) -> None:
        """End a worker's process, whatever it is doing."""
        ...

    def call(self, handle: Any, method: str, *arguments: Any) -> Any:
        """Call a method of a worker; give the reference of its result, or a pair of them for ``run_block``."""
        ...

    def wait(self, references: Sequence[Any], timeout_s: float) -> list[Any]:
        """Wait until one of the references is there; give those that are, none after the time."""
        ...

    def get(self, reference: Any) -> Any:
        """Give the value of a reference that is there.

        Raises
        ------
        WorkerGoneError
            If the worker that was to make it is gone.
        """
        ...

    def put(self, value: Any) -> Any:
        """Keep a value; give its reference."""
        ...

    def fetch_each(self, references: Sequence[Any]) -> Iterator[Any]:
        """Give values one after the other while the next few are on their way; see `Executor.fetch_each`."""
        ...


@dataclass(slots=True)
class Member:
    """A worker, ready or on its way; name, process and node are known when it is ready."""

    number: int
    handle: Any
    n_cpus: int
    node: str | None
    ready_reference: Any
    name: str = ""
    process_id: int = 0


@dataclass(slots=True)
class WorkerPool:
    """Keeps as many workers as were asked for, or one on each node.

    Parameters
    ----------
    cluster : Cluster
        Where they run.
    n_wanted : int or None
        How many; None: one on each node, also on those that join later.
    worker_cpus : int or None
        CPUs of each; None, only without ``n_wanted``: all CPUs of its node.
    start_timeout_s : float
        How long to wait for workers.
    """

    cluster: Cluster
    n_wanted: int | None
    worker_cpus: int | None
    start_timeout_s: float = 60.0
    ready: dict[int, Member] = field(default_factory=dict)
    starting: dict[int, Member] = field(default_factory=dict)
    homes: dict[Hashable, int] = field(default_factory=dict)
    is_closed: bool = False
    _last_loss: str = ""
    _refused_nodes: set[str] = field(default_factory=set)
    _n_started: int = 0
    _n_failed_starts: int = 0
    _next_look: float = 0.0
    _next_start: float = 0.0

    def start(self) -> None:
        """Start the workers and wait for them; go on with those that are ready in time.

        Raises
        ------
        ClusterError
            If no worker is ready, or one has other versions of what computes.
        """
        self.look(is_forced=True)
        n_expected = max(len(self.starting), self.n_wanted or 1)
        deadline = time.monotonic() + self.start_timeout_s
        while len(self.ready) < n_expected and not self._is_hopeless and time.monotonic() < deadline:
            self._wait(deadline)
            if self._refused_nodes:
                raise ClusterError(self._last_loss)
            self.look(is_forced=False)
        if not self.ready:
            raise self._no_worker(n_expected)
        if len(self.ready) < n_expected:
            LOGGER.warning(
                "%d of %d workers are ready after %.0f s, going on with them; the others join when they are",
                len(self.ready),
                n_expected,
                self.start_timeout_s,
            )

    def start_references(self) -> list[Any]:
        """Give the references of workers on their way, to wait for together with others."""
        return [member.ready_reference for member in self.starting.values()]

    def collect(self, references: Sequence[Any]) -> None:
        """Take in the workers on their way whose references are among those that are there."""
        for member in [member for member in self.starting.values() if member.ready_reference in references]:
            del self.starting[member.number]
            try:
                facts: WorkerFacts = self.cluster.get(member.ready_reference)
            except Exception as error:  # noqa: BLE001 - whatever its start failed with
                self._note_failed_start()
                self._last_loss = str(error)
                LOGGER.warning("A worker could not be started: %s", error)
                self.cluster.stop_worker(member.handle)
                continue
            if difference := _compare(facts):
                LOGGER.warning("%s is not used: %s", facts.name, difference)
                self._last_loss = f"{facts.name}: {difference}"
                self._refused_nodes.add(facts.node)
                self._note_failed_start()
                self.cluster.stop_worker(member.handle)
                continue
            member.name, member.process_id, member.node = facts.name, facts.process_id, facts.node
            self.ready[member.number] = member
            self._n_failed_starts = 0

    def lose(self, number: int, reason: str) -> None:
        """Forget a worker that is gone, and start another in its place; harmless when that is done already."""
        member = self.ready.pop(number, None)
        if member is None:
            return
        self._last_loss = reason
        LOGGER.warning("Lost %s, its tasks run elsewhere: %s", member.name, reason)
        self.cluster.stop_worker(member.handle)
        for key in [key for key, home in self.homes.items() if home == number]:
            del self.homes[key]
        # Starts that failed elsewhere say nothing about this worker's successor.
        self._n_failed_starts, self._next_start = 0, 0.0
        self.look(is_forced=True)

    def look(self, *, is_forced: bool) -> None:
        """Start the workers that are missing; looks at most once a second unless forced."""
        now = time.monotonic()
        if now < self._next_look and not is_forced:
            return
        self._next_look = now + LOOK_INTERVAL_S
        if self.n_wanted is None:
            self._follow_nodes(may_start=now >= self._next_start)
        elif now >= self._next_start:
            for _ in range(self.n_wanted - len(self.ready) - len(self.starting)):
                self._start_one(self.worker_cpus or 1, self._allowed_node() if self._refused_nodes else None)

    def await_any(self) -> None:
        """Wait until there is a worker.

        Raises
        ------
        WorkerLostError
            If none comes up in time.
        """
        deadline = time.monotonic() + self.start_timeout_s
        while not self.ready:
            self.look(is_forced=False)
            if time.monotonic() >= deadline or self._is_hopeless:
                raise WorkerLostError(
                    f"no worker is left, and none came up within {self.start_timeout_s:.0f} s"
                    f" ({self._last_loss or 'no reason known'}); see which nodes live with `ray status`, and run again"
                )
            self._wait(deadline)

    def call_each(self, method: str, *arguments: Any) -> None:
        """Call a method of every worker without waiting for it."""
        for member in self.ready.values():
            self.cluster.call(member.handle, method, *arguments)

    def close(self) -> None:
        """End all workers."""
        self.is_closed = True
        for member in (*self.ready.values(), *self.starting.values()):
            self.cluster.stop_worker(member.handle)
        self.ready.clear()
        self.starting.clear()
        self.homes.clear()

    @property
    def _is_hopeless(self) -> bool:
        return not self.ready and not self.starting and self._n_failed_starts >= MAX_FAILED_STARTS

    def _wait(self, deadline: float) -> None:
        seconds = max(0.0, min(deadline - time.monotonic(), LOOK_INTERVAL_S))
        if self.starting:
            self.collect(self.cluster.wait(self.start_references(), seconds))
        else:
            time.sleep(min(seconds, LOOK_INTERVAL_S / 4))

    def _follow_nodes(self, *, may_start: bool) -> None:
        nodes = {facts.node: facts for facts in self.cluster.nodes() if facts.n_cpus >= (self.worker_cpus or 1)}
        for member in [member for member in self.starting.values() if member.node not in nodes]:
            del self.starting[member.number]
            self.cluster.stop_worker(member.handle)
        for member in [member for member in self.ready.values() if member.node not in nodes]:
            self.lose(member.number, "its node has left the cluster")
        taken = {member.node for member in (*self.ready.values(), *self.starting.values())}
        for node, facts in nodes.items():
            if may_start and node not in taken and node not in self._refused_nodes:
                self._start_one(self.worker_cpus or facts.n_cpus, node)

    def _allowed_node(self) -> str | None:
        """Choose the node with fewest workers among those that were not refused; None if there is none."""
        members = [member.node for member in (*self.ready.values(), *self.starting.values())]
        allowed = [
            facts.node
            for facts in self.cluster.nodes()
            if facts.node not in self._refused_nodes and facts.n_cpus >= (self.worker_cpus or 1)
        ]
        return min(allowed, key=members.count, default=None)

    def _note_failed_start(self) -> None:
        """Wait longer before the next start, the more have failed in a row."""
        self._n_failed_starts += 1
        self._next_start = time.monotonic() + min(2.0 ** (self._n_failed_starts - 1) - 1, MAX_PAUSE_S)

    def _start_one(self, n_cpus: int, node: str | None) -> None:
        self._n_started += 1
        handle, reference = self.cluster.start_worker(self._n_started, n_cpus, node)
        self.starting[self._n_started] = Member(self._n_started, handle, n_cpus, node, reference)

    def _no_worker(self, n_expected: int) -> ClusterError:
        there = ", ".join(f"{node.address}: {node.n_cpus}" for node in self.cluster.nodes()) or "none"
        wanted = f"{self.worker_cpus} CPUs each" if self.worker_cpus else "all CPUs of a node each"
        reason = f" ({self._last_loss})" if self._last_loss else ""
        return ClusterError(
            f"no worker was ready within {self.start_timeout_s:.0f} s{reason}; asked for: {n_expected} with {wanted};"
            f" CPUs of the cluster by node: {there}; ask for fewer CPUs or workers, wait until other jobs have ended,"
            " or add nodes"
        )


def share_cpus(nodes: Sequence[NodeFacts], n_workers: int) -> int:
    """Give the CPUs that each of some workers can have when they are spread over nodes.

    Parameters
    ----------
    nodes : sequence of NodeFacts
        The nodes.
    n_workers : int
        How many workers.

    Returns
    -------
    int
        With as many nodes as workers or more, all CPUs of the smallest of the largest nodes; at least 1.
    """
    sizes = sorted((node.n_cpus for node in nodes), reverse=True)[:n_workers]
    return max(1, sizes[-1] // math.ceil(n_workers / len(sizes))) if sizes else 1


def _compare(facts: WorkerFacts) -> str:
    """Say which versions differ from those here; empty if none does."""
    here = versions()
    names = sorted(name for name in here if facts.versions.get(name) != here[name])
    if not names:
        return ""
    found = ", ".join(f"{name} {facts.versions.get(name, 'missing')}" for name in names)
    expected = ", ".join(f"{name} {here[name]}" for name in names)
    return f"found {found}, expected {expected} as in the calling process; install the same versions on every node"
