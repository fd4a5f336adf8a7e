"""An executor over a pool of workers: everything but how the cluster is reached."""

from abc import abstractmethod
from collections.abc import Generator, Hashable, Iterator, Sequence
from contextlib import closing
from itertools import count
from typing import Any, TypeVar

from rgals.errors import InputError
from rgals.execution.executor import Block, BlockResult, Executor, Prepare, TaskFunction
from rgals.execution.map_run import MAX_LOSSES, Finished, checked, lost_too_often, run_map
from rgals.execution.worker import RemoteBlock, Work, reference_of, size_of
from rgals.execution.worker_pool import WorkerGoneError, WorkerPool

__all__ = ["PooledExecutor"]

Value = TypeVar("Value")
Task = TypeVar("Task")
Shared = TypeVar("Shared")
Result = TypeVar("Result")


class PooledExecutor(Executor):
    """Runs tasks on the workers of a pool; a subclass brings the pool, and closes it.

    Parameters
    ----------
    pool : WorkerPool
        The workers, started.
    """

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._map_numbers = count()

    @property
    def n_workers(self) -> int:
        """Workers that are ready."""
        return len(self._pool.ready)

    @property
    def n_threads(self) -> int:
        """CPUs of a worker, of the smallest where they differ."""
        return min((member.n_cpus for member in self._pool.ready.values()), default=1)

    def map_ordered(
        self,
        function: TaskFunction[Any, Task, Result],
        shared: Shared,
        tasks: Sequence[Task],
        *,
        keys: Sequence[Hashable] | None = None,
        costs: Sequence[float] | None = None,
        prepare: Prepare[Shared, Any] | None = None,
        near: Sequence[Hashable] | None = None,
    ) -> Iterator[Result]:
        """Run the tasks on the workers; see `Executor.map_ordered`."""
        work = Work(function, shared, prepare)
        with closing(self._map(work, tasks, keys, costs, keeps_blocks=False, near=near)) as run:
            for finished in run:
                yield finished.report.summary

    def map_blocks(
        self,
        function: TaskFunction[Any, Task, tuple[Value, Result]],
        shared: Shared,
        tasks: Sequence[Task],
        *,
        keys: Sequence[Hashable] | None = None,
        costs: Sequence[float] | None = None,
        prepare: Prepare[Shared, Any] | None = None,
    ) -> Iterator[BlockResult[Value, Result]]:
        """Run the tasks on the workers, where the large parts of the results stay; see `Executor.map_blocks`."""
        with closing(self._map(Work(function, shared, prepare), tasks, keys, costs, keeps_blocks=True)) as run:
            for finished in run:
                report = finished.report
                block: RemoteBlock[Value] = RemoteBlock(finished.block, report.n_bytes)
                yield BlockResult(block, report.summary, finished.worker, report.seconds, report.prepare_s)

    def on_each_worker(self, function: TaskFunction[Shared, int, Result], shared: Shared) -> list[Result]:
        """Run the function in every worker at the same time; all over again when one of them is lost."""
        pool = self._require_open()
        work = pool.cluster.put(Work(function, shared, None))
        for attempt in range(MAX_LOSSES):
            if not pool.ready:
                pool.await_any()
            members = sorted(pool.ready.values(), key=lambda member: member.number)
            calls = [
                pool.cluster.call(member.handle, "run_once", [work], position)
                for position, member in enumerate(members)
            ]
            reports: list[Finished] = []
            for member, call in zip(members, calls, strict=True):
                try:
                    reports.append(Finished(None, pool.cluster.get(call), member.name))
                except WorkerGoneError as error:
                    pool.lose(member.number, str(error))
                    if attempt == MAX_LOSSES - 1:
                        raise lost_too_often(f"what every worker runs ended {member.name}", error) from None
            if len(reports) == len(members):
                break
        return [checked(report).report.summary for report in reports]

    def put(self, value: Value) -> Block[Value]:
        """Put a value into the object store of this machine."""
        return RemoteBlock(self._require_open().cluster.put(value), size_of(value))

    def fetch_each(self, blocks: Sequence[Block[Value]]) -> Iterator[Value]:
        """Give the values of blocks here, a few of them under way at a time; arrays in them are not writable."""
        pool = self._require_open()
        return pool.cluster.fetch_each([reference_of(block) for block in blocks])

    def release(self, owner: str) -> None:
        """Let every worker drop what it keeps for a job."""
        pool = self._require_open()
        for key in [key for key in pool.homes if isinstance(key, tuple) and key and key[0] == owner]:
            del pool.homes[key]
        pool.call_each("release", owner)

    @abstractmethod
    def close(self) -> None:
        """End the workers."""

    def _require_open(self) -> WorkerPool:
        if self._pool.is_closed:
            raise InputError("executor: it was closed, and its blocks are gone; open another one")
        return self._pool

    def _map(
        self,
        work: Work,
        tasks: Sequence[Any],
        keys: Sequence[Hashable] | None,
        costs: Sequence[float] | None,
        *,
        keeps_blocks: bool,
        near: Sequence[Hashable] | None = None,
    ) -> Generator[Finished, None, None]:
        pool = self._require_open()
        if not tasks:
            return
        reference = pool.cluster.put(work)
        number = next(self._map_numbers)
        yield from run_map(pool, number, reference, tasks, keys, costs, keeps_blocks=keeps_blocks, near=near)
