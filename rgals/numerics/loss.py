"""The quadratic family of losses: RG², RG×, the weighted squared loss of iALS, and softmax, expanded again and again.

Every member is, with scores ``s_ui = p_u . q_i``,

    L =  sum_observed [ h_ui s_ui^2 / 2 - l_ui s_ui ]                               observed part
       + sum_u w_u [ sum_j pi_j (s_uj^2 / 2 + kappa s_uj) - tau mu_u^2 / 2 ]        background
       + sum_u r_u |p_u|^2 / 2 + sum_i r_i |q_i|^2 / 2                              ridge
       + constant,                 mu_u = sum_j pi_j s_uj

with, for an observed weight g and c_u = sum_i g_ui,

    ======  =======  ============  =====  =====================  =====  ===
    loss    h        l             w_u    pi_j                   kappa  tau
    ======  =======  ============  =====  =====================  =====  ===
    rg2     alpha g  (1 + alpha)g  c_u    sums to 1              1      0
    rgx     alpha g  (1 + alpha)g  c_u    sums to 1              1      1
    ials    alpha g  1 + alpha g   1      sums to n_items        0      0
    ======  =======  ============  =====  =====================  =====  ===

``rg-softmax`` is the softmax loss itself, which has the same form once it is expanded at the scores where
the model stands: h, l, w and a weight of the linear background per user then follow from those scores
(`rgals.numerics.reexpansion`). ``docs/objective.md`` derives all of it.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from rgals.errors import InputError
from rgals.names import Float64Array, Offsets, Side

__all__ = ["LOSS_NAMES", "QUADRATIC_LOSS_NAMES", "Loss", "LossName"]

LossName: TypeAlias = Literal["rg2", "rgx", "ials", "rg-softmax"]
"""A member of the family."""

LOSS_NAMES: tuple[LossName, ...] = get_args(LossName)

QUADRATIC_LOSS_NAMES: tuple[LossName, ...] = tuple(name for name in LOSS_NAMES if name != "rg-softmax")
"""The members that are quadratic in the scores themselves."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A member of the quadratic family with its hyperparameters.

    Parameters
    ----------
    name : {"rg2", "rgx", "ials", "rg-softmax"}
        The member.
    alpha : float
        Extra weight of the observed entries, at least 0. For ``ials`` the confidence of an observed
        entry is ``1 + alpha * g``, as in [3]_. ``rg-softmax`` has no such weight.
    reg : float
        Ridge per unit of a row's total weight, at least 0.
    nu : float
        Exponent of the total weight in the ridge: 1 scales it with the row's weight, 0 makes it flat.
    beta : float
        Exponent of the item degree in the prior: 0 is uniform.
    user_exponent, item_exponent : float
        Exponents of the degrees in the observed weights: ``g`` is proportional to
        ``weight * user_degree**user_exponent * item_degree**item_exponent``, scaled so that the sum of
        all ``g`` equals the sum of all weights.
    n_hard : int
        Hard negatives of each user, whose curvature is kept one by one; ``rg-softmax`` only, as the next two.
    eta : float
        Damping: curvature added to an observed entry for each unit of g, at least 0. A logistic term has
        at most 1/4.
    kappa : float
        Factor of the curvature of a hard negative, at least 1.

    Raises
    ------
    InputError
        If the name is unknown or a number is outside its range.

    References
    ----------
    .. [1] Pu, Lian, Chen, Huang, Chen, Chen, "NDCG-Consistent Softmax Approximation with Accelerated
       Convergence", arXiv 2506.09454, 2025.
    .. [2] Pu, Chen, Huang, Chen, Lian, Chen, "Learning-Efficient Yet Generalizable Collaborative
       Filtering for Item Recommendation", ICML 2024.
    .. [3] Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008.
    """

    name: LossName
    alpha: float
    reg: float
    nu: float = 1.0
    beta: float = 0.0
    user_exponent: float = 0.0
    item_exponent: float = 0.0
    n_hard: int = 20
    eta: float = 0.25
    kappa: float = 1.5

    def __post_init__(self) -> None:
        if self.name not in LOSS_NAMES:
            raise InputError(f"loss: expected one of {', '.join(LOSS_NAMES)}, found {self.name!r}")
        for field in ("alpha", "reg"):
            value = getattr(self, field)
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"{field}: expected a finite number of at least 0, found {value}")
        for field in ("nu", "beta", "user_exponent", "item_exponent"):
            value = getattr(self, field)
            if not np.isfinite(value):
                raise InputError(f"{field}: expected a finite number, found {value}")
        for field, least in (("n_hard", 0), ("eta", 0), ("kappa", 1)):
            value = getattr(self, field)
            if not (np.isfinite(value) and value >= least):
                raise InputError(f"{field}: expected a finite number of at least {least}, found {value}")

    @property
    def is_reexpanded(self) -> bool:
        """Whether entries and backgrounds depend on the scores where the model stands (rg-softmax)."""
        return self.name == "rg-softmax"

    @property
    def is_softmax_expansion(self) -> bool:
        """Whether the background is weighted by the user and pulls scores below zero: all but ``ials``."""
        return self.name != "ials"

    @property
    def has_degree_weights(self) -> bool:
        """Whether the observed weights depend on the degrees."""
        return self.user_exponent != 0 or self.item_exponent != 0

    @property
    def curvature_from_weight(self) -> float:
        """Factor of an entry's weight in its curvature h; the weights of re-expanded entries are h itself."""
        return 1.0 if self.is_reexpanded else self.alpha

    @property
    def linear_from_weight(self) -> float:
        """Factor of g in the linear weight ``l = linear_constant + linear_from_weight * g``."""
        return 1 + self.alpha if self.is_softmax_expansion else self.alpha

    @property
    def linear_constant(self) -> float:
        """Constant in the linear weight."""
        return 0.0 if self.is_softmax_expansion else 1.0

    def constant(self, n_interactions: int, total_weight: float) -> float:
        """Give the part of the objective that does not depend on the factors.

        Parameters
        ----------
        n_interactions : int
            Number of observed entries.
        total_weight : float
            Sum of all observed weights g.
        """
        if self.is_reexpanded:
            return 0.0
        return 0.5 * (self.alpha * total_weight + self.linear_constant * n_interactions)

    def item_prior(self, item_degrees: Offsets) -> Float64Array:
        """Give the background weight pi of each item.

        Parameters
        ----------
        item_degrees : int64 array of shape (n_items,)
            Interactions of each item. With a negative ``beta`` an item without any counts as one with 1.

        Returns
        -------
        float64 array of shape (n_items,)
            Sums to 1 for the softmax expansions and to n_items for ``ials``; uniform where every
            item has degree 0.
        """
        n_items = item_degrees.size
        degrees = item_degrees.astype(np.float64)
        raw = np.power(np.maximum(degrees, 1.0) if self.beta < 0 else degrees, self.beta)
        total = float(raw.sum())
        prior = raw / total if total > 0 else np.full(n_items, 1.0 / max(n_items, 1))
        return prior if self.is_softmax_expansion else prior * n_items

    def user_background(self, weight_sums: Float64Array) -> Float64Array:
        """Give the background weight w of each user from its sum of observed weights."""
        return weight_sums if self.is_softmax_expansion else np.ones_like(weight_sums)

    def ridge(self, background_total: Float64Array, weight_sums: Float64Array) -> Float64Array:
        """Give the ridge of each row.

        Parameters
        ----------
        background_total : float64 array of shape (n_rows,)
            The row's background weight times the total background weight of the other side.
        weight_sums : float64 array of shape (n_rows,)
            The row's sum of observed weights g.

        Returns
        -------
        float64 array of shape (n_rows,)
            ``reg * (background_total + alpha * weight_sums) ** nu``; 0 for a row of total weight 0
            unless ``nu`` is 0. For ``rg-softmax`` the total weight is ``weight_sums`` alone, and
            ``background_total`` for a row without interactions.
        """
        if self.is_reexpanded:
            total = np.where(weight_sums > 0, weight_sums, background_total)
        else:
            total = background_total + self.alpha * weight_sums
        powered = np.ones_like(total) if self.nu == 0 else np.power(total, self.nu, where=total > 0, out=total * 0)
        return self.reg * powered

    def degree_factors(self, side: Side, degrees: Offsets) -> Float64Array:
        """Give ``degree ** exponent`` of each row of a side; 0 for rows without interactions."""
        exponent = self.user_exponent if side == "user" else self.item_exponent
        values = degrees.astype(np.float64)
        return np.power(values, exponent, where=values > 0, out=np.zeros_like(values))
