"""Spark's ALS and rgals on the same interactions: seconds, memory of all processes, NDCG on the test part.

    rgals synthesize --output EVENTS --users 500000 --items 100000 --interactions 20000000 --no-time --no-rating
    rgals ingest EVENTS --output DATASET --split random --test-fraction 0.1 --validation-fraction 0.1
    python -m venv SPARK && SPARK/bin/pip install -r benchmarks/requirements-spark.txt
    python benchmarks/spark_als.py DATASET --spark-python SPARK/bin/python --factors 128 --search-factors 32 \
        --work FOLDER --json spark_als.json

Both train on the train part with the same number of factors, sweeps and threads. Both have alpha and ridge
chosen by NDCG on the validation part, by the same walk of at most ``--trials`` trials from their defaults;
with ``--search-factors`` these are cheap, and up to ``--final-trials`` more follow at the full number of factors.
Both are tested by the evaluation of rgals: all items ranked, train and validation items left out.

Spark runs in a process of its own (``local[threads]``), its input cached. Seconds of an iteration are the
difference of two fits of 2 and 6 iterations, divided by 4, in a Java machine that is warm. It uses OpenBLAS
where libblas.so.3 and liblapack.so.3 are installed (or lie in ``--native-blas``), else its Java kernels.

Run it again after an interruption: trials and halves that are done are kept in ``--work``. With ``--trials 1
--spark-start ALPHA,REG`` nothing is searched.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from machine import provenance
from pattern_search import Trial, search
from process_memory import MemoryWatch, run_measured
from rich.console import Console
from rich.table import Table
from spark_client import SparkProcess, read_spark_factors

from rgals.artifact.model import Model
from rgals.baselines.model import FittedBaseline
from rgals.data.dataset import Dataset
from rgals.evaluation.evaluator import evaluate, measure
from rgals.evaluation.protocol import EvaluatedUsers, EvaluationOptions
from rgals.names import Factors
from rgals.numerics.sparse import InteractionRows

ITERATIONS = (2, 6)
"""Of the two fits whose difference is timed."""


def as_scoring_model(
    name: str, users: Factors, items: Factors, options: dict[str, Any], train_s: float
) -> FittedBaseline:
    """Wrap factors in the rows of the dataset for the evaluation."""

    def refuse(_rows: InteractionRows, _n_threads: int) -> Factors:
        raise SystemExit("spark_als.py compares on users of the training; ingest with --split random")

    return FittedBaseline(name, train_s, options, users, items, refuse)


def load_spark_model(dataset: Dataset, folder: Path, n_factors: int, half: dict[str, Any]) -> FittedBaseline:
    """Load what Spark wrote."""
    users = read_spark_factors(folder / "users", dataset.n_users, n_factors)
    items = read_spark_factors(folder / "items", dataset.n_items, n_factors)
    return as_scoring_model("spark", users, items, half.get("options", {}), half.get("total_s", 0.0))


def load_rgals_model(folder: Path, half: dict[str, Any]) -> FittedBaseline:
    """Load what rgals wrote; trained on this dataset, its rows are the dataset's."""
    model = Model.open(folder)
    options = {**half.get("options", {}), "factor_sha256": model.factor_checksum}
    return as_scoring_model("rgals", model.user_factors, model.item_factors, options, half.get("total_s", 0.0))


def validation_sample(dataset: Dataset, n_users: int) -> EvaluatedUsers:
    """Choose users by whom hyperparameters are chosen, the same for both."""
    users = EvaluatedUsers.read(dataset, "validation")
    if users.n_users <= n_users:
        return users
    chosen = np.sort(np.random.default_rng(0).choice(users.n_users, n_users, replace=False))
    return replace(
        users,
        user_rows=users.user_rows[chosen],
        held_out=users.held_out.take(chosen),
        seen=users.seen.take(chosen),
    )


def mean_ndcg(model: FittedBaseline, users: EvaluatedUsers, args: argparse.Namespace) -> float:
    """Measure a trial."""
    values = measure(model, users, EvaluationOptions(cutoffs=(args.k,), part="validation"), n_threads=args.threads)
    return float(values.by_user[f"ndcg@{args.k}"].mean())


