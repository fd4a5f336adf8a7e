"""The services of docker-compose.yml as processes of this machine, for want of an engine.

Each gets its real command and its real environment, and nothing of ours. Where a container would differ from a
process: paths of the container are folders below a temporary one, host names and ports are the variables that the
file offers, and every "container" has an address of its own on the loopback interface.
"""

import contextlib
import itertools
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from services.recommender.security import new_key
from tests.deploy.compose_file import REPOSITORY, load, words
from tests.deploy.dockerfile import read_stages

HEALTHY_S = 120.0
STOP_S = 60.0
PORTS = ("RAY_PORT", "RAY_CLIENT_PORT", "RAY_DASHBOARD_PORT", "API_PORT")
SMALL = {
    "RAY_HEAD_STORE_BYTES": "80000000",
    "RAY_WORKER_STORE_BYTES": "120000000",
    "RAY_JOB_STORE_BYTES": "80000000",
    "RAY_WORKER_CPUS": "1",
    "RAY_DASHBOARD_HOST": "127.0.0.1",
    "API_HOST": "127.0.0.1",
}


def wait_until(condition: Callable[[], bool], timeout_s: float, what: Callable[[], str]) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what()}"
        time.sleep(0.2)


def free_ports(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("", 0))
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


_FOLDERS = itertools.count(1)


class Container:
    """One service's process, with the folders that stand for its file system."""

    def __init__(self, deployment: "Deployment", service: str, number: int, token: Path) -> None:
        self.deployment, self.name = deployment, f"{service}-{number}"
        self.address = f"{deployment.network}.{number}"
        self.folder = deployment.folder / f"{number}-{next(_FOLDERS)}"
        (self.folder / "scratch").mkdir(parents=True)
        variables = {**deployment.variables, "RAY_NODE_IP": self.address, "RAY_AGENT_PORT": free_ports(1)[0]}
        self.service = load(variables)["services"][service]
        self._paths = {
            "/opt/venv/bin": Path(sys.executable).parent,
            "/opt/rgals": REPOSITORY / "docker",
            "/run/secrets/ray_token": token,
            "/run/secrets/api_keys": deployment.api_keys,
            "/data": deployment.data,
            "/cache": deployment.cache,
            "/scratch": self.folder / "scratch",
        }
        image = read_stages()[-1].environment()
        declared = {**image, **(self.service.get("environment") or {})}
        self.environment = {name: self.mapped(str(value)) for name, value in declared.items()}
        self.log = self.folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def mapped(self, text: str) -> str:
        """Replace the path of the container with which a word, or the value of an option, begins."""
        name, equals, value = text.partition("=") if text.startswith("--") else ("", "", text)
        for inside, outside in self._paths.items():
            if value == inside or value.startswith((f"{inside}/", f"{inside}:")):
                return f"{name}{equals}{outside}{value[len(inside) :]}"
        return text

    def start(self, *arguments: str) -> "Container":
        """Run entry point and command; arguments take the place of the command, as with `docker compose run`."""
        command = words(self.service.get("entrypoint")) + (list(arguments) or words(self.service.get("command")))
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                self._found([self.mapped(word) for word in command]),
                env=self.environment,
                cwd=self.deployment.data,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def _found(self, command: list[str]) -> list[str]:
        """Look the program up as the container would: along its own PATH."""
        program = shutil.which(command[0], path=self.environment["PATH"])
        assert program is not None, f"{command[0]} is not on {self.environment['PATH']}"
        return [program, *command[1:]]

    def wait(self, timeout_s: float) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def check_health(self) -> subprocess.CompletedProcess[str]:
        """Run the health check once, as the engine does: in the container, with its time limit."""
        check = self.service["healthcheck"]
        kind, *command = check["test"]
        assert kind == "CMD"
        command = self._found([self.mapped(word) for word in command])
        try:
            return subprocess.run(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=float(check["timeout"].removesuffix("s")),
                check=False,
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 1, "the check took too long")

    def wait_healthy(self) -> None:
        assert self.process is not None
        process = self.process

        def is_healthy() -> bool:
            assert process.poll() is None, f"{self.name} ended with {process.returncode}:\n{self.output()}"
            return self.check_health().returncode == 0

        wait_until(is_healthy, HEALTHY_S, lambda: f"{self.name} healthy\n{self.output()}")

    def output(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.end_rest()

    def end_rest(self) -> None:
        """End what is left after the first process, as the kernel does when that of a container has ended.

        Ray's agents, left to themselves, end some seconds or a minute later: they first report to a head that is gone.
        """
        while rest := self.deployment.leftovers_of(self):
            for process in rest:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(rest, timeout=1.0)

    def stop(self, timeout_s: float = STOP_S) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout_s)


