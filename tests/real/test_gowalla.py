"""Gowalla with its official split: the numbers that the losses must reach, and bits that do not depend on shards."""

from pathlib import Path

import pytest

from rgals.artifact.model import Model
from rgals.data.dataset import Dataset
from tests.real.test_movielens import ndcg_by_model, run

pytestmark = pytest.mark.realdata

COUNTS = {"train": 810_128, "test": 217_242}


@pytest.fixture(scope="module")
def gowalla(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = real_data / "gowalla"
    datasets = {shards: tmp_path_factory.mktemp("gowalla") / f"dataset-{shards}" for shards in (1, 6)}
    for shards, path in datasets.items():
        run(
            "ingest", "--train", folder / "train.parquet", "--test", folder / "test.parquet",
            "--shards", shards, "--output", path,
        )  # fmt: skip
    return datasets


def test_the_official_split_is_taken_as_it_is(gowalla: dict[int, Path]) -> None:
    dataset = Dataset.open(gowalla[1])
    assert (dataset.n_users, dataset.n_items) == (29_858, 40_981)
    assert {part: dataset.read_part(part).n_interactions for part in COUNTS} == COUNTS
    assert dataset.fingerprint == Dataset.open(gowalla[6]).fingerprint


def test_the_model_ranks_as_measured_and_does_not_depend_on_shards(gowalla: dict[int, Path], tmp_path: Path) -> None:
    checksums = set()
    for shards, dataset in gowalla.items():
        model = tmp_path / f"model-{shards}"
        run(
            "train", dataset, "--loss=rg2", "--n-factors=64", "--alpha=0.03", "--reg=0.07", "--n-sweeps=5",
            "--softmax-users=0", "--threads", shards % 2 + 1, "--output", model,
        )  # fmt: skip
        checksums.add(Model.open(model).factor_checksum)
    assert len(checksums) == 1
    report = tmp_path / "report.json"
    run("evaluate", tmp_path / "model-6", "--dataset", gowalla[6], "--baselines=popularity", "--output", report)
    ndcg = ndcg_by_model(report)
    assert ndcg["model-6"] > 0.125
    assert ndcg["popularity"] < 0.05
