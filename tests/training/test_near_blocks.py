"""Who only needs a block goes where it is: checkpoints and samples of rows are not shipped between machines."""

import numpy as np
import pytest

from rgals.data.shards import InMemoryInteractions
from rgals.execution import InProcessExecutor
from rgals.training.config import TrainingConfig
from rgals.training.factor_blocks import FactorReader
from rgals.training.reexpanding_solver import make_solver
from rgals.training.trainer import train
from tests.training.runs import N_USERS, planted

N_SHARDS = 2


class Watching(InProcessExecutor):
    """Notes the keys that solved a side, and those that other tasks want to be near to, by the task's name."""

    def __init__(self):
        super().__init__(1)
        self.keys = {}
        self.near = []

    def map_ordered(self, function, shared, tasks, *, near=None, **options):
        self.near.append((function.__name__, list(tasks), near))
        return super().map_ordered(function, shared, tasks, near=near, **options)

    def map_blocks(self, function, shared, tasks, *, keys=None, **options):
        if function.__name__ == "solve_shard":
            self.keys[tasks[0].side] = list(keys)
        return super().map_blocks(function, shared, tasks, keys=keys, **options)


def near_of(executor, name):
    return [(tasks, near) for function, tasks, near in executor.near if function == name]


def config(loss, **options):
    return TrainingConfig(loss=loss, n_factors=4, n_sweeps=4, start_sweeps=2, softmax_users=0, reg=0.1, **options)


@pytest.mark.parametrize("loss", ["rg2", "rgx", "rg-softmax"])
def test_a_checkpoint_is_written_where_its_blocks_are(tmp_path, loss):
    executor, source = Watching(), InMemoryInteractions(planted()[0], N_SHARDS)
    train(source, config(loss, checkpoint_every=1), executor=executor, checkpoints=tmp_path / "c")
    writes = near_of(executor, "_write_block")
    assert len(writes) == 2 * 4
    for tasks, near in writes:
        side = tasks[0][0].partition("-")[0]
        assert list(near) == executor.keys[side]
        assert len(near) == len(tasks)
    assert max(len(near) for _, near in writes) == N_SHARDS


def test_some_rows_are_read_where_they_are():
    executor = Watching()
    solver = make_solver(InMemoryInteractions(planted()[0], N_SHARDS), config("rg2"), executor)
    solver.run_sweep()
    reader = FactorReader(executor, solver.blocks)
    second = np.array([N_USERS - 3, N_USERS - 1])
    np.testing.assert_array_equal(reader.read_rows("user", second), reader.read_all("user")[second])
    assert near_of(executor, "_take_rows")[-1][1] == [executor.keys["user"][-1]]
    reader.read_rows("user", np.array([0, N_USERS - 1]))
    assert near_of(executor, "_take_rows")[-1][1] == executor.keys["user"]
