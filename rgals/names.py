"""Names that several floors share: sides, parts, array types, file names.

``docs/vocabulary.md`` gives the meaning of each word; this module gives its spelling in code.
"""

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MANIFEST_NAME",
    "SIDES",
    "BoolArray",
    "Factors",
    "Float64Array",
    "IntArray",
    "Offsets",
    "Part",
    "Rows",
    "Side",
    "Weights",
    "other_side",
]

Side: TypeAlias = Literal["user", "item"]
"""The role that indexes the rows: user rows or item rows."""

SIDES: tuple[Side, Side] = ("user", "item")
"""Both sides, in the order in which a sweep solves them."""

Part: TypeAlias = Literal["train", "validation", "test", "validation_fold_in", "test_fold_in"]
"""A part of a dataset. The fold-in parts exist only under the held-out-users split."""

Factors: TypeAlias = NDArray[np.float32]
"""Float32, C order, shape (n_rows, n_factors)."""

Weights: TypeAlias = NDArray[np.float32]
"""Float32, one value per interaction."""

Rows: TypeAlias = NDArray[np.int32]
"""Int32 row numbers of users or items."""

Offsets: TypeAlias = NDArray[np.int64]
"""Int64 positions into arrays of interactions (more than 2^31 of them are allowed)."""

IntArray: TypeAlias = NDArray[np.integer[Any]]
Float64Array: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]

MANIFEST_NAME = "manifest.json"
"""The table of contents of a dataset, a checkpoint or a model; written last."""


def other_side(side: Side) -> Side:
    """Give the side that is fixed while ``side`` is solved."""
    return "item" if side == "user" else "user"
