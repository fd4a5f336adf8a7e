"""Solvers of `rg_softmax_variants.py`: each does one thing otherwise than rgals does.

Their tasks read and write the solver itself, so that they need an executor in this process.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np

from rgals.execution import Block, WorkerContext
from rgals.names import SIDES, Factors, Float64Array, Side, Weights
from rgals.numerics import reexpansion_items
from rgals.numerics.half_step import SideSums, SolverChoice, rotate, solve_half_step, sum_rows
from rgals.numerics.loss import Loss
from rgals.numerics.pairwise import BLOCK_ROWS
from rgals.numerics.reexpansion import Expansion, expand
from rgals.numerics.reexpansion_items import cross_sums
from rgals.numerics.row_sample import RowSample, draw_rows
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.temperature import best_temperature
from rgals.numerics.threads import run_blocks
from rgals.training import half_step_tasks, reexpansion_tasks
from rgals.training import solver as solver_module
from rgals.training.factor_blocks import SideFactors, split_side
from rgals.training.half_step_tasks import ShardSummary, ShardTask, SharedHalfStep, solve_shard
from rgals.training.monitor import read_user_rows
from rgals.training.records import StepLoad, SweepRecord
from rgals.training.reexpanding_solver import ReexpandingSolver
from rgals.training.solver import StepResult

LEAST_ROOM = 0.1
"""Smallest 1 - c m'A^-1 m for which the rank-one correction is made."""


class NoTemperature(ReexpandingSolver):
    """Goes on from the start as it is, its scores multiplied by 1."""

    def _find_temperature(self) -> float:
        return 1.0


class EvenItems(ReexpandingSolver):
    """Divides every item's vector by its norm to a power after each expanded sweep, times the mean norm to that power.

    The safeguard of the sweep has looked at the items before that. The loss is expanded anew around what they are
    then, which costs one more pass, and the next safeguard compares with the loss there.
    """

    power = 1.0

    def run_sweep(self) -> SweepRecord:
        """Run a sweep, then rescale; the record's objective is that of the rescaled factors."""
        record = super().run_sweep()
        if record.expanded is None:
            return record
        items, state = self.reader.read_all("item"), self._sides["item"]
        norms = np.linalg.norm(items.astype(np.float64), axis=1, keepdims=True)
        scaled = (items * (norms.mean() / np.maximum(norms, 1e-30)) ** self.power).astype(np.float32)
        state.factors, state.sums = split_side(self._executor, state.layout, scaled), None
        self._exact = self._objective = self._expand()
        return replace(record, expanded=replace(record.expanded, objective=self._exact))


class HalfEvenItems(EvenItems):
    """The same with the root of the norm."""

    power = 0.5


class RankOne(ReexpandingSolver):
    """Puts the dropped curvature ``-1/2 c (sum_j p_j (s_j - s0_j))^2`` back into the users' half-step.

    With A the matrix of a row, d its step and m = sum_j p_j q_j, that turns d into d + c a (m'd) / (1 - c m'a) with
    a = A^-1 m. The same kernel gives a: from 0, without linear weights, with the slope -m. The items' half-step is
    left as it is. The task writes to the solver, so that it needs an executor in this process.
    """

    has_tangent = False
    """Whether the items get the slope of that term at the users' new vectors, -c (m'd) p: c becomes c (1 - m'd)."""

    def _solve_side(self, side: Side, shared: SharedHalfStep) -> tuple[SideFactors, SideSums, StepLoad]:
        slopes = shared.slopes
        if slopes is None:
            return super()._solve_side(side, shared)
        if side == "user":
            self._drifts = np.zeros(slopes.weight_sums.size, dtype=np.float32)
            with patch.object(solver_module, "solve_shard", partial(_solve_with_rank_one, self._drifts)):
                return super()._solve_side(side, shared)
        if self.has_tangent:
            slopes = replace(slopes, weight_sums=slopes.weight_sums * (1 - self._drifts))
        return super()._solve_side(side, replace(shared, slopes=slopes))


class RankOneTangent(RankOne):
    """The same, and the slope of the term in the items' half-step."""

    has_tangent = True


