"""The REST service under load on loopback, with the load generator on the same processors.

    python benchmarks/service.py single --model MODEL --json single.json
    python benchmarks/service.py batch --model MODEL --json batch.json
    python benchmarks/service.py swap --model MODEL --json swap.json
    python benchmarks/service.py soak --model MODEL --rate 300 --minutes 10 --json soak.json
    python benchmarks/service.py large --registry REGISTRY --rate 10 --json large.json

``single``: latency of single users' requests at 200 a second, and the highest rate at which 99 % are answered within
50 ms, with and without gathering, in turns. ``batch``: users per second of the batch endpoint beside implicit's
``recommend`` in this process on the same factors, in turns. ``swap``: a minute of load while the model is swapped every
five seconds, one of the models damaged. ``soak``: memory and open files over time. ``large``: seconds until a large
model is served, and single requests with its index and without. Everything is bounded and local.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from implicit.cpu.als import AlternatingLeastSquares
from load_generator import LoadResult, get_request, post_request, run_closed, run_open
from machine import provenance
from rich.console import Console
from rich.table import Table
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from rgals.artifact.model import Model
from rgals.artifact.model_writer import write_model
from rgals.artifact.registry import publish, read_current, rollback
from rgals.artifact.registry_index import read_index_record
from rgals.artifact.registry_records import Estimate, Judgement

_LONGEST_MS = 50.0


class Running(NamedTuple):
    """A service that is ready."""

    port: int
    pid: int
    ready_s: float


@contextmanager
def serving(*arguments: str, **variables: object) -> Iterator[Running]:
    """Run ``rgals serve`` on a free port."""
    settings = {f"RGALS_SERVICE_{name.upper()}": str(value) for name, value in variables.items()}
    command = [sys.executable, "-m", "jobs.cli", "serve", "--port", "0", *arguments]
    environment = {**os.environ, **settings, "RGALS_SERVICE_LOG_LEVEL": "info"}
    started_s = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            port = _wait_for_port(process, log)
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz") as answer:
                        if answer.status == 200:
                            break
                except OSError:
                    time.sleep(0.01)
            yield Running(port, process.pid, time.perf_counter() - started_s)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait_for_port(process: "subprocess.Popen[bytes]", log: Any) -> int:
    while process.poll() is None:
        log.seek(0)
        found = re.search(r"running on http://127.0.0.1:([0-9]+)", log.read())
        if found:
            return int(found[1])
        time.sleep(0.05)
    log.seek(0)
    raise RuntimeError(log.read())


def requests_for(model: Model, n_requests: int, k: int) -> list[bytes]:
    """Write requests for users drawn at random."""
    rows = np.random.default_rng(0).integers(0, model.n_users, n_requests)
    return [get_request(f"/v1/users/{user}/recommendations?k={k}") for user in model.user_ids.ids_of(rows)]


def load(port: int, requests: list[bytes], rate: float, seconds: float, **options: Any) -> LoadResult:
    """Send requests at a rate for some seconds."""
    return asyncio.run(run_open(port, requests, rate, seconds, **options))


def highest_rate(port: int, requests: list[bytes], seconds: float) -> tuple[float, LoadResult | None]:
    """Find the highest rate at which 99 % of the answers come within 50 ms and all come."""
    held, result, low, high = 0.0, None, 100.0, 6400.0
    rate = 400.0
    while high - low > 0.05 * low:
        found = load(port, requests, rate, seconds)
        is_held = found.quantile_ms(0.99) < _LONGEST_MS and not found.problems and set(found.statuses) == {200}
        if is_held:
            held, result, low = rate, found, rate
        else:
            high = rate
        rate = min(2 * low, (low + high) / 2) if high > 2 * low else (low + high) / 2
    return held, result


def measure_single(args: argparse.Namespace) -> dict[str, Any]:
    """Measure single users' requests with and without gathering, in turns."""
    model = Model.open(args.model)
    requests = requests_for(model, 20_000, args.k)
    gathering: dict[str, dict[str, object]] = {"gathered": {}, "alone": {"max_gathered": 1}}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in gathering}
    for _ in range(args.rounds):
        for name, variables in gathering.items():
            with serving("--model", str(args.model), **variables) as (port, _, _):
                load(port, requests, 50, 2)
                at_200 = load(port, requests, 200, args.seconds)
                rate, at_highest = highest_rate(port, requests, args.seconds / 2)
            found[name].append(
                {
                    "p50_ms_at_200": at_200.quantile_ms(0.5),
                    "p99_ms_at_200": at_200.quantile_ms(0.99),
                    "n_failed_at_200": sum(at_200.statuses.values()) - at_200.statuses[200] + len(at_200.problems),
                    "highest_rate": rate,
                    "p99_ms_at_highest": float("nan") if at_highest is None else at_highest.quantile_ms(0.99),
                }
            )
    medians = {
        name: {key: statistics.median(each[key] for each in runs) for key in runs[0]} for name, runs in found.items()
    }
    medians["ratio"] = {"highest_rate": medians["gathered"]["highest_rate"] / medians["alone"]["highest_rate"]}
    return {"k": args.k, "n_factors": model.n_factors, "n_items": model.n_items, "medians": medians, "runs": found}


