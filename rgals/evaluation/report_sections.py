"""Parts of a report beside the means: curves, tuning, buckets, sample users, provenance."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = [
    "BucketDifference",
    "CurvePoint",
    "ItemBucket",
    "LeftOut",
    "ListedItem",
    "Machine",
    "Number",
    "Provenance",
    "SampleUser",
    "SearchDimension",
    "Section",
    "Trial",
    "TrialState",
    "Tuning",
    "UserBucket",
    "UserBucketDifference",
]


def _undefined_to_none(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


Number = Annotated[float | None, AfterValidator(_undefined_to_none)]
"""A measured number; null where it is undefined, never a silent 0."""

TrialState = Literal["complete", "pruned", "failed", "stopped"]
"""How a trial of a search ended; stopped: its time was up, and what it had reached counts."""


class Section(BaseModel):
    """A part of a report: closed, and not changed once it is made."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CurvePoint(Section):
    """A model during its training."""

    round: int = Field(ge=0)
    """Sweeps, epochs or iterations so far."""
    train_s: float = Field(ge=0)
    """Training seconds so far, without the time of measuring."""
    ndcg: Number = None
    """NDCG on the validation part, of a fit on the training part alone."""
    objective: Number = None
    """Value of the loss that is trained."""
    softmax: Number = None
    """True softmax loss of a sample of users, per unit of interaction weight."""
    surrogate: Number = None
    """The loss's approximation of the same, on the same users."""


class SearchDimension(Section):
    """The values of an option that a search may choose from."""

    low: Number = None
    """Smallest value; null for choices."""
    high: Number = None
    """Largest value; null for choices."""
    log: bool = False
    """Whether the search draws the logarithm evenly."""
    choices: list[Any] | None = None
    """All values, where the option is no number; null for a range."""
    default: Any = None
    """Value of the first trial."""


class Trial(Section):
    """One training of a search."""

    number: int = Field(ge=0)
    """In the order of asking; the defaults are number 0."""
    state: TrialState
    """How it ended."""
    ndcg: Number = None
    """Best validation NDCG that it reached."""
    best_round: int | None = None
    """The round that reached it."""
    seconds: Number = None
    """Seconds of the trial, training and measuring."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The values that it tried."""


class Tuning(Section):
    """The search for a model's options, on the validation part."""

    budget_trials: int | None = None
    """Trials that it was allowed; null where seconds limited it."""
    budget_s: Number = None
    """Seconds that it was allowed; null where trials limited it."""
    n_trials: int = Field(ge=0)
    """Trials made, with those below."""
    n_pruned: int = Field(default=0, ge=0)
    """Trials ended early as hopeless."""
    n_failed: int = Field(default=0, ge=0)
    """Trials that ended in an error."""
    tune_s: Number = None
    """Seconds of all trials together."""
    best_trial: int | None = None
    """Number of the best trial; null where none reached a value."""
    best_ndcg: Number = None
    """Its validation NDCG."""
    best_round: int | None = None
    """Its best round: how long the model is trained in the end."""
    space: dict[str, SearchDimension] = Field(default_factory=dict)
    """What was searched, by option."""
    importance: dict[str, float] | None = None
    """Share of the variation of the NDCG that each option explains; null where there are too few trials."""
    trials: list[Trial] = Field(default_factory=list)
    """All trials, by number."""


class UserBucket(Section):
    """Users with about the same number of seen items."""

    label: str
    """Name to show."""
    low: int = Field(ge=0)
    """Fewest seen items of a user in it."""
    high: int = Field(ge=0)
    """Most seen items of a user in it."""
    n_users: int = Field(ge=0)
    """Evaluated users in it."""
    metrics: dict[str, Number]
    """Means over them: the headline metric, and NDCG and Recall at its cutoff."""


class ItemBucket(Section):
    """Items with about the same number of training interactions."""

    label: str
    """Name to show."""
    low: int = Field(ge=0)
    """Fewest training interactions of an item in it."""
    high: int = Field(ge=0)
    """Most training interactions of an item in it."""
    n_items: int = Field(ge=0)
    """Items in it."""
    n_held_out: int = Field(ge=0)
    """Held-out interactions with these items."""
    n_recommended: int = Field(ge=0)
    """Places in the users' lists that these items take."""
    share: Number
    """The same as a share of all places."""
    recall: Number
    """Share of these held-out interactions that are in their user's list."""


class BucketDifference(Section):
    """Wins and losses among the held-out interactions with the items of a bucket."""

    label: str
    """Name of the bucket."""
    n_better: int = Field(ge=0)
    """Held-out interactions in the list of the first model and not of the other."""
    n_worse: int = Field(ge=0)
    """Held-out interactions in the list of the other and not of the first model."""
    mean: Number
    """Difference of the recall of the bucket's held-out interactions."""


class UserBucketDifference(Section):
    """Wins and losses among the users of a bucket, by the headline metric."""

    label: str
    """Name of the bucket."""
    n_users: int = Field(ge=0)
    """Evaluated users in it."""
    n_better: int = Field(ge=0)
    """Users with a larger value under the first model."""
    n_worse: int = Field(ge=0)
    """Users with a smaller value under the first model."""
    mean: Number
    """Mean difference over the users."""


class LeftOut(Section):
    """A model that was asked for and is not in the report."""

    name: str
    """The model."""
    reason: str
    """Why."""


class ListedItem(Section):
    """A place in a user's list."""

    item_id: str
    """The item."""
    is_hit: bool
    """Whether it is among the user's held-out items."""


class SampleUser(Section):
    """A user whose lists are shown."""

    user_id: str
    """The user."""
    n_seen: int = Field(ge=0)
    """Number of seen items."""
    seen: list[str]
    """The most recent twenty of them where the dataset has times, else the first twenty by id."""
    held_out: list[str]
    """Their held-out items."""
    lists: dict[str, list[ListedItem]]
    """The list of each model, the best first, as long as the headline metric looks."""


class Machine(Section):
    """The machine that measured."""

    cpu: str
    """Name of the processor."""
    n_cpus: int = Field(ge=1)
    """Processors that this process may use."""
    memory_bytes: int | None
    """Main memory; null where the system does not say."""
    os: str
    """Operating system."""


class Provenance(Section):
    """Where the numbers come from."""

    dataset: str
    """Where the dataset was."""
    fingerprint: str
    """Its fingerprint."""
    command: str
    """The command that made the report."""
    machine: Machine
    """The machine of the calling process."""
    versions: dict[str, str]
    """Versions of Python, rgals and the libraries that compute."""
    started_at: str
    """When it began, UTC, ISO 8601."""
    seconds: Number
    """How long it took."""
    executor: str
    """Who did the work."""
