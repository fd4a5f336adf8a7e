"""Files that are damaged, missing or replaced, and disks that are full, while workers read and write them."""

import json
import shutil

import pytest

from rgals.data.dataset import Dataset
from rgals.errors import ChecksumError, DataError, StaleCheckpointError
from rgals.execution import InProcessExecutor
from rgals.training.trainer import train
from tests.faults.cluster import limit_file_size, own_process
from tests.faults.conftest import slow_config, write_dataset
from tests.faults.test_lost_workers import Watch, check_same


def quick_config(**options):
    return slow_config(**{"n_factors": 32, "n_sweeps": 4, "checkpoint_every": 1, **options})


@pytest.fixture(scope="module")
def quick_expected(source):
    result = train(source, quick_config(checkpoint_every=0), executor=InProcessExecutor(2))
    return result.user_factors, result.item_factors, result.history


@pytest.fixture(scope="module")
def dataset_folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "dataset", seed=0)


@pytest.fixture
def dataset(dataset_folder, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(dataset_folder, tmp_path / "dataset")


def newest(checkpoints):
    return max(checkpoints.glob("sweep-*"))


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_goes_on(executor, source, quick_expected, tmp_path, how):
    train(source, quick_config(n_sweeps=2), executor=executor, checkpoints=tmp_path)
    damage(newest(tmp_path) / "user-00003.npy", how)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ChecksumError, match=r"user-00003\.npy.*sweep-00002 to go on from sweep 1"):
        train(source, quick_config(), executor=executor, checkpoints=tmp_path, resume="auto")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    shutil.rmtree(newest(tmp_path))
    watch = Watch()
    result = train(source, quick_config(), executor=executor, checkpoints=tmp_path, resume="auto", on_event=watch)
    assert watch.of("start")[0].sweep == 1
    check_same(result, quick_expected)


def test_a_damaged_manifest_of_a_checkpoint_is_named(executor, source, tmp_path):
    train(source, quick_config(n_sweeps=1), executor=executor, checkpoints=tmp_path)
    damage(newest(tmp_path) / "manifest.json", "truncated")
    with pytest.raises(DataError, match=r"sweep-00001/manifest\.json: not a readable manifest"):
        train(source, quick_config(), executor=executor, checkpoints=tmp_path, resume="auto")


def test_a_dataset_that_changed_is_not_trained_further(executor, dataset, tmp_path):
    train(Dataset.open(dataset), quick_config(n_sweeps=1), executor=executor, checkpoints=tmp_path / "c")
    shutil.rmtree(dataset)
    write_dataset(dataset, seed=1)
    with pytest.raises(StaleCheckpointError, match="belongs to dataset"):
        train(Dataset.open(dataset), quick_config(), executor=executor, checkpoints=tmp_path / "c", resume="auto")
    assert newest(tmp_path / "c").name == "sweep-00001"


def test_a_dataset_replaced_before_the_workers_open_it(executor, dataset):
    opened = Dataset.open(dataset)
    shutil.rmtree(dataset)
    write_dataset(dataset, seed=1)
    with pytest.raises(DataError, match=r"expected dataset .* every node must see the same folder"):
        train(opened, quick_config(checkpoint_every=0), executor=executor)


def test_a_corrupted_shard_is_named(executor, dataset):
    damage(dataset / "by_item" / "train-00001.parquet", "flipped")
    with pytest.raises(ChecksumError, match=r"by_item/train-00001\.parquet"):
        train(Dataset.open(dataset), quick_config(checkpoint_every=0), executor=executor)


def test_a_missing_shard_is_named_and_checkpoints_stay(executor, dataset, tmp_path):
    train(Dataset.open(dataset), quick_config(n_sweeps=2), executor=executor, checkpoints=tmp_path / "c")
    (dataset / "by_user" / "train-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"by_user/train-00002\.parquet: the file is missing"):
        train(Dataset.open(dataset), quick_config(), executor=executor, checkpoints=tmp_path / "c", resume="auto")
    assert newest(tmp_path / "c").name == "sweep-00002"


def test_a_full_disk_at_a_checkpoint_leaves_the_one_before_it(executor, source, quick_expected, tmp_path):
    workers = executor.on_each_worker(own_process, None)
    watch = Watch(checkpoint_2=lambda: [limit_file_size(worker, 4096) for worker in workers])
    with pytest.raises(DataError, match=r"sweep-00003: writing failed .*File too large"):
        train(source, quick_config(), executor=executor, checkpoints=tmp_path, on_event=watch)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep-00001", "sweep-00002"]
    for worker in workers:
        limit_file_size(worker, -1)
    result = train(source, quick_config(), executor=executor, checkpoints=tmp_path, resume="auto")
    check_same(result, quick_expected)


def test_checkpoints_of_the_workers_are_those_of_one_process(executor, source, tmp_path):
    for name, where in (("a", executor), ("b", InProcessExecutor(1))):
        train(source, quick_config(n_sweeps=2, keep_checkpoints=1), executor=where, checkpoints=tmp_path / name)
    manifests = [json.loads((tmp_path / name / "sweep-00002" / "manifest.json").read_text()) for name in "ab"]
    for manifest in manifests:
        manifest["files"].pop("state.json")  # holds seconds
    assert manifests[0] == manifests[1]
