"""The report of an evaluation: its schema, writing and reading; ``docs/report-schema.md`` describes every field."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow.fs as pafs
from pydantic import Field, ValidationError, model_validator

from rgals.data.storage import redact, replace_file, resolve_location
from rgals.errors import DataError, FormatVersionError, InputError, OutputExistsError
from rgals.evaluation.protocol import ColdUsers
from rgals.evaluation.report_sections import (
    BucketDifference,
    CurvePoint,
    ItemBucket,
    LeftOut,
    ListedItem,
    Machine,
    Number,
    Provenance,
    SampleUser,
    SearchDimension,
    Section,
    Trial,
    Tuning,
    UserBucket,
    UserBucketDifference,
)
from rgals.names import Part
from rgals.numerics.ranking import Gains

__all__ = [
    "REPORT_NAME",
    "SCHEMA_VERSION",
    "BootstrapSection",
    "BucketDifference",
    "Comparison",
    "CurvePoint",
    "DatasetSection",
    "Difference",
    "Family",
    "ItemBucket",
    "LeftOut",
    "ListedItem",
    "Machine",
    "Measurement",
    "ModelDetails",
    "ModelSection",
    "ProtocolSection",
    "Provenance",
    "Report",
    "SampleUser",
    "SearchDimension",
    "Trial",
    "Tuning",
    "UserBucket",
    "UserBucketDifference",
    "check_free",
    "check_report_path",
    "headline_metric",
    "parse_report",
    "read_report",
    "write_report",
]

SCHEMA_VERSION = 2
"""Raised when a reader of today's reports could misread tomorrow's."""

REPORT_NAME = "report.json"


Family = Literal["rg", "softmax", "other", "trivial"]
"""What a model is: a loss of this library, softmax, another method, or a yardstick that learns nothing."""


class Measurement(Section):
    """A metric of one model."""

    mean: Number
    """Mean over the evaluated users; of coverage, Gini and popularity the one value of all lists together."""
    ci_low: Number
    """Lower end of the bootstrap interval of the mean; null for coverage, Gini and popularity."""
    ci_high: Number
    """Upper end of the bootstrap interval."""
    n_users: int = Field(ge=0)
    """Users that the value was measured on."""


class ModelDetails(Section):
    """What is known of a model from its training."""

    name: str
    """The model, unique in the report."""
    label: str = ""
    """Name to show; the name unless given."""
    family: Family = "other"
    """What it is in the comparison."""
    seconds_to_99: Number = None
    """Training seconds until the curve first reaches 99 percent of its best value; null without a curve."""
    n_rounds: int | None = None
    """Sweeps, epochs or iterations of the training; null where unknown."""
    n_start_rounds: int = Field(default=0, ge=0)
    """Rounds at the beginning of the curve that minimized another loss, whose minimum is where the model starts."""
    curve: list[CurvePoint] = Field(default_factory=list)
    """The model during its training, by round; empty where it was not looked at."""
    tuning: Tuning | None = None
    """The search for its options; null where there was none."""

    @model_validator(mode="after")
    def _label_by_name(self) -> Self:
        if not self.label:
            object.__setattr__(self, "label", self.name)
        return self


class ModelSection(ModelDetails):
    """One model's numbers."""

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
    user_buckets: list[UserBucket] = Field(default_factory=list)
    """By number of seen items, rising."""
    item_buckets: list[ItemBucket] = Field(default_factory=list)
    """By number of training interactions, rising; of the lists as long as the headline metric looks."""


class Difference(Section):
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
    p_bootstrap: Number = None
    """Two-sided p-value of the mean difference, from the resamples of the interval; null without them."""
    p_wilcoxon: Number = None
    """Two-sided p-value of Wilcoxon's signed-rank test."""
    p_holm: Number = None
    """The same, corrected by Holm for all comparisons of the report by this metric."""


