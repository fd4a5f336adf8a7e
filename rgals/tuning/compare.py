"""A comparison: each model searched with the same budget, timed, fitted once more, and ranked once on the test part."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rgals.data.dataset import Dataset
from rgals.errors import CapacityError, InputError, MissingDependencyError, NumericalError
from rgals.evaluation.protocol import EvaluatedUsers
from rgals.evaluation.provenance import describe_machine, find_versions
from rgals.evaluation.values import ModelValues, save_values
from rgals.execution import Executor
from rgals.tuning.compare_folder import ComparisonFolder, OnRepeat
from rgals.tuning.compare_options import CompareOptions
from rgals.tuning.contenders import Contender, contender_named
from rgals.tuning.events import (
    CompareEvent,
    CompareListener,
    LeftOutEvent,
    RepeatEvent,
    RoundEvent,
    Stage,
    StageEvent,
    TrialEvent,
)
from rgals.tuning.family_trial import TrainingRules, run_training
from rgals.tuning.finals import FinalRules, FinalTask, final_source, measure_final
from rgals.tuning.fitting import OWNER, FitTask, FittingRules, RoundListener, prepare_worker, run_fit
from rgals.tuning.search import MAX_FAILURES_IN_A_ROW, BudgetClock
from rgals.tuning.study import FinishedTrial, Study
from rgals.tuning.trial import Pruner, TrialResult

__all__ = ["Comparison", "ModelRecord", "compare", "describe_place"]


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """All that a comparison knows of one model.

    Parameters
    ----------
    contender : Contender
        The model.
    trials : tuple of FinishedTrial
        Its search.
    importance : mapping of str to float or None
        Share of each option in what made trials good.
    best : FinishedTrial
        The chosen trial.
    curve : TrialResult
        The timed fit on the training part with its options.
    values : ModelValues
        What was measured on the test part.
    train_s : float
        Seconds of the last fit.
    notes : tuple of str
        What a reader of its numbers has to know.
    """

    contender: Contender
    trials: tuple[FinishedTrial, ...]
    importance: Mapping[str, float] | None
    best: FinishedTrial
    curve: TrialResult
    values: ModelValues
    train_s: float
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome of a comparison.

    Parameters
    ----------
    options : CompareOptions
        What was asked for.
    users : EvaluatedUsers
        The users of the test part.
    records : tuple of ModelRecord
        In the order of the options.
    left_out : mapping of str to str
        Models that could not take part, and why.
    """

    options: CompareOptions
    users: EvaluatedUsers
    records: tuple[ModelRecord, ...]
    left_out: Mapping[str, str]


def compare(
    dataset: Dataset,
    options: CompareOptions,
    folder: ComparisonFolder,
    *,
    executor: Executor,
    runs_here: bool = True,
    listener: CompareListener | None = None,
    too_large: Mapping[str, str] | None = None,
) -> Comparison:
    """Search, time, fit and measure each model; what an earlier call finished in the folder is not done again.

    Parameters
    ----------
    dataset : Dataset
        With a validation and a test part.
    options : CompareOptions
        Models, budget and protocol.
    folder : ComparisonFolder
        Opened for these options.
    executor : Executor
        Trains losses of the family over all its workers; runs the trials of baselines, one to a worker, as many
        at a time as there are workers; ranks the test part.
    runs_here : bool
        Whether tasks run in this process, so that each round of a baseline can be told of.
    listener : callable or None
        Called with each event, in order.
    too_large : mapping of str to str or None
        Models that are known not to fit, and why: they are left out.

    Returns
    -------
    Comparison
        Models that do not fit into memory, whose library is missing, or that find no finite factors are left out,
        with the reason.

    Raises
    ------
    InputError
        If the dataset has no validation or test part, or no model could take part.

    Notes
    -----
    Options and numbers of rounds come from the validation part alone. The test part is ranked once for each
    model, with a model fitted on the training and validation parts (`rgals.tuning.finals.final_source`).
    """
    for part in ("validation", "test"):
        if part not in dataset.part_names:
            raise InputError(
                f"{dataset!r}: expected a {part} part, found {', '.join(dataset.part_names)}; "
                "ingest with a split that makes both, such as --validation-fraction 0.1 beside a test split"
            )
    run = _Comparing(dataset, options, folder, executor, runs_here, listener)
    records: list[ModelRecord] = []
    left_out: dict[str, str] = {}
    try:
        for name in options.models:
            try:
                if name in (too_large or {}):
                    raise CapacityError((too_large or {})[name])
                records.append(run.record(contender_named(name)))
            except (CapacityError, MissingDependencyError, NumericalError, _NoTrialError, MemoryError) as error:
                left_out[name] = f"out of memory: {error}" if isinstance(error, MemoryError) else str(error)
                run.tell(LeftOutEvent(name, left_out[name]))
    finally:
        executor.release(OWNER)
    if not records:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise InputError(f"comparison: no model could take part ({reasons}); choose other models")
    return Comparison(options, run.users, tuple(records), left_out)


