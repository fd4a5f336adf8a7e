"""What runs in a worker process; how values are fetched from elsewhere is handed in."""

import os
import platform
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Generic, TypeVar

import numpy as np
import scipy.linalg  # noqa: F401 - its BLAS must be there when the threads of every BLAS are limited

from rgals.errors import RgalsError
from rgals.execution.executor import Block, Prepare, TaskFunction
from rgals.numerics.threads import one_blas_thread

__all__ = [
    "Failure",
    "RemoteBlock",
    "Report",
    "Work",
    "Worker",
    "WorkerFacts",
    "limit_blas",
    "reference_of",
    "size_of",
    "versions",
]

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class RemoteBlock(Generic[Value]):
    """A block in an object store.

    Parameters
    ----------
    reference : object
        What the store calls it.
    n_bytes : int
        Size of the value.
    """

    reference: Any
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Work:
    """What all tasks of a map have in common.

    Parameters
    ----------
    function : callable
        The function of the tasks.
    shared : object
        What all of them read.
    prepare : callable or None
        Called once in each worker; gives what the tasks get in place of ``shared``.
    """

    function: TaskFunction[Any, Any, Any]
    shared: Any
    prepare: Prepare[Any, Any] | None


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception of a task, in parts: not every exception can be made again from its arguments.

    Parameters
    ----------
    kind : type
        Its type, `RuntimeError` where that cannot be sent.
    arguments : tuple
        What it is made of.
    state : dict
        Its attributes.
    trace : str
        Where it came from, as text.
    is_called : bool
        Whether its type is called with the arguments, or an instance is filled without.
    """

    kind: type[Exception]
    arguments: tuple[Any, ...]
    state: dict[str, Any]
    trace: str
    is_called: bool = False

    def as_error(self, worker: str) -> Exception:
        """Give the exception; one that rgals did not raise on purpose carries the worker's traceback as a note."""
        error = self.kind(*self.arguments) if self.is_called else self.kind.__new__(self.kind, *self.arguments)
        error.__dict__.update(self.state)
        if not isinstance(error, RgalsError):
            error.add_note(f"In {worker}:\n{self.trace}")
        return error


