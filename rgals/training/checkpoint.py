"""Committed checkpoints: folders that hold all that a run needs to go on, or do not exist.

``CHECKPOINTS/sweep-00007/`` is written under another name, checksummed, synced and renamed by
`rgals.data.storage.new_folder`; a folder without a manifest is not a checkpoint. Each one names the
dataset and the options it belongs to. Nothing random is left after the starting factors, so there
is no generator state to keep.
"""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rgals.data.arrays import read_array, write_array
from rgals.data.storage import FileEntry, Folder, new_folder, read_manifest, verify_file, write_manifest
from rgals.errors import ChecksumError, DataError, OutputExistsError, StaleCheckpointError
from rgals.names import MANIFEST_NAME, Factors
from rgals.training.history import SweepSummary

__all__ = ["BestSweep", "Checkpoint", "CheckpointStore", "RunIdentity", "check_writable"]

_KIND = "checkpoint"
_FORMAT_VERSION = 1
_STATE_NAME = "state.json"
_FOLDER_PATTERN = re.compile(r"sweep-(\d{5,})")
_WRITE_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What must be the same for a run to go on from a checkpoint.

    Parameters
    ----------
    dataset : str
        Fingerprint of the training data.
    options : mapping
        The options that a resumed run may not change (`TrainingConfig.frozen_options`).
    validation : str or None
        Fingerprint of the validation sample.
    """

    dataset: str
    options: Mapping[str, Any]
    validation: str | None


@dataclass(frozen=True, slots=True)
class BestSweep:
    """The best validated sweep so far.

    Parameters
    ----------
    sweep : int
        Its number.
    ndcg : float
        Its validation NDCG.
    factors : tuple of Factors or None
        Its user and item factors; None where nobody asked to keep them.
    """

    sweep: int
    ndcg: float
    factors: tuple[Factors, Factors] | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a run between two sweeps.

    Parameters
    ----------
    sweep : int
        Sweeps done.
    user_factors, item_factors : Factors
        The factors after that sweep.
    history : tuple of SweepSummary
        All sweeps so far.
    best : BestSweep or None
        The best validated sweep.
    """

    sweep: int
    user_factors: Factors
    item_factors: Factors
    history: tuple[SweepSummary, ...]
    best: BestSweep | None


class CheckpointStore:
    """The checkpoints of one run, in one folder.

    Parameters
    ----------
    location : str, Path or Folder
        The folder of checkpoints, local or a pyarrow filesystem URI; created with the first one.
    identity : RunIdentity
        What the run trains.
    keep : int
        How many of the newest to keep, at least 1.
    """

    def __init__(self, location: str | Path | Folder, identity: RunIdentity, keep: int) -> None:
        self.folder = Folder.at(location)
        self.identity = identity
        self.keep = keep

    def sweeps(self) -> list[int]:
        """List the sweeps with a committed checkpoint, ascending."""
        return _committed_sweeps(self.folder)

    def save(self, checkpoint: Checkpoint) -> Folder:
        """Commit a checkpoint, then remove the oldest beyond ``keep``.

        Returns
        -------
        Folder
            Where it is.

        Raises
        ------
        DataError
            If the disk is full or the place cannot be written to; older checkpoints are untouched.
        """
        target = self.folder.child(_folder_name(checkpoint.sweep))
        best = checkpoint.best
        arrays = {"user_factors": checkpoint.user_factors, "item_factors": checkpoint.item_factors}
        if best is not None and best.sweep != checkpoint.sweep and best.factors is not None:
            arrays |= {"best_user_factors": best.factors[0], "best_item_factors": best.factors[1]}
        state = {
            "sweep": checkpoint.sweep,
            "history": [asdict(summary) for summary in checkpoint.history],
            "best": None if best is None else {"sweep": best.sweep, "ndcg": best.ndcg},
        }
        payload = {"sweep": checkpoint.sweep, **asdict(self.identity)}
        with new_folder(target, overwrite=True) as staged:
            for name, array in arrays.items():
                write_array(staged, f"{name}.npy", array)
            staged.write_bytes(_STATE_NAME, json.dumps(state, indent=2, allow_nan=False).encode())
            write_manifest(staged, _KIND, _FORMAT_VERSION, payload)
        for sweep in self.sweeps()[: -self.keep]:
            _remove(self.folder.child(_folder_name(sweep)))
        return target

    def load_latest(self) -> Checkpoint | None:
        """Read the newest committed checkpoint, after comparing its identity and its checksums.

        Returns
        -------
        Checkpoint or None
            None when there is none.

        Raises
        ------
        StaleCheckpointError
            If it belongs to another dataset, other options or another validation sample.
        ChecksumError
            If a file is not what was written; the message names the checkpoint before it.
        DataError
            If a file is missing or unreadable.
        """
        sweeps = self.sweeps()
        if not sweeps:
            return None
        folder = self.folder.child(_folder_name(sweeps[-1]))
        payload, files = read_manifest(folder, _KIND, _FORMAT_VERSION)
        _check_identity(folder, payload, self.identity)
        try:
            return _read(folder, files)
        except ChecksumError as error:
            way_out = f"go on from sweep {sweeps[-2]}" if len(sweeps) > 1 else "begin anew"
            raise ChecksumError(f"{error}; or remove {folder} to {way_out}") from error

    def refuse_existing(self) -> None:
        """Raise if the folder holds checkpoints already.

        Raises
        ------
        OutputExistsError
            If it does: a new run would mix with them.
        """
        sweeps = self.sweeps()
        if sweeps:
            raise OutputExistsError(
                f"{self.folder}: holds checkpoints up to sweep {sweeps[-1]}; pass --resume to go on from there, "
                "--overwrite to discard them, or choose another checkpoint folder"
            )

    def clear(self) -> None:
        """Remove all committed checkpoints; other files stay."""
        for sweep in self.sweeps():
            _remove(self.folder.child(_folder_name(sweep)))


