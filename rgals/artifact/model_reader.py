"""Open a model folder: manifest, checksums, shapes."""

import json
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rgals.artifact import layout
from rgals.artifact.contents import ModelContents
from rgals.data.arrays import check_array, read_array
from rgals.data.ids import IdDictionary
from rgals.data.storage import FileEntry, Folder, read_manifest, verify_file
from rgals.errors import ChecksumError, DataError, InputError
from rgals.numerics.fold_in import FoldInArrays
from rgals.numerics.loss import Loss
from rgals.numerics.sparse import InteractionRows

__all__ = ["Verification", "read_model"]

Verification: TypeAlias = bool | Literal["manifest"]
"""True: sizes and checksums of all files; ``"manifest"``: sizes only; False: neither."""


def read_model(location: str | Path | Folder, verify: Verification) -> ModelContents:
    """Open the files of a model folder.

    Parameters
    ----------
    location : str, Path or Folder
        The model folder.
    verify : bool or "manifest"
        How much of the folder is compared with its manifest.

    Raises
    ------
    DataError
        If a file is missing, unreadable or does not fit the others, or this is not a model.
    ChecksumError
        If a file's size or bytes are not those that were written.
    FormatVersionError
        If a newer rgals wrote the folder.
    """
    folder = Folder.at(location)
    manifest, files = read_manifest(folder, layout.KIND, layout.FORMAT_VERSION)
    _verify(folder, files, verify)
    try:
        return _read_contents(folder, manifest)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: the manifest or {layout.CONFIG} lacks {error}; restore the folder or train again"
        ) from error


def _verify(folder: Folder, files: dict[str, FileEntry], verify: Verification) -> None:
    if verify not in (True, False, "manifest"):
        raise InputError(f"verify: expected True, False or 'manifest', found {verify!r}")
    for name, entry in files.items():
        if verify is True:
            verify_file(folder, name, files)
        elif verify == "manifest" and (found := folder.n_bytes(name)) != entry.n_bytes:
            raise ChecksumError(
                f"{folder.label(name)}: expected {entry.n_bytes} bytes, found {found}; restore it or train again"
            )


def _read_contents(folder: Folder, manifest: dict[str, Any]) -> ModelContents:
    n_users, n_items, n_factors = (int(manifest[name]) for name in ("n_users", "n_items", "n_factors"))
    config = _read_json(folder, layout.CONFIG)
    return ModelContents(
        folder=folder,
        user_factors=_read(folder, layout.USER_FACTORS, np.float32, (n_users, n_factors)),
        item_factors=_read(folder, layout.ITEM_FACTORS, np.float32, (n_items, n_factors)),
        user_ids=_read_ids(folder, layout.USER_IDS, n_users),
        item_ids=_read_ids(folder, layout.ITEM_IDS, n_items),
        seen=_read_seen(folder, manifest, n_users, n_items),
        popularity=_read(folder, layout.POPULARITY, np.int64, (n_items,)),
        loss=Loss(**config["loss"]),
        weight_scale=float(config["weight_scale"]),
        fold_in_arrays=FoldInArrays(
            gram=_read(folder, layout.FOLD_IN_GRAM, np.float64, (n_factors, n_factors)),
            basis=_read(folder, layout.FOLD_IN_BASIS, np.float64, (n_factors, n_factors)),
            eigenvalues=_read(folder, layout.FOLD_IN_EIGENVALUES, np.float64, (n_factors,)),
            linear=_read(folder, layout.FOLD_IN_LINEAR, np.float64, (n_factors,)),
        ),
        config=config["training"],
        metrics=_read_json(folder, layout.METRICS),
        lineage=_read_json(folder, layout.LINEAGE),
        factor_checksum=str(manifest["factor_sha256"]),
    )


def _read(folder: Folder, name: str, dtype: Any, shape: tuple[int | None, ...]) -> NDArray[Any]:
    array = read_array(folder, name)
    check_array(folder.label(name), array, dtype, shape)
    return array


def _read_seen(folder: Folder, manifest: dict[str, Any], n_users: int, n_items: int) -> InteractionRows:
    n_interactions = int(manifest["n_interactions"])
    indptr = _read(folder, layout.SEEN_INDPTR, np.int64, (n_users + 1,))
    columns = _read(folder, layout.SEEN_COLUMNS, np.int32, (n_interactions,))
    has_weights = bool(manifest["has_weights"])
    weights = _read(folder, layout.SEEN_WEIGHTS, np.float32, (n_interactions,)) if has_weights else None
    if indptr[0] != 0 or indptr[-1] != n_interactions:
        raise DataError(
            f"{folder.label(layout.SEEN_INDPTR)}: expected offsets from 0 to {n_interactions}, "
            f"found {indptr[0]} to {indptr[-1]}; restore it or train again"
        )
    return InteractionRows(indptr, columns, weights, n_items)


def _read_ids(folder: Folder, name: str, n_rows: int) -> IdDictionary:
    ids = IdDictionary.read(folder, name)
    if len(ids) != n_rows:
        raise DataError(f"{folder.label(name)}: expected {n_rows} ids, found {len(ids)}; restore it or train again")
    return ids


def _read_json(folder: Folder, name: str) -> dict[str, Any]:
    try:
        record = json.loads(folder.read_bytes(name))
    except ValueError as error:
        raise DataError(f"{folder.label(name)}: not readable JSON ({error}); restore it or train again") from error
    if not isinstance(record, dict):
        raise DataError(f"{folder.label(name)}: expected a JSON object, found {type(record).__name__}")
    return record
