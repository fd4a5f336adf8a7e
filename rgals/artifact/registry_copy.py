"""Copying a model folder file by file: what arrives is what its manifest promises."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from rgals.artifact import layout
from rgals.artifact.model import Model
from rgals.artifact.registry_records import ModelSummary
from rgals.data.storage import FileEntry, Folder, read_manifest, redact, verify_file
from rgals.errors import ChecksumError, DataError
from rgals.names import MANIFEST_NAME

__all__ = ["ModelFiles", "copy_model", "summarize_model"]

_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a model, as its manifest promised them at one moment.

    Parameters
    ----------
    folder : Folder
        Where they are.
    manifest : bytes
        The manifest.
    files : mapping of str to FileEntry
        Size and checksum of each file.
    """

    folder: Folder
    manifest: bytes
    files: Mapping[str, FileEntry]

    @classmethod
    def of(cls, model: Model) -> "ModelFiles":
        """Read the manifest of an opened model.

        Raises
        ------
        DataError
            If another model lies there by now, or the manifest names a file outside the folder.
        """
        folder = model.contents.folder
        payload, _ = read_manifest(folder, layout.KIND, layout.FORMAT_VERSION)
        found = cls.at(folder)
        if payload.get("factor_sha256") != model.factor_checksum:
            raise DataError(f"{folder}: another model was written there since it was opened; publish again")
        return found

    @classmethod
    def at(cls, folder: Folder) -> "ModelFiles":
        """Read the manifest of a model folder.

        Raises
        ------
        DataError
            If there is no model, or the manifest names a file outside the folder.
        """
        _, files = read_manifest(folder, layout.KIND, layout.FORMAT_VERSION)
        manifest = folder.read_bytes(MANIFEST_NAME)
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise DataError(f"{folder.label(MANIFEST_NAME)}: names the file {name!r}, which is not in the folder")
        return cls(folder, manifest, files)

    @property
    def n_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(entry.n_bytes for entry in self.files.values())

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest."""
        return hashlib.sha256(self.manifest).hexdigest()


def summarize_model(model: Model, files: ModelFiles) -> ModelSummary:
    """Say which model it is, and where it comes from."""
    lineage = model.lineage

    def told(name: str) -> str | None:
        return None if lineage.get(name) is None else redact(str(lineage[name]))

    return ModelSummary(
        source=redact(str(files.folder)),
        manifest_sha256=files.manifest_sha256,
        factor_sha256=model.factor_checksum,
        loss=model.loss.name,
        n_factors=model.n_factors,
        n_users=model.n_users,
        n_items=model.n_items,
        dataset_fingerprint=told("dataset_fingerprint"),
        created_at=told("created_at"),
        rgals_version=told("rgals_version"),
    )


def copy_model(model: ModelFiles, target: Folder, progress: Callable[[int, int | None], None] | None = None) -> None:
    """Copy the files, then the manifest; each is hashed when it is read, and again where it was written.

    Parameters
    ----------
    model : ModelFiles
        What to copy.
    target : Folder
        Where to.
    progress : callable or None
        Called with the bytes copied and their total.

    Raises
    ------
    ChecksumError
        If a file is not what the manifest promises, at the source or at the target.
    DataError
        If a file is missing, or the target cannot be written to.
    """
    n_done, n_total = 0, model.n_bytes
    for name, entry in model.files.items():
        digest = hashlib.sha256()
        try:
            with model.folder.open_input(name) as source, target.open_output(name) as copy:
                while block := source.read(_BLOCK_BYTES):
                    digest.update(block)
                    copy.write(block)
                    n_done += len(block)
                    if progress is not None:
                        progress(n_done, n_total)
        except OSError as error:
            raise DataError(
                f"{target.label(name)}: copying failed ({redact(str(error))}); free space or choose another registry"
            ) from error
        if digest.hexdigest() != entry.sha256:
            raise ChecksumError(
                f"{model.folder.label(name)}: expected SHA-256 {entry.sha256[:12]}, found {digest.hexdigest()[:12]}; "
                "the model is damaged or was replaced meanwhile: restore it or train again"
            )
        verify_file(target, name, model.files)
    target.write_bytes(MANIFEST_NAME, model.manifest)
