"""The objective written out from its definition, dense and in float64: the readable twin of the solver.

Nothing here is fast. The tests compare every kernel with it, and it is the place to read what is minimized.
"""

from dataclasses import dataclass

import numpy as np

from rgals.names import Float64Array
from rgals.numerics.loss import Loss
from rgals.numerics.sparse import InteractionRows

__all__ = ["DenseProblem"]


@dataclass(frozen=True)
class DenseProblem:
    """A small problem as dense float64 arrays.

    Parameters
    ----------
    weights : float64 array of shape (n_users, n_items)
        Observed weight g of each pair, 0 where unobserved.
    loss : Loss
        The loss; its degree exponents are ignored, ``weights`` being final.
    """

    weights: Float64Array
    loss: Loss

    @classmethod
    def from_interactions(cls, user_items: InteractionRows, loss: Loss) -> "DenseProblem":
        """Apply the degree weights of the loss to stored interactions."""
        stored = user_items.to_scipy().toarray().astype(np.float64)
        is_observed = stored > 0
        user_degrees, item_degrees = is_observed.sum(axis=1), is_observed.sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            raw = stored * np.power(user_degrees[:, None] * 1.0, loss.user_exponent)
            raw = raw * np.power(item_degrees[None, :] * 1.0, loss.item_exponent)
        raw = np.where(is_observed, raw, 0.0)
        return cls(raw * (stored.sum() / raw.sum()), loss)

    @property
    def is_observed(self) -> "np.ndarray[tuple[int, int], np.dtype[np.bool_]]":
        """Which pairs are observed."""
        return self.weights > 0

    @property
    def prior(self) -> Float64Array:
        """Item prior pi."""
        return self.loss.item_prior(self.is_observed.sum(axis=0))

    @property
    def user_weights(self) -> Float64Array:
        """c_u: the sum of each user's observed weights."""
        return np.asarray(self.weights.sum(axis=1))

    def ridges(self) -> tuple[Float64Array, Float64Array]:
        """Give the ridge of each user and of each item: ``reg * (total weight) ** nu``."""
        loss, prior = self.loss, self.prior
        background = self.user_weights if loss.name != "ials" else np.ones(len(self.weights))
        user_total = background * prior.sum() + loss.alpha * self.user_weights
        item_total = prior * background.sum() + loss.alpha * self.weights.sum(axis=0)
        if loss.nu == 0:
            return np.full_like(user_total, loss.reg), np.full_like(item_total, loss.reg)
        return loss.reg * user_total**loss.nu, loss.reg * item_total**loss.nu

    def objective(self, user_factors: Float64Array, item_factors: Float64Array) -> float:
        """Give the loss with its ridge.

        Parameters
        ----------
        user_factors, item_factors : float64 arrays of shape (n_users, n_factors), (n_items, n_factors)
            Factors.

        Notes
        -----
        RG×: ``sum_u { -sum_i g s + c_u [ mu + (sum_j pi s^2 - mu^2) / 2 ] } + alpha/2 sum g (s - 1)^2``;
        RG² leaves the ``mu^2`` out; iALS is ``sum_observed (1 + alpha g)(s - 1)^2 / 2`` with ``pi s^2 / 2``
        in place of ``s^2 / 2`` for the background.
        """
        loss, g, prior = self.loss, self.weights, self.prior
        scores = user_factors @ item_factors.T
        user_ridge, item_ridge = self.ridges()
        ridge = 0.5 * float(user_ridge @ (user_factors**2).sum(axis=1) + item_ridge @ (item_factors**2).sum(axis=1))
        if loss.name == "ials":
            confidence = np.where(self.is_observed, 1 + loss.alpha * g, 0.0)
            fit = confidence * (1 - scores) ** 2 + (prior - self.is_observed) * scores**2
            return 0.5 * float(fit.sum()) + ridge
        mean = scores @ prior
        square = scores**2 @ prior - (mean**2 if loss.name == "rgx" else 0.0)
        value = -float((g * scores).sum()) + float(self.user_weights @ (mean + 0.5 * square))
        return value + 0.5 * loss.alpha * float((g * (scores - 1) ** 2).sum()) + ridge

    def gradient(self, user_factors: Float64Array, item_factors: Float64Array, step: float) -> Float64Array:
        """Give the gradient by central differences, users first, flattened."""
        flat = np.concatenate([user_factors.ravel(), item_factors.ravel()])
        shape, split = user_factors.shape, user_factors.size
        result = np.empty_like(flat)
        for position in range(flat.size):
            sides = []
            for sign in (1.0, -1.0):
                moved = flat.copy()
                moved[position] += sign * step
                sides.append(self.objective(moved[:split].reshape(shape), moved[split:].reshape(-1, shape[1])))
            result[position] = (sides[0] - sides[1]) / (2 * step)
        return result
