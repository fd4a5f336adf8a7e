"""Which options made the difference."""

import math
from collections.abc import Sequence

import optuna

from rgals.tuning.space import SearchSpace
from rgals.tuning.trial import TrialResult

__all__ = ["MIN_TRIALS", "option_importance"]

MIN_TRIALS = 8
"""Trials with an NDCG below which the shares would be noise."""

_GOOD_SHARE = 0.25


def option_importance(space: SearchSpace, results: Sequence[TrialResult]) -> dict[str, float] | None:
    """Give the share of each option in what sets the good trials apart.

    Parameters
    ----------
    space : SearchSpace
        What was searched.
    results : sequence of TrialResult
        Finished trials; each counts with the NDCG of its best round as it was watched, those that were cut too,
        those that failed not.

    Returns
    -------
    dict of str to float, or None
        Shares that sum to 1, largest first. None with fewer than eight such trials, or where all are equal.

    Notes
    -----
    PED-ANOVA: how far the distribution of an option over the best quarter of the trials is from its
    distribution over all of them.

    References
    ----------
    .. [1] Watanabe, Bansal, Hutter, PED-ANOVA, IJCAI 2023.
    """
    reached = [(result, result.watched_ndcg) for result in results if result.state != "failed"]
    usable = [(result, ndcg) for result, ndcg in reached if math.isfinite(ndcg)]
    if len(usable) < MIN_TRIALS or not space.dimensions or len({ndcg for _, ndcg in usable}) == 1:
        return None
    distributions = space.distributions()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="maximize")
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params={name: result.options[name] for name in space.names},
                    distributions=distributions,
                    value=ndcg,
                )
                for result, ndcg in usable
            ]
        )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=_GOOD_SHARE)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(verbosity)
