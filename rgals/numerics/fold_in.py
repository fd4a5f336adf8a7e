"""Fold-in: solve rows that were not part of the training against frozen factors.

The system of a row is the one of the training half-step; only the other rows are left out, which in
this family do not enter it. Under ``rg-softmax`` a user's system depends on where the user stands, and the
half-step is repeated until it has settled.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from rgals.errors import InputError, NumericalError
from rgals.names import Factors, Float64Array, Offsets, Side, Weights, other_side
from rgals.numerics.half_step import (
    HalfStepSystem,
    SideSums,
    SolvedRows,
    SolverChoice,
    rotate,
    shared_basis,
    solve_half_step,
    sum_rows,
)
from rgals.numerics.loss import Loss
from rgals.numerics.pairwise import BLOCK_ROWS, SumNode, collapse_nodes, merge_nodes
from rgals.numerics.reexpansion import expand, log_prior_of
from rgals.numerics.softmax_fold_in import settle_users, step_users
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.weighting import row_weight_sums, weigh_entries

__all__ = ["FoldInArrays", "RowSystem", "UserSystem", "canonical_factors", "item_system", "user_background"]

_DIAGONAL_TOLERANCE = 1e-5
"""Off-diagonal entries of B below this share of the largest one are the rounding of float32 factors."""


@dataclass(frozen=True, slots=True)
class FoldInArrays:
    """What a model stores so that fold-in needs no pass over the fixed side.

    Parameters
    ----------
    gram : float64 array of shape (n_factors, n_factors)
        The background matrix B, in the basis of the stored factors.
    basis : float64 array of shape (n_factors, n_factors)
        Eigenvectors of B as columns; the identity when the stored factors are canonical.
    eigenvalues : float64 array of shape (n_factors,)
        Eigenvalues of B.
    linear : float64 array of shape (n_factors,)
        The vector v, in the basis of the stored factors.
    """

    gram: Float64Array
    basis: Float64Array
    eigenvalues: Float64Array
    linear: Float64Array

    @classmethod
    def build(cls, gram: Float64Array, linear: Float64Array) -> "FoldInArrays":
        """Decompose B, unless it is diagonal already."""
        diagonal = np.diag(gram)
        off_diagonal = np.abs(gram - np.diag(diagonal)).max(initial=0.0)
        if off_diagonal <= _DIAGONAL_TOLERANCE * np.abs(diagonal).max(initial=0.0):
            return cls(gram, np.eye(len(gram)), np.maximum(diagonal, 0.0), linear)
        eigenvalues, basis = shared_basis(gram)
        return cls(gram, basis, eigenvalues, linear)

    @property
    def is_canonical(self) -> bool:
        """Whether B is diagonal in the basis of the stored factors."""
        return bool(np.array_equal(self.basis, np.eye(len(self.basis))))


class RowSystem:
    """Solves rows of one side against the frozen factors of the other.

    Parameters
    ----------
    side : {"user", "item"}
        The side that is solved.
    fixed : float32 array of shape (n_fixed, n_factors)
        Factors of the other side; kept without a copy when they are canonical.
    loss : Loss
        The loss of the training.
    fixed_degrees : int64 array of shape (n_fixed,)
        Training interactions of each row of the other side, for degree weights.
    weight_scale : float
        The training's scale of the observed weights.
    arrays : FoldInArrays
        The background.
    background_total : float
        Total background weight of the fixed side, for the ridge.
    """

    def __init__(
        self,
        side: Side,
        fixed: Factors,
        loss: Loss,
        fixed_degrees: Offsets,
        weight_scale: float,
        arrays: FoldInArrays,
        background_total: float,
    ) -> None:
        self.side = side
        self.loss = loss
        self.arrays = arrays
        self._weight_scale = weight_scale
        self._fixed_factors = loss.degree_factors(other_side(side), fixed_degrees)
        self._background_total = background_total
        self._log_prior: Weights | None = None
        basis = arrays.basis.astype(np.float32)
        self._back = np.ascontiguousarray(basis.T)
        has_pull = loss.is_softmax_expansion and not loss.is_reexpanded
        pull = arrays.linear @ arrays.basis if has_pull else np.zeros_like(arrays.linear)
        self._system = HalfStepSystem(
            fixed if arrays.is_canonical else rotate(np.ascontiguousarray(fixed), basis, 1),
            basis,
            arrays.eigenvalues.astype(np.float32),
            pull.astype(np.float32),
            loss,
            SolverChoice("exact"),
        )

    @property
    def n_factors(self) -> int:
        """Number of factors."""
        return int(self._system.fixed.shape[1])

    def solve(
        self,
        rows: InteractionRows,
        n_threads: int = 1,
        *,
        backgrounds: Float64Array | None = None,
        initial: Factors | None = None,
    ) -> Factors:
        """Solve rows from their interactions.

        Parameters
        ----------
        rows : InteractionRows
            Interactions with the fixed side's rows; weights as stored in a dataset.
        n_threads : int
            Threads; the result does not depend on it.
        backgrounds : float64 array of shape (n_rows,) or None
            Background weight of each row; None gives what a user of these interactions has. Items
            need it (their prior).
        initial : float32 array of shape (n_rows, n_factors) or None
            Where ``rg-softmax`` takes one half-step from; None takes as many from zero as it needs to settle. The
            other losses have one solution, wherever one starts.

        Returns
        -------
        float32 array of shape (n_rows, n_factors)
            In the basis of the stored factors. A user without interactions gets zeros.

        Raises
        ------
        InputError
            If a column is outside the fixed side, or items are solved without ``backgrounds``.
        NumericalError
            If a row has no finite solution (``reg`` is 0 and the row has too few interactions).
        """
        self._check(rows)
        if self.loss.has_degree_weights:
            row_factors = self.loss.degree_factors(self.side, rows.degrees)
            rows = weigh_entries(rows, row_factors * self._weight_scale, self._fixed_factors)
        weight_sums = row_weight_sums(rows)
        if backgrounds is None:
            if self.side == "item":
                raise InputError("items need their background weights (the prior); pass backgrounds")
            backgrounds = self.loss.user_background(weight_sums)
        ridges = self.loss.ridge(backgrounds * self._background_total, weight_sums)
        if self._log_prior is not None:
            solved = self._solve_softmax(rows, self._log_prior, weight_sums, ridges, initial, n_threads)
        else:
            solved = solve_half_step(
                self._system,
                rows,
                np.zeros((rows.n_rows, self.n_factors), dtype=np.float32),
                backgrounds,
                ridges,
                first_block=0,
                n_threads=n_threads,
            )
        if solved.n_failed:
            raise NumericalError(
                f"fold-in: {solved.n_failed} rows have no finite solution, the first is row {solved.first_failed} "
                f"(reg={self.loss.reg}); train with a larger reg"
            )
        return solved.factors if self.arrays.is_canonical else rotate(solved.factors, self._back, n_threads)

    def _solve_softmax(
        self,
        rows: InteractionRows,
        log_prior: Weights,
        weight_sums: Float64Array,
        ridges: Float64Array,
        initial: Factors | None,
        n_threads: int,
    ) -> SolvedRows:
        """Solve users of ``rg-softmax``: one half-step from where they stand, or all from zero."""
        system = replace(self._system, basis=np.eye(self.n_factors, dtype=np.float32))
        if initial is None:
            return settle_users(system, rows, log_prior, weight_sums, ridges, n_threads=n_threads)
        start = initial if self.arrays.is_canonical else rotate(initial, self._system.basis, n_threads)
        found = expand(start, system.fixed, rows, log_prior, self.loss, first_block=0, n_threads=n_threads)
        return step_users(system, found, start, ridges, n_threads=n_threads)

    def _check(self, rows: InteractionRows) -> None:
        n_fixed = self._system.fixed.shape[0]
        if rows.n_columns != n_fixed:
            raise InputError(f"fold-in: expected rows with {n_fixed} columns, found {rows.n_columns}")
        if rows.columns.size and not (rows.columns.min() >= 0 and rows.columns.max() < n_fixed):
            raise InputError(
                f"fold-in: expected columns from 0 to {n_fixed - 1}, found {rows.columns.min()} to {rows.columns.max()}"
            )


class UserSystem(RowSystem):
    """Solves users against frozen item factors: the training's user half-step."""

    @classmethod
    def build(
        cls, item_factors: Factors, loss: Loss, item_degrees: Offsets, weight_scale: float = 1.0, n_threads: int = 1
    ) -> "UserSystem":
        """Compute the background from the item factors.

        Parameters
        ----------
        item_factors : float32 array of shape (n_items, n_factors)
            Frozen item factors.
        loss : Loss
            The loss of the training.
        item_degrees : int64 array of shape (n_items,)
            Training interactions of each item.
        weight_scale : float
            The training's scale of the observed weights.
        n_threads : int
            Threads.
        """
        arrays = user_background([item_factors], loss, item_degrees, n_threads)
        return cls.from_arrays(arrays, item_factors, loss, item_degrees, weight_scale)

    @classmethod
    def from_arrays(
        cls, arrays: FoldInArrays, item_factors: Factors, loss: Loss, item_degrees: Offsets, weight_scale: float = 1.0
    ) -> "UserSystem":
        """Put a system together from a model's stored arrays; no pass over the items if they are canonical."""
        prior = loss.item_prior(item_degrees)
        system = cls("user", item_factors, loss, item_degrees, weight_scale, arrays, float(prior.sum()))
        system._log_prior = log_prior_of(prior) if loss.is_reexpanded else None
        return system

    def to_mapping(self) -> Mapping[str, Float64Array]:
        """Give the stored arrays by name: gram, basis, eigenvalues, linear."""
        arrays = self.arrays
        return {
            "gram": arrays.gram,
            "basis": arrays.basis,
            "eigenvalues": arrays.eigenvalues,
            "linear": arrays.linear,
        }


