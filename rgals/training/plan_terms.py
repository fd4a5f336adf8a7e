"""The terms of a plan: each one is a function of what is asked, and its docstring is its formula.

``docs/scaling.md`` gives the reasons. In the formulas, U and I are the rows of both sides, n the
interactions, d the factors, W the workers, N the nodes; sizes are in bytes.
"""

import math

from rgals.names import Side
from rgals.training.plan_input import IMBALANCE, PlanInput

__all__ = [
    "best_sweep_bytes",
    "block_buffer_bytes",
    "busiest_share",
    "checkpoint_bytes",
    "dataset_disk_bytes",
    "decoding_bytes",
    "entries_bytes",
    "entries_in_work_bytes",
    "factor_bytes",
    "fixed_side_bytes",
    "former_side_bytes",
    "hottest_row",
    "ids_bytes",
    "model_disk_bytes",
    "model_writing_bytes",
    "n_entries",
    "n_scores",
    "network_bytes",
    "new_side_bytes",
    "new_side_in_process_bytes",
    "process_bytes",
    "resident_bytes",
    "row_bytes",
    "shard_bytes",
    "spare_store_bytes",
    "stored_factors_bytes",
    "stored_rows_bytes",
    "tile_bytes",
    "watched_items_bytes",
    "window_bytes",
]

BASE_BYTES = 400_000_000
"""A process with Python, NumPy, Numba, pyarrow and compiled kernels, before any data."""

ID_BYTES = 24
"""An id of some 16 characters and its offset."""

DRIVER_ROW_BYTES = 40
"""Degree, sum of weights, background, ridge and degree factor of a row, 8 each."""

BLOCKS_UNDER_WAY = 4
"""Blocks that a worker receives at a time."""

DECODING_COPIES = 3
"""Size of a shard while it is read, over its size afterwards."""

SPILL_FRACTION = 0.8
"""Ray begins to move objects to disk when its store is filled to this fraction."""

HOTTEST_FRACTION = 0.1
"""Fraction of the users that the most popular item is taken to have met, where nobody says."""

ENTRY_BYTES = 12
"""An entry of a re-expanded row: its column, its curvature and its linear weight."""

DATASET_ENTRY_BYTES = 6
"""An interaction in the dataset, by user and by item, compressed, without its weight."""

SIDES: tuple[Side, Side] = ("user", "item")


def process_bytes() -> int:
    """400 MB: Python, its libraries and the compiled kernels."""
    return BASE_BYTES


def shard_bytes(n_interactions: int, n_rows: int, has_weights: bool) -> int:
    """4 n + 8 rows, + 4 n with weights: columns, offsets and weights of interactions in memory."""
    return (8 if has_weights else 4) * n_interactions + 8 * n_rows


def resident_bytes(asked: PlanInput) -> int:
    """1.25 / W of (8 n + 8 (U + I)), + 8 n with weights: its share of both sides' shards; all with one worker."""
    share = min(1.0, IMBALANCE / asked.n_workers)
    total = 0
    for side, n_rows in zip(SIDES, (asked.n_users, asked.n_items), strict=True):
        whole = shard_bytes(asked.n_interactions, n_rows, asked.has_weights)
        total += max(math.ceil(whole * share), _largest_shard_bytes(asked, side))
    return total


def fixed_side_bytes(asked: PlanInput) -> int:
    """max(U, I) d 4: the larger side, rotated, whole in each worker while the smaller one is solved."""
    return asked.largest_side * asked.n_factors * 4


def block_buffer_bytes(asked: PlanInput) -> int:
    """2 blocks: a task's starting point and its result, of the largest shard."""
    return 2 * _largest_block_bytes(asked)


def decoding_bytes(asked: PlanInput) -> int:
    """3 shards: the largest, while it is read from its file."""
    return DECODING_COPIES * max(_largest_shard_bytes(asked, side) for side in SIDES)


def factor_bytes(asked: PlanInput) -> int:
    """(U + I) d 4: the factors of both sides."""
    return (asked.n_users + asked.n_items) * asked.n_factors * 4


def stored_factors_bytes(asked: PlanInput) -> int:
    """(U + I) d 4 / N: a node's share of the blocks of both sides."""
    return _per_node(asked, factor_bytes(asked))


def new_side_bytes(asked: PlanInput) -> int:
    """max(U, I) d 4 / N: a node's share of the new blocks of the side being solved, beside the old ones."""
    return _per_node(asked, fixed_side_bytes(asked))


def new_side_in_process_bytes(asked: PlanInput) -> int:
    """min(U, I) d 4: in one process, the new blocks of the side whose fixed side is the larger one."""
    return min(asked.n_users, asked.n_items) * asked.n_factors * 4


def best_sweep_bytes(asked: PlanInput) -> int:
    """(U + I) d 4 / N with patience, else 0: a node's share of the best validated sweep."""
    return stored_factors_bytes(asked) if asked.keeps_best else 0


def window_bytes(asked: PlanInput) -> int:
    """4 blocks / worker: the largest, on their way from other nodes; 1 on a single node, a result being stored."""
    n_blocks = BLOCKS_UNDER_WAY if asked.n_nodes > 1 else 1
    return n_blocks * asked.workers_per_node * _largest_block_bytes(asked)


def stored_rows_bytes(asked: PlanInput) -> int:
    """40 (U + I): the driver's numbers of each row, sent to the workers; 24 of them where the driver is not."""
    return DRIVER_ROW_BYTES * (asked.n_users + asked.n_items)


