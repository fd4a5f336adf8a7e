"""The moving parts of a training run: solver, samples that are watched, checkpoints, the rules to stop."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

from rgals.data.shards import InteractionSource
from rgals.data.storage import Folder
from rgals.errors import BlockLostError, DataError
from rgals.execution import Executor
from rgals.names import SIDES, Side
from rgals.numerics.sparse import InteractionRows
from rgals.training.checkpoint import BestSweep, Checkpoint, CheckpointStore, RunIdentity, check_writable
from rgals.training.config import TrainingConfig
from rgals.training.events import (
    CheckpointEvent,
    HalfStepEvent,
    Listener,
    RecoveryEvent,
    SoftmaxEvent,
    StartEvent,
    StopEvent,
    StopReason,
    SweepEvent,
    ValidationEvent,
)
from rgals.training.factor_blocks import FactorReader, FactorState
from rgals.training.history import SweepSummary, check_half_step, objective_scale, relative_fall
from rgals.training.monitor import SoftmaxMonitor, ValidationMonitor
from rgals.training.records import StepLoad
from rgals.training.reexpanding_solver import make_solver
from rgals.training.result import TrainResult
from rgals.training.solver import AlternatingSolver
from rgals.training.warm_start import WarmStart

__all__ = ["Resume", "TrainingRun"]

Resume: TypeAlias = bool | Literal["auto"]
"""Whether to go on from the newest checkpoint: no, yes, or where there is one."""

_MOST_RECOVERIES = 3
"""How often a run goes back to its last checkpoint without coming further than before."""


class TrainingRun:
    """The moving parts of one call of `rgals.training.trainer.train`, in the order in which it calls them.

    Parameters
    ----------
    source : InteractionSource
        Training interactions.
    config : TrainingConfig
        All options.
    executor : Executor
        Who solves the shards.
    on_event : callable or None
        Called with each event.
    should_stop : callable or None
        Asked between sweeps.
    """

    def __init__(
        self,
        source: InteractionSource,
        config: TrainingConfig,
        executor: Executor,
        on_event: Listener | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self._source = source
        self._config = config
        self._executor = executor
        self._emit: Listener = on_event if on_event is not None else lambda _: None
        self._should_stop = should_stop if should_stop is not None else lambda: False
        self._history: list[SweepSummary] = []
        self._best: BestSweep | None = None
        self._forgotten = 0  # sweeps whose best one cannot be given back
        self._seconds = {"validate": 0.0, "monitor": 0.0, "checkpoint": 0.0}
        self._validation: ValidationMonitor | None = None
        self._softmax: SoftmaxMonitor | None = None
        self._store: CheckpointStore | None = None
        self._saved: tuple[int, str] | None = None
        self._saved_at = time.perf_counter()
        self._n_recoveries = 0
        self.has_given_up = False
        self._recovered_sweep = -1
        self._initial: WarmStart | None = None
        self._last_reader: FactorReader | None = None
        self._solver: AlternatingSolver

    def watch_validation(self, validation: InteractionRows | None, fold_in: InteractionRows | None) -> None:
        """Choose the validation sample."""
        if validation is not None:
            config = self._config
            self._validation = ValidationMonitor(
                self._source,
                validation,
                fold_in,
                config.to_loss(),
                cutoff=config.validation_cutoff,
                gains=config.validation_gains,
                n_users=config.validation_users,
                seed=config.seed,
            )

    def open_checkpoints(self, location: str | Path | Folder | None, resume: Resume, overwrite: bool) -> bool:
        """Check the checkpoint folder; tell whether there is something to go on from."""
        if location is None:
            return False
        validation = None if self._validation is None else self._validation.fingerprint
        identity = RunIdentity(self._source.fingerprint, self._config.frozen_options(), validation)
        self._store = store = CheckpointStore(location, identity, self._config.keep_checkpoints)
        check_writable(store.folder)
        if resume is False:
            if overwrite:
                store.clear()
            store.refuse_existing()
            return False
        if store.sweeps():
            store.check_latest()
            return True
        if resume is True:
            raise DataError(
                f"{store.folder}: expected a checkpoint to resume from, found none; "
                "check the folder, or train without resuming"
            )
        return False

    def start(self, *, is_resumed: bool, initial: WarmStart | None) -> None:
        """Set up the solver from the newest checkpoint, another model's factors, or anew."""
        config = self._config
        self._initial = initial
        state = None if is_resumed else self._starting_state()
        self._solver = make_solver(self._source, config, self._executor, state=state, is_continued=initial is not None)
        if is_resumed:
            self._load_checkpoint()
        self._saved_at = time.perf_counter()

    def recover(self, reason: str) -> None:
        """Go back to the last committed checkpoint, or to the start, after factors were lost.

        Parameters
        ----------
        reason : str
            How they were lost.

        Raises
        ------
        BlockLostError
            If the same sweep was lost too often.
        """
        lost = self._solver.sweep
        self._n_recoveries = self._n_recoveries + 1 if lost <= self._recovered_sweep else 1
        self._recovered_sweep = max(self._recovered_sweep, lost)
        if self._n_recoveries > _MOST_RECOVERIES:
            self.has_given_up = True
            raise BlockLostError(
                f"sweep {lost} was lost {self._n_recoveries} times without coming further, the last time because "
                f"{reason}; look at the cluster, and go on with --resume auto"
            )
        self._history, self._best, self._last_reader = [], None, None
        self._solver.drop_factors()
        if self._store is not None and self._store.sweeps():
            self._load_checkpoint()
        else:
            self._solver.restore(self._starting_state())
        self._emit(RecoveryEvent(self._solver.sweep, lost, reason))

    def close(self) -> None:
        """Let the workers drop what they keep for this run."""
        if hasattr(self, "_solver"):
            self._solver.close()

    def _starting_state(self) -> FactorState | None:
        if self._initial is None:
            return None
        source, config = self._source, self._config
        return self._initial.starting_state(source.n_users, source.n_items, config.n_factors, config.seed)

    def _load_checkpoint(self) -> None:
        """Put factors, history and the best sweep back as the newest checkpoint has them."""
        assert self._store is not None
        solver = self._solver
        found = self._store.load_latest(self._executor, {side: solver.layout(side) for side in SIDES})
        assert found is not None
        expanded = [summary.sweep for summary in found.history if summary.step_length is not None]
        if expanded:  # where the start ended, whether the run began from another model or not
            solver.set_start(expanded[0] - 1)
        solver.restore(found.factors)
        self._history, self._best = list(found.history), found.best
        if self._config.patience is not None and found.best is not None and found.best.factors is None:
            self._best = None  # its factors were not kept, so it cannot be given back
            self._forgotten = self._sweep

    def watch_softmax(self) -> None:
        """Choose the softmax sample."""
        if self._config.softmax_users > 0:
            with self._timed("monitor"):
                self._softmax = SoftmaxMonitor(
                    self._source,
                    self._config.to_loss(),
                    self._solver.user_degrees,
                    self._solver.item_degrees,
                    n_users=self._config.softmax_users,
                    seed=self._config.seed,
                )

    def emit_start(self, setup_s: float) -> None:
        """Announce the run."""
        source = self._source
        self._emit(
            StartEvent(
                sweep=self._sweep,
                n_sweeps=self._config.n_sweeps,
                n_users=source.n_users,
                n_items=source.n_items,
                n_interactions=source.n_interactions,
                dataset=source.fingerprint,
                config=self._config.model_dump(mode="json"),
                setup_s=setup_s,
            )
        )

    def stop_reason(self) -> StopReason | None:
        """Tell why the run is over, or None; depends on the history only, so a finished run resumes as finished."""
        config, best = self._config, self._best
        if self._sweep >= config.n_sweeps:
            return "sweeps"
        if self._has_settled():
            return "tolerance"
        if config.patience is not None and best is not None and self._waited() >= config.patience:
            return "patience"
        return "interrupted" if self._should_stop() else None

    def _waited(self) -> int:
        """Count the sweeps since the best one.

        The first sweeps of rg-softmax prepare the ground and are not what patience is about: their NDCG may be above
        that of the first expanded ones, which are on their way up.
        """
        first = max(self._solver.n_start_sweeps, self._forgotten) + 1
        judged = [summary for summary in self._history if summary.ndcg is not None and summary.sweep >= first]
        best = max(judged, key=lambda summary: summary.ndcg or 0.0, default=None)
        return self._sweep - (first - 1 if best is None else best.sweep)

    def advance(self) -> None:
        """Run one sweep, watch it, and write a checkpoint when it is due."""
        self._solve()
        config = self._config
        is_last = self._sweep >= config.n_sweeps or self._has_settled()
        if is_last or self._sweep % config.validate_every == 0:
            self._measure_softmax()
            self._validate()
        is_due = config.checkpoint_every > 0 and self._sweep % config.checkpoint_every == 0
        if is_due or 0 < config.checkpoint_seconds <= time.perf_counter() - self._saved_at:
            self._save()

    def save_last(self, reason: StopReason) -> None:
        """Write the final state, so that it can be resumed: when interrupted, or to go on with more sweeps."""
        is_saved = self._saved is not None and self._saved[0] == self._sweep
        if self._store is not None and not is_saved and (reason == "interrupted" or self._config.checkpoint_every > 0):
            self._save()

    def finish(self, reason: StopReason, started: float) -> TrainResult:
        """Announce the end and give the result."""
        best = self._best
        kept = self._solver.blocks
        if self._config.patience is not None and best is not None and best.factors is not None:
            kept = best.factors
        result = TrainResult(
            factors=FactorReader(self._executor, kept),
            kept_sweep=kept.sweep,
            n_sweeps=self._sweep,
            history=tuple(self._history),
            best_sweep=None if best is None else best.sweep,
            best_ndcg=None if best is None else best.ndcg,
            stop_reason=reason,
            train_s=self._train_s,
            validate_s=self._seconds["validate"],
            monitor_s=self._seconds["monitor"],
            checkpoint_s=self._seconds["checkpoint"],
            total_s=time.perf_counter() - started,
            weight_scale=self._solver.weight_scale,
            user_degrees=self._solver.user_degrees,
            item_degrees=self._solver.item_degrees,
            checkpoint=None if self._saved is None else self._saved[1],
        )
        self._emit(
            StopEvent(
                sweep=result.n_sweeps,
                reason=reason,
                kept_sweep=kept.sweep,
                best_sweep=result.best_sweep,
                best_ndcg=result.best_ndcg,
                objective=self._history[-1].objective_after_items if self._history else float("nan"),
                train_s=result.train_s,
                validate_s=result.validate_s,
                monitor_s=result.monitor_s,
                checkpoint_s=result.checkpoint_s,
                total_s=result.total_s,
            )
        )
        return result

    @property
    def _sweep(self) -> int:
        return self._solver.sweep

    @property
    def _train_s(self) -> float:
        return sum(summary.seconds for summary in self._history)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - started

    def _has_settled(self) -> bool:
        """Tell whether the last sweep's fall of the objective is below the tolerance."""
        if not self._history or self._solver.is_starting:
            return False
        last = self._history[-1]
        if last.step_length == 0:
            return True
        if self._config.tolerance == 0 or last.sweep == self._solver.n_start_sweeps:
            return False
        scale = objective_scale(self._history)
        fall = relative_fall(last.objective_before, last.objective_after_items, scale)
        return fall < self._config.tolerance

    def _solve(self) -> None:
        """Run both half-steps and check that the objective fell."""
        self._last_reader = None
        started = time.perf_counter()
        record = self._solver.run_sweep()
        seconds = time.perf_counter() - started
        middle = record.objective_after_users
        scale = objective_scale(self._history, record.objective_before, middle, record.objective_after_items)
        steps: tuple[tuple[Side, float, float, float, StepLoad], ...] = (
            ("user", record.objective_before, middle, record.user_s, record.user_load),
            ("item", middle, record.objective_after_items, record.item_s, record.item_load),
        )
        n_interactions = self._source.n_interactions
        for side, before, after, side_s, load in steps:
            check_half_step(record.sweep, side, before, after, scale, self._config)
            self._emit(
                HalfStepEvent(
                    sweep=record.sweep,
                    side=side,
                    objective_before=before,
                    objective=after,
                    fall=relative_fall(before, after, scale),
                    seconds=side_s,
                    interactions_per_s=n_interactions / max(side_s, 1e-9),
                    n_workers=load.n_workers,
                    slowest_worker=load.slowest,
                    slowest_s=load.slowest_s,
                    mean_s=load.mean_s,
                )
            )
        expanded = record.expanded
        self._history.append(
            SweepSummary(
                record.sweep, record.objective_before, middle, record.objective, seconds,
                step_length=None if expanded is None else expanded.step_length,
            )
        )  # fmt: skip
        self._emit(
            SweepEvent(
                sweep=record.sweep,
                objective=record.objective,
                fall=relative_fall(record.objective_before, record.objective, scale),
                seconds=seconds,
                train_s=self._train_s,
                interactions_per_s=2 * n_interactions / max(seconds, 1e-9),
                step_length=None if expanded is None else expanded.step_length,
                pass_s=None if expanded is None else expanded.passed.seconds,
                scores_per_s=None
                if expanded is None
                else expanded.passed.n_scores / max(expanded.passed.seconds, 1e-9),
                objective_error=expanded.error if expanded is not None and self._config.pass_fraction < 1 else None,
            )
        )

    def _measure_softmax(self) -> None:
        if self._softmax is None:
            return
        started = time.perf_counter()
        with self._timed("monitor"):
            check = self._softmax.measure(self._reader(), self._executor.caller_threads)
        surrogate = self._softmax.surrogate(check)
        self._history[-1] = replace(self._history[-1], softmax=check.softmax)
        self._emit(
            SoftmaxEvent(
                sweep=self._sweep,
                softmax=check.softmax,
                surrogate=surrogate,
                surrogate_gap=surrogate - check.softmax,
                outside_fraction=check.outside_fraction,
                n_users=check.n_users,
                seconds=time.perf_counter() - started,
            )
        )

    def _validate(self) -> None:
        if self._validation is None:
            return
        started = time.perf_counter()
        solver = self._solver
        with self._timed("validate"):
            score = self._validation.measure(
                self._reader(), solver.item_degrees, solver.weight_scale, self._executor.caller_threads
            )
        is_best = self._best is None or score.ndcg > self._best.ndcg
        if is_best:
            # Blocks are immutable: to keep them is to hold on to their handles.
            factors = solver.blocks if self._config.patience is not None else None
            self._best = BestSweep(solver.sweep, score.ndcg, factors)
        self._history[-1] = replace(self._history[-1], ndcg=score.ndcg)
        seconds = time.perf_counter() - started
        self._emit(ValidationEvent(solver.sweep, self._validation.cutoff, score.ndcg, score.n_users, is_best, seconds))

    def _save(self) -> None:
        if self._store is None:
            return
        started = time.perf_counter()
        checkpoint = Checkpoint(self._solver.blocks, tuple(self._history), self._best)
        with self._timed("checkpoint"):
            folder = self._store.save(checkpoint, self._executor)
        self._saved_at = time.perf_counter()
        self._saved = (checkpoint.sweep, str(folder))
        self._emit(CheckpointEvent(checkpoint.sweep, str(folder), self._saved_at - started))

    def _reader(self) -> FactorReader:
        """Read the present factors; within a sweep, those of the items are read once."""
        if self._last_reader is None or self._last_reader.state.sweep != self._sweep:
            self._last_reader = self._solver.reader
        return self._last_reader
