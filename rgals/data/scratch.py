"""The scratch folder of an ingest: its files, its lock, and what a killed run left behind.

A scratch folder holds a file that its process keeps locked, and that names the folder the dataset is
staged in. The lock goes with the process, however it ends; so a later ingest to the same output can
tell a run that is dead from one that is alive, and removes the folders of the former only.
"""

import fcntl
import glob
import json
import logging
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rgals.data.storage import Folder
from rgals.data.tasks import TaskRunner
from rgals.errors import DataError, InputError

__all__ = ["Scratch", "check_workers", "scratch_folder", "whole_file"]

logger = logging.getLogger(__name__)

_OWNER_NAME = "owner.json"
_PROBE_NAME = "probe"
_REMOVAL_S = 10.0


class Scratch:
    """A scratch folder that this process holds; made by `scratch_folder`."""

    def __init__(self, path: Path, lock: IO[bytes], output: Folder) -> None:
        self.path = path
        self._lock, self._output = lock, output

    def folder(self, name: str) -> Path:
        """Make a folder in it."""
        path = self.path / name
        path.mkdir()
        return path

    def note_staged(self, staged: Folder | None) -> None:
        """Keep the name of the folder that the dataset is staged in, for the run that may have to clear it away."""
        local = None if staged is None else staged.local_path
        content = {"boot_id": _boot_id(), "output": str(self._output), "staged": None if local is None else local.name}
        self._lock.seek(0)
        self._lock.write(json.dumps(content).encode())
        self._lock.truncate()
        self._lock.flush()


@contextmanager
def scratch_folder(output: Folder, parent: str | Path | None = None) -> Iterator[Scratch]:
    """Make a folder for temporary files, removed on any exit, and clear away those of dead runs.

    Parameters
    ----------
    output : Folder
        What the files are for.
    parent : str, Path or None
        Where the folder is made; None: beside a local output, where there is room for it anyway,
        else in the folder of temporary files of this machine.

    Raises
    ------
    InputError
        If ``parent`` is not a local path.
    DataError
        If the folder cannot be made.
    """
    if parent is not None and "://" in str(parent):
        raise InputError(f"scratch: expected a path of this machine or of a shared volume, found {parent}")
    local = output.local_path
    above = Path(tempfile.gettempdir()) if local is None else local.parent
    if parent is not None:
        above = Path(parent).expanduser().absolute()
    name = Path(output.path).name
    _remove_leftovers(above, name, output)
    path = above / f".{name}.scratch-{uuid.uuid4().hex[:8]}"
    try:
        above.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
        lock = (path / _OWNER_NAME).open("w+b")
    except OSError as error:
        raise DataError(
            f"{path}: the scratch folder cannot be written to ({error}); choose another with --scratch"
        ) from error
    try:
        with suppress(OSError):  # a filesystem without locks: a killed run stays where it is
            fcntl.flock(lock, fcntl.LOCK_EX)
        scratch = Scratch(path, lock, output)
        scratch.note_staged(None)
        yield scratch
    finally:
        _remove(path)
        lock.close()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a scratch file whole or not at all; two workers may write the same one, one after the other's loss.

    Yields the path to write to. Folders are not made: in a scratch folder that is gone already, the
    last tasks of a run that failed shall fail too.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class _Probe:
    """What every worker must see."""

    scratch: Path
    token: str
    staged: Path | None
    sources: tuple[str, ...]


def check_workers(runner: TaskRunner, scratch: Path, staged: Folder, local_sources: Sequence[str]) -> None:
    """Check that every worker sees the scratch folder, a local output and local sources.

    Parameters
    ----------
    runner : TaskRunner
        The workers.
    scratch : Path
        The scratch folder.
    staged : Folder
        Where the dataset is written.
    local_sources : sequence of str
        Paths of sources that are files of this machine or of a shared volume.

    Raises
    ------
    InputError
        If a worker runs on a machine that does not; the message names it and the way out.
    """
    probe = _Probe(scratch, uuid.uuid4().hex, staged.local_path, tuple(local_sources))
    (scratch / _PROBE_NAME).write_text(probe.token)
    problems = [problem for problem in runner.on_each_worker(_look, probe) if problem is not None]
    if problems:
        raise InputError(f"{problems[0]}{f'; and {len(problems) - 1} more workers' if len(problems) > 1 else ''}")


def _look(probe: _Probe, position: int, _context: Any) -> str | None:
    """Give what this worker does not see, None if all is well."""
    where = f"worker {position + 1} on {socket.gethostname()}"
    try:
        is_seen = (probe.scratch / _PROBE_NAME).read_text() == probe.token
    except OSError:
        is_seen = False
    if not is_seen:
        return (
            f"{probe.scratch}: {where} does not see this scratch folder; pass --scratch with a folder on a volume "
            "that all nodes share"
        )
    try:
        own = probe.scratch / f"{_PROBE_NAME}-{position}"
        own.touch()
        own.unlink()
    except OSError as error:
        return f"{probe.scratch}: {where} cannot write to this scratch folder ({error}); choose another with --scratch"
    if probe.staged is not None and not probe.staged.is_dir():
        return (
            f"{probe.staged.parent}: {where} does not see this folder of the output; write to a volume that all nodes "
            "share, or to an object store such as s3://"
        )
    for source in probe.sources:
        if not Path(source).exists():
            return f"{source}: {where} does not see this source; put it on a volume that all nodes share"
    return None


def _remove_leftovers(above: Path, name: str, output: Folder) -> None:
    """Remove the folders of runs to the same output that are certainly dead."""
    for path in above.glob(f".{glob.escape(name)}.scratch-*"):
        try:
            lock = (path / _OWNER_NAME).open("r+b")
        except OSError:
            continue
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                owner = json.loads(lock.read())
                found = (owner["boot_id"], owner["output"])
                staged = owner["staged"]
            except (OSError, ValueError, KeyError, TypeError):
                continue  # alive, or just being made
            # A lock says nothing of a process on another machine.
            if found[0] is None or found != (_boot_id(), str(output)):
                continue
            local = output.local_path
            is_ours = isinstance(staged, str) and staged.startswith(f".{name}.partial-") and "/" not in staged
            if local is not None and is_ours:
                _remove(local.with_name(staged))
            _remove(path)
            logger.warning("%s: removed, left behind by an ingest that was killed", path)


def _remove(path: Path) -> None:
    """Remove a folder; tasks of a run that failed may still be writing for a moment."""
    deadline = time.monotonic() + _REMOVAL_S
    while True:
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists() or time.monotonic() > deadline:
            return
        time.sleep(0.05)


def _boot_id() -> str | None:
    """Name this run of this machine's kernel; None where it has no name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
