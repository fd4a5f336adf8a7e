"""Requests and answers, as the OpenAPI document shows them."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StrictStr

from services.recommender.problems import Problem

__all__ = [
    "MAX_IDS",
    "MAX_ID_LENGTH",
    "MAX_K",
    "BatchRequest",
    "BatchResponse",
    "Health",
    "HistoryQuery",
    "HistoryResponse",
    "IdList",
    "IdQuery",
    "ModelInfo",
    "NdcgReport",
    "Neighbor",
    "NeighborQuery",
    "NeighborResponse",
    "RecommendationQuery",
    "RecommendationRequest",
    "RecommendationResponse",
    "ReloadResponse",
    "VersionList",
    "WorkerState",
]

MAX_K = 1000
MAX_REQUESTS = 1000
MAX_IDS = 10_000
MAX_ID_LENGTH = 512


def _to_integer(value: Any) -> Any:
    """Take 7.0 for 7, which is the same number in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_TEXT_ID = Annotated[StrictStr, Field(min_length=1, max_length=MAX_ID_LENGTH)]
_MAX_EXACT = 2**53 - 1
_INT_ID = Annotated[StrictInt, Field(ge=-_MAX_EXACT, le=_MAX_EXACT)]
Id: TypeAlias = Annotated[
    _TEXT_ID | _INT_ID,
    BeforeValidator(_to_integer),
    Field(description="An id; integers may be sent as text, beyond 2^53 they must be."),
]
AnswerId: TypeAlias = Annotated[
    str, Field(description="An id, always as text: integers beyond 2^53 survive any client.")
]
Fallback: TypeAlias = Literal["popular", "none"]

K = Annotated[int, Field(ge=1, le=MAX_K, description="Length of the list.")]
ExcludeSeen = Annotated[
    bool, Field(description="Whether the user's training interactions and the items of the history are left out.")
]
FallbackField = Annotated[
    Fallback,
    Field(description="What there is with nothing to rank by: the most popular items, labeled so, or an error."),
]


class _Closed(BaseModel):
    """What does not allow unknown fields: a misspelt option must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Body(BaseModel):
    """The same for JSON, where a number is not text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RecommendationQuery(_Closed):
    """Options of a list, in the URL."""

    k: K = 10
    exclude_seen: ExcludeSeen = True
    fallback: FallbackField = "popular"
    explain: bool = Field(default=False, description="Whether each score is divided among the user's interactions.")


class NeighborQuery(_Closed):
    """Options of a list of neighbors, in the URL."""

    k: K = 10


class HistoryQuery(_Closed):
    """How much of a history to show, in the URL."""

    limit: int = Field(default=1000, ge=1, le=MAX_IDS, description="At most this many interactions.")


class IdQuery(_Closed):
    """Which ids to list."""

    prefix: str = Field(default="", max_length=MAX_ID_LENGTH, description="Beginning of the ids; all if empty.")
    limit: int = Field(default=20, ge=1, le=MAX_K, description="At most this many ids.")
    offset: int = Field(default=0, ge=0, le=2**40, description="How many matching ids are passed over first.")


class HistoryEntry(_Body):
    """An item that a user interacted with."""

    item_id: Id
    weight: Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False, description="How much it counts.")] = 1.0


class RecommendationRequest(_Body):
    """What one list is asked for: for a known user, for a history, or for both joined."""

    user_id: Id | None = Field(default=None, description="Whose list. One of user_id and history is needed.")
    history: list[Id | HistoryEntry] | None = Field(
        default=None,
        max_length=MAX_IDS,
        description="Items of the user, each once: ids, or ids with weights. A known user's training interactions join "
        "it; where both name an item, the weight sent here counts. A user whom the model does not know is new.",
    )
    k: Annotated[K, BeforeValidator(_to_integer)] = 10
    exclude_seen: ExcludeSeen = True
    exclude: list[Id] = Field(default=[], max_length=MAX_IDS, description="Items to leave out.")
    candidates: list[Id] | None = Field(
        default=None, max_length=MAX_IDS, description="The only items that the list may hold; all if absent."
    )
    fallback: FallbackField = "popular"
    explain: bool = Field(default=False, description="Whether each score is divided among the user's interactions.")


