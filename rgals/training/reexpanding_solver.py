"""Softmax by alternating least squares: a start with RG×, then the loss expanded anew around each sweep's factors.

A re-expanded sweep solves the users and then the items on one quadratic, the expansion of
`rgals.numerics.reexpansion` around the factors that the sweep begins with. The pass over all scores that
makes the next expansion gives the exact loss of the new factors on the way; where that has risen, the factors
go back half of the way, until it falls. So the exact loss with its ridge falls at every sweep.

Where the passes look at a sample of the items, and of the users, that loss is an estimate, and "risen" means by
more than its stated error.

The first sweeps are those of RG× from zero, and what they end with is rescaled by the one temperature that
suits the softmax loss best (`rgals.numerics.temperature`).
"""

import math
from dataclasses import replace

import numpy as np

from rgals.data.shards import InteractionSource
from rgals.errors import NumericalError
from rgals.execution import Block, Executor
from rgals.names import SIDES, Float64Array, Side, Weights
from rgals.numerics.loss import Loss
from rgals.numerics.pairwise import SumNode, collapse_nodes
from rgals.numerics.reexpansion import Entries, Expansion, log_prior_of
from rgals.numerics.row_sample import RowSample, draw_rows
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.temperature import best_temperature
from rgals.numerics.threads import one_blas_thread
from rgals.numerics.weighting import weigh_entries
from rgals.training.config import TrainingConfig
from rgals.training.factor_blocks import BlockState, FactorState, SideFactors
from rgals.training.half_step_tasks import PassWork, SharedSlopes
from rgals.training.monitor import read_user_rows, sample_rows
from rgals.training.records import ExpansionRecord, PassLoad, SweepRecord
from rgals.training.reexpansion_tasks import (
    BlendTask,
    CutTask,
    SharedPass,
    blend_block,
    cut_entries,
    expand_shard,
    gather_items,
    turn_entries,
    warm_up_pass,
)
from rgals.training.solver import AlternatingSolver, StepResult

__all__ = ["LEAST_SAMPLE", "ReexpandingSolver", "make_solver"]

LEAST_SAMPLE = 2048
"""Rows below which a sample would cost precision and save nothing: one tile of scores."""

_MOST_HALVINGS = 6
_RISE_TOLERANCE = 1e-7
"""Rise of the exact objective, relative to its size, that rounding explains."""

_ERRORS = 1.0
"""Standard errors of each of two estimates that a rise between them may have; they are upper bounds already."""

_TEMPERATURE_USERS = 512
_TEMPERATURE_SCORES = 1 << 25
"""Most scores that are held to find the temperature: 128 MiB."""


