"""Shard plans and interactions in memory."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgals.data.shards import ROW_COST, InMemoryInteractions, ShardRange, plan_shards
from rgals.numerics.pairwise import BLOCK_ROWS
from rgals.numerics.sparse import InteractionRows


@st.composite
def degree_lists(draw):
    """Degrees of up to a few thousand rows, with runs of the idle and of the busy."""
    runs = draw(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 50)), max_size=8))
    return np.repeat(
        np.array([degree for _, degree in runs], dtype=np.int64), np.array([n for n, _ in runs], dtype=np.int64)
    )


@given(degree_lists(), st.integers(1, 40))
def test_a_plan_covers_each_row_once_in_order_from_block_starts(degrees, n_shards):
    plan = plan_shards(degrees, n_shards)
    assert plan[0].start == 0
    assert plan[-1].stop == degrees.size
    assert all(left.stop == right.start for left, right in itertools.pairwise(plan))
    assert all(shard.start % BLOCK_ROWS == 0 for shard in plan)
    assert 1 <= len(plan) <= n_shards
    assert degrees.size == 0 or all(shard.n_rows > 0 for shard in plan)
    for shard in plan:
        assert shard.n_interactions == degrees[shard.start : shard.stop].sum()


@given(degree_lists(), st.integers(1, 12))
def test_no_shard_costs_more_than_its_share_and_two_blocks(degrees, n_shards):
    plan = plan_shards(degrees, n_shards)
    costs = degrees + ROW_COST
    blocks = [costs[start : start + BLOCK_ROWS].sum() for start in range(0, degrees.size, BLOCK_ROWS)]
    n_wanted = min(n_shards, max(len(blocks), 1))
    for shard in plan:
        assert costs[shard.start : shard.stop].sum() <= costs.sum() / n_wanted + 2 * max(blocks, default=0)


def test_even_rows_give_the_wanted_number_of_even_shards():
    plan = plan_shards(np.full(16 * BLOCK_ROWS, 3, dtype=np.int64), 4)
    assert [(shard.start, shard.stop) for shard in plan] == [
        (4 * part * BLOCK_ROWS, 4 * (part + 1) * BLOCK_ROWS) for part in range(4)
    ]


def test_busy_rows_share_their_shard_with_few():
    degrees = np.ones(8 * BLOCK_ROWS, dtype=np.int64)
    degrees[:BLOCK_ROWS] = 1000
    plan = plan_shards(degrees, 2)
    assert (plan[0].start, plan[0].stop) == (0, BLOCK_ROWS)


def test_many_idle_rows_weigh_as_much_as_few_busy_ones():
    # One block with 50 times the row cost in interactions, 52 blocks without any: cut in the middle of the work.
    degrees = np.zeros(53 * BLOCK_ROWS, dtype=np.int64)
    degrees[:BLOCK_ROWS] = 50 * ROW_COST
    plan = plan_shards(degrees, 2)
    assert [shard.stop // BLOCK_ROWS for shard in plan] == [2, 53]


@pytest.mark.parametrize("n_rows", [0, 1, BLOCK_ROWS])
def test_few_rows_are_one_shard(n_rows):
    assert plan_shards(np.ones(n_rows, dtype=np.int64), 8) == (ShardRange(0, n_rows, n_rows),)


def test_more_than_31_bits_of_interactions_are_counted():
    degrees = np.full(2 * BLOCK_ROWS, 2**30, dtype=np.int64)
    plan = plan_shards(degrees, 2)
    assert [shard.n_interactions for shard in plan] == [BLOCK_ROWS << 30] * 2


def make_source(n_shards, n_users=1500, n_items=1100):
    random = np.random.default_rng(0)
    pairs = random.permutation(n_users * n_items)[:5000]
    rows = InteractionRows.from_pairs(pairs // n_items, pairs % n_items, random.random(5000) + 0.5, n_users, n_items)
    return rows, InMemoryInteractions(rows, n_shards)


@pytest.mark.parametrize("n_shards", [1, 2, 3])
def test_shards_in_memory_together_are_the_interactions(n_shards):
    rows, source = make_source(n_shards)
    assert (source.n_users, source.n_items, source.n_interactions) == (1500, 1100, 5000)
    for side, whole in (("user", rows), ("item", rows.transpose())):
        assert len(source.shard_ranges(side)) == n_shards
        shards = [source.load_shard(side, index) for index in range(n_shards)]
        assert np.concatenate([shard.columns for shard in shards]).tolist() == whole.columns.tolist()
        assert np.concatenate([shard.weights for shard in shards]).tolist() == whole.weights.tolist()
        assert np.concatenate([shard.degrees for shard in shards]).tolist() == whole.degrees.tolist()
        assert all(
            np.shares_memory(shard.columns, source.load_shard(side, index).columns)
            for index, shard in enumerate(shards)
        )


def test_the_fingerprint_in_memory_follows_the_interactions_and_not_the_shards():
    rows, source = make_source(1)
    assert source.fingerprint == make_source(3)[1].fingerprint
    heavier = InteractionRows(rows.indptr, rows.columns, rows.weights * 2, rows.n_columns)
    plain = InteractionRows(rows.indptr, rows.columns, None, rows.n_columns)
    wider = InteractionRows(rows.indptr, rows.columns, rows.weights, rows.n_columns + 1)
    others = {InMemoryInteractions(other).fingerprint for other in (heavier, plain, wider)}
    assert len(others) == 3
    assert source.fingerprint not in others
