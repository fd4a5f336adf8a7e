"""A model with so many items that an index is of use: their factors differ in length as popular and rare ones do."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from rgals.artifact.model import Model
from rgals.artifact.model_writer import write_model
from rgals.data.ids import IdDictionary
from rgals.numerics.sparse import InteractionRows
from tests.artifact.model_factory import LOSS

N_USERS, N_ITEMS, N_FACTORS = 120, 3000, 16


def write_catalog(folder: Path, seed: int = 0) -> Model:
    rng = np.random.default_rng(seed)
    lengths = rng.gamma(2.0, 0.5, (N_ITEMS, 1))
    user_rows = np.repeat(np.arange(N_USERS), 12)
    item_rows = np.concatenate([rng.choice(N_ITEMS, 12, replace=False) for _ in range(N_USERS)])
    return write_model(
        folder,
        user_factors=rng.normal(0, 1, (N_USERS, N_FACTORS)).astype(np.float32),
        item_factors=(lengths * rng.normal(0, 1, (N_ITEMS, N_FACTORS))).astype(np.float32),
        user_ids=IdDictionary.from_values(pa.array(range(N_USERS))),
        item_ids=IdDictionary.from_values(pa.array(range(N_ITEMS))),
        seen=InteractionRows.from_pairs(user_rows, item_rows, None, N_USERS, N_ITEMS),
        loss=LOSS,
        weight_scale=1.0,
        item_degrees=np.bincount(item_rows, minlength=N_ITEMS),
        config={},
        metrics={},
        lineage={},
    )
