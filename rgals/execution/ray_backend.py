"""Ray: the executor that runs tasks in worker processes, on one machine or many."""

import atexit
import contextlib
import functools
import ipaddress
import json
import logging
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import ray
from ray import exceptions as ray_errors
from ray._private import ray_constants, services
from ray._private import worker as ray_worker
from ray._private.grpc_utils import init_grpc_channel
from ray._raylet import AuthenticationTokenLoader, Config
from ray.core.generated import gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rgals.errors import BlockLostError, CapacityError, ClusterError
from rgals.execution.local_ray import PrivateSession, choose_object_store_bytes
from rgals.execution.options import ExecutorOptions
from rgals.execution.pooled import PooledExecutor
from rgals.execution.status import Authentication, ClusterStatus, NodeStatus
from rgals.execution.worker import Worker, limit_blas
from rgals.execution.worker_pool import NodeFacts, WorkerGoneError, WorkerPool, share_cpus
from rgals.numerics.threads import available_threads

__all__ = ["RayExecutor", "cluster_status"]

LOGGER = logging.getLogger(__name__)
PREFETCH = 4
"""Blocks that are on their way at a time where they are fetched one after the other."""

CONNECT_TIMEOUT_S = 10.0
MAX_REASON_CHARACTERS = 400

_GONE = (
    ray_errors.RayActorError,
    ray_errors.WorkerCrashedError,
    ray_errors.NodeDiedError,
    ray_errors.OutOfMemoryError,
)
_FULL = (ray_errors.ObjectStoreFullError, ray_errors.OutOfDiskError)


class _Actor(Worker):
    """The worker as an actor."""

    def __init__(self, number: int, n_threads: int) -> None:
        limit_blas()
        name = f"node {ray.util.get_node_ip_address()}, worker {number}"
        super().__init__(name, ray.get_runtime_context().get_node_id(), n_threads, _fetch_each, _is_portable)


def _fetch_each(references: Sequence[Any]) -> Iterator[Any]:
    """Give values one after the other while the next few are on their way."""
    for position, reference in enumerate(references):
        window = list(dict.fromkeys(references[position : position + PREFETCH]))
        try:
            ray.wait(window, num_returns=len(window), timeout=0, fetch_local=True)
            yield ray.get(reference)
        except _FULL as error:
            raise CapacityError(f"the object store of a node is full ({_explain(error)}); use more nodes") from None
        except (ray_errors.ObjectLostError, *_GONE) as error:
            raise BlockLostError(f"a block of data is lost with the node that held it ({_explain(error)})") from None


def _is_portable(value: Any) -> bool:
    """Say whether an object can be sent to another process."""
    try:
        ray.cloudpickle.loads(ray.cloudpickle.dumps(value))
    except Exception:  # noqa: BLE001 - whatever goes wrong, it cannot be sent
        return False
    return True


