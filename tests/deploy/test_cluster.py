"""The script of the containers: when it says healthy, and what it does with a command."""

import importlib.util
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from rgals.execution.status import ClusterStatus, NodeStatus
from tests.deploy.compose_file import REPOSITORY
from tests.deploy.processes import wait_until

SCRIPT = REPOSITORY / "docker" / "cluster.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setenv("RAY_NODE_IP", "")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    spec = importlib.util.spec_from_file_location("cluster_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield module
    for number, handler in before.items():
        signal.signal(number, handler)


def answer(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *nodes: NodeStatus, reachable: bool = True) -> None:
    message = f"Ray at head:6379: {len(nodes)} nodes" if reachable else "Ray at head:6379: no Ray answers there"
    status = ClusterStatus(reachable, "token", "2", "3", nodes, message)
    monkeypatch.setattr(module, "cluster_status", lambda address, timeout_s: status)


def node(name: str, address: str) -> NodeStatus:
    return NodeStatus(name, address, 1, 1, 1)


def test_a_cluster_that_does_not_answer_is_not_healthy(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(script, monkeypatch, reachable=False)
    assert script.check() == "Ray at head:6379: no Ray answers there"


def test_a_head_that_answers_before_it_is_a_node_is_not_healthy(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(script, monkeypatch)
    assert script.check() == "Ray at head:6379: 0 nodes; this container is not one of them"


def test_a_container_is_known_by_its_name_or_by_the_address_it_was_given(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(script, monkeypatch, node("another", "10.0.0.1"), node(socket.gethostname(), "10.0.0.2"))
    assert script.check() is None
    monkeypatch.setenv("RAY_NODE_IP", "10.0.0.2")
    assert script.check() is None
    monkeypatch.setenv("RAY_NODE_IP", "10.0.0.3")
    assert "not one of them" in script.check()


@pytest.fixture
def joined(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """Give the script with a node that says when it starts and ends, in a cluster that lists it."""
    ray = tmp_path / "ray"
    ray.write_text(f"#!/bin/sh\ntrap 'echo left >> {tmp_path}/node; exit' TERM\necho $$ >> {tmp_path}/node\n"
                   "while :; do sleep 0.1; done\n")  # fmt: skip
    ray.chmod(ray.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(script, "_node_command", lambda: [str(ray)])

    def status(address: str, timeout_s: float) -> ClusterStatus:
        nodes = (node(socket.gethostname(), "10.0.0.2"),) if (tmp_path / "node").exists() else ()
        return ClusterStatus(True, "token", "2", "3", nodes, "Ray at head:6379")

    monkeypatch.setattr(script, "cluster_status", status)
    return script


@pytest.mark.parametrize(("command", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137)])
def test_a_command_runs_beside_a_node_and_gives_its_exit_code(
    joined: ModuleType, tmp_path: Path, command: str, code: int
) -> None:
    assert joined.run(["sh", "-c", f"cat {tmp_path}/node > {tmp_path}/seen; {command}"]) == code
    pid = (tmp_path / "seen").read_text()
    assert (tmp_path / "node").read_text() == f"{pid}left\n"
    assert not Path(f"/proc/{pid.strip()}").exists()


def test_a_command_gets_a_signal_once_and_ends_before_the_node(joined: ModuleType, tmp_path: Path) -> None:
    ready, log = tmp_path / "ready", tmp_path / "node"
    lines = f"trap 'echo stopping >> {log}; n=$((n+1))' INT; touch {ready}; kill -INT {os.getpid()}; "
    assert joined.run(["bash", "-c", f"n=0; {lines} sleep 0.5; exit $n"]) == 1
    assert log.read_text().split()[1:] == ["stopping", "left"]


def test_a_terminal_interrupts_the_command_through_the_script_alone(joined: ModuleType) -> None:
    script = "import os, sys; sys.exit(40 + (os.getpgrp() == os.getpid()))"
    assert joined.run([sys.executable, "-c", script]) == 41


def test_a_signal_before_the_command_starts_keeps_it_from_starting(
    joined: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    status = joined.cluster_status

    def interrupted(address: str, timeout_s: float) -> ClusterStatus:
        found: ClusterStatus = status(address, timeout_s)
        if found.nodes:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    monkeypatch.setattr(joined, "cluster_status", interrupted)
    assert joined.run(["touch", str(tmp_path / "started")]) == 128 + signal.SIGTERM
    assert not (tmp_path / "started").exists()
    assert (tmp_path / "node").read_text().endswith("left\n")


def test_a_cluster_that_cannot_be_joined_is_an_error(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    never = tmp_path / "started"
    monkeypatch.setattr(script, "_node_command", lambda: ["sh", "-c", "echo no room; exit 3"])
    answer(script, monkeypatch)
    assert script.run(["touch", str(never)]) == 1
    assert "ray start ended with exit code 3:\nno room" in capsys.readouterr().err
    answer(script, monkeypatch, reachable=False)
    assert script.run(["touch", str(never)]) == 1
    assert "no Ray answers there" in capsys.readouterr().err
    assert not never.exists()


def test_the_node_of_a_job_has_no_cpus_and_what_the_environment_says(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_NODE_STORE_BYTES", "123")
    monkeypatch.setenv("RAY_NODE_IP", "10.0.0.2")
    monkeypatch.setenv("RAY_AGENT_PORT", "5")
    program, *options = script._node_command()
    assert Path(program) == Path(sys.executable).with_name("ray")
    assert {"--block", "--address=head:6379", "--num-cpus=0", "--object-store-memory=123"} <= set(options)
    assert {f"--temp-dir={tmp_path}/ray", "--dashboard-agent-listen-port=5", "--node-ip-address=10.0.0.2"} <= set(
        options
    )


@pytest.mark.parametrize("arguments", [[], ["check", "me"], ["run"]])
def test_other_words_are_refused(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_waiting_ends_with_what_was_waited_for() -> None:
    with pytest.raises(AssertionError, match="not within 0 s: the end"):
        wait_until(lambda: False, 0.0, lambda: "the end")
