"""Evaluation and lists of all users on real Ray workers: nothing differs from one process."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rgals.artifact import batch
from rgals.artifact.batch import recommend_all
from rgals.artifact.model import Model
from rgals.data.dataset import Dataset
from rgals.errors import DataError
from rgals.evaluation import evaluator
from rgals.evaluation.alignment import AlignedModel, align_model
from rgals.evaluation.evaluator import evaluate
from rgals.evaluation.protocol import EvaluationOptions
from rgals.execution import Executor, ExecutorOptions, open_executor
from rgals.numerics.fold_in import UserSystem
from rgals.numerics.loss import Loss
from tests.artifact.model_factory import Parts
from tests.evaluation.problems import random_parts, write_dataset
from tests.evaluation.test_user_blocks import assert_same

N_USERS, N_ITEMS = 300, 50
OPTIONS = EvaluationOptions(cutoffs=(5, 20), n_resamples=10)


@pytest.fixture(scope="module", params=[1, 2])
def workers(request: pytest.FixtureRequest) -> Iterator[Executor]:
    options = ExecutorOptions("ray", workers=request.param, worker_cpus=1, object_store_bytes=100 << 20)
    with open_executor(options) as executor:
        assert executor.n_workers == request.param
        yield executor


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_THREAD_USERS", 16)
    monkeypatch.setattr(batch, "_MOST_THREAD_USERS", 32)
    monkeypatch.setattr(evaluator, "_BLOCK_USERS", 32)
    monkeypatch.setattr(evaluator, "_THREAD_USERS", 16)


def model_of(dataset: Dataset, name: str) -> AlignedModel:
    rng = np.random.default_rng(1)
    items = rng.standard_normal((N_ITEMS, 4), dtype=np.float32)
    users = rng.standard_normal((N_USERS, 4), dtype=np.float32)
    users[::7] = 0
    return align_model(
        dataset,
        name=name,
        user_factors=users,
        item_factors=items,
        user_ids=dataset.user_ids,
        item_ids=dataset.item_ids,
        fingerprint=dataset.fingerprint if name == "same" else None,
        solve=UserSystem.build(items, Loss("rg2", 1.0, 0.1), np.arange(1, N_ITEMS + 1)).solve,
        train_s=1.0,
        options={},
    )


@pytest.mark.parametrize(
    "shares", [{"train": 0.2, "validation": 0.05, "test": 0.1}, {"test_fold_in": 0.2, "test": 0.1}]
)
def test_a_report_is_the_same_from_ray_workers(tmp_path: Path, workers: Executor, shares: dict[str, float]) -> None:
    parts = random_parts(N_USERS, N_ITEMS, shares)
    parts.setdefault("train", [(0, 0)])
    dataset = write_dataset(tmp_path / "d", N_USERS, N_ITEMS, parts)
    models = [model_of(dataset, name) for name in ("same", "other")]
    told: list[int] = []
    found = evaluate(models, dataset, OPTIONS, executor=workers, progress=lambda done, _: told.append(done))
    assert_same(found, evaluate(models, dataset, OPTIONS, n_threads=1))
    assert found.report.protocol.generalization == ("weak" if "validation" in shares else "strong")
    assert told == sorted(told)
    assert len(told) > 2 * 8


def test_the_lists_of_all_users_are_the_same_file_from_ray_workers(tmp_path: Path, workers: Executor) -> None:
    model = Parts(N_USERS, N_ITEMS, 4, density=0.3, empty_users=(5,)).write(tmp_path / "model")
    for budget in (30_000, 1 << 30):
        recommend_all(model, tmp_path / "here", 7, memory_budget_bytes=budget, overwrite=True)
        recommend_all(model, tmp_path / "there", 7, memory_budget_bytes=budget, overwrite=True, executor=workers)
        assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()


def test_a_worker_with_another_model_ends_the_batch(tmp_path: Path, workers: Executor) -> None:
    Parts(N_USERS, N_ITEMS, 4, seed=1).write(tmp_path / "model")
    model = Model.open(tmp_path / "model")
    Parts(N_USERS, N_ITEMS, 4, seed=2).write(tmp_path / "model", overwrite=True)
    with pytest.raises(DataError, match=r"worker \d+: .* holds factors .* expected"):
        recommend_all(model, tmp_path / "x.parquet", 7, executor=workers)
    assert os.listdir(tmp_path) == ["model"]  # noqa: PTH208
