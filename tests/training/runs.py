"""A small planted problem with a validation part, and a short way to train on it."""

import numpy as np

from rgals.data.shards import InMemoryInteractions
from rgals.execution import InProcessExecutor
from rgals.numerics.sparse import InteractionRows
from rgals.training.config import TrainingConfig
from rgals.training.trainer import train

N_USERS, N_ITEMS = 700, 60
"""More users than one block of the pairwise sums holds, so that shards can be cut."""


def planted(seed=0, *, is_weighted=False):
    """Give (train, validation): users of five tastes, one of ten of their interactions held out."""
    generator = np.random.default_rng(seed)
    taste = generator.integers(5, size=N_USERS)
    chances = np.where(np.arange(N_ITEMS)[None] % 5 == taste[:, None], 0.5, 0.05)
    users, items = np.nonzero(generator.random((N_USERS, N_ITEMS)) < chances)
    is_held_out = generator.random(users.size) < 0.1
    weights = generator.uniform(0.5, 2, users.size).astype(np.float32) if is_weighted else None
    parts = []
    for mask in (~is_held_out, is_held_out):
        kept = None if weights is None else weights[mask]
        parts.append(InteractionRows.from_pairs(users[mask], items[mask], kept, N_USERS, N_ITEMS))
    return tuple(parts)


def small_config(**options):
    return TrainingConfig(**{"n_factors": 6, "n_sweeps": 5, "alpha": 1.0, "reg": 0.05, "softmax_users": 0, **options})


def run(config=None, *, rows=None, n_shards=1, n_threads=1, **options):
    source = InMemoryInteractions(planted()[0] if rows is None else rows, n_shards)
    return train(source, config or small_config(), executor=InProcessExecutor(n_threads), **options)


def same_bits(left, right):
    return (
        left.user_factors.tobytes() == right.user_factors.tobytes()
        and left.item_factors.tobytes() == right.item_factors.tobytes()
    )


class StopAfter:
    """Asks a run to stop once so many sweeps are done; listener and question in one."""

    def __init__(self, sweep):
        self.sweep = sweep
        self.events = []

    def __call__(self, event=None):
        if event is not None:
            self.events.append(event)
            return None
        return any(found.kind == "sweep" and found.sweep >= self.sweep for found in self.events)
