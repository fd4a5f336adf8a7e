"""Running the service: processes, sockets, what workers share, and how they end."""

import asyncio
import gc
import os
import shutil
import signal
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.recommender.logs import log_config
from services.recommender.metrics import MULTIPROCESS_VARIABLE
from services.recommender.settings import PREFIX, Settings, read_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["TimedProtocol", "create_worker", "serve"]

_KEEP_ALIVE_S: Final = 30
_TOO_SLOW: Final = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\ncache-control: no-store\r\n\r\n"
)


def serve(settings: Settings) -> None:
    """Run the service until a signal ends it: then what is under way is finished.

    Parameters
    ----------
    settings : Settings
        What it is told. Workers get it through the environment.
    """
    shared = Path(tempfile.mkdtemp(prefix="rgals-workers-"))
    former = dict(os.environ)
    # The server raises the signal that ended it once more; what is cleaned up below must not be cut off by it.
    handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        (shared / "metrics").mkdir()
        (shared / "state").mkdir()
        os.environ.update(_environment(settings, shared))
        if settings.workers > 1:  # one worker counts in memory
            os.environ[MULTIPROCESS_VARIABLE] = str(shared / "metrics")
        uvicorn.run(
            "services.recommender.server:create_worker",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            http=TimedProtocol,
            ws="none",
            log_config=log_config(settings.log_level),
            access_log=False,
            proxy_headers=False,  # who calls is who is connected: a header can say anything
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=settings.drain_s,
        )
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(former)
        shutil.rmtree(shared, ignore_errors=True)


def create_worker() -> "FastAPI":
    """Import and build the application of one worker as fast as can be.

    A tenth of the time of imports goes into looking for garbage among what stays for ever. Nobody looks meanwhile, nor
    at what was imported afterwards, which would hold up a request now and then.
    """
    gc.disable()
    try:
        from services.recommender.app import create_app  # noqa: PLC0415

        return create_app()
    finally:
        gc.freeze()
        gc.enable()


def _environment(settings: Settings, shared: Path) -> dict[str, str]:
    """Write settings as environment variables."""
    values = settings.model_dump(mode="json", exclude_none=True)
    values.setdefault("state_dir", str(shared / "state"))
    values.setdefault("cache_dir", str(shared / "models"))
    return {
        PREFIX + name.upper(): ",".join(value) if isinstance(value, list) else str(value)
        for name, value in values.items()
    }


class TimedProtocol(HttpToolsProtocol):
    """A connection that is closed when the headers of a request do not arrive in time.

    Parameters
    ----------
    *arguments, **options
        As the server makes it.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a first request."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._disarm()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Wait for the rest of the headers."""
        super().on_message_begin()
        self._arm()

    def on_headers_complete(self) -> None:
        """Stop waiting; the body has its own time."""
        self._disarm()
        super().on_headers_complete()

    def _arm(self) -> None:
        self._disarm()
        self._patience = self.loop.call_later(_read_timeout_s(), self._give_up)

    def _disarm(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience = None
        if not self.transport.is_closing():
            with suppress(OSError):
                self.transport.write(_TOO_SLOW)
            self.transport.close()


@cache
def _read_timeout_s() -> float:
    return read_settings().read_timeout_s
