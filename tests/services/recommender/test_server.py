"""``rgals serve`` as processes: workers that share memory and add up, signals, slow clients, the log."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import numpy as np
import psutil
import pytest

from jobs import api_key as api_key_command
from rgals.artifact.model import Model
from rgals.artifact.model_writer import write_model
from rgals.errors import InputError
from rgals.numerics.fold_in import canonical_factors
from rgals.numerics.sparse import InteractionRows
from services.recommender.security import read_keys
from tests.artifact.model_factory import LOSS, Parts, make_ids
from tests.services.recommender.harness import publish_model, served, wait_until

LIST = "/v1/users/5/recommendations?k=3"


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    publish_model(folder / "registry", Parts(12, 40, 3, seed=1, kind="int64").write(folder / "m1"))
    return folder / "registry"


def is_ready(url: str) -> bool:
    try:
        return httpx2.get(url + "/readyz").status_code == 200
    except httpx2.TransportError:
        return False


def worker_pids(url: str) -> set[int]:
    return {worker["pid"] for worker in httpx2.get(url + "/v1/admin/versions").json()["workers"]}


def head_of(n_bytes: int) -> bytes:
    """Give the headers of a batch whose body has so many bytes."""
    lines = ["POST /v1/recommendations HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {n_bytes}", "", ""]).encode()


def test_two_workers_serve_swap_and_add_up(registry, tmp_path):
    with served("--registry", str(registry), "--workers", "2", RGALS_SERVICE_POLL_S="0.2") as service:
        wait_until(lambda: is_ready(service.url) and len(worker_pids(service.url)) == 2)
        n_asked = 40
        for _ in range(n_asked):  # a connection for each, so that both workers get some
            assert httpx2.get(service.url + LIST).status_code == 200
        text = httpx2.get(service.url + "/metrics").text
        route = 'rgals_http_requests_total{method="GET",route="/v1/users/{user_id:path}/recommendations",status="200"}'
        assert f"{route} {n_asked}.0" in text
        assert 'rgals_model_serving_workers{version="v00001"} 2.0' in text
        version = publish_model(registry, Parts(12, 40, 3, seed=2, kind="int64").write(tmp_path / "m2"))
        httpx2.post(service.url + "/v1/admin/reload")

        def all_swapped() -> bool:
            workers = httpx2.get(service.url + "/v1/admin/versions").json()["workers"]
            return [worker["version"] for worker in workers] == [version] * 2

        wait_until(all_swapped)
        assert f'rgals_model_serving_workers{{version="{version}"}} 2.0' in httpx2.get(service.url + "/metrics").text
        os.kill(min(worker_pids(service.url)), signal.SIGKILL)
        wait_until(lambda: len(worker_pids(service.url)) == 2)
        wait_until(lambda: f'workers{{version="{version}"}} 2.0' in httpx2.get(service.url + "/metrics").text)
        assert service.stop() == 0


def test_a_worker_that_dies_in_the_middle_of_a_request_fails_that_one_only(registry):
    with served("--registry", str(registry), "--workers", "2") as service:
        wait_until(lambda: is_ready(service.url) and len(worker_pids(service.url)) == 2)
        body = json.dumps({"requests": [{"user_id": 5}]}).encode()
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(head_of(len(body)) + body[:5])
            place = connection.getsockname()
            holders: list[psutil.Process] = []

            def is_held() -> bool:
                workers = [psutil.Process(pid) for pid in worker_pids(service.url)]
                holders[:] = [one for one in workers if place in [other.raddr for other in one.net_connections()]]
                return len(holders) == 1

            wait_until(is_held)
            holders[0].kill()
            connection.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(100) == b""
        asked = [httpx2.get(service.url + LIST).status_code for _ in range(20)]
        assert asked == [200] * 20
        wait_until(lambda: len(worker_pids(service.url) - {holders[0].pid}) == 2)
        # The request that died is not counted as under way for ever; this one is.
        assert "rgals_http_requests_in_flight 1.0" in httpx2.get(service.url + "/metrics").text
        assert service.stop() == 0


def test_the_log_is_json_and_holds_no_id(registry):
    with served("--registry", str(registry)) as service:
        wait_until(lambda: is_ready(service.url))
        secret = "person-4711"
        httpx2.get(f"{service.url}/v1/users/{secret}/recommendations?k=7")
        httpx2.post(service.url + "/v1/recommendations", json={"requests": [{"history": [secret]}]})
        service.stop()
    records = [json.loads(line) for line in service.lines]
    routes = [record.get("route") for record in records if record["message"] == "request"]
    assert "/v1/users/{user_id:path}/recommendations" in routes
    assert "/v1/recommendations" in routes
    assert all({"time", "level", "message"} <= record.keys() for record in records)
    assert not any("color_message" in record for record in records)
    assert secret not in "".join(service.lines)


def test_sigterm_lets_requests_end(registry):
    """A request whose body is still arriving when the signal comes is answered; a new one finds nobody."""
    with served("--registry", str(registry)) as service:
        wait_until(lambda: is_ready(service.url))
        body = json.dumps({"requests": [{"user_id": 5}]}).encode()
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(head_of(len(body)) + body[:5])
            time.sleep(0.3)
            service.process.terminate()
            time.sleep(0.5)
            assert service.process.poll() is None
            with pytest.raises(httpx2.TransportError):
                httpx2.get(service.url + "/livez")
            connection.sendall(body[5:])
            connection.settimeout(20)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert service.process.wait(timeout=30) == 0


@pytest.mark.parametrize("sent", [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_client_that_does_not_finish_its_headers_is_let_go(registry, sent):
    with served("--registry", str(registry), RGALS_SERVICE_READ_TIMEOUT_S="0.5") as service:
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.settimeout(20)
            started = time.monotonic()
            end = threading.Event()

            def trickle() -> None:
                for byte in sent:
                    connection.sendall(bytes([byte]))
                while sent.endswith(b"\n") and not end.wait(0.1):
                    try:
                        connection.sendall(b"X-A: b\r\n")
                    except OSError:
                        return

            thread = threading.Thread(target=trickle)
            thread.start()
            answer = connection.recv(1000)
            assert answer.startswith(b"HTTP/1.1 408")
            assert time.monotonic() - started < 15
            end.set()
            thread.join()
        assert httpx2.get(service.url + "/livez").status_code == 200


def test_one_worker_counts_too(registry):
    with served("--registry", str(registry)) as service:
        wait_until(lambda: is_ready(service.url))
        httpx2.get(service.url + LIST)
        text = httpx2.get(service.url + "/metrics").text
    assert 'rgals_lists_total{source="factors"} 1.0' in text
    assert re.search(r'rgals_model_serving_workers\{version="v\d+"\} 1\.0', text)


def test_a_client_that_does_not_finish_its_body_is_told(registry):
    with served("--registry", str(registry), RGALS_SERVICE_READ_TIMEOUT_S="0.5") as service:
        wait_until(lambda: is_ready(service.url))
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.settimeout(20)
            connection.sendall(head_of(100) + b"{")
            answer = b""
            while part := connection.recv(1000):
                answer += part
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"urn:rgals:slow-request" in answer


def test_a_keep_alive_connection_survives_a_pause_longer_than_the_read_timeout(registry):
    with served("--registry", str(registry), RGALS_SERVICE_READ_TIMEOUT_S="0.4") as service, httpx2.Client() as client:
        assert client.get(service.url + "/livez").status_code == 200
        time.sleep(1.0)
        assert client.get(service.url + "/livez").status_code == 200


def test_workers_share_the_memory_of_the_model(registry, tmp_path):
    """Each worker's own memory is that of a worker with a small model, and the large model is there once."""
    n_rows, n_factors = 120_000, 256  # 123 MB of factors on either side
    publish_model(tmp_path / "large", write_large(n_rows, n_factors, tmp_path / "model"))
    private = [sorted(own_bytes(folder)) for folder in (registry, tmp_path / "large")]
    assert [len(found) for found in private] == [2, 2]
    n_bytes = 2 * n_rows * n_factors * 4
    assert private[1][1] - private[0][0] < 0.25 * n_bytes


