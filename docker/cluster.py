"""What a container does beside ``ray start``: check its health, and run a command as a member of the cluster.

    cluster.py check             exit code 0 when this container is a node of the cluster
    cluster.py run COMMAND ...   join as a node without CPUs, run the command, leave; gives its exit code

A command that uses a cluster needs a node of Ray beside it, in its own container, to reach the shared memory.

Environment: ``RAY_ADDRESS`` of the head node; ``RAY_NODE_IP``, the address this container is known by, where Ray
should not find it itself; ``RAY_NODE_STORE_BYTES`` and ``RAY_AGENT_PORT`` of a node that ``run`` starts; and what Ray
reads for the token.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from rgals.execution.ray_backend import cluster_status
from rgals.execution.status import ClusterStatus

__all__ = ["check", "main", "run"]

ANSWER_TIMEOUT_S = 5.0
JOIN_TIMEOUT_S = 120.0
LEAVE_TIMEOUT_S = 40.0
POLL_S = 0.5
FOLDER = Path(os.environ.get("TMPDIR", "/scratch"))
USAGE = "usage: cluster.py check, or cluster.py run COMMAND ..."


def check() -> str | None:
    """Say why this container is not a node of the cluster; None when it is one.

    The head is held to it too: it answers some seconds before it is a node, and others can only join after that.
    """
    status = cluster_status(os.environ["RAY_ADDRESS"], ANSWER_TIMEOUT_S)
    if not status.is_reachable:
        return status.message
    return None if _is_member(status) else f"{status.message}; this container is not one of them"


def _is_member(status: ClusterStatus) -> bool:
    address = os.environ.get("RAY_NODE_IP")
    if address:
        return any(node.address == address for node in status.nodes)
    return any(node.name == socket.gethostname() for node in status.nodes)


def run(command: list[str]) -> int:
    """Join the cluster, run a command, leave.

    SIGINT and SIGTERM go to the command, which decides; the node stays until the command has ended.

    Parameters
    ----------
    command : list of str
        Program and arguments.

    Returns
    -------
    int
        The exit code of the command, 128 + N when signal N ended it, 1 when the cluster could not be joined.
    """
    log = FOLDER / "ray-node.log"
    early: list[int] = []
    job: subprocess.Popen[bytes] | None = None

    def forward(number: int, _frame: FrameType | None) -> None:
        if job is None:
            early.append(number)
        else:
            job.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    with log.open("wb") as output:
        # A session of its own: Ctrl-C on a terminal must not take the node away from the command.
        node = subprocess.Popen(  # noqa: S603 - our own arguments
            _node_command(), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        problem = _wait_until_joined(node, early)
        if problem is not None:
            print(f"cluster.py: error: {problem}", file=sys.stderr)
            return 1
        if early:
            return 128 + early[0]
        # A process group of its own: a terminal's Ctrl-C comes through here, once, and not twice.
        job = subprocess.Popen(command, process_group=0)  # noqa: S603 - what it is there for
        for waiting in early:  # arrived between the two lines above
            job.send_signal(waiting)
        code = job.wait()
        return code if code >= 0 else 128 - code
    finally:
        _leave(node)


def _node_command() -> list[str]:
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--block",
        f"--address={os.environ['RAY_ADDRESS']}",
        "--num-cpus=0",
        f"--object-store-memory={os.environ['RAY_NODE_STORE_BYTES']}",
        f"--temp-dir={FOLDER / 'ray'}",
    ]
    if port := os.environ.get("RAY_AGENT_PORT"):
        command.append(f"--dashboard-agent-listen-port={port}")
    if address := os.environ.get("RAY_NODE_IP"):
        command.append(f"--node-ip-address={address}")
    return command


def _wait_until_joined(node: subprocess.Popen[bytes], early: list[int]) -> str | None:
    """Wait for our node to be listed; say what went wrong, or None."""
    status = cluster_status(os.environ["RAY_ADDRESS"], ANSWER_TIMEOUT_S)
    if not status.is_reachable:
        return status.message
    deadline = time.monotonic() + JOIN_TIMEOUT_S
    while (problem := check()) is not None and not early:
        if node.poll() is not None:
            lines = (FOLDER / "ray-node.log").read_text(errors="replace").strip().splitlines()
            return "\n".join([f"ray start ended with exit code {node.returncode}:", *lines[-5:]])
        if time.monotonic() > deadline:
            return f"not a node of the cluster after {JOIN_TIMEOUT_S:.0f} s: {problem}"
        time.sleep(POLL_S)
    return None


def _leave(node: subprocess.Popen[bytes]) -> None:
    """Let the node leave the cluster; it hands over what it holds."""
    node.terminate()
    try:
        node.wait(LEAVE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        node.kill()  # the kernel ends its children with it
        node.wait()


def main() -> int:
    """Read the command line."""
    match sys.argv[1:]:
        case ["check"]:
            problem = check()
            print(problem or "healthy")
            return 0 if problem is None else 1
        case ["run", *command] if command:
            return run(command)
        case _:
            print(USAGE, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
