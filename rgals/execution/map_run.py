"""One map over the workers of a pool: hands out tasks, waits, starts again what was lost."""

import time
from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from rgals.errors import BlockLostError, WorkerLostError
from rgals.execution.schedule import Schedule
from rgals.execution.worker import Failure, Report
from rgals.execution.worker_pool import LOOK_INTERVAL_S, Member, WorkerGoneError, WorkerPool

__all__ = ["MAX_LOSSES", "Finished", "checked", "lost_too_often", "run_map"]

MAX_LOSSES = 3
"""Workers that one task may lose."""

LONGEST_FAREWELL_S = 60.0
"""How long a map that a task failed in waits for the tasks that workers already have."""

RESULTS_AHEAD = 4
"""Results per worker that may wait for an earlier one, where tasks have no keys."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A task that has ended.

    Parameters
    ----------
    block : object or None
        Reference of the large part of its result, where blocks are kept.
    report : Report
        The rest.
    worker : str
        Name of the worker that ran it.
    """

    block: Any
    report: Report
    worker: str


@dataclass(frozen=True, slots=True)
class _Call:
    position: int
    worker: int
    name: str
    block: Any


def run_map(
    pool: WorkerPool,
    number: int,
    work: Any,
    tasks: Sequence[Any],
    keys: Sequence[Hashable] | None,
    costs: Sequence[float] | None,
    *,
    keeps_blocks: bool,
    near: Sequence[Hashable] | None = None,
) -> Generator[Finished, None, None]:
    """Run the tasks of one map on a pool and give what comes back, in the order of the tasks.

    A map that a task fails in ends when what the workers were given has ended too: whoever cleans up
    after it is not disturbed by a straggler. One that its caller leaves, or that is interrupted, ends at once.

    Parameters
    ----------
    pool : WorkerPool
        The workers.
    number : int
        Tells this map from others.
    work : object
        Reference of the `rgals.execution.worker.Work`.
    tasks, keys, costs, near : sequence
        See `rgals.execution.Executor.map_ordered`.
    keeps_blocks : bool
        Whether the large part of each result stays where it was made.

    Raises
    ------
    WorkerLostError
        If a task lost its worker three times, or no worker is left.
    Exception
        What a task raised, in its place.
    """
    pool.look(is_forced=False)
    run = _MapRun(pool, number, work, tasks, keys, costs, keeps_blocks=keeps_blocks, near=near)
    try:
        for position in range(len(tasks)):
            while position not in run.finished:
                run.step(position)
            yield checked(run.finished.pop(position))
    except Exception:
        run.await_stragglers()
        raise
    finally:
        run.end()


