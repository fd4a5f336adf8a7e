"""Explanations: a user's score of an item as a sum over the user's interactions and the background.

The factors of a user solve ``A p = sum_e l_e q_e - w v`` (see `rgals.numerics.fold_in`), so the score of
item j is ``q_j . p = sum_e l_e (q_j' A^-1 q_e) - w (q_j' A^-1 v)``: exact, one term per interaction.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from rgals.errors import NumericalError
from rgals.names import Factors, Float64Array, Offsets, Rows, Weights
from rgals.numerics.fold_in import FoldInArrays, UserSystem
from rgals.numerics.loss import Loss
from rgals.numerics.reexpansion import expand, log_prior_of
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.weighting import row_weight_sums, weigh_entries

__all__ = ["ExplainedUser", "explain_user"]


@dataclass(frozen=True, slots=True)
class ExplainedUser:
    """A user's solved system, ready to divide any item's score.

    Parameters
    ----------
    items : int32 array of shape (n_interactions,)
        The user's items, ascending.
    responses : float64 array of shape (n_interactions, n_factors)
        ``l_e A^-1 q_e`` of each interaction: its share of the user's factors.
    background : float64 array of shape (n_factors,)
        ``-w A^-1 v``: the share of the unobserved items. Under ``rg-softmax`` the factors less all shares of
        the interactions: what the hard negatives and all others leave.
    """

    items: Rows
    responses: Float64Array
    background: Float64Array

    def contributions(self, item_vector: Weights) -> Float64Array:
        """Give what each interaction adds to the score of an item, float64 of shape (n_interactions,).

        Parameters
        ----------
        item_vector : float32 array of shape (n_factors,)
            The item's factors.
        """
        return self.responses @ item_vector.astype(np.float64)

    def background_score(self, item_vector: Weights) -> float:
        """Give what the unobserved items add to the score of an item; 0 for ``ials``.

        Parameters
        ----------
        item_vector : float32 array of shape (n_factors,)
            The item's factors.
        """
        return float(self.background @ item_vector.astype(np.float64))


def explain_user(
    row: InteractionRows,
    item_factors: Factors,
    loss: Loss,
    arrays: FoldInArrays,
    item_degrees: Offsets,
    weight_scale: float,
) -> ExplainedUser:
    """Solve one user's system for each interaction apart.

    Parameters
    ----------
    row : InteractionRows with one row
        The user's interactions; weights as stored in a dataset.
    item_factors : float32 array of shape (n_items, n_factors)
        Frozen item factors.
    loss : Loss
        The loss of the training.
    arrays : FoldInArrays
        The background of the user side, in the basis of ``item_factors``.
    item_degrees : int64 array of shape (n_items,)
        Training interactions of each item.
    weight_scale : float
        The training's scale of the observed weights.

    Returns
    -------
    ExplainedUser
        Without interactions, no shares and, under the softmax expansions, no background.

    Raises
    ------
    NumericalError
        If the system has no unique solution.
    """
    stored = row
    if loss.has_degree_weights:
        row_factors = loss.degree_factors("user", row.degrees) * weight_scale
        row = weigh_entries(row, row_factors, loss.degree_factors("item", item_degrees))
    weight_sums = row_weight_sums(row)
    background = loss.user_background(weight_sums)
    prior_total = float(loss.item_prior(item_degrees).sum())
    (ridge,) = loss.ridge(background * prior_total, weight_sums)
    weights = row.weights_of(0).astype(np.float64)
    entries = item_factors[row.columns_of(0)].astype(np.float64)
    n_factors = item_factors.shape[1]
    pull = arrays.linear if loss.is_softmax_expansion else np.zeros(n_factors)
    if background[0] == 0 and not weights.any():
        return ExplainedUser(row.columns_of(0), np.zeros_like(entries), np.zeros(n_factors))
    if loss.is_reexpanded:
        return _explain_softmax(stored, row, item_factors, loss, arrays, item_degrees, weight_scale, ridge)
    system = background[0] * arrays.gram + loss.alpha * (entries.T * weights) @ entries + ridge * np.eye(n_factors)
    linear = loss.linear_constant + loss.linear_from_weight * weights
    right_sides = np.vstack([linear[:, None] * entries, -background[0] * pull])
    solved = _solve(system, right_sides, loss, weights.size)
    return ExplainedUser(row.columns_of(0), solved[:-1], solved[-1])


def _explain_softmax(
    stored: InteractionRows,
    row: InteractionRows,
    item_factors: Factors,
    loss: Loss,
    arrays: FoldInArrays,
    item_degrees: Offsets,
    weight_scale: float,
    ridge: float,
) -> ExplainedUser:
    """Divide the settled factors of a user by the system of the expansion around them."""
    user = UserSystem.from_arrays(arrays, item_factors, loss, item_degrees, weight_scale).solve(stored)
    log_prior = log_prior_of(loss.item_prior(item_degrees))
    found = expand(user, item_factors, row, log_prior, loss, first_block=0, n_threads=1)
    rows, linears = found.entries.rows, found.entries.linears.astype(np.float64)
    near = item_factors[rows.columns].astype(np.float64)
    curvatures = rows.weights_of(0).astype(np.float64)
    system = found.backgrounds[0] * arrays.gram + (near.T * curvatures) @ near + ridge * np.eye(near.shape[1])
    own = np.isin(rows.columns, row.columns_of(0))
    responses = _solve(system, linears[own, None] * near[own], loss, row.n_interactions)
    return ExplainedUser(row.columns_of(0), responses, user[0].astype(np.float64) - responses.sum(axis=0))


def _solve(system: Float64Array, right_sides: Float64Array, loss: Loss, n_interactions: int) -> Float64Array:
    """Solve a user's system for several right sides, one per row."""
    try:
        return np.asarray(scipy.linalg.cho_solve(scipy.linalg.cho_factor(system, lower=True), right_sides.T).T)
    except scipy.linalg.LinAlgError as error:
        raise NumericalError(
            f"explain: the user's system has no unique solution (reg={loss.reg}, {n_interactions} interactions); "
            "train with a larger reg"
        ) from error
