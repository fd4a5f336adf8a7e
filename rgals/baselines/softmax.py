"""Matrix factorization under the softmax loss over all items: the model whose ranking the RG losses approximate."""

import math
from functools import partial
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from rgals.baselines.model import FittedBaseline, RoundClock, Watch
from rgals.errors import CapacityError, NumericalError
from rgals.execution.doctor_machine import read_memory
from rgals.names import Factors, Offsets, Weights
from rgals.numerics.adam import Adam
from rgals.numerics.softmax_gradient import BatchEntries, SoftmaxGradient, buffer_bytes
from rgals.numerics.softmax_gradient_fold_in import softmax_fold_in
from rgals.numerics.softmax_gradient_kernels import add_ridge, normalize, through_norm
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import available_threads

__all__ = ["SoftmaxOptions", "fit_softmax"]


class SoftmaxOptions(BaseModel):
    """Options of matrix factorization under the softmax loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_factors: int = Field(default=64, ge=1)
    """Length of a user's and an item's vector."""
    n_epochs: int = Field(default=20, ge=1)
    """Passes over the users; the length of the cosine decay."""
    scores: Literal["dot", "cosine"] = "cosine"
    """``p . q``, or ``p . q / (|p| |q| temperature)``."""
    temperature: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """Divides cosine scores; dot scores know none."""
    learning_rate: float = Field(default=0.02, gt=0, allow_inf_nan=False)
    """Adam's step length for items."""
    user_learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Adam's step length for users, who take one step an epoch; None: as for items."""
    decay: Literal["constant", "cosine"] = "constant"
    """Whether the learning rates stay, or fall along half a cosine wave to 0 at the end."""
    batch_users: int = Field(default=256, ge=1)
    """Users of a step."""
    l2: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Ridge per unit of interaction weight."""
    init_scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """The starting entries are normal with standard deviation ``init_scale / sqrt(n_factors)``."""
    seed: int = Field(default=0, ge=0)
    """Key of the starting vectors and of the order of the users."""


def fit_softmax(
    train: InteractionRows,
    options: SoftmaxOptions | None = None,
    *,
    n_threads: int | None = None,
    watch: Watch | None = None,
) -> FittedBaseline:
    """Fit user and item vectors to the softmax loss over all items by Adam.

    Parameters
    ----------
    train : InteractionRows of shape (n_users, n_items)
        Training interactions; their weights are the loss's g.
    options : SoftmaxOptions or None
        None takes the defaults.
    n_threads : int or None
        Number of threads; None uses every processor. No result depends on it.
    watch : callable or None
        Called after each epoch.

    Returns
    -------
    FittedBaseline
        Under cosine scores the factors are normalized, so that their products rank. Users without
        interactions have zero factors.

    Raises
    ------
    NumericalError
        If the loss is not finite.
    CapacityError
        If the scores of a batch do not fit into the available memory.

    Notes
    -----
    The loss of a batch of users, with g the weights and W their sum over the batch::

        1/W sum_u sum_i g_ui [ -s_ui + log sum_j exp(s_uj) + l2/2 (|p_u|^2 + |q_i|^2) ]

    so that a row's ridge grows with its weight, as in the RG losses with ``nu = 1``. Users take a step
    of Adam when they are in a batch (with a step count of their own), items at every batch.
    """
    chosen = options or SoftmaxOptions()
    threads = available_threads() if n_threads is None else n_threads
    _check_memory(train, chosen)
    clock = RoundClock(watch)
    fit = _Fit(train, chosen, threads)
    for epoch in range(chosen.n_epochs):
        loss = fit.run_epoch(epoch)
        if not clock.end_round(epoch + 1, loss, fit.model_at):
            break
    return fit.model_at(clock.seconds)


def _check_memory(train: InteractionRows, options: SoftmaxOptions) -> None:
    """Refuse what does not fit: the vectors, Adam's averages of them, and the scores of a batch."""
    vectors = 4 * (train.n_rows + train.n_columns) * options.n_factors
    batch = buffer_bytes(min(options.batch_users, train.n_rows), train.n_columns, options.n_factors)
    needed = 4 * vectors + batch
    try:
        available = read_memory().available_bytes
    except (OSError, KeyError):
        return
    if needed > available:
        raise CapacityError(
            f"softmax: expected {needed / 1e9:.2f} GB of memory ({batch / 1e9:.2f} GB of them for the scores of "
            f"{options.batch_users} users by {train.n_columns} items), found {available / 1e9:.2f} GB; "
            "use a smaller batch_users, or the sampled softmax"
        )


