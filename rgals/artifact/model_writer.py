"""Write a trained model as a folder: whole or not at all, and never with a number that is not finite.

Factors and interactions are written block by block, so that a model larger than memory can be written
from blocks and shards that come one at a time.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from rgals.artifact import layout
from rgals.artifact.model import Model
from rgals.data.arrays import ArrayStream, FactorBlocks, new_array, write_array
from rgals.data.ids import IdDictionary
from rgals.data.shards import InteractionSource
from rgals.data.storage import Folder, new_folder, write_manifest
from rgals.errors import InputError, NumericalError
from rgals.names import Factors, Offsets
from rgals.numerics.fold_in import user_background
from rgals.numerics.loss import Loss
from rgals.numerics.sparse import InteractionRows

__all__ = ["factor_checksum", "write_model", "write_model_folder"]

_BLOCK_ROWS = 1 << 16


def write_model(
    location: str | Path | Folder,
    *,
    user_factors: Factors | FactorBlocks,
    item_factors: Factors | FactorBlocks,
    user_ids: IdDictionary,
    item_ids: IdDictionary,
    seen: InteractionRows | InteractionSource,
    loss: Loss,
    weight_scale: float,
    item_degrees: Offsets | None,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    lineage: Mapping[str, Any],
    overwrite: bool = False,
) -> Model:
    """Write a model folder and open it; see `write_model_folder`.

    Returns
    -------
    Model
        The folder, opened; its checksums were computed just now and are not verified again. On a
        filesystem that is not local, opening reads the whole model into memory.
    """
    write_model_folder(
        location,
        user_factors=user_factors,
        item_factors=item_factors,
        user_ids=user_ids,
        item_ids=item_ids,
        seen=seen,
        loss=loss,
        weight_scale=weight_scale,
        item_degrees=item_degrees,
        config=config,
        metrics=metrics,
        lineage=lineage,
        overwrite=overwrite,
    )
    return Model.open(location, verify="manifest")


def write_model_folder(
    location: str | Path | Folder,
    *,
    user_factors: Factors | FactorBlocks,
    item_factors: Factors | FactorBlocks,
    user_ids: IdDictionary,
    item_ids: IdDictionary,
    seen: InteractionRows | InteractionSource,
    loss: Loss,
    weight_scale: float,
    item_degrees: Offsets | None,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    lineage: Mapping[str, Any],
    overwrite: bool = False,
) -> str:
    """Write a model folder; the files do not depend on whether a part came whole or in pieces.

    Parameters
    ----------
    location : str, Path or Folder
        Local path or pyarrow filesystem URI of the new folder.
    user_factors, item_factors : float32 arrays of shape (n_users, n_factors), (n_items, n_factors), or FactorBlocks
        Finite; rows in the order of the dictionaries. Of `FactorBlocks` one block is held at a time:
        those of the users are asked for first, then those of the items.
    user_ids, item_ids : IdDictionary
        The ids of the rows.
    seen : InteractionRows or InteractionSource
        Training interactions, users by items, with their weights where they have any. Of a source one
        shard by user is held at a time.
    loss : Loss
        What was minimized.
    weight_scale : float
        Scale of the observed weights in training; fold-in applies the same.
    item_degrees : int64 array of shape (n_items,) or None
        Training interactions of each item; None counts them in ``seen``.
    config, metrics, lineage : mapping
        JSON values; NumPy numbers, paths and dataclasses are converted, a number that is not finite
        becomes null. ``config`` is stored together with the loss and the weight scale.
    overwrite : bool
        Whether an rgals folder already there may be replaced.

    Returns
    -------
    str
        The model's factor checksum.

    Raises
    ------
    NumericalError
        If a factor is NaN or infinite; no folder is left behind. Whole arrays are checked before
        anything is touched; blocks as they come, when an object store has lost the folder that is replaced.
    InputError
        If the shapes or types do not fit together, or a record holds something that is not JSON.
    OutputExistsError
        If something is at ``location`` and may not be replaced.
    DataError
        If the disk is full or the place cannot be written to; nothing is left behind.
    """
    _check_shapes(user_factors, item_factors, user_ids, item_ids, seen, item_degrees, weight_scale)
    for name, factors in (("user_factors", user_factors), ("item_factors", item_factors)):
        if not isinstance(factors, FactorBlocks):
            for _ in _finite_blocks(name, factors, loss):
                pass
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
    with new_folder(location, overwrite=overwrite) as folder:
        has_weights, degrees = _write_seen(folder, seen, item_degrees)
        checksum = _write_factors(folder, user_factors, item_factors, loss, degrees)
        write_array(folder, layout.POPULARITY, degrees)
        user_ids.write(folder, layout.USER_IDS)
        item_ids.write(folder, layout.ITEM_IDS)
        for name, content in encoded.items():
            folder.write_bytes(name, content)
        payload = {
            "n_users": int(user_factors.shape[0]),
            "n_items": int(item_factors.shape[0]),
            "n_factors": int(user_factors.shape[1]),
            "n_interactions": seen.n_interactions,
            "has_weights": has_weights,
            "factor_sha256": checksum,
        }
        write_manifest(folder, layout.KIND, layout.FORMAT_VERSION, payload)
    return checksum


def factor_checksum(user_factors: Factors, item_factors: Factors) -> str:
    """Hash the bytes of the user factors, then of the item factors.

    Returns
    -------
    str
        SHA-256 in hexadecimal; two runs with the same factors, bit by bit, have the same.
    """
    digest = hashlib.sha256()
    for factors in (user_factors, item_factors):
        for block in _row_blocks(factors):
            digest.update(_bytes_of(block))
    return digest.hexdigest()


def _row_blocks(factors: Factors | FactorBlocks) -> Iterator[Factors]:
    """Go through the rows of either form."""
    if isinstance(factors, FactorBlocks):
        yield from factors.blocks
        return
    for start in range(0, factors.shape[0], _BLOCK_ROWS):
        yield factors[start : start + _BLOCK_ROWS]


def _bytes_of(block: Factors) -> memoryview:
    return np.ascontiguousarray(block, dtype="<f4").data


def _write_factors(
    folder: Folder,
    user_factors: Factors | FactorBlocks,
    item_factors: Factors | FactorBlocks,
    loss: Loss,
    item_degrees: Offsets,
) -> str:
    """Write both matrices and the background that the items give; return the factor checksum."""
    digest = hashlib.sha256()

    def written(stream: ArrayStream, blocks: Iterator[Factors]) -> Iterator[Factors]:
        for block in blocks:
            stream.append(block)
            digest.update(_bytes_of(block))
            yield block

    with new_array(folder, layout.USER_FACTORS, np.float32, user_factors.shape) as stream:
        for _ in written(stream, _finite_blocks("user_factors", user_factors, loss)):
            pass
    with new_array(folder, layout.ITEM_FACTORS, np.float32, item_factors.shape) as stream:
        blocks = written(stream, _finite_blocks("item_factors", item_factors, loss))
        fold_in = user_background(blocks, loss, item_degrees)
    for name, array in (
        (layout.FOLD_IN_GRAM, fold_in.gram),
        (layout.FOLD_IN_BASIS, fold_in.basis),
        (layout.FOLD_IN_EIGENVALUES, fold_in.eigenvalues),
        (layout.FOLD_IN_LINEAR, fold_in.linear),
    ):
        write_array(folder, name, array)
    return digest.hexdigest()


def _write_seen(
    folder: Folder, seen: InteractionRows | InteractionSource, item_degrees: Offsets | None
) -> tuple[bool, Offsets]:
    """Write the interactions a shard at a time; tell whether they have weights, and the items' degrees."""
    n_users, n_items = _seen_shape(seen)
    n_interactions, n_written = seen.n_interactions, 0
    degrees = np.zeros(n_items, dtype=np.int64) if item_degrees is None else item_degrees
    with ExitStack() as stack:

        def open_array(name: str, dtype: Any, n: int) -> ArrayStream:
            return stack.enter_context(new_array(folder, name, dtype, (n,)))

        offsets = open_array(layout.SEEN_INDPTR, np.int64, n_users + 1)
        columns = open_array(layout.SEEN_COLUMNS, np.int32, n_interactions)
        weights: ArrayStream | None = None
        offsets.append(np.zeros(1, dtype=np.int64))
        for index, shard in enumerate(_seen_shards(seen)):
            if index == 0 and shard.weights is not None:
                weights = open_array(layout.SEEN_WEIGHTS, np.float32, n_interactions)
            if (shard.weights is None) != (weights is None) or shard.n_columns != n_items:
                raise InputError(
                    f"seen: user shard {index} has {shard.n_columns} columns and weights: {shard.weights is not None}; "
                    f"expected {n_items} columns and weights: {weights is not None}, as in the shards before"
                )
            offsets.append(shard.indptr[1:] + n_written)
            columns.append(shard.columns)
            if weights is not None and shard.weights is not None:
                weights.append(shard.weights)
            if item_degrees is None:
                degrees += np.bincount(shard.columns, minlength=n_items)
            n_written += shard.n_interactions
    return weights is not None, degrees