def item_system(
    user_factors: Factors,
    item_factors: Factors,
    loss: Loss,
    user_weight_sums: Float64Array,
    user_degrees: Offsets,
    item_degrees: Offsets,
    weight_scale: float = 1.0,
) -> tuple[RowSystem, Float64Array]:
    """Build the system that solves items against frozen user factors.

    Parameters
    ----------
    user_factors, item_factors : float32 arrays
        Frozen factors; the item factors enter only the tangent of RG×.
    loss : Loss
        The loss of the training.
    user_weight_sums : float64 array of shape (n_users,)
        Sum of observed weights of each user.
    user_degrees, item_degrees : int64 arrays
        Training interactions of each row.
    weight_scale : float
        The training's scale of the observed weights.

    Returns
    -------
    RowSystem
        The system.
    float64 array of shape (n_items,)
        The background weight (prior) of each item, which `RowSystem.solve` wants.

    Raises
    ------
    InputError
        Under ``rg-softmax``, where the system of an item needs the scores of all users.
    """
    if loss.is_reexpanded:
        raise InputError(
            "items cannot be solved on their own under rg-softmax: their system needs the scores of all users with "
            "all items; train again from this model (a warm start takes few sweeps), or use rg2 or rgx"
        )
    backgrounds = loss.user_background(user_weight_sums)
    sums = _sum_fixed([user_factors], backgrounds, 1)
    prior = loss.item_prior(item_degrees)
    linear = sums.linear
    if loss.name == "rgx":
        linear = linear - sums.gram @ (prior @ item_factors.astype(np.float64))
    arrays = FoldInArrays.build(sums.gram, linear)
    total = float(backgrounds.sum())
    return RowSystem("item", user_factors, loss, user_degrees, weight_scale, arrays, total), prior


