"""A registry of models: immutable versions, a pointer to the current one, a history; ``docs/registry.md``.

A version is a model folder that was current at some time. The pointer is one small file that is
replaced whole, so a reader sees the old version or the new one, and a process that is killed
before that moment has changed nothing.
"""

import getpass
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from rgals.artifact.model import Model
from rgals.artifact.model_reader import Verification
from rgals.artifact.registry_copy import ModelFiles, summarize_model
from rgals.artifact.registry_records import (
    Action,
    CurrentRecord,
    Event,
    Judgement,
    event_id,
    utc_now,
)
from rgals.artifact.registry_store import RegistryStore
from rgals.data.storage import Folder, redact
from rgals.errors import ChecksumError, DataError, InputError, RgalsError
from rgals.names import MANIFEST_NAME

__all__ = [
    "CurrentVersion",
    "Judge",
    "Publication",
    "Version",
    "list_versions",
    "publish",
    "read_current",
    "read_history",
    "rollback",
]

_MAX_JUDGEMENTS = 5
"""How often a publisher that was overtaken is judged again."""

_MIN_KEPT = 2
"""The current version and one to go back to."""


@dataclass(frozen=True, slots=True)
class CurrentVersion:
    """The version that a registry's pointer names; equal to another while the pointer has not moved.

    Parameters
    ----------
    version : str
        Its name, such as ``"v00003"``.
    since : datetime
        When it became current, UTC.
    manifest_sha256 : str
        SHA-256 of its model's manifest.
    folder : Folder
        Its model folder.
    event : Event
        What made it current.
    """

    version: str
    since: datetime
    manifest_sha256: str
    folder: Folder = field(compare=False)
    event: Event

    def open(self, *, verify: Verification = True) -> Model:
        """Open its model; as `Model.open`, and compare the manifest with the one that was published.

        Raises
        ------
        DataError
            If the version is gone, or as `Model.open`.
        ChecksumError
            If it is not what was published.
        """
        return _open_version(self.folder, self.manifest_sha256, verify)


@dataclass(frozen=True, slots=True)
class Version:
    """A version that a registry holds.

    Parameters
    ----------
    name : str
        Such as ``"v00003"``.
    folder : Folder
        Its model folder.
    event : Event
        Its publication.
    is_current : bool
        Whether the pointer names it.
    """

    name: str
    folder: Folder = field(compare=False)
    event: Event
    is_current: bool


@dataclass(frozen=True, slots=True)
class Publication:
    """How an attempt to publish ended.

    Parameters
    ----------
    event : Event
        ``publish``, or ``refused`` with the reasons in its judgement.
    removed : tuple of str
        Old versions that were deleted afterwards.
    warning : str or None
        Why old versions could not be deleted; the model is published all the same.
    """

    event: Event
    removed: tuple[str, ...] = ()
    warning: str | None = None

    @property
    def is_published(self) -> bool:
        """Whether the model is current now."""
        return self.event.action == "publish"


Judge: TypeAlias = Callable[[CurrentVersion | None], Judgement]
"""Compares the candidate with the current version, None for a first one; `rgals.artifact.registry_gate.Gate` is one."""


def read_current(registry: str | Path | Folder) -> CurrentVersion:
    """Read which version is current: one small file, however many versions there are.

    Parameters
    ----------
    registry : str, Path or Folder
        Local path or pyarrow filesystem URI.

    Raises
    ------
    DataError
        If this is not a registry, nothing is published yet, or the pointer cannot be read.
    FormatVersionError
        If a newer rgals wrote it.
    """
    store = RegistryStore.open(registry)
    current = _current(store, store.read_current())
    if current is None:
        raise DataError(f"{store.folder}: no version is published yet; run rgals publish")
    return current


def read_history(registry: str | Path | Folder) -> list[Event]:
    """Read everything that happened to a registry, oldest first.

    Raises
    ------
    DataError
        If this is not a registry, or a record cannot be read.
    """
    return RegistryStore.open(registry).read_events()


