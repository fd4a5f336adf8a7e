"""The alternating solver: sweeps over sharded interactions, on any executor.

A sweep is the user half-step and then the item half-step. A half-step needs the fixed side's factors
and three sums over them; a shard's result is its rows' factors, which stay with the executor as a block,
and its part of the sums, which are added along one fixed tree (`rgals.numerics.pairwise`). The factors
are therefore the same, bit for bit, for any number of threads, shards and workers, and after a resume.
"""

import time
import uuid
from dataclasses import dataclass, field

import numpy as np

from rgals.data.shards import InteractionSource, ShardRange
from rgals.errors import InputError, NumericalError
from rgals.execution import Block, BlockResult, Executor
from rgals.names import Factors, Float64Array, Offsets, Side, other_side
from rgals.numerics.half_step import SideSums, SolverChoice, shared_basis
from rgals.numerics.loss import Loss
from rgals.numerics.pairwise import SumNode, collapse_nodes
from rgals.numerics.threads import one_blas_thread
from rgals.training.factor_blocks import (
    BlockState,
    FactorReader,
    FactorState,
    Layout,
    SideFactors,
    draw_side,
    split_side,
    zero_side,
)
from rgals.training.half_step_tasks import (
    ShardEntries,
    ShardSummary,
    ShardTask,
    SharedHalfStep,
    SharedSlopes,
    Terms,
    gather_fixed,
    solve_shard,
    sum_shard,
    warm_up_shard,
)
from rgals.training.records import StepLoad, SweepRecord
from rgals.training.weighted_shards import WeightedShards

__all__ = ["AlternatingSolver", "FactorState", "StepResult"]


