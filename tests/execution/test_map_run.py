"""One map: what is handed out while a task is slow, and when a block is lost."""

from collections.abc import Sequence
from typing import Any

import pytest

from rgals.errors import BlockLostError
from rgals.execution.map_run import RESULTS_AHEAD
from rgals.execution.pooled import PooledExecutor
from rgals.execution.worker_pool import WorkerPool
from tests.execution.fake_cluster import FakeCluster, Reference


class Executor(PooledExecutor):
    def close(self) -> None:
        self._pool.close()


class StalledCluster(FakeCluster):
    """Runs the first worker only when no other has anything to do."""

    def wait(self, references: Sequence[Reference], timeout_s: float) -> list[Reference]:
        there = [reference for reference in references if reference.is_there]
        if not there:
            busy = [worker for worker in self.workers.values() if worker.calls and worker.number != 1]
            for worker in busy or list(self.workers.values()):
                self._run_one(worker)
            there = [reference for reference in references if reference.is_there]
        return there[:1]


STARTED: list[int] = []


def note(shared: None, task: int, context: Any) -> int:
    STARTED.append(task)
    return task


def lose_block(shared: None, task: int, context: Any) -> int:
    STARTED.append(task)
    if task == 7:
        raise BlockLostError("the node is gone")
    return task


@pytest.fixture
def executor() -> Any:
    STARTED.clear()
    pool = WorkerPool(StalledCluster({"a": 1, "b": 1}), None, None, start_timeout_s=10.0)
    pool.start()
    with Executor(pool) as found:
        yield found


def test_results_do_not_pile_up_behind_a_slow_task(executor: Executor) -> None:
    results = executor.map_ordered(note, None, range(100))
    assert next(results) == 0
    assert len(STARTED) <= 2 * (RESULTS_AHEAD + 2)
    assert list(results) == list(range(1, 100))


def test_tasks_with_keys_are_not_held_back(executor: Executor) -> None:
    keys = [("job", number) for number in range(100)]
    results = executor.map_ordered(note, None, range(100), keys=keys)
    assert next(results) == 0
    assert len(STARTED) > 50
    assert list(results) == list(range(1, 100))


def test_a_lost_block_starts_nothing_new(executor: Executor) -> None:
    with pytest.raises(BlockLostError, match="the node is gone"):
        next(executor.map_ordered(lose_block, None, range(100)))
    assert len(STARTED) < 20
