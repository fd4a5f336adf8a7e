"""What the tests let executors run: module-level functions, as workers import them by name."""

import os
import signal
import threading
import time
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

from rgals.errors import DataError
from rgals.execution import Block, WorkerContext

DEADLINE_S = 60.0


def add(shared: int, task: int, context: WorkerContext) -> int:
    if task < 0:
        raise ValueError(f"negative: {task}")
    return shared + task


def who(shared: object, task: object, context: WorkerContext) -> str:
    return context.worker


def threads(shared: object, task: object, context: WorkerContext) -> int:
    return context.n_threads


def blas_threads(shared: object, task: object, context: WorkerContext) -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def process(shared: object, task: object, context: WorkerContext) -> tuple[str, int]:
    return context.worker, os.getpid()


def fill(n_values: int, task: float, context: WorkerContext) -> tuple[NDArray[np.float32], float]:
    return np.full(n_values, task, np.float32), task


def fill_where(n_values: int, task: float, context: WorkerContext) -> tuple[NDArray[np.float32], tuple[str, int]]:
    return np.full(n_values, task, np.float32), (context.worker, os.getpid())


def fill_or_fail(n_values: int, task: float, context: WorkerContext) -> tuple[NDArray[np.float32], float]:
    if task < 0:
        raise DataError("a broken shard")
    return fill(n_values, task, context)


def total(shared: object, task: Block[NDArray[np.float32]], context: WorkerContext) -> float:
    return float(context.fetch(task).sum(dtype=np.float64))


def totals(
    shared: Sequence[Block[NDArray[np.float32]]], task: Sequence[Block[NDArray[np.float32]]], context: WorkerContext
) -> list[float]:
    return [float(value.sum(dtype=np.float64)) for value in context.fetch_each([*shared, *task])]


def is_writable(shared: object, task: Block[NDArray[np.float32]], context: WorkerContext) -> bool:
    value = context.fetch(task)
    return bool(value.flags.writeable or value.flags.owndata)


def prepare_once(folder: str, context: WorkerContext) -> str:
    """Leave a file for each call."""
    path = Path(folder) / f"{os.getpid()}-{time.monotonic_ns()}"
    path.touch()
    return str(path)


def prepared_path(shared: str, task: object, context: WorkerContext) -> tuple[str, int]:
    return shared, os.getpid()


def prepared_block(shared: str, task: float, context: WorkerContext) -> tuple[NDArray[np.float32], str]:
    return np.full(2, task, np.float32), shared


def fail_to_prepare(shared: object, context: WorkerContext) -> object:
    raise DataError("nothing to prepare")


def resident(shared: tuple[str, str], task: Hashable, context: WorkerContext) -> tuple[str, int, int]:
    """Give what is kept under the key, how often it was loaded in this process, and the process."""
    folder, owner = shared
    marks = Path(folder)

    def load() -> str:
        (marks / f"{os.getpid()}-{task}-{time.monotonic_ns()}").touch()
        return f"value of {task}"

    value = context.resident(owner, task, load)
    return value, len(list(marks.glob(f"{os.getpid()}-{task}-*"))), os.getpid()


def resident_in_step(
    shared: tuple[str, str], task: tuple[str, str | None, str | None], context: WorkerContext
) -> tuple[str, str]:
    """Keep something under a key, wait for one file, make another; give the key and the worker."""
    folder, owner = shared
    key, awaited, made = task
    context.resident(owner, key, lambda: key)
    wait_for(folder, awaited, context)
    if made is not None:
        Path(folder, made).touch()
    return key, context.worker


def n_resident(owner: str, position: int, context: WorkerContext) -> int:
    """Count what this worker keeps for a job; `load` must not be called for what is there."""
    kept: dict[str, dict[Hashable, Any]] = context._residents  # type: ignore[attr-defined]
    return len(kept.get(owner, {}))


def describe(shared: str, position: int, context: WorkerContext) -> tuple[str, int, str, int]:
    return shared, position, context.worker, os.getpid()


def sleep(seconds: float, task: object, context: WorkerContext) -> object:
    time.sleep(seconds)
    return task


def sleep_where(shared: object, task: float, context: WorkerContext) -> str:
    time.sleep(task)
    return context.worker


def wait_for(shared: str, task: str | None, context: WorkerContext) -> str:
    """Go on when a file is there; without a name, at once."""
    deadline = time.monotonic() + DEADLINE_S
    while task is not None and not Path(shared, task).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(task)
        time.sleep(0.01)
    return context.worker


def announce(shared: str, task: int, context: WorkerContext) -> int:
    """Say in which process the task runs, then go on when told to."""
    path = Path(shared, f"started-{task}-{os.getpid()}.part")
    path.touch()
    path.rename(path.with_suffix(""))
    if task == 0:
        wait_for(shared, "go", context)
    return task


def write_late(shared: str, task: int, context: WorkerContext) -> None:
    """Fail as the first task; as any other, write a file some time after the start."""
    if task == 0:
        raise OSError("the disk is full")
    time.sleep(0.3)
    Path(shared, f"written-{task}").touch()


def kill_itself(shared: int, task: int, context: WorkerContext) -> int:
    if task == shared:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def kill_itself_once(marker: str, task: int, context: WorkerContext) -> int:
    if task == 3:
        try:
            Path(marker).touch(exist_ok=False)
        except FileExistsError:
            return task
        os.kill(os.getpid(), signal.SIGKILL)
    return task


class TwoPartsError(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")
        self.first = first


class HoldsLockError(Exception):
    """Cannot be sent as it is."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


def raise_error(shared: str, task: object, context: WorkerContext) -> object:
    if shared == "two parts":
        raise TwoPartsError(1, 2)
    if shared == "lock":
        raise HoldsLockError("held")
    if shared == "local":

        class LocalError(Exception):
            lock = threading.Lock()

        raise LocalError("far away")
    if shared == "file":
        Path("/nonexistent/file").read_text()
    if shared == "cause":
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise DataError("outer") from error
    return threading.Lock()


class LoadsNowhere:
    """Cannot be taken in by any worker."""

    def __reduce__(self) -> Any:
        return __import__, ("a_module_that_is_nowhere",)