def list_versions(registry: str | Path | Folder) -> list[Version]:
    """List the versions that a registry holds, oldest first.

    Folders that no event names, as a killed process may leave them, are not versions; neither are
    those that were deleted.

    Raises
    ------
    DataError
        If this is not a registry, or a record cannot be read.
    """
    return _list_versions(RegistryStore.open(registry))


def publish(
    registry: str | Path | Folder,
    model: Model,
    judge: Judge,
    *,
    force: bool = False,
    keep: int | None = None,
    command: str | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    before: Callable[[], None] | None = None,
) -> Publication:
    """Copy a model into a registry and make it current, if the judge has nothing against it.

    Parameters
    ----------
    registry : str, Path or Folder
        Local path or pyarrow filesystem URI; made where it is not there.
    model : Model
        The candidate.
    judge : callable
        Asked before anything is copied; asked again if another version became current meanwhile.
    force : bool
        Whether to publish even if the judge objects; recorded with its numbers.
    keep : int or None
        Delete versions beyond the newest ``keep``, at least 2; the current version and the one that a
        rollback would go to stay in any case. None keeps all.
    command : str or None
        The command line, for the history; credentials are taken out.
    progress : callable or None
        Called with the bytes copied and their total.
    before : callable or None
        Called once the judge is content or overruled, before the model becomes current: attaches what belongs to
        it, so that whoever serves the version finds that too.

    Returns
    -------
    Publication
        A refusal is an answer, not an error, and is in the history as well.

    Raises
    ------
    InputError
        If ``keep`` is too small, or the registry's folder holds other things.
    ChecksumError
        If the model is damaged, or was copied wrongly.
    DataError
        If the registry cannot be read or written, or others published again and again meanwhile.

    Notes
    -----
    Of two publishers at once both are judged against what is current when they publish: the second one is judged
    again. On an object store, which has no locks, this leaves the moment between the last look at
    ``CURRENT`` and its writing.
    """
    if keep is not None and keep < _MIN_KEPT:
        raise InputError(
            f"keep: expected at least {_MIN_KEPT}, the current version and one to go back to, found {keep}"
        )
    store = RegistryStore.open(registry, create=True)
    files = ModelFiles.of(model)
    for _ in range(_MAX_JUDGEMENTS):
        former = store.read_current()
        judgement = judge(_current(store, former))
        if not judgement.is_passed and not force:
            if _is_overtaken(store, former):
                continue  # what it was compared with is not what a user gets now
            event = _event("refused", None, former, command, model=summarize_model(model, files), judgement=judgement)
            store.write_event(event)
            return Publication(event)
        if before is not None:
            before()
            before = None
        with store.exclusive():
            if _is_overtaken(store, former):
                continue
            version = store.add_version(files, progress)
            if _is_overtaken(store, former):  # only where nobody is kept out
                store.remove_version(version)
                continue
            event = _event(
                "publish",
                version,
                former,
                command,
                model=summarize_model(model, files),
                judgement=judgement,
                is_forced=not judgement.is_passed,
            )
            _point_at_copy(store, event, former)
            return Publication(event) if keep is None else _clean_up(store, event, keep, command)
    raise DataError(
        f"{store.folder}: other versions became current {_MAX_JUDGEMENTS} times while this one was judged; publish "
        "again when others are done"
    )


def rollback(registry: str | Path | Folder, to: str | None = None, *, command: str | None = None) -> Event:
    """Make an older version current again.

    Parameters
    ----------
    registry : str, Path or Folder
        Local path or pyarrow filesystem URI.
    to : str or None
        The version; None: the one that was current before the current one was published. So a
        second rollback goes back further, and a version that was rolled back is passed over.
    command : str or None
        The command line, for the history.

    Returns
    -------
    Event
        Its ``previous`` is the version that was current until now.

    Raises
    ------
    InputError
        If there is no such version, it is current already, or there is none to go back to.
    DataError
        If this is not a registry, nothing is published, or the version's files are damaged: then nothing changes.
    """
    store = RegistryStore.open(registry)
    with store.exclusive():
        former = store.read_current()
        if former is None:
            raise DataError(f"{store.folder}: no version is published yet; there is nothing to roll back")
        held = {version.name: version for version in _list_versions(store)}
        target = to or _parent(store, held, former.version)
        if target == former.version:
            raise InputError(f"{store.folder}: {target} is current already; name another version with --to")
        if target is None or target not in held:
            what = f"no version {target}" if target else f"nothing was current before {former.version}"
            others = ", ".join(name for name in held if name != former.version) or "none"
            raise InputError(
                f"{store.folder}: {what}; name a version with --to; besides the current one it holds {others}"
            )
        summary = held[target].event.model
        _open_version(held[target].folder, summary.manifest_sha256 if summary else "", True)
        event = _event("rollback", target, former, command, model=summary)
        store.set_current(event)
    return event


