"""From nothing to ranked lists at a large size: seconds and peak memory of each stage.

    python benchmarks/large_run.py --work FOLDER --json large_run.json
    python benchmarks/large_run.py --users 20000 --items 4000 --interactions 2000000 --work FOLDER

Generates interactions, ingests them, trains on a local Ray and ranks all items for some of the users. Every stage
is a command of its own; the memory of all its processes is watched, what they share counted once (the object store
of Ray among it). Stages that are done are kept in ``--work`` and not run again.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from machine import provenance
from process_memory import run_measured
from rich.console import Console
from rich.table import Table

from rgals.artifact.model import Model
from rgals.data.dataset import Dataset

RGALS = Path(sys.executable).with_name("rgals")
BATCH_USERS = 10_000


def stage_commands(args: argparse.Namespace) -> dict[str, list[str | Path]]:
    """Give the command of each stage, in order."""
    size = {"--users": args.users, "--items": args.items, "--interactions": args.interactions, "--seed": args.seed}
    execution = ["--executor", args.executor]
    if args.executor == "ray":
        execution += ["--workers", str(args.workers), "--worker-cpus", str(args.worker_cpus)]
    else:
        execution += ["--threads", str(args.workers * args.worker_cpus)]
    training = {"--n-factors": args.factors, "--n-sweeps": args.sweeps, "--loss": args.loss, "--softmax-users": 0}
    if args.recommend_users:
        lists = [sys.executable, __file__, "--child-recommend", args.work / "model", args.work / "lists.parquet"]
        lists += ["--recommend-users", str(args.recommend_users), "--k", str(args.k), "--work", args.work]
    else:
        lists = [RGALS, "recommend", args.work / "model", "--all", "--k", str(args.k), *args.recommend_options.split()]
        lists += ["--output", args.work / "lists.parquet", "--overwrite"]
    return {
        "synthesize": [
            RGALS, "synthesize", "--output", args.work / "events", *flags(size), "--no-time", "--no-rating",
            "--overwrite",
        ],
        "ingest": [
            RGALS, "ingest", args.work / "events", "--output", args.work / "dataset", "--overwrite",
            *args.ingest_options.split(),
        ],
        "train": [
            RGALS, "train", args.work / "dataset", "--output", args.work / "model", "--overwrite", *execution,
            *flags(training), *args.train_options.split(),
        ],
        "recommend": lists,
    }  # fmt: skip


def flags(options: dict[str, object]) -> list[str]:
    """Write options for a command line."""
    return [word for name, value in options.items() for word in (name, str(value))]


def recommend(model_folder: Path, output: Path, n_users: int, k: int) -> None:
    """Rank all items for users spread evenly over the rows; write user, rank, item and score."""
    model = Model.open(model_folder)
    step = max(1, model.n_users // n_users)
    ids = model.user_ids.values.take(pa.array(range(0, model.n_users, step))).to_pylist()[:n_users]
    writer = None
    for start in range(0, len(ids), BATCH_USERS):
        answers = model.recommend(ids[start : start + BATCH_USERS], k)
        rows = [
            (answer.user_id, rank, item, score)
            for answer in answers
            for rank, (item, score) in enumerate(zip(answer.items, answer.scores, strict=True), start=1)
        ]
        users, ranks, items, scores = zip(*rows, strict=True)
        columns = [pa.array(users), pa.array(ranks, pa.int32()), pa.array(items), pa.array(scores, pa.float32())]
        table = pa.Table.from_arrays(columns, names=["user_id", "rank", "item_id", "score"])
        writer = writer or pq.ParquetWriter(output, table.schema, compression="zstd")
        writer.write_table(table)
    if writer is not None:
        writer.close()


def describe_training(args: argparse.Namespace) -> dict[str, Any]:
    """Give the seconds of the sweeps, and what the model holds."""
    model = Model.open(args.work / "model")
    metrics = model.metrics
    sweeps = [float(sweep["seconds"]) for sweep in metrics["history"]]
    return {
        "sweeps_s": sweeps,
        "sweep_s": statistics.median(sweeps),
        "train_s": metrics["train_s"],
        "total_s": metrics["total_s"],
        "objective": metrics["objective"],
        "factor_sha256": model.factor_checksum,
    }


def describe_ingest(args: argparse.Namespace) -> dict[str, Any]:
    """Give the counts of the dataset."""
    dataset = Dataset.open(args.work / "dataset")
    return {
        "n_users": dataset.n_users,
        "n_items": dataset.n_items,
        "n_interactions": dataset.n_interactions,
        "fingerprint": dataset.fingerprint,
    }


def describe_lists(args: argparse.Namespace) -> dict[str, Any]:
    """Give the number of ranked items."""
    return {"n_rows": pq.read_metadata(args.work / "lists.parquet").num_rows}


DESCRIBE: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "ingest": describe_ingest,
    "train": describe_training,
    "recommend": describe_lists,
}


def run_stages(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Run the stages that are not done yet."""
    journal = args.work / "stages.json"
    done: dict[str, dict[str, Any]] = json.loads(journal.read_text()) if journal.exists() else {}
    is_new = False
    for name, command in stage_commands(args).items():
        words = [str(word) for word in command]
        # A stage that is run again, or is asked for with other options, has changed what comes after it.
        if not is_new and name in done and done[name]["command"] == words:
            continue
        is_new = True
        print(f"{name} ...", flush=True)
        run = run_measured(words, log=args.work / f"{name}.log", interval_s=args.interval)
        size = sum(file.stat().st_size for file in output_files(args.work, name))
        extra = DESCRIBE[name](args) if name in DESCRIBE else {}
        done[name] = {"command": words, "seconds": run.seconds, "output_bytes": size, **run.memory, **extra}
        journal.write_text(json.dumps(done, indent=2) + "\n")
        print(f"{name}: {run.seconds:.1f} s, peak {run.memory['peak_bytes'] / 2**30:.2f} GiB", flush=True)
    return {name: done[name] for name in stage_commands(args)}


