"""The Ray executor on one machine: the contract, and what only Ray has."""

import gc
import importlib
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray

from rgals.errors import CapacityError, ClusterError, DataError, InputError
from rgals.execution import Executor, ExecutorOptions, open_executor
from rgals.execution.ray_backend import cluster_status
from tests.execution import tasks
from tests.execution.contract import ExecutorContract
from tests.execution.ray_clusters import (
    STORE_BYTES,
    are_gone,
    descendants,
    environment,
    open_local,
    run_python,
    wait_until,
)

pytestmark = pytest.mark.timeout(300)


class TestOneWorker(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls) -> Iterator[Executor]:
        with open_local(1) as executor:
            yield executor

    def test_fetched_arrays_lie_in_shared_memory_and_cannot_be_written_to(self, executor: Executor) -> None:
        block = executor.put(np.ones(1_000_000))
        value = executor.fetch(block)
        assert not value.flags.writeable
        assert not value.flags.owndata
        assert np.shares_memory(value, executor.fetch(block))
        (result,) = executor.map_blocks(tasks.fill, 1_000_000, [1.0])
        assert list(executor.map_ordered(tasks.is_writable, None, [block, result.block])) == [False, False]

    def test_a_small_array_cannot_be_written_to_either(self, executor: Executor) -> None:
        (result,) = executor.map_blocks(tasks.fill, 3, [1.0])
        assert not executor.fetch(result.block).flags.writeable
        assert list(executor.map_ordered(tasks.is_writable, None, [result.block])) == [False]

    @pytest.mark.parametrize(
        ("what", "kind", "message"),
        [
            ("two parts", tasks.TwoPartsError, "1 and 2"),
            ("lock", tasks.HoldsLockError, "held"),
            ("file", FileNotFoundError, "[Errno 2] No such file or directory: '/nonexistent/file'"),
            ("local", RuntimeError, "LocalError: far away"),
            ("cause", DataError, "outer"),
            ("result", TypeError, "cannot pickle '_thread.lock' object"),
        ],
    )
    def test_an_exception_comes_back_as_it_was(
        self, executor: Executor, what: str, kind: type[Exception], message: str
    ) -> None:
        results = executor.map_ordered(tasks.raise_error, what, [0])
        with pytest.raises(kind) as caught:
            next(results)
        assert type(caught.value) is kind
        assert str(caught.value) == message
        if kind is not DataError:
            assert "Traceback" in "".join(caught.value.__notes__) or "ray::" in "".join(caught.value.__notes__)
            assert "worker 1" in "".join(caught.value.__notes__)
        else:
            assert not hasattr(caught.value, "__notes__")

    def test_attributes_of_an_exception_come_back(self, executor: Executor) -> None:
        with pytest.raises(tasks.TwoPartsError) as caught:
            list(executor.map_ordered(tasks.raise_error, "two parts", [0]))
        assert caught.value.first == 1

    def test_a_task_that_no_worker_can_take_in_fails_in_its_place(self, executor: Executor) -> None:
        results = executor.map_ordered(tasks.sleep, 0.0, [1, tasks.LoadsNowhere(), 2])
        assert next(results) == 1
        with pytest.raises(ClusterError, match="No module named 'a_module_that_is_nowhere'"):
            next(results)

    def test_blocks_are_dropped_with_their_handles(self, executor: Executor) -> None:
        n_values = STORE_BYTES // 4 // 4  # four of them fill the store
        for _ in range(3):
            results = list(executor.map_blocks(tasks.fill, n_values, [1.0, 2.0]))
            assert [float(executor.fetch(result.block)[0]) for result in results] == [1.0, 2.0]
            del results
        gc.collect()
        wait_until(lambda: _used_store_bytes() < n_values, "the object store is empty again")

    def test_a_map_leaves_nothing_in_the_object_store(self, executor: Executor) -> None:
        block = executor.put(np.ones(3_000_000))
        assert list(executor.map_ordered(tasks.totals, [block], [[], []])) == [[3_000_000.0]] * 2
        results = executor.map_ordered(tasks.totals, [block], [[]] * 5)
        next(results)
        results.close()  # type: ignore[attr-defined]
        with pytest.raises(DataError):
            list(executor.map_ordered(tasks.add, [block], [1], prepare=tasks.fail_to_prepare))
        del block, results
        gc.collect()
        wait_until(lambda: _used_store_bytes() < 1_000_000, "the object store is empty again")

    def test_a_store_smaller_than_the_blocks_spills_to_disk_and_gives_the_same_values(self, executor: Executor) -> None:
        n_values = STORE_BYTES // 4 // 4
        results = list(executor.map_blocks(tasks.fill, n_values, [float(n) for n in range(8)]))
        values = executor.fetch_each([result.block for result in results])
        assert [float(value[-1]) for value in values] == [float(n) for n in range(8)]
        blocks = [result.block for result in results]
        assert list(executor.map_ordered(tasks.totals, blocks[:4], [blocks[4:]])) == [[n * n_values for n in range(8)]]

    @pytest.fixture
    def address(self, executor: Executor) -> str:
        return str(ray.get_runtime_context().gcs_address)

    def test_it_listens_on_the_loopback_interface_alone(self, executor: Executor) -> None:
        listening = [
            connection.laddr.ip
            for process in [psutil.Process(), *descendants()]
            for connection in process.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening
        assert {ip.removeprefix("::ffff:") for ip in listening} <= {"127.0.0.1", "::1"}

    def test_the_token_is_private_and_its_folder_too(self, executor: Executor) -> None:
        path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert len(path.read_text()) >= 32
        assert os.environ["RAY_AUTH_MODE"] == "token"

    @pytest.mark.parametrize(
        "changed",
        [
            {},
            {"RAY_AUTH_MODE": "disabled"},
            {"RAY_AUTH_MODE": "token", "HOME": "/nonexistent"},
            {"RAY_AUTH_TOKEN": "0" * 64},
        ],
        ids=["nothing", "disabled", "no token", "another token"],
    )
    def test_who_does_not_know_the_token_is_refused(self, address: str, changed: dict[str, str]) -> None:
        code = f"""
            from rgals.execution import ExecutorOptions, open_executor
            from rgals.execution.ray_backend import cluster_status
            status = cluster_status({address!r}, 5.0)
            print(status.is_reachable, status.authentication, len(status.nodes))
            open_executor(ExecutorOptions("ray", address={address!r}))
        """
        found = run_python(code, **changed)
        assert found.stdout == "False refused 0\n", found.stderr
        assert "rgals.errors.ClusterError" in found.stderr
        assert "RAY_AUTH_TOKEN_PATH" in found.stderr
        assert "0" * 64 not in found.stderr

    def test_who_knows_the_token_is_let_in(self, address: str) -> None:
        status = cluster_status(address, 5.0)
        assert status.is_reachable
        assert status.authentication == "token"
        assert status.ray_version == ray.__version__
        assert [(node.address, node.n_cpus) for node in status.nodes] == [("127.0.0.1", 1)]
        assert status.object_store_bytes == STORE_BYTES
        code = f"""
            from rgals.execution.ray_backend import cluster_status
            status = cluster_status({address!r}, 5.0)
            print(status.is_reachable, status.authentication, len(status.nodes))
            import ray
            print(ray.is_initialized())
        """
        found = run_python(code, RAY_AUTH_TOKEN_PATH=os.environ["RAY_AUTH_TOKEN_PATH"])
        assert found.stdout == "True token 1\nFalse\n", found.stderr

    def test_another_executor_in_the_same_process_shares_it_and_leaves_it_running(self, executor: Executor) -> None:
        options = ExecutorOptions("ray", workers=1, worker_cpus=1, start_timeout_s=2.0)
        with pytest.raises(
            ClusterError, match=r"asked for: 1 with 1 CPUs each; CPUs of the cluster by node: 127.0.0.1"
        ):
            open_executor(options)
        assert list(executor.map_ordered(tasks.add, 1, [1])) == [2]

    def test_another_address_in_the_same_process_is_refused(self, executor: Executor) -> None:
        with pytest.raises(ClusterError, match=r"the Ray that this process uses already, found 192.0.2.1:6379"):
            open_executor(ExecutorOptions("ray", address="192.0.2.1:6379"))


class TestTwoWorkers(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls) -> Iterator[Executor]:
        with open_local(2) as executor:
            yield executor

    def test_both_workers_take_part(self, executor: Executor) -> None:
        assert executor.n_workers == 2
        found = list(executor.map_ordered(tasks.sleep_where, None, [0.05] * 8))
        assert set(found) == {"node 127.0.0.1, worker 1", "node 127.0.0.1, worker 2"}

    def test_a_key_stays_with_its_worker(self, executor: Executor) -> None:
        keys = [("sticky", key) for key in range(8)]
        first = [r.worker for r in executor.map_blocks(tasks.fill, 1, [float(n) for n in range(8)], keys=keys)]
        assert set(first) == {"node 127.0.0.1, worker 1", "node 127.0.0.1, worker 2"}
        again = list(executor.map_ordered(tasks.sleep_where, None, [0.02] * 8, keys=keys))
        assert sum(one == other for one, other in zip(first, again, strict=True)) >= 6
        executor.release("sticky")

    def test_a_key_that_moves_is_dropped_where_it_was(self, executor: Executor, tmp_path: Path) -> None:
        shared = (str(tmp_path), "moving")
        for key in "abcd":  # one after the other all go to the first worker
            list(executor.map_ordered(tasks.resident_in_step, shared, [(key, None, None)], keys=[("moving", key)]))
        assert executor.on_each_worker(tasks.n_resident, "moving") == [4, 0]
        # It is held up by a, so the other takes d, then c, which lets a go on.
        steps = [("a", "go", None), ("b", None, None), ("c", None, "go"), ("d", None, None)]
        keys = [("moving", key) for key in "abcd"]
        found = dict(executor.map_ordered(tasks.resident_in_step, shared, steps, keys=keys))
        one, other = "node 127.0.0.1, worker 1", "node 127.0.0.1, worker 2"
        assert found == {"a": one, "b": one, "c": other, "d": other}
        assert executor.on_each_worker(tasks.n_resident, "moving") == [2, 2]
        executor.release("moving")

    def test_work_that_does_not_depend_on_the_worker_is_shared_out_as_workers_get_free(
        self, executor: Executor
    ) -> None:
        found = list(executor.map_ordered(tasks.sleep_where, None, [0.6, *[0.02] * 10]))
        assert found.count(found[0]) <= 3


def _used_store_bytes() -> float:
    total = ray.cluster_resources().get("object_store_memory", 0.0)
    return total - ray.available_resources().get("object_store_memory", 0.0)


@pytest.fixture
def _own_sigterm() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, _handle_sigterm)
    yield
    signal.signal(signal.SIGTERM, before)


