"""Small datasets for tests: random interactions, written by a `DatasetWriter`, and what must come back."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from rgals.data.dataset import Dataset, DatasetWriter
from rgals.data.ids import IdDictionary
from rgals.data.storage import new_folder
from rgals.numerics.sparse import InteractionRows

__all__ = [
    "N_ITEMS",
    "N_USERS",
    "assert_same",
    "expected_part",
    "file_bytes",
    "make_entries",
    "make_ids",
    "write",
]

N_USERS, N_ITEMS = 1300, 700


def make_entries(n=4000, seed=0, n_users=N_USERS, n_items=N_ITEMS):
    """Random unique pairs with a part each, weights and times."""
    random = np.random.default_rng(seed)
    pairs = random.permutation(n_users * n_items)[:n]
    return {
        "part": random.choice(5, size=n, p=[0.7, 0.1, 0.1, 0.05, 0.05]),
        "user": pairs // n_items,
        "item": pairs % n_items,
        "weight": random.choice([0.5, 1.0, 2.25], size=n),
        "time": random.integers(-(10**15), 10**15, size=n),
    }


def make_ids(n, prefix="i"):
    return IdDictionary.from_values(pa.array([f"{prefix}{number:06d}" for number in range(n)]))


def write(path, entries, *, n_shards=None, batches=1, weights=True, times=True, before=None, n_users=N_USERS, **finish):
    """Write entries in batches and open the dataset."""
    scratch = Path(f"{path}-scratch")
    user_ids = IdDictionary.from_values(pa.array(np.arange(n_users) * 3))
    with new_folder(path) as staged:
        if before is not None:
            before(staged)
        writer = DatasetWriter(staged, user_ids, make_ids(N_ITEMS), n_shards, scratch)
        for batch in np.array_split(np.arange(entries["user"].size), batches):
            for code in range(5):
                mine = batch[entries["part"][batch] == code]
                writer.add(
                    code,
                    entries["user"][mine],
                    entries["item"][mine],
                    entries["weight"][mine] if weights else None,
                    entries["time"][mine] if times else None,
                )
        writer.finish(**finish)
    assert list(scratch.iterdir()) == []
    return Dataset.open(path)


def file_bytes(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_same(rows, expected):
    assert rows.n_rows == expected.n_rows
    assert rows.n_columns == expected.n_columns
    assert rows.indptr.dtype == np.int64
    assert rows.indptr.tolist() == expected.indptr.tolist()
    assert rows.columns.tolist() == expected.columns.tolist()
    if expected.weights is None:
        assert rows.weights is None
    else:
        assert rows.weights.tolist() == expected.weights.tolist()


def expected_part(entries, code, *, weights=True):
    mine = entries["part"] == code
    values = entries["weight"][mine] if weights else None
    return InteractionRows.from_pairs(entries["user"][mine], entries["item"][mine], values, N_USERS, N_ITEMS)
