"""What the Ray executor does when processes and nodes are lost or join."""

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from rgals.errors import BlockLostError, WorkerLostError
from rgals.execution import Executor, ExecutorOptions, open_executor
from rgals.execution.local_ray import PrivateSession
from rgals.execution.ray_backend import _read_environment_again, cluster_status
from tests.execution import tasks
from tests.execution.ray_clusters import STORE_BYTES, are_gone, descendants, make_default_folder, open_local, wait_until

pytestmark = pytest.mark.timeout(400)

QUICK_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 200,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 5,
}


def kill_when(path: Path, pattern: str) -> threading.Thread:
    """Kill the process that a file names as soon as the file is there."""

    def work() -> None:
        wait_until(lambda: bool(list(path.glob(pattern))), f"{path}/{pattern}")
        os.kill(int(next(path.glob(pattern)).name.split("-")[-1]), signal.SIGKILL)
        (path / "go").touch()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


class TestProcesses:
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls) -> Iterator[Executor]:
        with open_local(2) as executor:
            yield executor

    @pytest.fixture(autouse=True)
    def _two_workers(self, executor: Executor) -> None:
        wait_until(lambda: len(list(executor.map_ordered(tasks.add, 0, [1]))) == 1 and executor.n_workers == 2, "two")

    def test_a_worker_killed_in_the_middle_of_a_task_changes_no_result(
        self, executor: Executor, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        results = list(executor.map_blocks(tasks.fill_where, 50_000, [float(n) for n in range(4)]))
        by_worker = {result.worker: result.summary[1] for result in results}
        assert len(by_worker) == 2
        killer = kill_when(tmp_path, "started-0-*")
        with caplog.at_level(logging.WARNING):
            found = list(executor.map_ordered(tasks.announce, str(tmp_path), range(12)))
        killer.join()
        assert found == list(range(12))
        assert caplog.text.count("its tasks run elsewhere") == 1
        killed = {int(path.name.split("-")[-1]) for path in tmp_path.glob("started-0-*")}
        assert len(killed) == 2  # it was started twice
        # What the killed process has made lives on: its node is still there.
        assert killed & set(by_worker.values())
        values = [float(value[-1]) for value in executor.fetch_each([result.block for result in results])]
        assert values == [0.0, 1.0, 2.0, 3.0]
        totals = list(executor.map_ordered(tasks.total, None, [result.block for result in results]))
        assert totals == [0.0, 50_000.0, 100_000.0, 150_000.0]

    def test_residents_of_a_killed_worker_are_loaded_again(self, executor: Executor, tmp_path: Path) -> None:
        keys = [("faults", n) for n in range(4)]
        shared = (str(tmp_path), "faults")
        first = list(executor.map_ordered(tasks.resident, shared, range(4), keys=keys))
        os.kill(first[0][2], signal.SIGKILL)
        again = list(executor.map_ordered(tasks.resident, shared, range(4), keys=keys))
        assert [value for value, _, _ in again] == [f"value of {n}" for n in range(4)]
        assert first[0][2] not in {process for _, _, process in again}
        executor.release("faults")

    def test_a_task_that_kills_its_worker_once_is_run_again(self, executor: Executor, tmp_path: Path) -> None:
        found = executor.map_ordered(tasks.kill_itself_once, str(tmp_path / "killed"), range(8))
        assert list(found) == list(range(8))
        assert (tmp_path / "killed").exists()

    def test_a_task_that_always_kills_its_worker_is_given_up(
        self, executor: Executor, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        caplog.set_level(logging.DEBUG, "rgals")
        results = executor.map_ordered(tasks.kill_itself, 2, range(6))
        with pytest.raises(WorkerLostError, match=r"task 2 of 6 ended node .* memory") as caught:
            list(results)
        assert "Worker exit type" in str(caught.value)
        wait_until(lambda: "A worker died or was killed" in caplog.text, "Ray's own words are in the log")
        assert capfd.readouterr().out == ""
        assert list(executor.map_ordered(tasks.add, 0, range(4))) == list(range(4))

    def test_what_every_worker_runs_survives_a_worker_that_was_lost_before(self, executor: Executor) -> None:
        victim = executor.on_each_worker(tasks.describe, "")[0][3]
        os.kill(victim, signal.SIGKILL)
        found = executor.on_each_worker(tasks.describe, "")
        assert victim not in {process for _, _, _, process in found}
        assert [position for _, position, _, _ in found] == list(range(len(found)))


class Nodes:
    """A cluster of several nodes on this machine."""

    def __init__(self) -> None:
        self.session = PrivateSession()
        _read_environment_again()
        make_default_folder()
        self.cluster: Any = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": STORE_BYTES,
                "include_dashboard": False,
                "temp_dir": tempfile.mkdtemp(prefix="ray", dir=self.session.folder),
                "_system_config": QUICK_HEALTH_CHECKS,
            },
        )

    def add(self, n_cpus: int) -> Any:
        return self.cluster.add_node(num_cpus=n_cpus, object_store_memory=STORE_BYTES)

    def remove(self, node: Any) -> None:
        """Kill a node with all that runs on it, as when a machine is switched off."""
        self.cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        self.cluster.shutdown()
        self.session.restore_environment()
        _read_environment_again()
        self.session.remove()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    started = Nodes()
    started.add(1)
    yield started
    started.close()


@pytest.fixture
def open_there(nodes: Nodes) -> Iterator[Callable[..., Executor]]:
    opened: list[Executor] = []

    def open_cluster(**options: Any) -> Executor:
        opened.append(open_executor(ExecutorOptions("ray", address=nodes.cluster.address, **options)))
        return opened[-1]

    yield open_cluster
    for executor in opened:
        executor.close()


