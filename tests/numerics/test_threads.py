"""Blocks over threads, and one BLAS thread inside."""

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from rgals.numerics.threads import available_threads, run_blocks


def blas_threads() -> set[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return {entry["num_threads"] for entry in threadpool_info() if entry["user_api"] == "blas"}


@pytest.mark.parametrize("n_threads", [1, 3])
def test_results_come_in_the_order_of_the_blocks(n_threads: int) -> None:
    assert run_blocks(lambda block: block * block, [5, 1, 4, 2], n_threads) == [25, 1, 16, 4]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_inside_there_is_one_blas_thread_and_outside_as_many_as_before(n_threads: int) -> None:
    before = blas_threads()
    assert run_blocks(lambda _: blas_threads(), [0, 1, 2], n_threads) == [{1}] * 3
    assert blas_threads() == before


def test_overlapping_calls_do_not_restore_each_others_limit() -> None:
    before = blas_threads()
    first_is_inside, first_may_leave = threading.Event(), threading.Event()
    found: list[set[int]] = []

    def hold(_: int) -> None:
        first_is_inside.set()
        first_may_leave.wait(10)

    def look(_: int) -> None:
        first_may_leave.set()
        holder.join(10)
        found.append(blas_threads())

    holder = threading.Thread(target=run_blocks, args=(hold, [0], 1))
    holder.start()
    assert first_is_inside.wait(10)
    run_blocks(look, [0], 1)
    assert found == [{1}]
    assert blas_threads() == before


@pytest.mark.parametrize("n_threads", [1, 2])
def test_the_first_exception_is_raised_and_the_limit_is_lifted(n_threads: int) -> None:
    before = blas_threads()

    def fail(block: int) -> None:
        raise ValueError(f"block {block}")

    with pytest.raises(ValueError, match="block 7"):
        run_blocks(fail, [7, 8], n_threads)
    assert blas_threads() == before


def test_there_is_at_least_one_processor() -> None:
    assert available_threads() >= 1
