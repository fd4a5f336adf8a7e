"""Evaluate models: rank all items for every user with held-out items, measure, put intervals around the means."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from rgals.data.dataset import Dataset
from rgals.errors import InputError
from rgals.evaluation.bootstrap import bootstrap_intervals
from rgals.evaluation.protocol import EvaluatedModel, EvaluatedUsers, EvaluationOptions, count_items
from rgals.evaluation.report import (
    BootstrapSection,
    Comparison,
    DatasetSection,
    Difference,
    Measurement,
    ModelSection,
    ProtocolSection,
    Report,
    headline_metric,
)
from rgals.evaluation.user_blocks import RankingInputs, UserBlocks, rank_block
from rgals.execution import Executor, InProcessExecutor
from rgals.names import BoolArray, Float64Array
from rgals.numerics.ranking import METRICS, coverage, gini, recommendation_counts
from rgals.numerics.threads import available_threads

__all__ = ["Evaluation", "ModelValues", "evaluate", "measure"]

_BLOCK_USERS = 8192
"""Users of a task, whose lists are held at once; fewer where there would not be work for every worker."""

_THREAD_USERS = 256
"""Users that keep a thread busy: no task has fewer for each of its threads, but for the last."""

_TASKS_PER_WORKER = 4


@dataclass(frozen=True, slots=True)
class ModelValues:
    """What was measured of one model.

    Parameters
    ----------
    name : str
        The model.
    by_user : dict of str to float64 array of shape (n_users,)
        Metrics of each evaluated user, by name and cutoff, such as ``"ndcg@20"``.
    catalog : dict of str to float
        Coverage and Gini of all lists together, such as ``"coverage@20"``; NaN where undefined.
    is_ranked : bool array of shape (n_users,)
        Users whom the model has factors for.
    seconds : float
        Seconds of ranking and measuring.
    """

    name: str
    by_user: dict[str, Float64Array]
    catalog: dict[str, float]
    is_ranked: BoolArray
    seconds: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A report and the values of every user behind its means.

    Parameters
    ----------
    report : Report
        Means, intervals, and how they were measured.
    users : EvaluatedUsers
        Whose values, in their order.
    values : tuple of ModelValues
        In the order of the report's models.
    """

    report: Report
    users: EvaluatedUsers
    values: tuple[ModelValues, ...]


