"""What a search tries next: what did well elsewhere, a few points spread over the space, then what a model proposes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from scipy.stats import qmc

from rgals.tuning.space import SearchSpace

__all__ = ["N_STARTING_POINTS", "make_sampler", "starting_point"]

N_STARTING_POINTS = 6
"""Trials before the sampler has enough to model: the defaults, known settings, and points spread over the space."""


def starting_point(space: SearchSpace, seed: int, number: int) -> dict[str, Any] | None:
    """Give the options of one of the first trials.

    Parameters
    ----------
    space : SearchSpace
        What may be chosen from.
    seed : int
        Of the search.
    number : int
        The trial's, from 0.

    Returns
    -------
    dict or None
        The defaults for trial 0, the known settings, points of a scrambled Sobol sequence for the next, then None.
    """
    first: tuple[Mapping[str, Any], ...] = (space.defaults(), *space.known)
    if not space.dimensions:
        return space.defaults()
    if number < len(first):
        return {name: first[number][name] for name in space.names}
    if number >= N_STARTING_POINTS:
        return None
    points = qmc.Sobol(len(space.dimensions), scramble=True, rng=_number(seed, 0)).random_base2(3)
    return space.at(dict(zip(space.names, points[number - len(first)].tolist(), strict=True)))


def make_sampler(seed: int, number: int) -> optuna.samplers.BaseSampler:
    """Make the sampler of one trial: what it proposes depends on the seed, the number and the trials before."""
    return optuna.samplers.TPESampler(
        n_startup_trials=2, multivariate=True, constant_liar=True, n_ei_candidates=64, seed=_number(seed, number)
    )


def _number(seed: int, number: int) -> int:
    """Mix two numbers into a seed."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