def check_writable(location: str | Path | Folder) -> None:
    """Check, before long work begins, that a folder can be made at a place, by writing an empty file there.

    Raises
    ------
    DataError
        If it cannot.
    """
    folder = Folder.at(location)
    name = f".rgals-probe-{uuid.uuid4().hex[:8]}"
    place = folder.local_path
    if place is None:
        probe = f"{folder.path}{name}"
    else:
        while not place.exists() and place != place.parent:
            place = place.parent
        probe = str(place / name)
    try:
        with folder.filesystem.open_output_stream(probe):
            pass
        folder.filesystem.delete_file(probe)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written to ({error}); choose another place, or change its permissions"
        ) from error


def _folder_name(sweep: int) -> str:
    return f"sweep-{sweep:05d}"


def _committed_sweeps(folder: Folder) -> list[int]:
    sweeps = []
    for name in folder.child_names():
        match = _FOLDER_PATTERN.fullmatch(name)
        if match and folder.child(name).exists(MANIFEST_NAME):
            sweeps.append(int(match[1]))
    return sorted(sweeps)


def _remove(folder: Folder) -> None:
    """Remove a checkpoint, its manifest first: a removal that is cut short leaves no checkpoint."""
    folder.filesystem.delete_file(folder.file_path(MANIFEST_NAME))
    folder.remove()


def _check_identity(folder: Folder, found: Mapping[str, Any], expected: RunIdentity) -> None:
    if found["dataset"] != expected.dataset:
        raise StaleCheckpointError(
            f"{folder} belongs to dataset {found['dataset'][:12]}, this run trains {expected.dataset[:12]}; "
            "resume with that dataset, or choose an empty checkpoint folder"
        )
    options: Mapping[str, Any] = found["options"]
    names = [*expected.options, *(name for name in options if name not in expected.options)]
    changes = [
        f"{name} {options.get(name)!r} there, {expected.options.get(name)!r} here"
        for name in names
        if options.get(name) != expected.options.get(name)
    ]
    if changes:
        raise StaleCheckpointError(
            f"{folder} belongs to another configuration ({'; '.join(changes)}); "
            "resume with those options, or choose an empty checkpoint folder"
        )
    if found["validation"] != expected.validation:
        there, here = (value[:12] if value else "none" for value in (found["validation"], expected.validation))
        raise StaleCheckpointError(
            f"{folder} belongs to validation sample {there}, this run has {here}; "
            "resume with the same validation part, or choose an empty checkpoint folder"
        )


def _read(folder: Folder, files: Mapping[str, FileEntry]) -> Checkpoint:
    for name in files:
        verify_file(folder, name, files)
    try:
        state = json.loads(folder.read_bytes(_STATE_NAME))
        user_factors, item_factors = (_read_factors(folder, f"{side}_factors.npy") for side in ("user", "item"))
        best = None
        if state["best"] is not None:
            best = BestSweep(state["best"]["sweep"], state["best"]["ndcg"])
            if best.sweep == state["sweep"]:
                best = BestSweep(best.sweep, best.ndcg, (user_factors.copy(), item_factors.copy()))
            elif "best_user_factors.npy" in files:
                kept = (_read_factors(folder, "best_user_factors.npy"), _read_factors(folder, "best_item_factors.npy"))
                best = BestSweep(best.sweep, best.ndcg, kept)
        history = tuple(SweepSummary(**summary) for summary in state["history"])
        return Checkpoint(int(state["sweep"]), user_factors, item_factors, history, best)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: not a readable checkpoint ({error!r}); remove it and resume again") from error


def _read_factors(folder: Folder, name: str) -> Factors:
    """Read factors whole, into memory of their own: the checkpoint may be removed while they are in use."""
    return np.array(read_array(folder, name))
