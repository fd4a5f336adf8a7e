"""What a service is told by its environment: variables ``RGALS_SERVICE_...``, checked all at once at the start."""

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from rgals.errors import InputError

__all__ = ["PREFIX", "Settings", "is_loopback", "read_settings"]

PREFIX = "RGALS_SERVICE_"
"""Of the names of the environment variables."""

_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class Settings(BaseModel):
    """The settings of a service; the variable of ``poll_s`` is ``RGALS_SERVICE_POLL_S``."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    registry: str | None = None
    """Registry whose current version is served and followed: a local path or a URI such as s3://..."""
    model: str | None = None
    """A model folder to serve instead, which stays the same as long as the service runs."""
    host: str = "127.0.0.1"
    """Address to listen on. Other addresses than loopback need API keys."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that share the port. They share the memory of the model too."""
    api_keys_file: Path | None = None
    """File of hashed API keys; read again when it changes. None: no keys, on loopback only."""
    poll_s: Annotated[float, Field(gt=0, le=3600)] = 2.0
    """Seconds between two looks at the registry."""
    cache_dir: Path | None = None
    """Folder for local copies of models from object stores; None makes one that goes with the service."""
    uses_index: bool = True
    """Whether the index of a version is used, where one was attached and found enough when it was published."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Threads that compute, for each worker; None shares the processors among the workers."""
    queue_size: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Requests of a worker that may wait for a thread; more are answered with 503."""
    max_gathered: Annotated[int, Field(ge=1, le=1024)] = 32
    """Most requests that are ranked in one product; 1 ranks each alone."""
    gather_us: Annotated[int, Field(ge=0, le=100_000)] = 300
    """Microseconds that a thread waits for more requests while others are under way."""
    timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = 2000
    """Milliseconds after which a request that still waits is answered with 504; a caller may ask for less."""
    read_timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0
    """Seconds that a client may take to send a request."""
    drain_s: Annotated[int, Field(ge=0, le=3600)] = 20
    """Seconds that requests under way get to end after SIGTERM."""
    max_body_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 2 << 20
    """Largest request body."""
    cors_origins: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    """Origins of web pages that may call the service, separated by commas; none unless named."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level of what is logged."""
    state_dir: Path | None = None
    """Folder in which workers tell each other what they serve; None makes one that goes with the service."""


def is_loopback(host: str) -> bool:
    """Tell whether an address or name can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_settings(environment: Mapping[str, str] | None = None, **changes: Any) -> Settings:
    """Read the settings from environment variables.

    Parameters
    ----------
    environment : mapping of str to str or None
        The variables; None takes those of the process.
    **changes
        Settings that count in place of the environment's; None leaves it to the environment.

    Raises
    ------
    InputError
        If a value is unusable, a variable unknown, or two do not fit; it lists every problem there is.
    """
    variables = os.environ if environment is None else environment
    found: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in variables.items():
        if not name.startswith(PREFIX):
            continue
        field = name.removeprefix(PREFIX).lower()
        if field not in Settings.model_fields or name != name.upper():
            near = difflib.get_close_matches(field, Settings.model_fields, 1)
            problems.append(f"{name}: unknown" + (f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""))
        elif value != "":
            found[field] = value
    found |= {name: value for name, value in changes.items() if value is not None}
    settings = None
    try:
        settings = Settings.model_validate(found)
    except ValidationError as error:
        problems += [_describe(problem) for problem in error.errors()]
    problems += _find_conflicts(found)
    if settings is None or problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise InputError(f"the settings of the service have {len(problems)} problem(s):{listed}")
    return settings


def _find_conflicts(found: Mapping[str, Any]) -> list[str]:
    """Say which settings do not fit together, whether or not each of them is usable."""
    problems: list[str] = []
    if ("registry" in found) == ("model" in found):
        what = "both" if "registry" in found else "neither"
        problems.append(f"expected one of {PREFIX}REGISTRY and {PREFIX}MODEL, found {what}")
    host, keys = str(found.get("host", "127.0.0.1")), found.get("api_keys_file")
    if keys is None and not is_loopback(host):
        problems.append(
            f"{PREFIX}HOST: {host!r} is not loopback, which needs {PREFIX}API_KEYS_FILE; make one with rgals api-key, "
            "or listen on 127.0.0.1"
        )
    if keys is not None and not Path(keys).is_file():
        problems.append(f"{PREFIX}API_KEYS_FILE: {str(keys)!r} is not a file; make it with rgals api-key")
    problems += [
        f"{PREFIX}CORS_ORIGINS: expected origins such as https://shop.example, divided by commas, found {origin!r}"
        for origin in _split(found.get("cors_origins", ()))
        if not _ORIGIN.fullmatch(origin)
    ]
    return problems


def _describe(problem: Any) -> str:
    field = str(problem["loc"][0]) if problem["loc"] else "?"
    return f"{PREFIX}{field.upper()}: {problem['msg']}, found {problem['input']!r}"
