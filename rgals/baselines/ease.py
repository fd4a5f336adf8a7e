"""EASE: each item from all others by linear regression, solved exactly.

Symbols of the paper: X is the users by items matrix of interactions, G = XᵀX + reg·I, P = G⁻¹, and B, with zeros on
its diagonal, holds B[i, j] = -P[i, j] / P[j, j]; a user x is scored by x B = x - (x P) / diag P.

Where there are fewer users than items, the same scores come from the smaller matrix K = XXᵀ + reg·I and its inverse M:
P = (I - Xᵀ M X) / reg, and a fitted user's row of X P is simply that of M X.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from rgals.baselines.ease_kernels import fill_gram, quadratic_forms
from rgals.baselines.model import FittedScorer, ItemScores, RoundClock, Watch
from rgals.baselines.symmetric_inverse import invert_in_place
from rgals.errors import CapacityError, NumericalError
from rgals.execution.doctor_machine import read_memory
from rgals.names import Factors, Float64Array, Offsets
from rgals.numerics.score_blocks import add_dense_rows, add_sparse_rows, users_per_block
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import available_threads, run_blocks

__all__ = ["EaseForm", "EaseOptions", "fit_ease"]

EaseForm = Literal["auto", "items", "users"]
"""The matrix that is inverted: of items by items, of users by users, or the smaller one."""

_SPARE_BYTES = 1 << 28
_TILE = 1024
_ROWS_PER_BLOCK = 64


class EaseOptions(BaseModel):
    """Options of EASE."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reg: float = Field(default=100.0, gt=0, allow_inf_nan=False)
    """Ridge of the regression (the paper's lambda); it grows with the number of interactions."""
    form: EaseForm = "auto"
    """Which of two matrices that give the same scores is inverted; ``"auto"`` takes the smaller one."""


@dataclass(frozen=True, slots=True)
class _ItemWeights:
    """Scores by the items by items matrix B; an `ItemScores`."""

    train: InteractionRows
    weights: Factors = field(repr=False)

    def of_users(self, user_rows: Offsets, n_threads: int) -> Factors:
        return self.of_histories(self.train.take(user_rows), n_threads)

    def of_histories(self, rows: InteractionRows, n_threads: int) -> Factors:
        scores = np.zeros((rows.n_rows, rows.n_columns), dtype=np.float32)
        add_dense_rows(rows, self.weights, scores, n_threads=n_threads)
        return scores


@dataclass(frozen=True, slots=True)
class _UserInverse:
    """Scores by M, the inverse of the users by users matrix K; an `ItemScores`."""

    train: InteractionRows
    train_by_item: InteractionRows = field(repr=False)
    inverse: Factors = field(repr=False)
    diagonal: Float64Array = field(repr=False)
    """Diagonal of P, of shape (n_items,)."""
    reg: float

    def of_users(self, user_rows: Offsets, n_threads: int) -> Factors:
        products = self._times_x(self.inverse[user_rows], n_threads)
        return self._finish(self.train.take(user_rows), products)

    def of_histories(self, rows: InteractionRows, n_threads: int) -> Factors:
        common = np.zeros((rows.n_rows, self.train.n_rows), dtype=np.float32)
        add_sparse_rows(rows, self.train_by_item, common, n_threads=n_threads)
        solved = np.empty_like(common)

        def multiply(start: int) -> None:
            tile = self.inverse[start : start + _TILE]
            solved[:, start : start + len(tile)] = common @ tile.T  # M is symmetric

        run_blocks(multiply, range(0, self.train.n_rows, _TILE), n_threads)
        products = self._times_x(solved, n_threads)
        products *= np.float32(-1 / self.reg)
        _add_interactions(rows, products, np.float32(1 / self.reg))
        return self._finish(rows, products)

    def _times_x(self, left: Factors, n_threads: int) -> Factors:
        """Multiply a matrix of shape (n_rows, n_users) by X."""
        turned = np.zeros((self.train.n_columns, len(left)), dtype=np.float32)
        add_dense_rows(self.train_by_item, np.ascontiguousarray(left.T), turned, n_threads=n_threads)
        return np.ascontiguousarray(turned.T)

    def _finish(self, rows: InteractionRows, products: Factors) -> Factors:
        """Turn x P into x - (x P) / diag P, in place."""
        products *= (-1 / self.diagonal).astype(np.float32)
        _add_interactions(rows, products, np.float32(1))
        products[rows.degrees == 0] = 0
        return products


