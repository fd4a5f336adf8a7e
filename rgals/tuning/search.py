"""The loop of a search: ask, run, tell, until the budget is used up."""

import time
from collections.abc import Callable
from typing import Any, TypeAlias

from rgals.errors import InputError, NumericalError
from rgals.tuning.study import FinishedTrial, Study
from rgals.tuning.thresholds import WARM_UP_ROUNDS
from rgals.tuning.trial import Pruner, TrialResult

__all__ = ["MAX_FAILURES_IN_A_ROW", "BudgetClock", "RunTrial", "search"]

MAX_FAILURES_IN_A_ROW = 10
"""A search whose newest trials all failed goes no further: it would not end, or end with nothing."""

RunTrial: TypeAlias = Callable[[int, dict[str, Any], Pruner], TrialResult]
"""Runs one trial: its number, its options, the rule that may end it early."""


class BudgetClock:
    """Charges a search for all the seconds it works, proposing and reading included, over all its calls.

    Parameters
    ----------
    study : Study
        Where charged seconds are kept, with the trials.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._charged_until = time.perf_counter()

    @property
    def spent_s(self) -> float:
        """Seconds until now."""
        return self._study.tune_s + time.perf_counter() - self._charged_until

    def charge(self) -> float:
        """Give the seconds since the last charge, which the next told trial is to hold."""
        before, self._charged_until = self._charged_until, time.perf_counter()
        return self._charged_until - before


def search(
    study: Study,
    run: RunTrial,
    *,
    budget_trials: int | None = None,
    budget_s: float | None = None,
    patience: int | None = None,
    warm_up: int = WARM_UP_ROUNDS,
    n_start: int = 0,
    on_trial: Callable[[Study, FinishedTrial], None] | None = None,
) -> Study:
    """Run trials one after the other until the budget is used up, or ten in a row failed.

    Parameters
    ----------
    study : Study
        Where they are kept; its trials from earlier calls count towards the budget.
    run : callable
        Runs a trial. A `NumericalError` makes it a failed one; any other exception ends the search and
        leaves the trial to be offered again.
    budget_trials : int or None
        Trials in all; a space without options gets one.
    budget_s : float or None
        Seconds in all, proposing included; the last trial is stopped by what is left. At least one of the budgets.
    patience : int or None
        Rounds without a better NDCG that end a trial.
    warm_up : int
        Rounds for which a trial is left alone.
    n_start : int
        Rounds at the beginning that minimize another loss: neither patience nor the best NDCG is about them.
    on_trial : callable or None
        Called after each trial, with the study and the trial.

    Returns
    -------
    Study
        ``study``.

    Raises
    ------
    InputError
        If there is no budget, or it is not above 0.
    """
    for name, budget in (("budget_trials", budget_trials), ("budget_s", budget_s)):
        if budget is not None and not budget > 0:
            raise InputError(f"{name}: expected more than 0, found {budget}; give the search something to spend")
    if budget_trials is None and budget_s is None:
        raise InputError("search: expected a number of trials or of seconds, found neither; give one as budget")
    if not study.space.dimensions:
        budget_trials = 1
    clock = BudgetClock(study)
    while study.n_failed_in_a_row < MAX_FAILURES_IN_A_ROW:
        if budget_trials is not None and study.n_trials >= budget_trials:
            break
        if budget_s is not None and clock.spent_s >= budget_s:
            break
        [(number, options)] = study.ask()
        left_s = None if budget_s is None else budget_s - clock.spent_s
        started = time.perf_counter()
        try:
            result = run(number, options, study.pruner(patience, left_s, warm_up, n_start))
        except NumericalError as error:
            result = TrialResult.failure(options, str(error), time.perf_counter() - started)
        trial = study.tell(number, result, clock.charge())
        if on_trial is not None:
            on_trial(study, trial)
    return study
