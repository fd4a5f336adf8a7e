"""Where a worker computes: threads beside the event loop, a bounded queue, single lists gathered into one product."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from rgals.artifact.queries import RankingRequest
from rgals.artifact.recommend import Recommendations
from rgals.errors import RgalsError
from services.recommender.metrics import Metrics
from services.recommender.problems import ServiceError
from services.recommender.served import ServedModel

__all__ = ["Engine", "EngineOptions"]

Result = TypeVar("Result")

logger = logging.getLogger("rgals.service")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How much an engine takes on.

    Parameters
    ----------
    n_threads : int
        Threads that compute.
    queue_size : int
        Jobs that may wait; more are refused.
    max_gathered : int
        Most lists in one product; 1 ranks each alone.
    gather_s : float
        Seconds that a thread waits for more lists while others are under way.
    """

    n_threads: int
    queue_size: int
    max_gathered: int
    gather_s: float


@dataclass(slots=True, eq=False)
class _Job(Generic[Result]):
    """Work that somebody on the event loop waits for."""

    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Result]"
    deadline_s: float
    function: Callable[[], Result] | None = None
    model: ServedModel | None = None
    request: RankingRequest | None = None
    result: Any = None
    error: BaseException | None = field(default=None)


class Engine:
    """The computing threads of one worker.

    Parameters
    ----------
    options : EngineOptions
        How much it takes on.
    metrics : Metrics
        Where it counts.
    """

    def __init__(self, options: EngineOptions, metrics: Metrics) -> None:
        self._options, self._metrics = options, metrics
        self._jobs: deque[_Job[Any]] = deque()
        self._changed = threading.Condition()
        self._n_busy = 0
        self._last_gathered = 1
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"rgals-engine-{number}", daemon=True)
            for number in range(options.n_threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def n_threads(self) -> int:
        """Number of threads that compute."""
        return self._options.n_threads

    async def rank(
        self, model: ServedModel, request: RankingRequest, deadline_s: float
    ) -> Recommendations | RgalsError:
        """Rank one list, together with others that wait.

        Parameters
        ----------
        model : ServedModel
            Whose items.
        request : RankingRequest
            What is asked for.
        deadline_s : float
            Moment of `time.monotonic` after which nobody wants it any more.

        Raises
        ------
        ServiceError
            ``overloaded`` if too many wait; ``deadline`` if its moment has passed.
        """
        found: Recommendations | RgalsError = await self._submit(deadline_s, model=model, request=request)
        return found

    async def run(self, function: Callable[[], Result], deadline_s: float) -> Result:
        """Compute something else, such as neighbors; as `rank`."""
        found: Result = await self._submit(deadline_s, function=function)
        return found

    def close(self) -> None:
        """Let the threads end; jobs that wait are refused."""
        with self._changed:
            self._is_closed = True
            waiting = list(self._jobs)
            self._jobs.clear()
            self._changed.notify_all()
        for job in waiting:
            job.error = ServiceError("overloaded", "the service is being stopped; try again", {"Retry-After": "1"})
        self._deliver(waiting)
        for thread in self._threads:
            thread.join(timeout=5.0)

    async def _submit(self, deadline_s: float, **what: Any) -> Any:
        loop = asyncio.get_running_loop()
        job: _Job[Any] = _Job(loop, loop.create_future(), deadline_s, **what)
        with self._changed:
            if self._is_closed or len(self._jobs) >= self._options.queue_size:
                self._metrics.rejected.labels("queue").inc()
                raise ServiceError(
                    "overloaded",
                    f"{self._options.queue_size} requests wait already; try again in a second",
                    {"Retry-After": "1"},
                )
            self._jobs.append(job)
            self._changed.notify()
        try:
            async with asyncio.timeout(max(deadline_s - time.monotonic(), 0.0)):
                return await job.future
        except TimeoutError as error:
            self._metrics.rejected.labels("deadline").inc()
            raise ServiceError(
                "deadline", "the answer was not ready in time; ask for less, or allow more time", {"Retry-After": "1"}
            ) from error

    def _work(self) -> None:
        while (jobs := self._take()) is not None:
            try:
                self._compute(jobs)
            finally:
                with self._changed:
                    self._n_busy -= 1
                self._deliver(jobs)

    def _take(self) -> list[_Job[Any]] | None:
        """Wait for a job; give it with all that can share its product. None when the engine is closed."""
        with self._changed:
            while not self._jobs:
                if self._is_closed:
                    return None
                self._changed.wait()
            first = self._jobs.popleft()
            jobs = [first]
            if first.request is not None and self._options.max_gathered > 1:
                is_loaded = self._n_busy > 0 or self._last_gathered > 1
                self._gather(jobs)
                # Others are under way, so more come soon: a product of eight lists costs hardly more than one of one.
                if is_loaded and self._options.gather_s and len(jobs) < self._options.max_gathered:
                    end_s = time.monotonic() + self._options.gather_s
                    while len(jobs) < self._options.max_gathered and (left_s := end_s - time.monotonic()) > 0:
                        self._changed.wait(left_s)
                        self._gather(jobs)
                self._last_gathered = len(jobs)
            self._n_busy += 1
            if self._jobs:  # gathering may have used up the call that was meant for another thread
                self._changed.notify()
        return jobs

    def _gather(self, jobs: list[_Job[Any]]) -> None:
        """Take the lists that wait for the same model, up to the first other job."""
        while self._jobs and len(jobs) < self._options.max_gathered:
            following = self._jobs[0]
            if following.request is None or following.model is not jobs[0].model:
                break
            jobs.append(self._jobs.popleft())

    def _compute(self, jobs: Sequence[_Job[Any]]) -> None:
        now_s = time.monotonic()
        wanted = [job for job in jobs if now_s < job.deadline_s and not job.future.cancelled()]
        try:
            if not wanted:
                return
            first = wanted[0]
            if first.function is not None:
                first.result = first.function()
                return
            assert first.model is not None
            requests = [job.request for job in wanted if job.request is not None]
            self._metrics.gathered.observe(len(requests))
            n_threads = self._options.n_threads if len(requests) == 1 and self._is_quiet() else 1
            answers = first.model.model.answer(requests, n_threads=n_threads, index=first.model.index)
            for job, answer in zip(wanted, answers, strict=True):
                job.result = answer
        except Exception as error:  # noqa: BLE001 - it is raised again where somebody waits
            for job in wanted:
                job.error = error

    def _is_quiet(self) -> bool:
        """Whether nothing else is under way, so that a list may take all threads: a large catalog's is ready sooner."""
        with self._changed:
            return self._n_busy == 1 and not self._jobs

    def _deliver(self, jobs: Sequence[_Job[Any]]) -> None:
        """Hand results over to the event loop, all in one step."""
        if not jobs:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            jobs[0].loop.call_soon_threadsafe(_settle, jobs)


def _settle(jobs: Sequence[_Job[Any]]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
