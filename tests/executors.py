"""An executor for tests: what a task gets and gives has passed through pickle, as between processes."""

import pickle
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from rgals.execution import InProcessExecutor


class PicklingExecutor(InProcessExecutor):
    """Pretends to have workers; remembers how many bytes each was sent."""

    def __init__(self, n_workers: int = 2, n_threads: int = 1) -> None:
        super().__init__(n_threads)
        self._n_workers = n_workers
        self.shared_bytes: list[int] = []
        self.task_bytes: list[int] = []

    @property
    def n_workers(self) -> int:
        return self._n_workers

    def map_ordered(
        self,
        function: Any,
        shared: Any,
        tasks: Sequence[Any],
        *,
        keys: Sequence[Hashable] | None = None,
        costs: Sequence[float] | None = None,
        prepare: Any = None,
    ) -> Iterator[Any]:
        sent = pickle.dumps((function, shared, prepare))
        self.shared_bytes.append(len(sent))
        function, shared, prepare = pickle.loads(sent)
        prepared = shared if prepare is None else prepare(shared, self._context)
        for position in range(len(tasks)):
            sent = pickle.dumps(tasks[position])
            self.task_bytes.append(len(sent))
            yield pickle.loads(pickle.dumps(function(prepared, pickle.loads(sent), self._context)))
