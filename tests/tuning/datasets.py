"""Datasets to search on."""

import numpy as np

from rgals.data.ingest import IngestOptions, ingest
from rgals.data.splits import SplitRule
from tests.training.runs import planted


def write_held_out_users(folder):
    """Write a dataset whose validation and test users take no part in the training."""
    rows = planted()[0]
    users = np.repeat(np.arange(rows.n_rows), rows.degrees)
    lines = [f"s{user:04d},i{item:03d}" for user, item in zip(users, rows.columns, strict=True)]
    (folder / "events.csv").write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    rule = SplitRule(kind="held-out-users", test_users=80, validation_users=120)
    ingest([folder / "events.csv"], folder / "dataset", IngestOptions(split=rule))
    return folder / "dataset"
