"""Peak memory of a command and of all processes that it starts; memory that they share is counted once.

    python benchmarks/process_memory.py --json memory.json -- rgals train DATASET --output MODEL

The processes are looked at every ``--interval`` seconds, so a shorter peak can be missed. Linux only.
"""

import argparse
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

__all__ = ["MeasuredRun", "MemorySample", "MemoryWatch", "run_measured", "sample_processes"]

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
LONGEST_SHARE = 0.05
"""Largest share of a processor that the looking itself may take."""


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Memory of some processes at one moment.

    Parameters
    ----------
    private_bytes : int
        Memory without a file behind it, such as heaps; pages of several processes are divided among them.
    shared_bytes : int
        Shared memory, each page once: Ray's object store, and whatever else lies in ``/dev/shm``. It counts
        from the moment it is written until it is removed, whether a process maps it at present or not.
    file_bytes : int
        Pages of mapped files, each once: programs, libraries, opened factors. The system can drop them.
    resident_bytes : int
        Sum of the resident sizes, as ``top`` shows them: shared pages count once for each process.
    n_processes : int
        Processes alive.
    """

    private_bytes: int = 0
    shared_bytes: int = 0
    file_bytes: int = 0
    resident_bytes: int = 0
    n_processes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.private_bytes + self.shared_bytes + self.file_bytes


def sample_processes(pids: Sequence[int]) -> MemorySample:
    """Look at the memory of processes; those that have ended in between count as nothing."""
    pss = {"Pss_Anon": 0, "Pss_Shmem": 0, "Pss_File": 0}
    stored: dict[tuple[int, int], int] = {}
    resident = n_alive = 0
    for pid in pids:
        with suppress(OSError):
            resident += _resident_bytes(pid)
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            for line in lines[1:]:
                name, _, value = line.partition(":")
                if name in pss:
                    pss[name] += int(value.split()[0]) * 1024
            stored |= _stored_shared_memory(pid)
            n_alive += 1
    # A page of shared memory that no process has mapped at present is still taken, and the reverse holds
    # for memory that is shared without a file.
    shared = max(pss["Pss_Shmem"], sum(stored.values()))
    return MemorySample(pss["Pss_Anon"], shared, pss["Pss_File"], resident, n_alive)


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def _stored_shared_memory(pid: int) -> dict[tuple[int, int], int]:
    """Give the bytes of each open file of shared memory, by device and number: of all processes each is one."""
    found = {}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if str(descriptor.readlink()).startswith(("/dev/shm/", "/memfd:")):
                status = descriptor.stat()
                if stat.S_ISREG(status.st_mode):
                    found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return found


class ProcessTree:
    """A process and all that it starts, also those whose parent has ended since they were first seen."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._known: dict[int, int] = {}

    def pids(self) -> list[int]:
        """Give the numbers of the processes that are alive."""
        parents, started = {}, {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    # The name in brackets can hold anything; the fields after it are state, parent, ...
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    parents[int(entry.name)], started[int(entry.name)] = int(fields[1]), int(fields[19])
        if not self._known and self._root in started:
            self._known[self._root] = started[self._root]
        # A number that was given to a new process is recognized by its start.
        self._known = {pid: start for pid, start in self._known.items() if started.get(pid) == start}
        grown = True
        while grown:
            children = [pid for pid, parent in parents.items() if parent in self._known and pid not in self._known]
            self._known |= {pid: started[pid] for pid in children}
            grown = bool(children)
        return list(self._known)


class MemoryWatch:
    """Looks at a process tree at intervals, in a thread, and keeps the peak; a context manager.

    Parameters
    ----------
    pid : int
        The root of the tree.
    interval_s : float
        Seconds between two looks; longer where looking takes long.
    """

    def __init__(self, pid: int, interval_s: float = 0.5) -> None:
        self._tree, self._interval_s = ProcessTree(pid), interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peak = MemorySample()
        """The sample with the largest total."""
        self.peak_resident_bytes = 0
        """Largest sum of resident sizes."""
        self.n_samples = 0

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stopped.wait(wait_s):
            started = time.thread_time()
            self._look()
            wait_s = max(self._interval_s, (time.thread_time() - started) / LONGEST_SHARE)

    def _look(self) -> None:
        sample = sample_processes(self._tree.pids())
        self.n_samples += 1
        self.peak_resident_bytes = max(self.peak_resident_bytes, sample.resident_bytes)
        if sample.total_bytes > self.peak.total_bytes:
            self.peak = sample

    def summary(self) -> dict[str, int]:
        """Give the peak as JSON values."""
        return {
            "peak_bytes": self.peak.total_bytes,
            "peak_resident_sum_bytes": self.peak_resident_bytes,
            "n_samples": self.n_samples,
            **{f"at_peak_{name}": value for name, value in asdict(self.peak).items()},
        }


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A command that ran to its end.

    Parameters
    ----------
    seconds : float
        From its start to its end.
    memory : dict of str to int
        `MemoryWatch.summary`; empty if memory was not watched.
    """

    seconds: float
    memory: dict[str, int]


def run_measured(
    command: Sequence[str | Path],
    *,
    log: Path | None = None,
    interval_s: float = 0.5,
    watch_memory: bool = True,
    environment: Mapping[str, str] | None = None,
) -> MeasuredRun:
    """Run a command and measure it.

    Parameters
    ----------
    command : sequence of str or Path
        Program and arguments.
    log : Path or None
        Where its output is appended; None leaves it on the terminal.
    interval_s : float
        See `MemoryWatch`.
    watch_memory : bool
        False measures the seconds only.
    environment : mapping or None
        Added to this process's environment.

    Raises
    ------
    SystemExit
        If the command fails; the message names it and its log.
    """
    words = [str(word) for word in command]
    stream = None if log is None else log.open("ab")
    memory: dict[str, int] = {}
    started = time.perf_counter()
    try:
        process = subprocess.Popen(
            words, stdout=stream, stderr=stream, env={**os.environ, **(environment or {})} if environment else None
        )
        try:
            if watch_memory:
                with MemoryWatch(process.pid, interval_s) as watch:
                    process.wait()
                memory = watch.summary()
            else:
                process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    finally:
        if stream is not None:
            stream.close()
    seconds = time.perf_counter() - started
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: ended with code {process.returncode}; see {log or 'its output'}")
    return MeasuredRun(seconds, memory)


def main() -> None:
    """Run a command, print its peak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between two looks")
    parser.add_argument("--json", type=Path, help="where the numbers are written")
    parser.add_argument("command", nargs="+", help="command to run, after --")
    args = parser.parse_args()
    run = run_measured(args.command, interval_s=args.interval)
    document = {"command": args.command, "seconds": run.seconds, **run.memory}
    text = json.dumps(document, indent=2)
    print(text, file=sys.stderr)
    if args.json is not None:
        args.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