def own_bytes(registry: Path) -> list[int]:
    """Give the memory of each of two workers that no other process has."""
    with served("--registry", str(registry), "--workers", "2") as service:
        wait_until(lambda: is_ready(service.url) and len(worker_pids(service.url)) == 2)
        return [psutil.Process(pid).memory_full_info().uss for pid in worker_pids(service.url)]


def write_large(n_rows: int, n_factors: int, folder: Path) -> Model:
    """Write a model with few interactions: the dense draw of `Parts` would not fit.

    Its factors are in the basis that training leaves them in, where fold-in needs no copy of the items.
    """
    rng, rows = np.random.default_rng(0), np.arange(n_rows)
    drawn = (rng.normal(0, 1, (n_rows, n_factors)).astype(np.float32) for _ in range(2))
    user_factors, item_factors = canonical_factors(*drawn, LOSS, np.ones(n_rows, np.int64))
    return write_model(
        folder,
        user_factors=user_factors,
        item_factors=item_factors,
        user_ids=make_ids("u", "int64", n_rows),
        item_ids=make_ids("i", "int64", n_rows),
        seen=InteractionRows.from_pairs(rows, rows, None, n_rows, n_rows),
        loss=LOSS,
        weight_scale=1.0,
        item_degrees=np.ones(n_rows, np.int64),
        config={},
        metrics={},
        lineage={},
    )


def test_settings_that_do_not_fit_end_the_command_with_all_of_them(tmp_path):
    found = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "serve", "--host", "0.0.0.0", "--port", "99999"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 1
    assert "3 problem(s)" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_key_is_printed_once_and_only_its_hash_is_kept(tmp_path, capsys):
    path = tmp_path / "keys"
    api_key_command.api_key("shop", path, "read")
    key = capsys.readouterr().out.strip()
    assert key.startswith("rgals_")
    assert key not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    api_key_command.api_key("shop", path, "admin")
    assert "another key of shop" in capsys.readouterr().err
    assert [(entry.name, entry.scope) for entry in read_keys(path)] == [("shop", "read"), ("shop", "admin")]
    with pytest.raises(InputError, match="--scope"):
        api_key_command.api_key("shop", path, "write")
