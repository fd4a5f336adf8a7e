"""The options that choose where a command runs."""

import pytest
import typer
from typer.testing import CliRunner

from jobs.executor_options import (
    AddressOption,
    ExecutorOption,
    ThreadsOption,
    WorkerCpusOption,
    WorkersOption,
    read_executor_options,
)
from rgals.errors import InputError
from rgals.execution import ExecutorOptions


@pytest.fixture(autouse=True)
def no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def run(*arguments: str) -> ExecutorOptions:
    """Give what a command with these arguments gets."""
    found: list[ExecutorOptions] = []
    app = typer.Typer()

    @app.command()
    def command(
        executor: ExecutorOption = "in-process",
        threads: ThreadsOption = None,
        address: AddressOption = None,
        workers: WorkersOption = None,
        worker_cpus: WorkerCpusOption = None,
    ) -> None:
        found.append(read_executor_options(executor, threads, address, workers, worker_cpus))

    result = CliRunner().invoke(app, arguments)
    if result.exception is not None:
        raise result.exception
    return found[0]


def test_the_default_is_this_process() -> None:
    assert run() == ExecutorOptions()


def test_every_option_arrives() -> None:
    assert run("--threads", "3") == ExecutorOptions(threads=3)
    assert run(
        "--executor", "ray", "--address", "head:6379", "--workers", "4", "--worker-cpus", "2"
    ) == ExecutorOptions("ray", address="head:6379", workers=4, worker_cpus=2)


def test_the_address_of_the_environment_counts_with_ray_and_without_an_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "other:6379")
    assert run("--executor", "ray").address == "other:6379"
    assert run("--executor", "ray", "--address", "head:6379").address == "head:6379"
    assert run().address is None
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert run("--executor", "ray").address is None
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert run("--executor", "ray").address is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--executor", "spark"], "expected in-process or ray, found 'spark'"),
        (["--workers", "2"], "workers: only for executor ray"),
        (["--executor", "ray", "--threads", "2"], "threads: only for executor in-process"),
        (["--executor", "ray", "--address", "head"], "expected host:port or auto"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(*arguments)
