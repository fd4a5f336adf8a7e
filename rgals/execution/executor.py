"""The executor protocol: who runs the tasks of a job, and where its blocks of data live.

An executor knows no steps of any job. It is handed a module-level function, what all tasks share,
and the tasks, and gives the results back **in task order**. A job that adds floating-point results
therefore adds them in the same order whoever ran the tasks, and its numbers do not depend on the
executor.

Large results stay where they were made, as a `Block`: only a handle comes back, which later tasks
hand to `WorkerContext.fetch`. A block is immutable and lives as long as its handle.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from rgals.numerics.threads import available_threads

__all__ = ["Block", "BlockResult", "Executor", "Prepare", "TaskFunction", "WorkerContext"]

Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)
Task = TypeVar("Task")
Shared = TypeVar("Shared")
Prepared = TypeVar("Prepared")
Result = TypeVar("Result")


class Block(Protocol[Value_co]):
    """A handle to an immutable value that an executor keeps; it can be part of a task."""

    @property
    def n_bytes(self) -> int:
        """Size of the value, in bytes; 0 where unknown."""
        ...


@dataclass(frozen=True, slots=True)
class BlockResult(Generic[Value, Result]):
    """What `Executor.map_blocks` gives back of one task.

    Parameters
    ----------
    block : Block
        The large part of the result, where the worker left it.
    summary : object
        The small part.
    worker : str
        Name of the worker that ran the task.
    seconds : float
        Seconds that the task took there, without the preparation.
    prepare_s : float
        Seconds that the preparation took before it; 0 but for a worker's first task.
    """

    block: Block[Value]
    summary: Result
    worker: str
    seconds: float
    prepare_s: float


class WorkerContext(Protocol):
    """What a task may ask of the worker that runs it."""

    @property
    def n_threads(self) -> int:
        """Threads that the task may use."""
        ...

    @property
    def worker(self) -> str:
        """Name of the worker, for messages."""
        ...

    def fetch(self, block: Block[Value]) -> Value:
        """Give the value of a block; arrays in it are not writable.

        Raises
        ------
        BlockLostError
            If the machine that held it is gone.
        """
        ...

    def fetch_each(self, blocks: Sequence[Block[Value]]) -> Iterator[Value]:
        """Give the values one after the other, with few of them under way at a time."""
        ...

    def resident(self, owner: str, key: Hashable, load: Callable[[], Value]) -> Value:
        """Give what this worker keeps under a key, loading it when it is not there.

        Parameters
        ----------
        owner : str
            The job that it belongs to; `Executor.release` drops all of a job.
        key : hashable
            The key. A task with the key ``(owner, key)`` is sent where the value is; when such a task goes to
            another worker all the same, the value is dropped where it was.
        load : callable
            Gives the value; it must be the same wherever and whenever it is called.
        """
        ...


TaskFunction: TypeAlias = Callable[[Shared, Task, WorkerContext], Result]
"""A module-level function without side effects on what it is given; called again when its worker was lost."""

Prepare: TypeAlias = Callable[[Shared, WorkerContext], Prepared]
"""A module-level function called once by each worker that takes part, before its first task."""


class Executor(ABC):
    """Runs one function over many tasks; a context manager that closes itself."""

    @property
    @abstractmethod
    def n_workers(self) -> int:
        """Number of processes that run tasks at the same time; it may change between two maps."""

    @property
    @abstractmethod
    def n_threads(self) -> int:
        """Number of threads that a task may use."""

    @property
    def caller_threads(self) -> int:
        """Number of threads that the calling process may use while no map is under way."""
        return available_threads()

    @abstractmethod
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
        """Run ``function(shared, task, context)`` for each task.

        Parameters
        ----------
        function : callable
            See `TaskFunction`.
        shared : object
            What every task reads and none may change; sent to each worker once.
        tasks : sequence
            One argument per call.
        keys : sequence of hashable or None
            For each task, what it finds with `WorkerContext.resident`, as ``(owner, key)``: the task goes to
            the worker that ran the last task of that key, unless that one is busy and another idle.
        costs : sequence of float or None
            For each task, its expected share of the work, in any unit; None: all the same.
        prepare : callable or None
            Called once in each worker; the tasks get its result in place of ``shared``.
        near : sequence of hashable or None
            In place of ``keys``: each task goes to the worker that ran the last task of that key, likewise, but what
            is kept there stays there. For tasks that only need a block of that worker.

        Yields
        ------
        object
            The results, in the order of ``tasks``; arrays in them may not be writable. An exception of a task is
            raised in its place, and later tasks may then never run. Leaving the iterator early is allowed.

        Raises
        ------
        WorkerLostError
            If workers were lost and the tasks cannot be run elsewhere.
        BlockLostError
            If a block that a task needs is gone.
        """

    @abstractmethod
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
        """Run as `map_ordered`; the first of the two things that the function gives stays in a block."""

    @abstractmethod
    def on_each_worker(self, function: TaskFunction[Shared, int, Result], shared: Shared) -> list[Result]:
        """Run ``function(shared, position, context)`` once in every worker; give the results by position."""

    @abstractmethod
    def put(self, value: Value) -> Block[Value]:
        """Keep a value as a block."""

    @abstractmethod
    def fetch_each(self, blocks: Sequence[Block[Value]]) -> Iterator[Value]:
        """Give the values of blocks here, one after the other; see `WorkerContext.fetch`."""

    def fetch(self, block: Block[Value]) -> Value:
        """Give the value of a block here; see `WorkerContext.fetch`."""
        return next(iter(self.fetch_each([block])))

    @abstractmethod
    def release(self, owner: str) -> None:
        """Let every worker drop what it keeps for a job."""

    @abstractmethod
    def close(self) -> None:
        """Release the workers; calling it twice is harmless."""

    def __enter__(self) -> "Executor":
        """Give the executor itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()
