"""Checks of the machine: memory, shared memory, processors, limits, disk, clock.

Every check takes what it looks at as arguments (a folder that stands for ``/``, a function that
asks the system), so that each of its answers can be tried out on any machine.
"""

import os
import resource
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgals.data.storage import Folder, redact
from rgals.errors import RgalsError
from rgals.execution.finding import Finding, readable_bytes

__all__ = [
    "Memory",
    "check_clock",
    "check_disk",
    "check_file_limit",
    "check_memory",
    "check_process_limit",
    "check_processors",
    "check_shared_memory",
    "check_swap",
    "read_cpu_quota",
    "read_memory",
]

_OBJECT_STORE_SHARE = 0.3
_LARGEST_OBJECT_STORE_BYTES = 200_000_000_000
_LEAST_OBJECT_STORE_BYTES = 75 * 1024**2
"""What Ray takes by default and at least; the numbers are Ray's."""

_LITTLE_MEMORY_BYTES = 2_000_000_000
_TOO_LITTLE_MEMORY_BYTES = 500_000_000
_LITTLE_DISK_BYTES = 10_000_000_000
_TOO_LITTLE_DISK_BYTES = 1_000_000_000
_SLOW_DISK_BYTES_PER_S = 30_000_000
_PROBE_BLOCK_BYTES = 1_000_000
_N_PROBE_BLOCKS = 16
_PROBE_S = 2.0
_CLOCK_SAMPLE_S = 0.05
_CLOCK_TOLERANCE_S = 0.02
_FIRST_SANE_YEAR, _LAST_SANE_YEAR = 2024, 2100


@dataclass(frozen=True, slots=True)
class Memory:
    """What /proc/meminfo and the control groups say.

    Parameters
    ----------
    total_bytes : int
        The machine's memory, or the control group's limit where that is lower.
    available_bytes : int
        What new work can take of it.
    limit_bytes : int or None
        The limit of the control group; None without one.
    swap_bytes, swap_used_bytes : int
        Size of the swap space, and how much of it holds something.
    """

    total_bytes: int
    available_bytes: int
    limit_bytes: int | None
    swap_bytes: int
    swap_used_bytes: int


def _group_folders(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Give the folders of this process's control group and the groups around it; is each of version 2."""
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounts = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            mounts = [root / "sys/fs/cgroup" / name for name in dict.fromkeys((controllers, controller))]
        else:
            continue
        for mount in mounts:
            # Inside a container the path can be the host's: then only the mount itself is there.
            place = mount / path.lstrip("/")
            for folder in (place, *place.parents):
                if folder.is_dir():
                    yield folder, controllers == ""
                if folder == mount:
                    break


def _read_number(path: Path) -> int | None:
    """Read a file of one number; None where it is missing or says that there is no limit."""
    try:
        return int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def read_cpu_quota(root: Path = Path("/")) -> float | None:
    """Give the processors' worth of time that the control groups allow.

    Parameters
    ----------
    root : Path
        The folder that stands for ``/``.

    Returns
    -------
    float or None
        The smallest quota of all groups around this process; None without one.
    """
    quotas = []
    for folder, is_new in _group_folders(root, "cpu"):
        if is_new:
            words = (folder / "cpu.max").read_text().split() if (folder / "cpu.max").is_file() else []
            quota, period = [int(word) if word.isdigit() else None for word in words] or [None, None]
        else:
            quota, period = _read_number(folder / "cpu.cfs_quota_us"), _read_number(folder / "cpu.cfs_period_us")
        if quota is not None and period is not None and quota > 0 and period > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def read_memory(root: Path = Path("/")) -> Memory:
    """Read how much memory there is and how much of it is free.

    Parameters
    ----------
    root : Path
        The folder that stands for ``/``.

    Returns
    -------
    Memory
        Sizes in bytes; the page cache counts as available, in the control group too.

    Raises
    ------
    OSError
        If the system has no /proc/meminfo.
    """
    lines = (root / "proc/meminfo").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if len(line.split()) > 1}
    total, available, limit = sizes["MemTotal"], sizes["MemAvailable"], None
    for folder, is_new in _group_folders(root, "memory"):
        most = _read_number(folder / ("memory.max" if is_new else "memory.limit_in_bytes"))
        used = _read_number(folder / ("memory.current" if is_new else "memory.usage_in_bytes"))
        if most is None or most >= sizes["MemTotal"]:
            continue  # version 1 writes a huge number where there is no limit
        limit = most if limit is None else min(limit, most)
        total = min(total, most)
        available = min(available, max(0, most - (used or 0) + _reclaimable(folder, is_new)))
    swap = sizes.get("SwapTotal", 0)
    return Memory(total, available, limit, swap, swap - sizes.get("SwapFree", 0))