class ReexpandingSolver(AlternatingSolver):
    """Runs the sweeps of ``rg-softmax``; parameters as `AlternatingSolver`, and four more.

    Parameters
    ----------
    start : Loss
        Loss of the first sweeps, with the same observed weights and prior.
    n_start_sweeps : int
        How many there are; 0 expands around the given state at once.
    pass_fraction : float
        Share of the items, and of the users, that the passes over the scores look at beside each row's own entries;
        1: all, so that the loss is exact.
    n_sampled : int or None
        First expanded sweeps for which that holds, later passes being exact; None: all.
    """

    def __init__(
        self,
        source: InteractionSource,
        loss: Loss,
        *,
        n_factors: int,
        seed: int,
        executor: Executor,
        start: Loss,
        n_start_sweeps: int,
        pass_fraction: float = 1.0,
        n_sampled: int | None = None,
        solver: str = "auto",
        cg_steps: int = 3,
        state: FactorState | BlockState | None = None,
    ) -> None:
        self._softmax_loss = loss
        self._start_loss = start
        self._n_start = n_start_sweeps
        self._pass_fraction, self._n_sampled = pass_fraction, n_sampled
        self._exact: float | None = None
        self._error, self._began_sampled = 0.0, False
        self._passed = PassLoad()
        self._log_partitions: Float64Array = np.zeros(0)
        self._origin: BlockState | None = None
        super().__init__(
            source,
            start,
            n_factors=n_factors,
            seed=seed,
            executor=executor,
            solver=solver,
            cg_steps=cg_steps,
            state=state,
        )

    @property
    def final_loss(self) -> Loss:
        """The loss whose minimum the run looks for: the softmax."""
        return self._softmax_loss

    @property
    def n_start_sweeps(self) -> int:
        """First sweeps, of RG×."""
        return self._n_start

    def set_start(self, n_sweeps: int) -> None:
        """Say how many first sweeps there were in a run that is gone on with."""
        self._n_start = n_sweeps

    def restore(self, state: FactorState | BlockState | None) -> None:
        """Go on from other factors; parameters as the class."""
        self.loss = self._start_loss
        self._terms.clear()
        self._exact = None
        self._constant = self._shards.constant
        super().restore(state)

    def run_sweep(self) -> SweepRecord:
        """Solve the users, then the items; then expand the loss around what was found.

        Returns, raises
        ---------------
        See `AlternatingSolver.run_sweep`.
        """
        if self.is_starting:
            return super().run_sweep()
        self._passed = PassLoad()
        origin, before = self._open_sweep()
        record = super().run_sweep()
        # The expansion is the loss itself where the sweep began.
        rest = before - record.objective_before
        self._origin = None
        found, length = self._settle(origin, before)
        self._objective = found
        return replace(
            record,
            objective_before=before,
            objective_after_users=record.objective_after_users + rest,
            objective_after_items=record.objective_after_items + rest,
            expanded=ExpansionRecord(found, length, self._passed + record.item_load.passed, self._error),
        )

    def _open_sweep(self) -> tuple[BlockState, float]:
        """Make sure that the loss is expanded around the present factors; give these, and their objective."""
        if self._exact is None:
            self._begin()
        assert self._exact is not None
        self._constant, self._turned = 0.0, np.eye(self._n_factors)
        self._origin, self._began_sampled = self.blocks, self._is_sampled
        return self._origin, self._exact

    def _after_items(self, users: StepResult, items: StepResult) -> float:
        if self._origin is None or not self._began_sampled:
            return super()._after_items(users, items)
        # Both half-steps estimate one quadratic, from different samples: what counts is how far each goes down.
        return users.objective_after + items.objective_after - items.objective_before

    @property
    def _is_sampled(self) -> bool:
        """Whether the expansion around the present factors looks at a sample."""
        n_expanded = self._sweep - self._n_start
        return self._pass_fraction < 1 and (self._n_sampled is None or n_expanded < self._n_sampled)

    def _sample(self, side: Side) -> RowSample | None:
        """Draw the rows that stand for a side in the expansion around the present factors."""
        if not self._is_sampled:
            return None
        weight_sums = self._shards.weight_sums(side)
        fraction = min(1.0, max(self._pass_fraction, LEAST_SAMPLE / weight_sums.size))
        return draw_rows(weight_sums, fraction, (self._seed, self._sweep, SIDES.index(side)))

    def _warm_up(self) -> None:
        super()._warm_up()
        layout, eye, nothing = self.layout("user"), np.eye(self._n_factors), np.zeros(self._n_factors)
        matrix = eye.astype(np.float32)
        step = self._share("user", self._sides["item"].factors, matrix, matrix, nothing, nothing)
        shared = SharedPass(replace(step, loss=self._softmax_loss), self._log_prior, self._sample("item"))
        tasks: list[tuple[Side, int]] = [("user", index) for index in range(len(layout.keys))]
        for _ in self._executor.map_ordered(warm_up_pass, shared, tasks, keys=layout.keys, costs=layout.costs):
            pass
        one = np.ones(1)
        rows = InteractionRows(np.array([0, 1]), np.zeros(1, dtype=np.int32), None, 1)
        rows = weigh_entries(rows, one, one) if self.loss.has_degree_weights else rows
        best_temperature(matrix[:1], matrix[:1], rows, one)

    def _begin(self) -> None:
        """Go over from the first loss to the softmax: other ridges, one temperature, and the first expansion."""
        self.loss = self._softmax_loss
        for side in SIDES:
            self._terms[side] = self._put_terms(side, self.layout(side).ranges, self.loss)
            self._sides[side].terms = self._terms[side]
            self._sides[side].sums = None
        if 0 < self._n_start == self._sweep:
            scale = math.sqrt(self._find_temperature()) * np.eye(self._n_factors)
            for side in SIDES:
                factors = self._sides[side].factors.rotated(scale)
                self._blend(side, factors, factors, 0.0)
        self._exact = self._expand()

    def _find_temperature(self) -> float:
        """Fit the temperature on a sample of users."""
        n_items = self._shards.source.n_items
        n_users = max(1, min(_TEMPERATURE_USERS, _TEMPERATURE_SCORES // max(n_items, 1)))
        users = sample_rows(np.flatnonzero(self.user_degrees), n_users, self._seed)
        rows = read_user_rows(self._shards.source, users)
        if self.loss.has_degree_weights:
            by_user = self.loss.degree_factors("user", self.user_degrees[users])
            rows = weigh_entries(rows, by_user, self.loss.degree_factors("item", self.item_degrees))
        reader = self.reader
        prior = self.loss.item_prior(self.item_degrees)
        return best_temperature(
            reader.read_rows("user", users),
            reader.read_all("item"),
            rows,
            prior,
            n_threads=self._executor.caller_threads,
        )

    def _settle(self, origin: BlockState, before: float) -> tuple[float, float]:
        """Expand around the new factors, going back towards ``origin`` as long as the loss is above ``before``.

        Gives the exact objective in the end, and the length of the step that was taken.
        """
        target, length = self.blocks, 1.0
        bound = before + _RISE_TOLERANCE * abs(before) + _ERRORS * self._error
        found = self._expand()
        for _ in range(_MOST_HALVINGS):
            if found <= bound + _ERRORS * self._error:
                break
            length /= 2
            self._take(origin, target, length)
            found = self._expand()
        else:
            if not found <= bound + _ERRORS * self._error:
                length = 0.0
                self._take(origin, target, length)
                found = self._expand()
        self._exact = found
        return found, length

    def _take(self, origin: BlockState, target: BlockState, length: float) -> None:
        """Stand between the factors before and after the half-steps of this sweep."""
        for side in SIDES:
            self._blend(side, origin.side(side).rotated(self._turned), target.side(side), length)

    def _blend(self, side: Side, before: SideFactors, after: SideFactors, length: float) -> None:
        """Write ``before + length * (after - before)`` as new blocks."""
        state, eye = self._sides[side], np.eye(self._n_factors)
        blended = self._executor.map_blocks(
            blend_block,
            (before.matrix(eye), after.matrix(eye), length),
            [BlendTask(*pair) for pair in zip(before.blocks, after.blocks, strict=True)],
            keys=state.layout.keys,
            costs=state.layout.costs,
        )
        blocks = tuple(result.block for result in blended)
        state.factors = SideFactors(after.ranges, blocks, self._n_factors, keys=state.layout.keys)
        state.sums = None

    def _slopes(self, basis: Float64Array) -> SharedSlopes | None:
        if self._origin is None:
            return None
        return SharedSlopes(
            np.ascontiguousarray(basis, dtype=np.float32),
            basis.T @ self._cross @ basis,
            self._origin.users,
            self._origin.users.rotated(self._turned).matrix(basis),
            self._shards.weight_sums("user").astype(np.float32),
            self._log_partitions.astype(np.float32),
            self._log_prior,
            self._sample("user"),
        )

    @property
    def _log_prior(self) -> Weights:
        return log_prior_of(self.loss.item_prior(self.item_degrees))

    def _expand(self) -> float:
        """Pass over all scores: new entries for both sides, and the exact objective of the present factors."""
        users, items = self._sides["user"], self._sides["item"]
        users.entries = items.entries = None
        with one_blas_thread:
            nodes, expansions = self._pass_over_scores()
            users.entries = expansions
            items.entries = self._hand_to_items(expansions)
            ridge = sum(self._ridge_norm(side) for side in SIDES)
        loss, self._error = (float(value) for value in collapse_nodes(nodes))
        found = loss + 0.5 * ridge
        if not math.isfinite(found):
            raise NumericalError(
                f"sweep {self._sweep}: expected a finite softmax loss, found {found!r} "
                f"(reg={self.loss.reg}, eta={self.loss.eta}); raise reg, and check the weights"
            )
        return found

    def _pass_over_scores(self) -> tuple[list[SumNode], tuple[Block[Expansion], ...]]:
        users, items = self._sides["user"], self._sides["item"]
        eye, nothing = np.eye(self._n_factors), np.zeros(self._n_factors)
        step = self._share(
            "user", items.factors, items.factors.matrix(eye), users.factors.matrix(eye), nothing, nothing
        )
        shared = SharedPass(step, self._log_prior, self._sample("item"))
        results = self._executor.map_blocks(
            expand_shard,
            shared,
            self._tasks("user"),
            keys=users.layout.keys,
            costs=[float(shard.n_rows) for shard in users.layout.ranges],
            prepare=gather_items,
        )
        nodes: list[SumNode] = []
        blocks: list[Block[Expansion]] = []
        log_partitions: list[Float64Array] = []
        parts: list[tuple[str, PassWork]] = []
        for result in results:
            nodes.extend(result.summary.nodes)
            log_partitions.append(result.summary.log_partitions)
            blocks.append(result.block)
            parts.append((result.worker, result.summary.passed))
        self._passed += PassLoad.of(parts)
        self._log_partitions = np.concatenate(log_partitions)
        return nodes, tuple(blocks)

    def _hand_to_items(self, expansions: tuple[Block[Expansion], ...]) -> tuple[tuple[Block[Entries], ...], ...]:
        """Give each shard of items its entries, one part for each shard of users."""
        users, items = self._sides["user"].layout, self._sides["item"].layout
        tasks = [(block, shard.start) for block, shard in zip(expansions, users.ranges, strict=True)]
        turned = [result.block for result in self._executor.map_blocks(turn_entries, None, tasks, keys=users.keys)]
        cuts = [CutTask(block, shard) for block in turned for shard in items.ranges]
        keys = [key for key in users.keys for _ in items.ranges]
        parts = [result.block for result in self._executor.map_blocks(cut_entries, None, cuts, keys=keys)]
        n_items = len(items.ranges)
        return tuple(tuple(parts[index::n_items]) for index in range(n_items))

    def _ridge_norm(self, side: Side) -> float:
        state = self._sides[side]
        if state.sums is None:
            state.sums = self._sum_side(side)
        return state.sums.ridge_norm


def make_solver(
    source: InteractionSource,
    config: TrainingConfig,
    executor: Executor,
    *,
    state: FactorState | BlockState | None = None,
    is_continued: bool = False,
) -> AlternatingSolver:
    """Make the solver that a configuration asks for.

    Parameters
    ----------
    source : InteractionSource
        Training interactions.
    config : TrainingConfig
        All options.
    executor : Executor
        Who runs the shards.
    state : FactorState, BlockState or None
        Where to start from.
    is_continued : bool
        Whether the run began from another model's factors, so that ``rg-softmax`` needs no start of its own.
    """
    loss = config.to_loss()
    options = {"n_factors": config.n_factors, "seed": config.seed, "cg_steps": config.cg_steps}
    if not loss.is_reexpanded:
        return AlternatingSolver(source, loss, executor=executor, solver=config.solver, state=state, **options)
    return ReexpandingSolver(
        source,
        loss,
        executor=executor,
        start=config.to_start_loss(),
        n_start_sweeps=0 if is_continued else config.start_sweeps,
        pass_fraction=config.pass_fraction,
        n_sampled=config.sampled_sweeps,
        solver=config.solver,
        state=state,
        **options,
    )