class _Fit:
    """The state of a fit between epochs."""

    def __init__(self, train: InteractionRows, options: SoftmaxOptions, n_threads: int) -> None:
        self._train = train
        self._options = options
        self._is_cosine = options.scores == "cosine"
        self._active: Offsets = np.flatnonzero(train.degrees).astype(np.int64)
        n_batches = max(1, -(-self._active.size // options.batch_users))
        self._batch_bounds = np.linspace(0, self._active.size, n_batches + 1).astype(np.int64)
        users, items = (np.random.default_rng([options.seed, stream]) for stream in (0, 1))
        self._users = _draw(users, train.n_rows, options)
        self._items = _draw(items, train.n_columns, options)
        self._users[train.degrees == 0] = 0
        self._user_adam, self._item_adam = Adam(self._users), Adam(self._items)
        # What is multiplied: items of length 1 under cosine scores, and the vectors themselves otherwise.
        self._item_vectors, self._item_norms = self._items, np.ones(train.n_columns, np.float32)
        if self._is_cosine:
            self._item_vectors = np.empty_like(self._items)
            normalize(self._items, np.float32(1), self._item_vectors, self._item_norms)
        most = int(np.diff(self._batch_bounds).max())
        self._gradient = SoftmaxGradient(most, train.n_columns, options.n_factors, n_threads)

    def run_epoch(self, epoch: int) -> float:
        """Go once through all users; give the loss per unit of weight, each batch's before its step."""
        order = np.random.default_rng([self._options.seed, 2, epoch]).permutation(self._active)
        n_batches = self._batch_bounds.size - 1
        total_loss, total_weight = 0.0, 0.0
        for batch in range(n_batches):
            users = order[self._batch_bounds[batch] : self._batch_bounds[batch + 1]]
            progress = (epoch + batch / n_batches) / self._options.n_epochs
            fall = 0.5 * (1 + math.cos(math.pi * progress)) if self._options.decay == "cosine" else 1.0
            loss, weight = self._step(users, fall)
            total_loss += loss * weight
            total_weight += weight
        mean = total_loss / total_weight if total_weight > 0 else 0.0
        if not math.isfinite(mean):
            raise NumericalError(
                f"softmax: the loss of epoch {epoch + 1} is {mean} (learning_rate={self._options.learning_rate}, "
                f"scores={self._options.scores!r}); choose a smaller learning rate"
            )
        return mean

    def _step(self, users: Offsets, fall: float) -> tuple[float, float]:
        """Do one step; give the loss per unit of weight, and the weight."""
        options = self._options
        rows = self._train.take(users)
        weight = float(rows.n_interactions if rows.weights is None else rows.weights.sum(dtype=np.float64))
        entries = BatchEntries(rows, weight)
        raw = self._users[users]
        vectors, norms = raw, np.ones(users.size, np.float32)
        if self._is_cosine:
            vectors = np.empty_like(raw)
            normalize(raw, np.float32(1 / options.temperature), vectors, norms)
        losses, gradients = self._gradient.user_pass(vectors, self._item_vectors, entries)
        self._gradient.item_pass(vectors, entries, self._item_stepper(entries, options.learning_rate * fall))
        if self._is_cosine:
            through_norm(gradients, vectors, norms, np.float32(1 / options.temperature))
        ridge = options.l2 * np.bincount(entries.user_rows, entries.item_weights, minlength=users.size)
        gradients += ridge.astype(np.float32)[:, None] * raw
        rate = options.user_learning_rate or options.learning_rate
        self._user_adam.step_rows(users, gradients, rate * fall)
        return float(losses.sum()), weight

    def _item_stepper(self, entries: BatchEntries, rate: float) -> "_ItemStep":
        self._item_adam.begin_step()
        return _ItemStep(
            self._item_adam,
            self._items,
            self._item_vectors if self._is_cosine else None,
            self._item_norms,
            entries,
            rate,
            self._options.l2,
        )

    def model_at(self, seconds: float) -> FittedBaseline:
        """Give the model as it is now."""
        users = self._users
        if self._is_cosine:
            users = np.empty_like(users)
            normalize(self._users, np.float32(1), users, np.empty(len(users), np.float32))
        temperature = self._options.temperature if self._is_cosine else None
        return FittedBaseline(
            "softmax-cosine" if self._is_cosine else "softmax",
            seconds,
            self._options.model_dump(),
            users,
            self._item_vectors,
            partial(_fold_in, self._item_vectors, self._options.l2, temperature),
        )


class _ItemStep:
    """Turns a tile's gradients into a step of its items."""

    def __init__(
        self,
        adam: Adam,
        items: Factors,
        unit: Factors | None,
        norms: Weights,
        entries: BatchEntries,
        rate: float,
        l2: float,
    ) -> None:
        self._adam, self._items, self._unit, self._norms = adam, items, unit, norms
        self._entries, self._rate, self._l2 = entries, rate, l2

    def __call__(self, start: int, gradients: Factors) -> None:
        tile = slice(start, start + len(gradients))
        if self._unit is not None:
            through_norm(gradients, self._unit[tile], self._norms[tile], np.float32(1))
        if self._l2 > 0:
            items, _, weights = self._entries.of_items(tile.start, tile.stop)
            add_ridge(start, items, weights, np.float32(self._l2), self._items[tile], gradients)
        self._adam.step_range(start, gradients, self._rate)
        if self._unit is not None:
            normalize(self._items[tile], np.float32(1), self._unit[tile], self._norms[tile])


def _draw(generator: np.random.Generator, n_rows: int, options: SoftmaxOptions) -> Factors:
    drawn = generator.standard_normal((n_rows, options.n_factors), dtype=np.float32)
    drawn *= np.float32(options.init_scale / math.sqrt(options.n_factors))
    return drawn


def _fold_in(items: Factors, l2: float, temperature: float | None, rows: InteractionRows, n_threads: int) -> Factors:
    return softmax_fold_in(items, rows, l2=l2, temperature=temperature, n_threads=n_threads)