def canonical_factors(
    user_factors: Factors, item_factors: Factors, loss: Loss, item_degrees: Offsets, n_threads: int = 1
) -> tuple[Factors, Factors]:
    """Rotate both factor matrices into the basis in which B is diagonal; the scores stay.

    Fold-in then needs no rotated copy of the item factors.

    Parameters
    ----------
    user_factors, item_factors : float32 arrays of n_factors columns
        Trained factors.
    loss : Loss
        The loss.
    item_degrees : int64 array of shape (n_items,)
        Training interactions of each item.
    n_threads : int
        Threads.

    Returns
    -------
    tuple of float32 arrays
        The rotated user and item factors.
    """
    system = UserSystem.build(item_factors, loss, item_degrees, n_threads=n_threads)
    if system.arrays.is_canonical:
        return user_factors, item_factors
    basis = system.arrays.basis.astype(np.float32)
    return rotate(user_factors, basis, n_threads), rotate(item_factors, basis, n_threads)


def user_background(
    item_blocks: Iterable[Factors], loss: Loss, item_degrees: Offsets, n_threads: int = 1
) -> FoldInArrays:
    """Compute the background of the user half-step from the item factors, a block at a time.

    Parameters
    ----------
    item_blocks : iterable of float32 arrays of shape (n_block_rows, n_factors)
        Consecutive rows of the item factors; how they are cut makes no difference. Gone through once.
    loss : Loss
        The loss of the training.
    item_degrees : int64 array of shape (n_items,)
        Training interactions of each item.
    n_threads : int
        Threads; the result does not depend on it.

    Returns
    -------
    FoldInArrays
        The same bits as `UserSystem.build` gives from the whole matrix.
    """
    sums = _sum_fixed(item_blocks, loss.item_prior(item_degrees), n_threads)
    gram = sums.gram - np.outer(sums.linear, sums.linear) if loss.name == "rgx" else sums.gram
    return FoldInArrays.build(gram, sums.linear)


def _sum_fixed(blocks: Iterable[Factors], backgrounds: Float64Array, n_threads: int) -> SideSums:
    """Sum over frozen rows, along the tree that does not depend on how they are cut."""
    nodes: list[SumNode] = []
    start = n_factors = 0
    for block in _whole_leaves(blocks):
        stop, n_factors = start + len(block), block.shape[1]
        part = backgrounds[start:stop]
        nodes += sum_rows(block, part, np.zeros(len(block)), first_block=start // BLOCK_ROWS, n_threads=n_threads)
        nodes = merge_nodes(nodes)
        start = stop
    if not nodes:
        raise InputError("fold-in: there are no frozen factors to solve against")
    return SideSums.unpack(collapse_nodes(nodes), n_factors)


def _whole_leaves(blocks: Iterable[Factors]) -> Iterator[Factors]:
    """Cut consecutive rows anew, so that every block but the last is whole leaves of the tree of sums."""
    rest: Factors | None = None
    for block in blocks:
        rows = np.ascontiguousarray(block) if rest is None else np.concatenate([rest, block])
        n_whole = len(rows) - len(rows) % BLOCK_ROWS
        if n_whole:
            yield rows[:n_whole]
        rest = rows[n_whole:].copy() if n_whole < len(rows) else None
    if rest is not None:
        yield rest
