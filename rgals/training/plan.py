"""What a training run needs: memory, object store, disk, network and time, before it starts.

The terms are in `rgals.training.plan_terms`. Nothing here looks at a machine: `rgals.training.capacity`
compares a plan with one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from rgals.data.dataset import Dataset
from rgals.data.shards import InteractionSource
from rgals.training import plan_terms as terms
from rgals.training.config import TrainingConfig
from rgals.training.plan_input import PlanInput, ShardShape
from rgals.training.sweep_time import Calibration, RunTime, SweepTime

__all__ = ["Plan", "PlanInput", "PlanItem", "ShardShape", "kept_checkpoints", "make_plan", "plan_training"]

_SPARE = "spare"


@dataclass(frozen=True, slots=True)
class PlanItem:
    """One term of a sum.

    Parameters
    ----------
    name : str
        What it is.
    n_bytes : int
        How much.
    formula : str
        How it is computed, in words and symbols.
    """

    name: str
    n_bytes: int
    formula: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run needs, itemised.

    Parameters
    ----------
    asked : PlanInput
        What was planned.
    worker : tuple of PlanItem
        Memory of each worker's process. In process, of the one process.
    object_store : tuple of PlanItem
        Ray's object store of the fullest node; empty in process.
    driver : tuple of PlanItem
        Memory of the process that leads the run; empty in process, where the worker has it.
    disk : tuple of PlanItem
        Disk space that the run still takes.
    network_bytes : int
        What each node receives in a sweep.
    time : RunTime or None
        Seconds of the sweeps; None without a calibration.
    """

    asked: PlanInput
    worker: tuple[PlanItem, ...]
    object_store: tuple[PlanItem, ...]
    driver: tuple[PlanItem, ...]
    disk: tuple[PlanItem, ...]
    network_bytes: int
    time: RunTime | None

    @property
    def worker_bytes(self) -> int:
        """Memory of a worker's process."""
        return sum(item.n_bytes for item in self.worker)

    @property
    def object_store_bytes(self) -> int:
        """Object store of the fullest node."""
        return sum(item.n_bytes for item in self.object_store)

    @property
    def block_bytes(self) -> int:
        """Blocks that live in the object store of the fullest node at the same time, without the spare room."""
        return sum(item.n_bytes for item in self.object_store if item.name != _SPARE)

    @property
    def driver_bytes(self) -> int:
        """Memory of the process that leads the run."""
        return sum(item.n_bytes for item in self.driver)

    @property
    def disk_bytes(self) -> int:
        """Disk space."""
        return sum(item.n_bytes for item in self.disk)

    @property
    def node_bytes(self) -> int:
        """Memory of the processes on the fullest node: its workers, and the driver; without the object store."""
        return self.asked.workers_per_node * self.worker_bytes + self.driver_bytes


def make_plan(asked: PlanInput, calibration: Calibration | None = None, network_gbit: float = 10.0) -> Plan:
    """Compute what a run needs.

    Parameters
    ----------
    asked : PlanInput
        What is to be trained, and on what.
    calibration : Calibration or None
        Measured speed of the kernels; None leaves the seconds out.
    network_gbit : float
        Gigabits per second that a node can receive.
    """
    worker = _worker_items(asked)
    if asked.is_in_process:
        worker = [*worker, *_stored_items(asked), *_driver_items(asked)]
    return Plan(
        asked,
        tuple(worker),
        () if asked.is_in_process else tuple(_object_store_items(asked)),
        () if asked.is_in_process else (_base_item(), *_driver_items(asked)),
        tuple(_disk_items(asked)),
        terms.network_bytes(asked),
        None if calibration is None else _predict(asked, calibration, network_gbit),
    )


def plan_training(
    source: InteractionSource,
    config: TrainingConfig,
    *,
    n_workers: int,
    worker_cpus: int,
    n_nodes: int,
    is_in_process: bool = False,
) -> Plan:
    """Plan a run of `rgals.training.trainer.train`, with the shards that are there; seconds are left out.

    Parameters
    ----------
    source : InteractionSource
        Training interactions.
    config : TrainingConfig
        All options.
    n_workers, worker_cpus, n_nodes, is_in_process
        As in `PlanInput`.
    """
    loss = config.to_loss()
    if isinstance(source, Dataset):
        has_weights = source.manifest.parts["train"].has_weights
        dataset_bytes = source.n_bytes
    else:
        has_weights = source.load_shard("user", 0).weights is not None
        dataset_bytes = 0
    return make_plan(
        PlanInput(
            n_users=source.n_users,
            n_items=source.n_items,
            n_interactions=source.n_interactions,
            n_factors=config.n_factors,
            n_workers=n_workers,
            worker_cpus=worker_cpus,
            n_nodes=n_nodes,
            has_weights=has_weights or loss.has_degree_weights,
            keeps_best=config.patience is not None,
            keep_checkpoints=kept_checkpoints(config),
            n_sweeps=config.n_sweeps,
            user_shards=ShardShape.of(source.shard_ranges("user")),
            item_shards=ShardShape.of(source.shard_ranges("item")),
            dataset_bytes=dataset_bytes,
            n_hard=config.n_hard if loss.is_reexpanded else None,
            pass_fraction=config.pass_fraction,
            start_sweeps=config.start_sweeps if loss.is_reexpanded else 0,
            sampled_sweeps=config.sampled_sweeps,
            is_in_process=is_in_process,
        )
    )