def spare_store_bytes(filled_bytes: int) -> int:
    """1/4 of the rest: Ray moves objects to disk when its store is filled to 80%."""
    return math.ceil(filled_bytes * (1 / SPILL_FRACTION - 1))


def row_bytes(asked: PlanInput) -> int:
    """40 (U + I): degrees, sums of weights, backgrounds, ridges, degree factors."""
    return DRIVER_ROW_BYTES * (asked.n_users + asked.n_items)


def watched_items_bytes(asked: PlanInput) -> int:
    """I d 4: the item factors, to rank and to monitor with."""
    return asked.n_items * asked.n_factors * 4


def ids_bytes(asked: PlanInput) -> int:
    """24 (U + I): the id dictionaries, read to write the model."""
    return ID_BYTES * (asked.n_users + asked.n_items)


def model_writing_bytes(asked: PlanInput) -> int:
    """3 blocks + 3 shards: the largest; the model is written piece by piece."""
    return 3 * _largest_block_bytes(asked) + DECODING_COPIES * _largest_shard_bytes(asked, "user")


def dataset_disk_bytes(asked: PlanInput) -> int:
    """6 n + 24 (U + I), + 8 n with weights: shards of both sides and the dictionaries; 0 if they are there."""
    if asked.dataset_bytes is not None:
        return 0
    return (DATASET_ENTRY_BYTES + (8 if asked.has_weights else 0)) * asked.n_interactions + ids_bytes(asked)


def checkpoint_bytes(asked: PlanInput) -> int:
    """(kept + 1) (U + I) d 4, twice with patience: the checkpoints, and one that is being written."""
    return (asked.keep_checkpoints + 1) * factor_bytes(asked) * (2 if asked.keeps_best else 1)


def model_disk_bytes(asked: PlanInput) -> int:
    """(U + I) (4 d + 24) + 4 n + 8 U + 8 I, + 4 n with weights: factors, ids, the interactions to leave out."""
    seen = shard_bytes(asked.n_interactions, asked.n_users, asked.has_weights) + 8 * asked.n_items
    return factor_bytes(asked) + ids_bytes(asked) + seen


def entries_bytes(asked: PlanInput) -> int:
    """24 (n + U H) + U d 4 under rg-softmax, 12 more on Ray, over N: entries by user and by item, and slopes."""
    if asked.n_hard is None:
        return 0
    copies = 2 if asked.is_in_process else 3
    entries = ENTRY_BYTES * copies * n_entries(asked)
    return _per_node(asked, entries + asked.n_users * asked.n_factors * 4)


def former_side_bytes(asked: PlanInput) -> int:
    """max(U, I) d 4 under rg-softmax: the users as they stood, beside the new ones, while the items are solved."""
    return 0 if asked.n_hard is None else fixed_side_bytes(asked)


def entries_in_work_bytes(asked: PlanInput) -> int:
    """24 (n + U H) 1.25 / shards under rg-softmax: the entries of one shard, as they come and joined."""
    if asked.n_hard is None:
        return 0
    n_shards = min(asked.shards(side).n_shards for side in SIDES)
    share = 1.0 if n_shards == 1 else IMBALANCE / n_shards
    return math.ceil(2 * ENTRY_BYTES * n_entries(asked) * share)


def tile_bytes(asked: PlanInput) -> int:
    """CPUs (2 MB + 1 KB (4 H + 128)) under rg-softmax: tiles of scores, buffers of hard negatives."""
    if asked.n_hard is None:
        return 0
    return asked.worker_cpus * ((1 << 21) + 1024 * (4 * asked.n_hard + 128))


def n_scores(asked: PlanInput) -> int:
    """2 U I F under rg-softmax: scores that the passes of a sweep look at, F being the pass_fraction."""
    if asked.n_hard is None:
        return 0
    return math.ceil(2 * asked.n_users * asked.n_items * asked.pass_fraction)


def n_entries(asked: PlanInput) -> int:
    """U H + n: observed entries and hard negatives of all users, no more than there are items."""
    n_hard = 0 if asked.n_hard is None else min(asked.n_hard, asked.n_items)
    return asked.n_interactions + asked.n_users * n_hard


def network_bytes(asked: PlanInput) -> int:
    """(U + I) d 4 (1 - 1/N): what each node receives in a sweep, each side once, less its own share.

    Under rg-softmax each side comes twice, and the entries once: 12 (n + U H) / N.
    """
    sent = factor_bytes(asked)
    if asked.n_hard is not None:
        sent = 2 * sent + ENTRY_BYTES * n_entries(asked) // asked.n_nodes
    return sent - sent // asked.n_nodes


def busiest_share(asked: PlanInput, side: Side) -> float:
    """ceil(shards / W) / shards: share of a side's shards that the busiest worker solves."""
    n_shards = asked.shards(side).n_shards
    return math.ceil(n_shards / asked.n_workers) / n_shards


def hottest_row(asked: PlanInput) -> int:
    """U / 10, at most n, unless given: interactions of the row with most of them."""
    if asked.hottest_row is not None:
        return asked.hottest_row
    return min(asked.n_interactions, math.ceil(asked.n_users * HOTTEST_FRACTION))


def _largest_block_bytes(asked: PlanInput) -> int:
    return max(asked.shards(side).largest_rows for side in SIDES) * asked.n_factors * 4


def _largest_shard_bytes(asked: PlanInput, side: Side) -> int:
    shape = asked.shards(side)
    return shard_bytes(shape.largest_interactions, shape.largest_rows, asked.has_weights)


def _per_node(asked: PlanInput, n_bytes: int) -> int:
    return math.ceil(n_bytes / asked.n_nodes)
