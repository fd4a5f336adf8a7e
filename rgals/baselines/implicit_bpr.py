"""The implicit library's BPR as a baseline."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from threadpoolctl import threadpool_limits

from rgals.baselines.implicit_library import fit_in_rounds, implicit_version, import_from_implicit, to_csr
from rgals.baselines.model import FittedBaseline, Watch
from rgals.names import Factors
from rgals.numerics.compile import kernel
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import available_threads, run_blocks

__all__ = ["BprOptions", "fit_bpr"]

_IMPLICIT_SEEDS = 2**32
_FOLD_IN_NEGATIVES = 128
"""Items that stand for all others when a new user is folded in, drawn as implicit draws them."""
_FOLD_IN_STEPS = 100
_FOLD_IN_TOLERANCE = 1e-2
"""A new user is solved when the gradient has fallen to this share of the first one."""
_FOLD_IN_MIN_REG = 1e-3
"""Without any regularization a new user's vector has no finite optimum."""
_FOLD_IN_ROWS = 32


class BprOptions(BaseModel):
    """Options of implicit's ``BayesianPersonalizedRanking``, in its own meaning."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_factors: int = Field(default=64, ge=1)
    """Length of a user's and an item's vector, without the item's bias."""
    learning_rate: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    """Length of a gradient step."""
    reg: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    """Ridge of every vector and bias that a step touches (implicit's ``regularization``)."""
    n_epochs: int = Field(default=100, ge=1)
    """implicit's ``iterations``: in each, as many pairs are drawn as there are interactions."""
    verify_negatives: bool = True
    """Whether a drawn pair is passed over if the user has both items (implicit's ``verify_negative_samples``)."""
    seed: int = Field(default=0, ge=0, lt=_IMPLICIT_SEEDS)
    """Seed of the starting factors and of the pairs."""


def fit_bpr(
    train: InteractionRows,
    options: BprOptions | None = None,
    *,
    n_threads: int | None = None,
    watch: Watch | None = None,
) -> FittedBaseline:
    """Fit Bayesian Personalized Ranking by stochastic gradient steps on pairs of items.

    Parameters
    ----------
    train : InteractionRows of shape (n_users, n_items)
        Training interactions; their weights play no part.
    options : BprOptions or None
        None takes the defaults; a fair comparison chooses the learning rate and ``reg`` on a validation part.
    n_threads : int or None
        Number of threads; None uses every processor.
    watch : callable or None
        Called after each epoch; false ends the fit there.

    Returns
    -------
    FittedBaseline
        Factors of length ``n_factors + 1``: the last of an item is its bias, the last of a user 1.
        Users without interactions have zero factors. A new user gets the vector that minimizes BPR's
        own loss of their pairs, items as they are: each of their items against 128 items drawn by popularity
        (as implicit draws them) but for those that are theirs, with the same regularization.

    Raises
    ------
    MissingDependencyError
        If implicit is not installed.
    NumericalError
        If factors are not finite.

    Notes
    -----
    With one thread the factors are the same each time. With several, implicit draws differently for
    each number of threads, and they write to the same vectors unguarded, so that no two fits are
    alike; a note of the model says so.
    """
    chosen = options or BprOptions()
    threads = available_threads() if n_threads is None else n_threads
    matrix = to_csr(train)
    make_bpr = import_from_implicit(_load_bpr, "BPR")
    described = {"library": "implicit", "library_version": implicit_version(), **chosen.model_dump()}
    notes = () if threads == 1 else (f"fitted by {threads} threads at once; another fit gives slightly other factors",)
    is_cold = train.degrees == 0
    negatives = _draw_negatives(train, chosen.seed)
    with threadpool_limits(1, "blas"):
        bpr = make_bpr(
            factors=chosen.n_factors,
            learning_rate=chosen.learning_rate,
            regularization=chosen.reg,
            iterations=chosen.n_epochs,
            num_threads=threads,
            verify_negative_samples=chosen.verify_negatives,
            random_state=chosen.seed,
        )

        def model_at(train_s: float) -> FittedBaseline:
            users = np.ascontiguousarray(bpr.user_factors, dtype=np.float32)
            items = np.ascontiguousarray(bpr.item_factors, dtype=np.float32)
            users[is_cold] = 0  # no step reads them

            def solve(rows: InteractionRows, n_threads: int) -> Factors:
                return _solve(rows, items, negatives, max(chosen.reg, _FOLD_IN_MIN_REG), n_threads)

            return FittedBaseline("bpr", train_s, described, users, items, solve, notes)

        remedy = f"learning_rate={chosen.learning_rate}, reg={chosen.reg}; choose a smaller learning rate"
        return fit_in_rounds(bpr, matrix, model_at, watch, remedy)


def _load_bpr() -> Any:
    from implicit.cpu.bpr import BayesianPersonalizedRanking  # noqa: PLC0415

    return BayesianPersonalizedRanking


def _draw_negatives(train: InteractionRows, seed: int) -> NDArray[np.int32]:
    """Draw items with the chance of their popularity."""
    if not train.n_interactions:
        return np.zeros(0, dtype=np.int32)
    return np.random.default_rng(seed).choice(train.columns, _FOLD_IN_NEGATIVES)


