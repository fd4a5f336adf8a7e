"""Small datasets with chosen parts, and plain models over them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rgals.data.dataset import Dataset, DatasetWriter
from rgals.data.ids import IdDictionary
from rgals.data.splits import PART_NAMES
from rgals.data.storage import new_folder
from rgals.names import BoolArray, Factors, Offsets
from rgals.numerics.sparse import InteractionRows

Pairs = list[tuple[int, int]]


def make_ids(prefix: str, count: int, first: int = 0) -> IdDictionary:
    return IdDictionary.from_values(pa.array([f"{prefix}{row:05d}" for row in range(first, first + count)]))


def write_dataset(
    path: Path,
    n_users: int,
    n_items: int,
    parts: Mapping[str, Pairs],
    weight_of: Callable[[int, int], float] = lambda user, item: 1.0,
    n_shards: int | None = None,
) -> Dataset:
    with new_folder(path) as staged:
        writer = DatasetWriter(
            staged, make_ids("u", n_users), make_ids("i", n_items), n_shards, path.with_name("scratch")
        )
        for part, pairs in parts.items():
            users, items = (np.array(side, dtype=np.int64) for side in zip(*pairs, strict=True))
            weights = np.array([weight_of(user, item) for user, item in pairs])
            writer.add(PART_NAMES.index(part), users, items, weights, None)  # type: ignore[arg-type]
        writer.finish()
    return Dataset.open(path)


def random_parts(n_users: int, n_items: int, names: Mapping[str, float], seed: int = 0) -> dict[str, Pairs]:
    """Give each part its share of all pairs; no pair is in two parts."""
    draws = np.random.default_rng(seed).random((n_users, n_items))
    parts: dict[str, Pairs] = {}
    low = 0.0
    for name, share in names.items():
        users, items = np.nonzero((draws >= low) & (draws < low + share))
        parts[name] = list(zip(users.tolist(), items.tolist(), strict=True))
        low += share
    return parts


@dataclass
class PlainModel:
    """Scores by the products of given factors; folds in by the sum of the items' factors."""

    user_factors: Factors
    item_factors: Factors
    name: str = "plain"
    train_s: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    is_known_item: BoolArray | None = None
    folded_in: list[InteractionRows] = field(default_factory=list)

    def user_factors_of(self, user_rows: Offsets) -> Factors:
        return self.user_factors[user_rows]

    def fold_in(self, rows: InteractionRows, n_threads: int) -> Factors:
        self.folded_in.append(rows)
        return (rows.to_scipy() @ self.item_factors).astype(np.float32)


def whole_numbered(n_users: int, n_items: int, name: str = "plain", seed: int = 0) -> PlainModel:
    """Factors whose products are exact in float32."""
    generator = np.random.default_rng(seed)
    return PlainModel(
        generator.integers(1, 4, (n_users, 3)).astype(np.float32),
        generator.integers(-3, 4, (n_items, 3)).astype(np.float32),
        name,
    )
