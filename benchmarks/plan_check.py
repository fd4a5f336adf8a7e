"""Peak memory of training, measured, beside what ``rgals plan`` says.

    python benchmarks/plan_check.py --interactions 2000000 --users 200000 --items 50000 --factors 64

Generates and ingests events once (``--folder`` keeps them), trains in this process's child with each
executor, and watches all its processes: anonymous and file pages of driver and workers, and the pages
of Ray's object store. Exit code 1 if a measured number is above the planned one.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from machine import provenance
from rich.console import Console
from rich.table import Table

from rgals.data.dataset import Dataset
from rgals.data.ingest import IngestOptions, ingest
from rgals.data.splits import SplitRule
from rgals.data.synthesize import SynthesizeOptions, synthesize
from rgals.training.config import TrainingConfig
from rgals.training.plan import Plan, plan_training

SAMPLE_S = 0.05


@dataclass
class Peaks:
    """Largest sizes seen, in bytes."""

    driver: int = 0
    worker: int = 0
    store: int = 0
    objective: str = ""
    workers: dict[int, int] = field(default_factory=dict)


def own_pages(process_id: int) -> int:
    """Give the anonymous and file pages of a process: without the object store, which is shared memory."""
    fields = {}
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = value.split()
    return sum(int(fields[name][0]) * 1024 for name in ("RssAnon", "RssFile") if name in fields)


def store_pages(process_id: int) -> int:
    """Give the pages of the object store that were ever used: of a deleted file that the raylet keeps open."""
    total = 0
    for link in Path(f"/proc/{process_id}/fd").iterdir():
        target = str(link.readlink())
        if "plasma" in target and target.startswith("/dev/shm"):
            total += link.stat().st_blocks * 512
    return total


def watch(command: list[str]) -> Peaks:
    """Run a command and sample all its processes until it ends."""
    peaks = Peaks()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    root = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            peaks.driver = max(peaks.driver, own_pages(child.pid))
            for process in root.children(recursive=True):
                look_at(process, peaks)
        except (psutil.Error, OSError):
            pass
        time.sleep(SAMPLE_S)
    output = child.stdout.read() if child.stdout else ""
    if child.returncode:
        sys.exit(f"{' '.join(command)} failed with exit code {child.returncode}\n{output}")
    peaks.objective = next((line for line in output.splitlines() if "Factors" in line), "")
    peaks.worker = max(peaks.workers.values(), default=0)
    return peaks


def look_at(process: psutil.Process, peaks: Peaks) -> None:
    """Take the sizes of one process of Ray into account."""
    try:
        title = " ".join(process.cmdline()[:1])
        if "raylet" in title:
            peaks.store = max(peaks.store, store_pages(process.pid))
        elif title.startswith("ray::") and "IDLE" not in title:
            peaks.workers[process.pid] = max(peaks.workers.get(process.pid, 0), own_pages(process.pid))
    except (psutil.Error, OSError):
        return


def prepare(folder: Path, args: argparse.Namespace) -> Path:
    """Generate and ingest, unless it was done."""
    dataset = folder / "dataset"
    if not dataset.exists():
        options = SynthesizeOptions(
            n_users=args.users, n_items=args.items, n_interactions=args.interactions, id_type=args.id_type, seed=7
        )
        synthesize(folder / "events", options)
        rule = SplitRule(kind="random", validation_fraction=0.05)
        ingest([folder / "events"], dataset, IngestOptions(split=rule))
    return dataset


def plan_for(dataset: Path, config: TrainingConfig, n_workers: int) -> Plan:
    """Plan one run; 0 workers stand for the in-process executor."""
    return plan_training(
        Dataset.open(dataset),
        config,
        n_workers=max(1, n_workers),
        worker_cpus=1,
        n_nodes=1,
        is_in_process=n_workers == 0,
    )


def main() -> int:
    """Run all executors and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--interactions", type=int, default=2_000_000)
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--sweeps", type=int, default=3)
    parser.add_argument("--patience", type=int, help="keep the best sweep too")
    parser.add_argument("--user-exponent", type=float, default=0.0, help="another value makes weights from degrees")
    parser.add_argument("--id-type", choices=["string", "int64"], default="string")
    parser.add_argument("--workers", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2],
                        help="numbers of Ray workers; 0 is the in-process executor")  # fmt: skip
    parser.add_argument("--folder", type=Path, help="keep events and dataset here, or reuse them")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    args = parser.parse_args()
    options = {"n_factors": args.factors, "n_sweeps": args.sweeps, "checkpoint_every": 1}
    options["user_exponent"] = args.user_exponent
    if args.patience is not None:
        options["patience"] = args.patience
    config = TrainingConfig.from_options(options)
    with tempfile.TemporaryDirectory(prefix="rgals-plan-check-") as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        dataset = prepare(folder, args)
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        rows = []
        for n_workers in args.workers:
            plan = plan_for(dataset, config, n_workers)
            command = [sys.executable, "-m", "jobs.train", str(dataset), "--output", f"{temporary}/model-{n_workers}"]
            if n_workers:
                command += ["--executor", "ray", "--workers", str(n_workers), "--worker-cpus", "1"]
            else:
                command += ["--threads", "2"]
            peaks = watch([*command, *words])
            planned = [("driver", plan.driver_bytes), ("worker", plan.worker_bytes), ("store", plan.block_bytes)]
            if not n_workers:
                planned, peaks.worker = [("worker", plan.worker_bytes)], peaks.driver
            rows += [
                {"workers": n_workers, "part": part, "measured": getattr(peaks, part), "planned": size,
                 "ratio": size / max(1, getattr(peaks, part)), "factors": peaks.objective}
                for part, size in planned
            ]  # fmt: skip
    table = Table("workers", "part", "measured MB", "planned MB", "planned / measured", title="Peak memory of training")
    for row in rows:
        where = str(row["workers"]) if row["workers"] else "in process"
        sizes = [f"{row[name] / 1e6:,.0f}" for name in ("measured", "planned")]
        table.add_row(where, "process" if not row["workers"] else row["part"], *sizes, f"{row['ratio']:.2f}")
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, **provenance()}, indent=2) + "\n")
    return 1 if any(row["ratio"] < 1 for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
