"""What a local Ray of our own needs around it: a private folder, a token, an environment, a size."""

import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from rgals.errors import CapacityError

__all__ = ["PrivateSession", "choose_object_store_bytes"]

MIN_OBJECT_STORE_BYTES = 256 * 2**20
SPARE_FACTOR = 1.25
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Ray keeps its object store
_SHORT_FOLDER = Path("/tmp")  # noqa: S108 - mkdtemp makes a private folder in it; names of sockets must be short
_MAX_FOLDER_CHARACTERS = 30


class PrivateSession:
    """A private folder with a random token, and the environment that makes Ray use it.

    Parameters
    ----------
    environment : mutable mapping or None
        Changed until `close`; None: the one of this process.
    """

    def __init__(self, environment: "os._Environ[str] | dict[str, str] | None" = None) -> None:
        self._environment = os.environ if environment is None else environment
        parent = Path(tempfile.gettempdir())
        if len(str(parent)) > _MAX_FOLDER_CHARACTERS and _SHORT_FOLDER.is_dir():
            parent = _SHORT_FOLDER
        self.folder = Path(tempfile.mkdtemp(prefix="rgals-", dir=parent))
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        values = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": None,  # it would go before the path
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # Ray's 15 lets any other process go before the training
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_ADDRESS": None,
            "PYTHONPATH": python_path(sys.path, self._environment.get("PYTHONPATH")),
        }
        self._before = {name: self._environment.get(name) for name in values}
        self._set(values)

    def _set(self, values: dict[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                self._environment.pop(name, None)
            else:
                self._environment[name] = value

    def restore_environment(self) -> None:
        """Put the environment back; a second time does nothing."""
        self._set(self._before)
        self._before = {}

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def python_path(search: list[str], before: str | None) -> str | None:
    """Give the PYTHONPATH with which a worker finds the modules that this process finds.

    Parameters
    ----------
    search : list of str
        Where this process looks; what its interpreter comes with is left out.
    before : str or None
        The variable as it is.
    """
    given = before.split(os.pathsep) if before else []
    own = [folder or str(Path.cwd()) for folder in search]
    own = [folder for folder in own if not Path(folder).is_relative_to(sys.prefix)]
    own = [folder for folder in own if not Path(folder).is_relative_to(sys.base_prefix) and Path(folder).is_dir()]
    return os.pathsep.join(dict.fromkeys([*own, *given])) or None


def choose_object_store_bytes(asked: int | None, needed: int, available: int | None = None) -> int:
    """Choose the size of a local object store.

    Parameters
    ----------
    asked : int or None
        What the caller wants, taken as it is.
    needed : int
        Bytes that have to fit.
    available : int or None
        Free shared memory; None looks.

    Returns
    -------
    int
        A quarter more than is needed and not less than 256 MiB, but at most half of the free shared memory.

    Raises
    ------
    CapacityError
        If what is needed is more than half of the free shared memory.
    """
    if asked is not None:
        return asked
    bound = (free_shared_memory() if available is None else available) // 2
    if needed > bound:
        raise CapacityError(
            f"object store: expected room for {needed / 1e9:.2f} GB, found {bound / 1e9:.2f} GB, half of the free"
            " shared memory; use fewer factors, a machine with more memory, more nodes, or the in-process executor"
        )
    return min(max(int(needed * SPARE_FACTOR), MIN_OBJECT_STORE_BYTES), bound)


def free_shared_memory() -> int:
    """Give the bytes that can still be put into shared memory: its file system's and the machine's."""
    found = [shutil.disk_usage(_SHARED_MEMORY).free] if _SHARED_MEMORY.is_dir() else []
    lines = Path("/proc/meminfo").read_text().splitlines()
    found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min(found)
