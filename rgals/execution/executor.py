"""The executor protocol, and the executor that runs everything in the calling process.

An executor knows no steps of any job: it is handed a module-level function, what all tasks share,
and the tasks, and gives the results back **in task order**. A job that adds floating-point results
therefore adds them in the same order whoever ran the tasks, and its numbers do not depend on the
executor.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from rgals.errors import InputError

__all__ = ["Executor", "InProcessExecutor"]

Task = TypeVar("Task")
Shared = TypeVar("Shared")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs one function over many tasks."""

    @property
    def n_workers(self) -> int:
        """Number of processes that run tasks at the same time."""
        ...

    @property
    def n_threads(self) -> int:
        """Number of threads that a task may use."""
        ...

    def map_ordered(
        self, function: Callable[[Shared, Task, int], Result], shared: Shared, tasks: Sequence[Task]
    ) -> Iterator[Result]:
        """Run ``function(shared, task, n_threads)`` for each task.

        Parameters
        ----------
        function : callable
            A module-level function without side effects on ``shared``; it may be called again for a
            task whose worker was lost.
        shared : object
            What every task reads and none may change.
        tasks : sequence
            One argument per call.

        Yields
        ------
        object
            The results, in the order of ``tasks``. An exception of a task is raised in its place,
            and later tasks may then never run.
        """
        ...

    def close(self) -> None:
        """Release the workers; calling it twice is harmless."""
        ...


class InProcessExecutor:
    """Runs each task in the calling process, one after the other, with all threads.

    Parameters
    ----------
    n_threads : int or None
        Threads that each task may use; None takes the number of processors this process may run on.

    Raises
    ------
    InputError
        If ``n_threads`` is below 1.
    """

    def __init__(self, n_threads: int | None = None) -> None:
        if n_threads is not None and n_threads < 1:
            raise InputError(f"n_threads: expected at least 1, found {n_threads}; leave it out to use every processor")
        self._n_threads = n_threads if n_threads is not None else len(os.sched_getaffinity(0))

    @property
    def n_workers(self) -> int:
        """Always 1: the calling process."""
        return 1

    @property
    def n_threads(self) -> int:
        """Threads of each task."""
        return self._n_threads

    def map_ordered(
        self, function: Callable[[Shared, Task, int], Result], shared: Shared, tasks: Sequence[Task]
    ) -> Iterator[Result]:
        """Run the tasks lazily, one as each result is asked for; see `Executor.map_ordered`."""
        for task in tasks:
            yield function(shared, task, self._n_threads)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
