"""Judges that have made up their mind, and models of known quality over a small dataset."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rgals.artifact.model import Model
from rgals.artifact.model_writer import write_model
from rgals.artifact.registry_records import Estimate, Judgement
from rgals.data.dataset import Dataset
from rgals.numerics.loss import Loss
from rgals.numerics.sparse import InteractionRows
from tests.evaluation.problems import Pairs, make_ids, random_parts, write_dataset

N_USERS, N_ITEMS = 60, 30
LOSS = Loss("rg2", alpha=1.0, reg=0.1)


def judgement(*reasons: str, **changes: Any) -> Judgement:
    """Numbers of a gate; the reasons decide."""
    found = {
        "metric": "ndcg@20",
        "part": "test",
        "dataset": "dataset",
        "dataset_fingerprint": "f" * 64,
        "n_users": 10,
        "level": 0.95,
        "margin": 0.0,
        "candidate": Estimate(mean=0.3, ci_low=0.25, ci_high=0.35),
        "popularity": Estimate(mean=0.1, ci_low=0.05, ci_high=0.15),
        "over_popularity": Estimate(mean=0.2, ci_low=0.15, ci_high=0.25),
        "n_held_out": 20,
        "n_held_out_known": 0,
        "reasons": reasons,
    }
    return Judgement.model_validate({**found, **changes})


def accept(current: object) -> Judgement:
    return judgement()


def refuse(current: object) -> Judgement:
    return judgement("it is worse")


def planted_parts() -> dict[str, Pairs]:
    """Users like items of their own parity; low items are more popular."""
    parts = random_parts(N_USERS, N_ITEMS, {"train": 0.4, "validation": 0.1, "test": 0.3}, seed=4)
    return {
        name: [(u, i) for u, i in pairs if u % 2 == i % 2 and not (i > 20 and (u + i) % 3)]
        for name, pairs in parts.items()
    }


def planted_dataset(path: Path, **changes: Pairs) -> Dataset:
    return write_dataset(path, N_USERS, N_ITEMS, {**planted_parts(), **changes})


def write_noisy_model(
    path: Path,
    dataset: Dataset,
    noise: float,
    *,
    seed: int = 0,
    fingerprint: str | None = None,
    first_item: int = 0,
    extra_seen: str | None = None,
    item_prefix: str = "i",
    trained_on: Sequence[str] = ("train",),
) -> Model:
    """Score by the parity of user and item, blurred by noise; without noise it is the best there can be."""
    generator = np.random.default_rng(seed)
    items = np.arange(first_item, N_ITEMS)
    item_factors = np.stack(
        [np.where(items % 2 == 0, 1, -1), noise * generator.standard_normal(items.size), -items / 100], axis=1
    )
    parity = np.where(np.arange(N_USERS) % 2 == 0, 1, -1)
    user_factors = np.stack([parity, generator.standard_normal(N_USERS), np.ones(N_USERS)], axis=1)
    pairs = [pair for part in ("train", extra_seen) if part for pair in pairs_of(dataset, part)]
    kept = sorted({(user, item - first_item) for user, item in pairs if item >= first_item})
    users, columns = (np.array(side) for side in zip(*kept, strict=True))
    seen = InteractionRows.from_pairs(users, columns, None, N_USERS, items.size)
    return write_model(
        path,
        user_factors=user_factors.astype(np.float32),
        item_factors=item_factors.astype(np.float32),
        user_ids=dataset.user_ids,
        item_ids=make_ids(item_prefix, items.size, first_item),
        seen=seen,
        loss=LOSS,
        weight_scale=1.0,
        item_degrees=None,
        config={"n_factors": 3},
        metrics={"train_s": 1.0},
        lineage={
            "dataset_fingerprint": fingerprint or dataset.fingerprint,
            "created_at": "2025-01-02T03:04:05+00:00",
            "trained_on": list(trained_on),
        },
    )


def pairs_of(dataset: Dataset, part: str) -> list[tuple[int, int]]:
    rows = dataset.read_part(part)  # type: ignore[arg-type]
    users = np.repeat(np.arange(rows.n_rows), rows.degrees)
    return list(zip(users.tolist(), rows.columns.tolist(), strict=True))