def _explain(error: BaseException) -> str:
    """Give what Ray says in one line: without identifiers, and of a traceback only its ends."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    if any(line.lstrip().startswith("File ") for line in lines):
        lines = [lines[0], lines[-1]]
    text = " ".join(line.strip() for line in lines) or type(error).__name__
    text = text.partition(" Some common causes")[0].partition(" There are some potential")[0]
    return text if len(text) <= MAX_REASON_CHARACTERS else text[:MAX_REASON_CHARACTERS] + " ..."


class _RayCluster:
    """`rgals.execution.worker_pool.Cluster` by Ray."""

    def __init__(self) -> None:
        self._actor = ray.remote(_Actor)

    def nodes(self) -> list[NodeFacts]:
        try:
            alive = [node for node in ray.nodes() if node["Alive"]]
        except Exception as error:
            raise ClusterError(
                f"the cluster does not say which nodes it has ({_explain(error)}); see whether its head lives, "
                "and go on from the last checkpoint"
            ) from error
        found = [
            NodeFacts(node["NodeID"], node["NodeManagerAddress"], int(node["Resources"].get("CPU", 0)))
            for node in alive
        ]
        return sorted((node for node in found if node.n_cpus > 0), key=lambda node: (node.address, node.node))

    def start_worker(self, number: int, n_cpus: int, node: str | None) -> tuple[Any, Any]:
        strategy = "SPREAD" if node is None else NodeAffinitySchedulingStrategy(node, soft=False)
        options = {"num_cpus": n_cpus, "max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": strategy}
        actor = self._actor.options(**options).remote(number, n_cpus)
        return actor, actor.introduce.remote()

    def stop_worker(self, handle: Any) -> None:
        with contextlib.suppress(ray_errors.RayError, ValueError):
            ray.kill(handle, no_restart=True)

    def call(self, handle: Any, method: str, *arguments: Any) -> Any:
        return getattr(handle, method).options(num_returns=2 if method == "run_block" else 1).remote(*arguments)

    def wait(self, references: Sequence[Any], timeout_s: float) -> list[Any]:
        if not references:
            return []
        return list(ray.wait(list(references), num_returns=1, timeout=max(timeout_s, 0.0), fetch_local=False)[0])

    def get(self, reference: Any) -> Any:
        try:
            return ray.get(reference)
        except (*_GONE, ray_errors.ObjectLostError) as error:
            raise WorkerGoneError(_explain(error)) from None
        except ray_errors.RayTaskError as error:  # outside the task: its argument or its result could not be sent
            cause = error.cause
            if isinstance(cause, _FULL):
                raise CapacityError(f"the object store is full ({_explain(cause)}); use more nodes") from None
            if isinstance(cause, ray_errors.RayError):
                raise ClusterError(f"a task could not be run ({_explain(cause)})") from None
            cause.add_note(str(error))
            raise cause from None
        except ray_errors.RayError as error:
            raise ClusterError(f"Ray cannot give a result ({_explain(error)})") from None

    def put(self, value: Any) -> Any:
        try:
            return ray.put(value)
        except _FULL as error:
            raise CapacityError(f"the object store of this machine is full ({_explain(error)})") from None

    def fetch_each(self, references: Sequence[Any]) -> Iterator[Any]:
        return _fetch_each(references)


class RayExecutor(PooledExecutor):
    """Runs tasks in worker processes by Ray: on a Ray of its own, a cluster, or the Ray that the caller started.

    A Ray of its own lives until `close`, listens on the loopback interface alone, and lets in only who knows
    its random token. A Ray that the caller started is used and left running.

    Parameters
    ----------
    options : ExecutorOptions
        Address, workers, CPUs; checked by the caller.
    needed_object_store_bytes : int
        See `rgals.execution.open_executor`.

    Raises
    ------
    ClusterError
        If the cluster cannot be reached, or no worker gets ready.
    CapacityError
        If the bytes do not fit into the object store of this machine.
    """

    def __init__(self, options: ExecutorOptions, *, needed_object_store_bytes: int = 0) -> None:
        self._resources = contextlib.ExitStack()
        self._at_exit = _close_at_exit(self)
        try:
            n_workers, worker_cpus = self._connect(options, needed_object_store_bytes)
            pool = WorkerPool(_RayCluster(), n_workers, worker_cpus, options.start_timeout_s)
            self._resources.callback(pool.close)
            super().__init__(pool)
            pool.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the workers, and Ray where this executor started it; calling it twice is harmless."""
        atexit.unregister(self._at_exit)
        self._resources.close()

    def _connect(self, options: ExecutorOptions, needed: int) -> tuple[int | None, int | None]:
        if ray.is_initialized():
            _check_same_cluster(options.address)
        elif options.address is not None:
            self._join(options.address)
        else:
            return self._start_local(options, needed)
        nodes = _RayCluster().nodes()
        store_bytes = sum(int(node["Resources"].get("object_store_memory", 0)) for node in ray.nodes() if node["Alive"])
        if needed > store_bytes:
            LOGGER.warning(
                "The object stores of the cluster hold %.2f GB, %.2f GB will be needed: the rest goes to disk, slowly",
                store_bytes / 1e9,
                needed / 1e9,
            )
        if options.workers is None or options.worker_cpus is not None:
            return options.workers, options.worker_cpus
        return options.workers, share_cpus(nodes, options.workers)

    def _join(self, address: str) -> None:
        self._resources.enter_context(_given_token())
        status = cluster_status(address, CONNECT_TIMEOUT_S)
        if not status.is_reachable:
            raise ClusterError(status.message)
        # Ray replaces a loopback address by this machine's outer one, where a loopback cluster does not listen.
        with _loopback_only() if _is_loopback(address) else contextlib.nullcontext():
            self._init(address=address)

    def _start_local(self, options: ExecutorOptions, needed: int) -> tuple[int, int]:
        n_workers = options.workers or 1
        worker_cpus = options.worker_cpus or max(1, available_threads() // n_workers)
        if n_workers * worker_cpus > available_threads():
            LOGGER.warning(
                "%d workers with %d CPUs each are more than the %d CPUs of this machine",
                n_workers,
                worker_cpus,
                available_threads(),
            )
        store_bytes = choose_object_store_bytes(options.object_store_bytes, needed)
        session = PrivateSession()
        self._resources.callback(session.remove)
        self._resources.callback(_read_environment_again)
        self._resources.callback(session.restore_environment)
        _read_environment_again()
        with _loopback_only():
            self._init(
                address="local",
                num_cpus=n_workers * worker_cpus,
                object_store_memory=store_bytes,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(session.folder / "ray"),
            )
        return n_workers, worker_cpus

    def _init(self, **options: Any) -> None:
        """Initialize Ray so that it keeps quiet and does not take the caller's handler of SIGTERM."""
        before = signal.getsignal(signal.SIGTERM)
        self._resources.enter_context(_without_worker_output())
        self._resources.callback(ray.shutdown, wait_for_processes=True)
        try:
            ray.init(log_to_driver=False, configure_logging=False, **options)
        except (ConnectionError, ray_errors.RayError, RuntimeError, ValueError) as error:
            raise ClusterError(f"Ray ({options['address']}) cannot be used: {_explain(error)}") from error
        finally:
            put_back = functools.partial(_put_back_sigterm, signal.getsignal(signal.SIGTERM), before)
            if before == signal.SIG_DFL:  # until the end Ray's handler is of use: it lets the process end in good order
                self._resources.callback(put_back)
            else:
                put_back()


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_same_cluster(address: str | None) -> None:
    """Refuse an address other than that of the Ray that is in use already."""
    found = ray.get_runtime_context().gcs_address
    if address not in {None, "auto", found} and services.canonicalize_bootstrap_address(str(address)) != found:
        raise ClusterError(
            f"address: expected {found}, the Ray that this process uses already, found {address}; leave the address"
            " out, or call ray.shutdown() first"
        )


def _close_at_exit(executor: RayExecutor) -> Callable[[], None]:
    """Close an executor that is still open when the process ends."""
    reference = weakref.ref(executor)

    def close() -> None:
        alive = reference()
        if alive is not None:
            alive.close()

    atexit.register(close)
    return close


def _read_environment_again() -> None:
    """Let Ray forget the authentication that it read from the environment before."""
    if not ray.is_initialized():
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _given_token() -> Iterator[None]:
    """Send the token that the environment names, where the environment leaves open whether to."""
    is_named = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    is_open = is_named and "RAY_AUTH_MODE" not in os.environ
    if is_open:
        os.environ["RAY_AUTH_MODE"] = "token"
    _read_environment_again()
    try:
        yield
    finally:
        if is_open:
            os.environ.pop("RAY_AUTH_MODE", None)
            _read_environment_again()


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Let a local Ray listen on the loopback interface alone, as it does where it supports no clusters."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _without_worker_output() -> Iterator[None]:
    """Log what Ray would print to standard output: that workers died is dealt with, and said, elsewhere."""
    before = ray_worker.print_to_stdstream

    def log(data: dict[str, Any], *_: Any, **__: Any) -> None:
        LOGGER.debug("Ray: %s", " ".join(data.get("lines", [])))

    ray_worker.print_to_stdstream = log
    try:
        yield
    finally:
        ray_worker.print_to_stdstream = before


def _put_back_sigterm(replaced_by: Any, before: Any) -> None:
    """Put back the handler of SIGTERM that Ray has replaced, unless somebody else has replaced it since."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is replaced_by:
        signal.signal(signal.SIGTERM, before)


def cluster_status(address: str | None, timeout_s: float) -> ClusterStatus:
    """Ask a cluster who it is; starts nothing and stays connected to nothing.

    Parameters
    ----------
    address : str or None
        ``host:port``; ``auto`` or None: the one of this machine, or what ``RAY_ADDRESS`` says.
    timeout_s : float
        How long to wait for each answer.

    Returns
    -------
    ClusterStatus
        Never raises for a cluster that is not there, or refuses: the message says so.
    """
    try:
        target = address if address not in {None, "auto"} else services.canonicalize_bootstrap_address_or_die("auto")
    except (ConnectionError, ValueError) as error:
        return _unreachable("auto", "unknown", f"no cluster found on this machine ({_explain(error)})")
    authentication: Authentication = "unknown"
    try:
        if os.environ.get("RAY_USE_TLS", "0").lower() not in {"1", "true"}:
            with grpc.insecure_channel(target) as channel:
                authentication = "token" if _refuses(channel, timeout_s) else "off"
        with _given_token(), init_grpc_channel(target) as channel:
            if not _refuses(channel, timeout_s):
                return _read_status(target, authentication, channel, timeout_s)
        reason = "it asks for a token, and this process has another one or none"
    except ray_errors.AuthenticationError:
        reason = "the environment asks for a token (RAY_AUTH_MODE=token) and names none"
    except grpc.RpcError as error:
        return _unreachable(
            str(target),
            "unknown",
            f"no Ray answers there ({error.code().name}); check the address and the port of the head node (6379 unless"
            " chosen otherwise), and that the cluster runs: `ray status`",
        )
    way_out = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the cluster's token (or RAY_AUTH_TOKEN)"
    return _unreachable(str(target), "refused", f"{reason}; {way_out}")


def _refuses(channel: Any, timeout_s: float) -> bool:
    """Say whether the cluster wants a token that does not come over this channel."""
    stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
    try:
        stub.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=timeout_s)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.UNAUTHENTICATED:
            raise
        return True
    return False


def _read_status(target: str, authentication: Authentication, channel: Any, timeout_s: float) -> ClusterStatus:
    reply = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).GetAllNodeInfo(
        gcs_service_pb2.GetAllNodeInfoRequest(), timeout=timeout_s
    )
    alive = [node for node in reply.node_info_list if node.state == gcs_pb2.GcsNodeInfo.ALIVE]
    nodes = [
        NodeStatus(
            node.node_manager_hostname,
            node.node_manager_address,
            *(int(node.resources_total.get(name, 0)) for name in ("CPU", "memory", "object_store_memory")),
        )
        for node in alive
    ]
    found = gcs_service_pb2_grpc.InternalKVGcsServiceStub(channel).InternalKVGet(
        gcs_service_pb2.InternalKVGetRequest(key=b"CLUSTER_METADATA", namespace=b"cluster"), timeout=timeout_s
    )
    versions = json.loads(found.value or b"{}")
    n_cpus = sum(node.n_cpus for node in nodes)
    return ClusterStatus(
        is_reachable=True,
        authentication=authentication,
        ray_version=versions.get("ray_version"),
        python_version=versions.get("python_version"),
        nodes=tuple(sorted(nodes, key=lambda node: (node.name, node.address))),
        message=f"Ray at {target}: {len(nodes)} nodes with {n_cpus} CPUs, authentication: {authentication}",
    )


def _unreachable(target: str, authentication: Authentication, reason: str) -> ClusterStatus:
    return ClusterStatus(False, authentication, None, None, (), f"Ray at {target}: {reason}")
