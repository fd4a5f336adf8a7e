"""Make the report of measured models: means with intervals, paired comparisons, buckets, sample users."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import numpy as np

from rgals.data.dataset import Dataset
from rgals.errors import InputError, StaleCheckpointError
from rgals.evaluation.bootstrap import bootstrap_p_values, percentile_intervals, resample_means
from rgals.evaluation.buckets import (
    Buckets,
    bucket_items,
    bucket_users,
    compare_by_item_bucket,
    compare_by_user_bucket,
    measure_item_buckets,
    measure_user_buckets,
)
from rgals.evaluation.protocol import EvaluatedUsers, EvaluationOptions
from rgals.evaluation.report import (
    BootstrapSection,
    Comparison,
    CurvePoint,
    DatasetSection,
    Difference,
    LeftOut,
    Measurement,
    ModelDetails,
    ModelSection,
    ProtocolSection,
    Provenance,
    Report,
    SampleUser,
    headline_metric,
)
from rgals.evaluation.samples import choose_sample_users, describe_sample_users
from rgals.evaluation.significance import holm_correct, round_differences, wilcoxon_p_values
from rgals.evaluation.values import ModelValues, identify_measurement
from rgals.names import Float64Array
from rgals.numerics.ranking import METRICS
from rgals.numerics.threads import available_threads

__all__ = ["build_report", "check_names", "seconds_to_share"]


@dataclass(frozen=True, slots=True)
class _Measured:
    """What the parts of a report are made from: all models over the same users."""

    users: EvaluatedUsers
    options: EvaluationOptions
    metric: str
    user_buckets: Buckets
    item_buckets: Buckets
    means: Mapping[str, Float64Array]
    """Resampled means of each model, of shape (n_resamples, n_metrics)."""
    n_threads: int

    @property
    def k(self) -> int:
        """Cutoff of the headline metric."""
        return int(self.metric.partition("@")[2])

    @property
    def bucket_keys(self) -> list[str]:
        """Metrics that are given by bucket."""
        return list(dict.fromkeys([self.metric, f"ndcg@{self.k}", f"recall@{self.k}"]))


def build_report(
    values: Sequence[ModelValues],
    dataset: Dataset,
    users: EvaluatedUsers,
    options: EvaluationOptions,
    *,
    reference: str | None = None,
    metric: str | None = None,
    kind: Literal["evaluation", "comparison"] = "evaluation",
    details: Sequence[ModelDetails] = (),
    left_out: Sequence[LeftOut] = (),
    titles: Mapping[str, str] | None = None,
    created_at: str | None = None,
    provenance: Provenance | None = None,
    n_threads: int | None = None,
) -> Report:
    """Make a report of what `measure` gave, now or in other processes.

    Parameters
    ----------
    values : sequence of ModelValues
        At least one, with different names, all measured with these users and options.
    dataset : Dataset
        What was evaluated on.
    users : EvaluatedUsers
        As they were read for the measurement.
    options : EvaluationOptions
        Those of the measurement; the bootstrap's may differ.
    reference : str or None
        Name of the model that is compared with each of the others; None takes the first.
    metric : str or None
        Headline metric, such as ``"ndcg@20"``; None takes NDCG at 20, or at the first cutoff.
    kind : {"evaluation", "comparison"}
        Whether the models were only measured, or tuned, trained and measured alike.
    details : sequence of ModelDetails
        What is known of the training, by name of the model; ``seconds_to_99`` is taken from the curve where
        it is not given. Models without get defaults.
    left_out : sequence of LeftOut
        Models that could not be measured.
    titles : mapping of str to str or None
        Titles of items by id; those of the sample users' items are kept.
    created_at : str or None
        When the report is made, ISO 8601.
    provenance : Provenance or None
        Where the numbers come from.
    n_threads : int or None
        Number of threads; None uses every processor. No number depends on it.

    Returns
    -------
    Report
        Whose models are in the order of ``values``.

    Raises
    ------
    InputError
        If there is no model, two have one name, or ``reference``, ``metric`` or the name of a detail is unknown.
    StaleCheckpointError
        If values were measured with other users or options.
    """
    names = [value.name for value in values]
    compared, chosen = check_names(names, options, reference, metric)
    _check_measurement(values, users, options)
    by_name, known = dict(zip(names, values, strict=True)), {detail.name: detail for detail in details}
    if not known.keys() <= by_name.keys():
        raise InputError(f"build_report: expected details of {', '.join(names)}, found those of {', '.join(known)}")
    threads = available_threads() if n_threads is None else n_threads
    tables = [np.array(list(value.by_user.values())) for value in values]
    resampled = resample_means(tables, n_resamples=options.n_resamples, seed=options.seed, n_threads=threads)
    means = dict(zip(names, resampled, strict=True))
    measured = _Measured(users, options, chosen, bucket_users(users), bucket_items(users), means, threads)
    others = [by_name[name] for name in names if name != compared]
    sample = _describe_sample(dataset, users, values, measured.k)
    return Report(
        kind=kind,
        created_at=created_at,
        rgals_version=version("rgals"),
        metric=chosen,
        dataset=_describe_dataset(dataset, users),
        protocol=_describe_protocol(users, options),
        models=[_summarize(value, known.get(value.name), measured) for value in values],
        comparisons=_correct([_compare(by_name[compared], other, measured) for other in others]),
        left_out=list(left_out),
        sample_users=sample,
        titles=_keep_titles(titles or {}, sample),
        provenance=provenance,
    )


def seconds_to_share(curve: Sequence[CurvePoint], share: float = 0.99) -> float:
    """Give the training seconds after which a curve first reaches a share of its best NDCG.

    Parameters
    ----------
    curve : sequence of CurvePoint
        By round.
    share : float
        Above 0, at most 1.

    Returns
    -------
    float
        Seconds of the first such point; NaN without a point whose NDCG is known.

    Raises
    ------
    InputError
        If the share is out of range.
    """
    if not 0 < share <= 1:
        raise InputError(f"seconds_to_share: expected a share above 0 and at most 1, found {share}")
    known = [(point.train_s, point.ndcg) for point in curve if point.ndcg is not None]
    best = max((ndcg for _, ndcg in known), default=0.0)
    return next((seconds for seconds, ndcg in known if ndcg >= share * best), float("nan"))


def check_names(
    names: Sequence[str], options: EvaluationOptions, reference: str | None, metric: str | None
) -> tuple[str, str]:
    """Choose the reference model and the headline metric of a report, before anything is measured.

    Parameters
    ----------
    names : sequence of str
        The models.
    options : EvaluationOptions
        For the cutoffs.
    reference, metric : str or None
        As for `build_report`.

    Returns
    -------
    tuple of two str
        Name of the reference model, and the metric.

    Raises
    ------
    InputError
        If there is no model, two have one name, or the reference or the metric is unknown.
    """
    if not names or len(set(names)) != len(names):
        raise InputError(f"evaluation: expected models with different names, found {list(names)}")
    if reference is not None and reference not in names:
        raise InputError(f"evaluation: expected the reference among {', '.join(names)}, found {reference!r}")
    keys = [f"{kind}@{k}" for kind in METRICS for k in options.cutoffs]
    if metric is not None and metric not in keys:
        raise InputError(f"evaluation: expected the headline metric among {', '.join(keys)}, found {metric!r}")
    return reference or names[0], metric or headline_metric(options.cutoffs)


def _check_measurement(values: Sequence[ModelValues], users: EvaluatedUsers, options: EvaluationOptions) -> None:
    """Refuse values that do not belong to these users and options."""
    expected = identify_measurement(users, options)
    for value in values:
        if value.measurement != expected:
            raise StaleCheckpointError(
                f"{value.name}: its values were measured with other users, parts or options "
                f"({value.measurement[:12]}) than this report's ({expected[:12]}); measure the model again"
            )


def _summarize(values: ModelValues, details: ModelDetails | None, measured: _Measured) -> ModelSection:
    """Put means, intervals and buckets of a model together."""
    n_users = int(values.is_ranked.size)
    low, high = percentile_intervals(measured.means[values.name], measured.options.level)
    metrics = {
        key: Measurement(mean=float(by_user.mean()), ci_low=low[index], ci_high=high[index], n_users=n_users)
        for index, (key, by_user) in enumerate(values.by_user.items())
    }
    metrics |= {
        key: Measurement(mean=value, ci_low=None, ci_high=None, n_users=n_users)
        for key, value in values.catalog.items()
    }
    found = details or ModelDetails(name=values.name)
    if found.seconds_to_99 is None:
        found = found.model_copy(update={"seconds_to_99": seconds_to_share(found.curve)})
    return ModelSection(
        **dict(found),
        train_s=values.train_s,
        evaluate_s=values.seconds,
        n_users_unranked=int(np.count_nonzero(~values.is_ranked)),
        n_items_unranked=values.n_items_unranked,
        options=dict(values.options),
        notes=list(values.notes),
        metrics=metrics,
        user_buckets=measure_user_buckets(measured.user_buckets, values, measured.bucket_keys),
        item_buckets=measure_item_buckets(measured.item_buckets, measured.users, values, measured.k),
    )


def _compare(first: ModelValues, other: ModelValues, measured: _Measured) -> Comparison:
    """Compare two models user by user; p-values are not yet corrected."""
    differences = round_differences(np.array([first.by_user[key] - other.by_user[key] for key in first.by_user]))
    resampled = measured.means[first.name] - measured.means[other.name]
    low, high = percentile_intervals(resampled, measured.options.level)
    p_bootstrap = bootstrap_p_values(resampled)
    p_wilcoxon = wilcoxon_p_values(differences, n_threads=measured.n_threads)
    return Comparison(
        model=first.name,
        other=other.name,
        metrics={
            key: Difference(
                mean=float(differences[index].mean()),
                ci_low=low[index],
                ci_high=high[index],
                n_better=int(np.count_nonzero(differences[index] > 0)),
                n_worse=int(np.count_nonzero(differences[index] < 0)),
                p_bootstrap=p_bootstrap[index],
                p_wilcoxon=p_wilcoxon[index],
            )
            for index, key in enumerate(first.by_user)
        },
        user_buckets=compare_by_user_bucket(measured.user_buckets, first, other, measured.metric),
        item_buckets=compare_by_item_bucket(measured.item_buckets, measured.users, first, other, measured.k),
    )


def _correct(comparisons: list[Comparison]) -> list[Comparison]:
    """Add the p-values corrected for the number of comparisons, metric by metric."""
    if not comparisons:
        return []
    keys = list(comparisons[0].metrics)
    p_values = [[comparison.metrics[key].p_wilcoxon for comparison in comparisons] for key in keys]
    corrected = [holm_correct(np.array(row, dtype=np.float64)) for row in p_values]
    return [
        comparison.model_copy(
            update={
                "metrics": {
                    key: Difference(**{**dict(comparison.metrics[key]), "p_holm": float(corrected[row][column])})
                    for row, key in enumerate(keys)
                }
            }
        )
        for column, comparison in enumerate(comparisons)
    ]


def _describe_sample(
    dataset: Dataset, users: EvaluatedUsers, values: Sequence[ModelValues], k: int
) -> list[SampleUser]:
    lists = {value.name: value.sample_lists for value in values}
    return describe_sample_users(dataset, users, choose_sample_users(users), lists, k)


def _keep_titles(titles: Mapping[str, str], sample: Sequence[SampleUser]) -> dict[str, str]:
    """Keep the titles of items that a reader sees."""
    shown = [item_id for user in sample for item_id in [*user.seen, *user.held_out]]
    shown += [item.item_id for user in sample for listed in user.lists.values() for item in listed]
    return {item_id: titles[item_id] for item_id in dict.fromkeys(shown) if item_id in titles}


def _describe_dataset(dataset: Dataset, users: EvaluatedUsers) -> DatasetSection:
    return DatasetSection(
        fingerprint=dataset.fingerprint,
        n_users=dataset.n_users,
        n_items=dataset.n_items,
        n_train=dataset.n_interactions,
        n_held_out=users.held_out.n_interactions,
        split=dataset.manifest.split.model_dump(mode="json", exclude_none=True),
    )


def _describe_protocol(users: EvaluatedUsers, options: EvaluationOptions) -> ProtocolSection:
    return ProtocolSection(
        part=options.part,
        generalization=users.generalization,
        cutoffs=list(options.cutoffs),
        gains=options.gains,
        seen_parts=list(users.seen_parts),
        n_users_evaluated=users.n_users,
        cold_users=options.cold_users,
        n_users_without_held_out=users.n_without_held_out,
        n_users_without_history=users.n_without_history,
        n_held_out_seen=users.n_held_out_seen,
        bootstrap=BootstrapSection(n_resamples=options.n_resamples, seed=options.seed, level=options.level),
    )
