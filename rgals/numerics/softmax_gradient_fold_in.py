"""Vectors of new users under the softmax loss, with the items as they are."""

import numpy as np

from rgals.names import BoolArray, Factors, Float64Array
from rgals.numerics.softmax_gradient import BatchEntries, SoftmaxGradient
from rgals.numerics.sparse import InteractionRows

__all__ = ["softmax_fold_in"]

_BLOCK_USERS = 256
_HISTORY = 8
_MAX_STEPS = 200
_TOLERANCE = 1e-4
_ARMIJO = 1e-4
_NOISE = 1e-6
"""What the float32 loss can be wrong by, relative: a step that raises it by less is taken."""


def softmax_fold_in(
    items: Factors, rows: InteractionRows, *, l2: float = 0.0, temperature: float | None = None, n_threads: int = 1
) -> Factors:
    """Find the vectors that minimise new users' exact softmax losses, the items being fixed.

    Parameters
    ----------
    items : float32 array of shape (n_items, n_factors)
        Vectors of all items; of length 1 (or 0) under cosine scores.
    rows : InteractionRows of shape (n_rows, n_items)
        What the new users have observed; the weights are the loss's g.
    l2 : float
        Ridge per unit of weight under dot scores; without meaning under cosine scores, which do not
        depend on a user's length.
    temperature : float or None
        Temperature of cosine scores; None for dot scores.
    n_threads : int
        Threads to use; no result depends on it.

    Returns
    -------
    float32 array of shape (n_rows, n_factors)
        Of length 1 under cosine scores. Zeros for a user without interactions.

    Notes
    -----
    L-BFGS with backtracking, for 256 users at once, each with its own history and step length, until
    the gradient of the loss per unit of weight is below 1e-4 times the longest item (and divided by the
    temperature), or 200 steps. The dot loss is convex: the minimum is the only one. The cosine loss
    starts at the direction of the observed items' weighted sum. Cost per step and user: about
    4 n_items n_factors operations.
    """
    found = np.zeros((rows.n_rows, items.shape[1]), dtype=np.float32)
    observed = np.flatnonzero(rows.degrees)
    if observed.size == 0:
        return found
    most = min(_BLOCK_USERS, observed.size)
    gradient = SoftmaxGradient(most, rows.n_columns, items.shape[1], n_threads, keeps_scores=False)
    for start in range(0, observed.size, most):
        users = observed[start : start + most]
        found[users] = _Minimizer(gradient, items, rows.take(users), l2, temperature).run()
    return found


class _Minimizer:
    """The losses of some users as functions of their vectors, and their minimisation."""

    def __init__(
        self,
        gradient: SoftmaxGradient,
        items: Factors,
        rows: InteractionRows,
        l2: float,
        temperature: float | None,
    ) -> None:
        self._gradient, self._items, self._l2, self._temperature = gradient, items, l2, temperature
        totals = np.add.reduceat(_weights(rows).astype(np.float64), rows.indptr[:-1])
        shares = (_weights(rows) / np.repeat(totals, rows.degrees)).astype(np.float32)
        self._rows = InteractionRows(rows.indptr, rows.columns, shares, rows.n_columns)
        longest = float(np.sqrt(np.square(items, dtype=np.float64).sum(axis=1).max()))
        self._tolerance = _TOLERANCE * longest / (1.0 if temperature is None else temperature)

    def run(self) -> Float64Array:
        """Give the vectors at which the losses have their minima."""
        x = self._start()
        open_users = np.arange(len(x))
        found = x.copy()
        entries = BatchEntries.from_rows(self._rows)
        loss, slope = self._evaluate(x, entries)
        history = _History(x.shape)
        direction = history.direction(slope)
        length = np.ones(len(x))
        for _ in range(_MAX_STEPS):
            trial = x + length[:, None] * direction
            trial_loss, trial_slope = self._evaluate(trial, entries)
            along = np.einsum("uf,uf->u", slope, direction)
            is_taken = trial_loss <= loss + _ARMIJO * length * along + _NOISE * np.abs(loss)
            history.add(is_taken, trial - x, trial_slope - slope)
            x[is_taken], loss[is_taken], slope[is_taken] = trial[is_taken], trial_loss[is_taken], trial_slope[is_taken]
            length = np.where(is_taken, 1.0, 0.5 * length)
            direction[is_taken] = history.direction(slope)[is_taken]
            found[open_users] = x
            is_open = (self._steepness(x, slope) > self._tolerance) & (length > 1e-9)
            if not is_open.any():
                break
            if not is_open.all():
                x, loss, slope, direction = x[is_open], loss[is_open], slope[is_open], direction[is_open]
                length, open_users = length[is_open], open_users[is_open]
                history.keep(is_open)
                entries = BatchEntries.from_rows(self._rows.take(open_users))
        return found if self._temperature is None else _unit(found)

    def _start(self) -> Float64Array:
        """Begin at zero under dot scores, and in the direction of the observed items under cosine scores."""
        if self._temperature is None:
            return np.zeros((self._rows.n_rows, self._items.shape[1]))
        return _unit(np.asarray(self._rows.to_scipy() @ self._items, dtype=np.float64))

    def _evaluate(self, x: Float64Array, entries: BatchEntries) -> tuple[Float64Array, Float64Array]:
        """Give the losses per unit of weight and their gradients."""
        if self._temperature is None:
            losses, gradients = self._gradient.user_pass(x.astype(np.float32), self._items, entries)
            losses += 0.5 * self._l2 * np.square(x).sum(axis=1)
            return losses, gradients + self._l2 * x
        unit = _unit(x)
        losses, gradients = self._gradient.user_pass(
            (unit / self._temperature).astype(np.float32), self._items, entries
        )
        slopes = gradients.astype(np.float64)
        slopes -= np.einsum("uf,uf->u", slopes, unit)[:, None] * unit
        norms = np.linalg.norm(x, axis=1)
        return losses, slopes / (self._temperature * np.where(norms > 0, norms, 1))[:, None]

    def _steepness(self, x: Float64Array, slope: Float64Array) -> Float64Array:
        """Give the lengths of the slopes, under cosine scores as they would be for vectors of length 1."""
        steepness: Float64Array = np.linalg.norm(slope, axis=1)
        return steepness if self._temperature is None else steepness * np.linalg.norm(x, axis=1)


