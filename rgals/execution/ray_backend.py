"""Ray: the executor that runs tasks in worker processes, on one machine or many."""

import atexit
import contextlib
import json
import logging
import os
import weakref
from collections.abc import Hashable, Iterator, Sequence
from itertools import count
from typing import Any, TypeVar

import ray
from ray import exceptions as ray_errors
from ray._private import ray_constants, services
from ray._raylet import AuthenticationTokenLoader, Config
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rgals.errors import BlockLostError, ClusterError
from rgals.execution.executor import Block, BlockResult, Executor, Prepare, TaskFunction
from rgals.execution.local_ray import PrivateSession, choose_object_store_bytes
from rgals.execution.map_run import Finished, run_map
from rgals.execution.options import ExecutorOptions
from rgals.execution.status import Authentication, ClusterStatus, NodeStatus
from rgals.execution.worker import RemoteBlock, Report, Work, Worker, limit_blas, reference_of, size_of
from rgals.execution.worker_pool import NodeFacts, WorkerGoneError, WorkerPool
from rgals.numerics.threads import available_threads

__all__ = ["RayExecutor", "cluster_status"]

LOGGER = logging.getLogger(__name__)
PREFETCH = 4
CONNECT_TIMEOUT_S = 10.0

Value = TypeVar("Value")
Task = TypeVar("Task")
Shared = TypeVar("Shared")
Result = TypeVar("Result")

_GONE = (
    ray_errors.RayActorError,
    ray_errors.WorkerCrashedError,
    ray_errors.NodeDiedError,
    ray_errors.OutOfMemoryError,
)


class _Actor(Worker):
    """The worker as an actor."""

    def __init__(self, number: int, n_threads: int) -> None:
        limit_blas()
        context = ray.get_runtime_context()
        name = f"node {ray.util.get_node_ip_address()}, worker {number}"
        super().__init__(name, context.get_node_id(), n_threads, _fetch_each, _is_portable)


def _fetch_each(references: Sequence[Any]) -> Iterator[Any]:
    """Give values one after the other while the next few are on their way."""
    for position, reference in enumerate(references):
        window = references[position : position + PREFETCH]
        ray.wait(list(dict.fromkeys(window)), num_returns=1, timeout=0, fetch_local=True)
        try:
            value = ray.get(reference)
        except (ray_errors.ObjectLostError, *_GONE) as error:
            raise BlockLostError(f"a block of data is lost with the node that held it ({_first_line(error)})") from None
        yield value
        del value


def _is_portable(value: Any) -> bool:
    try:
        copy = ray.cloudpickle.loads(ray.cloudpickle.dumps(value))
    except Exception:  # noqa: BLE001 - whatever goes wrong, it cannot be sent
        return False
    return type(copy) is type(value) and str(copy) == str(value)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


class _RayCluster:
    """`rgals.execution.worker_pool.Cluster` by Ray."""

    def nodes(self) -> list[NodeFacts]:
        found = [node for node in ray.nodes() if node["Alive"]]
        facts = [
            NodeFacts(node["NodeID"], node["NodeManagerAddress"], int(node["Resources"].get("CPU", 0)))
            for node in found
        ]
        return sorted((node for node in facts if node.n_cpus > 0), key=lambda node: (node.address, node.node))

    def start_worker(self, number: int, n_cpus: int, node: str | None) -> tuple[Any, Any]:
        strategy = "SPREAD" if node is None else NodeAffinitySchedulingStrategy(node, soft=False)
        options = {"num_cpus": n_cpus, "max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": strategy}
        actor = ray.remote(_Actor).options(**options).remote(number, n_cpus)
        return actor, actor.introduce.remote()

    def stop_worker(self, handle: Any) -> None:
        with contextlib.suppress(ray_errors.RayError, ValueError):
            ray.kill(handle, no_restart=True)

    def call(self, handle: Any, method: str, *arguments: Any) -> Any:
        return getattr(handle, method).options(num_returns=2 if method == "run_block" else 1).remote(*arguments)

    def cancel(self, reference: Any) -> None:
        with contextlib.suppress(ray_errors.RayError, ValueError, TypeError):
            ray.cancel(reference)

    def wait(self, references: Sequence[Any], timeout_s: float) -> list[Any]:
        if not references:
            return []
        return list(ray.wait(list(references), num_returns=1, timeout=max(timeout_s, 0.0), fetch_local=False)[0])

    def get(self, reference: Any) -> Any:
        try:
            return ray.get(reference)
        except (*_GONE, ray_errors.ObjectLostError) as error:
            raise WorkerGoneError(_first_line(error)) from None
        except ray_errors.RayTaskError as error:  # outside the task: its argument or its result could not be sent
            cause = error.cause
            cause.add_note(error.traceback_str)
            raise cause from None


