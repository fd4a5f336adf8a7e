"""``ray job submit -- python -m jobs.train``: progress in the job's log, and an exit code that says how it ended."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from rgals.artifact.model import Model
from tests.faults.conftest import write_dataset

RAY = str(Path(sys.executable).with_name("ray"))
QUICK = ["--executor", "ray", "--n-factors", "16", "--n-sweeps", "2"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def job_server():
    """A Ray of one machine with its job server, as docs/operations.md starts it; gives a function that submits."""
    folder = Path(tempfile.mkdtemp(prefix="rg", dir="/tmp"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    port = free_port()
    options = {
        "--port": free_port(),
        "--dashboard-host": "127.0.0.1",
        "--dashboard-port": port,
        "--dashboard-agent-listen-port": free_port(),
        "--temp-dir": folder / "ray",
        "--num-cpus": 1,
        "--object-store-memory": 100_000_000,
    }
    arguments = [str(part) for pair in options.items() for part in pair]
    with (folder / "log").open("w") as log:
        head = subprocess.Popen(
            [RAY, "start", "--head", *arguments, "--block"],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def submit(*command):
        end = time.monotonic() + 90
        while True:
            found = subprocess.run(
                [RAY, "job", "submit", "--address", f"http://127.0.0.1:{port}", "--", *command],
                check=False,
                capture_output=True,
                text=True,
                timeout=120,
                env=environment,
            )
            # Until the head listens, and knows that it does.
            is_early = re.search("No available agent|Failed to connect|Connection refused", found.stdout + found.stderr)
            if not is_early or time.monotonic() > end:
                return found
            time.sleep(0.5)

    yield submit
    head.send_signal(signal.SIGTERM)
    head.wait(30)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_job_reports_its_progress_and_fails_when_it_must(job_server, tmp_path):
    dataset = write_dataset(tmp_path / "dataset", seed=0)
    train = [sys.executable, "-m", "jobs.train"]
    done = job_server(*train, str(dataset), "--output", str(tmp_path / "model"), *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sweep 2/2" in done.stdout
    assert Model.open(tmp_path / "model").factor_checksum in done.stdout
    failed = job_server(*train, str(tmp_path / "nothing"), "--output", str(tmp_path / "other"), *QUICK)
    assert failed.returncode == 1
    assert "rgals: error:" in failed.stdout
    assert not (tmp_path / "other").exists()
