"""``rgals plan``: what a training run needs, and whether it fits, before it starts."""

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from jobs.executor_options import AddressOption, ThreadsOption, WorkerCpusOption, WorkersOption, read_executor_options
from jobs.training_plan import count_workers, read_cluster_status
from rgals.data.dataset import Dataset
from rgals.errors import InputError, RgalsError
from rgals.execution.finding import readable_bytes
from rgals.execution.status import ClusterStatus
from rgals.numerics.loss import LossName
from rgals.numerics.threads import available_threads
from rgals.training.calibration import calibrate
from rgals.training.capacity import Limits, check_plan, find_shortages
from rgals.training.config import TrainingConfig
from rgals.training.plan import Plan, PlanInput, PlanItem, kept_checkpoints, make_plan, plan_training
from rgals.training.sweep_time import Calibration

__all__ = ["main", "plan"]

_DEFAULTS = TrainingConfig()
_SIZES = "Sizes, without a dataset"
_LIMITS = "Limits"
_TRAINING = "Training"


def plan(
    dataset: Annotated[
        str | None, typer.Argument(metavar="[DATASET]", help="Dataset folder: a local path or a URI such as s3://...")
    ] = None,
    *,
    users: Annotated[
        str | None, typer.Option(metavar="COUNT", help="Users, as 200000, 2e5 or 200_000.", rich_help_panel=_SIZES)
    ] = None,
    items: Annotated[str | None, typer.Option(metavar="COUNT", help="Items.", rich_help_panel=_SIZES)] = None,
    interactions: Annotated[
        str | None, typer.Option(metavar="COUNT", help="Training interactions.", rich_help_panel=_SIZES)
    ] = None,
    has_weights: Annotated[
        bool, typer.Option("--weights", help="Interactions have weights.", rich_help_panel=_SIZES)
    ] = False,
    n_factors: Annotated[
        int,
        typer.Option("--factors", "--n-factors", help="Length of a row's factors.", rich_help_panel=_TRAINING),
    ] = _DEFAULTS.n_factors,
    loss: Annotated[
        LossName, typer.Option(help="As in training: rg-softmax needs more.", rich_help_panel=_TRAINING)
    ] = _DEFAULTS.loss,
    n_hard: Annotated[
        int, typer.Option("--n-hard", help="As in training, for rg-softmax.", rich_help_panel=_TRAINING)
    ] = _DEFAULTS.n_hard,
    pass_fraction: Annotated[
        float, typer.Option("--pass-fraction", help="As in training, for rg-softmax.", rich_help_panel=_TRAINING)
    ] = _DEFAULTS.pass_fraction,
    start_sweeps: Annotated[
        int, typer.Option("--start-sweeps", help="As in training, for rg-softmax.", rich_help_panel=_TRAINING)
    ] = _DEFAULTS.start_sweeps,
    sampled_sweeps: Annotated[
        int | None,
        typer.Option(help="As in training, for rg-softmax.", show_default="all", rich_help_panel=_TRAINING),
    ] = None,
    n_sweeps: Annotated[
        int, typer.Option("--sweeps", "--n-sweeps", help="Sweeps.", rich_help_panel=_TRAINING)
    ] = _DEFAULTS.n_sweeps,
    patience: Annotated[
        int | None,
        typer.Option(help="As in training: keeps the best sweep.", show_default="none", rich_help_panel=_TRAINING),
    ] = None,
    checkpoint_every: Annotated[
        int, typer.Option(help="Sweeps between two checkpoints.", rich_help_panel=_TRAINING)
    ] = _DEFAULTS.checkpoint_every,
    checkpoint_seconds: Annotated[
        float, typer.Option(help="Seconds of work between two checkpoints.", rich_help_panel=_TRAINING)
    ] = _DEFAULTS.checkpoint_seconds,
    keep_checkpoints: Annotated[
        int, typer.Option(help="Checkpoints that are kept.", rich_help_panel=_TRAINING)
    ] = _DEFAULTS.keep_checkpoints,
    hottest_row: Annotated[
        str | None,
        typer.Option(
            metavar="COUNT",
            help="Interactions of the most popular item.",
            show_default="a tenth of the users",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            metavar="in-process|ray",
            help="Where tasks run.",
            show_default="ray with --workers, --nodes or --address",
            rich_help_panel="Execution",
        ),
    ] = None,
    threads: ThreadsOption = None,
    address: AddressOption = None,
    workers: WorkersOption = None,
    worker_cpus: WorkerCpusOption = None,
    nodes: Annotated[
        int | None,
        typer.Option(
            help="Machines of a cluster that is only thought of.", show_default="1", rich_help_panel="Execution"
        ),
    ] = None,
    memory_gb: Annotated[
        float | None,
        typer.Option(
            help="Memory of each node, in 10^9 bytes.",
            show_default="what this machine or the cluster has",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    object_store_gb: Annotated[
        float | None,
        typer.Option(help="Part of it that is Ray's object store.", show_default="as needed", rich_help_panel=_LIMITS),
    ] = None,
    disk_gb: Annotated[
        float | None,
        typer.Option(help="Free disk space.", show_default="of the present folder", rich_help_panel=_LIMITS),
    ] = None,
    network_gbit: Annotated[
        float, typer.Option(help="Gigabits per second that a node receives.", rich_help_panel=_LIMITS)
    ] = 10.0,
    is_calibrated: Annotated[
        bool,
        typer.Option("--calibration/--no-calibration", help="Measure the kernels here to predict seconds."),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Predict memory, object store, disk, network and seconds of a training run.

    Takes a dataset, or --users, --items and --interactions. The exit code is 1 if the run does not fit,
    with the nearest settings that do.
    """
    kind = executor or ("in-process" if workers is None and nodes is None and address is None else "ray")
    options = read_executor_options(kind, threads, address, workers, worker_cpus)
    status = read_cluster_status(options.address) if options.address is not None else None
    n_nodes, n_workers, n_cpus = count_workers(options.kind, threads, workers, worker_cpus, nodes, status)
    limits = _read_limits(status, n_nodes, memory_gb, object_store_gb, disk_gb)
    config = TrainingConfig(
        loss=loss,
        n_hard=n_hard,
        pass_fraction=pass_fraction,
        start_sweeps=start_sweeps,
        sampled_sweeps=sampled_sweeps,
        n_factors=n_factors,
        n_sweeps=n_sweeps,
        patience=patience,
        checkpoint_every=checkpoint_every,
        checkpoint_seconds=checkpoint_seconds,
        keep_checkpoints=keep_checkpoints,
    )
    counts = {"--users": users, "--items": items, "--interactions": interactions}
    planned = _plan_sizes(dataset, counts, config, n_workers, n_cpus, n_nodes, kind == "in-process")
    asked = replace(
        planned.asked,
        has_weights=planned.asked.has_weights or has_weights,
        hottest_row=None if hottest_row is None else _parse_count("--hottest-row", hottest_row),
    )
    found = make_plan(asked, _calibrate(asked) if is_calibrated else None, network_gbit)
    if as_json:
        typer.echo(json.dumps(_as_document(found, limits), indent=2))
    else:
        _print(found, limits)
    check_plan(found, limits)


def main() -> None:
    """Run the command on its own, as ``python -m jobs.plan``; a known error gives exit code 1."""
    try:
        typer.run(plan)
    except RgalsError as error:
        print(f"rgals: error: {error}", file=sys.stderr)
        sys.exit(1)


def _parse_count(option: str, text: str) -> int:
    """Read a whole number such as 200000, 200_000 or 2e5."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 1 and value == int(value)):
        raise InputError(f"{option}: expected a whole number of at least 1, as 200000, 2e5 or 200_000, found {text!r}")
    return int(value)


def _plan_sizes(
    dataset: str | None,
    counts: dict[str, str | None],
    config: TrainingConfig,
    n_workers: int,
    worker_cpus: int,
    n_nodes: int,
    is_in_process: bool,
) -> Plan:
    """Plan with the sizes of a dataset, or with those on the command line."""
    given = {name: text for name, text in counts.items() if text is not None}
    if dataset is not None:
        if given:
            raise InputError(f"{', '.join(given)}: the dataset {dataset} has sizes of its own; leave one of them out")
        return plan_training(
            Dataset.open(dataset),
            config,
            n_workers=n_workers,
            worker_cpus=worker_cpus,
            n_nodes=n_nodes,
            is_in_process=is_in_process,
        )
    if missing := [name for name in counts if name not in given]:
        raise InputError(f"expected a dataset, or {', '.join(counts)}; missing: {', '.join(missing)}")
    n_users, n_items, n_interactions = (_parse_count(name, text) for name, text in given.items())
    return make_plan(
        PlanInput(
            n_users,
            n_items,
            n_interactions,
            config.n_factors,
            n_workers=n_workers,
            worker_cpus=worker_cpus,
            n_nodes=n_nodes,
            keeps_best=config.patience is not None,
            keep_checkpoints=kept_checkpoints(config),
            n_sweeps=config.n_sweeps,
            n_hard=config.n_hard if config.loss == "rg-softmax" else None,
            pass_fraction=config.pass_fraction,
            start_sweeps=config.start_sweeps if config.loss == "rg-softmax" else 0,
            sampled_sweeps=config.sampled_sweeps,
            is_in_process=is_in_process,
        )
    )


def _read_limits(
    status: ClusterStatus | None,
    n_nodes: int,
    memory_gb: float | None,
    object_store_gb: float | None,
    disk_gb: float | None,
) -> Limits:
    """Take limits from the cluster, this machine, and the options, which go before both."""
    here = Path.cwd()
    if status is not None:
        limits = Limits.of_cluster(status, here)
    elif n_nodes > 1 or memory_gb is not None:
        # Other machines than this one.
        limits = Limits("the nodes that were asked for")
    else:
        limits = Limits.of_this_machine(here)
    options = {"--memory-gb": memory_gb, "--object-store-gb": object_store_gb, "--disk-gb": disk_gb}
    for name, value in options.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"{name}: expected a positive number of gigabytes, found {value}")
    memory, store, disk = (None if value is None else int(value * 1e9) for value in options.values())
    if memory is not None:
        if store is not None and store >= memory:
            raise InputError(
                f"--object-store-gb: expected less than --memory-gb {memory_gb}, found {object_store_gb}; "
                "the object store is part of the memory"
            )
        limits = replace(limits, memory_bytes=memory - (store or 0), object_store_bytes=store)
    elif store is not None:
        limits = replace(limits, object_store_bytes=store)
    return limits if disk is None else replace(limits, disk_bytes=disk)


def _calibrate(asked: PlanInput) -> Calibration:
    threads = sorted({1, min(asked.worker_cpus, available_threads())})
    sizes = asked.n_users, asked.n_items, asked.n_interactions, asked.n_factors
    return calibrate(*sizes, n_hard=asked.n_hard, n_threads=threads)


def _as_document(found: Plan, limits: Limits) -> dict[str, Any]:
    parts = {name: getattr(found, name) for name in ("worker", "object_store", "driver", "disk")}
    time = found.time
    return {
        "asked": asdict(found.asked),
        **{name: [asdict(item) for item in items] for name, items in parts.items()},
        "worker_bytes": found.worker_bytes,
        "object_store_bytes": found.object_store_bytes,
        "driver_bytes": found.driver_bytes,
        "node_bytes": found.node_bytes,
        "disk_bytes": found.disk_bytes,
        "network_bytes_per_sweep": found.network_bytes,
        "sweep_s": None if time is None else {**asdict(time.last), "total_s": time.last.total_s},
        "run_s": None if time is None else time.total_s,
        "limits": asdict(limits),
        "shortages": [asdict(shortage) for shortage in find_shortages(found, limits)],
    }


def _print(found: Plan, limits: Limits) -> None:
    console, asked = Console(), found.asked
    where = (
        f"in this process, {asked.worker_cpus} threads"
        if asked.is_in_process
        else f"{asked.n_workers} Ray workers with {asked.worker_cpus} CPUs each on {asked.n_nodes} nodes"
    )
    lines = (
        f"{asked.n_users:,} users, {asked.n_items:,} items, {asked.n_interactions:,} interactions"
        f"{' with weights' if asked.has_weights else ''}, {asked.n_factors} factors",
        where,
    )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("formula, bytes")
    process = "memory of the process" if asked.is_in_process else "memory of each worker"
    _add_part(table, process, found.worker, found.worker_bytes)
    _add_part(table, "object store of a node", found.object_store, found.object_store_bytes)
    _add_part(table, "memory of the driver", found.driver, found.driver_bytes)
    _add_part(table, "disk", found.disk, found.disk_bytes)
    if asked.n_nodes > 1:
        table.add_row("network, each node, each sweep", readable_bytes(found.network_bytes), "(U + I) d 4 (1 - 1/N)")
    console.print(table)
    console.print("U users, I items, n interactions, d factors, W workers, N nodes; docs/scaling.md explains the terms")
    _print_time(console, found)
    _print_verdict(console, found, limits)


def _add_part(table: Table, title: str, items: tuple[PlanItem, ...], total: int) -> None:
    """Add a total, its terms below it, and a line."""
    if not items:
        return
    table.add_row(title, readable_bytes(total), "", style="bold")
    for item in items:
        if item.n_bytes:
            table.add_row(f"  {item.name}", readable_bytes(item.n_bytes), item.formula.partition(":")[0])
    table.add_section()


def _print_time(console: Console, found: Plan) -> None:
    run = found.time
    if run is None:
        return
    time, kinds = run.last, ""
    name = "an expanded sweep" if time.pass_s else "a sweep"
    passes = f", passes over all scores {_readable_s(time.pass_s)}" if time.pass_s else ""
    if run.start is not None and run.start is not time:
        kinds += f", {run.n_start} of them of the start, {_readable_s(run.start.total_s)} each"
    if run.sampled is not None and run.sampled is not time:
        kinds += f", {run.n_sampled} with sampled passes, {_readable_s(run.sampled.total_s)} each"
    console.print(
        f"{name}: {_readable_s(time.total_s)} (solving {_readable_s(time.solve_s)}, rotating "
        f"{_readable_s(time.rotate_s)}, network {_readable_s(time.network_s)}{passes}), "
        f"{run.n_sweeps} sweeps{kinds}: {_readable_s(run.total_s)}; by the speed of this machine now",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if time.hottest_row_s > time.solve_s / 2:
        console.print(
            f"the most popular item alone takes {_readable_s(time.hottest_row_s)} of it: more workers will not help",
            highlight=False,
            soft_wrap=True,
        )


def _print_verdict(console: Console, found: Plan, limits: Limits) -> None:
    known = {
        "memory": limits.memory_bytes,
        "object store": limits.object_store_bytes,
        "shared memory": limits.shared_memory_bytes,
        "disk": limits.disk_bytes,
    }
    text = ", ".join(f"{name} {readable_bytes(size)}" for name, size in known.items() if size is not None)
    if not text:
        verdict = "not compared with any limit: give --memory-gb and --disk-gb of a node"
    elif find_shortages(found, limits):
        verdict = f"does not fit on {limits.where} ({text})"
    else:
        verdict = f"fits on {limits.where} ({text})"
    console.print(verdict, markup=False, highlight=False, soft_wrap=True)


def _readable_s(seconds: float) -> str:
    """Write a duration with two or three digits."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 9.95 else f"{seconds:.2g} s"


if __name__ == "__main__":
    main()
