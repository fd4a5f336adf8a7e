"""One half-step in the shared basis: rotate, solve the rows, sum up what the next half-step needs.

The background matrix B of a half-step is the same for all rows. In its eigenvectors it is diagonal, and
so is ``w B + ridge I`` for every row, whatever the row's weight and ridge. Both factor matrices are
rotated into that basis; the scores do not change.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from rgals.errors import InputError
from rgals.names import Factors, Float64Array, IntArray, Rows, Weights
from rgals.numerics.hot_rows import HotRows, HotSolution, find_hot_rows, solve_hot_rows
from rgals.numerics.loss import Loss
from rgals.numerics.pairwise import BLOCK_ROWS, SumNode, merge_nodes
from rgals.numerics.row_kernels import METHOD_CG, METHOD_CHOLESKY, METHOD_EXACT, METHOD_WOODBURY, solve_rows
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import one_blas_thread, run_blocks
from rgals.numerics.vector_kernels import scale_and_sum

__all__ = [
    "SOLVERS",
    "HalfStepSystem",
    "SideSums",
    "SolvedRows",
    "SolverChoice",
    "rotate",
    "shared_basis",
    "solve_half_step",
    "sum_rows",
]

_METHODS = {
    "auto": METHOD_CG,
    "cg": METHOD_CG,
    "exact": METHOD_EXACT,
    "woodbury": METHOD_WOODBURY,
    "cholesky": METHOD_CHOLESKY,
}

SOLVERS = tuple(_METHODS)
"""The names of the ways to solve a row; ``auto`` is the recommended one."""

_NO_WEIGHTS = np.empty(0, dtype=np.float32)

_NO_SLOPES = np.empty((0, 0), dtype=np.float32)

_Terms: TypeAlias = tuple[Float64Array, Float64Array]
"""Background weight and ridge of consecutive rows, each float64 of shape (n_rows,)."""


@dataclass(frozen=True, slots=True)
class _Extras:
    """What re-expanded rows have beside the others: linear weights of the entries, and slopes."""

    linears: Weights | None
    slopes: Factors | None


@dataclass(frozen=True, slots=True)
class SolverChoice:
    """How the rows are solved.

    Parameters
    ----------
    name : {"auto", "cg", "exact", "woodbury", "cholesky"}
        ``cg`` takes preconditioned conjugate gradient steps from the last factors; ``exact`` takes the
        cheaper of Woodbury and Cholesky for each row; ``auto`` is ``cg``.
    cg_steps : int
        Steps of the gradients, at least 1.
    """

    name: str = "auto"
    cg_steps: int = 3

    def __post_init__(self) -> None:
        if self.name not in _METHODS:
            raise InputError(f"solver: expected one of {', '.join(SOLVERS)}, found {self.name!r}")
        if self.cg_steps < 1:
            raise InputError(f"cg_steps: expected at least 1, found {self.cg_steps}")


@dataclass(frozen=True, slots=True)
class SideSums:
    """Sums over all rows z of one side, with their background weights w.

    Parameters
    ----------
    gram : float64 array of shape (n_factors, n_factors)
        ``sum w z z'``.
    linear : float64 array of shape (n_factors,)
        ``sum w z``.
    ridge_norm : float
        ``sum ridge |z|^2``.
    objective_before, objective_after : float
        Sum of the rows' objectives at the start and at the end of the half-step that solved them; 0
        when the rows were only summed.
    """

    gram: Float64Array
    linear: Float64Array
    ridge_norm: float
    objective_before: float
    objective_after: float

    @classmethod
    def unpack(cls, packed: Float64Array, n_factors: int) -> "SideSums":
        """Read the sums from the flat layout of the leaves."""
        square = n_factors * n_factors
        return cls(
            packed[:square].reshape(n_factors, n_factors),
            packed[square : square + n_factors],
            float(packed[-3]),
            float(packed[-2]),
            float(packed[-1]),
        )

    def rotated(self, basis: Float64Array) -> "SideSums":
        """Give the sums of the rotated rows ``z @ basis``."""
        return SideSums(
            basis.T @ self.gram @ basis,
            self.linear @ basis,
            self.ridge_norm,
            self.objective_before,
            self.objective_after,
        )


@dataclass(frozen=True, slots=True)
class HalfStepSystem:
    """What all rows of a half-step share, in the shared basis.

    Parameters
    ----------
    fixed : float32 array of shape (n_fixed, n_factors)
        Factors of the fixed side, rotated.
    basis : float32 array of shape (n_factors, n_factors)
        Eigenvectors of B as columns: rotates the solved side's starting point.
    eigenvalues : float32 array of shape (n_factors,)
        Eigenvalues of B, not negative.
    linear : float32 array of shape (n_factors,)
        The vector v, rotated.
    loss : Loss
        The loss.
    choice : SolverChoice
        How the rows are solved.
    """

    fixed: Factors
    basis: Factors
    eigenvalues: Weights
    linear: Weights
    loss: Loss
    choice: SolverChoice


@dataclass(frozen=True, slots=True)
class SolvedRows:
    """The result of a half-step over consecutive rows.

    Parameters
    ----------
    factors : float32 array of shape (n_rows, n_factors)
        The solution, in the shared basis.
    nodes : list of SumNode
        Packed `SideSums` of the rows, as roots of the fixed tree over blocks.
    n_failed : int
        Rows without a finite solution.
    first_failed : int
        The first of them, counted from the first solved row; -1 when there are none.
    """

    factors: Factors
    nodes: list[SumNode]
    n_failed: int
    first_failed: int


def shared_basis(background: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Decompose the background matrix of a half-step.

    Parameters
    ----------
    background : float64 array of shape (n_factors, n_factors)
        B, symmetric, positive semi-definite up to rounding.

    Returns
    -------
    eigenvalues : float64 array of shape (n_factors,)
        Descending, not negative.
    basis : float64 array of shape (n_factors, n_factors)
        Eigenvectors as columns; the largest entry of each is positive, so that the sign is fixed.
    """
    eigenvalues, basis = np.linalg.eigh((background + background.T) / 2)
    eigenvalues, basis = np.maximum(eigenvalues[::-1], 0.0), basis[:, ::-1]
    signs = np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(basis.shape[1])])
    return eigenvalues, np.ascontiguousarray(basis * signs)


