"""A task runner for tests that treats tasks as badly as a cluster may."""

import pickle
from concurrent.futures import ThreadPoolExecutor

__all__ = ["ScrambledRunner", "run_sent"]


def run_sent(function, shared, task, context=None):
    """Run a call as another process would: everything is sent, and so is what comes back."""
    function, shared, task = pickle.loads(pickle.dumps((function, shared, task)))
    try:
        return pickle.loads(pickle.dumps((function(shared, task, context), None)))
    except Exception as error:  # noqa: BLE001 - raised again in its place
        return None, pickle.loads(pickle.dumps(error))


class ScrambledRunner:
    """Runs the tasks of a map in three threads, the last ones first, and every third one twice."""

    n_workers = 3

    def __init__(self):
        self.maps = []

    def map_ordered(self, function, shared, tasks):
        self.maps.append((function.__name__, len(tasks)))
        order = [*reversed(range(len(tasks))), *range(0, len(tasks), 3)]
        with ThreadPoolExecutor(self.n_workers) as pool:
            calls = [(place, pool.submit(run_sent, function, shared, tasks[place])) for place in order]
            outcomes = {place: call.result() for place, call in calls}
        for place in range(len(tasks)):
            result, error = outcomes[place]
            if error is not None:
                raise error
            yield result

    def on_each_worker(self, function, shared):
        return [function(shared, place, None) for place in range(self.n_workers)]
