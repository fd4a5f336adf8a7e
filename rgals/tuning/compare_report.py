"""The report of a comparison, made of what its stages left."""

from dataclasses import replace
from datetime import UTC, datetime

from rgals.data.dataset import Dataset
from rgals.evaluation.report import (
    CurvePoint,
    LeftOut,
    ModelDetails,
    Provenance,
    Report,
    SearchDimension,
    Trial,
    Tuning,
)
from rgals.evaluation.summary import build_report
from rgals.tuning.compare import Comparison, ModelRecord
from rgals.tuning.compare_options import CompareOptions

__all__ = ["build_comparison_report", "choose_reference", "describe_model"]


def build_comparison_report(
    comparison: Comparison,
    dataset: Dataset,
    provenance: Provenance,
    *,
    reference: str | None = None,
    n_threads: int | None = None,
) -> Report:
    """Make the report of a comparison.

    Parameters
    ----------
    comparison : Comparison
        What was found.
    dataset : Dataset
        What it was found on.
    provenance : Provenance
        How.
    reference : str or None
        Name of the model that is compared with each of the others; None, or one that was left out, chooses by
        `choose_reference`.
    n_threads : int or None
        Number of threads; None uses every processor. No number depends on it.

    Raises
    ------
    InputError
        If the reference was not asked for.
    """
    options = comparison.options
    left_out = dict(comparison.left_out)
    if reference is None or reference in left_out:
        chosen = choose_reference(comparison)
        if reference is not None:
            left_out[reference] += f"; all were to be compared with it: they are compared with {chosen} instead"
        reference = chosen
    return build_report(
        [replace(record.values, notes=record.notes) for record in comparison.records],
        dataset,
        comparison.users,
        options.to_evaluation(),
        reference=reference,
        metric=options.metric,
        kind="comparison",
        details=[describe_model(record, options) for record in comparison.records],
        left_out=[LeftOut(name=name, reason=reason) for name, reason in left_out.items()],
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        provenance=provenance,
        n_threads=n_threads,
    )


def choose_reference(comparison: Comparison) -> str:
    """Choose, by validation alone, the best model of the RG family; without one, the best of all."""
    records = comparison.records
    own = [record for record in records if record.contender.family == "rg"]
    return max(own or records, key=lambda record: record.best.result.best_ndcg).contender.name


def describe_model(record: ModelRecord, options: CompareOptions) -> ModelDetails:
    """Put together what is known of a model beside its measured values.

    Parameters
    ----------
    record : ModelRecord
        The model.
    options : CompareOptions
        What the comparison was asked for.
    """
    contender = record.contender
    is_iterative = contender.n_rounds > 1
    return ModelDetails(
        name=contender.name,
        label=contender.label,
        family=contender.family,
        n_rounds=record.best.result.best_round if is_iterative else None,
        n_start_rounds=contender.n_start,
        curve=[
            CurvePoint(
                round=point.round,
                train_s=point.train_s,
                ndcg=point.ndcg,
                objective=point.objective,
                softmax=point.softmax,
                surrogate=point.surrogate,
            )
            for point in record.curve.curve
        ],
        tuning=_describe_search(record, options) if contender.space.dimensions else None,
    )


def _describe_search(record: ModelRecord, options: CompareOptions) -> Tuning:
    results = [trial.result for trial in record.trials]
    best = record.best
    return Tuning(
        budget_trials=options.budget,
        budget_s=options.budget_s,
        n_trials=len(results),
        n_pruned=sum(result.state == "pruned" for result in results),
        n_failed=sum(result.state == "failed" for result in results),
        tune_s=sum(trial.charged_s for trial in record.trials),
        best_trial=best.number,
        best_ndcg=best.result.best_ndcg,
        best_round=best.result.best_round,
        space={
            name: SearchDimension.model_validate(found) for name, found in record.contender.space.describe().items()
        },
        importance=None if record.importance is None else dict(record.importance),
        trials=[
            Trial(
                number=trial.number,
                state=trial.result.state,
                ndcg=trial.result.best_ndcg,
                best_round=trial.result.best_round,
                seconds=trial.result.seconds,
                options=trial.result.options,
            )
            for trial in record.trials
        ],
    )
