"""Lists of all users by workers that open the model themselves: the same file, byte for byte."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rgals.artifact import batch, layout
from rgals.artifact.batch import recommend_all, tile_users
from rgals.artifact.batch_tasks import BatchJob, open_in_worker
from rgals.artifact.model import Model
from rgals.artifact.recommend import ItemFilter
from rgals.data.arrays import ArrayRows, write_array
from rgals.data.storage import Folder
from rgals.errors import ChecksumError, DataError, InputError, NumericalError
from rgals.execution import Executor, InProcessExecutor
from tests.artifact.model_factory import Parts, ids_of
from tests.artifact.object_store import remote_folder
from tests.artifact.test_model_folder import remake_manifest
from tests.executors import PicklingExecutor

N_USERS, N_ITEMS, K = 75, 30, 6


def parts(seed: int = 8, **changes: object) -> Parts:
    rng = np.random.default_rng(seed)
    factors = {
        "user_factors": rng.standard_normal((N_USERS, 5), dtype=np.float32),
        "item_factors": rng.standard_normal((N_ITEMS, 5), dtype=np.float32),
    }
    return Parts(N_USERS, N_ITEMS, 5, density=0.4, empty_users=(0, 40), has_weights=True, changes=factors | changes)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return parts().write(tmp_path / "model")


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_THREAD_USERS", 4)
    monkeypatch.setattr(batch, "_MOST_THREAD_USERS", 7)


def budget_of(model: Model, n_tile: int) -> int:
    """A budget whose tiles hold that many users."""
    return next(budget for budget in range(100, 1 << 22, 100) if budget_holds(model, budget, n_tile))


def budget_holds(model: Model, budget: int, n_tile: int) -> bool:
    try:
        return tile_users(model, K, budget) == n_tile
    except InputError:
        return False


@pytest.mark.parametrize("n_tile", [10, 33, N_USERS])
@pytest.mark.parametrize("executor", [InProcessExecutor(1), PicklingExecutor(1), PicklingExecutor(3, 2)])
def test_the_file_has_the_same_bytes_whoever_ranks(model, tmp_path, n_tile, executor: Executor):
    exclude = ids_of(model.item_ids)[3:5]
    for name, who in (("here.parquet", None), ("there.parquet", executor)):
        summary = recommend_all(
            model,
            tmp_path / name,
            K,
            memory_budget_bytes=budget_of(model, n_tile),
            exclude=exclude,
            n_threads=2,
            executor=who,
        )
        assert summary.tile_users == n_tile
        assert (summary.n_popular, summary.n_users) == (2, N_USERS)
    assert (tmp_path / "there.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()
    sizes = pq.read_metadata(tmp_path / "there.parquet")
    assert sizes.num_row_groups == -(-N_USERS // n_tile)


def test_workers_that_read_from_an_object_store_give_the_same_file(tmp_path):
    local = parts().write(tmp_path / "local")
    remote = parts().write(remote_folder(tmp_path))
    recommend_all(local, tmp_path / "local.parquet", K)
    recommend_all(remote, tmp_path / "remote.parquet", K, executor=PicklingExecutor(2))
    assert (tmp_path / "remote.parquet").read_bytes() == (tmp_path / "local.parquet").read_bytes()


def test_what_is_sent_does_not_grow_with_the_model(model, tmp_path):
    executor = PicklingExecutor(2)
    recommend_all(model, tmp_path / "x.parquet", K, executor=executor)
    assert executor.shared_bytes[0] < 1000
    assert max(executor.task_bytes) < 200
    assert len(executor.task_bytes) == -(-N_USERS // 7)


def test_a_worker_needs_neither_ids_nor_weights(model, tmp_path):
    recommend_all(model, tmp_path / "before.parquet", K)
    for name in (layout.USER_IDS, layout.ITEM_IDS, layout.SEEN_WEIGHTS, layout.CONFIG):
        (tmp_path / "model" / name).unlink()
    recommend_all(model, tmp_path / "after.parquet", K, executor=PicklingExecutor(2))
    assert (tmp_path / "after.parquet").read_bytes() == (tmp_path / "before.parquet").read_bytes()


def test_another_model_in_its_place_is_an_error_and_no_file_is_left(model, tmp_path):
    wanted = model.factor_checksum
    found = parts(seed=9).write(tmp_path / "model", overwrite=True).factor_checksum
    message = rf"this process: .*model holds factors {found[:12]}, expected {wanted[:12]} as in the calling process"
    with pytest.raises(DataError, match=message):
        recommend_all(model, tmp_path / "x.parquet", K, executor=PicklingExecutor(2))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_worker_that_does_not_find_the_model_says_what_to_do(model, tmp_path):
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"cannot be opened here .*no manifest.json.* on a path that all nodes share"):
        recommend_all(model, tmp_path / "x.parquet", K, executor=PicklingExecutor(2))
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


NEEDED = (layout.USER_FACTORS, layout.ITEM_FACTORS, layout.SEEN_INDPTR, layout.SEEN_COLUMNS, layout.POPULARITY)


@pytest.mark.parametrize("name", NEEDED)
def test_a_truncated_file_is_found_by_the_worker(model, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "model", copy)
    (copy / name).write_bytes((copy / name).read_bytes()[:-1])
    job = BatchJob(Folder.at(copy), model.factor_checksum, K, ItemFilter())
    with pytest.raises(ChecksumError, match=rf"{name}: expected \d+ bytes, found \d+"):
        open_in_worker(job, InProcessExecutor(1)._context)


@pytest.mark.parametrize("name", NEEDED)
def test_an_array_of_another_shape_is_found_by_the_worker(model, tmp_path, name):
    np.save(tmp_path / "model" / name, np.zeros((3, 2)))
    remake_manifest(tmp_path / "model")
    job = BatchJob(Folder.at(tmp_path / "model"), model.factor_checksum, K, ItemFilter())
    with pytest.raises(DataError, match=rf"{name}: expected .*, found float64 of shape \(3, 2\)"):
        open_in_worker(job, InProcessExecutor(1)._context)


def test_a_failing_task_leaves_no_file(model, tmp_path):
    bad = np.array(model.user_factors)
    bad[50] = np.nan
    np.save(tmp_path / "model" / layout.USER_FACTORS, bad)
    with pytest.raises(NumericalError, match="user rows have factors that are NaN"):
        recommend_all(model, tmp_path / "x.parquet", K, executor=PicklingExecutor(2))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_budget_that_does_not_hold_the_tasks_of_all_workers_is_refused(model, tmp_path):
    budget = budget_of(model, 1)
    n_workers = budget // (2 * K * 16) + 1
    message = f"for each of the {2 * n_workers} tasks .* expected at least {2 * n_workers * K * 16} for k={K}"
    with pytest.raises(InputError, match=message):
        recommend_all(
            model, tmp_path / "x.parquet", K, memory_budget_bytes=budget, executor=PicklingExecutor(n_workers)
        )
    recommend_all(model, tmp_path / "x.parquet", K, memory_budget_bytes=budget, executor=PicklingExecutor(2))


@pytest.mark.parametrize(
    ("n_users", "budget", "n_workers", "n_threads", "expected"),
    [
        (10**7, 1 << 40, 1, 2, 8192),
        (10**7, 1 << 40, 4, 64, 64 * 4096),
        (20_000, 1 << 40, 4, 1, 1250),
        (100, 1 << 40, 4, 2, 512),
        (10**7, 10 * 16 * 8 * 99, 4, 2, 99),
    ],
)
def test_every_thread_of_every_worker_gets_users_within_the_budget(
    monkeypatch, n_users, budget, n_workers, n_threads, expected
):
    monkeypatch.undo()
    assert batch._task_users(n_users, 10, budget, PicklingExecutor(n_workers, n_threads)) == expected


def test_progress_is_told_after_each_task(model, tmp_path):
    calls: list[tuple[int, int]] = []
    recommend_all(
        model, tmp_path / "x.parquet", K, executor=PicklingExecutor(), progress=lambda *call: calls.append(call)
    )
    assert calls == [(min(stop, N_USERS), N_USERS) for stop in range(7, N_USERS + 7, 7)]


@pytest.mark.parametrize("array", [np.arange(30, dtype=np.int64), np.arange(60, dtype=np.float32).reshape(20, 3)])
@pytest.mark.parametrize("is_remote", [False, True])
def test_rows_of_a_file_are_read_as_they_are_asked_for(tmp_path, array, is_remote):
    folder = remote_folder(tmp_path) if is_remote else Folder.at(tmp_path)
    write_array(folder, "x.npy", array)
    rows = ArrayRows.open(folder, "x.npy")
    assert (rows.shape, rows.dtype) == (array.shape, array.dtype)
    for start, stop in ((0, len(array)), (3, 9), (4, 4), (len(array) - 1, len(array))):
        found = rows.read(start, stop)
        np.testing.assert_array_equal(found, array[start:stop])
        assert not found.flags.writeable


def test_a_remote_file_that_has_become_shorter_is_a_data_error(tmp_path):
    folder = remote_folder(tmp_path)
    write_array(folder, "x.npy", np.arange(30))
    rows = ArrayRows.open(folder, "x.npy")
    path = tmp_path / "bucket/model/x.npy"
    path.write_bytes(path.read_bytes()[:-5])
    assert rows.read(0, 29).tolist() == list(range(29))
    with pytest.raises(DataError, match=r"x.npy: ends before row 30 of 30"):
        rows.read(0, 30)


@pytest.mark.parametrize("content", [b"", b"PAR1 is not NumPy", b"\x93NUMPY\x01\x00"])
def test_a_remote_file_that_is_not_numpy_is_a_data_error(tmp_path, content):
    folder = remote_folder(tmp_path)
    folder.write_bytes("x.npy", content)
    with pytest.raises(DataError, match=r"x.npy: not a readable NumPy file"):
        ArrayRows.open(folder, "x.npy")
    np.save(tmp_path / "bucket/model/x.npy", np.asfortranarray(np.ones((3, 2))))
    with pytest.raises(DataError, match="expected plain numbers in C order"):
        ArrayRows.open(folder, "x.npy")
