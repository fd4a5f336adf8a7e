"""What a registry writes down: the pointer to the current version, events, and the numbers behind them."""

import json
import math
import uuid
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from rgals.errors import DataError, FormatVersionError

__all__ = [
    "FORMAT_VERSION",
    "Action",
    "CurrentRecord",
    "Estimate",
    "Event",
    "Judgement",
    "ModelSummary",
    "RegistryRecord",
    "encode_record",
    "event_id",
    "parse_record",
    "utc_now",
]

FORMAT_VERSION = 1
"""Of a registry; raised by every change that an older rgals would misread."""

Action: TypeAlias = Literal["publish", "refused", "rollback", "removed"]
"""What happened: a version became current, was refused by the gate, became current again, was deleted."""


def _undefined_to_none(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


_Number = Annotated[float | None, AfterValidator(_undefined_to_none)]


class RegistryRecord(BaseModel):
    """Base of the records; fields that this version does not know are ignored."""

    model_config = ConfigDict(frozen=True)


class Estimate(RegistryRecord):
    """A mean over users with its bootstrap interval; null where undefined."""

    mean: _Number
    """The mean."""
    ci_low: _Number
    """Lower end of the interval."""
    ci_high: _Number
    """Upper end."""


class Judgement(RegistryRecord):
    """What the gate measured, and what it objects to."""

    metric: str
    """Name and cutoff, such as ``ndcg@20``."""
    part: str
    """Held-out part that it was measured on."""
    dataset: str
    """Where the dataset is, without credentials."""
    dataset_fingerprint: str
    """Its fingerprint."""
    n_users: int
    """Evaluated users."""
    level: float
    """Confidence level of the intervals."""
    margin: _Number
    """By how much the metric may fall, as an amount; null where a relative margin had nothing to relate to."""
    candidate: Estimate
    """The model that asks to be published."""
    popularity: Estimate
    """The most popular items."""
    over_popularity: Estimate
    """Candidate minus popularity, paired by user."""
    current_version: str | None = None
    """The version that was current; null for a first version."""
    current: Estimate | None = None
    """Its own numbers on the same users; null if there was none or it could not be evaluated."""
    over_current: Estimate | None = None
    """Candidate minus current, paired by user."""
    n_held_out: int
    """Held-out interactions of the part."""
    n_held_out_known: int
    """How many of them the candidate was trained on."""
    reasons: tuple[str, ...] = ()
    """What speaks against publishing; empty where nothing does."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers has to know."""

    @property
    def is_passed(self) -> bool:
        """Whether nothing speaks against publishing."""
        return not self.reasons


class ModelSummary(RegistryRecord):
    """Which model it is, and where it comes from."""

    source: str
    """Folder that it was copied from, without credentials."""
    manifest_sha256: str
    """SHA-256 of its manifest, which holds the checksums of all its files."""
    factor_sha256: str
    """Its factor checksum."""
    loss: str
    """Name of the loss."""
    n_factors: int
    """Number of factors."""
    n_users: int
    """Number of users."""
    n_items: int
    """Number of items."""
    dataset_fingerprint: str | None = None
    """Fingerprint of the dataset that it was trained on."""
    created_at: str | None = None
    """When it was written."""
    rgals_version: str | None = None
    """Version that trained it."""


class Event(RegistryRecord):
    """One thing that happened to a registry; never changed afterwards."""

    format_version: int = FORMAT_VERSION
    """Version of this record."""
    id: str
    """Name of its file in ``history``, without the suffix; sorts by time."""
    action: Action
    """What happened."""
    at: str
    """When, UTC, ISO 8601."""
    by: str
    """User and machine."""
    command: str | None = None
    """The command line, without credentials."""
    version: str | None = None
    """The version that was published, rolled back to or deleted; null for a refusal."""
    previous: str | None = None
    """The version that was current before."""
    is_forced: bool = False
    """Whether the gate objected and was overruled."""
    model: ModelSummary | None = None
    """The model of the version, or the refused one."""
    judgement: Judgement | None = None
    """What the gate measured; null where it was not asked."""


class CurrentRecord(RegistryRecord):
    """The content of ``CURRENT``."""

    format_version: int = FORMAT_VERSION
    """Version of this record."""
    version: str
    """Folder of the current version."""
    since: str
    """When it became current, UTC, ISO 8601."""
    manifest_sha256: str
    """SHA-256 of the manifest of its model."""
    event: Event
    """What made it current: the history is whole even if a process was killed before it wrote the event there."""


_Record = TypeVar("_Record", Event, CurrentRecord)


def utc_now() -> datetime:
    """Give the time, in UTC."""
    return datetime.now(UTC)


def event_id(at: datetime, action: Action, version: str | None) -> str:
    """Make the name of an event: unique, and sorted by time."""
    return f"{at:%Y%m%dT%H%M%S.%fZ}-{action}-{version or 'none'}-{uuid.uuid4().hex[:8]}"


def encode_record(record: RegistryRecord) -> bytes:
    """Write a record as JSON."""
    document = record.model_dump(mode="json")
    return (json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def parse_record(kind: type[_Record], content: bytes, place: str) -> _Record:
    """Read a record of `encode_record`.

    Raises
    ------
    DataError
        If it is not a readable record.
    FormatVersionError
        If a newer rgals wrote it.
    """
    try:
        document = json.loads(content)
        version = int(document["format_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{place}: not a readable record ({error!r}); restore it") from error
    if version > FORMAT_VERSION:
        raise FormatVersionError(
            f"{place}: format version {version} of a registry, this rgals reads up to {FORMAT_VERSION}; upgrade rgals"
        )
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise DataError(f"{place}: field {where}: {first['msg']}; restore it") from error
