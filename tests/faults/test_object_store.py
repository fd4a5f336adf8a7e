"""What lies in the object store during a run: never more than planned, nothing afterwards."""

import re
import time

from ray._private.internal_api import memory_summary

from rgals.execution import ExecutorOptions, open_executor
from rgals.training.plan import plan_training
from rgals.training.trainer import train
from tests.faults.conftest import slow_config


def stored_bytes(address):
    """Sum what the object stores of all nodes hold."""
    summary = memory_summary(address, stats_only=True)
    return sum(float(found) * 2**20 for found in re.findall(r"Plasma memory usage (\d+) MiB", summary))


def settled_bytes(address, most, deadline_s=15):
    """Wait until no more than ``most`` is held: a node drops what nobody refers to once a second."""
    end = time.monotonic() + deadline_s
    while (found := stored_bytes(address)) > most and time.monotonic() < end:
        time.sleep(0.1)
    return found


def test_blocks_are_dropped_when_they_are_replaced(cluster_of, source):
    cluster = cluster_of(1)
    config = slow_config(n_factors=256, n_sweeps=5, solver="cg")
    plan = plan_training(source, config, n_workers=1, worker_cpus=1, n_nodes=1)
    with open_executor(ExecutorOptions("ray", address=cluster.address)) as executor:
        seen = []
        result = train(
            source,
            config,
            executor=executor,
            on_event=lambda event: (
                seen.append(settled_bytes(cluster.address, plan.block_bytes)) if event.kind == "sweep" else None
            ),
        )
        model_bytes = 4 * 256 * (source.n_users + source.n_items)
        assert model_bytes * 0.9 < max(seen) <= plan.block_bytes
        assert len(seen) == 5
        del result
