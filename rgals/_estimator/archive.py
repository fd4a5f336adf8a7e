"""The file of a fitted estimator: a numpy ``.npz`` archive with a closed set of fields and without pickle."""

import io
import json
import os
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from rgals._estimator.state import EstimatorState
from rgals.data.storage import replace_file
from rgals.errors import DataError, FormatVersionError, InputError
from rgals.numerics.loss import Loss

__all__ = ["FORMAT_VERSION", "read_archive", "write_archive"]

FORMAT_VERSION = 1

_ARRAYS = {
    "user_factors": np.float32,
    "item_factors": np.float32,
    "user_degrees_": np.int64,
    "item_degrees_": np.int64,
    "user_weight_sums_": np.float64,
    "objectives_": np.float64,
}
_NUMBERS = {"weight_scale_": float, "n_iter_": int, "n_features_in_": int}
_FIELDS = {"format_version", "parameters", "fitted_loss", *_ARRAYS, *_NUMBERS}


def write_archive(model: EstimatorState, file: str | os.PathLike[str] | IO[bytes]) -> None:
    """Write a fitted model; see `rgals.RankingALS.save`."""
    parameters = model.get_params()
    if not isinstance(parameters["random_state"], int | np.integer):
        # A generator's state is not worth a pickle: the factors are saved, not the way to them.
        parameters["random_state"] = None
    fields: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "parameters": json.dumps(parameters, default=_plain_value),
        "fitted_loss": json.dumps(asdict(model.fitted_loss_), default=_plain_value),
        **{name: getattr(model, name) for name in (*_ARRAYS, *_NUMBERS)},
    }
    if hasattr(file, "write"):
        np.savez(file, allow_pickle=False, **fields)
        return
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **fields)
    replace_file(_archive_path(file), content.getvalue())


def read_archive(file: str | os.PathLike[str] | IO[bytes]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a fitted model's parameters and learned attributes; see `rgals.RankingALS.load`."""
    if hasattr(file, "read"):
        return _read_fields(file, str(getattr(file, "name", "the file")))
    path = _archive_path(file)
    # Opened here: numpy leaves the file open when it is no archive.
    with path.open("rb") as stream:
        return _read_fields(stream, str(path))


def _read_fields(stream: Any, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read every field of an open archive."""
    try:
        with np.load(stream, allow_pickle=False) as archive:
            fields = {field: archive[field] for field in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError, TypeError) as error:
        raise DataError(
            f"{name}: not a readable model of RankingALS.save ({error}); restore the file or fit again"
        ) from error
    return _check_fields(fields, name)


def _archive_path(file: Any) -> Path:
    """Add the suffix that numpy adds too, where it is missing."""
    try:
        text = os.fspath(file)
    except TypeError as error:
        raise InputError(f"file: expected a path or an open binary file, found {type(file).__name__}") from error
    return Path(text if text.endswith(".npz") else f"{text}.npz")


def _plain_value(value: Any) -> Any:
    """Turn numpy's numbers, which JSON does not know, into Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise InputError(f"save: expected parameters that are numbers, strings or None, found {value!r}; set_params first")


def _check_fields(fields: dict[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Refuse other fields, types and shapes than those that are written."""
    way_out = "restore the file or fit again"
    version = fields.get("format_version")
    if version is not None and version.shape == () and version.dtype.kind == "i" and version > FORMAT_VERSION:
        raise FormatVersionError(
            f"{name}: format version {version} of a RankingALS, this rgals reads up to {FORMAT_VERSION}; upgrade rgals"
        )
    if fields.keys() != _FIELDS:
        raise DataError(
            f"{name}: expected the fields {', '.join(sorted(_FIELDS))}, found {', '.join(sorted(fields)) or 'none'}; "
            f"{way_out}"
        )
    for field, dtype in _ARRAYS.items():
        n_dimensions = 2 if field.endswith("factors") else 1
        if fields[field].dtype != dtype or fields[field].ndim != n_dimensions or not np.isfinite(fields[field]).all():
            raise DataError(
                f"{name}: expected {field} as finite {np.dtype(dtype)} in {n_dimensions} dimensions, "
                f"found {fields[field].dtype} of shape {fields[field].shape} or a number that is not finite; {way_out}"
            )
    (n_users, n_user_factors), (n_items, n_item_factors) = fields["user_factors"].shape, fields["item_factors"].shape
    sizes = [fields[field].size for field in ("user_degrees_", "user_weight_sums_", "item_degrees_")]
    if n_user_factors != n_item_factors or sizes != [n_users, n_users, n_items]:
        raise DataError(
            f"{name}: {n_users} users and {n_items} items of {n_user_factors} and {n_item_factors} factors do not fit "
            f"{sizes[0]} and {sizes[2]} degrees; {way_out}"
        )
    try:
        learned: dict[str, Any] = {field: kind(fields[field].item()) for field, kind in _NUMBERS.items()}
        learned["fitted_loss_"] = Loss(**json.loads(str(fields["fitted_loss"])))
        parameters = dict(json.loads(str(fields["parameters"])))
    except (ValueError, TypeError) as error:
        raise DataError(f"{name}: the parameters or numbers are not readable ({error}); {way_out}") from error
    return parameters, learned | {field: fields[field] for field in _ARRAYS}