def fit_ease(
    train: InteractionRows,
    options: EaseOptions | None = None,
    *,
    n_threads: int | None = None,
    watch: Watch | None = None,
) -> FittedScorer:
    """Fit EASE [1]_ exactly.

    Parameters
    ----------
    train : InteractionRows of shape (n_users, n_items)
        Training interactions; their weights are the entries of X.
    options : EaseOptions or None
        None takes the defaults.
    n_threads : int or None
        Number of threads; None uses every processor. No score depends on it.
    watch : callable or None
        Called once, when all is done.

    Returns
    -------
    FittedScorer
        A user without interactions cannot be ranked for.

    Raises
    ------
    CapacityError
        If the matrix to invert does not fit into the memory that is available.
    NumericalError
        If the matrix is not positive definite in float32.

    Notes
    -----
    With n the smaller of the numbers of users and items (or as ``form`` says): 4 n² bytes, inverted in
    place, and about n³ multiplications. Scores are computed for a block of users at a time. By users, the
    diagonal of P is a difference that loses digits where ``reg`` is thousands of times smaller than an
    item's number of interactions.

    References
    ----------
    .. [1] H. Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019, equation 8.
    """
    chosen = options or EaseOptions()
    threads = available_threads() if n_threads is None else n_threads
    by_users = chosen.form == "users" or (chosen.form == "auto" and train.n_rows < train.n_columns)
    _check_memory(train, by_users)
    clock = RoundClock(watch)
    by_item = train.transpose()
    scores: ItemScores
    if by_users:
        inverse = _invert_gram(train, by_item, chosen.reg, threads)
        forms = quadratic_forms(by_item, inverse, n_threads=threads)
        diagonal = (1 - forms) / chosen.reg
        _check_diagonal(diagonal, chosen)
        scores = _UserInverse(train, by_item, inverse, diagonal, chosen.reg)
    else:
        weights = _invert_gram(by_item, train, chosen.reg, threads)
        diagonal = weights.diagonal().astype(np.float64)
        _check_diagonal(diagonal, chosen)
        _divide_columns(weights, (-1 / diagonal).astype(np.float32), threads)
        scores = _ItemWeights(train, weights)
    seconds = clock.seconds
    described = chosen.model_dump() | {"form": "users" if by_users else "items"}

    def model_at(train_s: float) -> FittedScorer:
        return FittedScorer("ease", train_s, described, train.n_columns, scores)

    clock.end_round(1, None, model_at)
    return model_at(seconds)


def _check_memory(train: InteractionRows, by_users: bool) -> None:
    """Refuse what does not fit before anything is computed."""
    size, side = (train.n_rows, "users") if by_users else (train.n_columns, "items")
    block = users_per_block(train.n_columns) * 4 * (2 * train.n_columns + 2 * train.n_rows * by_users)
    needed = 4 * size**2 + 24 * train.n_interactions + block + _SPARE_BYTES
    try:
        available = read_memory().available_bytes
    except OSError:
        return  # a system that does not tell
    if needed > available:
        raise CapacityError(
            f"ease: expected {needed / 1e9:.1f} GB of memory for a matrix of {size:,} x {size:,} {side}, "
            f"found {available / 1e9:.1f} GB available; leave ease out, or take a machine with more memory"
        )


def _invert_gram(rows: InteractionRows, columns: InteractionRows, reg: float, n_threads: int) -> Factors:
    """Give the inverse of A Aᵀ + reg·I, for A given by rows and by columns, all of it in one array."""
    matrix = np.zeros((rows.n_rows, rows.n_rows), dtype=np.float32)
    fill_gram(rows, columns, reg, matrix, n_threads=n_threads)
    try:
        invert_in_place(matrix, n_threads=n_threads)
    except NumericalError as error:
        raise NumericalError(f"ease: the matrix to invert is {error} (reg={reg}); choose a larger reg") from error
    return matrix


def _check_diagonal(diagonal: Float64Array, options: EaseOptions) -> None:
    """Refuse an inverse that rounding has spoiled."""
    n_bad = int(np.count_nonzero(~(np.isfinite(diagonal) & (diagonal > 0))))
    if n_bad:
        raise NumericalError(
            f"ease: {n_bad} of {diagonal.size} entries of the inverse's diagonal are not positive "
            f"(reg={options.reg}); choose a larger reg"
        )


def _divide_columns(matrix: Factors, factors: Factors, n_threads: int) -> None:
    """Multiply each column by its factor, in place, and put zeros on the diagonal."""

    def scale(start: int) -> None:
        matrix[start : start + _ROWS_PER_BLOCK] *= factors

    run_blocks(scale, range(0, len(matrix), _ROWS_PER_BLOCK), n_threads)
    np.fill_diagonal(matrix, 0)


def _add_interactions(rows: InteractionRows, scores: Factors, factor: np.float32) -> None:
    """Add each user's own interactions, times a factor, to the scores."""
    row_of_entry = np.repeat(np.arange(rows.n_rows), rows.degrees)
    weights = np.float32(1) if rows.weights is None else rows.weights
    scores[row_of_entry, rows.columns] += factor * weights
