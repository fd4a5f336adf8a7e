"""The workers of a cluster: which are ready, which were lost, which are on their way.

What the cluster is made of is behind `Cluster`; nothing here imports it.
"""

import logging
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rgals.errors import ClusterError, WorkerLostError
from rgals.execution.worker import WorkerFacts, versions

__all__ = ["Cluster", "Member", "NodeFacts", "WorkerGoneError", "WorkerPool"]

LOGGER = logging.getLogger(__name__)
LOOK_INTERVAL_S = 1.0
MAX_FAILED_STARTS = 3


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
    """What a pool needs of a cluster; handles and references are opaque here."""

    def nodes(self) -> list[NodeFacts]:
        """Give the live nodes."""
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

    def cancel(self, reference: Any) -> None:
        """Take back a call that has not begun."""
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


@dataclass(slots=True)
class Member:
    """A worker, ready or on its way."""

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
        How many; None: one on each node, with all its CPUs unless ``worker_cpus`` says less.
    worker_cpus : int or None
        CPUs of each.
    start_timeout_s : float
        How long to wait for workers when there are none.
    """

    cluster: Cluster
    n_wanted: int | None
    worker_cpus: int | None
    start_timeout_s: float = 60.0
    ready: dict[int, Member] = field(default_factory=dict)
    starting: dict[int, Member] = field(default_factory=dict)
    homes: dict[Hashable, int] = field(default_factory=dict)
    last_loss: str = ""
    _n_started: int = 0
    _n_failed_starts: int = 0
    _next_look: float = 0.0

    def start(self) -> None:
        """Start the workers and wait for them.

        Raises
        ------
        ClusterError
            If a worker has other versions of what computes, or none started.
        """
        self.look(is_forced=True)
        n_expected = len(self.starting)
        deadline = time.monotonic() + self.start_timeout_s
        while self.starting and time.monotonic() < deadline:
            self.collect(self.cluster.wait(self.start_references(), deadline - time.monotonic()))
            self.look(is_forced=False)
        if not self.ready:
            raise self._cannot_start(n_expected)
        if len(self.ready) < n_expected:
            LOGGER.warning(
                "%d of %d workers are ready after %.0f s; going on with them, others join as they come",
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
            except WorkerGoneError as error:
                self._n_failed_starts += 1
                self.last_loss = str(error)
                LOGGER.warning("A worker could not be started: %s", error)
                self._stop(member)
                continue
            self._check_versions(facts)
            member.name, member.process_id, member.node = facts.name, facts.process_id, facts.node
            self.ready[member.number] = member
            self._n_failed_starts = 0

    def lose(self, number: int, reason: str) -> None:
        """Forget a worker that is gone, and start another in its place; harmless when that is done already."""
        member = self.ready.pop(number, None)
        if member is None:
            return
        self.last_loss = reason
        LOGGER.warning("Lost %s, its tasks run elsewhere: %s", member.name, reason)
        self._stop(member)
        for key in [key for key, home in self.homes.items() if home == number]:
            del self.homes[key]
        self.look(is_forced=True)

    def look(self, *, is_forced: bool) -> None:
        """Start the workers that are missing; looks at most once a second unless forced."""
        now = time.monotonic()
        if now < self._next_look and not is_forced:
            return
        self._next_look = now + LOOK_INTERVAL_S
        if self._n_failed_starts >= MAX_FAILED_STARTS:
            return
        if self.n_wanted is not None:
            for _ in range(self.n_wanted - len(self.ready) - len(self.starting)):
                self._start_one(self.worker_cpus or 1, None)
            return
        nodes = {facts.node: facts for facts in self.cluster.nodes() if facts.n_cpus >= (self.worker_cpus or 1)}
        for member in list(self.ready.values()):
            if member.node not in nodes:
                self.lose(member.number, "its node has left the cluster")
        for member in [member for member in self.starting.values() if member.node not in nodes]:
            del self.starting[member.number]
            self._stop(member)
        taken = {member.node for member in (*self.ready.values(), *self.starting.values())}
        for node, facts in nodes.items():
            if node not in taken:
                self._start_one(self.worker_cpus or facts.n_cpus, node)

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
            left = deadline - time.monotonic()
            if left <= 0 or (not self.starting and self._n_failed_starts >= MAX_FAILED_STARTS):
                raise WorkerLostError(
                    f"no worker is left and none came up within {self.start_timeout_s:.0f} s"
                    f" ({self.last_loss or 'no reason known'}); look at the nodes with `ray status`, then run again"
                )
            if self.starting:
                self.collect(self.cluster.wait(self.start_references(), min(left, LOOK_INTERVAL_S)))
            else:
                time.sleep(min(left, LOOK_INTERVAL_S))

    def call_each(self, method: str, *arguments: Any) -> None:
        """Call a method of every worker without waiting for it."""
        for member in self.ready.values():
            self.cluster.call(member.handle, method, *arguments)

    def close(self) -> None:
        """End all workers."""
        for member in (*self.ready.values(), *self.starting.values()):
            self._stop(member)
        self.ready.clear()
        self.starting.clear()
        self.homes.clear()

    def _start_one(self, n_cpus: int, node: str | None) -> None:
        self._n_started += 1
        handle, reference = self.cluster.start_worker(self._n_started, n_cpus, node)
        self.starting[self._n_started] = Member(self._n_started, handle, n_cpus, node, reference)

    def _stop(self, member: Member) -> None:
        self.cluster.stop_worker(member.handle)

    def _check_versions(self, facts: WorkerFacts) -> None:
        here = versions()
        other = {name: found for name, found in facts.versions.items() if found != here.get(name)}
        if other:
            raise ClusterError(
                f"{facts.name}: found {_listed(other)}, expected {_listed({name: here[name] for name in other})} as in"
                " the calling process; install the same versions on every node"
            )

    def _cannot_start(self, n_expected: int) -> ClusterError:
        nodes = self.cluster.nodes()
        there = ", ".join(f"{node.address} {node.n_cpus}" for node in nodes) or "none"
        wanted = f"{self.worker_cpus} CPUs each" if self.worker_cpus else "all CPUs of a node each"
        reason = f" ({self.last_loss})" if self.last_loss else ""
        return ClusterError(
            f"no worker is ready after {self.start_timeout_s:.0f} s{reason}: expected {n_expected} with {wanted},"
            f" the cluster has these CPUs by node: {there}; ask for fewer CPUs or workers, wait until other jobs"
            " have ended, or add nodes"
        )


def _listed(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))
