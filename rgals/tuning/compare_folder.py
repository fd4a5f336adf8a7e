"""What a comparison keeps on disk, so that it can be continued: a folder for each model, a file for each stage."""

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

from rgals.data.storage import replace_file
from rgals.errors import DataError, FormatVersionError, InputError, OutputExistsError, StaleCheckpointError
from rgals.evaluation.values import ModelValues, load_values
from rgals.tuning.trial import TrialResult

__all__ = ["ComparisonFolder", "OnRepeat"]

OnRepeat = Callable[[str], None]
"""Told why a finished stage is done again, where nobody asked for something else."""

_FORMAT_VERSION = 2
_IDENTITY_NAME = "identity.json"
_RUNS_NAME = "runs.json"

Found = TypeVar("Found")


class ComparisonFolder:
    """The working state of a comparison; a context manager, which lets others use it at the end.

    Parameters
    ----------
    path : Path
        The folder, on a local disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: BinaryIO | None = None
        self._earlier: list[dict[str, Any]] = []
        self._opened_at = datetime.now(UTC)
        self._opened_s = time.monotonic()

    def open(
        self, identity: Mapping[str, Any], budget: Mapping[str, Any], *, resume: bool | None, overwrite: bool = False
    ) -> bool:
        """Begin a comparison, or go on with the one that is there; nobody else can until it is closed.

        Parameters
        ----------
        identity : mapping
            What must be the same for its stages to be used, as JSON values.
        budget : mapping
            What each model gets: ``kind``, "trials" or "seconds", and ``size``.
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
            If there is a comparison and neither ``resume`` nor ``overwrite`` is true, or something else.
        StaleCheckpointError
            If it belongs to another dataset or other options.
        InputError
            If it was given more than this budget, or a budget of another kind, or another process is using it.
        DataError
            If there is none to go on from, or the place cannot be read or written.
        """
        place = self.path / _IDENTITY_NAME
        if resume is True and not place.exists():
            raise DataError(f"{self.path}: expected a comparison to go on with, found none; leave out --resume")
        self._lock = _lock_beside(self.path)
        try:
            return self._open(json.loads(json.dumps(identity, allow_nan=False)), dict(budget), resume, overwrite)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others use it; harmless if it was never opened."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> "ComparisonFolder":
        """Give the folder itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    @property
    def started_at(self) -> datetime:
        """When the first run of the comparison began, UTC."""
        return datetime.fromisoformat(self._earlier[0]["started_at"]) if self._earlier else self._opened_at

    @property
    def seconds(self) -> float:
        """Seconds of all runs of the comparison, this one included until now."""
        return sum(float(run["seconds"]) for run in self._earlier) + time.monotonic() - self._opened_s

    def keep_time(self) -> None:
        """Write down how long this run has worked; what a killed process wrote last stays."""
        this = {
            "started_at": self._opened_at.isoformat(timespec="seconds"),
            "seconds": time.monotonic() - self._opened_s,
        }
        _write_json(self.path / _RUNS_NAME, {"runs": [*self._earlier, this]})

    def study_path(self, model: str) -> Path:
        """Give the file of a model's search."""
        return self._file(model, "study.journal")

    def values_path(self, model: str, test_key: str) -> Path:
        """Give the file of a model's measured values, under one protocol of the test."""
        return self._file(model, f"values-{test_key}.npz")

    def read_curve(
        self, model: str, asked: Mapping[str, Any], where: Mapping[str, Any], on_repeat: OnRepeat
    ) -> TrialResult | None:
        """Read the timed fit of a model; None if there is none that can be used.

        Parameters
        ----------
        model : str
            The model.
        asked : mapping
            What was to be fitted.
        where : mapping
            What seconds depend on: machine, threads, versions. Those of another place are not taken.
        on_repeat : callable
            Told why what is there cannot be used, where it is damaged or of another place.
        """
        return self._read(model, "curve.json", asked, where, on_repeat, TrialResult.from_json)

    def write_curve(self, model: str, asked: Mapping[str, Any], where: Mapping[str, Any], curve: TrialResult) -> None:
        """Keep the timed fit of a model."""
        self._write(model, "curve.json", asked, where, curve.to_json())

    def read_final(
        self, model: str, asked: Mapping[str, Any], where: Mapping[str, Any], on_repeat: OnRepeat
    ) -> tuple[float, tuple[str, ...]] | None:
        """Read seconds and notes of the last fit of a model; None if there is none that can be used."""
        return self._read(
            model, "final.json", asked, where, on_repeat,
            lambda found: (float(found["train_s"]), tuple(map(str, found["notes"]))),
        )  # fmt: skip

    def write_final(
        self, model: str, asked: Mapping[str, Any], where: Mapping[str, Any], train_s: float, notes: tuple[str, ...]
    ) -> None:
        """Keep what is known of the last fit of a model."""
        self._write(model, "final.json", asked, where, {"train_s": train_s, "notes": list(notes)})

    def read_values(self, model: str, test_key: str, on_repeat: OnRepeat) -> ModelValues | None:
        """Read the measured values of a model; None if there are none, or they are damaged."""
        path = self.values_path(model, test_key)
        if not path.exists():
            return None
        try:
            return load_values(path)
        except FormatVersionError:
            raise
        except DataError as error:
            on_repeat(str(error))
            return None

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

    def _open(self, identity: dict[str, Any], budget: dict[str, Any], resume: bool | None, overwrite: bool) -> bool:
        place, wanted = self.path / _IDENTITY_NAME, {**identity, "format_version": _FORMAT_VERSION}
        discarded = self.path.with_name(f".{self.path.name}.discarded")
        shutil.rmtree(discarded, ignore_errors=True)  # a process was killed while it removed it
        if place.exists() and resume is not False:
            found = _read_json(place)
            self._check(found, wanted)
            if self._check_budget(found["budget"], budget):
                _write_json(place, {**wanted, "budget": budget})
            self._earlier = self._read_runs()
            return True
        if place.exists():
            if not overwrite:
                raise OutputExistsError(
                    f"{self.path}: holds a comparison; pass --resume auto to go on with it, --overwrite to discard it, "
                    "or choose another output"
                )
            # Renamed first: half of it, left by a killed process, must not be taken for stages of the new one.
            self.path.rename(discarded)
            shutil.rmtree(discarded, ignore_errors=True)
        elif self.path.exists() and any(not path.name.startswith(".") for path in self.path.iterdir()):
            raise OutputExistsError(
                f"{self.path}: holds files but no comparison; remove the folder, or choose another output"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be made ({error}); choose another output") from error
        _write_json(place, {**wanted, "budget": budget})
        return False

    def _file(self, model: str, name: str) -> Path:
        return self.path / model / name

    def _read(
        self,
        model: str,
        name: str,
        asked: Mapping[str, Any],
        where: Mapping[str, Any],
        on_repeat: OnRepeat,
        convert: Callable[[Any], Found],
    ) -> Found | None:
        path = self._file(model, name)
        if not path.exists():
            return None
        try:
            kept = json.loads(path.read_bytes())
            found_asked, found_where, found = kept["asked"], dict(kept["where"]), convert(kept["found"])
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            on_repeat(f"{path} is damaged ({error!r})")
            return None
        if found_asked != json.loads(json.dumps(asked)):
            return None
        changed = [name for name in {**where, **found_where} if found_where.get(name) != where.get(name)]
        if changed:
            named = ", ".join(f"{name} {found_where.get(name)} then, {where.get(name)} now" for name in changed)
            on_repeat(f"its seconds are of another place: {named}")
            return None
        return found

    def _write(
        self, model: str, name: str, asked: Mapping[str, Any], where: Mapping[str, Any], found: Mapping[str, Any]
    ) -> None:
        _write_json(self._file(model, name), {"asked": dict(asked), "where": dict(where), "found": dict(found)})

    def _read_runs(self) -> list[dict[str, Any]]:
        """Read when earlier runs began and how long they worked; nothing where that cannot be read."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            runs = json.loads((self.path / _RUNS_NAME).read_bytes())["runs"]
            for run in runs:
                datetime.fromisoformat(run["started_at"])
                float(run["seconds"])
            return list(runs)
        return []

    def _check(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        names = [name for name in {**wanted, **found} if name != "budget" and found.get(name) != wanted.get(name)]
        if names:
            lines = "\n".join(f"  {name}: {found.get(name)!r} there, {wanted.get(name)!r} here" for name in names)
            raise StaleCheckpointError(
                f"{self.path}: belongs to another comparison; go on with the same options, discard it with "
                f"--overwrite and --resume never, or choose another output:\n{lines}"
            )

    def _check_budget(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
        """Refuse a smaller budget, or one of another kind; tell whether it is larger."""
        if found["kind"] == wanted["kind"] and found["size"] <= wanted["size"]:
            return bool(found["size"] < wanted["size"])
        raise InputError(
            f"{self.path}: each model was given {found['size']:g} {found['kind']}, asked for were "
            f"{wanted['size']:g} {wanted['kind']}; all models get the same: ask for at least {found['size']:g} "
            f"{found['kind']}, or choose another output"
        )


def _lock_beside(path: Path) -> BinaryIO:
    """Own a folder as long as the stream is open; beside it, as the folder itself may be replaced."""
    place = path.with_name(f".{path.name}.lock")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        stream = place.open("ab")
    except OSError as error:
        raise DataError(f"{place}: cannot be written ({error}); choose another output") from error
    try:
        with suppress(NotImplementedError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        raise InputError(
            f"{path}: the comparison is in use by another process; wait for it, or choose another output"
        ) from None
    except BaseException:
        stream.close()
        raise
    return stream


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
        raise DataError(
            f"{path}: not readable ({error}); begin anew with --resume never --overwrite, or choose another output"
        ) from error
    if not isinstance(found, dict):
        raise DataError(
            f"{path}: expected an object, found {type(found).__name__}; begin anew with --resume never --overwrite"
        )
    return found