@dataclass(frozen=True, slots=True)
class Report:
    """What comes back of a task; of a failed one only ``failure`` counts.

    Parameters
    ----------
    summary : object
        The result, or its small part where the large one stays as a block.
    n_bytes : int
        Size of the block.
    seconds : float
        Seconds of the task without the preparation.
    prepare_s : float
        Seconds of the preparation, for a worker's first task of a map.
    failure : Failure or None
        The exception, if there was one.
    """

    summary: Any
    n_bytes: int
    seconds: float
    prepare_s: float
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What a worker says when it is ready.

    Parameters
    ----------
    name : str
        Its name.
    process_id : int
        Its process on its node.
    node : str
        Identifier of its node.
    versions : mapping
        Version of each package whose results must be the same everywhere.
    """

    name: str
    process_id: int
    node: str
    versions: Mapping[str, str]


def limit_blas() -> None:
    """Limit BLAS to one thread for the rest of this process: the threads of a task are its own."""
    for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # for a BLAS that is loaded later
    one_blas_thread.__enter__()


def versions() -> dict[str, str]:
    """Give the version of what decides whether two processes compute the same bits."""
    return {"rgals": version("rgals"), "numpy": np.__version__, "python": platform.python_version()}


def size_of(value: Any) -> int:
    """Give the bytes of the arrays in a value: an array, or a tuple, list or mapping of such."""
    if isinstance(value, tuple | list):
        return sum(size_of(part) for part in value)
    if isinstance(value, Mapping):
        return sum(size_of(part) for part in value.values())
    return int(getattr(value, "nbytes", 0))


class _Context:
    """What tasks may ask of a worker; see `rgals.execution.WorkerContext`."""

    def __init__(self, name: str, n_threads: int, fetch_each: Callable[[Sequence[Any]], Iterator[Any]]) -> None:
        self._name = name
        self._n_threads = n_threads
        self._fetch_each = fetch_each
        self._residents: dict[str, dict[Hashable, Any]] = {}

    @property
    def n_threads(self) -> int:
        return self._n_threads

    @property
    def worker(self) -> str:
        return self._name

    def fetch(self, block: Block[Value]) -> Value:
        return next(self.fetch_each([block]))

    def fetch_each(self, blocks: Sequence[Block[Value]]) -> Iterator[Value]:
        return self._fetch_each([reference_of(block) for block in blocks])

    def resident(self, owner: str, key: Hashable, load: Callable[[], Value]) -> Value:
        kept = self._residents.setdefault(owner, {})
        if key not in kept:
            kept[key] = load()
        value: Value = kept[key]
        return value

    def release(self, owner: str) -> None:
        self._residents.pop(owner, None)

    def forget(self, owner: str, key: Hashable) -> None:
        self._residents.get(owner, {}).pop(key, None)


def reference_of(block: Block[Any]) -> Any:
    """Give what the object store calls a block."""
    if not isinstance(block, RemoteBlock):
        raise TypeError(f"expected a block of this executor, found {type(block).__name__}")  # a bug
    return block.reference


class Worker:
    """Runs the tasks that it is sent, one after the other, and keeps what belongs to maps and jobs.

    Parameters
    ----------
    name : str
        Its name, for messages.
    node : str
        Identifier of its node.
    n_threads : int
        Threads that a task may use.
    fetch_each : callable
        Gives the values of references one after the other.
    is_portable : callable
        Says whether an object can be sent to another process.
    """

    def __init__(
        self,
        name: str,
        node: str,
        n_threads: int,
        fetch_each: Callable[[Sequence[Any]], Iterator[Any]],
        is_portable: Callable[[Any], bool],
    ) -> None:
        self._facts = WorkerFacts(name, os.getpid(), node, versions())
        self._context = _Context(name, n_threads, fetch_each)
        self._is_portable = is_portable
        self._prepared: dict[int, tuple[TaskFunction[Any, Any, Any], Any]] = {}

    def introduce(self) -> WorkerFacts:
        """Say that it is ready, and who it is."""
        return self._facts

    def run(self, map_number: int, work: Sequence[Any], task: Any) -> Report:
        """Run one task.

        Parameters
        ----------
        map_number : int
            The map that it belongs to.
        work : sequence of one reference
            The map's `Work`; fetched by a worker's first task of the map.
        task : object
            The task's argument.
        """
        return self._run(map_number, work, task)[1]

    def run_block(self, map_number: int, work: Sequence[Any], task: Any) -> tuple[Any, Report]:
        """Run one task, and give apart what stays as a block; see `run`."""
        value, report = self._run(map_number, work, task)
        if report.failure is not None:
            return None, report
        block, summary = value
        return block, Report(summary, size_of(block), report.seconds, report.prepare_s)

    def run_once(self, work: Sequence[Any], position: int) -> Report:
        """Run the function of a `Work` once, outside any map."""
        try:
            return self._run(-1, work, position)[1]
        finally:
            self.end_map(-1)

    def end_map(self, map_number: int) -> None:
        """Forget what belongs to a map."""
        self._prepared.pop(map_number, None)

    def forget(self, owner: str, key: Hashable) -> None:
        """Drop one resident value: its key went to another worker."""
        self._context.forget(owner, key)

    def release(self, owner: str) -> None:
        """Drop all resident values of a job."""
        self._context.release(owner)

    def _run(self, map_number: int, work: Sequence[Any], task: Any) -> tuple[Any, Report]:
        try:
            started = time.perf_counter()
            prepare_s = 0.0
            if map_number not in self._prepared:
                self._prepared[map_number] = self._prepare(work)
                prepare_s = time.perf_counter() - started
            function, prepared = self._prepared[map_number]
            started = time.perf_counter()
            value = function(prepared, task, self._context)
            return value, Report(value, 0, time.perf_counter() - started, prepare_s)
        except Exception as error:  # noqa: BLE001 - it is raised where the results are wanted
            return None, Report(None, 0, 0.0, 0.0, self._failure(error))

    def _prepare(self, work: Sequence[Any]) -> tuple[TaskFunction[Any, Any, Any], Any]:
        found: Work = next(self._context._fetch_each(work))
        prepared = found.shared if found.prepare is None else found.prepare(found.shared, self._context)
        return found.function, prepared

    def _failure(self, error: Exception) -> Failure:
        trace = "".join(traceback.format_exception(error))
        kind = type(error)
        error.__traceback__ = error.__cause__ = error.__context__ = None
        for failure in (
            Failure(kind, _arguments(error), dict(error.__dict__), trace, is_called=True),
            Failure(kind, error.args, dict(error.__dict__), trace),
            Failure(kind, error.args, {}, trace),
            Failure(kind, (str(error),), {}, trace),
        ):
            if self._is_portable(failure) and _text(failure) == str(error):
                return failure
        return Failure(RuntimeError, (f"{kind.__name__}: {error}",), {}, trace)


def _arguments(error: Exception) -> tuple[Any, ...]:
    """Give what the exception is made of; a file's name is no part of ``args``."""
    return error.__reduce__()[1] if isinstance(error, OSError) else error.args  # type: ignore[return-value]


def _text(failure: Failure) -> str | None:
    try:
        return str(failure.as_error(""))
    except Exception:  # noqa: BLE001 - an exception that cannot be made so
        return None
