"""API keys: hashed in a file, compared in constant time, with scopes, replaced without a restart."""

import hashlib
import hmac
import logging
import re
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from starlette.requests import HTTPConnection

from rgals.errors import DataError, InputError
from services.recommender.problems import ServiceError
from services.recommender.settings import is_loopback

__all__ = ["ApiKeys", "KeyEntry", "Scope", "authorize", "new_key", "read_keys"]

Scope: TypeAlias = Literal["read", "admin"]
"""What a key may do: ask for recommendations; or that and reload models."""

_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64})\s+(?P<scope>\S+)\s+sha256:(?P<digest>[0-9a-f]{64})")
_KEY_BYTES = 32
_KEY_PREFIX = "rgals_"
_LOOK_INTERVAL_S = 1.0
_MAX_KEY_LENGTH = 256
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="rgals"'}
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^:]+)(:[0-9]+)?")
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
_KEY_PARAMETERS = frozenset(
    {"api_key", "apikey", "api-key", "x-api-key", "key", "token", "access_token", "authorization"}
)

logger = logging.getLogger("rgals.service")


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A line of a file of keys.

    Parameters
    ----------
    name : str
        Whose key; appears in logs.
    scope : {"read", "admin"}
        What it may do.
    digest : str
        SHA-256 of the key, in hexadecimal digits.
    """

    name: str
    scope: Scope
    digest: str

    def to_line(self) -> str:
        """Give the line of the file."""
        return f"{self.name} {self.scope} sha256:{self.digest}"


def new_key(name: str, scope: Scope) -> tuple[str, KeyEntry]:
    """Make a key of 256 random bits, and its line.

    Raises
    ------
    InputError
        If the name or the scope is unusable.
    """
    if scope not in get_args(Scope):
        raise InputError(f"scope: expected 'read' or 'admin', found {scope!r}")
    key = _KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    entry = KeyEntry(name, scope, hashlib.sha256(key.encode()).hexdigest())
    if not _LINE.fullmatch(entry.to_line()):
        raise InputError(f"name: expected 1 to 64 letters, digits, dots, dashes and underscores, found {name!r}")
    return key, entry


def read_keys(path: Path) -> tuple[KeyEntry, ...]:
    """Read a file of keys: a line for each, ``#`` begins a comment.

    Raises
    ------
    DataError
        If it cannot be read, or a line is not ``NAME SCOPE sha256:DIGEST``. The message holds no line.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: not a readable file of keys ({type(error).__name__}); check its permissions"
        ) from error
    entries: list[KeyEntry] = []
    for number, line in enumerate(lines, start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        found = _LINE.fullmatch(content)
        if found is None or found["scope"] not in get_args(Scope):
            raise DataError(
                f"{path}, line {number}: expected NAME, read or admin, and sha256: with 64 digits; make lines with "
                "rgals api-key"
            )
        scope: Scope = "admin" if found["scope"] == "admin" else "read"
        entries.append(KeyEntry(found["name"], scope, found["digest"]))
    return tuple(entries)


class ApiKeys:
    """The keys that a service accepts, as its file has them now.

    Parameters
    ----------
    path : Path or None
        The file; None accepts whoever is on this machine.

    Raises
    ------
    DataError
        If the file cannot be read. Later a file that cannot be read is logged, and the keys stay as they were.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._entries: tuple[KeyEntry, ...] = ()
        self._stamp: tuple[int, int, int] | None = None
        self._looked_s = 0.0
        if path is not None:
            self._stamp = _stamp_of(path)
            self._entries = read_keys(path)

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return self._path is None

    def find(self, key: str) -> KeyEntry | None:
        """Give the entry of a key; the time it takes does not tell how near a wrong key is."""
        self._look_again()
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        found: KeyEntry | None = None
        for entry in self._entries:
            if hmac.compare_digest(entry.digest, digest):
                found = entry
        return found

    def _look_again(self) -> None:
        if self._path is None or time.monotonic() - self._looked_s < _LOOK_INTERVAL_S:
            return
        with self._lock:
            self._looked_s = time.monotonic()
            try:
                stamp = _stamp_of(self._path)
                if stamp != self._stamp:
                    self._entries = read_keys(self._path)
                    self._stamp = stamp
                    logger.info("API keys were read again", extra={"n_keys": len(self._entries)})
            except (DataError, OSError) as error:
                self._stamp = None
                logger.error("API keys could not be read; the former ones stay", extra={"error": str(error)})


def _stamp_of(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def authorize(connection: HTTPConnection, keys: ApiKeys, scope: Scope) -> str | None:
    """Refuse whoever may not do this.

    Parameters
    ----------
    connection : HTTPConnection
        The request.
    keys : ApiKeys
        The keys that are accepted.
    scope : {"read", "admin"}
        What is asked for.

    Returns
    -------
    str or None
        Whose key it is; None where no key is needed.

    Raises
    ------
    ServiceError
        If there is no valid key, or it may not do this, or it stands in the URL.
    """
    if not _KEY_PARAMETERS.isdisjoint(name.lower() for name in connection.query_params):
        raise ServiceError(
            "key-in-query", "a key in a URL ends up in logs and histories: replace it, and send it in X-API-Key"
        )
    if keys.is_open:
        _check_local(connection)
        return None
    sent = _sent_key(connection)
    entry = None if sent is None else keys.find(sent)
    if entry is None:
        what = "no key was sent" if sent is None else "the key is not valid"
        raise ServiceError("unauthorized", f"{what}; send one as X-API-Key or as Authorization: Bearer", _CHALLENGE)
    if scope == "admin" and entry.scope != "admin":
        raise ServiceError("forbidden", "this needs a key of scope admin; the one that was sent has scope read")
    return entry.name


def _sent_key(connection: HTTPConnection) -> str | None:
    key = connection.headers.get("x-api-key")
    if key is None:
        kind, _, value = connection.headers.get("authorization", "").partition(" ")
        key = value.strip() if kind.lower() == "bearer" else None
    return key if key and len(key) <= _MAX_KEY_LENGTH else None


def _check_local(connection: HTTPConnection) -> None:
    """Without keys: from this machine only, asked for by its own name, and through no proxy.

    The name keeps out web pages of others, whose host name an attacker's name server points at loopback.
    """
    peer = connection.client.host if connection.client else ""
    host = _HOST.fullmatch(connection.headers.get("host", ""))
    is_forwarded = any(name in connection.headers for name in _FORWARDED)
    if is_forwarded or not is_loopback(peer) or host is None or not is_loopback(host["name"]):
        raise ServiceError(
            "unauthorized",
            "without API keys the service answers only this machine, as localhost, and not through a proxy; start it "
            "with a file of keys",
            _CHALLENGE,
        )
