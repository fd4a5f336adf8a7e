"""Where numbers come from: machine, versions, command."""

import os
import platform
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rgals.data.storage import redact
from rgals.evaluation.report_sections import Machine, Provenance
from rgals.numerics.threads import available_threads

__all__ = ["describe_machine", "describe_provenance", "find_versions"]

_LIBRARIES = ("rgals", "numpy", "scipy", "numba", "pyarrow", "implicit", "ray", "optuna")
"""Those that compute or move numbers; what is not installed is left out."""


def describe_provenance(
    dataset: str, fingerprint: str, *, command: str, started_at: datetime, seconds: float, executor: str
) -> Provenance:
    """Put together where a report comes from.

    Parameters
    ----------
    dataset : str
        Where the dataset is; credentials in it are left out.
    fingerprint : str
        Its fingerprint.
    command : str
        What was run, as it can be run again; credentials in it are left out.
    started_at : datetime
        When it began, UTC.
    seconds : float
        How long it took.
    executor : str
        Who did the work.
    """
    return Provenance(
        dataset=redact(dataset),
        fingerprint=fingerprint,
        command=redact(command),
        machine=describe_machine(),
        versions=find_versions(),
        started_at=started_at.isoformat(timespec="seconds"),
        seconds=seconds,
        executor=executor,
    )


def describe_machine() -> Machine:
    """Describe the machine of this process."""
    return Machine(
        cpu=_find_cpu(), n_cpus=available_threads(), memory_bytes=_find_memory_bytes(), os=platform.platform()
    )


def find_versions() -> dict[str, str]:
    """Give the versions of Python and of the installed libraries that compute."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _find_cpu() -> str:
    """Name the processor, as the system's list of processors does where there is one."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or sys.platform


def _find_memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
