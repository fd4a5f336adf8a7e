"""Ray for the tests: small, and with deadlines in place of sleeps."""

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
from ray._common.utils import get_default_ray_temp_dir

from rgals.execution import Executor, ExecutorOptions, open_executor

STORE_BYTES = 100_000_000
DEADLINE_S = 60.0


def open_local(workers: int, **options: object) -> Executor:
    """Start a local Ray with workers of one CPU each."""
    fields = {"worker_cpus": 1, "object_store_bytes": STORE_BYTES, **options}
    return open_executor(ExecutorOptions("ray", workers=workers, **fields))  # type: ignore[arg-type]


def make_default_folder() -> None:
    """Make the folder where Ray notes the address of the last cluster, which a machine new to Ray lacks."""
    Path(get_default_ray_temp_dir()).mkdir(exist_ok=True)


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Poll until something is so; fail after a minute."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:.0f} s: {what}"
        time.sleep(0.05)


def descendants(process: psutil.Process | None = None) -> list[psutil.Process]:
    """Give the processes that descend from one, which is this one unless told otherwise."""
    return (process or psutil.Process()).children(recursive=True)


def are_gone(processes: list[psutil.Process]) -> bool:
    """Say whether none of the processes runs any more."""
    return not [found for found in processes if found.is_running() and found.status() != psutil.STATUS_ZOMBIE]


def environment(**changed: str | None) -> dict[str, str]:
    """Give the environment without what concerns Ray, and with what is asked for."""
    found: Mapping[str, str | None] = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        **changed,
    }
    return {name: value for name, value in found.items() if value is not None}


def run_python(code: str, **changed: str | None) -> subprocess.CompletedProcess[str]:
    """Run code in another process, with an environment of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment(**changed),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
