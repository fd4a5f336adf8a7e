"""The gate of a registry: a candidate, the current version and popularity on the same held-out interactions."""

import re
from collections.abc import Callable

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from rgals.artifact.alignment import align_to_dataset
from rgals.artifact.contents import gather_rows
from rgals.artifact.model import Model
from rgals.artifact.registry import CurrentVersion
from rgals.artifact.registry_records import Estimate, Judgement
from rgals.baselines.simple import fit_popularity
from rgals.data.dataset import Dataset
from rgals.data.storage import redact
from rgals.errors import DataError, InputError
from rgals.evaluation.alignment import AlignedModel
from rgals.evaluation.evaluator import evaluate
from rgals.evaluation.protocol import ColdUsers, EvaluationOptions, HeldOutPart, ScoringModel, read_training
from rgals.evaluation.report import Difference, Measurement, Report
from rgals.execution import Executor
from rgals.numerics.ranking import METRICS, Gains

__all__ = ["Gate", "GateOptions", "count_known"]

_METRIC = re.compile(rf"({'|'.join(METRICS)})@([1-9][0-9]*)")

_MAX_KNOWN_FRACTION = 0.01
"""More held-out interactions than this among the candidate's training interactions make its numbers worthless."""

_MIN_USERS = 20
"""Resamples of fewer users say little about others; those of one user all agree, and would pass anything."""

_BLOCK_USERS = 1 << 14
"""Users whose pairs are compared at a time."""


class GateOptions(BaseModel):
    """What the gate asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str = "ndcg@20"
    """Name and cutoff of the metric that decides."""
    part: HeldOutPart = "test"
    """The held-out part."""
    gains: Gains = "binary"
    """What a relevant item is worth in NDCG: 1, or its held-out weight."""
    cold_users: ColdUsers = "popular"
    """What users get whom a model has no factors for."""
    margin: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """By how much the metric may fall: the interval of candidate minus current must not reach below minus this."""
    is_relative: bool = False
    """Whether the margin is a fraction of the current version's mean."""
    n_resamples: int = Field(default=1000, ge=100)
    """Bootstrap resamples."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the bootstrap."""
    level: float = Field(default=0.95, gt=0, lt=1)
    """Confidence level."""

    @field_validator("metric")
    @classmethod
    def _check_metric(cls, metric: str) -> str:
        if not _METRIC.fullmatch(metric):
            raise ValueError(f"expected a metric and its cutoff such as ndcg@20, of {', '.join(METRICS)}")
        return metric

    @property
    def cutoff(self) -> int:
        """Length of the ranked lists."""
        return int(self.metric.partition("@")[2])

    def to_evaluation(self) -> EvaluationOptions:
        """Give the options of the evaluation."""
        return EvaluationOptions(
            cutoffs=(self.cutoff,),
            part=self.part,
            gains=self.gains,
            cold_users=self.cold_users,
            n_resamples=self.n_resamples,
            seed=self.seed,
            level=self.level,
        )


class Gate:
    """Judges one candidate; a `rgals.artifact.registry.Judge`.

    Parameters
    ----------
    candidate : Model
        The model that asks to be published.
    dataset : Dataset
        With the held-out part. Models of other datasets are matched by id.
    options : GateOptions or None
        None takes the defaults.
    n_threads : int or None
        Number of threads; None uses every processor. No number depends on it.
    executor : Executor or None
        Who ranks the items for blocks of users; None ranks in this process.

    Raises
    ------
    InputError
        If the candidate has no item in common with the dataset.
    """

    def __init__(
        self,
        candidate: Model,
        dataset: Dataset,
        options: GateOptions | None = None,
        *,
        n_threads: int | None = None,
        executor: Executor | None = None,
    ) -> None:
        self.options = options or GateOptions()
        self._candidate, self._dataset = candidate, dataset
        self._n_threads, self._executor = n_threads, executor
        self._aligned = align_to_dataset(candidate, dataset, "candidate")

    def __call__(
        self, current: CurrentVersion | None, progress: Callable[[int, int | None], None] | None = None
    ) -> Judgement:
        """Evaluate the candidate, the current version and popularity in one go, and say what is wrong.

        Parameters
        ----------
        current : CurrentVersion or None
            None for a first version, which has to beat popularity only.
        progress : callable or None
            Called with the lists made so far, over all models, and their total.

        Returns
        -------
        Judgement
            A current version that cannot be opened, or has nothing in common with the dataset, is a
            reason against publishing: only ``force`` passes over it.

        Raises
        ------
        InputError
            If the dataset has no such part.
        """
        aligned, problem = (None, None) if current is None else self._open_current(current)
        known, _ = read_training(self._dataset, self.options.part, self._candidate.lineage.get("trained_on") or ())
        popularity = fit_popularity(known)
        models: list[ScoringModel] = [self._aligned, *([] if aligned is None else [aligned]), popularity]
        found = evaluate(
            models,
            self._dataset,
            self.options.to_evaluation(),
            n_threads=self._n_threads,
            executor=self._executor,
            progress=progress,
        )
        return self._judge(found.report, current, None if aligned is None else aligned.name, problem)

    def _open_current(self, current: CurrentVersion) -> tuple[AlignedModel | None, str | None]:
        """Open the current version in the dataset's rows, or say why that fails."""
        try:
            return align_to_dataset(current.open(), self._dataset, current.version), None
        except (DataError, InputError) as error:
            return None, f"the current version {current.version} cannot be evaluated ({error})"

    def _judge(
        self, report: Report, current: CurrentVersion | None, current_name: str | None, problem: str | None
    ) -> Judgement:
        options, metric = self.options, self.options.metric
        means = {section.name: _estimate(section.metrics[metric]) for section in report.models}
        differences = {found.other: _estimate(found.metrics[metric]) for found in report.comparisons}
        margin: float | None = options.margin
        if options.is_relative:
            mean = None if current_name is None else means[current_name].mean
            margin = None if mean is None else options.margin * mean
        n_known = count_known(self._candidate, self._dataset, options.part)
        judgement = Judgement(
            metric=metric,
            part=options.part,
            dataset=redact(str(self._dataset.location)),
            dataset_fingerprint=self._dataset.fingerprint,
            n_users=report.protocol.n_users_evaluated,
            level=options.level,
            margin=margin,
            candidate=means["candidate"],
            popularity=means["popularity"],
            over_popularity=differences["popularity"],
            current_version=None if current is None else current.version,
            current=None if current_name is None else means[current_name],
            over_current=None if current_name is None else differences[current_name],
            n_held_out=report.dataset.n_held_out,
            n_held_out_known=n_known,
            notes=tuple(f"{section.name}: {note}" for section in report.models for note in section.notes),
        )
        reasons = _objections(judgement) if problem is None else [problem, *_objections(judgement)]
        return judgement.model_copy(update={"reasons": tuple(reasons)})