@dataclass(slots=True)
class _SideState:
    """One side: its factors, what stays the same over the run, and the sums over its rows."""

    layout: Layout
    factors: SideFactors
    terms: tuple[Block[Terms], ...]
    sums: SideSums | None = field(default=None)
    entries: tuple[ShardEntries, ...] | None = field(default=None)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a half-step did.

    Parameters
    ----------
    objective_before, objective_after : float
        The objective, each evaluated from the entries of the side that was solved.
    load : StepLoad
        How the work was spread.
    """

    objective_before: float
    objective_after: float
    load: StepLoad


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
        Who runs the shards and keeps the factors.
    state : FactorState or BlockState or None
        Where to start from: factors of another model, or blocks of the same executor; None draws them.

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
        state: FactorState | BlockState | None = None,
    ) -> None:
        if n_factors < 1:
            raise InputError(f"n_factors: expected at least 1, found {n_factors}")
        if loss.is_reexpanded:
            raise InputError(f"loss: expected one that is quadratic itself, found {loss.name}; use make_solver")
        if source.n_interactions == 0:
            raise InputError("the training part holds no interactions; check the split and the filters of ingest")
        self.loss = loss
        self._n_factors, self._seed = n_factors, seed
        self._executor = executor
        self._choice = SolverChoice(solver, cg_steps)
        self._run = uuid.uuid4().hex
        if isinstance(state, FactorState):
            _check_state(state, source, n_factors)
        self._shards = WeightedShards.prepare(source, loss, executor, self._run)
        self._constant = self._shards.constant
        self._turned: Float64Array = np.eye(n_factors)
        self._cross: Float64Array = np.eye(n_factors)
        self._shards_block = executor.put(self._shards)
        self._sides: dict[Side, _SideState] = {}
        self._terms: dict[Side, tuple[Block[Terms], ...]] = {}
        self._sweep = 0
        self._objective = float("nan")
        self.restore(state)
        self._warm_up()

    @property
    def blocks(self) -> BlockState:
        """The present factors, where they are."""
        return BlockState(self._sweep, self._sides["user"].factors, self._sides["item"].factors)

    @property
    def reader(self) -> FactorReader:
        """Reads the present factors; a later sweep does not change what it gives."""
        return FactorReader(self._executor, self.blocks)

    @property
    def state(self) -> FactorState:
        """The present factors as whole arrays; they must not be modified."""
        reader = self.reader
        return FactorState(self._sweep, reader.read_all("user"), reader.read_all("item"))

    @property
    def sweep(self) -> int:
        """Sweeps done."""
        return self._sweep

    @property
    def final_loss(self) -> Loss:
        """The loss whose minimum the run looks for."""
        return self.loss

    @property
    def n_start_sweeps(self) -> int:
        """First sweeps that only prepare the others: none."""
        return 0

    @property
    def is_starting(self) -> bool:
        """Whether the next sweep is one of them."""
        return self._sweep < self.n_start_sweeps

    def set_start(self, n_sweeps: int) -> None:
        """Say how many first sweeps there were in a run that is gone on with; nothing where there are none."""

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
        WorkerLostError
            If workers were lost and nobody can take their place.
        BlockLostError
            If factors were lost with the machine that held them; `restore` gives the solver others.
        """
        with one_blas_thread:
            start_s = time.perf_counter()
            users = self._run_half_step("user")
            middle_s = time.perf_counter()
            items = self._run_half_step("item")
        self._sweep += 1
        return SweepRecord(
            self._sweep,
            users.objective_before,
            users.objective_after,
            self._after_items(users, items),
            middle_s - start_s,
            time.perf_counter() - middle_s,
            users.load,
            items.load,
        )

    def _after_items(self, users: StepResult, items: StepResult) -> float:  # noqa: ARG002
        """Give the objective after a sweep's second half-step."""
        return items.objective_after

    def restore(self, state: FactorState | BlockState | None) -> None:
        """Go on from other factors; parameters as the class."""
        for side in ("user", "item"):
            layout = self.layout(side)
            if isinstance(state, BlockState):
                factors = state.side(side)
            elif state is not None:
                factors = split_side(self._executor, layout, state.read_all(side))
            elif side == "user":
                factors = zero_side(self._executor, layout, self._n_factors)
            else:
                factors = draw_side(self._executor, layout, self._n_factors, self._seed)
            if side not in self._terms:
                self._terms[side] = self._put_terms(side, layout.ranges, self.loss)
            self._sides[side] = _SideState(layout, factors, self._terms[side])
        self._sweep = 0 if state is None else state.sweep

    def drop_factors(self) -> None:
        """Let go of the factors, so that there is room for others; `restore` has to follow."""
        self._sides.clear()

    def layout(self, side: Side) -> Layout:
        """Give the blocks of a side, and the keys that send tasks to where its shards are kept."""
        ranges = self._shards.source.shard_ranges(side)
        return Layout(ranges, tuple(self._shards.key(side, index) for index in range(len(ranges))))

    def close(self) -> None:
        """Let the workers drop the shards of this run; the factors stay as long as somebody reads them."""
        self._executor.release(self._run)

    def _put_terms(self, side: Side, ranges: tuple[ShardRange, ...], loss: Loss) -> tuple[Block[Terms], ...]:
        terms = self._shards.terms(side, loss)
        return tuple(
            self._executor.put((terms.backgrounds[one.start : one.stop], terms.ridges[one.start : one.stop]))
            for one in ranges
        )

    def _warm_up(self) -> None:
        """Let every worker load its shards and its kernels, so that the first sweep's seconds are a sweep's."""
        d = self._n_factors
        eye, nothing = np.eye(d, dtype=np.float32), np.zeros(d)
        for side in ("user", "item"):
            state = self._sides[side]
            shared = self._share(side, state.factors, eye, eye, nothing, nothing)
            layout = state.layout
            tasks: list[tuple[Side, int]] = [(side, index) for index in range(len(layout.keys))]
            for _ in self._executor.map_ordered(warm_up_shard, shared, tasks, keys=layout.keys, costs=layout.costs):
                pass

    def _share(
        self,
        side: Side,
        fixed: SideFactors,
        fixed_matrix: Factors,
        initial_matrix: Factors,
        eigenvalues: Float64Array,
        linear: Float64Array,
        slopes: SharedSlopes | None = None,
    ) -> SharedHalfStep:
        return SharedHalfStep(
            self._run,
            self._shards_block,
            max(self._shards.source.n_users, self._shards.source.n_items),
            side,
            fixed,
            fixed_matrix,
            initial_matrix,
            eigenvalues,
            linear,
            self.loss,
            self._choice,
            slopes,
        )

    def _slopes(self, basis: Float64Array) -> SharedSlopes | None:  # noqa: ARG002
        """Give what the slopes of re-expanded rows need in a half-step of this basis; None: there are none."""
        return None

    def _run_half_step(self, side: Side) -> StepResult:
        """Solve one side; give the objective before and after."""
        solved, fixed = self._sides[side], self._sides[other_side(side)]
        if fixed.sums is None:
            fixed.sums = self._sum_side(other_side(side))
        gram, linear = fixed.sums.gram, fixed.sums.linear
        if side == "user" and self.loss.name == "rgx":
            gram = gram - np.outer(linear, linear)
        eigenvalues, basis = shared_basis(gram)
        rotated_sums = fixed.sums.rotated(basis)
        has_pull = self.loss.is_softmax_expansion and not self.loss.is_reexpanded
        pull = rotated_sums.linear if has_pull else np.zeros_like(linear)
        mean = np.zeros_like(linear)
        if side == "item" and self.loss.name == "rgx":
            # The concave -mu^2 is replaced by its tangent at the present items: an upper bound.
            solved.sums = solved.sums or self._sum_side("item")
            mean = solved.sums.linear @ basis
            pull = pull - eigenvalues * mean
        matrices = fixed.factors.matrix(basis), solved.factors.matrix(basis)
        shared = self._share(side, fixed.factors, *matrices, eigenvalues, pull, self._slopes(basis))
        factors, sums, load = self._solve_side(side, shared)
        fixed.factors, fixed.sums = fixed.factors.rotated(basis), rotated_sums
        solved.factors, solved.sums = factors, sums
        self._turned = self._turned @ basis
        rest = self._constant + 0.5 * rotated_sums.ridge_norm
        bound = float(eigenvalues @ (mean * sums.linear))
        before = sums.objective_before + rest + 0.5 * float(eigenvalues @ (mean * mean))
        curvature = 0.5 * float(eigenvalues @ (sums.linear * sums.linear)) if mean.any() else 0.0
        self._objective = sums.objective_after + rest + bound - curvature
        return StepResult(before, self._objective, load)

    def _solve_side(self, side: Side, shared: SharedHalfStep) -> tuple[SideFactors, SideSums, StepLoad]:
        """Solve all shards of a side and add up their sums in the order of the fixed tree."""
        state = self._sides[side]
        ranges = state.factors.ranges
        results: list[BlockResult[Factors, ShardSummary]] = []
        nodes: list[SumNode] = []
        cross: list[SumNode] = []
        solving = self._executor.map_blocks(
            solve_shard,
            shared,
            self._tasks(side),
            keys=state.layout.keys,
            costs=state.layout.costs,
            prepare=gather_fixed,
        )
        for shard, result in zip(ranges, solving, strict=True):
            summary = result.summary
            if summary.n_failed:
                self._raise_failure(side, shard.start + summary.first_failed, summary.n_failed)
            nodes.extend(summary.nodes)
            cross.extend(summary.cross)
            results.append(result)
        sums = SideSums.unpack(collapse_nodes(nodes), self._n_factors)
        if cross:
            self._cross = collapse_nodes(cross)
        if not np.isfinite(sums.objective_after):
            self._raise_failure(side, 0, state.factors.n_rows)
        blocks = tuple(result.block for result in results)
        factors = SideFactors(ranges, blocks, self._n_factors, keys=state.layout.keys)
        return factors, sums, StepLoad.of(results)

    def _tasks(self, side: Side) -> list[ShardTask]:
        state = self._sides[side]
        pieces = zip(state.factors.ranges, state.factors.blocks, state.terms, strict=True)
        entries = state.entries or (None,) * len(state.terms)
        return [ShardTask(side, index, *piece, entries[index]) for index, piece in enumerate(pieces)]

    def _sum_side(self, side: Side) -> SideSums:
        """Sum over the rows of a side that was not solved in this run yet."""
        state = self._sides[side]
        parts = self._executor.map_ordered(
            sum_shard, None, self._tasks(side), keys=state.layout.keys, costs=state.layout.costs
        )
        nodes = [node for part in parts for node in part]
        sums = SideSums.unpack(collapse_nodes(nodes), self._n_factors)
        return sums if state.factors.rotation is None else sums.rotated(state.factors.rotation)

    def _raise_failure(self, side: Side, row: int, count: int) -> None:
        raise NumericalError(
            f"sweep {self._sweep + 1}, {side} half-step: {count} rows have no finite solution, the first is row {row} "
            f"(loss={self.loss.name}, alpha={self.loss.alpha}, reg={self.loss.reg}); raise reg, and check the weights"
        )


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
