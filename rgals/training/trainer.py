"""The training run: sweeps of the solver, watched, checkpointed, and stopped in time."""

import time
from collections.abc import Callable
from pathlib import Path

from rgals.data.shards import InteractionSource
from rgals.data.storage import Folder
from rgals.errors import BlockLostError, InputError
from rgals.execution import Executor
from rgals.numerics.sparse import InteractionRows
from rgals.training.config import TrainingConfig
from rgals.training.events import Listener
from rgals.training.result import TrainResult
from rgals.training.run import Resume, TrainingRun
from rgals.training.warm_start import WarmStart

__all__ = ["Resume", "TrainResult", "train"]


def train(
    source: InteractionSource,
    config: TrainingConfig,
    *,
    executor: Executor,
    validation: InteractionRows | None = None,
    validation_fold_in: InteractionRows | None = None,
    initial: WarmStart | None = None,
    checkpoints: str | Path | Folder | None = None,
    resume: Resume = False,
    overwrite_checkpoints: bool = False,
    on_event: Listener | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainResult:
    """Train user and item factors by sweeps of alternating least squares.

    Parameters
    ----------
    source : InteractionSource
        Training interactions.
    config : TrainingConfig
        All options.
    executor : Executor
        Who solves the shards. Its threads also rank and monitor.
    validation : InteractionRows of shape (n_users, n_items) or None
        Held-out interactions; None trains without validation.
    validation_fold_in : InteractionRows of shape (n_users, n_items) or None
        Under the held-out-users split, what the validation users are folded in from.
    initial : WarmStart or None
        Factors to start from; a resumed run starts from its checkpoint instead.
    checkpoints : str, Path, Folder or None
        Where checkpoints go, seen by all workers. One is written each ``config.checkpoint_every`` sweeps,
        after ``config.checkpoint_seconds`` of work, and when ``should_stop`` ends the run.
    resume : bool or "auto"
        True goes on from the newest checkpoint, and it is an error if there is none; ``"auto"`` goes on
        if there is one; False refuses a folder with checkpoints.
    overwrite_checkpoints : bool
        Without ``resume``, removes checkpoints that are there.
    on_event : callable or None
        Called with each event, in order.
    should_stop : callable or None
        Asked between sweeps; True ends the run with a checkpoint and the reason ``"interrupted"``.

    Returns
    -------
    TrainResult
        The factors of the best validated sweep with ``config.patience``, otherwise of the last.

    Raises
    ------
    InputError
        If options and data do not fit: ``patience`` without validation, checkpoints without a place.
    OutputExistsError
        If the checkpoint folder holds checkpoints of an earlier run.
    StaleCheckpointError
        If the checkpoint belongs to another dataset or configuration.
    NumericalError
        If a row has no finite solution or the objective rises.
    DataError
        If a place cannot be written to, or there is nothing to resume from.
    WorkerLostError
        If workers were lost and nobody can take their place; committed checkpoints stay.
    BlockLostError
        If factors were lost with a machine again and again.

    Notes
    -----
    A resumed run gives the same factors, bit for bit, as one that was never interrupted, and so does one
    that lost workers. One that lost factors goes back to its last checkpoint, or to the start, by itself.
    """
    started = time.perf_counter()
    _check_fit(config, validation, checkpoints, resume)
    run = TrainingRun(source, config, executor, on_event, should_stop)
    run.watch_validation(validation, validation_fold_in)
    is_resumed = run.open_checkpoints(checkpoints, resume, overwrite_checkpoints)
    try:
        run.start(is_resumed=is_resumed, initial=initial)
        run.watch_softmax()
        run.emit_start(time.perf_counter() - started)
        lost: str | None = None
        while True:
            try:
                if lost is not None:
                    run.recover(lost)
                    lost = None
                while (reason := run.stop_reason()) is None:
                    run.advance()
                run.save_last(reason)
                return run.finish(reason, started)
            except BlockLostError as error:
                if run.has_given_up:
                    raise
                # Only its words: the traceback would hold on to blocks while others are loaded.
                lost = str(error)
    finally:
        run.close()


def _check_fit(
    config: TrainingConfig,
    validation: InteractionRows | None,
    checkpoints: str | Path | Folder | None,
    resume: Resume,
) -> None:
    if config.patience is not None and validation is None:
        raise InputError(
            f"patience: expected a validation part to stop by, found patience {config.patience} without one; "
            "split the dataset with a validation part, or leave patience out"
        )
    if checkpoints is None and (config.checkpoint_every > 0 or resume is not False):
        raise InputError(
            f"checkpoints: expected a folder with checkpoint_every {config.checkpoint_every} and resume {resume}, "
            "found none; name the checkpoint folder"
        )
