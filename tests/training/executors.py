"""Executors that behave like a cluster in one process: everything is pickled, blocks get lost."""

import pickle

import numpy as np

from rgals.errors import BlockLostError
from rgals.execution import BlockResult, InProcessExecutor


class PickledBlock:
    """A value as its bytes: whoever fetches it gets a copy of its own that cannot be written to."""

    def __init__(self, value):
        self.buffers = []
        self.content = pickle.dumps(value, protocol=5, buffer_callback=self.buffers.append)
        self.n_bytes = len(self.content) + sum(len(buffer.raw()) for buffer in self.buffers)

    def __reduce__(self):
        return PickledBlock, (self.value(),)

    def value(self):
        return pickle.loads(self.content, buffers=[bytes(buffer.raw()) for buffer in self.buffers])


class PicklingExecutor(InProcessExecutor):
    """Sends whatever a cluster would send through pickle, and runs the tasks in the order last to first."""

    def map_ordered(self, function, shared, tasks, *, keys=None, costs=None, prepare=None, near=None):
        assert keys is None or len(keys) == len(tasks)
        assert near is None or (keys is None and len(near) == len(tasks))
        assert costs is None or len(costs) == len(tasks)
        results = [None] * len(tasks)
        if tasks:
            shared = through_pickle(shared)
            context = PickledContext(self._context)
            prepared = shared if prepare is None else prepare(shared, context)
            for index in reversed(range(len(tasks))):
                found = function(prepared, through_pickle(tasks[index]), context)
                results[index] = through_pickle(found)
        yield from results

    def map_blocks(self, function, shared, tasks, *, keys=None, costs=None, prepare=None):
        for value, summary in self.map_ordered(function, shared, tasks, keys=keys, costs=costs, prepare=prepare):
            yield BlockResult(self.put(value), summary, "worker", 0.0, 0.0)

    def put(self, value):
        return PickledBlock(value)

    def fetch_each(self, blocks):
        return (block.value() for block in blocks)


class LosingExecutor(InProcessExecutor):
    """Loses all blocks made before, at the calls of `map_blocks` that are named."""

    def __init__(self, lost_at, lost_reads=(), function="solve_shard"):
        super().__init__(1)
        self.function = function
        self.lost_at = set(lost_at)
        self.lost_reads = set(lost_reads)
        self.n_calls = self.n_reads = 0

    def map_blocks(self, function, shared, tasks, **options):
        if tasks and getattr(function, "__name__", "") == self.function:
            self.n_calls += 1
            if self.n_calls in self.lost_at:
                raise BlockLostError("node 10.0.0.7 left the cluster")
        if tasks and getattr(function, "__name__", "") == "_read_block":
            self.n_reads += 1
            if self.n_reads in self.lost_reads:
                raise BlockLostError("another node left the cluster")
        return super().map_blocks(function, shared, tasks, **options)


class PickledContext:
    def __init__(self, context):
        self._context = context
        self.n_threads, self.worker = context.n_threads, context.worker

    def fetch(self, block):
        return block.value()

    def fetch_each(self, blocks):
        return (block.value() for block in blocks)

    def resident(self, owner, key, load):
        return self._context.resident(owner, key, load)


def through_pickle(value):
    return PickledBlock(value).value()


def is_read_only(array):
    return isinstance(array, np.ndarray) and not array.flags.writeable
