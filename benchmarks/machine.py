"""What a benchmark prints beside its numbers: machine, versions, command."""

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["provenance"]


def provenance() -> dict[str, object]:
    """Describe this machine, the versions that count and the command line."""
    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    versions = {}
    for package in ("rgals", "numpy", "scipy", "numba", "implicit", "pyarrow"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "command": " ".join(["python", *(Path(part).name if "/" in part else part for part in sys.argv)]),
        "machine": {"processor": processor, "n_processors": len(os.sched_getaffinity(0)), "system": platform.system()},
        "python": platform.python_version(),
        "versions": versions,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
