"""Computing beside the event loop: gathering, a queue with an end, deadlines."""

import asyncio
import threading
import time
from datetime import UTC, datetime

import pytest

from rgals.artifact.queries import RankingRequest
from rgals.artifact.recommend import Recommendations
from services.recommender.engine import Engine, EngineOptions
from services.recommender.metrics import Metrics
from services.recommender.problems import ServiceError
from services.recommender.served import ServedModel
from tests.artifact.model_factory import Parts, ids_of


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    model = Parts(20, 30, 3, density=0.3).write(tmp_path_factory.mktemp("engine") / "model")
    return ServedModel(model, "v", datetime.now(UTC))


def later(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


def engine(**changes: float) -> tuple[Engine, Metrics]:
    options = {"n_threads": 1, "queue_size": 100, "max_gathered": 8, "gather_s": 0.0, **changes}
    metrics = Metrics()
    return Engine(EngineOptions(**options), metrics), metrics


class Blocked:
    """Keeps a thread of an engine busy until it is let go."""

    def __init__(self) -> None:
        self.is_running = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> str:
        self.is_running.set()
        assert self.may_end.wait(30)
        return "done"


async def started(machine: Engine) -> tuple[Blocked, "asyncio.Task[str]"]:
    blocked = Blocked()
    task = asyncio.create_task(machine.run(blocked, later()))
    while not blocked.is_running.is_set():
        await asyncio.sleep(0.001)
    return blocked, task


def gathered_sizes(metrics: Metrics) -> tuple[float, float]:
    """Give the number of products and of the lists in them."""
    samples = {sample.name: sample.value for found in metrics.gathered.collect() for sample in found.samples}
    return samples["rgals_gathered_requests_count"], samples["rgals_gathered_requests_sum"]


def test_lists_that_wait_share_one_product_and_are_what_each_would_be_alone(served):
    users = ids_of(served.model.user_ids)
    requests = [RankingRequest(k=1 + number % 5, user_id=user) for number, user in enumerate(users)]

    async def run() -> list:
        blocked, task = await started(machine)
        waiting = [asyncio.create_task(machine.rank(served, request, later())) for request in requests]
        await asyncio.sleep(0.02)
        blocked.may_end.set()
        await task
        return await asyncio.gather(*waiting)

    machine, metrics = engine()
    found = asyncio.run(run())
    machine.close()
    assert found == served.model.answer(requests)
    n_products, n_lists = gathered_sizes(metrics)
    assert n_lists == len(requests)
    assert n_products == 3  # 20 lists, eight at once


def test_without_gathering_every_list_is_alone(served):
    async def run() -> None:
        blocked, task = await started(machine)
        waiting = [
            asyncio.create_task(machine.rank(served, RankingRequest(user_id=user), later()))
            for user in ids_of(served.model.user_ids)[:5]
        ]
        await asyncio.sleep(0.02)
        blocked.may_end.set()
        await asyncio.gather(task, *waiting)

    machine, metrics = engine(max_gathered=1)
    asyncio.run(run())
    machine.close()
    assert gathered_sizes(metrics) == (5, 5)


def test_a_list_takes_all_threads_only_while_nothing_else_is_under_way(served, monkeypatch):
    taken: list[int] = []
    answer = type(served.model).answer

    def watched(self, requests, *, n_threads, index):
        taken.append(n_threads)
        return answer(self, requests, n_threads=n_threads, index=index)

    monkeypatch.setattr(type(served.model), "answer", watched)
    request = RankingRequest(user_id=ids_of(served.model.user_ids)[0])

    async def run() -> None:
        await machine.rank(served, request, later())
        blocked, task = await started(machine)
        await machine.rank(served, request, later())
        blocked.may_end.set()
        await task

    machine, _ = engine(n_threads=3)
    asyncio.run(run())
    machine.close()
    assert taken == [3, 1]


def test_lists_of_two_models_are_not_mixed(served, tmp_path):
    other = ServedModel(Parts(20, 30, 3, seed=9).write(tmp_path / "m"), "w", datetime.now(UTC))
    user = ids_of(served.model.user_ids)[0]

    async def run() -> list:
        blocked, task = await started(machine)
        models = [served, other, served, other]
        waiting = [asyncio.create_task(machine.rank(m, RankingRequest(user_id=user), later())) for m in models]
        await asyncio.sleep(0.02)
        blocked.may_end.set()
        await task
        return await asyncio.gather(*waiting)

    machine, _ = engine()
    found = asyncio.run(run())
    machine.close()
    assert found[0] == found[2] == served.model.answer([RankingRequest(user_id=user)])[0]
    assert found[1] == found[3] == other.model.answer([RankingRequest(user_id=user)])[0]
    assert found[0] != found[1]


def test_a_full_queue_refuses_and_what_waits_is_answered(served):
    user = ids_of(served.model.user_ids)[0]

    async def run() -> None:
        blocked, task = await started(machine)
        waiting = [asyncio.create_task(machine.rank(served, RankingRequest(user_id=user), later())) for _ in range(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(ServiceError, match="wait already") as caught:
            await machine.rank(served, RankingRequest(user_id=user), later())
        assert (caught.value.kind, caught.value.status, caught.value.headers) == (
            "overloaded",
            503,
            {"Retry-After": "1"},
        )
        blocked.may_end.set()
        await task
        assert all(isinstance(found, Recommendations) for found in await asyncio.gather(*waiting))

    machine, metrics = engine(queue_size=2)
    asyncio.run(run())
    machine.close()
    assert metrics.rejected.labels("queue")._value.get() == 1


def test_who_waits_too_long_is_told_and_not_computed(served):
    user = ids_of(served.model.user_ids)[0]

    async def run() -> None:
        blocked, task = await started(machine)
        before = time.monotonic()
        with pytest.raises(ServiceError, match="not ready in time") as caught:
            await machine.rank(served, RankingRequest(user_id=user), later(0.05))
        assert caught.value.status == 504
        assert time.monotonic() - before < 5
        blocked.may_end.set()
        await task
        await machine.run(lambda: None, later())  # whatever was in the queue before it is done

    machine, metrics = engine()
    asyncio.run(run())
    machine.close()
    assert metrics.rejected.labels("deadline")._value.get() == 1
    assert gathered_sizes(metrics) == (0, 0)


def test_an_error_goes_to_who_asked_and_the_thread_lives_on():
    async def run() -> None:
        with pytest.raises(ZeroDivisionError):
            await machine.run(lambda: 1 / 0, later())
        assert await machine.run(lambda: 7, later()) == 7

    machine, _ = engine()
    asyncio.run(run())
    machine.close()


def test_closing_refuses_what_waits_and_ends_the_threads(served):
    async def run() -> None:
        blocked, task = await started(machine)
        waiting = asyncio.create_task(machine.run(lambda: 1, later()))
        await asyncio.sleep(0.01)
        threading.Timer(0.05, blocked.may_end.set).start()
        await asyncio.to_thread(machine.close)
        with pytest.raises(ServiceError, match="being stopped"):
            await waiting
        await task
        with pytest.raises(ServiceError):
            await machine.run(lambda: 1, later())

    machine, _ = engine()
    asyncio.run(run())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rgals-engine")]


def test_under_load_a_thread_waits_a_moment_for_more(served):
    users = ids_of(served.model.user_ids)

    async def run() -> None:
        blocked, task = await started(machine)  # one of two threads is busy: that is load
        waiting = []
        for user in users[:4]:
            waiting.append(asyncio.create_task(machine.rank(served, RankingRequest(user_id=user), later())))
            await asyncio.sleep(0.01)
        await asyncio.gather(*waiting)
        blocked.may_end.set()
        await task

    machine, metrics = engine(n_threads=2, gather_s=1.0, max_gathered=4)
    asyncio.run(run())
    machine.close()
    assert gathered_sizes(metrics) == (1, 4)
