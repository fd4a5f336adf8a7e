"""A cluster without processes: workers are objects, and what goes wrong is written down beforehand."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rgals.execution.worker import Worker, WorkerFacts, versions
from rgals.execution.worker_pool import NodeFacts, WorkerGoneError


@dataclass(eq=False)
class Reference:
    """What stands for a value."""

    value: Any = None
    is_there: bool = False
    twin: "Reference | None" = None


@dataclass(eq=False)
class FakeWorker:
    """A worker and the calls that wait for it."""

    number: int
    node: str
    worker: Worker
    calls: deque[tuple[str, tuple[Any, ...], Reference]] = field(default_factory=deque)
    is_dead: bool = False


class FakeCluster:
    """Runs one waiting call of each worker whenever somebody waits."""

    def __init__(self, n_cpus: Mapping[str, int]) -> None:
        self.node_cpus = dict(n_cpus)
        self.workers: dict[int, FakeWorker] = {}
        self.log: list[tuple[Any, ...]] = []
        self.stopped: list[int] = []
        self.other_versions: dict[str, dict[str, str]] = {}
        self.fails_to_start: Callable[[int], bool] = lambda number: False
        self.kills: Callable[[int, str, Any], bool] = lambda number, method, task: False

    def nodes(self) -> list[NodeFacts]:
        return [NodeFacts(node, f"address of {node}", n_cpus) for node, n_cpus in sorted(self.node_cpus.items())]

    def start_worker(self, number: int, n_cpus: int, node: str | None) -> tuple[Any, Any]:
        place = node or next((name for name, free in sorted(self.node_cpus.items()) if free >= n_cpus), "none")
        name = f"node {place}, worker {number}"
        made = FakeWorker(number, place, Worker(name, place, n_cpus, self.fetch_each, lambda value: True))
        reference = Reference()
        self.workers[number] = made
        if self.fails_to_start(number):
            reference.value, reference.is_there = WorkerGoneError("no module named rgals"), True
        elif place in self.node_cpus:
            found = {**versions(), **self.other_versions.get(place, {})}
            reference.value, reference.is_there = WorkerFacts(name, 1000 + number, place, found), True
        return made, reference

    def stop_worker(self, handle: FakeWorker) -> None:
        self.stopped.append(handle.number)
        self._kill(handle)

    def call(self, handle: FakeWorker, method: str, *arguments: Any) -> Any:
        self.log.append((handle.number, method, *arguments))
        reference = Reference()
        if method == "run_block":
            reference.twin = Reference()
        if handle.is_dead:
            reference.value, reference.is_there = WorkerGoneError("dead already"), True
        else:
            handle.calls.append((method, arguments, reference))
        return (reference.twin, reference) if reference.twin is not None else reference

    def wait(self, references: Sequence[Reference], timeout_s: float) -> list[Reference]:
        there = [reference for reference in references if reference.is_there]
        if not there:
            for worker in list(self.workers.values()):
                self._run_one(worker)
            there = [reference for reference in references if reference.is_there]
        return there[:1]

    def get(self, reference: Reference) -> Any:
        while not reference.is_there:
            for worker in list(self.workers.values()):
                self._run_one(worker)
        if isinstance(reference.value, Exception):
            raise reference.value
        return reference.value

    def put(self, value: Any) -> Reference:
        return Reference(value, is_there=True)

    def fetch_each(self, references: Sequence[Reference]) -> Iterator[Any]:
        return (self.get(reference) for reference in references)

    def lose_node(self, node: str) -> None:
        """Let a node and all on it vanish."""
        del self.node_cpus[node]
        for worker in self.workers.values():
            if worker.node == node:
                self._kill(worker)

    def _run_one(self, worker: FakeWorker) -> None:
        if worker.is_dead or not worker.calls:
            return
        method, arguments, reference = worker.calls[0]
        if self.kills(worker.number, method, arguments[-1] if arguments else None):
            self._kill(worker)
            return
        worker.calls.popleft()
        value = getattr(worker.worker, method)(*arguments)
        if reference.twin is not None:
            reference.twin.value, reference.twin.is_there = value[0], True
            value = value[1]
        reference.value, reference.is_there = value, True

    def _kill(self, worker: FakeWorker) -> None:
        worker.is_dead = True
        for _, _, reference in worker.calls:
            reference.value, reference.is_there = WorkerGoneError("its process died"), True
        worker.calls.clear()