def rotate(factors: Factors, basis: Factors, n_threads: int, *, out: Factors | None = None) -> Factors:
    """Give ``factors @ basis`` in fixed blocks of rows, as a new array or in ``out``."""
    rotated = np.empty_like(factors) if out is None else out

    def rotate_block(start: int) -> None:
        np.matmul(factors[start : start + BLOCK_ROWS], basis, out=rotated[start : start + BLOCK_ROWS])

    run_blocks(rotate_block, range(0, factors.shape[0], BLOCK_ROWS), n_threads)
    return rotated


def solve_half_step(
    system: HalfStepSystem,
    rows: InteractionRows,
    initial: Factors,
    backgrounds: Float64Array,
    ridges: Float64Array,
    *,
    first_block: int,
    n_threads: int,
    linears: Weights | None = None,
    slopes: Factors | None = None,
) -> SolvedRows:
    """Solve consecutive rows against the fixed side.

    Parameters
    ----------
    system : HalfStepSystem
        What the rows share.
    rows : InteractionRows
        Their interactions; weights are the observed weights g.
    initial : float32 array of shape (n_rows, n_factors)
        Starting point in the old basis; not modified.
    backgrounds, ridges : float64 arrays of shape (n_rows,)
        Background weight w and ridge of each row.
    first_block : int
        Number of the first row's block of ``BLOCK_ROWS`` rows.
    n_threads : int
        Threads; the result does not depend on it.
    linears : float32 array of shape (n_interactions,) or None
        Linear weight l of each entry; None makes them of the weights.
    slopes : float32 array of shape (n_rows, n_factors) or None
        Of re-expanded rows, in the shared basis: see `rgals.numerics.row_kernels`.

    Returns
    -------
    SolvedRows
        The factors, the packed sums and the number of failures.
    """
    n_rows, n_factors = initial.shape
    extras = _Extras(linears, slopes)
    factors = np.empty((n_rows, n_factors), dtype=np.float32)
    status = np.zeros(n_rows, dtype=np.int32)
    nodes: list[SumNode | None] = [None] * -(-n_rows // BLOCK_ROWS)
    positions = find_hot_rows(rows.indptr)
    hot = _solve_hot(system, rows, extras, positions, initial, (backgrounds, ridges), n_threads)
    status[positions] = hot.status

    def solve_block(block: int) -> None:
        part = slice(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, n_rows))
        np.matmul(initial[part], system.basis, out=factors[part])
        before, after = np.empty(part.stop - part.start), np.empty(part.stop - part.start)
        inside = slice(*np.searchsorted(positions, (part.start, part.stop)))
        start = part.start
        for row in (*positions[inside], part.stop):
            run, inner = slice(start, row), slice(start - part.start, row - part.start)
            terms = backgrounds[run], ridges[run]
            _solve_run(system, rows, extras, run, terms, factors[run], before[inner], after[inner], status[run])
            start = row + 1
        inner_hot = positions[inside] - part.start
        factors[positions[inside]] = hot.factors[inside]
        before[inner_hot], after[inner_hot] = hot.before[inside], hot.after[inside]
        terms = backgrounds[part], ridges[part]
        packed = _pack_sums(factors[part], terms, before.sum(), after.sum())
        nodes[block] = SumNode(0, first_block + block, packed)

    run_blocks(solve_block, _heaviest_first(rows, positions), n_threads)
    failed = np.flatnonzero(status)
    return SolvedRows(
        factors,
        merge_nodes(node for node in nodes if node is not None),
        failed.size,
        int(failed[0]) if failed.size else -1,
    )


