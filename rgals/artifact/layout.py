"""The names in a model folder, and the format version; ``docs/model-format.md`` describes each file."""

__all__ = [
    "CONFIG",
    "FOLD_IN_BASIS",
    "FOLD_IN_EIGENVALUES",
    "FOLD_IN_GRAM",
    "FOLD_IN_LINEAR",
    "FORMAT_VERSION",
    "ITEM_FACTORS",
    "ITEM_IDS",
    "KIND",
    "LINEAGE",
    "METRICS",
    "POPULARITY",
    "SEEN_COLUMNS",
    "SEEN_INDPTR",
    "SEEN_WEIGHTS",
    "USER_FACTORS",
    "USER_IDS",
]

KIND = "model"
"""What the manifest calls a model folder."""

FORMAT_VERSION = 1
"""Raised by every change that an older rgals would misread."""

USER_FACTORS = "user_factors.npy"
ITEM_FACTORS = "item_factors.npy"
USER_IDS = "user_ids.parquet"
ITEM_IDS = "item_ids.parquet"
SEEN_INDPTR = "seen_indptr.npy"
SEEN_COLUMNS = "seen_columns.npy"
SEEN_WEIGHTS = "seen_weights.npy"
POPULARITY = "popularity.npy"
CONFIG = "config.json"
METRICS = "metrics.json"
LINEAGE = "lineage.json"

FOLD_IN_GRAM = "fold_in/gram.npy"
FOLD_IN_BASIS = "fold_in/basis.npy"
FOLD_IN_EIGENVALUES = "fold_in/eigenvalues.npy"
FOLD_IN_LINEAR = "fold_in/linear.npy"
