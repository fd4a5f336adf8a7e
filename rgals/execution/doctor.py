"""Look at the machine, and at a cluster, before work is sent there."""

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from rgals.execution import doctor_cluster as elsewhere
from rgals.execution import doctor_machine as machine
from rgals.execution import doctor_network as network
from rgals.execution import doctor_software as software
from rgals.execution.finding import Finding

__all__ = ["Finding", "examine"]

_ANSWER_S = 20.0


def examine(
    *,
    address: str | None = None,
    output: str | Path | None = None,
    dataset: str | None = None,
    environment: Mapping[str, str] = os.environ,
    root: Path = Path("/"),
    timeout_s: float = _ANSWER_S,
) -> list[Finding]:
    """Run every check.

    Parameters
    ----------
    address : str or None
        A Ray cluster to look at; None looks at the one that ``RAY_ADDRESS`` names, if any.
    output : str, Path or None
        A folder that will be written to: local path or URI.
    dataset : str or None
        A dataset that will be read: local path or URI.
    environment : mapping of str to str
        Environment variables.
    root : Path
        The folder that stands for ``/`` where files of the system are read.
    timeout_s : float
        Seconds to wait for a cluster.

    Returns
    -------
    list of Finding
        In the order of the checks. A check that fails itself, for example because the system has no
        /proc, gives a warning.

    Notes
    -----
    Writes 16 MB into the folder for temporary files and into ``output``, and removes them; starts a
    worker with one CPU on each node of a cluster, and ends it. Secrets are looked at but are in no finding.
    """
    n_processors = len(os.sched_getaffinity(0))
    checks: dict[str, Callable[[], Finding | list[Finding]]] = {
        "versions": software.check_versions,
        "processors": lambda: machine.check_processors(n_processors, machine.read_cpu_quota(root)),
        "thread variables": lambda: software.check_thread_variables(n_processors, environment),
        "linear algebra": lambda: software.check_blas(n_processors),
        "kernel cache": lambda: software.check_kernel_cache(environment),
        "memory": lambda: machine.check_memory(machine.read_memory(root)),
        "swap": lambda: machine.check_swap(machine.read_memory(root)),
        "shared memory": lambda: machine.check_shared_memory(machine.read_memory(root).total_bytes, root / "dev/shm"),
        "open files": machine.check_file_limit,
        "processes": lambda: machine.check_process_limit(root),
        "temporary files": lambda: machine.check_disk("temporary files", tempfile.gettempdir()),
        "clock": machine.check_clock,
        "ports": lambda: network.check_ports(network.read_listeners(root)),
        "Ray exposure": lambda: network.check_exposure(network.read_listeners(root)),
        "Ray token": lambda: network.check_token(environment),
    }
    if output is not None:
        checks["output"] = lambda: machine.check_disk("output", output)
    if dataset is not None:
        checks["dataset"] = lambda: elsewhere.check_dataset(dataset)
    cluster = address or environment.get("RAY_ADDRESS")
    if cluster:
        checks["cluster"] = lambda: _check_cluster(cluster, timeout_s)
    findings: list[Finding] = []
    for name, check in checks.items():
        result = _run(name, check)
        findings += result if isinstance(result, list) else [result]
    return findings


def _check_cluster(address: str, timeout_s: float) -> list[Finding]:
    """Ask a cluster; start workers there only if it is fit so far."""
    findings = elsewhere.check_cluster(address, timeout_s)
    if all(finding.status != "problem" or finding.name == "cluster token" for finding in findings):
        findings.append(elsewhere.check_workers(address, timeout_s))
    return findings


def _run(name: str, check: Callable[[], Finding | list[Finding]]) -> Finding | list[Finding]:
    """Run a check; one that meets a system that it does not know says so."""
    try:
        return check()
    except (OSError, ValueError, KeyError, IndexError, StopIteration) as error:
        return Finding(name, "warning", f"could not be looked at ({error!r})", "look by hand")