def _handle_sigterm(number: int, frame: object) -> None:
    raise AssertionError(number)


@pytest.mark.usefixtures("_own_sigterm")
def test_after_close_nothing_is_left(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "only_on_the_path.py").write_text("def double(shared, task, context): return 2 * task\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    n_cpus = len(os.sched_getaffinity(0))
    before = {name: value for name, value in os.environ.items() if name.startswith(("RAY_", "PYTHONPATH"))}
    old = {process.pid for process in descendants()}
    executor = open_local(2, worker_cpus=n_cpus)
    assert f"2 workers with {n_cpus} CPUs each are more than the {n_cpus} CPUs of this machine" in caplog.text
    assert (executor.n_workers, executor.n_threads) == (2, n_cpus)
    started = [process for process in descendants() if process.pid not in old]
    folder = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).parent
    assert signal.getsignal(signal.SIGTERM) is _handle_sigterm
    assert list(executor.map_ordered(tasks.blas_threads, None, range(2))) == [{1}] * 2
    assert list(executor.map_ordered(importlib.import_module("only_on_the_path").double, None, [4])) == [8]
    unfinished = executor.map_ordered(tasks.add, 0, range(100))
    assert next(unfinished) == 0
    block = executor.put(np.ones(3))
    executor.close()
    executor.close()
    assert started
    wait_until(lambda: are_gone(started), "the processes have ended")
    assert not folder.exists()
    assert {name: value for name, value in os.environ.items() if name.startswith(("RAY_", "PYTHONPATH"))} == before
    assert signal.getsignal(signal.SIGTERM) is _handle_sigterm
    with pytest.raises(InputError, match="it was closed"):
        next(executor.map_ordered(tasks.add, 0, [1]))
    with pytest.raises(InputError, match="it was closed"):
        executor.fetch(block)
    with pytest.raises(InputError, match="it was closed"):
        executor.put(1)
    with pytest.raises(InputError, match="it was closed"):
        executor.on_each_worker(tasks.describe, "")
    unfinished.close()  # type: ignore[attr-defined]
    del unfinished, block
    gc.collect()
    assert not ray.is_initialized()


