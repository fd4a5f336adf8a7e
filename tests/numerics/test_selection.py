"""The best of many scores through a buffer, against sorting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgals.numerics.selection import BUFFER_FACTOR, collect_tile, keep_best


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(1, 60), n_best=st.integers(1, 60), n_values=st.integers(1, 9))
def test_the_best_come_to_the_front_equals_by_item(seed: int, count: int, n_best: int, n_values: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, n_values, count).astype(np.float32)
    items = rng.permutation(count).astype(np.int32)
    order = np.lexsort((items, -scores))[: min(n_best, count)]
    expected = sorted(zip(scores[order].tolist(), items[order].tolist(), strict=True))
    keep_best(scores, items, count, min(n_best, count))
    kept = min(n_best, count)
    assert sorted(zip(scores[:kept].tolist(), items[:kept].tolist(), strict=True)) == expected
    assert sorted(items.tolist()) == list(range(count))


@pytest.mark.parametrize("width", [64, 100, 333])
@pytest.mark.parametrize("n_best", [1, 10, 70])
def test_tiles_give_the_best_of_all_but_the_named(width: int, n_best: int) -> None:
    rng = np.random.default_rng(width + n_best)
    n_users, n_items = 4, 1000
    scores = rng.integers(0, 50, (n_users, n_items)).astype(np.float32)
    unwanted = [np.sort(rng.choice(n_items, size, replace=False)).astype(np.int32) for size in (0, 1, 40, n_items - 5)]
    columns = np.concatenate(unwanted)
    ends = np.cumsum([len(one) for one in unwanted])
    cursors = np.concatenate([[0], ends[:-1]])
    n_buffer = BUFFER_FACTOR * n_best + 128
    found_scores = np.empty((n_users, n_buffer), np.float32)
    found_items = np.empty((n_users, n_buffer), np.int32)
    counts, thresholds = np.zeros(n_users, np.int64), np.full(n_users, -np.inf, np.float32)
    for first in range(0, n_items, width):
        tile = scores[:, first : first + width].copy()
        collect_tile(tile, first, columns, cursors, ends, found_scores, found_items, counts, thresholds, n_best)
    for user in range(n_users):
        allowed = np.setdiff1d(np.arange(n_items), unwanted[user])
        order = allowed[np.lexsort((allowed, -scores[user, allowed]))][:n_best]
        if counts[user] > n_best:
            keep_best(found_scores[user], found_items[user], counts[user], n_best)
        kept = min(counts[user], n_best)
        assert sorted(found_items[user, :kept].tolist()) == sorted(order.tolist())
