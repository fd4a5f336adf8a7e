"""The contract that every executor keeps."""

import pytest

from rgals.errors import InputError
from rgals.execution import Executor, InProcessExecutor


def add(shared: int, task: int, n_threads: int) -> tuple[int, int]:
    if task < 0:
        raise ValueError("negative")
    return shared + task, n_threads


class ExecutorContract:
    """Subclasses give ``make``; every executor passes all of it."""

    def make(self, n_threads: int) -> Executor:
        raise NotImplementedError

    def test_results_come_in_the_order_of_the_tasks(self) -> None:
        executor = self.make(2)
        assert list(executor.map_ordered(add, 10, [3, 1, 2])) == [(13, 2), (11, 2), (12, 2)]
        executor.close()

    def test_no_tasks_give_no_results(self) -> None:
        executor = self.make(1)
        assert list(executor.map_ordered(add, 10, [])) == []
        executor.close()

    def test_an_exception_is_raised_in_its_place(self) -> None:
        executor = self.make(1)
        results = executor.map_ordered(add, 0, [1, -1, 2])
        assert next(results) == (1, 1)
        with pytest.raises(ValueError, match="negative"):
            next(results)
        executor.close()

    def test_closing_twice_is_harmless(self) -> None:
        executor = self.make(1)
        executor.close()
        executor.close()

    def test_threads_are_at_least_one(self) -> None:
        with pytest.raises(InputError, match="n_threads: expected at least 1, found 0"):
            self.make(0)


class TestInProcessExecutor(ExecutorContract):
    def make(self, n_threads: int) -> Executor:
        return InProcessExecutor(n_threads)

    def test_is_one_worker_with_every_processor_unless_told_otherwise(self) -> None:
        assert InProcessExecutor().n_workers == 1
        assert InProcessExecutor().n_threads >= 1
