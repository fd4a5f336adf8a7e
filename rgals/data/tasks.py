"""Who runs the tasks of an ingest: the calling process, or the workers of an executor.

The executors live on the floor above; whatever has these two methods can be handed in, and every
`rgals.execution.executor.Executor` has. The results of a map come in task order, whoever ran it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

__all__ = ["SequentialRunner", "TaskRunner"]

Task = TypeVar("Task")
Result = TypeVar("Result")


class TaskRunner(Protocol):
    """Runs one module-level function over many tasks; see `rgals.execution.executor.Executor`."""

    @property
    def n_workers(self) -> int:
        """Number of processes that run tasks at the same time."""
        ...

    def map_ordered(
        self, function: Callable[[Any, Task, Any], Result], shared: Any, tasks: Sequence[Task]
    ) -> Iterator[Result]:
        """Run ``function(shared, task, context)`` for each task, and give the results in task order.

        An exception of a task is raised in its place. A task may run again, elsewhere, when its
        worker was lost.
        """
        ...

    def on_each_worker(self, function: Callable[[Any, int, Any], Result], shared: Any) -> list[Result]:
        """Run ``function(shared, position, context)`` once in every worker; give the results by position."""
        ...


class SequentialRunner:
    """Runs each task here, when its result is asked for; the tasks get None as their context."""

    @property
    def n_workers(self) -> int:
        """Always 1: the calling process."""
        return 1

    def map_ordered(
        self, function: Callable[[Any, Task, Any], Result], shared: Any, tasks: Sequence[Task]
    ) -> Iterator[Result]:
        """Run the tasks lazily, one after the other."""
        for task in tasks:
            yield function(shared, task, None)

    def on_each_worker(self, function: Callable[[Any, int, Any], Result], shared: Any) -> list[Result]:
        """Run the function here, once."""
        return [function(shared, 0, None)]