def evaluate(
    models: Sequence[EvaluatedModel],
    dataset: Dataset,
    options: EvaluationOptions | None = None,
    *,
    n_threads: int | None = None,
    executor: Executor | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Evaluation:
    """Measure models on a held-out part of a dataset.

    Parameters
    ----------
    models : sequence of ScoringModel or BlockScoringModel
        In the row numbers of the dataset; the first is compared with each of the others.
    dataset : Dataset
        With the part that the options name.
    options : EvaluationOptions or None
        None takes the defaults.
    n_threads : int or None
        Number of threads of this process; None uses every processor. Only the seconds depend on it.
    executor : Executor or None
        Who ranks the items for blocks of users; None ranks in this process. Only the seconds depend on it.
    progress : callable or None
        Called with the lists made so far, over all models, and their total.

    Returns
    -------
    Evaluation
        Users without held-out items are left out and counted. A user whom a model has no factors for
        (all of them zero) gets what ``cold_users`` says, and is counted.

    Raises
    ------
    InputError
        If there is no model, two have one name, the dataset lacks the part, or shapes do not fit.
    NumericalError
        If a model's factors are not finite.
    """
    chosen = options or EvaluationOptions()
    threads = available_threads() if n_threads is None else n_threads
    names = [model.name for model in models]
    if not names or len(set(names)) != len(names):
        raise InputError(f"evaluate: expected models with different names, found {names}")
    users = EvaluatedUsers.read(dataset, chosen.part, filter_validation=chosen.filter_validation)
    values: list[ModelValues] = []
    for index, model in enumerate(models):
        done_before, total = index * users.n_users, len(models) * users.n_users

        def advance(n_done: int, done_before: int = done_before, total: int = total) -> None:
            if progress is not None:
                progress(done_before + n_done, total)

        values.append(measure(model, users, chosen, n_threads=threads, executor=executor, advance=advance))
    report = Report(
        rgals_version=version("rgals"),
        metric=headline_metric(chosen.cutoffs),
        dataset=_describe_dataset(dataset, users),
        protocol=_describe_protocol(users, chosen),
        models=[_summarize(model, value, chosen, threads) for model, value in zip(models, values, strict=True)],
        comparisons=[_compare(values[0], other, chosen, threads) for other in values[1:]],
    )
    return Evaluation(report, users, tuple(values))


def measure(
    model: EvaluatedModel,
    users: EvaluatedUsers,
    options: EvaluationOptions,
    *,
    n_threads: int,
    executor: Executor | None = None,
    advance: Callable[[int], None] | None = None,
) -> ModelValues:
    """Rank all items for each evaluated user and compute the metrics, a block of users at a time.

    Parameters
    ----------
    model : ScoringModel or BlockScoringModel
        The model.
    users : EvaluatedUsers
        Whom to rank for.
    options : EvaluationOptions
        Cutoffs and gains.
    n_threads : int
        Number of threads of this process.
    executor : Executor or None
        Who ranks; None ranks in this process. A worker gets the item factors once and the blocks of
        users with their factors one by one. New users are solved by the workers where the model is an
        `AlignedModel`, else here. A model that gives scores is sent whole, once.
    advance : callable or None
        Called with the number of users done.

    Raises
    ------
    InputError
        If the model's items are not the dataset's.
    NumericalError
        If the model's factors or scores are not finite.
    """
    n_items = users.held_out.n_columns
    if count_items(model) != n_items:
        raise InputError(
            f"{model.name}: expected a model of the dataset's {n_items} items, found {count_items(model)}; "
            "align the model with the dataset by id"
        )
    started = time.perf_counter()
    runner = InProcessExecutor(n_threads) if executor is None else executor
    inputs = RankingInputs.gather(model, users, options)
    blocks = UserBlocks(model, users, inputs, _block_users(users.n_users, runner), n_threads)
    keys = [f"{metric}@{k}" for k in options.cutoffs for metric in METRICS]
    by_user = {key: np.zeros(users.n_users) for key in keys}
    is_ranked = np.zeros(users.n_users, dtype=np.bool_)
    counts = {k: np.zeros(n_items, dtype=np.int64) for k in options.cutoffs}
    start = 0
    for index, ranked in enumerate(runner.map_ordered(rank_block, inputs, blocks)):
        stop = blocks.stop_of(index)
        is_ranked[start:stop] = ranked.is_ranked
        for key, block in ranked.values.items():
            by_user[key][start:stop] = block
        for k in options.cutoffs:
            counts[k] += recommendation_counts(ranked.items, n_items, k)
        if advance is not None:
            advance(stop)
        start = stop
    catalog = {f"coverage@{k}": coverage(counts[k]) for k in options.cutoffs}
    catalog |= {f"gini@{k}": gini(counts[k]) for k in options.cutoffs}
    return ModelValues(model.name, by_user, catalog, is_ranked, time.perf_counter() - started)


def _block_users(n_users: int, executor: Executor) -> int:
    """Choose the users of a task: enough for its threads, few enough for all workers; no number depends on it."""
    share = -(-n_users // (_TASKS_PER_WORKER * max(1, executor.n_workers)))
    return max(_THREAD_USERS * executor.n_threads, min(_BLOCK_USERS, share))


def _summarize(model: EvaluatedModel, values: ModelValues, options: EvaluationOptions, n_threads: int) -> ModelSection:
    """Put means and intervals together."""
    n_users = int(values.is_ranked.size)
    means, low, high = _interval(np.array(list(values.by_user.values())), options, n_threads)
    metrics = {
        key: Measurement(mean=means[index], ci_low=low[index], ci_high=high[index], n_users=n_users)
        for index, key in enumerate(values.by_user)
    }
    metrics |= {
        key: Measurement(mean=value, ci_low=None, ci_high=None, n_users=n_users)
        for key, value in values.catalog.items()
    }
    known = model.is_known_item
    return ModelSection(
        name=model.name,
        train_s=model.train_s,
        evaluate_s=values.seconds,
        n_users_unranked=int(np.count_nonzero(~values.is_ranked)),
        n_items_unranked=0 if known is None else int(np.count_nonzero(~known)),
        options=dict(model.options),
        notes=list(model.notes),
        metrics=metrics,
    )


def _compare(first: ModelValues, other: ModelValues, options: EvaluationOptions, n_threads: int) -> Comparison:
    """Compare two models user by user."""
    differences = np.array([first.by_user[key] - other.by_user[key] for key in first.by_user])
    means, low, high = _interval(differences, options, n_threads)
    return Comparison(
        model=first.name,
        other=other.name,
        metrics={
            key: Difference(
                mean=means[index],
                ci_low=low[index],
                ci_high=high[index],
                n_better=int(np.count_nonzero(differences[index] > 0)),
                n_worse=int(np.count_nonzero(differences[index] < 0)),
            )
            for index, key in enumerate(first.by_user)
        },
    )


def _interval(
    values: Float64Array, options: EvaluationOptions, n_threads: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Give the means of the rows and the ends of their intervals."""
    low, high = bootstrap_intervals(
        values, n_resamples=options.n_resamples, seed=options.seed, level=options.level, n_threads=n_threads
    )
    return values.mean(axis=1), low, high


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