def choose(
    side: str, measure: Callable[[int, float, float], float], dataset: Dataset, args: argparse.Namespace
) -> tuple[Trial, int]:
    """Choose alpha and reg: at few factors from the defaults, and from what was best there at all factors."""
    best, n_trials = Trial(*getattr(args, f"{side}_start"), float("nan")), 0
    stages = [(args.search_factors, (10.0, math.sqrt(10)), args.trials)]
    if args.search_factors != args.factors:
        stages.append((args.factors, (math.sqrt(10),), args.final_trials))
    for n_factors, steps, limit in stages:
        names = ["sweeps", "seed", "validation_users", "k", *(["loss"] if side == "rgals" else [])]
        options = [f"{name}={getattr(args, name)}" for name in names]
        print(f"  {n_factors} factors", flush=True)
        best, trials = search(
            (best.alpha, best.reg),
            steps,
            limit,
            partial(measure, n_factors),
            args.work / f"{side}-trials-{n_factors}.json",
            " ".join([f"dataset={dataset.fingerprint[:12]}", f"factors={n_factors}", *options]),
        )
        n_trials += len(trials)
    return best, n_trials


def choose_blocks(spark: SparkProcess, args: argparse.Namespace) -> tuple[int, dict[int, float]]:
    """Time the wanted numbers of blocks, by the difference of two short fits, and take the fastest."""
    shared = {"rank": args.search_factors, "alpha": 1.0, "reg": 0.1, "seed": args.seed}
    spark.fit(**shared, iterations=2, blocks=args.spark_blocks[0])  # warms up
    seconds = {}
    for blocks in args.spark_blocks:
        short, long = (spark.fit(**shared, iterations=n, blocks=blocks)["seconds"] for n in (1, 4))
        seconds[blocks] = (long - short) / 3
        print(f"  {blocks} blocks: {seconds[blocks]:.2f} s per iteration at {args.search_factors} factors", flush=True)
    return min(seconds, key=lambda blocks: seconds[blocks]), seconds


def run_spark(dataset: Dataset, args: argparse.Namespace) -> dict[str, Any]:
    """Measure Spark."""
    users = validation_sample(dataset, args.validation_users)
    trial_folder = args.work / "spark-trial"
    with SparkProcess(args) as spark:
        spark.wait()
        blocks, block_seconds = choose_blocks(spark, args)

        def try_out(n_factors: int, alpha: float, reg: float) -> float:
            spark.fit(
                rank=n_factors, iterations=args.sweeps, alpha=alpha, reg=reg, blocks=blocks, seed=args.seed,
                output=str(trial_folder),
            )  # fmt: skip
            return mean_ndcg(load_spark_model(dataset, trial_folder, n_factors, {}), users, args)

        best, n_trials = choose("spark", try_out, dataset, args)
    chosen = {"rank": args.factors, "alpha": best.alpha, "reg": best.reg, "blocks": blocks, "seed": args.seed}
    load_before = os.getloadavg()[0]
    with SparkProcess(args) as spark:
        with MemoryWatch(spark.pid, 1.0) as watch:
            ready = spark.wait()
            spark.fit(**{**chosen, "rank": 8}, iterations=2)  # warms up
            final = spark.fit(**chosen, iterations=args.sweeps, output=str(args.work / "spark-factors"))
        print(f"  {args.sweeps} iterations: {final['seconds']:.1f} s", flush=True)
        fits: dict[int, list[float]] = {n: [] for n in ITERATIONS}
        for _ in range(args.repeats):
            for n in ITERATIONS:
                fits[n].append(spark.fit(**chosen, iterations=n)["seconds"])
    short, long = ITERATIONS
    pairs = zip(fits[short], fits[long], strict=True)
    shutil.rmtree(trial_folder, ignore_errors=True)
    return {
        "options": {"library": "spark", **chosen, "iterations": args.sweeps, "driver_memory": args.spark_memory},
        "sweep_s": statistics.median((after - before) / (long - short) for before, after in pairs),
        "total_s": final["seconds"],
        "command_s": ready["start_s"] + ready["read_s"] + final["seconds"] + final["written_s"],
        "fit_s": fits,
        "memory": watch.summary(),
        "seconds_by_blocks": block_seconds,
        "validation_ndcg": best.ndcg,
        "n_trials": n_trials,
        "load_before": load_before,
        **ready,
    }


def train_rgals(
    args: argparse.Namespace, n_factors: int, alpha: float, reg: float, folder: Path, *, watch: bool
) -> tuple[dict, Any]:
    """Train with the command line; give the model's metrics and what was measured around it."""
    command = [
        Path(sys.executable).with_name("rgals"), "train", args.dataset, "--output", folder, "--overwrite",
        "--loss", args.loss, "--n-factors", n_factors, "--n-sweeps", args.sweeps, "--alpha", alpha, "--reg", reg,
        "--seed", args.seed, "--threads", args.threads,
        "--softmax-users", 0, "--validate-every", args.sweeps, "--validation-users", 1,
    ]  # fmt: skip
    run = run_measured(command, log=args.work / "rgals.log", watch_memory=watch)
    return dict(Model.open(folder).metrics), run


