"""The contract that every executor keeps."""

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rgals.errors import DataError
from rgals.execution import Executor
from tests.execution import tasks


class ExecutorContract:
    """Subclasses give the fixture ``executor``, which may be shared by all tests; every executor passes all of it."""

    def test_results_come_in_the_order_of_the_tasks(self, executor: Executor) -> None:
        assert list(executor.map_ordered(tasks.add, 10, [3, 1, 2])) == [13, 11, 12]

    def test_no_tasks_give_no_results(self, executor: Executor) -> None:
        assert list(executor.map_ordered(tasks.add, 10, [])) == []
        assert list(executor.map_blocks(tasks.fill, 10, [])) == []

    def test_costs_do_not_change_the_order_of_the_results(self, executor: Executor) -> None:
        keys = [("job", key) for key in range(7)]
        found = executor.map_ordered(tasks.add, 0, range(7), keys=keys, costs=[1, 9, 1, 5, 1, 1, 3])
        assert list(found) == list(range(7))

    def test_many_small_tasks(self, executor: Executor) -> None:
        assert list(executor.map_ordered(tasks.add, 1, range(500))) == list(range(1, 501))

    def test_a_task_may_use_the_threads_of_the_executor(self, executor: Executor) -> None:
        assert executor.n_threads >= 1
        assert executor.caller_threads >= 1
        assert executor.n_workers >= 1
        assert set(executor.map_ordered(tasks.threads, None, range(4))) == {executor.n_threads}

    def test_an_exception_is_raised_in_its_place(self, executor: Executor) -> None:
        results = executor.map_ordered(tasks.add, 0, [1, 5, -1, 2])
        assert [next(results), next(results)] == [1, 5]
        with pytest.raises(ValueError, match="negative") as caught:
            next(results)
        assert type(caught.value) is ValueError
        assert str(caught.value) == "negative: -1"
        assert list(executor.map_ordered(tasks.add, 0, [1])) == [1]

    def test_an_exception_of_a_task_with_a_block_is_raised_in_its_place(self, executor: Executor) -> None:
        results = executor.map_blocks(tasks.fill_or_fail, 10, [1.0, -1.0])
        assert next(results).summary == 1.0
        with pytest.raises(DataError, match=r"^a broken shard$") as caught:
            next(results)
        assert type(caught.value) is DataError

    def test_an_exception_of_the_preparation_is_raised(self, executor: Executor) -> None:
        with pytest.raises(DataError, match="nothing to prepare"):
            list(executor.map_ordered(tasks.add, 0, [1, 2], prepare=tasks.fail_to_prepare))

    def test_nothing_of_a_map_that_failed_runs_on(self, executor: Executor, tmp_path: Path) -> None:
        folder = tmp_path / "written"
        folder.mkdir()
        with pytest.raises(OSError, match="the disk is full"):
            list(executor.map_ordered(tasks.write_late, str(folder), range(8)))
        found = sorted(path.name for path in folder.iterdir())
        time.sleep(1.0)
        assert sorted(path.name for path in folder.iterdir()) == found

    def test_an_iterator_may_be_left_early(self, executor: Executor) -> None:
        results = executor.map_ordered(tasks.add, 0, range(50))
        assert next(results) == 0
        results.close()  # type: ignore[attr-defined]
        assert list(executor.map_ordered(tasks.add, 5, range(3))) == [5, 6, 7]

    def test_maps_may_be_under_way_at_the_same_time(self, executor: Executor) -> None:
        one = executor.map_ordered(tasks.add, 0, range(10))
        other = executor.map_ordered(tasks.add, 100, range(10))
        assert [(next(one), next(other)) for _ in range(10)] == [(n, 100 + n) for n in range(10)]

    def test_the_preparation_runs_once_in_each_worker_that_takes_part(self, executor: Executor, tmp_path: Path) -> None:
        for _ in range(2):
            found = list(
                executor.map_ordered(tasks.prepared_path, str(tmp_path), range(12), prepare=tasks.prepare_once)
            )
            calls = Counter(process for _, process in set(found))
            assert set(calls.values()) == {1}
        assert len(list(tmp_path.iterdir())) <= 2 * executor.n_workers

    def test_the_preparation_counts_with_the_first_task_of_a_worker(self, executor: Executor, tmp_path: Path) -> None:
        results = list(executor.map_blocks(tasks.prepared_block, str(tmp_path), range(6), prepare=tasks.prepare_once))
        for worker in {result.worker for result in results}:
            times = [result.prepare_s for result in results if result.worker == worker]
            assert times[0] > 0
            assert times[1:] == [0.0] * (len(times) - 1)
        assert all(result.seconds >= 0 for result in results)

    def test_large_results_stay_as_blocks(self, executor: Executor) -> None:
        results = list(executor.map_blocks(tasks.fill, 100_000, [1.0, 2.0, 3.0]))
        assert [result.summary for result in results] == [1.0, 2.0, 3.0]
        assert [result.block.n_bytes for result in results] == [400_000] * 3
        values = [value[0] for value in executor.fetch_each([result.block for result in results])]
        assert values == [1.0, 2.0, 3.0]
        np.testing.assert_array_equal(executor.fetch(results[1].block), np.full(100_000, 2, np.float32))

    def test_blocks_are_part_of_tasks_and_of_what_they_share(self, executor: Executor) -> None:
        results = list(executor.map_blocks(tasks.fill, 50_000, [1.0, 2.0, 3.0]))
        blocks = [result.block for result in results]
        assert list(executor.map_ordered(tasks.total, None, blocks)) == [50_000, 100_000, 150_000]
        found = list(executor.map_ordered(tasks.totals, blocks[:1], [blocks, [blocks[2], blocks[2]]]))
        assert found == [[50_000, 50_000, 100_000, 150_000], [50_000, 150_000, 150_000]]

    @pytest.mark.parametrize("n_values", [3, 100_000])
    def test_a_value_is_put_and_fetched(self, executor: Executor, n_values: int) -> None:
        block = executor.put(np.arange(n_values, dtype=np.float32))
        assert block.n_bytes == 4 * n_values
        np.testing.assert_array_equal(executor.fetch(block), np.arange(n_values))
        assert list(executor.map_ordered(tasks.total, None, [block])) == [n_values * (n_values - 1) / 2]

    def test_a_block_of_another_executor_is_refused(self, executor: Executor) -> None:
        with pytest.raises(TypeError, match="expected a block of this executor, found str"):
            executor.fetch("block")  # type: ignore[arg-type]

    def test_residents_are_loaded_once_and_their_tasks_come_back_to_them(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        keys = [("residents", key) for key in range(6)]
        for _ in range(3):
            found = list(executor.map_ordered(tasks.resident, (str(tmp_path), "residents"), range(6), keys=keys))
            assert [value for value, _, _ in found] == [f"value of {key}" for key in range(6)]
        # A key may move from a worker that is behind to an idle one, and is loaded there; no process loads it twice
        # unless it has come back.
        assert len(list(tmp_path.iterdir())) < 2 * 6
        executor.release("residents")
        assert executor.on_each_worker(tasks.n_resident, "residents") == [0] * executor.n_workers

    def test_releasing_a_job_leaves_the_others(self, executor: Executor, tmp_path: Path) -> None:
        for owner in ("one", "two"):
            list(executor.map_ordered(tasks.resident, (str(tmp_path), owner), range(4)))
        executor.release("one")
        assert sum(executor.on_each_worker(tasks.n_resident, "one")) == 0
        assert sum(executor.on_each_worker(tasks.n_resident, "two")) >= 4
        executor.release("two")
        executor.release("never seen")

    def test_every_worker_runs_a_function_once(self, executor: Executor) -> None:
        found = executor.on_each_worker(tasks.describe, "shared")
        assert [(shared, position) for shared, position, _, _ in found] == [
            ("shared", position) for position in range(executor.n_workers)
        ]
        assert len({worker for _, _, worker, _ in found}) == executor.n_workers
        assert len({process for _, _, _, process in found}) == executor.n_workers

    def test_an_exception_of_what_every_worker_runs_is_raised(self, executor: Executor) -> None:
        with pytest.raises(FileNotFoundError, match="nonexistent"):
            executor.on_each_worker(tasks.raise_error, "file")