def _reclaimable(folder: Path, is_new: bool) -> int:
    """Give the bytes of the page cache that a group gives back when asked."""
    name = "inactive_file" if is_new else "total_inactive_file"
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[0] == name), 0)


def check_memory(memory: Memory) -> Finding:
    """Look whether there is memory left for training."""
    limit = "" if memory.limit_bytes is None else ", limited by the control group"
    found = f"{readable_bytes(memory.available_bytes)} available of {readable_bytes(memory.total_bytes)}{limit}"
    if memory.available_bytes >= _LITTLE_MEMORY_BYTES:
        return Finding("memory", "ok", found)
    advice = (
        "end other programs, or raise the container's limit (--memory, mem_limit); "
        "a process above the limit is killed without a message"
    )
    return Finding(
        "memory", "problem" if memory.available_bytes < _TOO_LITTLE_MEMORY_BYTES else "warning", found, advice
    )


def check_swap(memory: Memory) -> Finding:
    """Look whether something lies in the swap space: swapped factors make a sweep many times slower."""
    if memory.swap_bytes == 0:
        return Finding("swap", "ok", "none")
    found = f"{readable_bytes(memory.swap_used_bytes)} of {readable_bytes(memory.swap_bytes)} used"
    if memory.swap_used_bytes <= memory.swap_bytes // 10:
        return Finding("swap", "ok", found)
    return Finding(
        "swap", "warning", found, "the machine is or was short of memory: end other programs, or take fewer factors"
    )


def check_shared_memory(memory_bytes: int, folder: Path, usage: Callable[[Path], Any] = shutil.disk_usage) -> Finding:
    """Look whether shared memory holds the object store that Ray makes by default.

    Parameters
    ----------
    memory_bytes : int
        Memory that there is; Ray takes 30 % of it, at most 200 GB.
    folder : Path
        Where shared memory is mounted: /dev/shm.
    usage : callable
        Gives ``total`` and ``free`` of a folder, in bytes.
    """
    wanted = min(int(memory_bytes * _OBJECT_STORE_SHARE), _LARGEST_OBJECT_STORE_BYTES)
    try:
        sizes = usage(folder)
    except OSError as error:
        advice = "mount a tmpfs there; without it Ray keeps its objects on the disk"
        return Finding("shared memory", "problem", f"{folder} cannot be looked at ({error})", advice)
    found = (
        f"{readable_bytes(sizes.free)} free of {readable_bytes(sizes.total)} in {folder}; "
        f"Ray wants {readable_bytes(wanted)} by default"
    )
    if sizes.free >= wanted:
        return Finding("shared memory", "ok", found)
    advice = (
        f"with less, Ray keeps its objects on the disk or does not start: start the container with --shm-size={wanted} "
        f"(in a compose file shm_size: {wanted}), or give Ray an --object-store-memory below what is free"
    )
    return Finding("shared memory", "problem" if sizes.free < _LEAST_OBJECT_STORE_BYTES else "warning", found, advice)


def check_processors(n_processors: int, quota: float | None) -> Finding:
    """Look whether the threads that rgals starts by default get their time.

    Parameters
    ----------
    n_processors : int
        Processors that this process may run on, and threads that rgals starts by default.
    quota : float or None
        See `read_cpu_quota`.
    """
    if quota is None:
        return Finding("processors", "ok", f"{n_processors} usable, no quota")
    found = f"{n_processors} usable, and a quota of {quota:.3g}"
    if quota >= n_processors:
        return Finding("processors", "ok", found)
    threads = max(1, int(quota))
    advice = (
        f"{n_processors} threads share the time of {quota:.3g} processors and are stopped in turns: "
        f"pass --threads {threads} (with Ray --worker-cpus {threads}), or raise the container's quota"
    )
    return Finding("processors", "warning", found, advice)


def check_file_limit(limits: Callable[[int], tuple[int, int]] = resource.getrlimit) -> Finding:
    """Look whether enough files and connections may be open at the same time."""
    soft, hard = (_bounded(value) for value in limits(resource.RLIMIT_NOFILE))
    found = f"soft limit {_limit_text(soft)}, hard limit {_limit_text(hard)}"
    if soft >= 4096:
        return Finding("open files", "ok", found)
    wanted = 65536
    if hard >= 4096:
        advice = f"run `ulimit -n {min(wanted, hard):.0f}` in the shell that starts rgals or Ray"
        return Finding("open files", "warning", found, advice)
    advice = f"raise the hard limit (a container: --ulimit nofile={wanted}:{wanted}); a Ray node needs thousands"
    return Finding("open files", "problem" if hard < 1024 else "warning", found, advice)


