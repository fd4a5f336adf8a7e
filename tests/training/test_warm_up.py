"""Kernels are compiled before the first sweep, so that no sweep's seconds hold a compilation."""

import gc
import itertools
import subprocess
import sys
from pathlib import Path

from numba.core.registry import CPUDispatcher

from rgals.data.shards import InMemoryInteractions
from rgals.execution import InProcessExecutor
from rgals.numerics.loss import LOSS_NAMES
from rgals.numerics.sparse import InteractionRows
from rgals.training import reexpanding_solver
from rgals.training.config import TrainingConfig
from rgals.training.reexpanding_solver import make_solver
from tests.training.runs import planted


class FrozenInteractions(InMemoryInteractions):
    """Shards that cannot be written to, as a dataset's."""

    def load_shard(self, side, index):
        rows = super().load_shard(side, index)
        frozen = [None if values is None else values.copy() for values in (rows.columns, rows.weights)]
        for values in frozen:
            if values is not None:
                values.flags.writeable = False
        return InteractionRows(rows.indptr, *frozen, rows.n_columns)


def compiled():
    """Give every kernel and signature that this process has compiled or loaded."""
    kernels = [found for found in gc.get_objects() if isinstance(found, CPUDispatcher)]
    return {(kernel.py_func.__qualname__, signature) for kernel in kernels for signature in kernel.signatures}


def watch_sweeps():
    """Train each kind of loss on each kind of interactions; print what the sweeps compile."""
    reexpanding_solver.LEAST_SAMPLE = 1
    options = ({}, {"pass_fraction": 0.4, "sampled_sweeps": 1}, {"user_exponent": -0.3, "beta": 0.2})
    sources = (FrozenInteractions, InMemoryInteractions)
    for loss, is_weighted, more, source in itertools.product(LOSS_NAMES, (False, True), options, sources):
        config = TrainingConfig(loss=loss, n_factors=5, start_sweeps=1, n_hard=4, **more)
        solver = make_solver(source(planted(is_weighted=is_weighted)[0], 2), config, InProcessExecutor(2))
        before = compiled()
        for _ in range(3):
            solver.run_sweep()
        for name, _ in compiled() - before:
            print(f"{name} under {loss}, {more}, {source.__name__}, weighted: {is_weighted}")


def test_no_sweep_compiles_anything():
    # In a process of its own: in this one, other tests have compiled everything.
    repository = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", f"from {__name__} import watch_sweeps; watch_sweeps()"]
    found = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True, timeout=300)
    assert found.stdout == ""
