"""What the fits of the full and of the sampled softmax share: options, epochs, users' steps, the fitted model."""

import math
from abc import ABC, abstractmethod
from functools import partial
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from rgals.baselines.model import FittedBaseline, RoundClock, Watch
from rgals.errors import CapacityError, NumericalError
from rgals.execution.doctor_machine import read_memory
from rgals.names import Factors, Float64Array, Offsets, Weights
from rgals.numerics.adam import Adam
from rgals.numerics.softmax_gradient_fold_in import softmax_fold_in
from rgals.numerics.softmax_gradient_kernels import normalize, through_norm
from rgals.numerics.sparse import InteractionRows

__all__ = ["SoftmaxFit", "SoftmaxOptions", "check_memory"]


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
    learning_rate: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    """Adam's step length for items."""
    user_learning_rate: float = Field(default=0.2, gt=0, allow_inf_nan=False)
    """Adam's step length for users: longer than the items', since a user takes one step an epoch."""
    decay: Literal["constant", "cosine"] = "cosine"
    """Whether the learning rates stay, or fall along half a cosine wave to 0 at the end."""
    batch_users: int = Field(default=128, ge=1)
    """Users of a step."""
    l2: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Ridge per unit of interaction weight."""
    init_scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Items start with normal entries of standard deviation ``init_scale / sqrt(n_factors)``, users in the
    direction of their items' sum with the length ``init_scale``."""
    seed: int = Field(default=0, ge=0)
    """Key of the starting vectors and of every draw."""


class SoftmaxFit(ABC):
    """The state of a fit between epochs; what a batch does to the items is the subclass's.

    Parameters
    ----------
    name : str
        Name of the fitted model.
    train : InteractionRows of shape (n_users, n_items)
        Training interactions.
    options : SoftmaxOptions
        How to fit.
    """

    def __init__(self, name: str, train: InteractionRows, options: SoftmaxOptions) -> None:
        self._name = name
        self._train = train
        self._options = options
        self._is_cosine = options.scores == "cosine"
        self._active: Offsets = np.flatnonzero(train.degrees).astype(np.int64)
        n_batches = -(-self._active.size // options.batch_users)
        self._batch_bounds = np.linspace(0, self._active.size, n_batches + 1).astype(np.int64)
        self._items = self._draw_items()
        self._users = self._sum_up_items()
        # A user's last gradient is an epoch old: momentum would follow where the items no longer are.
        self._user_adam, self._item_adam = Adam(self._users, beta1=0.0), Adam(self._items)

    @abstractmethod
    def _step_items(
        self, vectors: Factors, rows: InteractionRows, weight: float, rate: float
    ) -> tuple[Float64Array, Factors]:
        """Do the items' step for a batch; give the losses of its users and the gradients by their vectors.

        Losses and gradients are divided by ``weight``; the gradients are those before the step.
        """

    @property
    @abstractmethod
    def _item_vectors(self) -> Factors:
        """What users' vectors are multiplied with: items of length 1 under cosine scores."""

    def run(self, watch: Watch | None) -> FittedBaseline:
        """Go through the epochs and give the fitted model."""
        clock = RoundClock(watch)
        for epoch in range(self._options.n_epochs):
            loss = self._run_epoch(epoch)
            if not clock.end_round(epoch + 1, loss, self._model_at):
                break
        return self._model_at(clock.seconds)

    def _run_epoch(self, epoch: int) -> float:
        """Go once through all users; give the loss per unit of weight, each batch's before its step."""
        order = self._generator(1, epoch).permutation(self._active)
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
                f"{self._name}: the loss of epoch {epoch + 1} is {mean} (learning_rate={self._options.learning_rate}, "
                f"init_scale={self._options.init_scale}); choose a smaller learning rate"
            )
        return mean

    def _step(self, users: Offsets, fall: float) -> tuple[float, float]:
        """Do one step; give the loss per unit of weight, and the weight."""
        options = self._options
        rows = self._train.take(users)
        weights = _weights(rows).astype(np.float64)
        weight = float(weights.sum())
        raw = self._users[users]
        vectors, norms = raw, np.ones(users.size, np.float32)
        scale = np.float32(1 / options.temperature)
        if self._is_cosine:
            vectors = np.empty_like(raw)
            normalize(raw, scale, vectors, norms)
        losses, gradients = self._step_items(vectors, rows, weight, options.learning_rate * fall)
        if self._is_cosine:
            through_norm(gradients, vectors, norms, scale)
        ridges = options.l2 / weight * np.add.reduceat(weights, rows.indptr[:-1])
        gradients += ridges.astype(np.float32)[:, None] * raw
        self._user_adam.step_rows(users, gradients, options.user_learning_rate * fall)
        return float(losses.sum()), weight

    def _model_at(self, seconds: float) -> FittedBaseline:
        users = self._users
        if self._is_cosine:
            users = np.empty_like(users)
            normalize(self._users, np.float32(1), users, np.empty(len(users), np.float32))
        items = self._item_vectors
        temperature = self._options.temperature if self._is_cosine else None
        solve = partial(_fold_in, items, self._options.l2, temperature)
        return FittedBaseline(self._name, seconds, self._options.model_dump(), users, items, solve)

    def _draw_items(self) -> Factors:
        options = self._options
        drawn = self._generator(0).standard_normal((self._train.n_columns, options.n_factors), dtype=np.float32)
        drawn *= np.float32(options.init_scale / math.sqrt(options.n_factors))
        return drawn

    def _sum_up_items(self) -> Factors:
        """Start each user in the direction of its items' weighted sum: a first epoch from chance would be lost."""
        sums = np.asarray(self._train.to_scipy() @ self._items, dtype=np.float32)
        normalize(sums, np.float32(self._options.init_scale), sums, np.empty(len(sums), np.float32))
        return sums

    def _generator(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self._options.seed, *stream])


def check_memory(train: InteractionRows, options: SoftmaxOptions, batch_bytes: int, n_items: int, advice: str) -> None:
    """Refuse what does not fit: the vectors, their gradients' averages, and the scores of a batch.

    Raises
    ------
    CapacityError
        If the available memory is less.
    """
    vectors = 4 * (train.n_rows + train.n_columns) * options.n_factors
    needed = 4 * vectors + batch_bytes
    try:
        available = read_memory().available_bytes
    except (OSError, KeyError):
        return
    if needed > available:
        raise CapacityError(
            f"softmax: expected {needed / 1e9:.2f} GB of memory ({batch_bytes / 1e9:.2f} GB of them for the scores of "
            f"{options.batch_users} users by {n_items} items), found {available / 1e9:.2f} GB; {advice}"
        )


def _weights(rows: InteractionRows) -> Weights:
    return np.ones(rows.n_interactions, np.float32) if rows.weights is None else rows.weights


def _fold_in(items: Factors, l2: float, temperature: float | None, rows: InteractionRows, n_threads: int) -> Factors:
    return softmax_fold_in(items, rows, l2=l2, temperature=temperature, n_threads=n_threads)