def _seen_shape(seen: InteractionRows | InteractionSource) -> tuple[int, int]:
    if isinstance(seen, InteractionRows):
        return seen.n_rows, seen.n_columns
    return seen.n_users, seen.n_items


def _seen_shards(seen: InteractionRows | InteractionSource) -> Iterator[InteractionRows]:
    """Go through the users' interactions; offsets of each shard begin at 0 and its arrays hold nothing else."""
    if isinstance(seen, InteractionRows):
        yield seen.row_slice(0, seen.n_rows)
        return
    for index in range(len(seen.shard_ranges("user"))):
        shard = seen.load_shard("user", index)
        yield shard.row_slice(0, shard.n_rows)


def _check_shapes(
    user_factors: Factors | FactorBlocks,
    item_factors: Factors | FactorBlocks,
    user_ids: IdDictionary,
    item_ids: IdDictionary,
    seen: InteractionRows | InteractionSource,
    item_degrees: Offsets | None,
    weight_scale: float,
) -> None:
    """Refuse parts that do not belong together."""
    for name, factors in (("user_factors", user_factors), ("item_factors", item_factors)):
        if isinstance(factors, FactorBlocks):
            continue  # each block is checked as it comes
        if factors.ndim != 2 or factors.dtype != np.float32:
            raise InputError(
                f"{name}: expected float32 of shape (rows, n_factors), found {factors.dtype} of shape {factors.shape}"
            )
    n_users, n_items = user_factors.shape[0], item_factors.shape[0]
    n_rows, n_columns = _seen_shape(seen)
    expectations = (
        ("n_factors of item_factors", user_factors.shape[1], item_factors.shape[1]),
        ("user_ids", n_users, len(user_ids)),
        ("item_ids", n_items, len(item_ids)),
        ("rows of seen", n_users, n_rows),
        ("columns of seen", n_items, n_columns),
        ("item_degrees", n_items, n_items if item_degrees is None else item_degrees.size),
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
    if item_degrees is not None and (item_degrees.dtype != np.int64 or (item_degrees < 0).any()):
        raise InputError(f"item_degrees: expected int64 counts of at least 0, found {item_degrees.dtype}")
    if not (math.isfinite(weight_scale) and weight_scale > 0):
        raise InputError(f"weight_scale: expected a finite positive number, found {weight_scale}")


def _finite_blocks(name: str, factors: Factors | FactorBlocks, loss: Loss) -> Iterator[Factors]:
    """Go through the rows up to the first NaN or infinity; then look at the rest, and name the first and how many."""
    first, n_bad, n_rows = -1, 0, 0
    for block in _row_blocks(factors):
        if block.ndim == 2:  # whoever takes the block refuses another shape
            is_bad = ~np.isfinite(block).all(axis=1)
            first = n_rows + int(np.argmax(is_bad)) if is_bad.any() and not n_bad else first
            n_bad += int(np.count_nonzero(is_bad))
        if not n_bad:
            yield block
        n_rows += len(block)
    if n_bad:
        raise NumericalError(
            f"{name}: row {first} and {n_bad - 1} more of {n_rows} rows are not finite "
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
