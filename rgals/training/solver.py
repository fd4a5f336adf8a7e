"""The alternating solver: sweeps over sharded interactions, on any executor.

A sweep is the user half-step and then the item half-step. A half-step needs the fixed side's factors
and three sums over them; a shard's result is its rows' factors and its part of the sums, which are
added along one fixed tree (`rgals.numerics.pairwise`). The factors are therefore the same, bit for bit,
for any number of threads, shards and workers, and after a resume.
"""

import time
from dataclasses import dataclass, field

import numpy as np

from rgals.data.shards import InteractionSource, ShardRange
from rgals.errors import InputError, NumericalError
from rgals.execution import Executor, WorkerContext
from rgals.names import Factors, Float64Array, Offsets, Side, other_side
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
from rgals.numerics.initial import initial_factors
from rgals.numerics.loss import Loss
from rgals.numerics.pairwise import BLOCK_ROWS, SumNode, collapse_nodes
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import one_blas_thread
from rgals.training.weighted_shards import SideTerms, WeightedShards

__all__ = ["AlternatingSolver", "FactorState", "SweepRecord"]


@dataclass(frozen=True, slots=True)
class FactorState:
    """Everything that a resumed run needs.

    Parameters
    ----------
    sweep : int
        Number of finished sweeps.
    user_factors : float32 array of shape (n_users, n_factors)
        User factors.
    item_factors : float32 array of shape (n_items, n_factors)
        Item factors, in the same basis.
    """

    sweep: int
    user_factors: Factors
    item_factors: Factors


@dataclass(frozen=True, slots=True)
class SweepRecord:
    """What one sweep did.

    Parameters
    ----------
    sweep : int
        Its number, from 1.
    objective_before, objective_after_users, objective_after_items : float
        The objective, including its constant, before and after the two half-steps.
    user_s, item_s : float
        Seconds of the two half-steps.
    """

    sweep: int
    objective_before: float
    objective_after_users: float
    objective_after_items: float
    user_s: float
    item_s: float


@dataclass(frozen=True, slots=True)
class _ShardTask:
    index: int
    shard: ShardRange
    initial: Factors
    backgrounds: Float64Array
    ridges: Float64Array


@dataclass(frozen=True, slots=True)
class _SharedHalfStep:
    side: Side
    system: HalfStepSystem
    shards: WeightedShards


@dataclass(slots=True)
class _SideState:
    """One side's factors, its per-row terms and the sums over its rows."""

    factors: Factors
    terms: SideTerms
    sums: SideSums | None = field(default=None)


