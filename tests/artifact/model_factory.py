"""Small models for tests: whole-numbered factors, so that products are exact and ties are common."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rgals.artifact.model import Model
from rgals.artifact.model_writer import write_model
from rgals.data.ids import IdDictionary
from rgals.data.storage import Folder
from rgals.numerics.loss import Loss
from rgals.numerics.sparse import InteractionRows

LOSS = Loss("rg2", alpha=2.0, reg=0.1)


@dataclass
class Parts:
    """What `write_model` takes, before it is written."""

    n_users: int = 7
    n_items: int = 11
    n_factors: int = 3
    seed: int = 0
    kind: str = "string"
    has_weights: bool = False
    density: float = 0.3
    empty_users: tuple[int, ...] = ()
    loss: Loss = LOSS
    changes: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        rng = np.random.default_rng(self.seed)
        is_seen = rng.random((self.n_users, self.n_items)) < self.density
        is_seen[list(self.empty_users)] = False
        user_rows, item_rows = np.nonzero(is_seen)
        weights = rng.integers(1, 4, user_rows.size) if self.has_weights else None
        seen = InteractionRows.from_pairs(user_rows, item_rows, weights, self.n_users, self.n_items)
        return {
            "user_factors": rng.integers(-3, 4, (self.n_users, self.n_factors)).astype(np.float32),
            "item_factors": rng.integers(-2, 3, (self.n_items, self.n_factors)).astype(np.float32),
            "user_ids": make_ids("user", self.kind, self.n_users),
            "item_ids": make_ids("item", self.kind, self.n_items),
            "seen": seen,
            "loss": self.loss,
            "weight_scale": 1.0,
            "item_degrees": is_seen.sum(axis=0).astype(np.int64),
            "config": {"n_factors": self.n_factors, "seed": self.seed},
            "metrics": {"train_s": 1.5, "history": [{"sweep": 1, "ndcg@20": 0.25}]},
            "lineage": {"dataset": "abc"},
            **self.changes,
        }

    def write(self, location: "str | Path | Folder", *, overwrite: bool = False) -> Model:
        return write_model(location, **self.arguments(), overwrite=overwrite)


def make_ids(prefix: str, kind: str, count: int) -> IdDictionary:
    """Ids in row order: ``user-000``..., with a letter beyond ASCII, or 5, 15, 25, ..."""
    values = (
        [5 + 10 * row for row in range(count)] if kind == "int64" else [f"{prefix}-é{row:03d}" for row in range(count)]
    )
    return IdDictionary.from_values(pa.array(values))


def ids_of(dictionary: IdDictionary) -> list[Any]:
    return list(dictionary.values.to_pylist())


def brute_force_list(scores: "np.ndarray[Any, Any]", allowed: set[int], k: int) -> list[tuple[int, float]]:
    """The contract in one line: the allowed rows by falling score, equals by row."""
    return sorted(((row, float(scores[row])) for row in allowed), key=lambda pair: (-pair[1], pair[0]))[:k]
