"""How fast the kernels are here: a short measurement on a made-up problem of the wanted shape.

The problem is always the same for the same arguments; only the clock differs.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rgals.errors import InputError
from rgals.names import Factors
from rgals.numerics.half_step import HalfStepSystem, SolverChoice, rotate, solve_half_step
from rgals.numerics.initial import initial_factors
from rgals.numerics.loss import Loss
from rgals.numerics.pairwise import BLOCK_ROWS
from rgals.numerics.reexpansion import expand
from rgals.numerics.reexpansion_items import item_slopes
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import available_threads, one_blas_thread
from rgals.training.sweep_time import Calibration, Rates

__all__ = ["calibrate"]

_WORK = 1 << 25
"""Interactions times factors of a measured half-step: tens of milliseconds."""

_MOST_INTERACTIONS = 1 << 20
_LEAST_ROWS = 2 * BLOCK_ROWS
_MOST_PRODUCTS = 1 << 31
"""Rows times squared factors of a measured half-step or rotation."""

_FIXED_FLOATS = 1 << 24
"""Largest fixed side, in numbers: 64 MB, more than caches hold."""

_PASS_WORK = 1 << 29
"""Scores times factors of a measured pass: tens of milliseconds."""

_LEAST_PASS_ROWS = 2048
_PASS_ROWS_PER_THREAD = 256
_MOST_OTHERS = 1 << 14
_MOST_DEGREE = 1024
_SCORE_DEVIATION = 2.0
_NOTHING = np.empty(0, dtype=np.float32)

_REPEATS = 3
_LOSS = Loss("rg2", alpha=0.03, reg=0.1)


@dataclass(frozen=True, slots=True)
class _Problem:
    """One half-step to be timed."""

    system: HalfStepSystem
    rows: InteractionRows
    initial: Factors


@dataclass(frozen=True, slots=True)
class _ScoreProblem:
    """Two passes over all scores to be timed: of some rows, which are users in the one and items in the other."""

    rows: InteractionRows
    vectors: Factors
    others: Factors
    loss: Loss

    @classmethod
    def make(cls, n_items: int, degree: float, n_factors: int, n_hard: int, n_threads: int) -> "_ScoreProblem":
        """Draw factors whose scores spread as those of a trained model do, and enough rows for all threads."""
        n_others = max(1, min(n_items, _MOST_OTHERS))
        least = max(_LEAST_PASS_ROWS, _PASS_ROWS_PER_THREAD * n_threads)
        n_rows = max(least, min(math.ceil(_PASS_WORK / (n_others * n_factors)), _MOST_OTHERS))
        generator = np.random.Generator(np.random.PCG64(1))
        scale = np.float32(math.sqrt(_SCORE_DEVIATION) / n_factors**0.25)
        vectors, others = (
            scale * generator.standard_normal((n, n_factors), dtype=np.float32) for n in (n_rows, n_others)
        )
        n_entries = min(n_others, _MOST_DEGREE, max(1, round(degree)))
        columns = np.linspace(0, n_others - 1, n_entries).astype(np.int32)
        indptr = np.arange(n_rows + 1, dtype=np.int64) * columns.size
        rows = InteractionRows(indptr, np.tile(columns, n_rows), None, n_others)
        return cls(rows, vectors, others, Loss("rg-softmax", alpha=1.0, reg=0.1, n_hard=n_hard))

    def rate(self, n_threads: int) -> float:
        """Give the seconds per score and factor, the mean of both passes."""
        ones = np.ones(len(self.others), dtype=np.float32)
        by_user = _median_s(
            lambda: expand(
                self.vectors, self.others, self.rows, _NOTHING, self.loss, first_block=0, n_threads=n_threads
            )
        )
        by_item = _median_s(
            lambda: item_slopes(self.vectors, self.others, self.others, ones, ones, _NOTHING, n_threads=n_threads)
        )
        return (by_user + by_item) / (2 * self.vectors.size * len(self.others))


def calibrate(
    n_users: int,
    n_items: int,
    n_interactions: int,
    n_factors: int,
    *,
    n_hard: int | None = None,
    n_threads: Sequence[int] | None = None,
) -> Calibration:
    """Measure the speed of the half-steps, of the rotation and of the passes over all scores on this machine.

    Rows have as many interactions as those of the problem have on average, and the fixed side is as
    long, up to 64 MB; everything else is cut to a size that takes a few seconds altogether.

    Parameters
    ----------
    n_users, n_items, n_interactions, n_factors : int
        The problem.
    n_hard : int or None
        Hard negatives of ``rg-softmax``; None: another loss, that has no passes.
    n_threads : sequence of int or None
        Numbers of threads to measure; None: one, and all processors.

    Returns
    -------
    Calibration
        The median of three measurements for each number of threads.

    Raises
    ------
    InputError
        If a number is below 1.
    """
    threads = sorted(set(n_threads if n_threads is not None else (1, available_threads())))
    for name, value in (
        ("n_users", n_users),
        ("n_items", n_items),
        ("n_interactions", n_interactions),
        ("n_factors", n_factors),
        ("n_threads", min(threads, default=0)),
    ):
        if value < 1:
            raise InputError(f"calibration: {name}: expected at least 1, found {value}")
    users = _make_problem(n_users, n_items, n_interactions, n_factors)
    items = _make_problem(n_items, n_users, n_interactions, n_factors)
    basis = np.linalg.qr(initial_factors(n_factors, n_factors, seed=2).astype(np.float64))[0].astype(np.float32)
    long_side = max(users.system.fixed, items.system.fixed, key=len)
    long_side = long_side[: max(_LEAST_ROWS, _MOST_PRODUCTS // n_factors**2)]
    degree, scores = n_interactions / n_users, None
    if n_hard is not None:
        scores = _ScoreProblem.make(n_items, degree, n_factors, n_hard, threads[-1])
    with one_blas_thread:
        return Calibration(tuple(_measure(users, items, long_side, basis, scores, count) for count in threads))


def _measure(
    users: _Problem, items: _Problem, long_side: Factors, basis: Factors, scores: "_ScoreProblem | None", n_threads: int
) -> Rates:
    return Rates(
        n_threads,
        user_solve_s=_solve_rate(users, n_threads),
        item_solve_s=_solve_rate(items, n_threads),
        rotate_s=_median_s(lambda: rotate(long_side, basis, n_threads)) / (long_side.size * basis.shape[0]),
        pass_s=None if scores is None else scores.rate(n_threads),
    )


def _make_problem(n_rows: int, n_fixed: int, n_interactions: int, n_factors: int) -> _Problem:
    """Make rows of the mean length, whose columns crowd at the beginning as popular rows do."""
    wanted = min(_MOST_INTERACTIONS, _WORK // n_factors)
    degree = max(1, min(round(n_interactions / n_rows), wanted // (4 * _LEAST_ROWS)))
    most_rows = min(_FIXED_FLOATS // n_factors, _MOST_PRODUCTS // n_factors**2)
    measured_rows = max(_LEAST_ROWS, min(math.ceil(wanted / degree), most_rows))
    measured_fixed = min(max(n_fixed, BLOCK_ROWS), max(_LEAST_ROWS, _FIXED_FLOATS // n_factors))
    generator = np.random.Generator(np.random.PCG64(1))
    uniform = generator.random((measured_rows, degree), dtype=np.float32)
    columns = np.minimum(uniform * uniform * measured_fixed, measured_fixed - 1).astype(np.int32)
    columns.sort(axis=1)
    indptr = np.arange(measured_rows + 1, dtype=np.int64) * degree
    flat = np.ones(n_factors, dtype=np.float32)
    system = HalfStepSystem(
        initial_factors(measured_fixed, n_factors, seed=0),
        np.eye(n_factors, dtype=np.float32),
        flat,
        flat * 0.1,
        _LOSS,
        SolverChoice(),
    )
    rows = InteractionRows(indptr, columns.reshape(-1), None, measured_fixed)
    return _Problem(system, rows, initial_factors(measured_rows, n_factors, seed=1))


def _solve_rate(problem: _Problem, n_threads: int) -> float:
    """Give the seconds per interaction and factor of a half-step."""
    ones = np.ones(problem.initial.shape[0])

    def solve() -> None:
        solve_half_step(problem.system, problem.rows, problem.initial, ones, ones, first_block=0, n_threads=n_threads)

    n_factors: int = problem.initial.shape[1]
    return _median_s(solve) / (problem.rows.n_interactions * n_factors)


def _median_s(function: Callable[[], object]) -> float:
    """Time a function; a call before compiles and warms up."""
    function()
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