class AlternatingSolver:
    """Runs sweeps of alternating least squares for one loss of the quadratic family.

    Parameters
    ----------
    source : InteractionSource
        Training interactions in shards.
    loss : Loss
        The loss with its hyperparameters.
    n_factors : int
        Number of factors, at least 1.
    seed : int
        Seed of the starting item factors; user factors start at zero.
    solver : str
        One of `rgals.numerics.half_step.SOLVERS`.
    cg_steps : int
        Conjugate gradient steps per row and half-step.
    executor : Executor
        Who runs the shards.
    state : FactorState or None
        Where to start from (a resumed or a warm start); None draws the factors.

    Raises
    ------
    InputError
        If a number is out of range, there is nothing to train on, or the state has other shapes.
    """

    def __init__(
        self,
        source: InteractionSource,
        loss: Loss,
        *,
        n_factors: int,
        seed: int,
        executor: Executor,
        solver: str = "auto",
        cg_steps: int = 3,
        state: FactorState | None = None,
    ) -> None:
        if n_factors < 1:
            raise InputError(f"n_factors: expected at least 1, found {n_factors}")
        if source.n_interactions == 0:
            raise InputError("the training part holds no interactions; check the split and the filters of ingest")
        self.loss = loss
        self._executor = executor
        self._choice = SolverChoice(solver, cg_steps)
        self._shards = WeightedShards.prepare(source, loss, executor)
        if state is None:
            state = FactorState(
                0,
                np.zeros((source.n_users, n_factors), dtype=np.float32),
                initial_factors(source.n_items, n_factors, seed),
            )
        _check_state(state, source, n_factors)
        self._sweep = state.sweep
        self._sides: dict[Side, _SideState] = {
            "user": _SideState(state.user_factors, self._shards.terms("user")),
            "item": _SideState(state.item_factors, self._shards.terms("item")),
        }
        self._objective = float("nan")
        self._warm_up(n_factors)

    @property
    def state(self) -> FactorState:
        """The present factors; the arrays are not copied and must not be modified."""
        return FactorState(self._sweep, self._sides["user"].factors, self._sides["item"].factors)

    @property
    def objective(self) -> float:
        """The objective after the last half-step; NaN before the first."""
        return self._objective

    @property
    def user_degrees(self) -> Offsets:
        """Training interactions of each user, int64 of shape (n_users,)."""
        return self._shards.degrees("user")

    @property
    def item_degrees(self) -> Offsets:
        """Training interactions of each item, int64 of shape (n_items,)."""
        return self._shards.degrees("item")

    @property
    def weight_scale(self) -> float:
        """The factor that makes the sum of the observed weights g equal the sum of the stored ones."""
        return self._shards.weight_scale

    def run_sweep(self) -> SweepRecord:
        """Solve the users, then the items.

        Returns
        -------
        SweepRecord
            Objectives and seconds.

        Raises
        ------
        NumericalError
            If a row has no finite solution; the factors are then those before the half-step.
        """
        with one_blas_thread:
            start_s = time.perf_counter()
            before, after_users = self._run_half_step("user")
            middle_s = time.perf_counter()
            _, after_items = self._run_half_step("item")
        self._sweep += 1
        return SweepRecord(
            self._sweep, before, after_users, after_items, middle_s - start_s, time.perf_counter() - middle_s
        )

    def _warm_up(self, n_factors: int) -> None:
        """Let every worker compile or load the kernels now, so that the first sweep's seconds are a sweep's."""
        nothing = np.zeros((1, n_factors), dtype=np.float32)
        system = HalfStepSystem(
            nothing, np.eye(n_factors, dtype=np.float32), nothing[0], nothing[0], self.loss, self._choice
        )
        tasks: list[Side] = ["user", "item"]
        for side in tasks:
            shared = _SharedHalfStep(side, system, self._shards)
            list(self._executor.map_ordered(_solve_nothing, shared, [side] * self._executor.n_workers))

    def _run_half_step(self, side: Side) -> tuple[float, float]:
        """Solve one side; give the objective before and after."""
        solved, fixed = self._sides[side], self._sides[other_side(side)]
        if fixed.sums is None:
            fixed.sums = self._sum_side(other_side(side))
        gram, linear = fixed.sums.gram, fixed.sums.linear
        if side == "user" and self.loss.name == "rgx":
            gram = gram - np.outer(linear, linear)
        eigenvalues, basis = shared_basis(gram)
        rotated_sums = fixed.sums.rotated(basis)
        pull = rotated_sums.linear if self.loss.is_softmax_expansion else np.zeros_like(linear)
        mean = np.zeros_like(linear)
        if side == "item" and self.loss.name == "rgx":
            # The concave -mu^2 is replaced by its tangent at the present items: an upper bound.
            solved.sums = solved.sums or self._sum_side("item")
            mean = solved.sums.linear @ basis
            pull = pull - eigenvalues * mean
        basis32 = basis.astype(np.float32)
        system = HalfStepSystem(
            rotate(fixed.factors, basis32, self._executor.n_threads),
            basis32,
            eigenvalues.astype(np.float32),
            pull.astype(np.float32),
            self.loss,
            self._choice,
        )
        factors, sums = self._solve_side(side, system)
        fixed.factors, fixed.sums = system.fixed, rotated_sums
        solved.factors, solved.sums = factors, sums
        rest = self._shards.constant + 0.5 * rotated_sums.ridge_norm
        bound = float(eigenvalues @ (mean * sums.linear))
        before = sums.objective_before + rest + 0.5 * float(eigenvalues @ (mean * mean))
        curvature = 0.5 * float(eigenvalues @ (sums.linear * sums.linear)) if mean.any() else 0.0
        self._objective = sums.objective_after + rest + bound - curvature
        return before, self._objective

    def _solve_side(self, side: Side, system: HalfStepSystem) -> tuple[Factors, SideSums]:
        """Solve all shards of a side and add up their sums in the order of the fixed tree."""
        state = self._sides[side]
        ranges = self._shards.source.shard_ranges(side)
        tasks = [
            _ShardTask(
                index,
                shard,
                state.factors[shard.start : shard.stop],
                state.terms.backgrounds[shard.start : shard.stop],
                state.terms.ridges[shard.start : shard.stop],
            )
            for index, shard in enumerate(ranges)
        ]
        # A single shard's result is the side; several are put together.
        factors = np.empty_like(state.factors) if len(ranges) > 1 else state.factors
        nodes: list[SumNode] = []
        shared = _SharedHalfStep(side, system, self._shards)
        for task, result in zip(tasks, self._executor.map_ordered(_solve_shard, shared, tasks), strict=True):
            if result.n_failed:
                self._raise_failure(side, task.shard.start + result.first_failed, result.n_failed)
            if len(ranges) > 1:
                factors[task.shard.start : task.shard.stop] = result.factors
            else:
                factors = result.factors
            nodes.extend(result.nodes)
        sums = SideSums.unpack(collapse_nodes(nodes), factors.shape[1])
        if not np.isfinite(sums.objective_after):
            self._raise_failure(side, 0, factors.shape[0])
        return factors, sums

    def _sum_side(self, side: Side) -> SideSums:
        """Sum over the rows of a side that was not solved in this run yet."""
        state = self._sides[side]
        nodes = sum_rows(
            state.factors,
            state.terms.backgrounds,
            state.terms.ridges,
            first_block=0,
            n_threads=self._executor.n_threads,
        )
        return SideSums.unpack(collapse_nodes(nodes), state.factors.shape[1])

    def _raise_failure(self, side: Side, row: int, count: int) -> None:
        raise NumericalError(
            f"sweep {self._sweep + 1}, {side} half-step: {count} rows have no finite solution, the first is row {row} "
            f"(loss={self.loss.name}, alpha={self.loss.alpha}, reg={self.loss.reg}); raise reg, and check the weights"
        )