class RayExecutor(Executor):
    """Runs tasks in worker processes by Ray.

    Parameters
    ----------
    options : ExecutorOptions
        Address, workers, CPUs; checked by the caller.
    needed_object_store_bytes : int
        See `rgals.execution.open_executor`.
    """

    def __init__(self, options: ExecutorOptions, *, needed_object_store_bytes: int = 0) -> None:
        self._session: PrivateSession | None = None
        self._is_ours = False
        self._is_closed = False
        self._map_numbers = count()
        self._at_exit = _close_at_exit(self)
        try:
            n_workers, worker_cpus = self._connect(options, needed_object_store_bytes)
            self._pool = WorkerPool(_RayCluster(), n_workers, worker_cpus, options.start_timeout_s)
            self._pool.start()
        except BaseException:
            self.close()
            raise

    def _connect(self, options: ExecutorOptions, needed: int) -> tuple[int | None, int | None]:
        if ray.is_initialized():
            if options.address is None:
                return options.workers or 1, options.worker_cpus or 1
            return options.workers, options.worker_cpus
        if options.address is not None:
            status = cluster_status(options.address, CONNECT_TIMEOUT_S)
            if not status.is_reachable:
                raise ClusterError(status.message)
            try:
                # Ray replaces a loopback address by this machine's outer one, where a loopback cluster does not listen.
                with _loopback_only() if _is_loopback(options.address) else contextlib.nullcontext():
                    ray.init(address=options.address, log_to_driver=False, configure_logging=False)
            except (ConnectionError, ray_errors.RayError, RuntimeError) as error:
                raise ClusterError(f"Ray at {options.address}: cannot connect ({_first_line(error)})") from error
            self._is_ours = True
            return options.workers, options.worker_cpus
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
        self._session = PrivateSession()
        _read_environment_again()
        self._is_ours = True
        with _loopback_only():
            ray.init(
                address="local",
                num_cpus=n_workers * worker_cpus,
                object_store_memory=store_bytes,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(self._session.folder / "ray"),
            )
        return n_workers, worker_cpus

    @property
    def n_workers(self) -> int:
        """Workers that are ready."""
        return len(self._pool.ready)

    @property
    def n_threads(self) -> int:
        """CPUs of a worker, of the smallest where they differ."""
        return min((member.n_cpus for member in self._pool.ready.values()), default=1)

    def map_ordered(
        self,
        function: TaskFunction[Any, Task, Result],
        shared: Shared,
        tasks: Sequence[Task],
        *,
        keys: Sequence[Hashable] | None = None,
        costs: Sequence[float] | None = None,
        prepare: Prepare[Shared, Any] | None = None,
    ) -> Iterator[Result]:
        """Run the tasks on the workers; see `Executor.map_ordered`."""
        for finished in self._map(Work(function, shared, prepare), tasks, keys, costs, keeps_blocks=False):
            yield _checked(finished).summary

    def map_blocks(
        self,
        function: TaskFunction[Any, Task, tuple[Value, Result]],
        shared: Shared,
        tasks: Sequence[Task],
        *,
        keys: Sequence[Hashable] | None = None,
        costs: Sequence[float] | None = None,
        prepare: Prepare[Shared, Any] | None = None,
    ) -> Iterator[BlockResult[Value, Result]]:
        """Run the tasks on the workers; see `Executor.map_blocks`."""
        for finished in self._map(Work(function, shared, prepare), tasks, keys, costs, keeps_blocks=True):
            report = _checked(finished)
            block: RemoteBlock[Value] = RemoteBlock(finished.block, report.n_bytes)
            yield BlockResult(block, report.summary, finished.worker, report.seconds, report.prepare_s)

    def on_each_worker(self, function: TaskFunction[Shared, int, Result], shared: Shared) -> list[Result]:
        """Run the function in every worker at the same time; see `Executor.on_each_worker`."""
        pool = self._pool
        work = ray.put(Work(function, shared, None))
        members = sorted(pool.ready.values(), key=lambda member: member.number)
        calls = [pool.cluster.call(m.handle, "run_once", [work], i) for i, m in enumerate(members)]
        results = []
        for member, call in zip(members, calls, strict=True):
            report = pool.cluster.get(call)
            results.append(_checked(Finished(None, report, member.name)).summary)
        return results

    def put(self, value: Value) -> Block[Value]:
        """Put a value into the object store of this machine."""
        return RemoteBlock(ray.put(value), size_of(value))

    def fetch_each(self, blocks: Sequence[Block[Value]]) -> Iterator[Value]:
        """Give the values of blocks here, a few of them under way at a time."""
        return _fetch_each([reference_of(block) for block in blocks])

    def release(self, owner: str) -> None:
        """Let every worker drop what it keeps for a job."""
        for key in [key for key in self._pool.homes if isinstance(key, tuple) and key and key[0] == owner]:
            del self._pool.homes[key]
        self._pool.call_each("release", owner)

    def close(self) -> None:
        """End the workers, and Ray where this executor started it."""
        if self._is_closed:
            return
        self._is_closed = True
        atexit.unregister(self._at_exit)
        if hasattr(self, "_pool") and ray.is_initialized():
            self._pool.close()
        if self._is_ours:
            ray.shutdown(wait_for_processes=True)
        if self._session is not None:
            self._session.restore_environment()
            _read_environment_again()
            self._session.remove()

    def _map(
        self,
        work: Work,
        tasks: Sequence[Any],
        keys: Sequence[Hashable] | None,
        costs: Sequence[float] | None,
        *,
        keeps_blocks: bool,
    ) -> Iterator[Finished]:
        if not tasks:
            return
        reference = ray.put(work)
        yield from run_map(
            self._pool, next(self._map_numbers), reference, tasks, keys, costs, keeps_blocks=keeps_blocks
        )