class _MapRun:
    def __init__(
        self,
        pool: WorkerPool,
        number: int,
        work: Any,
        tasks: Sequence[Any],
        keys: Sequence[Hashable] | None,
        costs: Sequence[float] | None,
        *,
        keeps_blocks: bool,
        near: Sequence[Hashable] | None,
    ) -> None:
        self.finished: dict[int, Finished] = {}
        self._pool = pool
        self._number = number
        self._work = work
        self._tasks = tasks
        self._keys = keys
        if keys is not None and near is not None:
            raise ValueError("expected keys or near, found both")  # a bug
        # Keys of tasks that only go near something move nothing: their homes are noted in a copy.
        homes = pool.homes if near is None else dict(pool.homes)
        self._schedule = Schedule(len(tasks), keys if near is None else near, costs, homes, pool.ready)
        self._keeps_blocks = keeps_blocks
        self._calls: dict[Any, _Call] = {}
        self._n_losses: dict[int, int] = {}
        self._blamed: set[int] = set()

    def step(self, awaited: int) -> None:
        """Hand out what can be handed out, and wait until something has happened.

        Parameters
        ----------
        awaited : int
            The task whose result is wanted next.
        """
        pool = self._pool
        pool.look(is_forced=False)
        if not pool.ready and not self._calls:
            pool.await_any()
        for number in self._schedule.workers - pool.ready.keys():
            self._schedule.remove_worker(number)
        for number in pool.ready:
            self._schedule.add_worker(number)
        if not self._is_far_ahead(awaited):
            for may_move in (False, True):
                for member in list(pool.ready.values()):
                    self._feed(member, may_move=may_move)
        there = pool.cluster.wait([*self._calls, *pool.start_references()], LOOK_INTERVAL_S)
        pool.collect(there)
        for reference in [reference for reference in there if reference in self._calls]:
            self._receive(reference)

    def _is_far_ahead(self, awaited: int) -> bool:
        """Tell whether enough results wait for that of a slow task; tasks with keys are left to their workers."""
        if self._keys is not None or len(self.finished) < RESULTS_AHEAD * len(self._pool.ready):
            return False
        return any(call.position == awaited for call in self._calls.values())

    def await_stragglers(self) -> None:
        """Wait for what the workers have still to run of the map, but not for ever."""
        deadline = time.monotonic() + LONGEST_FAREWELL_S
        while self._calls and not self._pool.is_closed and time.monotonic() < deadline:
            for reference in self._pool.cluster.wait(list(self._calls), LOOK_INTERVAL_S):
                del self._calls[reference]

    def end(self) -> None:
        """Let the workers forget the map, after what they have still to run of it."""
        if not self._pool.is_closed:
            self._pool.call_each("end_map", self._number)
        self._calls.clear()
        self.finished.clear()

    def _feed(self, member: Member, *, may_move: bool) -> None:
        while True:
            n_outstanding = sum(call.worker == member.number for call in self._calls.values())
            assignment = self._schedule.take(member.number, n_outstanding, may_move=may_move)
            if assignment is None:
                return
            if assignment.left is not None:
                self._drop_resident(assignment.left, assignment.position)
            self._send(member, assignment.position)

    def _drop_resident(self, worker: int, position: int) -> None:
        """Let a worker drop what it keeps under the key of a task that goes elsewhere from now on."""
        if worker in self._pool.ready and self._keys is not None:
            match self._keys[position]:
                case (str(owner), key):
                    self._pool.cluster.call(self._pool.ready[worker].handle, "forget", owner, key)

    def _send(self, member: Member, position: int) -> None:
        arguments = (self._number, [self._work], self._tasks[position])
        if self._keeps_blocks:
            block, reference = self._pool.cluster.call(member.handle, "run_block", *arguments)
        else:
            block, reference = None, self._pool.cluster.call(member.handle, "run", *arguments)
        self._calls[reference] = _Call(position, member.number, member.name, block)

    def _receive(self, reference: Any) -> None:
        call = self._calls[reference]
        is_oldest = next(other for other in self._calls.values() if other.worker == call.worker) is call
        del self._calls[reference]
        try:
            report: Report = self._pool.cluster.get(reference)
        except WorkerGoneError as error:
            self._pool.lose(call.worker, str(error))
            self._schedule.remove_worker(call.worker)
            self._schedule.give_back(call.position)
            if is_oldest and call.worker not in self._blamed:  # what comes after it was only waiting there
                self._blamed.add(call.worker)
                self._count_loss(call, error)
            return
        except Exception as error:  # noqa: BLE001 - a task or a result that cannot be sent; raised in its place
            trace = "\n".join(getattr(error, "__notes__", []))
            report = Report(None, 0, 0.0, 0.0, Failure(type(error), error.args, {}, trace))
        failure = report.failure
        if failure is not None and issubclass(failure.kind, BlockLostError):
            # Whoever awaits an earlier result cannot use it either: it is better to know at once.
            raise failure.as_error(call.name)
        self.finished[call.position] = Finished(call.block, report, call.name)

    def _count_loss(self, call: _Call, error: WorkerGoneError) -> None:
        n_losses = self._n_losses[call.position] = self._n_losses.get(call.position, 0) + 1
        if n_losses >= MAX_LOSSES:
            raise lost_too_often(f"task {call.position} of {len(self._tasks)} ended {call.name}", error) from None


def checked(finished: Finished) -> Finished:
    """Raise what a task raised, or give what it left."""
    if finished.report.failure is not None:
        raise finished.report.failure.as_error(finished.worker)
    return finished


def lost_too_often(what: str, error: WorkerGoneError) -> WorkerLostError:
    """Say that something ends every worker that runs it."""
    return WorkerLostError(
        f"{what}, and {MAX_LOSSES - 1} workers before ({error}); most often the memory of the node does not suffice:"
        " use nodes with more memory, fewer workers on each, or smaller shards"
    )