def _solve_hot(
    system: HalfStepSystem,
    rows: InteractionRows,
    extras: "_Extras",
    positions: IntArray,
    initial: Factors,
    terms: _Terms,
    n_threads: int,
) -> HotSolution:
    """Solve the rows that one thread would work on for too long, before all others."""
    turned = np.empty((positions.size, initial.shape[1]), dtype=np.float32)
    with one_blas_thread:
        for k, row in enumerate(positions):
            # One by one: the bits of a product of several rows depend on how many they are.
            np.matmul(initial[row], system.basis, out=turned[k])
    backgrounds, ridges = (values[positions, None] for values in terms)
    diagonals, constants = backgrounds * system.eigenvalues + ridges, -backgrounds * system.linear
    if extras.slopes is not None:
        constants += backgrounds * system.eigenvalues * turned - extras.slopes[positions]
    hot = HotRows(rows, positions, turned, diagonals, constants, extras.linears)
    has_steps = _METHODS[system.choice.name] == METHOD_CG
    cg_steps = system.choice.cg_steps if has_steps else None
    return solve_hot_rows(system.fixed, hot, system.loss, cg_steps=cg_steps, n_threads=n_threads)


def _solve_run(
    system: HalfStepSystem,
    rows: InteractionRows,
    extras: "_Extras",
    run: slice,
    terms: _Terms,
    factors: Factors,
    before: Float64Array,
    after: Float64Array,
    status: Rows,
) -> None:
    """Let the kernel solve consecutive rows of a block; every array but ``rows`` holds those rows alone."""
    loss = system.loss
    solve_rows(
        rows.indptr[run.start : run.stop + 1],
        rows.columns,
        _NO_WEIGHTS if rows.weights is None else rows.weights,
        _NO_WEIGHTS if extras.linears is None else extras.linears,
        system.fixed,
        system.eigenvalues,
        system.linear,
        _NO_SLOPES if extras.slopes is None else extras.slopes[run],
        *terms,
        loss.curvature_from_weight,
        loss.linear_from_weight,
        loss.linear_constant,
        _METHODS[system.choice.name],
        system.choice.cg_steps,
        factors,
        before,
        after,
        status,
    )


def sum_rows(
    factors: Factors,
    backgrounds: Float64Array,
    ridges: Float64Array,
    *,
    first_block: int,
    n_threads: int,
) -> list[SumNode]:
    """Give the packed `SideSums` of rows that are not solved now; the same bits as when they were.

    Parameters
    ----------
    factors : float32 array of shape (n_rows, n_factors)
        The rows.
    backgrounds, ridges : float64 arrays of shape (n_rows,)
        Background weight and ridge of each row.
    first_block : int
        Number of the first row's block.
    n_threads : int
        Threads.
    """

    def sum_block(start: int) -> SumNode:
        part = slice(start, start + BLOCK_ROWS)
        packed = _pack_sums(factors[part], (backgrounds[part], ridges[part]), 0.0, 0.0)
        return SumNode(0, first_block + start // BLOCK_ROWS, packed)

    return merge_nodes(run_blocks(sum_block, range(0, factors.shape[0], BLOCK_ROWS), n_threads))


def _pack_sums(factors: Factors, terms: _Terms, before: float, after: float) -> Float64Array:
    """Sum one block of rows into the flat layout that `SideSums.unpack` reads."""
    n_factors = factors.shape[1]
    square = n_factors * n_factors
    packed = np.empty(square + n_factors + 3, dtype=np.float64)
    scaled = np.empty_like(factors)
    packed[-3] = scale_and_sum(factors, *terms, scaled, packed[square : square + n_factors])
    # Factors that overflow are reported by the solver: its objective is not finite.
    with np.errstate(over="ignore", invalid="ignore"):
        # A product of a matrix with its own transpose is symmetric and costs half.
        packed[:square] = np.matmul(scaled.T, scaled).ravel()
    packed[-2], packed[-1] = before, after
    return packed


def _heaviest_first(rows: InteractionRows, hot: IntArray) -> list[int]:
    """Order blocks by the interactions of the rows that are left in them, so that no heavy one is begun last."""
    degrees = rows.degrees
    degrees[hot] = 0
    counts = np.add.reduceat(degrees, np.arange(0, rows.n_rows, BLOCK_ROWS)) if rows.n_rows else degrees
    return [int(block) for block in np.argsort(-counts, kind="stable")]