def _checked(finished: Finished) -> Report:
    """Raise what a task raised, or give its report."""
    if finished.report.failure is not None:
        raise finished.report.failure.as_error(finished.worker)
    return finished.report


def _close_at_exit(executor: RayExecutor) -> Any:
    reference = weakref.ref(executor)

    def close() -> None:
        alive = reference()
        if alive is not None:
            alive.close()

    atexit.register(close)
    return close


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_environment_again() -> None:
    """Let Ray forget the authentication that it read from the environment before."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _loopback_only() -> Iterator[None]:
    """Let a local Ray listen on the loopback interface alone, as it does where it supports no clusters."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


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
        return _unreachable("auto", "unknown", f"no cluster found on this machine ({_first_line(error)})")
    import grpc  # noqa: PLC0415 - comes with ray[default] only

    wants_tls = os.environ.get("RAY_USE_TLS", "0").lower() in {"1", "true"}
    authentication: Authentication = "unknown"
    try:
        if not wants_tls:
            with grpc.insecure_channel(target) as channel:
                authentication = "token" if _refuses(channel, timeout_s) else "off"
        _use_given_token()
        from ray._private.grpc_utils import init_grpc_channel  # noqa: PLC0415 - it imports grpc

        with init_grpc_channel(target) as channel:
            if _refuses(channel, timeout_s):
                return _unreachable(
                    target,
                    "refused",
                    "it asks for a token, and the one of this process is missing or another: set RAY_AUTH_MODE=token,"
                    " and RAY_AUTH_TOKEN_PATH to the file with the cluster's token (or RAY_AUTH_TOKEN)",
                )
            return _read_status(target, authentication, channel, timeout_s)
    except ray_errors.AuthenticationError as error:  # the environment names a token that is not there
        return _unreachable(target, "refused", _first_line(error))
    except grpc.RpcError as error:
        return _unreachable(
            target,
            "unknown",
            f"no Ray answers there ({error.code().name}); check the address and port of the head node (6379 unless"
            " chosen otherwise), and that the cluster runs: `ray status`",
        )


def _refuses(channel: Any, timeout_s: float) -> bool:
    import grpc  # noqa: PLC0415
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc  # noqa: PLC0415

    stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
    try:
        stub.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=timeout_s)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.UNAUTHENTICATED:
            raise
        return True
    return False


def _read_status(target: str, authentication: Authentication, channel: Any, timeout_s: float) -> ClusterStatus:
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc  # noqa: PLC0415

    reply = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).GetAllNodeInfo(
        gcs_service_pb2.GetAllNodeInfoRequest(), timeout=timeout_s
    )
    nodes = tuple(
        sorted(
            (
                NodeStatus(
                    node.node_manager_hostname,
                    node.node_manager_address,
                    int(node.resources_total.get("CPU", 0)),
                    int(node.resources_total.get("memory", 0)),
                    int(node.resources_total.get("object_store_memory", 0)),
                )
                for node in reply.node_info_list
                if node.state == 0
            ),
            key=lambda node: (node.name, node.address),
        )
    )
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
        nodes=nodes,
        message=f"Ray at {target}: {len(nodes)} nodes with {n_cpus} CPUs, authentication: {authentication}",
    )


def _unreachable(target: str, authentication: Authentication, reason: str) -> ClusterStatus:
    return ClusterStatus(False, authentication, None, None, (), f"Ray at {target}: {reason}")


def _use_given_token() -> None:
    """Send the token that the environment names, where the environment leaves open whether to."""
    has_token = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if has_token and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
    _read_environment_again()
