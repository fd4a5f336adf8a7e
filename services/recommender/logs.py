"""Structured logs: one JSON object on a line, without keys, queries, ids or histories."""

from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS

__all__ = ["log_config"]


def log_config(level: str) -> dict[str, Any]:
    """Give the configuration of `logging.config.dictConfig`.

    Parameters
    ----------
    level : str
        Least level of what is logged, such as ``"info"``.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                "format": "%(levelname)s %(name)s %(process)d %(message)s",
                "timestamp": "time",
                "reserved_attrs": [*RESERVED_ATTRS, "color_message"],
                "rename_fields": {"levelname": "level", "name": "logger", "process": "pid"},
            }
        },
        "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stdout"}},
        "loggers": {
            name: {"handlers": ["out"], "level": level.upper(), "propagate": False}
            for name in ("rgals", "uvicorn", "uvicorn.error", "uvicorn.asgi")
        },
    }
