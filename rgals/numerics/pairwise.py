"""Sums over rows that come out the same for any number of shards, workers and threads.

Floating-point addition is not associative, so a sum of per-shard sums depends on where the shards
begin. Here the rows are cut into blocks of a fixed size, and the blocks are the leaves of one binary
tree that depends on nothing but their number. A shard adds up the subtrees that lie wholly inside it
and hands out their roots; the driver goes on from there. The tree, and so every rounding, is the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rgals.names import Float64Array

__all__ = ["BLOCK_ROWS", "SumNode", "collapse_nodes", "merge_nodes"]

BLOCK_ROWS = 512
"""Rows per leaf. Shards begin at multiples of it."""


@dataclass(frozen=True, slots=True)
class SumNode:
    """The sum over the ``2**level`` blocks that begin at block ``index * 2**level``."""

    level: int
    index: int
    value: Float64Array


def merge_nodes(nodes: Iterable[SumNode]) -> list[SumNode]:
    """Add up neighbors that share a parent, as far as that goes.

    Parameters
    ----------
    nodes : iterable of SumNode
        In ascending order of the blocks that they cover, without a gap. The values of merged nodes
        are used up: the sum is written into the left one where that is possible.

    Returns
    -------
    list of SumNode
        At most two nodes of each level, in order.
    """
    stack: list[SumNode] = []
    for node in nodes:
        merged = node
        while stack and stack[-1].level == merged.level and stack[-1].index + 1 == merged.index and merged.index % 2:
            left = stack.pop()
            # A value that came from another process lies in memory that cannot be written to.
            total = np.add(left.value, merged.value, out=left.value if left.value.flags.writeable else None)
            merged = SumNode(left.level + 1, left.index // 2, total)
        stack.append(merged)
    return stack


def collapse_nodes(nodes: Iterable[SumNode]) -> Float64Array:
    """Give the sum over all blocks.

    Parameters
    ----------
    nodes : iterable of SumNode
        Nodes that cover blocks 0 to the last, in order.

    Returns
    -------
    float64 array
        The total, in a fixed order of additions: the roots that are left over, the last first.
    """
    roots = merge_nodes(nodes)
    total = roots[-1].value.copy()
    for node in reversed(roots[:-1]):
        total += node.value
    return total
