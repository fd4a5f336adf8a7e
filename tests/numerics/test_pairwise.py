"""Sums over rows: bit-identical wherever the shards begin."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgals.numerics.pairwise import SumNode, collapse_nodes, merge_nodes


def leaves(values, first=0):
    """Make a leaf of each block; merging uses values up, so each gets its own copy."""
    return [SumNode(0, first + index, np.array(value, dtype=np.float64)) for index, value in enumerate(values)]


def sum_over_shards(values, boundaries):
    """Sum each shard's blocks by itself, then the shards' nodes."""
    bounds = [0, *sorted(boundaries), len(values)]
    nodes = []
    for start, stop in itertools.pairwise(bounds):
        nodes += merge_nodes(leaves(values[start:stop], start))
    return collapse_nodes(nodes)


numbers = st.floats(-1e12, 1e12, allow_subnormal=False)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=70), st.data())
def test_sums_are_bit_identical_for_any_shard_boundaries(values, data):
    boundaries = data.draw(st.lists(st.integers(0, len(values)), max_size=8))
    whole = collapse_nodes(leaves(values))
    assert sum_over_shards(values, boundaries).tobytes() == whole.tobytes()


def test_sums_of_ill_conditioned_numbers_are_bit_identical_where_running_sums_are_not():
    random = np.random.default_rng(1)
    values = random.normal(size=(1000, 3)) * 10.0 ** random.integers(-8, 9, size=(1000, 1))
    whole = collapse_nodes(leaves(values))
    naive = set()
    for n_shards in range(1, 40):
        boundaries = sorted(random.choice(1000, size=n_shards - 1, replace=False).tolist())
        assert sum_over_shards(values, boundaries).tobytes() == whole.tobytes()
        pieces = [np.add.reduce(piece) for piece in np.split(values, boundaries)]
        naive.add(np.add.reduce(pieces).tobytes())
    assert len(naive) > 1


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=100), st.data())
def test_sums_of_integers_are_exact(values, data):
    boundaries = data.draw(st.lists(st.integers(0, len(values)), max_size=8))
    assert sum_over_shards(values, boundaries) == sum(values)


@given(st.integers(0, 200), st.integers(1, 200))
def test_a_shard_hands_out_few_nodes_that_cover_its_blocks_once(first, n_blocks):
    nodes = merge_nodes(leaves(np.ones(n_blocks), first))
    covered = [block for node in nodes for block in range(node.index << node.level, (node.index + 1) << node.level)]
    assert covered == list(range(first, first + n_blocks))
    assert [float(node.value) for node in nodes] == [2.0**node.level for node in nodes]
    levels = [node.level for node in nodes]
    assert max(levels.count(level) for level in levels) <= 2


@given(st.lists(numbers, min_size=1, max_size=40))
def test_merging_twice_changes_nothing(values):
    once = merge_nodes(leaves(values))
    again = merge_nodes([SumNode(node.level, node.index, node.value.copy()) for node in once])
    assert [(node.level, node.index, float(node.value)) for node in again] == [
        (node.level, node.index, float(node.value)) for node in once
    ]


def test_neighbors_without_a_common_parent_stay_apart():
    nodes = merge_nodes(leaves([1.0, 2.0], first=1))
    assert [(node.level, node.index) for node in nodes] == [(0, 1), (0, 2)]


def test_the_total_is_a_copy_that_the_nodes_do_not_share():
    nodes = leaves([[1.0, 2.0]])
    total = collapse_nodes(nodes)
    total += 5
    assert nodes[0].value.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_values_of_any_shape_are_summed(shape):
    values = np.arange(5 * int(np.prod(shape))).reshape(5, *shape).astype(np.float64)
    assert (collapse_nodes(leaves(values)) == values.sum(axis=0)).all()
