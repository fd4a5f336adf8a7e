"""Clusters and problems for the fault tests."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rgals.data.dataset_writer import DatasetWriter
from rgals.data.ids import IdDictionary
from rgals.data.ledger import Ledger
from rgals.data.shards import InMemoryInteractions
from rgals.data.splits import PART_NAMES, SplitRule
from rgals.data.storage import new_folder
from rgals.execution import ExecutorOptions, InProcessExecutor, open_executor
from rgals.numerics.sparse import InteractionRows
from rgals.training.config import TrainingConfig
from rgals.training.trainer import train
from tests.faults.cluster import SmallCluster

N_USERS, N_ITEMS, N_PAIRS = 6000, 3000, 120_000


def interactions(seed=0):
    generator = np.random.default_rng(seed)
    users = generator.integers(N_USERS, size=N_PAIRS)
    items = (generator.random(N_PAIRS) ** 2 * N_ITEMS).astype(np.int64)
    pairs = np.unique(users * N_ITEMS + items)
    return InteractionRows.from_pairs(pairs // N_ITEMS, pairs % N_ITEMS, None, N_USERS, N_ITEMS)


def write_dataset(folder, seed):
    """Write the same interactions as a dataset of six shards on each side."""
    rows = interactions(seed)
    users = np.repeat(np.arange(rows.n_rows), rows.degrees)
    with new_folder(folder) as staged, tempfile.TemporaryDirectory() as scratch:
        ids = [IdDictionary.from_values(pa.array(np.arange(n))) for n in (N_USERS, N_ITEMS)]
        writer = DatasetWriter(staged, *ids, 6, Path(scratch) / "sorting")
        writer.add(PART_NAMES.index("train"), users, rows.columns)
        writer.finish(SplitRule(), {}, Ledger(read=users.size, kept=users.size))
    return folder


def slow_config(**options):
    """Give options with which a half-step takes long enough to be interrupted."""
    defaults = {"n_factors": 160, "n_sweeps": 4, "solver": "cholesky", "alpha": 0.5, "reg": 0.1, "softmax_users": 0}
    return TrainingConfig(**{**defaults, **options})


@pytest.fixture(scope="package")
def source():
    return InMemoryInteractions(interactions(), n_shards=6)


@pytest.fixture(scope="package")
def expected(source):
    """The run that nothing happens to."""
    result = train(source, slow_config(), executor=InProcessExecutor(2))
    return result.user_factors, result.item_factors, result.history


@pytest.fixture
def cluster_of():
    """Give a function that starts a cluster of some nodes, ended after the test."""
    clusters = []

    def start(n_nodes, **options):
        clusters.append(SmallCluster(n_nodes, **options))
        return clusters[-1]

    yield start
    for cluster in clusters:
        cluster.close()


@pytest.fixture(scope="package")
def two_nodes():
    cluster = SmallCluster(2)
    yield cluster
    cluster.close()


@pytest.fixture
def executor(two_nodes):
    with open_executor(ExecutorOptions("ray", address=two_nodes.address, workers=2, worker_cpus=1)) as found:
        yield found