def _solve_with_rank_one(
    drifts: Weights, prepared: Any, task: ShardTask, context: WorkerContext
) -> tuple[Factors, ShardSummary]:
    """Solve a shard of users and correct their steps; note m'd of each. The objective in the sums is uncorrected."""
    factors, summary = solve_shard(prepared, task, context)
    shared, n_threads, first_block = prepared.shared, context.n_threads, task.shard.start // BLOCK_ROWS
    shard = slice(task.shard.start, task.shard.stop)
    expansion, ridges = context.fetch(task.entries), context.fetch(task.terms)[1]
    former = rotate(context.fetch(task.initial), shared.initial_matrix, n_threads)
    weights = shared.slopes.weight_sums[shard, None]
    means = rotate(expansion.slopes, shared.slopes.turn, n_threads)
    np.divide(means, weights, out=means, where=weights > 0)
    system, nothing = replace(prepared.system, choice=SolverChoice("exact")), np.zeros_like(expansion.entries.linears)
    answers = solve_half_step(
        system, expansion.entries.rows, np.zeros_like(former), expansion.backgrounds, ridges,
        first_block=first_block, n_threads=n_threads, linears=nothing, slopes=-means,
    ).factors  # fmt: skip
    along, bend = (np.einsum("uf,uf->u", means, other, dtype=np.float64) for other in (factors - former, answers))
    room = 1 - weights[:, 0] * bend
    gains = np.where(room > LEAST_ROOM, weights[:, 0] * along / np.maximum(room, LEAST_ROOM), 0.0)
    corrected = (factors + gains[:, None] * answers).astype(np.float32)
    drifts[shard] = along + gains * bend
    nodes = sum_rows(corrected, expansion.backgrounds, ridges, first_block=first_block, n_threads=n_threads)
    for node, solved in zip(nodes, summary.nodes, strict=True):
        node.value[-2:] = solved.value[-2:]
    cross = cross_sums(corrected, former, expansion.backgrounds, first_block=first_block)
    return corrected, replace(summary, nodes=nodes, cross=cross)


MOST_RESCALED = 4.0
"""A user's own temperature stays within this factor of the common one: some have next to no interactions."""


class UserTemperatures(ReexpandingSolver):
    """Rescales the start by the temperature that suits each user best, after the one that suits all."""

    def _begin(self) -> None:
        super()._begin()
        if not 0 < self._n_start == self._sweep:
            return
        users, items = self.reader.read_all("user"), self.reader.read_all("item")
        rows = read_user_rows(self._shards.source, np.arange(len(users)))
        prior, scaled = self.loss.item_prior(self.item_degrees), users.copy()

        def work(user: int) -> None:
            one = slice(user, user + 1)
            if rows.degrees[user]:
                found = best_temperature(users[one], items, rows.row_slice(user, user + 1), prior)
                scaled[one] *= np.float32(min(max(found, 1 / MOST_RESCALED), MOST_RESCALED))

        run_blocks(work, range(len(users)), self._executor.caller_threads)
        state = self._sides["user"]
        state.factors, state.sums = split_side(self._executor, state.layout, scaled), None
        self._exact = self._expand()


class FreshItems(ReexpandingSolver):
    """Expands once more between the half-steps, so that the items' quadratic stands at the users' new vectors.

    The objectives of the half-steps are then of two quadratics; that of the sweep stays exact.
    """

    def _run_half_step(self, side: Side) -> StepResult:
        if side == "user" or self._origin is None:
            return super()._run_half_step(side)
        self._exact = self._expand()
        users, former = self._sides["user"], self._turned
        tasks = list(zip(users.factors.blocks, users.entries, users.factors.ranges, strict=True))
        grams = self._executor.map_ordered(_sum_users, None, tasks, keys=users.layout.keys)
        self._cross = np.sum(list(grams), axis=0)
        if users.factors.rotation is not None:
            self._cross = users.factors.rotation.T @ self._cross @ users.factors.rotation
        users.sums = replace(users.sums, gram=self._cross)
        self._origin, self._turned = self.blocks, np.eye(self._n_factors)
        step = super()._run_half_step(side)
        self._turned = former @ self._turned
        return step


