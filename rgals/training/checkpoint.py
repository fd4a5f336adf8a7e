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

from rgals.data.storage import FileEntry, Folder, new_folder, read_manifest, write_manifest
from rgals.errors import ChecksumError, DataError, OutputExistsError, StaleCheckpointError
from rgals.execution import Executor
from rgals.names import MANIFEST_NAME, SIDES, Side
from rgals.training.block_files import read_side, verify_files, write_side
from rgals.training.factor_blocks import BlockState, Layout, SideFactors
from rgals.training.history import SweepSummary

__all__ = ["BestSweep", "Checkpoint", "CheckpointStore", "RunIdentity", "check_writable"]

_KIND = "checkpoint"
_FORMAT_VERSION = 2
_STATE_NAME = "state.json"
_FOLDER_PATTERN = re.compile(r"sweep-(\d{5,})")


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
    factors : BlockState or None
        Its factors; None where nobody asked to keep them.
    """

    sweep: int
    ndcg: float
    factors: BlockState | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a run between two sweeps.

    Parameters
    ----------
    factors : BlockState
        The factors after the last sweep, as the next one finds them.
    history : tuple of SweepSummary
        All sweeps so far.
    best : BestSweep or None
        The best validated sweep.
    """

    factors: BlockState
    history: tuple[SweepSummary, ...]
    best: BestSweep | None

    @property
    def sweep(self) -> int:
        """Sweeps done."""
        return self.factors.sweep


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

    def save(self, checkpoint: Checkpoint, executor: Executor) -> Folder:
        """Commit a checkpoint, then remove the oldest beyond ``keep``.

        Parameters
        ----------
        checkpoint : Checkpoint
            What to keep.
        executor : Executor
            Whose workers write the blocks, side by side.

        Returns
        -------
        Folder
            Where it is.

        Raises
        ------
        DataError
            If the disk is full or the place cannot be written to; older checkpoints are untouched.
        BlockLostError
            If factors were lost with the machine that held them; likewise.
        """
        target = self.folder.child(_folder_name(checkpoint.sweep))
        best = checkpoint.best
        parts = _parts_of(checkpoint)
        state = {
            "sweep": checkpoint.sweep,
            "history": [asdict(summary) for summary in checkpoint.history],
            "best": None if best is None else {"sweep": best.sweep, "ndcg": best.ndcg},
        }
        payload = {
            "sweep": checkpoint.sweep,
            **asdict(self.identity),
            "n_factors": checkpoint.factors.users.n_factors,
            "blocks": {name: [[one.start, one.stop] for one in part.ranges] for name, part in parts.items()},
        }
        with new_folder(target, overwrite=True) as staged:
            entries: dict[str, FileEntry] = {}
            for name, part in parts.items():
                entries |= write_side(staged, name, part, executor)
            staged.write_bytes(_STATE_NAME, json.dumps(state, indent=2, allow_nan=False).encode())
            write_manifest(staged, _KIND, _FORMAT_VERSION, payload, known=entries)
        for sweep in self.sweeps()[: -self.keep]:
            _remove(self.folder.child(_folder_name(sweep)))
        return target

    def load_latest(self, executor: Executor, layouts: Mapping[Side, Layout]) -> Checkpoint | None:
        """Read the newest committed checkpoint, after comparing its identity and its checksums.

        Parameters
        ----------
        executor : Executor
            Whose workers read, and keep what they read.
        layouts : mapping of Side to Layout
            How the dataset is cut now, by side; the checkpoint may be of another cut.

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
        payload, files = self._read_manifest(folder)
        try:
            verify_files(folder, files, executor)
        except ChecksumError as error:
            way_out = f"go on from sweep {sweeps[-2]}" if len(sweeps) > 1 else "begin anew"
            raise ChecksumError(f"{error}; or remove {folder} to {way_out}") from error
        return _read(folder, payload, files, executor, layouts)

    def check_latest(self) -> None:
        """Compare the identity of the newest checkpoint with this run's, before long work begins.

        Raises
        ------
        StaleCheckpointError
            If it belongs to another dataset, other options or another validation sample.
        DataError
            If its manifest is unreadable.
        """
        self._read_manifest(self.folder.child(_folder_name(self.sweeps()[-1])))

    def _read_manifest(self, folder: Folder) -> tuple[dict[str, Any], dict[str, FileEntry]]:
        payload, files = read_manifest(folder, _KIND, _FORMAT_VERSION)
        _check_identity(folder, payload, self.identity)
        return payload, files

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
                f"{self.folder}: holds checkpoints up to sweep {sweeps[-1]}; pass --resume auto to go on from there, "
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


def _parts_of(checkpoint: Checkpoint) -> dict[str, SideFactors]:
    """Name what a checkpoint holds; a best sweep that is the last one is not kept twice."""
    parts: dict[str, SideFactors] = {side: checkpoint.factors.side(side) for side in SIDES}
    best = checkpoint.best
    if best is not None and best.factors is not None and best.sweep != checkpoint.sweep:
        parts |= {f"best-{side}": best.factors.side(side) for side in SIDES}
    return parts


def _read(
    folder: Folder,
    payload: Mapping[str, Any],
    files: Mapping[str, FileEntry],
    executor: Executor,
    layouts: Mapping[Side, Layout],
) -> Checkpoint:
    try:
        state = json.loads(folder.read_bytes(_STATE_NAME))

        def read_state(sweep: int, prefix: str) -> BlockState:
            users, items = (
                read_side(
                    folder,
                    f"{prefix}{side}",
                    files,
                    [(int(start), int(stop)) for start, stop in payload["blocks"][f"{prefix}{side}"]],
                    layouts[side],
                    int(payload["n_factors"]),
                    executor,
                )
                for side in SIDES
            )
            return BlockState(sweep, users, items)

        factors = read_state(int(state["sweep"]), "")
        best = None
        if state["best"] is not None:
            best = BestSweep(state["best"]["sweep"], state["best"]["ndcg"])
            if best.sweep == factors.sweep:
                best = BestSweep(best.sweep, best.ndcg, factors)
            elif "best-user" in payload["blocks"]:
                best = BestSweep(best.sweep, best.ndcg, read_state(best.sweep, "best-"))
        history = tuple(SweepSummary(**summary) for summary in state["history"])
        return Checkpoint(factors, history, best)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: not a readable checkpoint ({error!r}); remove it and resume again") from error
