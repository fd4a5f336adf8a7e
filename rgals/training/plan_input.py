"""What a plan is asked for: sizes, workers, options."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rgals.data.shards import ShardRange, default_shard_count
from rgals.errors import InputError
from rgals.names import Side
from rgals.numerics.pairwise import BLOCK_ROWS

__all__ = ["IMBALANCE", "PlanInput", "ShardShape"]

IMBALANCE = 1.25
"""How much more than the mean the largest shard, or the fullest worker, is taken to hold."""


@dataclass(frozen=True, slots=True)
class ShardShape:
    """How one side is cut into shards.

    Parameters
    ----------
    n_shards : int
        Number of shards, at least 1.
    largest_rows, largest_interactions : int
        Rows of the shard with most rows, interactions of the shard with most interactions.
    """

    n_shards: int
    largest_rows: int
    largest_interactions: int

    @classmethod
    def of(cls, ranges: Sequence[ShardRange]) -> "ShardShape":
        """Take the shape from ranges that are there."""
        return cls(len(ranges), max(one.n_rows for one in ranges), max(one.n_interactions for one in ranges))

    @classmethod
    def expected(cls, n_rows: int, n_interactions: int, n_shards: int | None = None) -> "ShardShape":
        """Expect what ``rgals ingest`` would write.

        Parameters
        ----------
        n_rows, n_interactions : int
            Of the side.
        n_shards : int or None
            Wanted number; None: see `rgals.data.shards.default_shard_count`. There are never more than
            blocks of 512 rows.
        """
        wanted = n_shards or default_shard_count(n_interactions)
        n_shards = min(wanted, math.ceil(n_rows / BLOCK_ROWS))
        spread = IMBALANCE if n_shards > 1 else 1.0
        rows, interactions = (min(n, math.ceil(n / n_shards * spread)) for n in (n_rows, n_interactions))
        return cls(n_shards, rows, interactions)


@dataclass(frozen=True, slots=True)
class PlanInput:
    """What is to be trained, and on what.

    Parameters
    ----------
    n_users, n_items, n_interactions : int
        Rows of both sides and training interactions.
    n_factors : int
        Length of a row's factors.
    n_workers : int
        Workers; each is one process.
    worker_cpus : int
        Threads of each worker.
    n_nodes : int
        Machines that the workers are spread over evenly.
    has_weights : bool
        Whether interactions have weights, stored or made from degrees.
    keeps_best : bool
        Whether the best validated sweep is kept beside the last (``patience``).
    keep_checkpoints : int
        Checkpoints that are kept; one more is there while it is written.
    n_sweeps : int
        Sweeps.
    user_shards, item_shards : ShardShape or None
        How the sides are cut; None expects what ``rgals ingest`` writes.
    dataset_bytes : int or None
        Size of a dataset that is on disk already; None plans room for it.
    hottest_row : int or None
        Interactions of the row with most of them; None takes a tenth of the users.
    n_hard : int or None
        Hard negatives of each user under ``rg-softmax``; None: another loss.
    pass_fraction : float
        Share of the scores that a pass of ``rg-softmax`` looks at.
    start_sweeps : int
        First sweeps of ``rg-softmax``, which are those of another loss.
    sampled_sweeps : int or None
        Expanded sweeps for which ``pass_fraction`` holds; None: all.
    is_in_process : bool
        Whether the one worker is the calling process, without Ray.

    Raises
    ------
    InputError
        If a number is below 1 (0 for ``keep_checkpoints``), there are more nodes than workers, or several
        workers in one process.
    """

    n_users: int
    n_items: int
    n_interactions: int
    n_factors: int
    n_workers: int = 1
    worker_cpus: int = 1
    n_nodes: int = 1
    has_weights: bool = False
    keeps_best: bool = False
    keep_checkpoints: int = 2
    n_sweeps: int = 8
    user_shards: ShardShape | None = None
    item_shards: ShardShape | None = None
    dataset_bytes: int | None = None
    hottest_row: int | None = None
    n_hard: int | None = None
    pass_fraction: float = 1.0
    start_sweeps: int = 0
    sampled_sweeps: int | None = None
    is_in_process: bool = False

    def __post_init__(self) -> None:
        names = ("n_users", "n_items", "n_interactions", "n_factors", "n_workers", "worker_cpus", "n_nodes", "n_sweeps")
        for name in names:
            if getattr(self, name) < 1:
                raise InputError(f"plan: {name}: expected at least 1, found {getattr(self, name)}")
        if self.n_hard is not None and self.n_hard < 0:
            raise InputError(f"plan: n_hard: expected at least 0, found {self.n_hard}")
        if not 0 < self.pass_fraction <= 1:
            raise InputError(f"plan: pass_fraction: expected above 0 and at most 1, found {self.pass_fraction}")
        if self.keep_checkpoints < 0:
            raise InputError(f"plan: keep_checkpoints: expected at least 0, found {self.keep_checkpoints}")
        if self.n_nodes > self.n_workers:
            raise InputError(
                f"plan: expected at least one worker for each node, found {self.n_workers} workers on {self.n_nodes} "
                "nodes; ask for more workers or fewer nodes"
            )
        if self.is_in_process and self.n_workers > 1:
            raise InputError(
                f"plan: expected 1 worker without Ray, found {self.n_workers}; plan for the executor ray, or one worker"
            )

    @property
    def workers_per_node(self) -> int:
        """Workers on the fullest node."""
        return math.ceil(self.n_workers / self.n_nodes)

    @property
    def largest_side(self) -> int:
        """Rows of the larger side."""
        return max(self.n_users, self.n_items)

    def shards(self, side: Side) -> ShardShape:
        """Give how a side is cut."""
        if side == "user":
            return self.user_shards or ShardShape.expected(self.n_users, self.n_interactions)
        return self.item_shards or ShardShape.expected(self.n_items, self.n_interactions)
