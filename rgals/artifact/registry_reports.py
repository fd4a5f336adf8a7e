"""Reports of the evaluation job beside the versions of a registry: what a service shows of the model it serves."""

from dataclasses import dataclass
from pathlib import Path

from rgals.artifact.model import Model
from rgals.artifact.registry_copy import ModelFiles
from rgals.artifact.registry_store import RegistryStore
from rgals.data.storage import Folder
from rgals.errors import DataError, InputError
from rgals.evaluation.report import REPORT_NAME, ModelSection, Report, parse_report, read_report

__all__ = ["AttachedReport", "attach_report", "check_report", "find_section", "read_attached", "read_attached_page"]

_FOLDER_NAME = "reports"
_PAGE_NAME = "report.html"
_MAX_PAGE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class AttachedReport:
    """A report and the section of the model that it was attached to.

    Parameters
    ----------
    report : Report
        The report.
    section : ModelSection
        The model's part of it.
    has_page : bool
        Whether there is a page to read.
    """

    report: Report
    section: ModelSection
    has_page: bool


def find_section(report: Report, factor_checksum: str) -> ModelSection | None:
    """Find a model in a report by the checksum of its factors; None where it is not there."""
    for section in report.models:
        if section.options.get("factor_sha256") == factor_checksum:
            return section
    return None


def check_report(path: Path, model: Model) -> None:
    """See that a report is about a model.

    Parameters
    ----------
    path : Path
        A ``report.json``, or the folder that holds one.
    model : Model
        The model.

    Raises
    ------
    DataError
        If it is not a readable report.
    InputError
        If the model is not in it.
    """
    file = _file_of(path)
    if find_section(read_report(file), model.factor_checksum) is None:
        raise InputError(
            f"{file}: holds no model with the factor checksum {model.factor_checksum[:12]}; attach the report that "
            "rgals evaluate wrote for this very model"
        )


def attach_report(registry: str | Path | Folder, model: Model, path: Path) -> None:
    """Copy a report of a model, and its page where there is one, into a registry; an older one is replaced.

    Parameters
    ----------
    registry : str, Path or Folder
        Local path or pyarrow filesystem URI.
    model : Model
        The published model, or the folder that it was published from.
    path : Path
        A ``report.json``, or the folder that holds one. Its page lies beside it with the suffix ``.html``.

    Raises
    ------
    DataError
        If this is not a registry, or the report cannot be read, or the registry cannot be written to.
    InputError
        If the model is not in the report.
    """
    check_report(path, model)
    file = _file_of(path)
    store = RegistryStore.open(registry)
    folder = store.folder_beside(_FOLDER_NAME, ModelFiles.of(model).manifest_sha256)
    page = file.with_suffix(".html")
    if page.is_file():
        store.write_file(folder, _PAGE_NAME, page.read_bytes())
    store.write_file(folder, REPORT_NAME, file.read_bytes())


def read_attached(registry: str | Path | Folder, manifest_sha256: str, factor_checksum: str) -> AttachedReport | None:
    """Read the report of a version; None where none was attached.

    Parameters
    ----------
    registry : str, Path or Folder
        Local path or pyarrow filesystem URI.
    manifest_sha256 : str
        SHA-256 of the version's manifest.
    factor_checksum : str
        Its factor checksum.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    folder = RegistryStore.open(registry).folder_beside(_FOLDER_NAME, manifest_sha256)
    if not folder.exists(REPORT_NAME):
        return None
    report = parse_report(folder.read_bytes(REPORT_NAME), folder.label(REPORT_NAME))
    section = find_section(report, factor_checksum)
    if section is None:
        raise DataError(f"{folder.label(REPORT_NAME)}: is not about this version; attach its report again")
    return AttachedReport(report, section, folder.exists(_PAGE_NAME))


def read_attached_page(registry: str | Path | Folder, manifest_sha256: str) -> bytes | None:
    """Read the page of a version's report; None where there is none."""
    folder = RegistryStore.open(registry).folder_beside(_FOLDER_NAME, manifest_sha256)
    if not folder.exists(_PAGE_NAME) or folder.n_bytes(_PAGE_NAME) > _MAX_PAGE_BYTES:
        return None
    return folder.read_bytes(_PAGE_NAME)


def _file_of(path: Path) -> Path:
    return path / REPORT_NAME if path.is_dir() else path