def count_known(model: Model, dataset: Dataset, part: HeldOutPart) -> int:
    """Count the interactions of a held-out part that a model was trained on.

    Parameters
    ----------
    model : Model
        Of any dataset; users and items are matched by id.
    dataset : Dataset
        With the part.
    part : {"test", "validation"}
        The held-out part.
    """
    held_out = dataset.read_part(part)
    user_rows = model.user_ids.rows_of(dataset.user_ids.values)
    item_rows = model.item_ids.rows_of(dataset.item_ids.values)
    users = np.flatnonzero((held_out.degrees > 0) & (user_rows >= 0))
    n_known = 0
    for start in range(0, users.size, _BLOCK_USERS):
        some = users[start : start + _BLOCK_USERS]
        truth, seen = held_out.take(some), gather_rows(model.seen, user_rows[some])
        columns = item_rows[truth.columns]
        wanted = np.repeat(np.arange(some.size), truth.degrees) * model.n_items + columns
        known = np.repeat(np.arange(some.size), seen.degrees) * model.n_items + seen.columns
        n_known += int(np.isin(wanted[columns >= 0], known).sum())
    return n_known


def _estimate(measured: Measurement | Difference) -> Estimate:
    return Estimate(mean=measured.mean, ci_low=measured.ci_low, ci_high=measured.ci_high)


def _objections(judgement: Judgement) -> list[str]:
    """Say what speaks against publishing."""
    found, metric, candidate = [], judgement.metric, judgement.candidate
    if judgement.n_users < _MIN_USERS:
        found.append(
            f"users with held-out interactions in the {judgement.part} part: {judgement.n_users}, and models are "
            f"compared on at least {_MIN_USERS}; judge it on a dataset with more users"
        )
    low = judgement.over_popularity.ci_low
    if low is None or low <= 0:
        found.append(
            f"{metric} {_shown(candidate.mean)} is not above popularity's {_shown(judgement.popularity.mean)}: "
            f"the difference is {_spread(judgement.over_popularity)}"
        )
    if judgement.over_current is not None and judgement.current is not None:
        low, margin = judgement.over_current.ci_low, judgement.margin
        if low is None or margin is None or low < -margin:
            found.append(
                f"{metric} {_shown(candidate.mean)} against {_shown(judgement.current.mean)} of "
                f"{judgement.current_version}: the difference is {_spread(judgement.over_current)}, and its lower end "
                f"may not be below {_shown(None if margin is None else 0.0 - margin)}"
            )
    if judgement.n_held_out_known > _MAX_KNOWN_FRACTION * judgement.n_held_out:
        found.append(
            f"the candidate was trained on {judgement.n_held_out_known:,} of the {judgement.n_held_out:,} held-out "
            f"interactions of the {judgement.part} part, so its numbers mean nothing; judge it on interactions that it "
            "has not seen"
        )
    return found


def _spread(estimate: Estimate) -> str:
    return f"{_shown(estimate.mean, '+.4f')} [{_shown(estimate.ci_low, '+.4f')}, {_shown(estimate.ci_high, '+.4f')}]"


def _shown(value: float | None, form: str = ".4f") -> str:
    return "undefined" if value is None else format(value, form)