def _list_versions(store: RegistryStore) -> list[Version]:
    current = store.read_current()
    publications = {event.version: event for event in store.read_events() if event.action == "publish"}
    return [
        Version(name, store.version_folder(name), event, current is not None and current.version == name)
        for name, event in sorted((name, event) for name, event in publications.items() if name is not None)
        if store.has_version(name)
    ]


def _parent(store: RegistryStore, held: dict[str, Version], version: str) -> str | None:
    """Give the version that was current before a version was published; further back where it is gone."""
    before = {event.version: event.previous for event in store.read_events() if event.action == "publish"}
    found = before.get(version)
    while found is not None and found not in held:
        found = before.get(found)
    return found


def _clean_up(store: RegistryStore, event: Event, keep: int, command: str | None) -> Publication:
    """Delete all versions but the newest, the current one and the one to go back to; what fails is only told."""
    removed: list[str] = []
    try:
        current = store.read_current()
        held = {version.name: version for version in _list_versions(store)}
        newest = event.version if current is None else current.version
        kept = {*list(held)[-keep:], newest, None if newest is None else _parent(store, held, newest)}
        for name in (name for name in held if name not in kept):
            store.remove_version(name)
            removed.append(name)
            store.write_event(_event("removed", name, current, command, model=held[name].event.model))
    except (DataError, OSError) as error:
        return Publication(event, tuple(removed), f"old versions could not be deleted: {error}")
    return Publication(event, tuple(removed))


def _current(store: RegistryStore, record: CurrentRecord | None) -> CurrentVersion | None:
    if record is None:
        return None
    return CurrentVersion(
        record.version,
        datetime.fromisoformat(record.since),
        record.manifest_sha256,
        store.version_folder(record.version),
        record.event,
    )


def _is_overtaken(store: RegistryStore, former: CurrentRecord | None) -> bool:
    """Tell whether another version became current since one was judged."""
    now = store.read_current()
    return (now and now.event.id) != (former and former.event.id)


def _point_at_copy(store: RegistryStore, event: Event, former: CurrentRecord | None) -> None:
    """Make a new copy current, or take it back: where the disk is full, each attempt would leave a whole model."""
    try:
        store.set_current(event)
    except BaseException:
        # Where the pointer moved all the same, the copy is the version. On an object store a write that failed here
        # may still arrive there, so the copy stays.
        with suppress(RgalsError, OSError):
            is_local = store.folder.local_path is not None
            if is_local and event.version is not None and not _is_overtaken(store, former):
                store.remove_version(event.version)
        raise


def _open_version(folder: Folder, manifest_sha256: str, verify: Verification) -> Model:
    if not folder.exists(MANIFEST_NAME):
        raise DataError(f"{folder}: the version is gone; roll back to another one")
    found = folder.sha256(MANIFEST_NAME)
    if found != manifest_sha256:
        raise ChecksumError(
            f"{folder.label(MANIFEST_NAME)}: expected SHA-256 {manifest_sha256[:12]}, as it was published, found "
            f"{found[:12]}; a version is never changed: restore it, or roll back to another one"
        )
    return Model.open(folder, verify=verify)


def _event(
    action: Action, version: str | None, former: CurrentRecord | None, command: str | None, **details: Any
) -> Event:
    at = utc_now()
    return Event(
        id=event_id(at, action, version),
        action=action,
        at=at.isoformat(timespec="microseconds"),
        by=_who(),
        command=None if command is None else redact(command),
        version=version,
        previous=None if former is None else former.version,
        **details,
    )


def _who() -> str:
    """Name the user and the machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