def run_rgals(dataset: Dataset, args: argparse.Namespace) -> dict[str, Any]:
    """Measure rgals."""
    users = validation_sample(dataset, args.validation_users)
    trial_folder = args.work / "rgals-trial"

    def try_out(n_factors: int, alpha: float, reg: float) -> float:
        try:
            train_rgals(args, n_factors, alpha, reg, trial_folder, watch=False)
        except SystemExit as error:  # a ridge too small for the objective to fall
            print(f"  {error}")
            return float("nan")
        return mean_ndcg(load_rgals_model(trial_folder, {}), users, args)

    best, n_trials = choose("rgals", try_out, dataset, args)
    load_before = os.getloadavg()[0]
    folder, model = args.work / "rgals-model", (args.factors, best.alpha, best.reg)
    _, watched = train_rgals(args, *model, folder, watch=True)
    runs = [train_rgals(args, *model, folder, watch=False) for _ in range(args.repeats)]
    sweeps = [sweep["seconds"] for metrics, _ in runs for sweep in metrics["history"]]
    shutil.rmtree(trial_folder, ignore_errors=True)
    return {
        "options": {
            "library": "rgals", "loss": args.loss, "n_factors": args.factors, "alpha": best.alpha, "reg": best.reg,
            "n_sweeps": args.sweeps, "seed": args.seed,
        },
        "sweep_s": statistics.median(sweeps),
        "total_s": statistics.median(metrics["total_s"] for metrics, _ in runs),
        "command_s": statistics.median(run.seconds for _, run in runs),
        "sweeps_s": sweeps,
        "memory": watched.memory,
        "validation_ndcg": best.ndcg,
        "n_trials": n_trials,
        "load_before": load_before,
    }  # fmt: skip


def identity(dataset: Dataset, args: argparse.Namespace, side: str) -> str:
    """Say what the numbers of a half depend on."""
    names = [
        "factors",
        "search_factors",
        "sweeps",
        "threads",
        "seed",
        "trials",
        f"{side}_start",
        "validation_users",
        "k",
    ]
    names += ["loss"] if side == "rgals" else ["spark_memory", "spark_blocks", "spark_java_options", "native_blas"]
    return " ".join([f"dataset={dataset.fingerprint[:12]}", *(f"{name}={getattr(args, name)}" for name in names)])


def run_half(side: str, dataset: Dataset, args: argparse.Namespace) -> dict[str, Any]:
    """Give the numbers of a half: those kept, or measured now."""
    path, wanted = args.work / f"{side}.json", identity(dataset, args, side)
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        if kept["identity"] != wanted:
            raise SystemExit(f"{path}: numbers of {kept['identity']}, not of {wanted}; take another --work folder")
        return kept
    print(f"{side}:", flush=True)
    numbers = {"identity": wanted, **(run_spark if side == "spark" else run_rgals)(dataset, args), **provenance()}
    path.write_text(json.dumps(numbers, indent=2) + "\n")
    return numbers


def print_table(halves: dict[str, dict[str, Any]], document: dict[str, Any], args: argparse.Namespace) -> None:
    """Print what was measured."""
    data = document["data"]
    table = Table(
        title=f"{data['n_train']:,} train interactions, {data['n_users']:,} users, {data['n_items']:,} items, "
        f"{args.factors} factors, {args.sweeps} sweeps, {args.threads} threads",
        caption="training: Spark's fit on cached data in a warm Java machine; rgals train's total, reading included",
    )
    table.add_column("")
    for side in halves:
        table.add_column(side, justify="right")
    if "ratio" in document:
        table.add_column("spark / rgals", justify="right")
    rows = {
        "seconds per sweep": ("sweep_s", 1.0, ".2f"),
        "training, s": ("total_s", 1.0, ".1f"),
        "command, s": ("command_s", 1.0, ".1f"),
        "peak memory, GiB": ("peak_bytes", 2.0**30, ".2f"),
    }
    for title, (key, unit, form) in rows.items():
        cells = [format({**half, **half["memory"]}[key] / unit, form) for half in halves.values()]
        table.add_row(title, *cells, *([f"{document['ratio'][key]:.2f}"] if "ratio" in document else []))
    table.add_row(
        "alpha, reg", *(f"{half['options']['alpha']:g}, {half['options']['reg']:g}" for half in halves.values())
    )
    metrics = {model["name"]: model["metrics"][f"ndcg@{args.k}"] for model in document["report"]["models"]}
    cells = [
        f"{metrics[side]['mean']:.4f} ± {(metrics[side]['ci_high'] - metrics[side]['ci_low']) / 2:.4f}"
        for side in halves
    ]
    table.add_row(f"test NDCG@{args.k}", *cells, *([f"{document['ratio']['ndcg']:.3f}"] if "ratio" in document else []))
    Console().print(table)


