"""Write a trained model as a folder: whole or not at all, and never with a number that is not finite."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgals.artifact import layout
from rgals.artifact.model import Model
from rgals.data.arrays import write_array
from rgals.data.ids import IdDictionary
from rgals.data.storage import Folder, new_folder, write_manifest
from rgals.errors import InputError, NumericalError
from rgals.names import Factors, Offsets
from rgals.numerics.fold_in import UserSystem
from rgals.numerics.loss import Loss
from rgals.numerics.sparse import InteractionRows

__all__ = ["factor_checksum", "write_model"]

_BLOCK_ROWS = 1 << 16


def write_model(
    location: str | Path | Folder,
    *,
    user_factors: Factors,
    item_factors: Factors,
    user_ids: IdDictionary,
    item_ids: IdDictionary,
    seen: InteractionRows,
    loss: Loss,
    weight_scale: float,
    item_degrees: Offsets,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    lineage: Mapping[str, Any],
    overwrite: bool = False,
) -> Model:
    """Write a model folder and open it.

    Parameters
    ----------
    location : str, Path or Folder
        Local path or pyarrow filesystem URI of the new folder.
    user_factors, item_factors : float32 arrays of shape (n_users, n_factors), (n_items, n_factors)
        Finite; rows in the order of the dictionaries.
    user_ids, item_ids : IdDictionary
        The ids of the rows.
    seen : InteractionRows
        Training interactions, users by items, with their weights where they have any.
    loss : Loss
        What was minimized.
    weight_scale : float
        Scale of the observed weights in training; fold-in applies the same.
    item_degrees : int64 array of shape (n_items,)
        Training interactions of each item.
    config, metrics, lineage : mapping
        JSON values; NumPy numbers, paths and dataclasses are converted, a number that is not finite
        becomes null. ``config`` is stored together with the loss and the weight scale.
    overwrite : bool
        Whether an rgals folder already there may be replaced.

    Returns
    -------
    Model
        The folder, opened; its checksums were computed just now and are not verified again.

    Raises
    ------
    NumericalError
        If a factor is NaN or infinite; nothing is written.
    InputError
        If the shapes or types do not fit together, or a record holds something that is not JSON.
    OutputExistsError
        If something is at ``location`` and may not be replaced.
    DataError
        If the disk is full or the place cannot be written to; nothing is left behind.
    """
    _check_shapes(user_factors, item_factors, user_ids, item_ids, seen, item_degrees, weight_scale)
    _check_finite("user_factors", user_factors, loss)
    _check_finite("item_factors", item_factors, loss)
    records = {
        layout.CONFIG: {
            "loss": dataclasses.asdict(loss),
            "weight_scale": float(weight_scale),
            "training": dict(config),
        },
        layout.METRICS: dict(metrics),
        layout.LINEAGE: dict(lineage),
    }
    encoded = {name: _encode_json(name, record) for name, record in records.items()}
    fold_in = UserSystem.build(item_factors, loss, item_degrees, weight_scale).arrays
    rows = seen.row_slice(0, seen.n_rows)  # a part of longer arrays is stored as a whole of its own
    arrays: dict[str, NDArray[Any]] = {
        layout.USER_FACTORS: user_factors,
        layout.ITEM_FACTORS: item_factors,
        layout.SEEN_INDPTR: rows.indptr,
        layout.SEEN_COLUMNS: rows.columns,
        layout.POPULARITY: item_degrees,
        layout.FOLD_IN_GRAM: fold_in.gram,
        layout.FOLD_IN_BASIS: fold_in.basis,
        layout.FOLD_IN_EIGENVALUES: fold_in.eigenvalues,
        layout.FOLD_IN_LINEAR: fold_in.linear,
    }
    if rows.weights is not None:
        arrays[layout.SEEN_WEIGHTS] = rows.weights
    with new_folder(location, overwrite=overwrite) as folder:
        for name, array in arrays.items():
            write_array(folder, name, array)
        user_ids.write(folder, layout.USER_IDS)
        item_ids.write(folder, layout.ITEM_IDS)
        for name, content in encoded.items():
            folder.write_bytes(name, content)
        payload = {
            "n_users": int(user_factors.shape[0]),
            "n_items": int(item_factors.shape[0]),
            "n_factors": int(user_factors.shape[1]),
            "n_interactions": seen.n_interactions,
            "has_weights": seen.weights is not None,
            "factor_sha256": factor_checksum(user_factors, item_factors),
        }
        write_manifest(folder, layout.KIND, layout.FORMAT_VERSION, payload)
    return Model.open(location, verify="manifest")


def factor_checksum(user_factors: Factors, item_factors: Factors) -> str:
    """Hash the bytes of the user factors, then of the item factors.

    Returns
    -------
    str
        SHA-256 in hexadecimal; two runs with the same factors, bit by bit, have the same.
    """
    digest = hashlib.sha256()
    for factors in (user_factors, item_factors):
        for start in range(0, factors.shape[0], _BLOCK_ROWS):
            digest.update(np.ascontiguousarray(factors[start : start + _BLOCK_ROWS], dtype="<f4").tobytes())
    return digest.hexdigest()


def _check_shapes(
    user_factors: Factors,
    item_factors: Factors,
    user_ids: IdDictionary,
    item_ids: IdDictionary,
    seen: InteractionRows,
    item_degrees: Offsets,
    weight_scale: float,
) -> None:
    """Refuse parts that do not belong together."""
    for name, factors in (("user_factors", user_factors), ("item_factors", item_factors)):
        if factors.ndim != 2 or factors.dtype != np.float32:
            raise InputError(
                f"{name}: expected float32 of shape (rows, n_factors), found {factors.dtype} of shape {factors.shape}"
            )
    n_users, n_items = user_factors.shape[0], item_factors.shape[0]
    expectations = (
        ("n_factors of item_factors", user_factors.shape[1], item_factors.shape[1]),
        ("user_ids", n_users, len(user_ids)),
        ("item_ids", n_items, len(item_ids)),
        ("rows of seen", n_users, seen.n_rows),
        ("columns of seen", n_items, seen.n_columns),
        ("item_degrees", n_items, item_degrees.size),
    )
    for name, wanted, found in expectations:
        if wanted != found:
            raise InputError(
                f"{name}: expected {wanted}, found {found}; factors, ids and interactions must be one run's"
            )
    if not n_users or not n_items or not user_factors.shape[1]:
        raise InputError(
            f"model: expected at least one user, item and factor, "
            f"found {n_users} users, {n_items} items, {user_factors.shape[1]} factors"
        )
    if item_degrees.dtype != np.int64 or (item_degrees < 0).any():
        raise InputError(f"item_degrees: expected int64 counts of at least 0, found {item_degrees.dtype}")
    if not (math.isfinite(weight_scale) and weight_scale > 0):
        raise InputError(f"weight_scale: expected a finite positive number, found {weight_scale}")


def _check_finite(name: str, factors: Factors, loss: Loss) -> None:
    """Refuse factors with NaN or infinity, naming the first row and how many there are."""
    first, n_bad = -1, 0
    for start in range(0, factors.shape[0], _BLOCK_ROWS):
        is_bad = ~np.isfinite(factors[start : start + _BLOCK_ROWS]).all(axis=1)
        if is_bad.any():
            first = first if n_bad else start + int(np.argmax(is_bad))
            n_bad += int(np.count_nonzero(is_bad))
    if n_bad:
        raise NumericalError(
            f"{name}: row {first} and {n_bad - 1} more of {factors.shape[0]} rows are not finite "
            f"(loss {loss.name}, alpha {loss.alpha}, reg {loss.reg}); no model was written: train with a larger reg"
        )


def _encode_json(name: str, record: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(_json_value(record), indent=2, allow_nan=False) + "\n").encode()
    except TypeError as error:
        raise InputError(f"{name}: {error}; pass numbers, text, lists and mappings only") from error


def _json_value(value: Any) -> Any:
    """Turn what a run records into JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