class _NoTrialError(Exception):
    """No trial of a model reached an NDCG."""


def describe_place(executor: Executor) -> dict[str, Any]:
    """Give what measured seconds depend on, beside what was measured, as JSON values."""
    versions = find_versions()
    return {
        "cpu": describe_machine().cpu,
        "workers": executor.n_workers,
        "threads": executor.n_threads,
        **{name: versions.get(name) for name in ("rgals", "numpy", "numba", "implicit")},
    }


class _Comparing:
    def __init__(
        self,
        dataset: Dataset,
        options: CompareOptions,
        folder: ComparisonFolder,
        executor: Executor,
        runs_here: bool,
        listener: CompareListener | None,
    ) -> None:
        self._dataset, self._options, self._folder = dataset, options, folder
        self._executor, self._runs_here, self._listener = executor, runs_here, listener
        self._identity = options.identity(dataset.fingerprint)
        self._source = final_source(dataset)
        self._prepared: set[str] = set()
        self._seen_alone: dict[tuple[str, int], TrialResult] = {}
        self.users = EvaluatedUsers.read(dataset, "test")

    def tell(self, event: CompareEvent) -> None:
        if not isinstance(event, RoundEvent):
            self._folder.keep_time()
        if self._listener is not None:
            self._listener(event)

    def record(self, contender: Contender) -> ModelRecord:
        """Take a model through all stages."""
        path = self._folder.study_path(contender.name)
        identity = {**self._identity, "model": contender.name, "rules": contender.rules}
        with Study.open(path, identity, contender.space, self._options.seed) as study:
            self._search(contender, study)
            best = study.best
            if best is None:
                reasons = {trial.result.reason or "" for trial in study.trials}
                raise _NoTrialError(f"no trial of {study.n_trials} reached an NDCG ({'; '.join(sorted(reasons))})")
            trials, importance = tuple(study.trials), study.importance()
            has_given_up = study.n_failed_in_a_row >= MAX_FAILURES_IN_A_ROW
        curve = self._time(contender, best)
        values, train_s, notes = self._measure(contender, best)
        if has_given_up:
            notes = (*notes, f"its search ended with {len(trials)} trials, as the last {MAX_FAILURES_IN_A_ROW} failed")
        return ModelRecord(contender, trials, importance, best, curve, values, train_s, notes)

    def _search(self, contender: Contender, study: Study) -> None:
        budget = self._options.budget if contender.space.dimensions else 1
        is_done = self._left(study, BudgetClock(study), budget) is None
        self.tell(StageEvent(contender.name, "tune", is_done, budget))
        if is_done:
            return
        self._prepare(contender)
        clock = BudgetClock(study)
        while (left := self._left(study, clock, budget)) is not None:
            n_trials, left_s = left
            is_alone = contender.loss is not None or contender.is_large
            asked = study.ask(1 if is_alone else min(n_trials, self._executor.n_workers))
            pruner = study.pruner(contender.patience, left_s, contender.warm_up, contender.n_start)
            for (number, _), result in zip(asked, self._run(contender, asked, pruner, "tune"), strict=True):
                # Trials side by side share the seconds in which they ran: each is charged those since the one before.
                study.tell(number, result, clock.charge())
                if is_alone or self._executor.n_workers == 1:
                    self._seen_alone[contender.name, number] = result
                best = study.best
                reached = math.nan if best is None else best.result.best_ndcg
                self.tell(TrialEvent(contender.name, number, study.n_trials, result, reached))

    def _left(self, study: Study, clock: BudgetClock, budget: int | None) -> tuple[int, float | None] | None:
        """Give the trials and the seconds that are left of the budget; None if nothing is."""
        if study.n_failed_in_a_row >= MAX_FAILURES_IN_A_ROW:
            return None
        if budget is not None:
            n_left = budget - study.n_trials
            return (n_left, None) if n_left > 0 else None
        assert self._options.budget_s is not None
        left_s = self._options.budget_s - clock.spent_s
        return (self._executor.n_workers, left_s) if left_s > 0 else None

    def _prepare(self, contender: Contender) -> None:
        """Compile kernels, read the data and rank once, before any second is measured.

        Else the first model of a comparison would pay for all of them, out of its budget.
        """
        if contender.name in self._prepared:
            return
        self._prepared.add(contender.name)
        if contender.loss is None:
            self._executor.on_each_worker(prepare_worker, (self._fitting_rules(None), contender.name))
            return
        start = {"start_sweeps": 1} if contender.n_start else {}
        rules = replace(self._training_rules(contender), n_sweeps=1 + len(start))
        run_training(rules, {**contender.inner_point, **start}, Pruner(), self._executor)

    def _run(
        self, contender: Contender, asked: list[tuple[int, dict[str, Any]]], pruner: Pruner, stage: Stage
    ) -> Iterator[TrialResult]:
        """Run trials: of the family one after the other over all workers, of a baseline side by side.

        Each result is given as soon as it is there, in order, so that an interruption costs those under way.
        """
        if contender.loss is not None:
            rules = self._training_rules(contender)
            for number, found in asked:
                listener = self._tell_rounds(contender, number, stage)
                yield run_training(rules, found, pruner, self._executor, listener, watches_softmax=stage == "curve")
            return
        fitting = self._fitting_rules(self._tell_rounds(contender, asked[0][0], stage) if self._runs_here else None)
        tasks = [FitTask(contender.name, found, contender.n_rounds, pruner) for _, found in asked]
        yield from self._executor.map_ordered(run_fit, fitting, tasks)

    def _training_rules(self, contender: Contender) -> TrainingRules:
        assert contender.loss is not None
        options = self._options
        return TrainingRules(
            self._dataset,
            contender.loss,
            options.n_factors,
            contender.n_rounds,
            options.cutoff,
            options.gains,
            options.validation_users,
            options.seed,
            contender.fixed,
        )

    def _fitting_rules(self, listener: RoundListener | None) -> FittingRules:
        options = self._options
        return FittingRules(
            self._dataset,
            options.n_factors,
            options.cutoff,
            options.gains,
            options.validation_users,
            options.seed,
            listener,
        )

    def _tell_rounds(self, contender: Contender, number: int, stage: Stage) -> RoundListener:
        return lambda point: self.tell(RoundEvent(contender.name, stage, number, point))

    def _tell_repeat(self, contender: Contender, stage: Stage) -> OnRepeat:
        return lambda reason: self.tell(RepeatEvent(contender.name, stage, reason))

    def _asked(self, contender: Contender, best: FinishedTrial) -> dict[str, Any]:
        result = best.result
        return {
            "trial": best.number, "options": result.options, "round": result.best_round, "rules": contender.rules,
        }  # fmt: skip

    def _time(self, contender: Contender, best: FinishedTrial) -> TrialResult:
        """Give the fit on the training part whose seconds count: nothing else ran beside it.

        Of a baseline that is the best trial itself, where it ran alone in this very run. A member of the family is
        fitted once more, as its softmax loss is watched too.
        """
        asked, on_repeat = self._asked(contender, best), self._tell_repeat(contender, "curve")
        found = self._folder.read_curve(contender.name, asked, describe_place(self._executor), on_repeat)
        trial = self._seen_alone.get((contender.name, best.number))
        if found is None and contender.loss is None and trial is not None and trial.state == "complete":
            found = trial
            self._folder.write_curve(contender.name, asked, describe_place(self._executor), found)
        self.tell(StageEvent(contender.name, "curve", found is not None))
        if found is None:
            self._prepare(contender)
            pruner = Pruner((), contender.patience, None, contender.n_start)
            [found] = self._run(contender, [(-1, best.result.options)], pruner, "curve")
            if found.state == "failed":
                raise _NoTrialError(f"the timed fit, with the options of trial {best.number}, failed: {found.reason}")
            self._folder.write_curve(contender.name, asked, describe_place(self._executor), found)
        return found

    def _measure(self, contender: Contender, best: FinishedTrial) -> tuple[ModelValues, float, tuple[str, ...]]:
        """Fit on all that may be known and rank the test part, once."""
        options, name, key = self._options, contender.name, self._options.test_key()
        asked = {**self._asked(contender, best), "source": self._source.fingerprint}
        on_repeat = self._tell_repeat(contender, "final")
        known = self._folder.read_final(name, asked, describe_place(self._executor), on_repeat)
        values = None if known is None else self._folder.read_values(name, key, on_repeat)
        self.tell(StageEvent(name, "final", values is not None))
        if known is not None and values is not None:
            return values, *known
        if known is None:  # values of another fit must not be taken for those of this one
            self._folder.drop_values(name)
        self._prepare(contender)
        is_here = self._runs_here or contender.loss is not None
        rules = FinalRules(
            self._source,
            self.users,
            options.to_evaluation(),
            options.n_factors,
            options.seed,
            self._tell_rounds(contender, -1, "final") if is_here else None,
            (lambda: self.tell(StageEvent(name, "test", False))) if is_here else None,
        )
        values = measure_final(rules, FinalTask(name, best.result.options, best.result.best_round), self._executor)
        if values.train_s is None:
            raise TypeError(f"{name} was fitted without seconds")  # a bug
        save_values(values, self._folder.values_path(name, key))
        # Written last: with it, the stage is finished.
        notes = (*values.notes, *self._worker_notes(contender))
        self._folder.write_final(name, asked, describe_place(self._executor), values.train_s, notes)
        return values, values.train_s, notes

    def _worker_notes(self, contender: Contender) -> tuple[str, ...]:
        n_workers, n_threads = self._executor.n_workers, self._executor.n_threads
        if n_workers == 1 or contender.loss is not None:
            return ()
        return (
            f"fitted by one process with {n_threads} threads, where the models of the RG family had {n_workers} "
            f"workers with as many each",
        )