def measure_batch(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the batch endpoint beside implicit in this process, in turns."""
    model = Model.open(args.model)
    users = model.user_ids.ids_of(np.arange(min(model.n_users, args.users), dtype=np.int64))
    bodies = [
        json.dumps(
            {"requests": [{"user_id": str(user), "k": args.k} for user in users[start : start + args.size]]}
        ).encode()
        for start in range(0, len(users), args.size)
    ]
    requests = [post_request("/v1/recommendations", body) for body in bodies]
    n_threads = len(os.sched_getaffinity(0))
    peer = AlternatingLeastSquares(factors=model.n_factors, num_threads=n_threads)
    peer.user_factors, peer.item_factors = np.array(model.user_factors), np.array(model.item_factors)
    seen, rows = csr_matrix(model.seen.row_slice(0, len(users)).to_scipy()), np.arange(len(users))
    ours: list[float] = []
    theirs: list[float] = []
    with serving("--model", str(args.model), timeout_ms=60_000) as (port, _, _):
        for number in range(args.rounds + 1):
            result = asyncio.run(run_closed(port, requests, args.connections))
            if set(result.statuses) != {200} or result.problems:
                raise RuntimeError(f"{result.statuses} {result.problems[:3]}")
            started_s = time.perf_counter()
            with threadpool_limits(1, "blas"):  # as implicit asks for
                peer.recommend(rows, seen, N=args.k)
            if number:  # the first round warms up
                ours.append(len(users) / result.seconds)
                theirs.append(len(users) / (time.perf_counter() - started_s))
    return {
        "k": args.k,
        "size": args.size,
        "n_users": len(users),
        "users_per_s": statistics.median(ours),
        "implicit_users_per_s": statistics.median(theirs),
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
        "runs": {"service": ours, "implicit": theirs},
    }


def measure_swap(args: argparse.Namespace) -> dict[str, Any]:
    """Swap models under load: none may fail, none may mix, none may go back but to a rollback."""
    model = Model.open(args.model)
    with tempfile.TemporaryDirectory() as folder:
        registry, work = Path(folder) / "registry", Path(folder) / "models"
        variants = [_variant(model, work / str(number), number) for number in range(3)]
        versions = {_publish(registry, variants[0]): variants[0]}
        pointer: list[str] = list(versions)
        requests = requests_for(model, 500, args.k)
        users = [request.split(b"/")[3].decode() for request in requests]
        with serving("--registry", str(registry), poll_s=0.5) as (port, _, _):
            is_over = threading.Event()
            swapper = threading.Thread(
                target=_swap_on, args=(registry, variants, versions, pointer, is_over, args.every)
            )
            swapper.start()
            result = asyncio.run(
                run_open(port, requests, args.rate, args.seconds, keeps=True, check=_Checker(versions, users, args.k))
            )
            is_over.set()
            swapper.join()
    order = [version.decode() for version in dict.fromkeys(result.versions)]
    return {
        "rate": args.rate,
        "seconds": args.seconds,
        "n_answers": sum(result.statuses.values()),
        "n_failed": sum(result.statuses.values()) - result.statuses[200],
        "n_mixed_or_lost": len(result.problems),
        "problems": result.problems[:5],
        "p99_ms": result.quantile_ms(0.99),
        "pointed_at": pointer,
        "first_seen_in_this_order": order,
        "n_steps_back": _count_steps_back(result.versions, pointer),
    }


class _Checker:
    """Compares an answer with the list that the version it names gives."""

    def __init__(self, versions: dict[str, Model], users: list[str], k: int) -> None:
        self._versions, self._users, self._k = versions, users, k
        self._expected: dict[tuple[str, str], list[str]] = {}

    def __call__(self, version: bytes, body: bytes) -> str | None:
        answer = json.loads(body)
        name = version.decode()
        if answer.get("model_version") != name:
            return f"header {name}, body {answer.get('model_version')}"
        key = name, answer["user_id"]
        if key not in self._expected:
            (found,) = self._versions[name].recommend([answer["user_id"]], self._k)
            self._expected[key] = [str(item) for item in found.items]
        listed = [item["item_id"] for item in answer["items"]]
        return None if listed == self._expected[key] else f"{name}, user {answer['user_id']}: {listed}"


def _count_steps_back(seen: list[bytes], pointer: list[str]) -> int:
    """Count answers by a version that the registry had left before, with one worker in order of their arrival."""
    at, n_back = 0, 0
    for version in seen:
        name = version.decode()
        if name == pointer[at]:
            continue
        later = [place for place in range(at, len(pointer)) if pointer[place] == name]
        if later:
            at = later[0]
        else:
            n_back += 1
    return n_back


def _variant(model: Model, folder: Path, number: int) -> Model:
    """Write the same model with its factors reversed in some places, so that its lists differ."""
    contents = model.contents
    factors = np.array(contents.user_factors)
    factors[:, : number * 4] *= -1
    return write_model(
        folder, user_factors=factors, item_factors=np.array(contents.item_factors), user_ids=contents.user_ids,
        item_ids=contents.item_ids, seen=contents.seen, loss=contents.loss, weight_scale=contents.weight_scale,
        item_degrees=contents.popularity, config=contents.config, metrics=contents.metrics, lineage=contents.lineage,
    )  # fmt: skip


def _publish(registry: Path, model: Model) -> str:
    estimate = Estimate(mean=0.1, ci_low=0.1, ci_high=0.1)
    judged = Judgement(
        metric="ndcg@20", part="test", dataset="", dataset_fingerprint="", n_users=100, level=0.95, margin=0.0,
        candidate=estimate, popularity=estimate, over_popularity=estimate, n_held_out=1, n_held_out_known=0,
    )  # fmt: skip
    version = publish(registry, model, lambda _: judged).event.version
    assert version is not None
    return version


def _swap_on(
    registry: Path,
    variants: list[Model],
    versions: dict[str, Model],
    pointer: list[str],
    is_over: threading.Event,
    every_s: float,
) -> None:
    """Publish, publish a damaged one, roll back, and so on."""
    turn = 0
    while not is_over.wait(every_s):
        turn += 1
        if turn % 4 == 3:
            pointer.append(rollback(registry, pointer[-2]).version or "")
            continue
        model = variants[turn % len(variants)]
        if turn % 4 == 2:  # damaged after its publication: whoever serves it has not verified it
            broken = _publish_damaged(registry, model)
            versions[broken] = model
            rollback(registry, pointer[-1])
            continue
        version = _publish(registry, model)
        versions[version] = model
        pointer.append(version)


def _publish_damaged(registry: Path, model: Model) -> str:
    """Publish a model one byte of which is then changed, and leave it current for a while."""
    version = _publish(registry, model)
    path = registry / version / "user_factors.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0xFF
    staged = path.with_suffix(".damaged")
    staged.write_bytes(content)
    staged.replace(path)
    time.sleep(2.0)
    return version


def measure_soak(args: argparse.Namespace) -> dict[str, Any]:
    """Watch memory and open files of a service under steady load."""
    model = Model.open(args.model)
    requests = requests_for(model, 20_000, args.k)
    samples: list[dict[str, float]] = []
    with serving("--model", str(args.model)) as (port, pid, _):
        process = psutil.Process(pid)
        load(port, requests, args.rate, 20)
        started_s = time.monotonic()
        n_failed = 0
        while time.monotonic() - started_s < 60 * args.minutes:
            found = load(port, requests, args.rate, 15)
            n_failed += sum(found.statuses.values()) - found.statuses[200] + len(found.problems)
            time.sleep(0.2)
            memory = process.memory_full_info()
            samples.append(
                {
                    "minutes": (time.monotonic() - started_s) / 60,
                    "rss_bytes": memory.rss,
                    "uss_bytes": memory.uss,
                    "n_files": process.num_fds(),
                    "p99_ms": found.quantile_ms(0.99),
                }
            )
    first, last = samples[0], samples[-1]
    return {
        "rate": args.rate,
        "minutes": args.minutes,
        "n_failed": n_failed,
        "rss_growth": last["rss_bytes"] / first["rss_bytes"] - 1,
        "n_files_first": first["n_files"],
        "n_files_last": last["n_files"],
        "samples": samples,
    }


def measure_large(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the start with a large model, and single requests with its index and without."""
    current = read_current(args.registry)
    record = read_index_record(args.registry, current.manifest_sha256)
    model = current.open(verify="manifest")
    requests = requests_for(model, 2000, args.k)
    found: dict[str, Any] = {"n_items": model.n_items, "n_users": model.n_users, "n_factors": model.n_factors}
    if record is not None:
        found |= {"recall": record.recall, "build_s": record.build_s, "index_bytes": record.n_bytes}
    del model
    for name, uses_index in (("index", True), ("exact", False)):
        runs = []
        for _ in range(args.rounds):
            with serving("--registry", str(args.registry), uses_index=uses_index) as service:
                load(service.port, requests, args.rate, 3)
                run = {"ready_s": service.ready_s}
                for rate in (args.rate, *([args.index_rate] if uses_index else [])):
                    result = load(service.port, requests, rate, args.seconds)
                    run |= {f"p{part}_ms_at_{rate:g}": result.quantile_ms(part / 100) for part in (50, 99)}
                runs.append(run)
        found[name] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    return found


def main() -> None:
    """Run one measurement and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measures: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "single": measure_single,
        "batch": measure_batch,
        "swap": measure_swap,
        "soak": measure_soak,
        "large": measure_large,
    }
    parser.add_argument("what", choices=list(measures))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--registry", type=Path)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=500, help="requests of a batch")
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--index-rate", type=float, default=100.0, help="a second rate for lists by an index")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between swaps")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = measures[args.what](args)
    table = Table("what", "value")
    for name, value in found.items():
        if name not in ("runs", "samples"):
            table.add_row(name, json.dumps(value, indent=1) if isinstance(value, dict) else str(value))
    Console().print(table)
    if args.json is not None:
        args.json.write_text(json.dumps({**provenance(), args.what: found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