def test_blocks_that_do_not_fit_are_refused_before_anything_is_started() -> None:
    with pytest.raises(CapacityError, match=r"expected room for 1000000.00 GB, found \d"):
        open_executor(ExecutorOptions("ray"), needed_object_store_bytes=10**15)
    assert not ray.is_initialized()


def test_an_address_without_a_cluster_is_an_error_soon() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(ClusterError, match=f"Ray at {address}: no Ray answers there .*check the address and the port"):
        open_executor(ExecutorOptions("ray", address=address))
    assert time.monotonic() - started < 15
    assert not ray.is_initialized()


def test_a_server_that_is_not_ray_is_an_error_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        status = cluster_status(address, 2.0)
        assert not status.is_reachable
        assert status.authentication == "unknown"
        assert time.monotonic() - started < 15


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM], ids=lambda kind: kind.name)
def test_a_signal_in_the_middle_of_a_map_leaves_no_process(kind: signal.Signals) -> None:
    # What runs the tests in the background may have them ignore SIGINT, and so would this process.
    code = """
        import os, signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from tests.execution import tasks
        from tests.execution.ray_clusters import open_local
        with open_local(1) as executor:
            results = executor.map_ordered(tasks.sleep, 0.0, range(1))
            next(results)
            print(os.environ["RAY_AUTH_TOKEN_PATH"], flush=True)
            list(executor.map_ordered(tasks.sleep, 600.0, range(4)))
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        token = Path(process.stdout.readline().strip())
        assert token.is_file(), process.stderr.read()
        started = descendants(psutil.Process(process.pid))
        process.send_signal(kind)
        errors = process.communicate(timeout=60)[1]
    wait_until(lambda: are_gone(started), "the processes have ended")
    assert not token.parent.exists()
    assert ("KeyboardInterrupt" in errors) == (kind is signal.SIGINT)
