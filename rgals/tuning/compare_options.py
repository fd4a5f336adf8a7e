"""What a comparison is asked for."""

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rgals.errors import InputError
from rgals.evaluation.protocol import ColdUsers, EvaluationOptions
from rgals.numerics.ranking import Gains
from rgals.tuning.contenders import contender_named

__all__ = ["CompareOptions"]

_FREE_TO_CHANGE = frozenset({"models", "budget", "budget_s", "cutoffs", "n_resamples", "level", "cold_users"})
"""What may differ when a comparison is continued: finished searches and fits are the same without it."""


class CompareOptions(BaseModel):
    """Options of a comparison; the same protocol for every model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[str, ...] = Field(min_length=1)
    """Names of the models; `rgals.tuning.contenders.CONTENDERS` lists them."""
    n_factors: int = Field(default=64, ge=1, le=4096)
    """Length of a user's and an item's vector, for all models that have them."""
    budget: int | None = Field(default=20, ge=1)
    """Trials of each model; None with ``budget_s``."""
    budget_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds of search of each model, trials and their validation together; None with ``budget``."""
    cutoffs: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(10, 20, 50, 100), min_length=1)
    """Lengths k of the ranked lists of the test."""
    cutoff: int = Field(default=20, ge=1)
    """The one whose NDCG is searched for and stands in the headline."""
    gains: Gains = "binary"
    """What a relevant item is worth in NDCG: 1, or its held-out weight."""
    validation_users: int = Field(default=5000, ge=0)
    """Users in the validation sample; 0 takes all."""
    cold_users: ColdUsers = "popular"
    """What users get whom a model has no factors for."""
    n_resamples: int = Field(default=1000, ge=0)
    """Bootstrap resamples."""
    level: float = Field(default=0.95, gt=0, lt=1)
    """Confidence level."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of samples, searches and starting values."""

    @field_validator("models")
    @classmethod
    def _check_models(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        for name in models:
            contender_named(name)
        return tuple(dict.fromkeys(models))

    @model_validator(mode="after")
    def _check_budget(self) -> "CompareOptions":
        if (self.budget is None) == (self.budget_s is None):
            raise InputError("comparison: expected a budget of trials or one of seconds; give one of the two")
        if self.cutoff not in self.cutoffs:
            raise InputError(f"comparison: expected the cutoff {self.cutoff} among the cutoffs {list(self.cutoffs)}")
        return self

    @property
    def metric(self) -> str:
        """Name of the headline metric."""
        return f"ndcg@{self.cutoff}"

    @property
    def kept_budget(self) -> dict[str, Any]:
        """What each model gets, as a comparison keeps it: it may grow, not shrink."""
        if self.budget is not None:
            return {"kind": "trials", "size": self.budget}
        return {"kind": "seconds", "size": self.budget_s}

    def identity(self, dataset_fingerprint: str) -> dict[str, Any]:
        """Give what must be the same for a comparison to be continued, as JSON values."""
        values = self.model_dump(mode="json", exclude=set(_FREE_TO_CHANGE))
        return {"dataset": dataset_fingerprint, **values}

    def to_evaluation(self) -> EvaluationOptions:
        """Give the protocol of the test."""
        return EvaluationOptions(
            cutoffs=self.cutoffs,
            part="test",
            gains=self.gains,
            cold_users=self.cold_users,
            n_resamples=self.n_resamples,
            seed=self.seed,
            level=self.level,
        )

    def test_key(self) -> str:
        """Give a name for what decides the measured values of a fitted model."""
        decisive = [list(self.cutoffs), self.gains, self.cold_users]
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:12]
