"""The expansion of the softmax loss around given scores, dense, float64, written from its definition."""

from dataclasses import dataclass

import numpy as np

from rgals.names import BoolArray, Float64Array


@dataclass(frozen=True)
class DenseExpansion:
    """One quadratic of the scores for every user: its curvature and its slope.

    ``curvatures`` and ``slopes`` are those of the whole quadratic at ``scores``, background included, of shape
    (n_users, n_items).
    """

    scores: Float64Array
    is_entry: BoolArray
    curvatures: Float64Array
    slopes: Float64Array
    backgrounds: Float64Array
    losses: Float64Array

    @classmethod
    def at(
        cls, scores: Float64Array, weights: Float64Array, prior: Float64Array, n_hard: int, eta: float, kappa: float
    ) -> "DenseExpansion":
        """Expand the softmax loss with observed weights g (0: not observed) around ``scores``."""
        n_users, _n_items = scores.shape
        totals = weights.sum(axis=1)
        raw = prior * np.exp(scores)
        partitions = raw.sum(axis=1)
        p = raw / partitions[:, None]
        is_observed = weights > 0
        is_entry = is_observed.copy()
        for u in range(n_users):
            others = np.flatnonzero(~is_observed[u])
            order = others[np.lexsort((others, -p[u, others]))]
            is_entry[u, order[:n_hard]] = True
        is_entry &= totals[:, None] > 0
        rho = np.where(is_entry, 0, p).sum(axis=1)
        sigma = np.where(is_entry, 0, prior).sum(axis=1)
        has_rest = (sigma > 1e-12) & (totals > 0)
        density = np.divide(rho, sigma, out=np.zeros(n_users), where=has_rest)
        omega = totals * density
        c = totals[:, None]
        spread = omega[:, None] * prior
        # What the entries have alone, plus the background that they are given back.
        own = np.where(is_observed, c * p + eta * weights, kappa * c * p) - spread
        curvatures = np.where(is_entry, np.maximum(own, 1e-10), 0) + spread
        slopes = c * p - weights
        losses = totals * np.log(partitions) - (weights * scores).sum(axis=1)
        return cls(scores, is_entry, curvatures, slopes, omega, losses)

    def solve_users(self, items: Float64Array, ridges: Float64Array) -> Float64Array:
        """Minimize the quadratic over each user's vector."""
        found = []
        for u in range(self.scores.shape[0]):
            matrix = (items.T * self.curvatures[u]) @ items + ridges[u] * np.eye(items.shape[1])
            right = items.T @ (self.curvatures[u] * self.scores[u] - self.slopes[u])
            found.append(np.linalg.solve(matrix, right))
        return np.array(found)
