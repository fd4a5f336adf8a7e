"""The loop of a search: ask, run, tell, until the budget is used up."""

import time
from collections.abc import Callable
from typing import Any, TypeAlias

from rgals.errors import InputError, NumericalError
from rgals.tuning.study import FinishedTrial, Study
from rgals.tuning.trial import Pruner, TrialResult

__all__ = ["RunTrial", "search"]

RunTrial: TypeAlias = Callable[[int, dict[str, Any], Pruner], TrialResult]
"""Runs one trial: its number, its options, the rule that may end it early."""


def search(
    study: Study,
    run: RunTrial,
    *,
    budget_trials: int | None = None,
    budget_s: float | None = None,
    patience: int | None = None,
    on_trial: Callable[[Study, FinishedTrial], None] | None = None,
) -> Study:
    """Run trials one after the other until the budget is used up.

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
        Seconds of trials in all; the last trial is stopped by what is left. At least one of the budgets.
    patience : int or None
        Rounds without a better NDCG that end a trial.
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
    while True:
        finished = study.trials
        if budget_trials is not None and len(finished) >= budget_trials:
            return study
        left_s = None if budget_s is None else budget_s - study.tune_s
        if left_s is not None and left_s <= 0:
            return study
        [(number, options)] = study.ask()
        started = time.perf_counter()
        try:
            result = run(number, options, study.pruner(patience, left_s))
        except NumericalError as error:
            result = TrialResult.failure(options, str(error), time.perf_counter() - started)
        trial = study.tell(number, result)
        if on_trial is not None:
            on_trial(study, trial)