class BatchRequest(_Body):
    """Several requests, answered together by one model."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        json_schema_extra={
            "examples": [
                {"requests": [{"user_id": "42", "k": 5}]},
                {"requests": [{"history": ["7", {"item_id": "9", "weight": 2.0}], "exclude": ["3"], "explain": True}]},
            ]
        },
    )

    requests: Annotated[list[RecommendationRequest], Field(min_length=1, max_length=MAX_REQUESTS)]


class ContributionAnswer(BaseModel):
    """What one interaction adds to a score."""

    item_id: AnswerId
    score: float = Field(description="Its contribution; negative where it speaks against the item.")


class ExplanationAnswer(BaseModel):
    """A score, divided: contributions, others, background and remainder add up to it."""

    contributions: list[ContributionAnswer] = Field(description="The ten largest, falling.")
    n_others: int = Field(description="Number of interactions that are not listed.")
    others: float = Field(description="What those add together.")
    background: float = Field(description="What the items add that the user did not interact with.")
    remainder: float = Field(
        description="The rest. By factors: what the last half-step of the training moved; by fold-in: rounding."
    )


class RankedItem(BaseModel):
    """An item of a list."""

    item_id: AnswerId
    score: float = Field(description="Orders the items of one list; not a probability.")
    explanation: ExplanationAnswer | None = Field(default=None, description="Only where it was asked for.")


class RecommendationAnswer(BaseModel):
    """A ranked list, by the top-k contract."""

    user_id: AnswerId | None
    known_user: bool | None = Field(description="Whether the model holds the user; null where none was named.")
    items: list[RankedItem] = Field(description="At most k, unique, none excluded, scores falling, equals by id.")
    k: int
    exhausted: bool = Field(description="Whether no more items were left.")
    source: Literal["factors", "fold_in", "popular"] = Field(description="What ranked the items.")
    exact: bool = Field(description="Whether all items were looked at; else an index found them.")
    exclude_seen: bool
    unknown_items: list[AnswerId] = Field(description="Items that were named and that the model does not hold.")


class RecommendationResponse(RecommendationAnswer):
    """A ranked list and the model that made it."""

    model_version: str


class FailedAnswer(BaseModel):
    """A request of several that could not be answered."""

    problem: Problem


class BatchResponse(BaseModel):
    """The answers, in the order of the requests, all by one model."""

    model_version: str
    answers: list[RecommendationAnswer | FailedAnswer]


class Neighbor(BaseModel):
    """A user or item that is alike."""

    id: AnswerId
    score: float = Field(description="Cosine of the factors, from -1 to 1.")


class NeighborResponse(BaseModel):
    """The users or items that are most alike to one."""

    id: AnswerId
    neighbors: list[Neighbor] = Field(description="The most alike first, equals by id; never the one asked about.")
    exhausted: bool = Field(description="Whether fewer than k others have a direction to compare.")
    model_version: str


class HistoryItem(BaseModel):
    """An interaction that the model was trained with."""

    item_id: AnswerId
    weight: float


class HistoryResponse(BaseModel):
    """A user's training interactions."""

    user_id: AnswerId
    items: list[HistoryItem] = Field(description="In the order of their ids; at most `limit`.")
    n_items: int = Field(description="How many there are.")
    model_version: str


class IdList(BaseModel):
    """Ids in their order."""

    ids: list[AnswerId]
    n_total: int = Field(description="How many users or items the model holds.")
    model_version: str


class ModelInfo(BaseModel):
    """The model that is served."""

    model_version: str
    loss: str
    n_users: int
    n_items: int
    n_factors: int
    n_interactions: int
    factor_sha256: str
    since: str | None = Field(description="When it became current in the registry, UTC; null for a model folder.")
    loaded_at: str = Field(description="When this worker had loaded it, UTC.")
    config: dict[str, Any] = Field(description="How it was trained.")
    lineage: dict[str, Any] = Field(description="What it was trained on, and by which version.")
    metrics: dict[str, Any] = Field(description="What was measured while it was trained.")
    judgement: dict[str, Any] | None = Field(description="What the gate measured when it was published.")
    problem: str | None = Field(description="Why a newer version is not served; null where all is well.")
    as_of: str


class Estimate(BaseModel):
    """A mean over users with its interval; null where undefined."""

    mean: float | None
    ci_low: float | None
    ci_high: float | None


class NdcgReport(BaseModel):
    """How well the served model ranks held-out interactions, and a softmax baseline beside it."""

    model_version: str
    metric: str = Field(examples=["ndcg@20"])
    part: str = Field(description="The held-out part: test or validation.")
    n_users: int = Field(description="Evaluated users.")
    model: Estimate
    softmax: Estimate | None = Field(description="The best softmax baseline; null where none was evaluated.")
    difference: Estimate | None = Field(description="Model minus softmax, paired by user.")
    p_value: float | None = Field(description="Two-sided, Wilcoxon, corrected by Holm; null where none.")
    popularity: Estimate | None = Field(description="The most popular items.")
    model_train_s: float | None = Field(description="Measured seconds of the model's training.")
    softmax_train_s: float | None = Field(description="Measured seconds of the softmax baseline's training.")
    softmax_notes: list[str] = Field(description="What a reader of the softmax's numbers has to know.")
    origin: Literal["report", "judgement"] = Field(
        description="The evaluation job's report, or what the gate measured, which knows no softmax."
    )
    created_at: str | None
    has_page: bool = Field(description="Whether /v1/reports/latest shows the report.")
    as_of: str


class WorkerState(BaseModel):
    """What one worker serves."""

    pid: int
    version: str | None
    loaded_at: str | None
    problem: str | None
    as_of: str


class RegistryVersion(BaseModel):
    """A version of the registry."""

    version: str
    is_current: bool
    published_at: str
    metric: str | None
    value: float | None


class VersionList(BaseModel):
    """The versions of the registry, and what each worker serves."""

    versions: list[RegistryVersion]
    workers: list[WorkerState]
    as_of: str


class ReloadResponse(BaseModel):
    """What a look at the registry led to."""

    outcome: Literal["unchanged", "swapped", "refused", "pending"] = Field(
        description="Whether this worker serves another model now; the other workers look too, within a second."
    )
    model_version: str | None
    detail: str | None = Field(description="Why the newer version was refused.")


class Health(BaseModel):
    """How a worker is."""

    status: Literal["alive", "ready"]
    problem: str | None = Field(description="Why a newer model is not served; null where all is well.")