class _History:
    """The last steps and changes of slope of each user, for the two-loop recursion of L-BFGS."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._steps = np.zeros((_HISTORY, *shape))
        self._changes = np.zeros((_HISTORY, *shape))
        self._curvatures = np.zeros((_HISTORY, shape[0]))  # 1 / (step . change); 0 where there is none
        self._scales = np.zeros(shape[0])  # of the first guess of the inverse Hessian; 0 before any step

    def add(self, is_taken: BoolArray, step: Float64Array, change: Float64Array) -> None:
        """Remember the steps of the users that took one and whose loss curves upwards along it."""
        product = np.einsum("uf,uf->u", step, change)
        square = np.einsum("uf,uf->u", change, change)
        is_kept = is_taken & (product > 1e-12 * square) & (product > 0)
        for array in (self._steps, self._changes, self._curvatures):
            array[:-1, is_kept] = array[1:, is_kept]
        self._steps[-1, is_kept], self._changes[-1, is_kept] = step[is_kept], change[is_kept]
        self._curvatures[-1, is_kept] = 1 / product[is_kept]
        self._scales[is_kept] = product[is_kept] / square[is_kept]

    def keep(self, is_open: BoolArray) -> None:
        """Forget the users that are done."""
        self._steps, self._changes = self._steps[:, is_open], self._changes[:, is_open]
        self._curvatures, self._scales = self._curvatures[:, is_open], self._scales[is_open]

    def direction(self, slope: Float64Array) -> Float64Array:
        """Give each user's direction of descent; the first is of length 1 at most."""
        wanted = slope.copy()
        amounts = np.empty_like(self._curvatures)
        for age in reversed(range(_HISTORY)):
            amounts[age] = self._curvatures[age] * np.einsum("uf,uf->u", self._steps[age], wanted)
            wanted -= amounts[age][:, None] * self._changes[age]
        first = 1 / np.maximum(np.linalg.norm(slope, axis=1), 1e-30)
        wanted *= np.where(self._scales > 0, self._scales, first)[:, None]
        for age in range(_HISTORY):
            back = self._curvatures[age] * np.einsum("uf,uf->u", self._changes[age], wanted)
            wanted += (amounts[age] - back)[:, None] * self._steps[age]
        return -wanted


def _weights(rows: InteractionRows) -> Factors:
    return np.ones(rows.n_interactions, np.float32) if rows.weights is None else rows.weights


def _unit(x: Float64Array) -> Float64Array:
    """Scale rows to length 1; a row of zeros becomes the first axis."""
    norms = np.linalg.norm(x, axis=1)
    unit: Float64Array = x / np.where(norms > 0, norms, 1)[:, None]
    unit[norms == 0, 0] = 1
    return unit
