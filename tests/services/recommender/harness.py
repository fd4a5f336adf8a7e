"""A service in this process, and one in processes of its own, for tests."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from rgals.artifact.model import Model
from rgals.artifact.registry import publish
from rgals.artifact.registry_records import Estimate, Judgement
from services.recommender.app import create_app
from services.recommender.security import Scope, new_key
from services.recommender.settings import Settings

READY_S = 60.0


def wait_until(is_true: Any, seconds: float = READY_S) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


@contextmanager
def running(*, peer: str = "127.0.0.1", waits: bool = True, **settings: Any) -> Iterator[TestClient]:
    """Run a service in this process; ``client.app.state.worker`` has its parts."""
    app = create_app(Settings(**{"poll_s": 0.05, **settings}))
    with TestClient(app, "http://localhost", raise_server_exceptions=False, client=(peer, 50_000)) as client:
        if waits:
            wait_until(lambda: client.get("/readyz").status_code == 200)
        yield client


def judgement(value: float = 0.2) -> Judgement:
    estimate = Estimate(mean=value, ci_low=value - 0.01, ci_high=value + 0.01)
    return Judgement(
        metric="ndcg@20",
        part="test",
        dataset="d",
        dataset_fingerprint="f" * 64,
        n_users=50,
        level=0.95,
        margin=0.0,
        candidate=estimate,
        popularity=Estimate(mean=0.05, ci_low=0.04, ci_high=0.06),
        over_popularity=Estimate(mean=value - 0.05, ci_low=0.1, ci_high=0.2),
        n_held_out=100,
        n_held_out_known=0,
    )


def publish_model(registry: "Path | str", model: Model, value: float = 0.2) -> str:
    """Publish without measuring; give the version."""
    version = publish(registry, model, lambda _: judgement(value)).event.version
    assert version is not None
    return version


def write_keys(path: Path, **names: Scope) -> dict[str, str]:
    """Write a file of keys; give the keys by name."""
    made = {name: new_key(name, scope) for name, scope in names.items()}
    path.write_text("".join(f"{entry.to_line()}\n" for _, entry in made.values()))
    return {name: key for name, (key, _) in made.items()}


class Served:
    """``rgals serve`` in processes of its own, on a free port."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_until(lambda: self._port() is not None or process.poll() is not None)
        port = self._port()
        assert port is not None, "".join(self.lines)
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(timeout=60)
        self._reader.join(timeout=10)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines += self.process.stdout

    def _port(self) -> int | None:
        found = re.search(r"running on http://[0-9.]+:([0-9]+)", "".join(self.lines))
        return None if found is None else int(found[1])


@contextmanager
def served(*arguments: str, **variables: str) -> Iterator[Served]:
    """Run ``rgals serve`` until the block ends."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RGALS_SERVICE_")}
    command = [sys.executable, "-m", "jobs.cli", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**environment, **variables}
    )
    service = None
    try:
        service = Served(process)
        yield service
    finally:
        if service is not None:
            service.stop()
        else:
            process.kill()
            process.wait()
