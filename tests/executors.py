"""An executor for tests: what a task gets and gives has passed through pickle, as between processes."""

import pickle
from collections.abc import Sequence
from typing import Any

from rgals.execution import Executor, InProcessExecutor


class PicklingExecutor(Executor):
    """Pretends to have workers; remembers how many bytes were sent to them."""

    def __init__(self, n_workers: int = 2, n_threads: int = 1) -> None:
        self._inner = InProcessExecutor(n_threads)
        self._n_workers = n_workers
        self.shared_bytes: list[int] = []
        self.task_bytes: list[int] = []

    @property
    def n_workers(self) -> int:
        return self._n_workers

    @property
    def n_threads(self) -> int:
        return self._inner.n_threads

    def map_ordered(self, function, shared, tasks: Sequence[Any], *, keys=None, costs=None, prepare=None, near=None):
        sent = pickle.dumps((shared, prepare))
        self.shared_bytes.append(len(sent))
        shared, prepare = pickle.loads(sent)

        def through_pickle(work: Any, task: Any, context: Any) -> Any:
            function, task = pickle.loads(task)
            return pickle.dumps(function(work, task, context))

        for position in range(len(tasks)):
            sent = pickle.dumps((function, tasks[position]))
            self.task_bytes.append(len(sent))
            (result,) = self._inner.map_ordered(through_pickle, shared, [sent], prepare=prepare)
            yield pickle.loads(result)

    def map_blocks(self, function, shared, tasks, *, keys=None, costs=None, prepare=None):
        raise NotImplementedError

    def on_each_worker(self, function, shared):
        raise NotImplementedError

    def put(self, value):
        raise NotImplementedError

    def fetch_each(self, blocks):
        raise NotImplementedError

    def release(self, owner: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass
