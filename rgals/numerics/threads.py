"""Threads: blocks of work over plain threads, and one BLAS thread inside each."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import cache
from itertools import count
from threading import Lock
from typing import Generic, TypeVar

from threadpoolctl import ThreadpoolController

__all__ = ["available_threads", "one_blas_thread", "run_blocks"]

Block = TypeVar("Block")
Result = TypeVar("Result")


def available_threads() -> int:
    """Count the processors that this process may run on."""
    return len(os.sched_getaffinity(0))


@cache
def _pool(n_threads: int, process_id: int) -> ThreadPoolExecutor:  # noqa: ARG001
    """Keep one pool per size and process: a forked child must not use its parent's threads."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="rgals")


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


class _SingleBlasThread:
    """Limits BLAS to one thread while anybody is inside; the last to leave restores the old limit.

    The limit belongs to the process. Were each caller to restore what it found, two that overlap could
    leave BLAS limited for good, or unlimited for the one that is still at work.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._n_inside = 0
        self._limits = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._n_inside == 0:
                self._limits.enter_context(_blas().limit(limits=1, user_api="blas"))
            self._n_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0:
                self._limits.close()


one_blas_thread = _SingleBlasThread()
"""Context in which BLAS runs on the calling thread alone, in the whole process.

Not only inside blocks: a worker of BLAS that has had something to do spins for tens of milliseconds
afterwards and takes its processor from the block that comes next.
"""


def run_blocks(function: Callable[[Block], Result], blocks: Sequence[Block], n_threads: int) -> list[Result]:
    """Run ``function`` on every block, taken by the next free thread, each with one BLAS thread.

    Parameters
    ----------
    function : callable
        Releases the interpreter lock in its kernels; called from several threads at once.
    blocks : sequence
        The work, heaviest first where that is known.
    n_threads : int
        Number of threads, at least 1; with 1 everything runs in the calling thread.

    Returns
    -------
    list
        The results in the order of ``blocks``. The first exception of a block is raised.

    Notes
    -----
    Nested BLAS threads oversubscribe the processors and can cost a factor of a hundred; the
    limit of one also makes each block's products independent of the number of threads.
    """
    with one_blas_thread:
        if n_threads == 1 or len(blocks) <= 1:
            return [function(block) for block in blocks]
        share = _Share(function, blocks)
        futures = [_pool(n_threads, os.getpid()).submit(share.work) for _ in range(min(n_threads, len(blocks)) - 1)]
        try:
            share.work()
        finally:
            share.is_ended = True
            wait(futures)
        return share.collect()


class _Share(Generic[Block, Result]):
    """Blocks that several threads, the calling one among them, take one by one.

    The threads meet only at the end: a handshake per block would cost as much as a small block.
    """

    def __init__(self, function: Callable[[Block], Result], blocks: Sequence[Block]) -> None:
        self._function = function
        self._blocks = blocks
        self._next = count()
        self._results: dict[int, Result] = {}
        self._errors: dict[int, BaseException] = {}
        self.is_ended = False

    def work(self) -> None:
        """Take blocks until there are none, or one has failed."""
        while not self.is_ended and (position := next(self._next)) < len(self._blocks):
            try:
                self._results[position] = self._function(self._blocks[position])
            except Exception as error:  # noqa: BLE001 - it is raised again in the calling thread
                self._errors[position] = error
                self.is_ended = True

    def collect(self) -> list[Result]:
        """Give the results in the order of the blocks, or raise the error of the first that failed."""
        if self._errors:
            raise self._errors[min(self._errors)]
        return [self._results[position] for position in range(len(self._blocks))]