class Deployment:
    """What `docker compose up` would hold: variables, volumes, containers.

    The cache, of compiled kernels, is the one volume that may outlive it.
    """

    def __init__(self, cache: Path) -> None:
        # Names of sockets are short: about a hundred characters, of which Ray needs half.
        self.folder = Path(tempfile.mkdtemp(prefix="rg", dir="/tmp"))
        self.data = self.folder / "data"
        self.data.mkdir()
        self.token = self.folder / "token"
        self.token.write_text(secrets.token_hex(32) + "\n")
        self.api_keys = self.folder / "api_keys"
        self.api_key, entry = new_key("rehearsal", "admin")
        self.api_keys.write_text(entry.to_line() + "\n")
        self.cache = cache
        self.network = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(256)}"
        self.variables = {**SMALL, **dict(zip(PORTS, free_ports(len(PORTS)), strict=True))}
        self.variables["RAY_HEAD_HOST"] = f"{self.network}.1"
        self._numbers = itertools.count(1)
        self.containers: list[Container] = []

    def create(self, service: str, token: Path | None = None, number: int | None = None) -> Container:
        """Make a container; the head is the first one, since its address is in the variables."""
        chosen = next(self._numbers) if number is None else number
        container = Container(self, service, chosen, token or self.token)
        self.containers.append(container)
        return container

    def up(self, services: list[str], scale: dict[str, int]) -> list[Container]:
        """Start services in the order of depends_on, each when those before it are healthy."""
        started: list[Container] = []
        for service in start_order(services):
            group = [self.create(service).start() for _ in range(scale.get(service, 1))]
            for container in group:
                container.wait_healthy()
            started += group
        return started

    def run(self, service: str, *arguments: str, timeout_s: float = 240.0) -> Container:
        """Run a job to its end."""
        container = self.create(service).start(*arguments)
        container.wait(timeout_s)
        return container

    def leftovers(self) -> list[psutil.Process]:
        """Give the processes that carry our folder in their environment, in whatever session they are."""
        return [process for process in psutil.process_iter() if process.pid != os.getpid() and self._owns(process)]

    def leftovers_of(self, container: Container) -> list[psutil.Process]:
        home = container.environment["HOME"]
        return [process for process in self.leftovers() if _home_of(process) == home]

    def _owns(self, process: psutil.Process) -> bool:
        return _home_of(process).startswith(f"{self.folder}/")

    def remove(self) -> None:
        """End whatever is left, and the folder."""
        for container in self.containers:
            if container.process is not None and container.process.poll() is None:
                container.process.terminate()
        for container in self.containers:
            if container.process is not None:
                try:
                    container.process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    container.process.kill()
                    container.process.wait()
        for container in self.containers:
            container.end_rest()
        shutil.rmtree(self.folder)


def _home_of(process: psutil.Process) -> str:
    """Give HOME of a process that runs, an empty text for one that has ended or is not ours to look at."""
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else process.environ().get("HOME", "")
    except psutil.Error:
        return ""


def start_order(services: list[str]) -> list[str]:
    """Order services so that each comes after those it depends on; all of these must be asked to be healthy."""
    defined = load()["services"]
    ordered: list[str] = []

    def add(service: str) -> None:
        for needed, how in (defined[service].get("depends_on") or {}).items():
            assert how == {"condition": "service_healthy"}, f"{service} starts before {needed} is ready"
            add(needed)
        if service not in ordered:
            ordered.append(service)

    for service in services:
        add(service)
    return ordered
