"""The executor that runs everything in the calling process."""

import os
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rgals.errors import InputError
from rgals.execution.executor import Block, BlockResult, Executor, Prepare, TaskFunction

__all__ = ["InProcessExecutor"]

Value = TypeVar("Value")
Task = TypeVar("Task")
Shared = TypeVar("Shared")
Result = TypeVar("Result")

_NAME = "this process"


@dataclass(frozen=True, slots=True)
class _HeldValue(Generic[Value]):
    """A block that is simply the value."""

    value: Value

    @property
    def n_bytes(self) -> int:
        return int(getattr(self.value, "nbytes", 0))


class _Context:
    """What tasks may ask of this process."""

    def __init__(self, n_threads: int) -> None:
        self._n_threads = n_threads
        self._residents: dict[str, dict[Hashable, Any]] = {}

    @property
    def n_threads(self) -> int:
        return self._n_threads

    @property
    def worker(self) -> str:
        return _NAME

    def fetch(self, block: Block[Value]) -> Value:
        return _value_of(block)

    def fetch_each(self, blocks: Sequence[Block[Value]]) -> Iterator[Value]:
        return map(_value_of, blocks)

    def resident(self, owner: str, key: Hashable, load: Callable[[], Value]) -> Value:
        kept = self._residents.setdefault(owner, {})
        if key not in kept:
            kept[key] = load()
        value: Value = kept[key]
        return value

    def release(self, owner: str) -> None:
        self._residents.pop(owner, None)


class InProcessExecutor(Executor):
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
        self._context = _Context(n_threads if n_threads is not None else len(os.sched_getaffinity(0)))

    @property
    def n_workers(self) -> int:
        """Always 1: the calling process."""
        return 1

    @property
    def n_threads(self) -> int:
        """Threads of each task."""
        return self._context.n_threads

    @property
    def caller_threads(self) -> int:
        """The same: it is the same process."""
        return self._context.n_threads

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
        """Run the tasks lazily, one as each result is asked for; see `Executor.map_ordered`."""
        del keys, costs, near
        if not tasks:
            return
        prepared = shared if prepare is None else prepare(shared, self._context)
        for task in tasks:
            yield function(prepared, task, self._context)

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
        """Run the tasks lazily; see `Executor.map_blocks`."""
        del keys, costs
        if not tasks:
            return
        started = time.perf_counter()
        prepared = shared if prepare is None else prepare(shared, self._context)
        prepare_s = time.perf_counter() - started
        for task in tasks:
            started = time.perf_counter()
            value, summary = function(prepared, task, self._context)
            yield BlockResult(_HeldValue(value), summary, _NAME, time.perf_counter() - started, prepare_s)
            prepare_s = 0.0

    def on_each_worker(self, function: TaskFunction[Shared, int, Result], shared: Shared) -> list[Result]:
        """Run the function here, once."""
        return [function(shared, 0, self._context)]

    def put(self, value: Value) -> Block[Value]:
        """Hold on to the value."""
        return _HeldValue(value)

    def fetch_each(self, blocks: Sequence[Block[Value]]) -> Iterator[Value]:
        """Give the values themselves."""
        return self._context.fetch_each(blocks)

    def release(self, owner: str) -> None:
        """Drop what is kept for a job."""
        self._context.release(owner)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def _value_of(block: Block[Value]) -> Value:
    if not isinstance(block, _HeldValue):
        raise TypeError(f"expected a block of this executor, found {type(block).__name__}")  # a bug
    value: Value = block.value
    return value
