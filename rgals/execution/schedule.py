"""Which worker runs which task; nothing here knows how a worker is reached."""

from bisect import insort
from collections import deque
from collections.abc import Hashable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass

__all__ = ["MAX_OUTSTANDING", "Assignment", "Schedule"]

MAX_OUTSTANDING = 2
"""Tasks that a worker has at a time: one that runs, and one that waits there so that the worker never does."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The next task of a worker.

    Parameters
    ----------
    position : int
        Its position among the tasks.
    left : int or None
        The worker that ran the task's key last, where that is another one: what it keeps under the key is no
        longer needed there.
    """

    position: int
    left: int | None


class Schedule:
    """Hands out the tasks of one map.

    A task with a key goes to the worker that ran that key last. Keys never seen before are divided so that
    all workers get about the same cost: the costliest first, each to the worker with the least so far. Every
    worker runs its tasks in their order, so that results come in about the order in which they are wanted.
    Tasks without a key, and those of lost workers, go to whoever is free. A worker that has nothing left
    takes the last waiting task of the worker whose waiting tasks cost the most, and with it the key.

    Parameters
    ----------
    n_tasks : int
        Number of tasks.
    keys : sequence of hashable or None
        Key of each task.
    costs : sequence of float or None
        Cost of each task in any unit; None: all the same.
    homes : mutable mapping
        For each key, the worker that ran it last; kept up to date here.
    workers : iterable of int
        The workers that there are.
    """

    def __init__(
        self,
        n_tasks: int,
        keys: Sequence[Hashable] | None,
        costs: Sequence[float] | None,
        homes: MutableMapping[Hashable, int],
        workers: Iterable[int],
    ) -> None:
        if not all(given is None or len(given) == n_tasks for given in (keys, costs)):
            raise ValueError(f"expected a key and a cost for each of {n_tasks} tasks")  # a bug
        self._keys = keys
        self._costs = [1.0] * n_tasks if costs is None else [float(cost) for cost in costs]
        self._homes = homes
        self._queues: dict[int, deque[int]] = {worker: deque() for worker in workers}
        self._free: list[int] = []
        if keys is None or not self._queues:
            self._free = list(range(n_tasks))
        else:
            self._divide(keys)

    @property
    def workers(self) -> set[int]:
        """The workers that tasks are handed to."""
        return set(self._queues)

    @property
    def n_waiting(self) -> int:
        """Tasks that were not handed out yet, or were given back."""
        return len(self._free) + sum(len(queue) for queue in self._queues.values())

    def add_worker(self, worker: int) -> None:
        """Take in a worker; it gets tasks that nobody has, then those of the others."""
        self._queues.setdefault(worker, deque())

    def remove_worker(self, worker: int) -> None:
        """Forget a worker; its waiting tasks go to whoever is free."""
        for position in self._queues.pop(worker, ()):
            insort(self._free, position)

    def give_back(self, position: int) -> None:
        """Let a task be handed out again: its worker was lost."""
        insort(self._free, position)

    def take(self, worker: int, n_outstanding: int, *, may_move: bool = True) -> Assignment | None:
        """Hand out the next task.

        Parameters
        ----------
        worker : int
            Who asks.
        n_outstanding : int
            Tasks that it has already.
        may_move : bool
            Whether it may take tasks of others; not before everybody has got their own.

        Returns
        -------
        Assignment or None
            None if it has enough, or if there is nothing for it.
        """
        if n_outstanding >= MAX_OUTSTANDING:
            return None
        queue = self._queues[worker]
        if self._free and (not queue or self._free[0] < queue[0]):
            position = self._free.pop(0)
        elif queue:
            position = queue.popleft()
        elif may_move and n_outstanding == 0 and (victim := self._most_behind()) is not None:
            position = self._queues[victim].pop()
        else:
            return None
        return Assignment(position, self._move_key(position, worker))

    def _divide(self, keys: Sequence[Hashable]) -> None:
        loads = dict.fromkeys(self._queues, 0.0)
        unseen: dict[Hashable, list[int]] = {}
        for position, key in enumerate(keys):
            home = self._homes.get(key)
            if home in loads:
                self._queues[home].append(position)
                loads[home] += self._costs[position]
            else:
                unseen.setdefault(key, []).append(position)
        costs = {key: sum(self._costs[position] for position in positions) for key, positions in unseen.items()}
        for key in sorted(unseen, key=lambda key: (-costs[key], unseen[key][0])):
            worker = min(loads, key=lambda worker: (loads[worker], worker))
            self._queues[worker].extend(unseen[key])
            loads[worker] += costs[key]
        self._queues = {worker: deque(sorted(queue)) for worker, queue in self._queues.items()}

    def _most_behind(self) -> int | None:
        waiting = {worker: sum(self._costs[p] for p in queue) for worker, queue in self._queues.items() if queue}
        return max(waiting, key=lambda worker: (waiting[worker], -worker)) if waiting else None

    def _move_key(self, position: int, worker: int) -> int | None:
        """Note where the key is from now on; give the worker that had it, where it is another that lives."""
        if self._keys is None:
            return None
        before = self._homes.get(self._keys[position])
        self._homes[self._keys[position]] = worker
        return before if before != worker and before in self._queues else None
