"""Rows with so many entries that all threads solve them together.

A half-step hands whole rows to its threads. One row with a tenth of all interactions would keep one
thread busy long after the others have run out of work, so the entries of such a row are cut into
segments, and the segments are what the threads take. A segment's length is fixed and its sums are
added along a fixed tree or in order: the result does not depend on the number of threads.

In the symbols of `rgals.numerics.row_kernels`, the row's system is ``(D + sum h x x') z = b``. There are
two ways. Either the segments add up the matrix and it is factorized: exact, ``n d^2`` operations in one
pass over the entries. Or, with conjugate gradients and many factors, the segments add up the product of
the matrix with one vector: ``n d`` operations in each of ``steps + 1`` passes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import numpy as np

from rgals.names import Factors, Float64Array, IntArray, Offsets, Rows, Weights
from rgals.numerics.hot_kernels import gather_entries, multiply_entries, open_entries
from rgals.numerics.loss import Loss
from rgals.numerics.pairwise import SumNode, collapse_nodes
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import one_blas_thread, run_blocks
from rgals.numerics.vector_kernels import factorize, substitute

__all__ = ["HOT_ENTRIES", "HotRows", "HotSolution", "find_hot_rows", "solve_hot_rows"]

HOT_ENTRIES = 1 << 16
"""Rows with more entries than this are solved by all threads together."""

SEGMENT_ENTRIES = 1 << 14
"""Entries that a thread takes at a time."""

_FACTORS_PER_PASS = 24
"""The matrix costs as much as one product with a vector for each 24 factors; measured."""

_TILE_FLOATS = 1 << 18
"""Gathered entries of one matrix product: large enough that its call costs nothing, small enough for a cache."""

_MAX_TILE_ENTRIES = 1 << 12
"""At most so many terms are added in float32 before float64 takes over."""

_VECTOR_TILE_ENTRIES = 64
"""The same for products with a vector, whose tile stays in the first-level cache."""


@dataclass(frozen=True, slots=True)
class HotRows:
    """The hot ones among the rows of a half-step, with their terms in the shared basis.

    Parameters
    ----------
    rows : InteractionRows
        The interactions of all rows.
    positions : int64 array of shape (n_hot,)
        Which of the rows are hot.
    initial : float32 array of shape (n_hot, n_factors)
        Their starting points.
    diagonals : float64 array of shape (n_hot, n_factors)
        D of each: background weight times eigenvalues, plus ridge.
    constants : float64 array of shape (n_hot, n_factors)
        What the background gives to the right-hand side of each: ``-w v``, or what a re-expanded row has for it.
    linears : float32 array or None
        The l of each entry of ``rows``; None makes them of the weights.
    """

    rows: InteractionRows
    positions: IntArray
    initial: Factors
    diagonals: Float64Array
    constants: Float64Array
    linears: Weights | None = None


@dataclass(frozen=True, slots=True)
class HotSolution:
    """The solved rows, in the order of `HotRows.positions`.

    Parameters
    ----------
    factors : float32 array of shape (n_hot, n_factors)
        The solutions; the starting point where there is none.
    before, after : float64 arrays of shape (n_hot,)
        Objective of each row at its starting point and at its solution.
    status : int32 array of shape (n_hot,)
        0 solved, 1 no finite solution.
    """

    factors: Factors
    before: Float64Array
    after: Float64Array
    status: Rows

    def set_row(self, k: int, vector: Float64Array, objectives: tuple[float, float], *, is_solved: bool) -> None:
        """Write the solution of the k-th hot row, unless it has none."""
        self.before[k], self.after[k] = objectives
        rounded = vector.astype(np.float32)
        if is_solved and np.isfinite(self.after[k]) and np.isfinite(rounded).all():
            self.factors[k] = rounded
            self.status[k] = 0


@dataclass(frozen=True, slots=True)
class _Segment:
    """Consecutive entries of the k-th hot row: its ``index``-th segment."""

    k: int
    index: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Entries:
    """Where segments are read: the fixed side, the hot rows, and the loss that weights their entries."""

    fixed: Factors
    hot: HotRows
    weights: Weights
    linears: Weights
    loss: Loss
    n_threads: int

    def segments(self, k: int) -> list[_Segment]:
        """Cut one hot row, counting from its own first entry."""
        row = int(self.hot.positions[k])
        first, last = int(self.hot.rows.indptr[row]), int(self.hot.rows.indptr[row + 1])
        starts = range(first, last, SEGMENT_ENTRIES)
        return [_Segment(k, i, start, min(start + SEGMENT_ENTRIES, last)) for i, start in enumerate(starts)]

    def read(self, segment: _Segment) -> tuple[Rows, Weights, Weights]:
        """Give the columns, the weights and the given linears of a segment; views."""
        part = slice(segment.start, segment.stop)
        return self.hot.rows.columns[part], self.weights[part], self.linears[part]


def find_hot_rows(indptr: Offsets) -> IntArray:
    """Give the positions of the rows with more than `HOT_ENTRIES` entries, ascending.

    Parameters
    ----------
    indptr : int64 array of shape (n_rows + 1,)
        Offsets of the rows.
    """
    return np.flatnonzero(np.diff(indptr) > HOT_ENTRIES)


def solve_hot_rows(fixed: Factors, hot: HotRows, loss: Loss, *, cg_steps: int | None, n_threads: int) -> HotSolution:
    """Solve the hot rows, each by all threads.

    Parameters
    ----------
    fixed : float32 array of shape (n_fixed, n_factors)
        Factors of the fixed side, in the shared basis.
    hot : HotRows
        The rows.
    loss : Loss
        The loss; its weights of observed entries are used.
    cg_steps : int or None
        Steps of conjugate gradients that are enough; None asks for the exact solution. A row is also
        solved exactly where that is cheaper than the steps.
    n_threads : int
        Threads; the result does not depend on it.

    Returns
    -------
    HotSolution
        Solutions, objectives and status.

    Notes
    -----
    Memory beside the result: for each thread about a megabyte of gathered entries and two matrices of
    n_factors by n_factors in float64, and for each row under way the logarithm of its number of segments
    times as many. No array grows with the entries of a row but n_factors numbers for every
    `SEGMENT_ENTRIES` of them.
    """
    n_hot, n_factors = hot.initial.shape
    solution = HotSolution(hot.initial.copy(), np.empty(n_hot), np.empty(n_hot), np.ones(n_hot, dtype=np.int32))
    absent = np.empty(0, dtype=np.float32)
    weights, linears = (absent if values is None else values for values in (hot.rows.weights, hot.linears))
    entries = _Entries(fixed, hot, weights, linears, loss, n_threads)
    # Factors that overflow are reported by the status of their row.
    with one_blas_thread, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if loss.curvature_from_weight == 0:
            _divide_rows(entries, solution)
        elif cg_steps is None or n_factors <= _FACTORS_PER_PASS * (cg_steps + 1):
            _factorize_rows(entries, solution)
        else:
            _descend_rows(entries, solution, cg_steps)
    return solution


def _factorize_rows(entries: _Entries, solution: HotSolution) -> None:
    """Solve through the matrices; the thread that adds the last segment of a row solves it."""
    plans = [entries.segments(k) for k in range(entries.hot.positions.size)]
    sums = [_TreeSum(len(plan)) for plan in plans]

    def add_segment(segment: _Segment) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            total = sums[segment.k].add(segment.index, _sum_matrix(entries, segment))
            if total is not None:
                _solve_matrix(entries, solution, segment.k, total)

    run_blocks(add_segment, [segment for plan in plans for segment in plan], entries.n_threads)


def _sum_matrix(entries: _Entries, segment: _Segment) -> Float64Array:
    """Sum over a segment: ``g x x'`` and, as one row more, ``l x``."""
    (columns, weights, linears), loss = entries.read(segment), entries.loss
    n_factors = entries.fixed.shape[1]
    tile = np.empty((min(_MAX_TILE_ENTRIES, max(_TILE_FLOATS // n_factors, 1)), n_factors), dtype=np.float32)
    product = np.empty((n_factors, n_factors), dtype=np.float32)
    total = np.zeros((n_factors + 1, n_factors))
    for start in range(0, columns.size, tile.shape[0]):
        part = slice(start, start + tile.shape[0])
        gathered = tile[: columns[part].size]
        gather_entries(
            entries.fixed, columns[part], weights[part], linears[part], loss.linear_from_weight, loss.linear_constant,
            gathered, total[n_factors],
        )  # fmt: skip
        # A product of a matrix with its own transpose is symmetric and costs half.
        total[:n_factors] += np.matmul(gathered.T, gathered, out=product)
    return total


def _solve_matrix(entries: _Entries, solution: HotSolution, k: int, total: Float64Array) -> None:
    """Solve one row from the sums over its entries."""
    hot, n_factors = entries.hot, total.shape[1]
    matrix, right = entries.loss.curvature_from_weight * total[:n_factors], total[n_factors] + hot.constants[k]
    matrix.flat[:: n_factors + 1] += hot.diagonals[k]

    def objective(vector: Float64Array) -> float:
        return float(vector @ (0.5 * (matrix @ vector) - right))

    before = objective(hot.initial[k].astype(np.float64))
    factor, vector = matrix.copy(), right.copy()
    is_solved = factorize(factor, n_factors)
    if is_solved:
        substitute(factor, n_factors, vector)
    vector = vector.astype(np.float32).astype(np.float64)
    solution.set_row(k, vector, (before, objective(vector)), is_solved=is_solved)


class _TreeSum:
    """A sum over segments along the tree of `rgals.numerics.pairwise`, whichever segment comes when.

    Two neighbors are added as soon as both are there, so that few of them are kept.
    """

    def __init__(self, n_segments: int) -> None:
        self._lock = Lock()
        self._nodes: dict[tuple[int, int], SumNode] = {}
        self._n_missing = n_segments

    def add(self, index: int, value: Float64Array) -> Float64Array | None:
        """Add one segment; give the total to whoever adds the last."""
        node = SumNode(0, index, value)
        while True:
            with self._lock:
                neighbor = self._nodes.pop((node.level, node.index ^ 1), None)
                if neighbor is None:
                    self._nodes[node.level, node.index] = node
                    self._n_missing -= 1
                    is_last = self._n_missing == 0
                    break
            node = SumNode(node.level + 1, node.index // 2, np.add(node.value, neighbor.value, out=node.value))
        if not is_last:
            return None
        # What is left over gets smaller to the right, and is numbered higher.
        return collapse_nodes(sorted(self._nodes.values(), key=lambda root: root.index))


def _divide_rows(entries: _Entries, solution: HotSolution) -> None:
    """Solve rows whose matrix is diagonal."""
    hot = entries.hot
    for k, sums in enumerate(_open_rows(entries)):
        diagonal, right = hot.diagonals[k], sums[1] + hot.constants[k]
        start, has_curvature = hot.initial[k].astype(np.float64), diagonal > 0
        vector = np.where(has_curvature, right / np.where(has_curvature, diagonal, 1.0), 0.0)
        objectives = [float(z @ (0.5 * diagonal * z - right)) for z in (start, vector)]
        is_solved = bool((has_curvature | (right == 0)).all())
        solution.set_row(k, vector, (objectives[0], objectives[1]), is_solved=is_solved)


def _descend_rows(entries: _Entries, solution: HotSolution, cg_steps: int) -> None:
    """Take conjugate gradient steps on all hot rows at once: one pass over their entries for each step."""
    hot = entries.hot
    descents = [
        _Descent(hot.initial[k], hot.diagonals[k], hot.constants[k], sums) for k, sums in enumerate(_open_rows(entries))
    ]
    for _ in range(cg_steps):
        under_way = [k for k, descent in enumerate(descents) if descent.is_under_way]
        products = _sum_vectors(entries, under_way, lambda k: descents[k].direction, multiply_entries, 1)
        for k, product in zip(under_way, products, strict=True):
            descents[k].step(product[0])
    for k, descent in enumerate(descents):
        solution.set_row(k, descent.vector, (descent.before, descent.after), is_solved=descent.is_solved)


class _Descent:
    """Preconditioned conjugate gradients on one row; the products with its matrix come from outside.

    ``sums`` has three rows: ``sum h (x . z) x`` at the starting point z, ``sum l x`` and ``sum h x^2``.
    """

    def __init__(self, start: Weights, diagonal: Float64Array, constant: Float64Array, sums: Float64Array) -> None:
        self.vector = start.astype(np.float64)
        self._diagonal = diagonal
        image, right = sums[0] + diagonal * self.vector, sums[1] + constant
        self.before = self.after = float(self.vector @ (0.5 * image - right))
        self._residual = right - image
        exact = diagonal + sums[2]
        self._preconditioner = 1.0 / np.where(exact > 0, exact, 1.0)
        self._energy = float(self._residual @ (self._residual * self._preconditioner))
        self.direction = (self._residual * self._preconditioner).astype(np.float32)
        self.is_solved = True
        self.is_under_way = self._energy > _LEAST_ENERGY

    def step(self, product: Float64Array) -> None:
        """Go along ``direction`` to the lowest point, given ``sum h (x . direction) x``."""
        direction = self.direction.astype(np.float64)
        image = product + self._diagonal * direction
        bend, slope = float(direction @ image), float(direction @ self._residual)
        if not bend > 0:
            self.is_solved = self.is_under_way = False
            return
        self.vector += slope / bend * direction
        self.after -= 0.5 * slope * slope / bend
        self._residual -= slope / bend * image
        energy = float(self._residual @ (self._residual * self._preconditioner))
        turned = self._residual * self._preconditioner + energy / self._energy * direction
        self.direction, self._energy = turned.astype(np.float32), energy
        self.is_under_way = energy > _LEAST_ENERGY


_LEAST_ENERGY = 1e-30
"""Below it the row is at its minimum, as in the kernel for ordinary rows."""


def _open_rows(entries: _Entries) -> list[Float64Array]:
    """Give the three sums of `_Descent` for every hot row."""
    every = list(range(entries.hot.positions.size))
    return _sum_vectors(entries, every, lambda k: entries.hot.initial[k], open_entries, 3)


def _sum_vectors(
    entries: _Entries,
    rows: list[int],
    vector_of: Callable[[int], Weights],
    add_entries: Callable[..., None],
    n_sums: int,
) -> list[Float64Array]:
    """Let the threads sum over the segments of some hot rows; add the segments of a row in order."""
    loss, n_factors = entries.loss, entries.fixed.shape[1]

    def sum_segment(segment: _Segment) -> Float64Array:
        sums = np.zeros((n_sums, n_factors))
        columns, weights, linears = entries.read(segment)
        tile = np.empty((_VECTOR_TILE_ENTRIES, n_factors), dtype=np.float32)
        add_entries(
            entries.fixed, columns, weights, linears, loss.curvature_from_weight, loss.linear_from_weight,
            loss.linear_constant, vector_of(segment.k), tile, sums,
        )  # fmt: skip
        return sums

    plans = [entries.segments(k) for k in rows]
    done = iter(run_blocks(sum_segment, [segment for plan in plans for segment in plan], entries.n_threads))
    return [np.sum([next(done) for _ in plan], axis=0) for plan in plans]
