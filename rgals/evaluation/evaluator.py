"""Evaluate models: rank all items for every user with held-out items, measure, put intervals around the means."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rgals.data.dataset import Dataset
from rgals.errors import InputError
from rgals.evaluation.protocol import EvaluatedModel, EvaluatedUsers, EvaluationOptions, count_items
from rgals.evaluation.report import ModelDetails, Report
from rgals.evaluation.summary import build_report, check_names
from rgals.evaluation.user_blocks import RankingInputs, UserBlocks, rank_block
from rgals.evaluation.values import ListRecorder, ModelValues, identify_measurement
from rgals.execution import Executor, InProcessExecutor
from rgals.numerics.ranking import METRICS
from rgals.numerics.threads import available_threads

__all__ = ["Evaluation", "ModelValues", "evaluate", "measure"]

_BLOCK_USERS = 8192
"""Users of a task, whose lists are held at once; fewer where there would not be work for every worker."""

_THREAD_USERS = 256
"""Users that keep a thread busy: no task has fewer for each of its threads, but for the last."""

_TASKS_PER_WORKER = 4


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
    reference: str | None = None,
    metric: str | None = None,
    details: Sequence[ModelDetails] = (),
    n_threads: int | None = None,
    executor: Executor | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Evaluation:
    """Measure models on a held-out part of a dataset.

    Parameters
    ----------
    models : sequence of ScoringModel or BlockScoringModel
        In the row numbers of the dataset.
    dataset : Dataset
        With the part that the options name.
    options : EvaluationOptions or None
        None takes the defaults.
    reference : str or None
        Name of the model that is compared with each of the others; None takes the first.
    metric : str or None
        Headline metric, such as ``"ndcg@20"``; None takes NDCG at 20, or at the first cutoff.
    details : sequence of ModelDetails
        What is known of the models' training, by name.
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
        If there is no model, two have one name, the reference or the metric is unknown, the dataset lacks the
        part, or shapes do not fit.
    NumericalError
        If a model's factors are not finite.
    """
    chosen = options or EvaluationOptions()
    threads = available_threads() if n_threads is None else n_threads
    check_names([model.name for model in models], chosen, reference, metric)
    users = EvaluatedUsers.read(dataset, chosen.part, filter_validation=chosen.filter_validation)
    values: list[ModelValues] = []
    for index, model in enumerate(models):
        done_before, total = index * users.n_users, len(models) * users.n_users

        def advance(n_done: int, done_before: int = done_before, total: int = total) -> None:
            if progress is not None:
                progress(done_before + n_done, total)

        values.append(measure(model, users, chosen, n_threads=threads, executor=executor, advance=advance))
    report = build_report(
        values, dataset, users, chosen, reference=reference, metric=metric, details=details, n_threads=threads
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
    recorder = ListRecorder(users, options)
    start = 0
    for index, ranked in enumerate(runner.map_ordered(rank_block, inputs, blocks)):
        stop = blocks.stop_of(index)
        is_ranked[start:stop] = ranked.is_ranked
        for key, block in ranked.values.items():
            by_user[key][start:stop] = block
        recorder.add(start, ranked.items)
        if advance is not None:
            advance(stop)
        start = stop
    known = model.is_known_item
    return ModelValues(
        name=model.name,
        by_user=by_user,
        catalog=recorder.catalog_metrics(),
        is_ranked=is_ranked,
        seconds=time.perf_counter() - started,
        counts=recorder.counts,
        ranks=recorder.ranks,
        sample_lists=recorder.sample_lists,
        measurement=identify_measurement(users, options),
        train_s=model.train_s,
        options=dict(model.options),
        notes=tuple(model.notes),
        n_items_unranked=0 if known is None else int(np.count_nonzero(~known)),
    )


def _block_users(n_users: int, executor: Executor) -> int:
    """Choose the users of a task: enough for its threads, few enough for all workers; no number depends on it."""
    share = -(-n_users // (_TASKS_PER_WORKER * max(1, executor.n_workers)))
    return max(_THREAD_USERS * executor.n_threads, min(_BLOCK_USERS, share))
