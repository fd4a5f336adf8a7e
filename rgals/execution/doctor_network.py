"""Checks of the network: ports, who listens where, Ray's token."""

import ipaddress
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rgals.execution.finding import Finding

__all__ = [
    "RAY_PORTS",
    "Listener",
    "check_exposure",
    "check_ports",
    "check_token",
    "read_listeners",
]

RAY_PORTS: Mapping[int, str] = {6379: "cluster", 8265: "dashboard and jobs", 10001: "client"}
"""The ports that ``ray start --head`` takes by default, and what for."""

_RAY_COMMAND = re.compile(r"/ray/(core/src/ray|dashboard|_private|util|autoscaler)/|ray\.util\.client|^ray::")
_DASHBOARD_COMMAND = re.compile(r"/ray/dashboard/dashboard\.py|^ray-dashboard")
_DASHBOARD_OPTION = re.compile(r"--(port|port-retries)=(\d+)")
_RENAMED_PREFIX = "ray::"
"""Processes of this name wrote it over their environment, which then cannot be read."""

_LISTENING = "0A"
_SHORTEST_TOKEN = 32


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that waits for connections.

    Parameters
    ----------
    address : str
        The address that it is bound to; ``0.0.0.0`` and ``::`` mean all.
    port : int
        Its port.
    command : str
        The command line of the process; empty where it belongs to another user.
    has_token : bool or None
        Whether that process was started with ``RAY_AUTH_MODE=token``; None where that cannot be seen.
    """

    address: str
    port: int
    command: str = ""
    has_token: bool | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.address).is_loopback

    @property
    def is_ray(self) -> bool:
        """Whether the process is one of Ray's."""
        return _RAY_COMMAND.search(self.command) is not None

    @property
    def is_dashboard(self) -> bool:
        """Whether this is the port of Ray's dashboard that takes jobs, and not one of its others (metrics)."""
        if _DASHBOARD_COMMAND.search(self.command) is None:
            return False
        options = {name: int(value) for name, value in _DASHBOARD_OPTION.findall(self.command)}
        first = options.get("port", self.port)
        # Where its port is taken, it tries the next ones.
        return first <= self.port <= first + options.get("port-retries", 0)


def read_listeners(root: Path = Path("/")) -> tuple[Listener, ...]:
    """Read who listens on which TCP port.

    Parameters
    ----------
    root : Path
        The folder that stands for ``/``.

    Returns
    -------
    tuple of Listener
        By port and address; other users' processes without their command.

    Raises
    ------
    OSError
        If the system has no /proc/net/tcp.
    """
    sockets: dict[str, tuple[str, int]] = {}
    for name in ("tcp", "tcp6"):
        path = root / "proc/net" / name
        if name == "tcp6" and not path.exists():
            continue
        for line in path.read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == _LISTENING:
                address, port = words[1].split(":")
                sockets[words[9]] = (_decode_address(address), int(port, 16))
    owners = _owners(root / "proc", frozenset(sockets))
    found = {Listener(*place, *owners.get(inode, ("", None))) for inode, place in sockets.items()}
    return tuple(sorted(found, key=lambda listener: (listener.port, listener.address)))