def _solve_shard(shared: _SharedHalfStep, task: _ShardTask, context: WorkerContext) -> SolvedRows:
    """Solve one shard's rows: what a worker runs."""
    return solve_half_step(
        shared.system,
        shared.shards.load(shared.side, task.index),
        task.initial,
        task.backgrounds,
        task.ridges,
        first_block=task.shard.start // BLOCK_ROWS,
        n_threads=context.n_threads,
    )


def _solve_nothing(shared: _SharedHalfStep, side: Side, context: WorkerContext) -> None:
    """Solve one row without entries, of the very array types that the shards have."""
    del context
    loaded = shared.shards.load(side, 0)
    weights = None if loaded.weights is None else loaded.weights[:0]
    rows = InteractionRows(np.zeros(2, dtype=np.int64), loaded.columns[:0], weights, loaded.n_columns)
    initial, ones = shared.system.fixed, np.ones(1)
    solve_half_step(shared.system, rows, initial, ones, ones, first_block=0, n_threads=1)


def _check_state(state: FactorState, source: InteractionSource, n_factors: int) -> None:
    """Refuse a starting point of another shape or with non-finite factors."""
    for name, factors, n_rows in (
        ("user_factors", state.user_factors, source.n_users),
        ("item_factors", state.item_factors, source.n_items),
    ):
        if factors.shape != (n_rows, n_factors) or factors.dtype != np.float32:
            raise InputError(
                f"{name}: expected float32 of shape {(n_rows, n_factors)}, found {factors.dtype} of {factors.shape}"
            )
        if not np.isfinite(factors).all():
            raise InputError(f"{name}: expected finite factors, found NaN or infinity; start from another model")
