"""A cluster of several nodes on the loopback interface, whose workers and nodes can be taken away."""

import contextlib
import os
import secrets
import shutil
import signal
import tempfile
from pathlib import Path

import psutil
from ray._raylet import AuthenticationTokenLoader, Config
from ray.cluster_utils import Cluster

from tests.execution.ray_clusters import make_default_folder

STORE_BYTES = 100 << 20
_HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 5,
}


def own_process(shared, position, context):
    """Give the process of a worker; run in it."""
    return os.getpid()


class SmallCluster:
    """A head without CPUs, and nodes of one CPU each unless told otherwise."""

    def __init__(self, n_nodes, store_bytes=STORE_BYTES, node_cpus=1):
        self.folder = Path(tempfile.mkdtemp(prefix="rg"))
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        _read_environment_again()
        make_default_folder()
        self._store_bytes, self._node_cpus = store_bytes, node_cpus
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": store_bytes,
                "include_dashboard": False,
                "node_ip_address": "127.0.0.1",
                "temp_dir": str(self.folder / "ray"),
                "_system_config": _HEALTH,
            },
        )
        self.nodes = [self.add_node() for _ in range(n_nodes)]

    @property
    def address(self):
        return self._cluster.address

    def add_node(self):
        return self._cluster.add_node(
            num_cpus=self._node_cpus, object_store_memory=self._store_bytes, node_ip_address="127.0.0.1"
        )

    def remove_node(self, node):
        """Take a node away as a power failure does."""
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self):
        self._cluster.shutdown()
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_environment_again()
        shutil.rmtree(self.folder, ignore_errors=True)


def _read_environment_again():
    """Let Ray, once imported, see another token."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def kill(process_id):
    with contextlib.suppress(ProcessLookupError):
        os.kill(process_id, signal.SIGKILL)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(process_id).wait(10)


def limit_file_size(process_id, n_bytes):
    """Let every larger file of a process fail, as a full disk does."""
    psutil.Process(process_id).rlimit(psutil.RLIMIT_FSIZE, (n_bytes, psutil.RLIM_INFINITY))