def compare(halves: dict[str, dict[str, Any]], dataset: Dataset, args: argparse.Namespace) -> dict[str, Any]:
    """Test the models that there are, side by side, and put all numbers together."""
    models = []
    if "rgals" in halves:
        models.append(load_rgals_model(args.work / "rgals-model", halves["rgals"]))
    if "spark" in halves:
        models.append(load_spark_model(dataset, args.work / "spark-factors", args.factors, halves["spark"]))
    report = evaluate(models, dataset, EvaluationOptions(cutoffs=(args.k,)), n_threads=args.threads).report
    document: dict[str, Any] = {
        "benchmark": "spark_als",
        "data": {"n_users": dataset.n_users, "n_items": dataset.n_items, "n_train": dataset.n_interactions},
        **halves,
        "report": report.model_dump(mode="json"),
    }
    if len(halves) == 2:
        spark, ours = halves["spark"], halves["rgals"]
        ndcg = {model.name: model.metrics[f"ndcg@{args.k}"].mean or 0.0 for model in report.models}
        document["ratio"] = {
            **{key: spark[key] / ours[key] for key in ("sweep_s", "total_s", "command_s")},
            "peak_bytes": spark["memory"]["peak_bytes"] / ours["memory"]["peak_bytes"],
            "ndcg": ndcg["spark"] / ndcg["rgals"],
        }
    return document


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="local dataset folder with a validation and a test part")
    parser.add_argument("--work", type=Path, required=True, help="folder for trials, halves, models and logs")
    parser.add_argument("--spark-python", default="python", help="the Python that has pyspark")
    parser.add_argument("--only", choices=("spark", "rgals"), help="measure one half; the other is shown if kept")
    parser.add_argument("--factors", type=int, default=128)
    parser.add_argument("--sweeps", type=int, default=10, help="of both; Spark's default is 10")
    parser.add_argument("--threads", type=int, default=2, help="of both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loss", default="rg2", help="loss of rgals; ials is the one that Spark has")
    parser.add_argument("--trials", type=int, default=16, help="of each half's search, at most")
    parser.add_argument("--search-factors", type=int, help="factors of these trials; --factors when left out")
    parser.add_argument("--final-trials", type=int, default=8, help="around the best of them, with --factors")
    parser.add_argument("--spark-start", default="1,0.1", help="alpha and regParam of its first trial: its defaults")
    parser.add_argument("--rgals-start", default="0.03,0.1", help="alpha and reg of its first trial: its defaults")
    parser.add_argument("--validation-users", type=int, default=10_000, help="users by whom trials are measured")
    parser.add_argument("--k", type=int, default=20, help="cutoff of NDCG")
    parser.add_argument("--repeats", type=int, default=1, help="timings of each half; medians are taken")
    parser.add_argument("--spark-memory", default="10g", help="memory of Spark's driver, in which everything runs")
    parser.add_argument(
        "--spark-blocks", default="10,4,2", help="numbers of blocks to choose from; 10 is Spark's default"
    )
    parser.add_argument("--spark-java-options", default="", help="options for the Java machine")
    parser.add_argument("--native-blas", type=Path, help="folder with libblas.so.3 and liblapack.so.3 for Spark")
    parser.add_argument("--json", type=Path, help="where the numbers are written")
    args = parser.parse_args()
    args.search_factors = args.search_factors or args.factors
    for name in ("spark_start", "rgals_start"):
        alpha, reg = (float(text) for text in getattr(args, name).split(","))
        setattr(args, name, (alpha, reg))
    args.spark_blocks = [int(text) for text in args.spark_blocks.split(",")]
    return args


def main() -> None:
    """Measure both halves, or one, and compare what there is."""
    args = parse_arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    args.work = args.work.resolve()
    dataset = Dataset.open(args.dataset)
    halves = {}
    for side in ("spark", "rgals"):
        if args.only in (None, side) or (args.work / f"{side}.json").exists():
            halves[side] = run_half(side, dataset, args)
    document = compare(halves, dataset, args)
    print_table(halves, document, args)
    if args.json is not None:
        args.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
