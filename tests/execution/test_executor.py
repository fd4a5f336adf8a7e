"""The in-process executor, and what opens one."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from rgals.errors import InputError, MissingDependencyError
from rgals.execution import Executor, ExecutorOptions, InProcessExecutor, open_executor
from tests.execution.contract import ExecutorContract


class TestInProcessExecutor(ExecutorContract):
    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls) -> Iterator[Executor]:
        with InProcessExecutor(2) as executor:
            yield executor

    def test_is_one_worker_with_every_processor_unless_told_otherwise(self) -> None:
        assert InProcessExecutor().n_workers == 1
        assert InProcessExecutor().n_threads >= 1

    def test_threads_are_at_least_one(self) -> None:
        with pytest.raises(InputError, match="n_threads: expected at least 1, found 0"):
            InProcessExecutor(0)

    def test_closing_twice_is_harmless(self) -> None:
        executor = InProcessExecutor(1)
        executor.close()
        executor.close()


class TestOptions:
    def test_the_default_is_this_process(self) -> None:
        with open_executor(ExecutorOptions()) as executor:
            assert isinstance(executor, InProcessExecutor)
        with open_executor(ExecutorOptions(threads=3)) as executor:
            assert executor.n_threads == 3

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (ExecutorOptions("spark"), "executor: expected in-process or ray, found 'spark'"),
            (ExecutorOptions(threads=0), "threads: expected more than 0, found 0"),
            (ExecutorOptions("ray", workers=0), "workers: expected more than 0, found 0"),
            (ExecutorOptions("ray", worker_cpus=-1), "worker_cpus: expected more than 0, found -1"),
            (ExecutorOptions("ray", start_timeout_s=0), "start_timeout_s: expected more than 0"),
            (ExecutorOptions(address="head:6379", workers=2), "address, workers: only for executor ray"),
            (ExecutorOptions(object_store_bytes=10**9), "object_store_bytes: only for executor ray"),
            (ExecutorOptions("ray", threads=2), "threads: only for executor in-process"),
            (ExecutorOptions("ray", address="a:1", object_store_bytes=1), "a running cluster has its size already"),
            (ExecutorOptions("ray", address="ray://a:10001"), "expected host:port or auto, found 'ray://a:10001'"),
            (ExecutorOptions("ray", address="head"), "expected host:port or auto, found 'head'"),
        ],
    )
    def test_an_option_that_cannot_be_used_is_refused(self, options: ExecutorOptions, message: str) -> None:
        with pytest.raises(InputError, match=message):
            open_executor(options)

    @pytest.mark.parametrize("package", ["ray", "grpc"])
    def test_without_ray_the_message_says_what_to_install(self, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "rgals.execution.ray_backend", raising=False)
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingDependencyError, match=r"install rgals\[ray\]"):
            open_executor(ExecutorOptions("ray"))

    def test_ray_is_imported_only_when_it_is_asked_for(self) -> None:
        code = (
            "import sys; sys.modules['ray'] = None; import rgals.execution as e; "
            "e.open_executor(e.ExecutorOptions()).close(); print(len([m for m in sys.modules if m.startswith('ray.')]))"
        )
        found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert found.stdout == "0\n"
