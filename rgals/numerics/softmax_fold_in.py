"""Users solved under ``rg-softmax`` against frozen items: the training's user half-step, again until it has settled."""

import numpy as np

from rgals.names import BoolArray, Factors, Float64Array, Weights
from rgals.numerics.half_step import HalfStepSystem, SolvedRows, solve_half_step
from rgals.numerics.reexpansion import Expansion, expand
from rgals.numerics.sparse import InteractionRows

__all__ = ["FOLD_IN_STEPS", "settle_users", "step_users"]

FOLD_IN_STEPS = 12
"""Most half-steps of a folded-in user."""

_SETTLED = 1e-4
"""Fall of a user's loss in a half-step, relative to the interactions' weight, below which the user is left alone."""


def step_users(
    system: HalfStepSystem,
    expansion: Expansion,
    initial: Factors,
    ridges: Float64Array,
    *,
    n_threads: int,
) -> SolvedRows:
    """Solve users once on an expansion of their loss: the user half-step of the training.

    Parameters
    ----------
    system : HalfStepSystem
        The items; ``basis`` turns ``initial``.
    expansion : Expansion
        Of these users.
    initial : float32 array of shape (n_users, n_factors)
        Where the loss was expanded.
    ridges : float64 array of shape (n_users,)
        Ridge of each user.
    n_threads : int
        Threads; the result does not depend on it.
    """
    return solve_half_step(
        system,
        expansion.entries.rows,
        initial,
        expansion.backgrounds,
        ridges,
        first_block=0,
        n_threads=n_threads,
        linears=expansion.entries.linears,
        slopes=expansion.slopes,
    )


def settle_users(
    system: HalfStepSystem,
    rows: InteractionRows,
    log_prior: Weights,
    weight_sums: Float64Array,
    ridges: Float64Array,
    *,
    n_threads: int,
) -> SolvedRows:
    """Solve users from their interactions, starting at zero, until their exact loss hardly falls any more.

    Parameters
    ----------
    system : HalfStepSystem
        The items, in a basis in which the users are wanted; its ``basis`` must be the identity.
    rows : InteractionRows of shape (n_users, n_items)
        Their interactions; weights are the observed weights g.
    log_prior : float32 array of shape (n_items,) or empty
        `rgals.numerics.reexpansion.log_prior_of` the prior.
    weight_sums, ridges : float64 arrays of shape (n_users,)
        Sum of the observed weights, and ridge, of each user.
    n_threads : int
        Threads; the result does not depend on it.

    Returns
    -------
    SolvedRows
        The factors; its nodes are empty. A step after which a user's exact loss is higher is halved, so that it
        falls from step to step; at most `FOLD_IN_STEPS` steps.
    """
    n_users, n_factors = rows.n_rows, system.fixed.shape[1]
    factors = np.zeros((n_users, n_factors), dtype=np.float32)
    is_open = weight_sums > 0
    origins, lowest = factors.copy(), np.full(n_users, np.inf)
    failed: BoolArray = np.zeros(n_users, dtype=np.bool_)
    for step in range(FOLD_IN_STEPS + 1):
        active = np.flatnonzero(is_open)
        if active.size == 0:
            break
        mine = rows.take(active)
        found = expand(factors[active], system.fixed, mine, log_prior, system.loss, first_block=0, n_threads=n_threads)
        norms = np.square(factors[active].astype(np.float64)).sum(axis=1)
        values = found.losses + 0.5 * ridges[active] * norms
        has_fallen = values <= lowest[active]
        has_settled = has_fallen & (lowest[active] - values < _SETTLED * weight_sums[active])
        back = active[~has_fallen]
        factors[back] = (origins[back] + factors[back]) / 2
        accepted = active[has_fallen]
        origins[accepted], lowest[accepted] = factors[accepted], values[has_fallen]
        is_open[active[has_settled]] = False
        if step == FOLD_IN_STEPS:
            factors[back] = origins[back]
            break
        solved = step_users(system, found, factors[active], ridges[active], n_threads=n_threads)
        goes_on = has_fallen & ~has_settled
        factors[active[goes_on]] = solved.factors[goes_on]
        lost = active[~np.isfinite(solved.factors).all(axis=1) | ~np.isfinite(values)]
        failed[lost], is_open[lost] = True, False
    first = np.flatnonzero(failed)
    return SolvedRows(factors, [], int(first.size), int(first[0]) if first.size else -1)
