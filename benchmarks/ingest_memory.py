"""Peak memory and time of an ingest of generated events; a child process is measured.

    python benchmarks/ingest_memory.py --events 50000000 --json ingest_memory.json

Events are generated once into a temporary folder (or ``--events-folder``, which is kept), a child
process ingests them with times, weights and a random split, and the parent prints one JSON object.
With ``--workers N`` the tasks run on N Ray workers of one CPU, whose peaks are measured too. Exit code 1
if any peak is at or above ``--limit-gib``.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rgals.data.ingest import IngestOptions, ingest
from rgals.data.splits import SplitRule
from rgals.data.synthesize import SynthesizeOptions, synthesize
from rgals.execution import ExecutorOptions, open_executor

EVENTS_PER_USER = 50
EVENTS_PER_ITEM = 250


def generate(folder: Path, n_events: int, id_type: str) -> None:
    """Write generated events as Parquet parts, unless the folder holds them already."""
    if folder.exists():
        return
    options = SynthesizeOptions(
        n_users=max(n_events // EVENTS_PER_USER, 1),
        n_items=max(n_events // EVENTS_PER_ITEM, 1_000),
        n_interactions=n_events,
        seed=7,
        id_type="int64" if id_type == "int64" else "string",
    )
    synthesize(folder, options)


def measure(events: Path, output: Path, n_workers: int) -> dict[str, object]:
    """Ingest, in this process or by workers, and give the seconds and the peak memory of each process."""
    options = IngestOptions(
        weight_column="rating",
        time_column="time",
        weight_from_rating="gain",
        split=SplitRule(kind="random", validation_fraction=0.1),
    )
    stages: dict[str, float] = {}
    executor = None
    if n_workers:
        executor = open_executor(
            ExecutorOptions("ray", workers=n_workers, worker_cpus=1, object_store_bytes=200_000_000)
        )
    started_s = time.perf_counter()

    def note(stage: str, _done: int, _total: int | None) -> None:
        stages[stage] = round(time.perf_counter() - started_s, 2)

    dataset = ingest([events], output, options, progress=note, runner=executor)
    elapsed_s = time.perf_counter() - started_s
    manifest = dataset.manifest
    peaks_bytes = [peak_rss_bytes()]
    if executor is not None:
        peaks_bytes += executor.on_each_worker(_worker_peak, None)
        executor.close()
    return {
        "peak_rss_gib": round(max(peaks_bytes) / 2**30, 3),
        "peak_rss_by_process_gib": [round(peak_bytes / 2**30, 3) for peak_bytes in peaks_bytes],
        "elapsed_s": round(elapsed_s, 2),
        "events_per_s": round(manifest.ledger.read / elapsed_s),
        "stage_ends_s": stages,
        "n_users": manifest.n_users,
        "n_items": manifest.n_items,
        "parts": {name: part.n_interactions for name, part in manifest.parts.items()},
        "fingerprint": manifest.fingerprint,
    }


def peak_rss_bytes() -> int:
    """Give the peak of this process alone; ``ru_maxrss`` of a child can be that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _worker_peak(_shared: None, _position: int, _context: object) -> int:
    return peak_rss_bytes()


def describe_machine() -> dict[str, object]:
    """Name the machine and the versions that made a number."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "processors": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in ("rgals", "numpy", "pyarrow", "numba")},
    }


def main() -> int:
    """Generate, measure in a child, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=50_000_000, help="number of events")
    parser.add_argument("--id-type", choices=["string", "int64"], default="string", help="type of the generated ids")
    parser.add_argument("--events-folder", type=Path, help="keep the generated events here, or reuse them")
    parser.add_argument("--limit-gib", type=float, default=4.0, help="fail at this peak")
    parser.add_argument("--workers", type=int, default=0, help="Ray workers; 0 runs everything in one process")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        events, output = arguments.child
        print(json.dumps(measure(events, output, arguments.workers)))
        return 0
    with tempfile.TemporaryDirectory(prefix="rgals-ingest-memory-") as temporary:
        events = arguments.events_folder or Path(temporary) / "events"
        generate(events, arguments.events, arguments.id_type)
        command = [sys.executable, __file__, "--workers", str(arguments.workers)]
        command += ["--child", str(events), str(Path(temporary) / "dataset")]
        child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result = {
        "benchmark": "ingest_memory",
        "command": " ".join(sys.argv),
        "n_events": arguments.events,
        "limit_gib": arguments.limit_gib,
        **json.loads(child.stdout),
        **describe_machine(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    return 0 if result["peak_rss_gib"] < arguments.limit_gib else 1


if __name__ == "__main__":
    sys.exit(main())