def output_files(work: Path, stage: str) -> list[Path]:
    """Give the files that a stage has written."""
    names = {"synthesize": "events", "ingest": "dataset", "train": "model", "recommend": "lists.parquet"}
    place = work / names[stage]
    return [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]


def print_results(stages: dict[str, dict[str, Any]], args: argparse.Namespace) -> None:
    """Print a table, and the row for docs/benchmarks.md."""
    data, training = stages["ingest"], stages["train"]
    sweeps = " ".join(f"{seconds:.1f}" for seconds in training["sweeps_s"])
    where = f"{args.executor}, {args.workers} x {args.worker_cpus} processors"
    table = Table(
        title=f"{data['n_interactions']:,} interactions, {data['n_users']:,} users, {data['n_items']:,} items, "
        f"{args.factors} factors",
        caption=f"training: {where}; its sweeps took {sweeps} s; memory of all processes, shared memory once",
    )
    for title in ("stage", "seconds", "peak GiB", "of it shared", "output GiB"):
        table.add_column(title, justify="left" if title == "stage" else "right")
    for name, stage in stages.items():
        sizes = (stage["peak_bytes"], stage["at_peak_shared_bytes"], stage["output_bytes"])
        table.add_row(name, f"{stage['seconds']:.1f}", *(f"{size / 2**30:.2f}" for size in sizes))
    Console().print(table)
    cells = [f"{stage['seconds']:,.0f} s, {stage['peak_bytes'] / 2**30:.2f} GiB" for stage in stages.values()]
    cells.insert(3, f"{training['sweep_s']:.1f} s")
    print("| interactions | users x items | factors | synthesize | ingest | train | a sweep | recommend |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {data['n_interactions']:,} | {data['n_users']:,} x {data['n_items']:,} | {args.factors} | "
        + " | ".join(cells)
        + " |"
    )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data, model, lists and logs")
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--interactions", type=int, default=100_000_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--sweeps", type=int, default=5)
    parser.add_argument("--loss", default="rg2")
    parser.add_argument("--executor", choices=("ray", "in-process"), default="ray", help="where training runs")
    parser.add_argument("--workers", type=int, default=1, help="Ray workers")
    parser.add_argument("--worker-cpus", type=int, default=2, help="processors of each")
    parser.add_argument(
        "--recommend-users", type=int, default=100_000, help="users to rank for; 0: all, by rgals recommend"
    )
    parser.add_argument("--k", type=int, default=10, help="length of the lists")
    parser.add_argument("--ingest-options", default="", help="more options for rgals ingest, in one string")
    parser.add_argument("--train-options", default="", help="more options for rgals train, in one string")
    parser.add_argument("--recommend-options", default="", help="more options for rgals recommend, in one string")
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between two looks at the memory")
    parser.add_argument("--json", type=Path, help="where the numbers are written")
    parser.add_argument("--child-recommend", nargs=2, type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run what is missing, print, write."""
    args = parse_arguments()
    if args.child_recommend:
        recommend(*args.child_recommend, args.recommend_users, args.k)
        return
    args.work.mkdir(parents=True, exist_ok=True)
    stages = run_stages(args)
    print_results(stages, args)
    if args.json is not None:
        document = {"benchmark": "large_run", "stages": stages, "factors": args.factors, **provenance()}
        args.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