def kept_checkpoints(config: TrainingConfig) -> int:
    """Give the checkpoints that a run keeps: none where only an interruption writes one."""
    return config.keep_checkpoints if config.checkpoint_every > 0 or config.checkpoint_seconds > 0 else 0


def _predict(asked: PlanInput, calibration: Calibration, network_gbit: float) -> RunTime:
    """Predict the seconds of each kind of sweep that the run has."""

    def sweep_time(kind: PlanInput) -> SweepTime:
        return SweepTime.estimate(
            calibration,
            n_users=kind.n_users,
            n_items=kind.n_items,
            n_entries=terms.n_entries(kind),
            n_factors=kind.n_factors,
            worker_cpus=kind.worker_cpus,
            user_share=terms.busiest_share(kind, "user"),
            item_share=terms.busiest_share(kind, "item"),
            hottest_row=terms.hottest_row(kind),
            network_bytes=terms.network_bytes(kind),
            network_gbit=network_gbit,
            n_scores=terms.n_scores(kind),
        )

    if asked.n_hard is None:
        return RunTime(asked.n_sweeps, sweep_time(asked))
    n_start = min(asked.start_sweeps, asked.n_sweeps)
    n_sampled = asked.n_sweeps - n_start
    if asked.sampled_sweeps is not None:
        n_sampled = min(n_sampled, asked.sampled_sweeps)
    is_sampled = asked.pass_fraction < 1 and n_sampled > 0
    return RunTime(
        asked.n_sweeps,
        sweep_time(replace(asked, pass_fraction=1.0)),
        n_start,
        sweep_time(replace(asked, n_hard=None)) if n_start else None,
        n_sampled if is_sampled else 0,
        sweep_time(asked) if is_sampled else None,
    )


def _item(name: str, n_bytes: int, formula: str | None) -> PlanItem:
    return PlanItem(name, n_bytes, (formula or "").partition("\n")[0].rstrip("."))


def _base_item() -> PlanItem:
    return _item("the process itself", terms.process_bytes(), terms.process_bytes.__doc__)


def _term(name: str, function: Callable[[PlanInput], int], asked: PlanInput) -> PlanItem:
    """Evaluate one term; its formula is its docstring."""
    return _item(name, function(asked), function.__doc__)


def _worker_items(asked: PlanInput) -> list[PlanItem]:
    return [
        _base_item(),
        _term("shards that it keeps", terms.resident_bytes, asked),
        _term("the fixed side", terms.fixed_side_bytes, asked),
        _term("blocks in work", terms.block_buffer_bytes, asked),
        _term("reading a shard", terms.decoding_bytes, asked),
        *_softmax_items(
            asked,
            ("the former users", terms.former_side_bytes),
            ("entries in work", terms.entries_in_work_bytes),
            ("tiles of scores", terms.tile_bytes),
        ),
    ]


def _softmax_items(asked: PlanInput, *named: tuple[str, Callable[[PlanInput], int]]) -> list[PlanItem]:
    """Give terms that only ``rg-softmax`` has."""
    return [] if asked.n_hard is None else [_term(name, function, asked) for name, function in named]


def _stored_items(asked: PlanInput) -> list[PlanItem]:
    new_side = terms.new_side_in_process_bytes if asked.is_in_process else terms.new_side_bytes
    return [
        _term("factors", terms.stored_factors_bytes, asked),
        _term("new factors", new_side, asked),
        _term("best sweep", terms.best_sweep_bytes, asked),
        *_softmax_items(asked, ("entries and slopes", terms.entries_bytes)),
    ]


def _object_store_items(asked: PlanInput) -> list[PlanItem]:
    items = [
        *_stored_items(asked),
        _term("numbers of each row", terms.stored_rows_bytes, asked),
        _term("blocks on their way", terms.window_bytes, asked),
    ]
    filled = sum(item.n_bytes for item in items)
    return [*items, _item(_SPARE, terms.spare_store_bytes(filled), terms.spare_store_bytes.__doc__)]


def _driver_items(asked: PlanInput) -> list[PlanItem]:
    items = [
        _term("numbers of each row", terms.row_bytes, asked),
        _term("item factors to watch", terms.watched_items_bytes, asked),
        _term("ids", terms.ids_bytes, asked),
    ]
    # In one process the model is written when the fixed side is gone, which is larger than what that needs.
    return items if asked.is_in_process else [*items, _term("writing the model", terms.model_writing_bytes, asked)]


def _disk_items(asked: PlanInput) -> list[PlanItem]:
    return [
        _term("dataset", terms.dataset_disk_bytes, asked),
        _term("checkpoints", terms.checkpoint_bytes, asked),
        _term("model", terms.model_disk_bytes, asked),
    ]
