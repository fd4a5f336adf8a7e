"""The pool of workers, maps over it and what goes wrong, on a cluster without processes."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rgals.errors import ClusterError, WorkerLostError
from rgals.execution import Executor, worker_pool
from rgals.execution.pooled import PooledExecutor
from rgals.execution.worker_pool import NodeFacts, WorkerPool, share_cpus
from tests.execution import tasks
from tests.execution.contract import ExecutorContract
from tests.execution.fake_cluster import FakeCluster

pytestmark = pytest.mark.timeout(60)


class FakeExecutor(PooledExecutor):
    def close(self) -> None:
        self._pool.close()


class Clock:
    """Time that passes only when somebody sleeps or looks."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        self.now += 0.01
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(worker_pool, "time", found)
    return found


def start(cluster: FakeCluster, n_wanted: int | None = None, worker_cpus: int | None = None) -> WorkerPool:
    pool = WorkerPool(cluster, n_wanted, worker_cpus, start_timeout_s=10.0)
    pool.start()
    return pool


class TestContract(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        pool = start(FakeCluster({"a": 2, "b": 2, "c": 2}))
        with FakeExecutor(pool) as executor:
            yield executor

    def test_every_worker_runs_a_function_once(self, executor: Executor) -> None:
        found = executor.on_each_worker(tasks.describe, "shared")
        assert [(position, worker) for _, position, worker, _ in found] == [
            (0, "node a, worker 1"),
            (1, "node b, worker 2"),
            (2, "node c, worker 3"),
        ]

    def test_the_preparation_runs_once_in_each_worker_that_takes_part(self, executor: Executor, tmp_path: Path) -> None:
        # All are one process here.
        list(executor.map_ordered(tasks.prepared_path, str(tmp_path), range(12), prepare=tasks.prepare_once))
        assert len(list(tmp_path.iterdir())) == 3


class TestStart:
    def test_a_worker_starts_on_every_node_with_all_its_cpus(self) -> None:
        pool = start(FakeCluster({"a": 4, "b": 8}))
        assert {(member.node, member.n_cpus, member.name) for member in pool.ready.values()} == {
            ("a", 4, "node a, worker 1"),
            ("b", 8, "node b, worker 2"),
        }

    def test_nodes_with_too_few_cpus_are_left_out(self) -> None:
        pool = start(FakeCluster({"a": 4, "b": 8}), worker_cpus=6)
        assert [(member.node, member.n_cpus) for member in pool.ready.values()] == [("b", 6)]

    def test_as_many_workers_as_asked_for(self) -> None:
        assert len(start(FakeCluster({"a": 4}), n_wanted=3, worker_cpus=1).ready) == 3

    def test_some_workers_are_enough_with_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        cluster = FakeCluster({"a": 1})
        cluster.start_worker = _only_first(cluster)  # type: ignore[method-assign]
        with caplog.at_level(logging.WARNING):
            pool = start(cluster, n_wanted=3, worker_cpus=1)
        assert len(pool.ready) == 1
        assert "1 of 3 workers are ready after 10 s" in caplog.text
        assert len(pool.starting) == 2

    def test_without_any_worker_the_message_compares_cpus(self) -> None:
        with pytest.raises(
            ClusterError, match=r"within 10 s; asked for: 2 with 9 CPUs each; CPUs of .* a: 4, .* b: 2;"
        ):
            start(FakeCluster({"a": 4, "b": 2}), n_wanted=2, worker_cpus=9)
        with pytest.raises(ClusterError, match=r"asked for: 1 with all CPUs of a node each; .* by node: none; ask"):
            start(FakeCluster({}))

    def test_workers_that_cannot_start_are_given_up_with_the_reason(self, clock: Clock) -> None:
        cluster = FakeCluster({"a": 1})
        cluster.fails_to_start = lambda number: True
        with pytest.raises(ClusterError, match="no module named rgals"):
            start(cluster)
        assert len(cluster.workers) == 3
        assert cluster.stopped == [1, 2, 3]

    def test_a_start_that_fails_once_is_tried_again(self) -> None:
        cluster = FakeCluster({"a": 1})
        cluster.fails_to_start = lambda number: number == 1
        assert list(start(cluster).ready) == [2]

    def test_a_node_with_another_version_is_an_error_that_names_both(self) -> None:
        cluster = FakeCluster({"a": 1, "b": 1})
        cluster.other_versions["b"] = {"numpy": "1.0"}
        with pytest.raises(ClusterError, match=r"node b, worker 2: found numpy 1.0, expected numpy \d.*same versions"):
            start(cluster)


class TestLater:
    def test_a_node_that_joins_gets_a_worker(self, clock: Clock) -> None:
        cluster = FakeCluster({"a": 1})
        pool = start(cluster)
        executor = FakeExecutor(pool)
        cluster.node_cpus["b"] = 1
        clock.sleep(2)
        assert set(executor.map_ordered(tasks.who, None, range(20))) == {"node a, worker 1", "node b, worker 2"}

    def test_a_node_that_joins_with_another_version_is_not_used(
        self, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        cluster = FakeCluster({"a": 1})
        executor = FakeExecutor(start(cluster))
        cluster.node_cpus["b"] = 1
        cluster.other_versions["b"] = {"rgals": "9"}
        for _ in range(3):
            clock.sleep(2)
            assert set(executor.map_ordered(tasks.who, None, range(9))) == {"node a, worker 1"}
        assert caplog.text.count("node b, worker 2 is not used: found rgals 9") == 1
        assert list(cluster.workers) == [1, 2]

    def test_a_node_that_leaves_takes_its_worker_along(self, clock: Clock) -> None:
        cluster = FakeCluster({"a": 1, "b": 1})
        executor = FakeExecutor(start(cluster))
        results = executor.map_ordered(tasks.who, None, range(20), keys=[("job", n) for n in range(20)])
        assert next(results)
        cluster.lose_node("a")
        clock.sleep(2)
        assert list(results)[-4:] == ["node b, worker 2"] * 4
        assert executor.n_workers == 1
        assert 1 in cluster.stopped

    def test_nothing_is_sent_to_a_node_that_has_left_between_two_maps(self, clock: Clock) -> None:
        cluster = FakeCluster({"a": 1, "b": 1})
        executor = FakeExecutor(start(cluster))
        cluster.lose_node("a")
        clock.sleep(2)
        assert list(executor.map_ordered(tasks.who, None, range(6))) == ["node b, worker 2"] * 6
        assert {number for number, *_ in cluster.log} == {2}

    def test_new_nodes_are_not_looked_for_all_the_time(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = FakeCluster({"a": 1})
        executor = FakeExecutor(start(cluster))
        calls: list[float] = []
        nodes = cluster.nodes
        monkeypatch.setattr(cluster, "nodes", lambda: calls.append(clock.now) or nodes())
        for _ in range(20):
            list(executor.map_ordered(tasks.who, None, range(3)))
        assert len(calls) <= 1 + (clock.now - calls[0]) if calls else True


class TestLosses:
    def test_a_broken_node_does_not_make_the_loss_of_a_worker_elsewhere_fatal(self, clock: Clock) -> None:
        cluster = FakeCluster({"a": 1, "b": 1})
        is_broken = {"b"}
        cluster.fails_to_start = lambda number: cluster.workers[number].node in is_broken
        pool = start(cluster)
        executor = FakeExecutor(pool)
        for _ in range(6):
            clock.sleep(30)
            list(executor.map_ordered(tasks.who, None, range(4)))
        first = next(iter(pool.ready))
        cluster.kills = lambda number, method, task: number == first
        found = list(executor.map_ordered(tasks.who, None, range(4)))
        assert len(found) == 4
        assert all(name.startswith("node a, worker") for name in found)
        assert first not in pool.ready

    def test_a_refused_node_is_not_tried_again_and_again(self, clock: Clock) -> None:
        cluster = FakeCluster({"b": 1})
        pool = start(cluster, n_wanted=1)
        executor = FakeExecutor(pool)
        # Sorts before the good one, so that a start without a node goes there.
        cluster.node_cpus["a"] = 1
        cluster.other_versions["a"] = {"numpy": "1.0"}
        cluster.kills = lambda number, method, task: number == 1
        assert set(executor.map_ordered(tasks.who, None, range(4))) == {"node b, worker 3"}
        assert [worker.node for worker in cluster.workers.values()] == ["b", "a", "b"]

    def test_the_tasks_of_a_worker_that_dies_run_elsewhere(self, caplog: pytest.LogCaptureFixture) -> None:
        cluster = FakeCluster({"a": 2})
        cluster.kills = lambda number, method, task: number == 1 and method == "run" and task == 4
        executor = FakeExecutor(start(cluster, n_wanted=2, worker_cpus=1))
        keys = [("job", n) for n in range(10)]
        assert list(executor.map_ordered(tasks.add, 1, range(10), keys=keys)) == list(range(1, 11))
        assert "Lost node a, worker 1, its tasks run elsewhere: its process died" in caplog.text
        assert executor.n_workers == 2
        assert set(executor._pool.ready) == {2, 3}
        assert set(executor._pool.homes.values()) <= {2, 3}

    @pytest.mark.parametrize("bad", [0, 1, 5])
    def test_a_task_that_ends_every_worker_is_given_up_after_three(self, bad: int) -> None:
        cluster = FakeCluster({"a": 2})
        cluster.kills = lambda number, method, task: method == "run" and task == bad
        executor = FakeExecutor(start(cluster, n_wanted=2, worker_cpus=1))
        results = executor.map_ordered(tasks.add, 0, range(6))
        with pytest.raises(WorkerLostError, match=f"task {bad} of 6 ended node a, worker .*2 workers before.*memory"):
            list(results)
        assert len([number for number in cluster.workers if cluster.workers[number].is_dead]) == 3
        assert list(executor.map_ordered(tasks.add, 0, [7])) == [7]

    def test_a_task_that_only_waited_beside_it_is_not_blamed(self) -> None:
        cluster = FakeCluster({"a": 1})
        deaths: list[int] = []

        def kills(number: int, method: str, task: Any) -> bool:
            """Two tasks end two workers each, with the others waiting behind them."""
            if method == "run" and task in (0, 1) and deaths.count(task) < 2:
                deaths.append(task)
                return True
            return False

        cluster.kills = kills
        executor = FakeExecutor(start(cluster, n_wanted=1, worker_cpus=1))
        assert list(executor.map_ordered(tasks.add, 0, range(4))) == [0, 1, 2, 3]
        assert deaths == [0, 0, 1, 1]

    def test_without_workers_and_without_new_ones_the_map_ends(self, clock: Clock) -> None:
        cluster = FakeCluster({"a": 1})
        executor = FakeExecutor(start(cluster))
        results = executor.map_ordered(tasks.add, 0, range(9))
        assert next(results) == 0
        cluster.lose_node("a")
        before = clock.now
        with pytest.raises(WorkerLostError, match="no worker is left, and none came up within 10 s"):
            list(results)
        assert clock.now - before < 30

    def test_the_workers_that_are_lost_are_those_of_all_maps(self) -> None:
        cluster = FakeCluster({"a": 1})
        executor = FakeExecutor(start(cluster, n_wanted=1, worker_cpus=1))
        one = executor.map_ordered(tasks.add, 0, range(9))
        other = executor.map_ordered(tasks.add, 100, range(9))
        assert [next(one), next(other)] == [0, 100]
        cluster._kill(cluster.workers[1])
        assert list(one) == list(range(1, 9))
        assert list(other) == list(range(101, 109))
        assert set(executor._pool.ready) == {2}

    def test_what_every_worker_runs_is_run_again_when_one_is_lost(self) -> None:
        cluster = FakeCluster({"a": 2})
        cluster.kills = lambda number, method, task: number == 2 and method == "run_once"
        executor = FakeExecutor(start(cluster, n_wanted=2, worker_cpus=1))
        found = executor.on_each_worker(tasks.describe, "shared")
        assert [position for _, position, _, _ in found] == list(range(len(found)))
        assert "node a, worker 2" not in {worker for _, _, worker, _ in found}

    def test_what_ends_every_worker_is_given_up(self) -> None:
        cluster = FakeCluster({"a": 2})
        cluster.kills = lambda number, method, task: method == "run_once"
        executor = FakeExecutor(start(cluster, n_wanted=2, worker_cpus=1))
        with pytest.raises(WorkerLostError, match="what every worker runs ended node a, worker"):
            executor.on_each_worker(tasks.describe, "shared")


class TestKeys:
    def test_a_key_that_moves_is_dropped_where_it_was(self) -> None:
        cluster = FakeCluster({"a": 2})
        pool = start(cluster, n_wanted=2, worker_cpus=1)
        keys = [("job", n) for n in range(6)]
        pool.homes.update(dict.fromkeys(keys, 1))
        executor = FakeExecutor(pool)
        assert list(executor.map_ordered(tasks.add, 0, range(6), keys=keys)) == list(range(6))
        moved = [entry[2:] for entry in cluster.log if entry[1] == "forget"]
        assert moved
        assert all(entry[0] == 1 for entry in cluster.log if entry[1] == "forget")
        assert {key for key in keys if pool.homes[key] == 2} == set(moved)

    @pytest.mark.parametrize("home", [1, 2, 3])
    def test_a_key_stays_where_it_is_while_its_worker_is_free(self, home: int) -> None:
        cluster = FakeCluster({"a": 3})
        pool = start(cluster, n_wanted=3, worker_cpus=1)
        pool.homes.update({("job", 1): home, ("job", 2): home})
        found = FakeExecutor(pool).map_ordered(tasks.who, None, [1, 2], keys=[("job", 1), ("job", 2)])
        assert list(found) == [f"node a, worker {home}"] * 2

    @pytest.mark.parametrize("home", [1, 2, 3])
    def test_what_only_needs_to_be_near_goes_there_and_moves_nothing(self, home: int) -> None:
        cluster = FakeCluster({"a": 3})
        pool = start(cluster, n_wanted=3, worker_cpus=1)
        keys = [("job", n) for n in range(9)]
        homes = dict.fromkeys(keys, home)
        pool.homes.update(homes)
        executor = FakeExecutor(pool)
        assert list(executor.map_ordered(tasks.who, None, [1, 2], near=keys[:2])) == [f"node a, worker {home}"] * 2
        # So many that others help.
        found = list(executor.map_ordered(tasks.who, None, range(9), near=keys))
        assert len(set(found)) > 1
        assert pool.homes == homes
        assert not [entry for entry in cluster.log if entry[1] == "forget"]
        list(executor.map_ordered(tasks.who, None, [1], near=[("job", "never seen")]))
        assert pool.homes == homes

    def test_a_task_moves_its_key_or_not(self) -> None:
        executor = FakeExecutor(start(FakeCluster({"a": 1}), n_wanted=1, worker_cpus=1))
        with pytest.raises(ValueError, match="keys or near"):
            list(executor.map_ordered(tasks.who, None, [1], keys=[("job", 1)], near=[("job", 1)]))

    def test_a_map_that_has_ended_is_forgotten_by_every_worker(self) -> None:
        cluster = FakeCluster({"a": 2})
        executor = FakeExecutor(start(cluster, n_wanted=2, worker_cpus=1))
        results = executor.map_ordered(tasks.add, 0, range(6))
        next(results)
        results.close()  # type: ignore[attr-defined]
        assert [entry[0] for entry in cluster.log if entry[1] == "end_map"] == [1, 2]
        executor.on_each_worker(tasks.describe, "")
        assert all(not worker.worker._prepared for worker in cluster.workers.values())

    def test_a_released_job_has_no_homes(self) -> None:
        pool = start(FakeCluster({"a": 2}))
        pool.homes.update({("one", 1): 1, ("two", 1): 1, "plain": 1})
        FakeExecutor(pool).release("one")
        assert set(pool.homes) == {("two", 1), "plain"}

    def test_closing_a_pool_ends_its_workers_and_leaves_unfinished_maps_alone(self) -> None:
        cluster = FakeCluster({"a": 2})
        executor = FakeExecutor(start(cluster))
        results = executor.map_ordered(tasks.add, 0, range(6))
        next(results)
        executor.close()
        n_calls = len(cluster.log)
        results.close()  # type: ignore[attr-defined]
        assert len(cluster.log) == n_calls
        assert cluster.stopped == [1]


@pytest.mark.parametrize(
    ("n_cpus", "n_workers", "share"),
    [([4, 4], 2, 4), ([4, 8], 1, 8), ([4, 8], 2, 4), ([8, 8], 4, 4), ([2], 5, 1), ([], 1, 1), ([4, 4, 16], 2, 4)],
)
def test_workers_share_the_cpus_of_their_nodes(n_cpus: list[int], n_workers: int, share: int) -> None:
    nodes = [NodeFacts(str(n), str(n), found) for n, found in enumerate(n_cpus)]
    assert share_cpus(nodes, n_workers) == share


def _only_first(cluster: FakeCluster) -> Any:
    real = cluster.start_worker

    def start_worker(number: int, n_cpus: int, node: str | None) -> tuple[Any, Any]:
        return real(number, n_cpus if number == 1 else 99, node)

    return start_worker