def _solve(rows: InteractionRows, items: Factors, negatives: NDArray[np.int32], reg: float, n_threads: int) -> Factors:
    """Give the vectors of new users; zeros for one without interactions."""
    found = np.zeros((rows.n_rows, items.shape[1]), dtype=np.float32)
    n_factors = items.shape[1] - 1
    vectors, biases = np.ascontiguousarray(items[negatives, :n_factors]), items[negatives, n_factors]

    def solve(start: int) -> None:
        stop = min(start + _FOLD_IN_ROWS, rows.n_rows)
        indptr = rows.indptr[start : stop + 1]
        _solve_users(
            indptr,
            rows.columns,
            items,
            negatives,
            vectors,
            biases,
            reg,
            _FOLD_IN_STEPS,
            _FOLD_IN_TOLERANCE,
            found[start:stop],
        )

    if negatives.size:
        run_blocks(solve, range(0, rows.n_rows, _FOLD_IN_ROWS), n_threads)
    return found


@kernel
def _solve_users(
    indptr: NDArray[np.int64],
    columns: NDArray[np.int32],
    items: Factors,
    drawn: NDArray[np.int32],
    negatives: Factors,
    biases: NDArray[np.float32],
    reg: float,
    n_steps: int,
    tolerance: float,
    found: Factors,
) -> None:
    """Minimize the mean over pairs of log(1 + exp(s_j - s_i)) + reg/2 |u|², by gradients with momentum.

    Items i are the user's own; items j are the drawn ones, as often as they were drawn, that are not.
    The step is 1/L with L = reg + E|v_i - v_j|²/4, a bound of the curvature; the momentum starts anew
    whenever it points uphill.
    """
    n_factors = negatives.shape[1]
    for row in range(indptr.size - 1):
        history = columns[indptr[row] : indptr[row + 1]]
        if history.size == 0:
            continue
        is_other = np.ones(negatives.shape[0])
        for j in range(negatives.shape[0]):
            place = np.searchsorted(history, drawn[j])
            if place < history.size and history[place] == drawn[j]:
                is_other[j] = 0.0
        step = 1.0 / (reg + 0.25 * _pair_spread(history, items, negatives, is_other))
        user, ahead, gradient = np.zeros(n_factors), np.zeros(n_factors), np.zeros(n_factors)
        scores, pushes = np.empty(negatives.shape[0]), np.empty(negatives.shape[0])
        bound, age = 0.0, 0
        for number in range(n_steps):
            _fill_gradient(history, items, negatives, biases, is_other, reg, ahead, scores, pushes, gradient)
            length = np.sqrt((gradient * gradient).sum())
            if number == 0:
                bound = tolerance * length
            if length <= bound:
                break
            uphill = 0.0
            for f in range(n_factors):
                moved = ahead[f] - step * gradient[f]
                change = moved - user[f]
                uphill += gradient[f] * change
                user[f] = moved
                ahead[f] = change
            age = 0 if uphill > 0 else age + 1
            momentum = 0.0 if age == 0 else age / (age + 3.0)
            for f in range(n_factors):
                ahead[f] = user[f] + momentum * ahead[f]
        for f in range(n_factors):
            found[row, f] = ahead[f]
        found[row, n_factors] = 1.0


@kernel
def _pair_spread(
    history: NDArray[np.int32], items: Factors, negatives: Factors, is_other: NDArray[np.float64]
) -> float:
    """Give the mean of |v_i - v_j|² over the pairs: E|v_i|² + E|v_j|² - 2 E v_i · E v_j."""
    n_others = max(1.0, is_other.sum())
    spread = 0.0
    for f in range(negatives.shape[1]):
        mean_i, mean_j = 0.0, 0.0
        for entry in range(history.size):
            value = np.float64(items[history[entry], f])
            mean_i += value / history.size
            spread += value * value / history.size
        for j in range(negatives.shape[0]):
            value = np.float64(negatives[j, f]) * is_other[j]
            mean_j += value / n_others
            spread += value * value / n_others
        spread -= 2.0 * mean_i * mean_j
    return max(0.0, spread)


@kernel
def _fill_gradient(
    history: NDArray[np.int32],
    items: Factors,
    negatives: Factors,
    biases: NDArray[np.float32],
    is_other: NDArray[np.float64],
    reg: float,
    user: NDArray[np.float64],
    scores: NDArray[np.float64],
    pushes: NDArray[np.float64],
    gradient: NDArray[np.float64],
) -> None:
    """Write the gradient of the loss at ``user``; ``scores`` and ``pushes``, of the drawn items, are scratch."""
    n_factors = user.size
    n_pairs = history.size * max(1.0, is_other.sum())
    for j in range(negatives.shape[0]):
        total = np.float64(biases[j])
        for f in range(n_factors):
            total += negatives[j, f] * user[f]
        scores[j] = total
        pushes[j] = 0.0
    for f in range(n_factors):
        gradient[f] = reg * user[f]
    for entry in range(history.size):
        vector = items[history[entry]]
        score = np.float64(vector[n_factors])
        for f in range(n_factors):
            score += vector[f] * user[f]
        pull = 0.0
        for j in range(negatives.shape[0]):
            slope = is_other[j] / (1.0 + np.exp(score - scores[j]))
            pushes[j] += slope
            pull += slope
        for f in range(n_factors):
            gradient[f] -= pull / n_pairs * vector[f]
    for j in range(negatives.shape[0]):
        for f in range(n_factors):
            gradient[f] += pushes[j] / n_pairs * negatives[j, f]