def check_process_limit(
    root: Path = Path("/"), limits: Callable[[int], tuple[int, int]] = resource.getrlimit
) -> Finding:
    """Look whether enough processes and threads may be started (threads count too)."""
    soft = _bounded(limits(resource.RLIMIT_NPROC)[0])
    groups = [_read_number(folder / "pids.max") for folder, _ in _group_folders(root, "pids")]
    group = min((value for value in groups if value is not None), default=None)
    found = f"limit {_limit_text(soft)}" + ("" if group is None else f", {group:,} in the control group")
    least = soft if group is None else min(soft, group)
    if least >= 4096:
        return Finding("processes", "ok", found)
    advice = (
        "a Ray node starts some hundred threads: raise `ulimit -u`, or the container's --pids-limit, to 4096 or more"
    )
    return Finding("processes", "problem" if least < 512 else "warning", found, advice)


def _bounded(value: int) -> float:
    """Give a limit as a number, infinite where there is none."""
    return float("inf") if value in (resource.RLIM_INFINITY, -1) else value


def _limit_text(value: float) -> str:
    return "none" if value == float("inf") else f"{value:,.0f}"


def check_disk(
    name: str,
    location: str | Path,
    usage: Callable[[Path], Any] = shutil.disk_usage,
    clock: Callable[[], float] = time.perf_counter,
) -> Finding:
    """Write a small file (16 MB, or less when that takes long), sync it and remove it again.

    Parameters
    ----------
    name : str
        What the folder is for.
    location : str or Path
        A folder, on a local disk or an object store, that need not exist yet.
    usage : callable
        Gives ``total`` and ``free`` of a folder, in bytes.
    clock : callable
        Gives seconds.
    """
    try:
        folder = Folder.at(location)
        if folder.local_path is None:
            return _check_remote(name, folder, clock)
        place = next(path for path in (folder.local_path, *folder.local_path.parents) if path.exists())
        free = usage(place).free
        speed = _write_speed(place, clock)
    except (OSError, RgalsError) as error:
        advice = "choose another folder, or make this one writable"
        return Finding(name, "problem", f"{redact(str(location))}: cannot be written to ({error})", advice)
    found = f"{place}: {readable_bytes(free)} free, writes {readable_bytes(speed)}/s with sync"
    if free < _LITTLE_DISK_BYTES:
        advice = "free space or choose another place (TMPDIR for temporary files)"
        return Finding(name, "problem" if free < _TOO_LITTLE_DISK_BYTES else "warning", found, advice)
    if speed < _SLOW_DISK_BYTES_PER_S:
        return Finding(name, "warning", found, "checkpoints and ingest wait for this disk: choose a faster one")
    return Finding(name, "ok", found)


def _write_speed(place: Path, clock: Callable[[], float]) -> float:
    """Give the bytes per second that reach the disk."""
    probe = place / f".rgals-doctor-{uuid.uuid4().hex[:8]}"
    block = os.urandom(_PROBE_BLOCK_BYTES)
    written = 0
    started = clock()
    try:
        with probe.open("wb", buffering=0) as stream:
            while written < _N_PROBE_BLOCKS * len(block) and clock() - started < _PROBE_S:
                stream.write(block)
                os.fsync(stream.fileno())
                written += len(block)
        return written / max(clock() - started, 1e-9)
    finally:
        probe.unlink(missing_ok=True)


def _check_remote(name: str, folder: Folder, clock: Callable[[], float]) -> Finding:
    """Write an object, read it back and remove it."""
    probe = f".rgals-doctor-{uuid.uuid4().hex[:8]}"
    content = os.urandom(_PROBE_BLOCK_BYTES)
    started = clock()
    folder.write_bytes(probe, content)
    is_same = folder.read_bytes(probe) == content
    seconds = clock() - started
    folder.filesystem.delete_file(folder.file_path(probe))
    found = f"{folder}: an object of {readable_bytes(len(content))} written and read back in {seconds:.2f} s"
    if not is_same:
        advice = "the store gave back other bytes than it was given: do not use it"
        return Finding(name, "problem", found, advice)
    return Finding(name, "ok", found)


def check_clock(
    wall: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Finding:
    """Look whether the wall clock is set, and goes as fast as the monotonic one."""
    first_wall, first = wall(), monotonic()
    sleep(_CLOCK_SAMPLE_S)
    last_wall, last = wall(), monotonic()
    drift = (last_wall - first_wall) - (last - first)
    found = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(last_wall))
    if not _FIRST_SANE_YEAR <= time.gmtime(last_wall).tm_year <= _LAST_SANE_YEAR:
        advice = "set the clock (a time service such as chrony): object stores refuse requests with a wrong time"
        return Finding("clock", "problem", found, advice)
    if last < first or abs(drift) > _CLOCK_TOLERANCE_S:
        advice = "the wall clock was moved while it was looked at: let a time service adjust it slowly"
        return Finding("clock", "warning", f"{found}, {drift:+.3f} s against the monotonic clock", advice)
    return Finding("clock", "ok", found)