def processes_of(executor: Executor) -> dict[str, int]:
    return {worker: process for _, _, worker, process in executor.on_each_worker(tasks.describe, "")}


def test_a_cluster_says_who_it_is_and_is_left_running(
    nodes: Nodes, open_there: Callable[..., Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    status = cluster_status(nodes.cluster.address, 5.0)
    assert (status.is_reachable, status.authentication, status.n_cpus, len(status.nodes)) == (True, "token", 1, 2)
    executor = open_there()
    assert (executor.n_workers, executor.n_threads) == (1, 1)
    (process,) = processes_of(executor).values()
    executor.close()
    wait_until(lambda: not psutil.pid_exists(process), "the worker has ended")
    assert not ray.is_initialized()
    assert cluster_status(nodes.cluster.address, 5.0).is_reachable
    with monkeypatch.context() as environment:
        environment.delenv("RAY_AUTH_MODE")  # a token that is named is sent all the same
        executor = open_there(workers=1)
        assert executor.n_workers == 1
        executor.close()
        assert "RAY_AUTH_MODE" not in os.environ
    _read_environment_again()


def test_the_ray_that_the_caller_uses_is_used_and_left_running(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    ray.init(address=nodes.cluster.address, log_to_driver=False, configure_logging=False)
    try:
        with open_executor(ExecutorOptions("ray"), needed_object_store_bytes=10**12) as executor:
            assert (executor.n_workers, executor.n_threads) == (1, 1)
            assert list(executor.map_ordered(tasks.add, 1, range(3))) == [1, 2, 3]
        assert "The object stores of the cluster hold 0.20 GB, 1000.00 GB will be needed" in caplog.text
        assert ray.is_initialized()
        with open_executor(ExecutorOptions("ray", address=nodes.cluster.address, workers=1)) as executor:
            assert executor.n_workers == 1
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def test_a_node_that_joins_between_two_maps_is_used(nodes: Nodes, open_there: Callable[..., Executor]) -> None:
    executor = open_there()
    assert executor.n_workers == 1
    joined = nodes.add(2)
    wait_until(
        lambda: list(executor.map_ordered(tasks.add, 0, [1])) == [1] and executor.n_workers == 2, "a second worker"
    )
    found = list(executor.map_ordered(tasks.sleep_where, None, [0.1] * 10))
    assert len(set(found)) == 2
    assert executor.n_threads == 1
    nodes.remove(joined)
    wait_until(lambda: list(executor.map_ordered(tasks.add, 0, [1])) == [1] and executor.n_workers == 1, "one worker")


def test_a_node_is_lost_with_the_only_copy_of_a_block(
    nodes: Nodes, open_there: Callable[..., Executor], caplog: pytest.LogCaptureFixture
) -> None:
    joined = nodes.add(1)
    executor = open_there()
    assert executor.n_workers == 2
    results = list(executor.map_blocks(tasks.fill_where, 100_000, [float(n) for n in range(6)]))
    shared = executor.put(np.ones(3, np.float32))
    under_way = executor.map_ordered(tasks.sleep, 0.2, range(12))
    assert next(under_way) == 0
    nodes.remove(joined)
    assert list(under_way) == list(range(1, 12))
    assert caplog.text.count("its tasks run elsewhere") == 1
    left = processes_of(executor)
    kept = [result for result in results if result.worker in left]
    lost = [result for result in results if result.worker not in left]
    assert kept
    assert lost
    for result in kept:
        assert float(executor.fetch(result.block)[0]) == float(results.index(result))
    with pytest.raises(BlockLostError, match="lost with the node that held it"):
        executor.fetch(lost[0].block)
    with pytest.raises(BlockLostError, match="lost with the node that held it") as caught:
        list(executor.map_ordered(tasks.totals, [shared], [[lost[0].block]]))
    assert type(caught.value) is BlockLostError
    with pytest.raises(BlockLostError):
        list(executor.map_ordered(tasks.totals, [lost[-1].block], [[shared]]))
    assert list(executor.map_ordered(tasks.totals, [shared], [[kept[0].block]])) == [
        [3.0, 100_000.0 * results.index(kept[0])]
    ]


def test_blocks_travel_between_nodes(nodes: Nodes, open_there: Callable[..., Executor]) -> None:
    joined = nodes.add(1)
    executor = open_there()
    results = list(executor.map_blocks(tasks.fill_where, 1_000_000, [float(n) for n in range(8)]))
    blocks = [result.block for result in results]
    expected = [n * 1_000_000.0 for n in range(8)]
    found = [executor.map_ordered(tasks.totals, blocks, [[]] * 2), executor.map_ordered(tasks.totals, [], [blocks] * 2)]
    assert [list(results) for results in found] == [[expected, expected]] * 2
    assert [float(value.sum()) for value in executor.fetch_each(blocks)] == expected
    nodes.remove(joined)


def test_all_nodes_with_cpus_are_lost(nodes: Nodes, open_there: Callable[..., Executor]) -> None:
    executor = open_there(workers=1, worker_cpus=1)
    assert executor.n_workers == 1
    executor._pool.start_timeout_s = 5.0  # type: ignore[attr-defined]
    (worker,) = [node for node in nodes.cluster.list_all_nodes() if node is not nodes.cluster.head_node]
    results = executor.map_ordered(tasks.sleep, 0.2, range(50))
    assert next(results) == 0
    started = descendants()
    nodes.remove(worker)
    with pytest.raises(WorkerLostError, match="no worker is left, and none came up within 5 s"):
        list(results)
    assert started
    assert not are_gone(started)
