"""The report of an evaluation: its schema, writing and reading; ``docs/report-schema.md`` describes every field."""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow.fs as pafs
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from rgals.data.storage import redact, replace_file, resolve_location
from rgals.errors import DataError, FormatVersionError, InputError, OutputExistsError
from rgals.evaluation.protocol import ColdUsers
from rgals.names import Part
from rgals.numerics.ranking import Gains

__all__ = [
    "REPORT_NAME",
    "SCHEMA_VERSION",
    "BootstrapSection",
    "Comparison",
    "DatasetSection",
    "Difference",
    "Measurement",
    "ModelSection",
    "ProtocolSection",
    "Report",
    "check_report_path",
    "read_report",
    "write_report",
]

SCHEMA_VERSION = 1
"""Raised when a reader of today's reports could misread tomorrow's."""

REPORT_NAME = "report.json"


def _undefined_to_none(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


Number = Annotated[float | None, AfterValidator(_undefined_to_none)]
"""A measured number; null where it is undefined, never a silent 0."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Measurement(_Section):
    """A metric of one model."""

    mean: Number
    """Mean over the evaluated users; of coverage and Gini the one value of all lists together."""
    ci_low: Number
    """Lower end of the bootstrap interval of the mean; null for coverage and Gini."""
    ci_high: Number
    """Upper end of the bootstrap interval."""
    n_users: int = Field(ge=0)
    """Users that the value was measured on."""


class ModelSection(_Section):
    """One model's numbers."""

    name: str
    """The model."""
    train_s: Number
    """Measured seconds of training; null where unknown."""
    evaluate_s: Number
    """Seconds of ranking and measuring, without the bootstrap."""
    n_users_unranked: int = Field(ge=0)
    """Evaluated users whom the model has no factors for; ``protocol.cold_users`` says what they got."""
    n_items_unranked: int = Field(ge=0)
    """Items that the model does not hold; they are in no list, and count as misses where held out."""
    options: dict[str, Any]
    """How the model was trained."""
    notes: list[str]
    """What a reader of the numbers has to know."""
    metrics: dict[str, Measurement]
    """By name and cutoff, such as ``ndcg@20``."""


class Difference(_Section):
    """A metric of one model minus that of another, paired by user."""

    mean: Number
    """Mean difference over the evaluated users."""
    ci_low: Number
    """Lower end of the bootstrap interval of the mean difference."""
    ci_high: Number
    """Upper end."""
    n_better: int = Field(ge=0)
    """Users with a larger value under the first model."""
    n_worse: int = Field(ge=0)
    """Users with a smaller value under the first model."""


class Comparison(_Section):
    """The first model of the report against one of the others."""

    model: str
    """The first model."""
    other: str
    """The one it is compared with."""
    metrics: dict[str, Difference]
    """By name and cutoff."""


class DatasetSection(_Section):
    """What was evaluated on."""

    fingerprint: str
    """Fingerprint of the dataset."""
    n_users: int
    """User rows."""
    n_items: int
    """Item rows: the catalog that is ranked."""
    n_train: int
    """Training interactions."""
    n_held_out: int
    """Interactions of the evaluated part."""
    split: dict[str, Any]
    """The rule that made the parts."""


class BootstrapSection(_Section):
    """How the intervals were made."""

    method: Literal["percentile"] = "percentile"
    """Kind of interval."""
    n_resamples: int
    """Number of resamples; 0 for no intervals."""
    seed: int
    """Key of the draws."""
    level: float
    """Confidence level."""


class ProtocolSection(_Section):
    """How it was measured."""

    part: Literal["test", "validation"]
    """The held-out part."""
    generalization: Literal["weak", "strong"]
    """Weak: users of the training; strong: new users, folded in."""
    ranking: Literal["full"] = "full"
    """All items are ranked, no sampled candidates."""
    cutoffs: list[int]
    """Lengths k of the lists."""
    gains: Gains
    """Gains of NDCG."""
    seen_parts: list[Part]
    """Parts whose items are left out of a user's list."""
    cold_users: ColdUsers
    """What users get whom a model has no factors for: popular items, or an empty list."""
    n_users_evaluated: int
    """Users with at least one held-out item; all means are over them."""
    n_users_without_held_out: int
    """Users left out because nothing of them is held out."""
    n_users_without_history: int
    """Evaluated users without any seen item."""
    n_held_out_seen: int
    """Held-out interactions that are seen too and can be in no list; they count as misses."""
    bootstrap: BootstrapSection
    """The intervals."""


class Report(_Section):
    """An evaluation, whole."""

    schema_version: int = SCHEMA_VERSION
    """Version of this schema."""
    rgals_version: str
    """Version that measured."""
    dataset: DatasetSection
    """What was evaluated on."""
    protocol: ProtocolSection
    """How."""
    models: list[ModelSection]
    """The evaluated model first, then the baselines."""
    comparisons: list[Comparison]
    """The first model against each other, paired by user."""


def check_report_path(location: str | Path, overwrite: bool) -> Path:
    """Find the file that a report goes to.

    Parameters
    ----------
    location : str or Path
        A local path: a file ``NAME.json``, or a folder that gets a ``report.json``.
    overwrite : bool
        Whether a report already there may be replaced.

    Raises
    ------
    InputError
        If the location is not on a local disk.
    OutputExistsError
        If a report is there and ``overwrite`` is false, or a file is in the way of the folder.
    """
    filesystem, text = resolve_location(location)
    if not isinstance(filesystem, pafs.LocalFileSystem):
        raise InputError(f"{redact(str(location))}: reports are written to local disks; choose a local path")
    path = Path(text)
    if path.suffix != ".json":
        if path.exists() and not path.is_dir():
            raise OutputExistsError(f"{path}: a file is in the way; choose a folder or a file NAME.json")
        path = path / REPORT_NAME
    if path.is_dir():
        raise OutputExistsError(f"{path}: a folder is in the way; choose another output")
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path}: exists already; choose another output or pass --overwrite")
    return path


def write_report(report: Report, path: Path) -> None:
    """Write a report whole or not at all.

    Raises
    ------
    DataError
        If the disk is full or the place cannot be written to; an older report stays as it was.
    """
    text = json.dumps(report.model_dump(mode="json"), indent=2, allow_nan=False, ensure_ascii=False)
    replace_file(path, (text + "\n").encode())


def read_report(path: str | Path) -> Report:
    """Read what `write_report` wrote.

    Raises
    ------
    DataError
        If the file is missing or not a report.
    FormatVersionError
        If a newer rgals wrote it.
    """
    try:
        document = json.loads(Path(path).read_bytes())
        version = int(document["schema_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a readable report ({error!r}); evaluate again") from error
    if version > SCHEMA_VERSION:
        raise FormatVersionError(
            f"{path}: schema version {version} of a report, this rgals reads up to {SCHEMA_VERSION}; upgrade rgals"
        )
    try:
        return Report.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise DataError(f"{path}: field {where}: {first['msg']}; evaluate again") from error