class Comparison(Section):
    """The reference model of the report, the first unless chosen otherwise, against one of the others."""

    model: str
    """The reference model."""
    other: str
    """The one it is compared with."""
    metrics: dict[str, Difference]
    """By name and cutoff."""
    user_buckets: list[UserBucketDifference] = Field(default_factory=list)
    """Wins and losses by the headline metric, in the buckets of users."""
    item_buckets: list[BucketDifference] = Field(default_factory=list)
    """Wins and losses in the buckets of items."""


class DatasetSection(Section):
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


class BootstrapSection(Section):
    """How the intervals were made."""

    method: Literal["percentile"] = "percentile"
    """Kind of interval."""
    n_resamples: int
    """Number of resamples; 0 for no intervals."""
    seed: int
    """Key of the draws."""
    level: float
    """Confidence level."""


class ProtocolSection(Section):
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


class Report(Section):
    """An evaluation, whole."""

    schema_version: int = SCHEMA_VERSION
    """Version of this schema."""
    kind: Literal["evaluation", "comparison"] = "evaluation"
    """Given models that were measured, or models that were tuned, trained and measured alike."""
    created_at: str | None = None
    """When it was made, UTC, ISO 8601."""
    rgals_version: str
    """Version that measured."""
    metric: str
    """The headline metric, such as ``ndcg@20``."""
    dataset: DatasetSection
    """What was evaluated on."""
    protocol: ProtocolSection
    """How."""
    models: list[ModelSection]
    """The evaluated model first, then the baselines."""
    comparisons: list[Comparison]
    """The reference model against each other, paired by user."""
    left_out: list[LeftOut] = Field(default_factory=list)
    """Models that were asked for and could not be measured."""
    sample_users: list[SampleUser] = Field(default_factory=list)
    """Ten users, from the least to the most active, and what they are shown."""
    titles: dict[str, str] = Field(default_factory=dict)
    """Titles of the sample users' items by id, where known."""
    provenance: Provenance | None = None
    """Where the numbers come from."""


def headline_metric(cutoffs: Sequence[int]) -> str:
    """Give the metric to speak of first: NDCG at 20, or at the first cutoff where 20 is none.

    Parameters
    ----------
    cutoffs : sequence of int
        Lengths of the lists, at least one.
    """
    return f"ndcg@{20 if 20 in cutoffs else cutoffs[0]}"


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


def check_free(paths: Iterable[Path], overwrite: bool) -> None:
    """Check that files beside a report may be written, before long work begins.

    Raises
    ------
    OutputExistsError
        If one is there and ``overwrite`` is false.
    """
    for path in paths:
        if path.exists() and not overwrite:
            raise OutputExistsError(f"{path}: exists already; choose another output or pass --overwrite")


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
    """Read what `write_report` wrote, now or under an earlier schema.

    Returns
    -------
    Report
        Of the present schema; what an older one did not hold is absent.

    Raises
    ------
    DataError
        If the file is missing or not a report.
    FormatVersionError
        If a newer rgals wrote it.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: not a readable report ({error!r}); evaluate again") from error
    return parse_report(content, str(path))


def parse_report(content: bytes, path: str) -> Report:
    """Read the bytes of a report; as `read_report`.

    Parameters
    ----------
    content : bytes
        What the file holds.
    path : str
        Where it is, for messages.
    """
    try:
        document = json.loads(content)
        version = int(document["schema_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a readable report ({error!r}); evaluate again") from error
    if version > SCHEMA_VERSION:
        raise FormatVersionError(
            f"{path}: schema version {version} of a report, this rgals reads up to {SCHEMA_VERSION}; upgrade rgals"
        )
    try:
        return Report.model_validate(_upgrade(document))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise DataError(f"{path}: field {where}: {first['msg']}; evaluate again") from error


def _upgrade(document: dict[str, Any]) -> dict[str, Any]:
    """Bring an older report to the present schema; a broken one is left for the validation to refuse."""
    if document["schema_version"] == 1 and "protocol" in document:
        cutoffs = document["protocol"].get("cutoffs") or [20]
        document = {**document, "schema_version": SCHEMA_VERSION, "metric": headline_metric(cutoffs)}
    return document
