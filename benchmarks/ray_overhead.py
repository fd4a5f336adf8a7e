"""What Ray costs on one machine: training seconds in this process against one and two Ray workers.

    python benchmarks/ray_overhead.py DATASET --factors 128 --sweeps 10 --repeats 3 --json ray_overhead.json

Each contender is the command ``rgals train``, with as many processors in all: one process with two threads,
one Ray worker with two, two Ray workers with one each. They take turns, so that a slow minute of the machine
hits all of them; medians are printed. *training* is the run as it reports it (reading, sweeps, the factors
gathered at its end), *command* is everything, the start of Ray and writing the model included. Exit code 1 if
the factors are not the same, bit for bit, or if the first Ray contender is slower than ``--limit`` allows.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from machine import provenance
from process_memory import run_measured
from rich.console import Console
from rich.table import Table

from rgals.artifact.model import Model
from rgals.data.dataset import Dataset

RGALS = Path(sys.executable).with_name("rgals")


def contenders(n_cpus: int) -> dict[str, list[str]]:
    """Give the options of execution of each contender."""
    ray = ["--executor", "ray", "--workers"]
    return {
        "in process": ["--threads", str(n_cpus)],
        f"Ray, 1 x {n_cpus}": [*ray, "1", "--worker-cpus", str(n_cpus)],
        f"Ray, {n_cpus} x 1": [*ray, str(n_cpus), "--worker-cpus", "1"],
    }


def run_once(options: list[str], args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Train once; give what the model says about its training and what was measured around it."""
    command = [
        RGALS, "train", args.dataset, "--output", folder, "--overwrite",
        "--n-factors", args.factors, "--n-sweeps", args.sweeps, "--loss", args.loss, "--seed", 0,
        "--softmax-users", 0, "--validate-every", args.sweeps, "--validation-users", 1,
        *args.train_options.split(), *options,
    ]  # fmt: skip
    run = run_measured(command, log=args.log, watch_memory=False)
    model = Model.open(folder)
    metrics = model.metrics
    sweeps = [float(sweep["seconds"]) for sweep in metrics["history"]]
    return {
        "sweep_s": statistics.median(sweeps),
        "train_s": float(metrics["train_s"]),
        "total_s": float(metrics["total_s"]),
        "command_s": run.seconds,
        "sweeps_s": sweeps,
        "factor_sha256": model.factor_checksum,
    }


def summarize(runs: list[dict[str, object]], first: dict[str, float] | None) -> dict[str, float]:
    """Give the medians of a contender, and their ratios to the first."""
    keys = ("sweep_s", "train_s", "total_s", "command_s")
    medians = {key: statistics.median(float(str(run[key])) for run in runs) for key in keys}
    if first is not None:
        medians |= {f"{key.removesuffix('_s')}_ratio": medians[key] / first[key] for key in keys}
    return medians


def print_table(summaries: dict[str, dict[str, float]], title: str) -> None:
    """Print medians and ratios."""
    table = Table(title=title)
    for name in ("", "sweep s", "solving s", "training s", "ratio", "command s", "ratio "):
        table.add_column(name, justify="left" if name == "" else "right", no_wrap=True)
    for name, values in summaries.items():
        table.add_row(
            name,
            f"{values['sweep_s']:.3f}",
            f"{values['train_s']:.2f}",
            f"{values['total_s']:.2f}",
            f"{values.get('total_ratio', 1):.3f}",
            f"{values['command_s']:.2f}",
            f"{values.get('command_ratio', 1):.3f}",
        )
    Console().print(table)


def main() -> int:
    """Take turns, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="local dataset folder")
    parser.add_argument("--factors", type=int, default=128)
    parser.add_argument("--sweeps", type=int, default=10)
    parser.add_argument("--loss", default="rg2")
    parser.add_argument("--train-options", default="", help="more options for rgals train, in one string")
    parser.add_argument("--cpus", type=int, default=2, help="processors of each contender, in all")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each contender")
    parser.add_argument("--limit", type=float, help="largest ratio of training seconds, one Ray worker to in process")
    parser.add_argument("--work", type=Path, help="folder for models and the log; a temporary one when left out")
    parser.add_argument("--json", type=Path, help="where the numbers are written")
    args = parser.parse_args()
    dataset = Dataset.open(args.dataset)
    work = args.work or Path(tempfile.mkdtemp(prefix="rgals-ray-overhead-"))
    work.mkdir(parents=True, exist_ok=True)
    args.log = work / "train.log"
    runs: dict[str, list[dict[str, object]]] = {name: [] for name in contenders(args.cpus)}
    # The first run compiles, if the kernels' cache is empty, and brings the files into memory.
    run_once(["--threads", str(args.cpus), "--n-sweeps", "1"], args, work / "model")
    for turn in range(args.repeats):
        for name, options in contenders(args.cpus).items():
            found = run_once(options, args, work / "model")
            runs[name].append(found)
            print(
                f"turn {turn + 1}, {name}: {found['total_s']:.2f} s training, {found['command_s']:.2f} s command",
                flush=True,
            )
    shutil.rmtree(work / "model", ignore_errors=True)
    first, *others = runs
    summaries = {first: summarize(runs[first], None)}
    summaries |= {name: summarize(runs[name], summaries[first]) for name in others}
    size = f"{dataset.n_users:,} users, {dataset.n_items:,} items, {dataset.n_interactions:,} interactions"
    print_table(summaries, f"{size}, {args.factors} factors, {args.sweeps} sweeps, medians of {args.repeats}")
    checksums = {str(run["factor_sha256"]) for many in runs.values() for run in many}
    print(f"factors: {'the same in all runs' if len(checksums) == 1 else 'NOT the same'} ({', '.join(checksums)})")
    ratio = summaries[others[0]]["total_ratio"]
    if args.json is not None:
        document = {"benchmark": "ray_overhead", "data": size, "medians": summaries, "runs": runs, **provenance()}
        args.json.write_text(json.dumps(document, indent=2, default=str) + "\n")
    return 0 if len(checksums) == 1 and (args.limit is None or ratio <= args.limit) else 1


if __name__ == "__main__":
    sys.exit(main())