def _sum_users(
    shared: None, task: tuple[Block[Factors], Block[Expansion], Any], context: WorkerContext
) -> Float64Array:
    """Give sum omega p p' of a shard of users, in the basis of its block."""
    del shared
    factors, expansion = context.fetch(task[0]), context.fetch(task[1])
    nodes = cross_sums(factors, factors, expansion.backgrounds, first_block=0)
    return np.sum([node.value for node in nodes], axis=0)


class HalfPrecision(ReexpandingSolver):
    """Both passes take their vectors rounded to bfloat16, as a processor's matrix unit does; they add in float32.

    The curvatures and targets of the entries are made from the rounded vectors, too.
    """

    def run_sweep(self) -> SweepRecord:
        """Run a sweep whose passes round."""
        slopes, expand = reexpansion_items.item_slopes, reexpansion_tasks.expand
        with ExitStack() as stack:
            stack.enter_context(patch.object(reexpansion_tasks, "expand", _rounding(expand, 2)))
            stack.enter_context(patch.object(half_step_tasks, "item_slopes", _rounding(slopes, 3)))
            return super().run_sweep()


def _rounding(function: Callable[..., Any], n_rounded: int) -> Callable[..., Any]:
    """Round the first arguments before a call."""

    def call(*args: Any, **options: Any) -> Any:
        return function(*map(to_bfloat16, args[:n_rounded]), *args[n_rounded:], **options)

    return call


def to_bfloat16(values: Factors) -> Factors:
    """Round to the nearest number with eight significant bits, still as float32."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)


class KeptSample(ReexpandingSolver):
    """Draws the sample of its passes anew only every third sweep."""

    period = 3

    def _sample(self, side: Side) -> RowSample | None:
        if not self._is_sampled:
            return None
        weight_sums, draw = self._shards.weight_sums(side), max(self._sweep - self._n_start, 0) // self.period
        return draw_rows(weight_sums, self._pass_fraction, (self._seed, draw, SIDES.index(side)))


class IndexedSample(ReexpandingSolver):
    """Its sampled passes have the hardest negatives of all items as entries, as an index that errs never would give.

    They are found by an exact pass: seconds mean nothing.
    """

    def run_sweep(self) -> SweepRecord:
        """Run a sweep whose passes know all hard negatives."""
        with patch.object(reexpansion_tasks, "expand", _expand_with_index):
            return super().run_sweep()


def _expand_with_index(
    vectors: Factors, items: Factors, rows: InteractionRows, log_prior: Weights, loss: Loss, **options: Any
) -> Expansion:
    """Expand with a sample, and the hard negatives of an exact pass beside it, as observed items of weight 0."""
    exact = expand(vectors, items, rows, log_prior, loss, **{**options, "sample": None})
    if options["sample"] is None:
        return exact
    found = exact.entries.rows
    users = np.repeat(np.arange(found.n_rows), found.degrees)
    weights = np.zeros(found.n_interactions, dtype=np.float32)
    # Items ascend in each row of both: observed ones are found by their place in the long vector of pairs.
    pairs = users * found.n_columns + found.columns
    owners = np.repeat(np.arange(rows.n_rows), rows.degrees)
    observed = np.searchsorted(pairs, owners * rows.n_columns + rows.columns)
    weights[observed] = 1 if rows.weights is None else rows.weights
    known = InteractionRows(found.indptr, found.columns, weights, found.n_columns)
    sampled = expand(vectors, items, known, log_prior, replace(loss, n_hard=0), **options)
    # An observed item of weight 0 has the curvature c p; a hard negative kappa c p.
    hard = np.flatnonzero(weights == 0)
    curvatures, linears = sampled.entries.rows.weights, sampled.entries.linears
    assert curvatures is not None
    assert np.array_equal(sampled.entries.rows.columns, found.columns)
    owners = users[hard]
    scores = np.einsum("ef,ef->e", vectors[owners], items[found.columns[hard]], dtype=np.float64)
    shifts = log_prior[found.columns[hard]] if log_prior.size else 0.0
    totals = np.bincount(users, weights=weights, minlength=found.n_rows)
    bends = totals[owners] * np.exp(scores + shifts - sampled.log_partitions[owners])
    curvatures[hard] += ((loss.kappa - 1) * bends).astype(np.float32)
    linears[hard] = curvatures[hard] * scores
    return sampled
