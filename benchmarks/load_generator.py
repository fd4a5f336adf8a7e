"""Requests to a service on loopback at a given rate, whether or not it keeps up, on kept connections.

A request's latency counts from the moment at which it was due. One that finds no free connection waits for one,
and its waiting counts too: a generator that only sends when the last answer is there measures a service at its ease.
"""

import asyncio
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["LoadResult", "get_request", "post_request", "run_closed", "run_open"]

_CONNECTIONS = 64


def get_request(path: str) -> bytes:
    """Write a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post_request(path: str, body: bytes) -> bytes:
    """Write a POST request with a JSON body."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    return head.encode() + body


@dataclass
class LoadResult:
    """What came back."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    versions: list[bytes] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def quantile_ms(self, share: float) -> float:
        """Give the latency that a share of the requests did not exceed, in milliseconds."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")

    @property
    def rate(self) -> float:
        """Answers with status 200 per second."""
        return self.statuses[200] / self.seconds

    @property
    def mean_ms(self) -> float:
        """Mean latency in milliseconds."""
        return 1000 * statistics.fmean(self.latencies_s) if self.latencies_s else float("nan")


class _Connection(asyncio.Protocol):
    """One kept connection with at most one request under way."""

    def __init__(self, done: Callable[["_Connection", bytes, bytes], None], lost: Callable[[str], None]) -> None:
        self._done, self._lost = done, lost
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self.due_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(f"connection lost: {exc}")

    def send(self, request: bytes, due_s: float) -> None:
        assert self._transport is not None
        self.due_s = due_s
        self._transport.write(request)

    def close(self) -> None:
        self._lost = lambda _: None
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        start = head.find(b"content-length:")
        length = int(head[start + 15 : head.find(b"\r\n", start) if b"\r\n" in head[start:] else None])
        if len(self._buffer) >= end + 4 + length:
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = b""
            self._done(self, head, body)


class _Client:
    """A pool of connections."""

    def __init__(self, port: int, keeps: bool) -> None:
        self._port, self._keeps = port, keeps
        self.result = LoadResult()
        self.free: deque[_Connection] = deque()
        self.all: list[_Connection] = []
        self.waiting: deque[tuple[bytes, float]] = deque()
        self.bodies: list[bytes] = []
        self.n_open = 0
        self.idle = asyncio.Event()

    async def connect(self, n_connections: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(n_connections):
            _, connection = await loop.create_connection(
                lambda: _Connection(self._done, self._lost), "127.0.0.1", self._port
            )
            self.free.append(connection)
            self.all.append(connection)

    def ask(self, request: bytes, due_s: float) -> None:
        self.n_open += 1
        self.idle.clear()
        if self.free:
            self.free.popleft().send(request, due_s)
        else:
            self.waiting.append((request, due_s))

    def _done(self, connection: _Connection, head: bytes, body: bytes) -> None:
        result = self.result
        result.latencies_s.append(time.perf_counter() - connection.due_s)
        result.statuses[int(head[9:12])] += 1
        if self._keeps:
            start = head.find(b"x-model-version:")
            result.versions.append(head[start + 16 : head.find(b"\r\n", start)].strip() if start >= 0 else b"")
            self.bodies.append(body)
        self.n_open -= 1
        if self.waiting:
            connection.send(*self.waiting.popleft())
        else:
            self.free.append(connection)
            if self.n_open == 0:
                self.idle.set()

    def _lost(self, why: str) -> None:
        self.result.problems.append(why)
        self.n_open -= 1
        self.idle.set()

    def close(self) -> None:
        for connection in self.all:
            connection.close()


async def run_open(
    port: int,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    *,
    keeps: bool = False,
    check: Callable[[bytes, bytes], str | None] | None = None,
) -> LoadResult:
    """Send requests at a fixed rate for some seconds.

    Parameters
    ----------
    port : int
        Where the service listens.
    requests : sequence of bytes
        What to send, in turn.
    rate : float
        Requests per second.
    seconds : float
        How long.
    keeps : bool
        Whether the versions that answered are kept.
    check : callable or None
        Looks at the version and the body of each answer at the end, and says what is wrong with them.
    """
    client = _Client(port, keeps or check is not None)
    await client.connect(_CONNECTIONS)
    started_s = time.perf_counter()
    n_total, n_sent = int(rate * seconds), 0
    while n_sent < n_total:
        now_s = time.perf_counter()
        n_due = min(n_total, int((now_s - started_s) * rate) + 1)
        for number in range(n_sent, n_due):
            # The timer of the event loop is coarse: what it makes late is not the service's doing.
            client.ask(requests[number % len(requests)], now_s)
        n_sent = max(n_sent, n_due)
        await asyncio.sleep(max(0.0, started_s + n_sent / rate - time.perf_counter()))
    if client.n_open:
        await asyncio.wait_for(client.idle.wait(), 60)
    return _finish(client, started_s, check)


async def run_closed(port: int, requests: Iterable[bytes], n_connections: int) -> LoadResult:
    """Send all requests as fast as they are answered, so many at once."""
    client = _Client(port, keeps=False)
    await client.connect(n_connections)
    started_s = time.perf_counter()
    for request in requests:
        client.ask(request, started_s)
    if client.n_open:
        await asyncio.wait_for(client.idle.wait(), 600)
    return _finish(client, started_s, None)


def _finish(client: _Client, started_s: float, check: Callable[[bytes, bytes], str | None] | None) -> LoadResult:
    result = client.result
    result.seconds = time.perf_counter() - started_s
    client.close()
    if check is not None:
        found = (check(version, body) for version, body in zip(result.versions, client.bodies, strict=True))
        result.problems += [problem for problem in found if problem is not None]
    return result
