"""What a comparison keeps on disk, so that it can be continued: a folder for each model, a file for each stage."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rgals.data.storage import replace_file
from rgals.errors import DataError, InputError, OutputExistsError, StaleCheckpointError
from rgals.tuning.trial import TrialResult

__all__ = ["ComparisonFolder"]

_FORMAT_VERSION = 1
_IDENTITY_NAME = "identity.json"


class ComparisonFolder:
    """The working state of a comparison.

    Parameters
    ----------
    path : Path
        The folder, on a local disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, identity: Mapping[str, Any], *, resume: bool | None, overwrite: bool = False) -> bool:
        """Begin a comparison, or go on with the one that is there.

        Parameters
        ----------
        identity : mapping
            What must be the same for its stages to be used, as JSON values.
        resume : bool or None
            True goes on, and it is an error if there is nothing; None goes on if there is something; False
            refuses what is there.
        overwrite : bool
            Whether what is there may be discarded, where it is not to be continued.

        Returns
        -------
        bool
            Whether there is something to go on from.

        Raises
        ------
        OutputExistsError
            If there is a comparison and neither ``resume`` nor ``overwrite`` is true.
        StaleCheckpointError
            If it belongs to another dataset or other options.
        DataError
            If there is none to go on from, or the place cannot be read or written.
        """
        wanted = json.loads(json.dumps({**identity, "format_version": _FORMAT_VERSION}, allow_nan=False))
        place = self.path / _IDENTITY_NAME
        if place.exists() and resume is not False:
            self._check(place, wanted)
            return True
        if resume is True:
            raise DataError(f"{self.path}: expected a comparison to go on with, found none; leave out --resume")
        if place.exists():
            if not overwrite:
                raise OutputExistsError(
                    f"{self.path}: holds a comparison; pass --resume auto to go on with it, --overwrite to discard it, "
                    "or choose another output"
                )
            shutil.rmtree(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be made ({error}); choose another output") from error
        _write_json(place, wanted)
        return False

    def study_path(self, model: str) -> Path:
        """Give the file of a model's search."""
        return self._file(model, "study.journal")

    def values_path(self, model: str, test_key: str) -> Path:
        """Give the file of a model's measured values, under one protocol of the test."""
        return self._file(model, f"values-{test_key}.npz")

    def read_curve(self, model: str, asked: Mapping[str, Any]) -> TrialResult | None:
        """Read the timed fit of a model; None if there is none, or it was asked for something else."""
        found = self._read(model, "curve.json", asked)
        return None if found is None else TrialResult.from_json(found)

    def write_curve(self, model: str, asked: Mapping[str, Any], curve: TrialResult) -> None:
        """Keep the timed fit of a model."""
        self._write(model, "curve.json", asked, curve.to_json())

    def read_final(self, model: str, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """Read what is known of the last fit of a model; None if there is none, or it was asked for something else."""
        return self._read(model, "final.json", asked)

    def write_final(self, model: str, asked: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        """Keep what is known of the last fit of a model."""
        self._write(model, "final.json", asked, known)

    def drop_values(self, model: str) -> None:
        """Remove the measured values of a model, of every protocol."""
        for path in (self.path / model).glob("values-*"):
            path.unlink()

    def drop_measurements(self, models: tuple[str, ...]) -> None:
        """Remove timed and last fits of models, so that they are done again; the searches stay."""
        for model in models:
            for path in [self._file(model, "curve.json"), self._file(model, "final.json")]:
                path.unlink(missing_ok=True)
            self.drop_values(model)

    def _file(self, model: str, name: str) -> Path:
        return self.path / model / name

    def _read(self, model: str, name: str, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        path = self._file(model, name)
        if not path.exists():
            return None
        found = _read_json(path)
        if found.get("asked") != json.loads(json.dumps(asked)):
            return None
        result: dict[str, Any] = found["found"]
        return result

    def _write(self, model: str, name: str, asked: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        _write_json(self._file(model, name), {"asked": dict(asked), "found": dict(found)})

    def _check(self, place: Path, wanted: Mapping[str, Any]) -> None:
        found = _read_json(place)
        names = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
        if names:
            lines = "\n".join(f"  {name}: {found.get(name)!r} there, {wanted.get(name)!r} here" for name in names)
            raise StaleCheckpointError(
                f"{self.path}: belongs to another comparison; go on with the same options, discard it with "
                f"--overwrite and --resume never, or choose another output:\n{lines}"
            )


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be made ({error}); choose another output") from error
    replace_file(path, json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False).encode())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable ({error}); remove it and go on, or begin anew") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected an object, found {type(found).__name__}; remove it and go on")
    return found
