"""What runs in a worker, here in this process."""

import errno
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from rgals.errors import DataError, InputError
from rgals.execution import WorkerContext
from rgals.execution.worker import Failure, RemoteBlock, Work, Worker, size_of, versions


def fetch_each(references: Sequence[Any]) -> Iterator[Any]:
    yield from references


def make_worker(is_portable: bool = True) -> Worker:
    return Worker("worker 1", "node", 3, fetch_each, lambda value: is_portable)


def describe(shared: object, task: object, context: WorkerContext) -> tuple[object, object, int, str]:
    return shared, task, context.n_threads, context.worker


def split(shared: object, task: int, context: WorkerContext) -> tuple[Any, int]:
    return np.zeros(task), task


def fetch(shared: object, task: Sequence[RemoteBlock[int]], context: WorkerContext) -> list[int]:
    return [context.fetch(task[0]), *context.fetch_each(task)]


def keep(shared: str, task: object, context: WorkerContext) -> object:
    return context.resident(shared, task, object)


def fail(shared: Exception, task: object, context: WorkerContext) -> object:
    raise shared


def prepare(shared: list[str], context: WorkerContext) -> str:
    shared.append(context.worker)
    return f"prepared {len(shared)}"


def test_a_task_gets_what_is_shared_and_the_context() -> None:
    report = make_worker().run(1, [Work(describe, "shared", None)], "task")
    assert report.summary == ("shared", "task", 3, "worker 1")
    assert report.failure is None
    assert report.seconds >= 0


def test_the_preparation_runs_once_for_each_map() -> None:
    worker = make_worker()
    work = Work(describe, [], prepare)
    assert [worker.run(1, [work], n).summary[0] for n in range(3)] == ["prepared 1"] * 3
    assert worker.run(2, [work], 0).summary[0] == "prepared 2"
    assert worker.run(1, [work], 0).summary[0] == "prepared 1"
    worker.end_map(1)
    worker.end_map(7)
    assert worker.run(1, [work], 0).summary[0] == "prepared 3"


def test_the_time_of_the_preparation_is_that_of_the_first_task() -> None:
    worker = make_worker()
    times = [worker.run_block(1, [Work(split, None, None)], 3)[1].prepare_s for _ in range(3)]
    assert times[0] > 0
    assert times[1:] == [0.0, 0.0]


def test_a_block_comes_apart_from_its_summary() -> None:
    block, report = make_worker().run_block(1, [Work(split, None, None)], 5)
    np.testing.assert_array_equal(block, np.zeros(5))
    assert (report.summary, report.n_bytes) == (5, 40)


def test_what_every_worker_runs_belongs_to_no_map() -> None:
    worker = make_worker()
    assert worker.run_once([Work(describe, "one", None)], 4).summary[:2] == ("one", 4)
    assert worker.run_once([Work(describe, "two", None)], 4).summary[:2] == ("two", 4)


def test_blocks_are_fetched() -> None:
    blocks = [RemoteBlock(value, 0) for value in (1, 2, 3)]
    assert make_worker().run(1, [Work(fetch, None, None)], blocks).summary == [1, 1, 2, 3]
    failure = make_worker().run(1, [Work(fetch, None, None)], ["no block"]).failure
    assert failure is not None
    assert failure.kind is TypeError


def test_residents_live_until_they_are_forgotten_or_their_job_is_released() -> None:
    worker = make_worker()

    def get(owner: str, key: str) -> object:
        return worker.run(1 if owner == "one" else 2, [Work(keep, owner, None)], key).summary

    a, b, other = get("one", "a"), get("one", "b"), get("two", "a")
    assert get("one", "a") is a
    assert len({id(value) for value in (a, b, other)}) == 3
    worker.forget("one", "a")
    worker.forget("nobody", "a")
    assert get("one", "a") is not a
    assert get("one", "b") is b
    worker.release("one")
    worker.release("nobody")
    assert get("one", "b") is not b
    assert get("two", "a") is other


def test_a_worker_says_who_it_is() -> None:
    facts = make_worker().introduce()
    assert (facts.name, facts.node) == ("worker 1", "node")
    assert facts.versions == versions()
    assert set(versions()) == {"rgals", "numpy", "python"}


class StubbornError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one}, {two}")
        self.one = one


class SpeakingError(Exception):
    def __str__(self) -> str:
        return "always this"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("plain"),
        ValueError(),
        KeyError("key"),
        InputError("where: expected, found"),
        StubbornError(1, 2),
        SpeakingError("hidden"),
        OSError(errno.ENOENT, "gone", "file"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ExceptionGroup("group", [ValueError("one")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_can_be_made_again(error: Exception) -> None:
    failure = make_worker().run(1, [Work(fail, error, None)], 0).failure
    assert failure is not None
    made = failure.as_error("worker 1")
    assert type(made) is type(error)
    assert str(made) == str(error)
    assert made.args == error.args
    assert getattr(made, "one", None) == getattr(error, "one", None)
    assert getattr(made, "filename", None) == getattr(error, "filename", None)
    assert hasattr(made, "__notes__") == (not isinstance(error, InputError))


def test_an_exception_that_cannot_be_sent_is_told_in_words() -> None:
    failure = make_worker(is_portable=False).run(1, [Work(fail, StubbornError(1, 2), None)], 0).failure
    assert failure is not None
    made = failure.as_error("worker 1")
    assert type(made) is RuntimeError
    assert str(made) == "StubbornError: 1, 2"
    assert "In worker 1:\nTraceback" in made.__notes__[0]


def test_an_exception_holds_no_frames_of_the_worker() -> None:
    error = DataError("broken")
    error.__cause__ = ValueError("inner")
    failure = make_worker().run(1, [Work(fail, error, None)], 0).failure
    assert isinstance(failure, Failure)
    assert "inner" in failure.trace
    assert error.__traceback__ is None
    assert error.__cause__ is None


def test_the_size_of_a_value_is_that_of_its_arrays() -> None:
    array = np.zeros(3, np.float32)
    assert size_of(array) == 12
    assert size_of((array, [array, {"a": array}])) == 36
    assert size_of("text") == 0


def test_blas_is_limited_for_good() -> None:
    code = (
        "from rgals.execution.worker import limit_blas; limit_blas()\n"
        "import numpy, scipy.linalg, threadpoolctl\n"
        "from rgals.numerics.threads import run_blocks\n"
        "run_blocks(lambda block: block, [1, 2, 3], 2)\n"
        "print({pool['num_threads'] for pool in threadpoolctl.threadpool_info() if pool['user_api'] == 'blas'})"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "{1}\n"