def _decode_address(text: str) -> str:
    """Decode an address of /proc/net: 32-bit words, each in the machine's byte order."""
    words = [bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _owners(proc: Path, inodes: frozenset[str]) -> dict[str, tuple[str, bool | None]]:
    """Find the processes that hold sockets: command line, and is the token mode in their environment."""
    found: dict[str, tuple[str, bool | None]] = {}
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        try:
            links = {_link_target(link) for link in (process / "fd").iterdir()}
            held = {inode for inode in inodes if f"socket:[{inode}]" in links}
            if held:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                variables = (process / "environ").read_bytes().split(b"\0")
                has_token = None if command.startswith(_RENAMED_PREFIX) else b"RAY_AUTH_MODE=token" in variables
                found.update(dict.fromkeys(held, (command, has_token)))
        except OSError:
            continue  # it ended meanwhile, or belongs to another user
    return found


def _link_target(link: Path) -> str:
    """Give where a link points; a file that was closed meanwhile points nowhere."""
    try:
        return str(link.readlink())
    except OSError:
        return ""


def check_ports(listeners: Sequence[Listener], ports: Mapping[int, str] = RAY_PORTS) -> Finding:
    """Look whether the ports of a Ray head are free, or taken by Ray.

    Parameters
    ----------
    listeners : sequence of Listener
        See `read_listeners`.
    ports : mapping of int to str
        Ports, and what for.
    """
    shown, strangers = [], []
    for port, purpose in ports.items():
        holders = [listener for listener in listeners if listener.port == port]
        # The client's server is started when somebody asks for it, by a module of Ray.
        if not holders:
            shown.append(f"{port} ({purpose}) free")
        elif any(listener.is_ray for listener in holders):
            shown.append(f"{port} ({purpose}) taken by Ray")
        else:
            shown.append(f"{port} ({purpose}) taken by another program")
            strangers.append(port)
    found = ", ".join(shown)
    if not strangers:
        return Finding("ports", "ok", found)
    advice = (
        "give `ray start --head` other ones: --port for the cluster, --dashboard-port, --ray-client-server-port "
        "(outside of 10002 to 19999, where its workers listen)"
    )
    return Finding("ports", "warning", found, advice)


def check_exposure(listeners: Sequence[Listener]) -> Finding:
    """Look whether other machines reach this machine's Ray: whoever does can run code as its user.

    Parameters
    ----------
    listeners : sequence of Listener
        See `read_listeners`.
    """
    name = "Ray exposure"
    rays = [listener for listener in listeners if listener.is_ray]
    if not rays:
        return Finding(name, "ok", "no Ray of this user runs here")
    open_ones = [listener for listener in rays if not listener.is_loopback]
    if not open_ones:
        return Finding(name, "ok", "Ray listens on loopback addresses only")
    dashboards = [listener for listener in open_ones if listener.is_dashboard]
    if dashboards:
        found = f"the dashboard listens on {_places(dashboards)}: whoever reaches it can run code as this user"
        advice = (
            "start Ray again with --dashboard-host 127.0.0.1 and RAY_AUTH_MODE=token; "
            "reach it from elsewhere through an SSH tunnel"
        )
        return Finding(name, "problem", found, advice)
    known = {listener.has_token for listener in rays} - {None}
    advice = "start Ray again with RAY_AUTH_MODE=token, and let a firewall keep these ports inside the cluster"
    found = f"Ray listens on {_places(open_ones)}"
    if False in known:
        risk = "not every process asks for a token: whoever reaches it can run code as this user"
        return Finding(name, "problem", f"{found}; {risk}", advice)
    if not known:
        return Finding(name, "warning", f"{found}; whether it asks for a token cannot be seen", advice)
    return Finding(name, "ok", f"{found} and asks for a token; the traffic is not encrypted")


def _places(listeners: Sequence[Listener]) -> str:
    shown = [f"[{one.address}]:{one.port}" if ":" in one.address else f"{one.address}:{one.port}" for one in listeners]
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")


def check_token(environment: Mapping[str, str]) -> Finding:
    """Look whether a Ray that is started here asks for a token, and whether only its owner can read it.

    Parameters
    ----------
    environment : mapping of str to str
        Environment variables.
    """
    name, mode = "Ray token", environment.get("RAY_AUTH_MODE")
    way = "run `export RAY_AUTH_MODE=token` on every node and where commands are typed"
    if mode is not None and mode.lower() != "token":
        found = f"RAY_AUTH_MODE={mode}: whoever reaches the cluster can run code on it"
        return Finding(name, "warning", found, way)
    if environment.get("RAY_AUTH_TOKEN"):
        source: str | Path = "RAY_AUTH_TOKEN"
        n_characters = len(environment["RAY_AUTH_TOKEN"].strip())
    else:
        source = Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path(environment.get("HOME", "/")) / ".ray/auth_token")
        try:
            mask, owner = stat.S_IMODE(source.stat().st_mode), source.stat().st_uid
            n_characters = len(source.read_text().strip())
        except OSError:
            advice = f"{way}, and make a token: (umask 077; ray get-auth-token --generate)"
            found = f"RAY_AUTH_MODE is {'token' if mode else 'not set'} and there is no token in {source}"
            return Finding(name, "warning", found, advice)
        if mask & 0o077 or owner != os.getuid():
            found = f"{source} has mode {mask:03o} and belongs to user {owner}: others can read or replace it"
            advice = f"make a new token, and run `chmod 600 {source}` as user {os.getuid()}, its owner"
            return Finding(name, "problem", found, advice)
    if n_characters < _SHORTEST_TOKEN:
        found = f"{source} holds {n_characters} characters"
        advice = f"take a random token of at least {_SHORTEST_TOKEN}: (umask 077; ray get-auth-token --generate)"
        return Finding(name, "problem", found, advice)
    if mode is None:
        return Finding(name, "warning", f"RAY_AUTH_MODE is not set; there is a token in {source}", way)
    return Finding(name, "ok", f"RAY_AUTH_MODE=token, and {source} that only its owner can read")
