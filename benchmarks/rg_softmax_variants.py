"""Variants of ``rg-softmax``, each one change from the defaults, by validation NDCG and seconds.

    python benchmarks/rg_softmax_variants.py DATASET --factors 64 --variants all --seeds 0 --json OUT.jsonl

Only the train and validation parts are read; the test part is not opened. DATASET is a folder written by ``rgals
ingest`` with a validation part of users that are also in the train part. All items are ranked for the validation users
after each expanded sweep, outside of the seconds. A variant ends after ``--patience`` expanded sweeps without a better
NDCG, and after ``--sweeps`` of them at the latest, whatever its start took. Each training adds one line to OUT; those
that are there are not run again. The folder beside OUT holds the NDCG of every user, for the paired standard errors.
"""

import argparse
import hashlib
import json
import statistics
import time
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from machine import provenance
from rg_softmax_solvers import (
    EvenItems,
    FreshItems,
    HalfEvenItems,
    HalfPrecision,
    IndexedSample,
    KeptSample,
    NoTemperature,
    RankOne,
    RankOneTangent,
    UserTemperatures,
)
from rich.console import Console
from rich.table import Table

from rgals.data.dataset import Dataset
from rgals.errors import NumericalError
from rgals.execution import Executor, InProcessExecutor
from rgals.names import SIDES, Float64Array, Weights
from rgals.numerics.ranking import ranking_metrics
from rgals.numerics.reexpansion import log_prior_of
from rgals.numerics.threads import available_threads, one_blas_thread
from rgals.numerics.topk import top_k
from rgals.training import reexpanding_solver
from rgals.training.config import TrainingConfig
from rgals.training.monitor import sample_rows
from rgals.training.reexpanding_solver import ReexpandingSolver
from rgals.training.solver import AlternatingSolver
from rgals.training.weighted_shards import WeightedShards

LOSS = "rg-softmax"
DEFAULT = "default"
OBJECTIVE_OPTIONS = ("reg", "nu", "beta", "user_exponent", "item_exponent")
"""Options that change the exact objective itself: its values are comparable only where these are equal."""

NUMBERS = {"ndcg": ".5f", "recall": ".5f", "expanded_sweep": ".3g", "train_s": ".1f"}
NUMBERS |= {"median_sweep_s": ".2f", "shortest_step": ".3g"}
HEADINGS = (
    "variant", "NDCG", "Recall", "at sweep", "s until then", "s a sweep", "least step", "objective", "NDCG to default",
)  # fmt: skip
CAPTION = "sweep: expanded ones; objective: of the last sweep, in brackets where it is another function; ± over users"


@dataclass(frozen=True)
class Variant:
    """One change from the defaults.

    Parameters
    ----------
    name : str
        Its name on the command line.
    changes : dict
        Options of `TrainingConfig` that differ.
    solver : type
        Who runs the sweeps.
    keeps_mean_ridge : bool
        Whether reg is rescaled so that the mean ridge, over the rows of both sides, is that of the defaults.
    ranks_with_prior : bool
        Whether items are ranked by score + log pi, the logit of the softmax, in place of the score.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    solver: type[ReexpandingSolver] = ReexpandingSolver
    keeps_mean_ridge: bool = False
    ranks_with_prior: bool = False


@cache
def all_variants() -> dict[str, Variant]:
    """Give every variant by its name, the default first."""
    base = TrainingConfig(loss=LOSS)
    found = [Variant(DEFAULT), Variant("no-temperature", solver=NoTemperature)]
    for option, label, values in (
        ("start_sweeps", "start", (0, 1, 3, 10)), ("eta", "eta", (0.0, 0.1, 0.5, 1.0)),
        ("kappa", "kappa", (1.0, 2.0, 3.0)), ("n_hard", "hard", (0, 10, 200)), ("cg_steps", "cg-steps", (1, 6)),
    ):  # fmt: skip
        found += [Variant(f"{label}-{value:g}", {option: value}) for value in values]
    found.append(Variant("exact", {"solver": "exact"}))
    found += [Variant(f"nu-{nu:g}", {"nu": nu}, keeps_mean_ridge=True) for nu in (0.0, 0.5, 0.75)]
    found += [Variant(f"reg-x{part:g}", {"reg": base.reg * part}) for part in (0.6, 0.8, 1.25, 1.6)]
    for option, step in product(("user_exponent", "item_exponent", "beta"), (-0.2, 0.2)):
        name, changes = f"{option.replace('_', '-')}{step:+g}", {option: getattr(base, option) + step}
        found.append(Variant(name, changes))
        if option == "beta":
            found.append(Variant(f"{name}-biased", changes, ranks_with_prior=True))
    found += [Variant("unit-norm-a", solver=HalfEvenItems), Variant("unit-norm-b", solver=EvenItems)]
    for name, solver in (("rank-one", RankOne), ("rank-one-tangent", RankOneTangent)):
        found.append(Variant(name, {"solver": "exact"}, solver=solver))
    for name, solver in (
        ("user-temperatures", UserTemperatures), ("fresh-items", FreshItems), ("bfloat16-passes", HalfPrecision),
    ):  # fmt: skip
        found.append(Variant(name, solver=solver))
    tenth = {"pass_fraction": 0.1}
    found += [Variant("tenth", tenth), Variant("tenth-kept", tenth, solver=KeptSample)]
    found += [Variant("tenth-indexed", tenth, solver=IndexedSample), Variant("half-tenth", {"pass_fraction": 0.05})]
    found.append(Variant("half-tenth-indexed", {"pass_fraction": 0.05}, solver=IndexedSample))
    return {variant.name: variant for variant in found}


def configure(variant: Variant, dataset: Dataset, args: argparse.Namespace, seed: int) -> TrainingConfig:
    """Give all options of one training."""
    options: dict[str, Any] = {"loss": LOSS, "n_factors": args.factors, "seed": seed, **variant.changes}
    plain = TrainingConfig(**options)
    options |= {"n_sweeps": plain.start_sweeps + args.sweeps, "patience": args.patience, "validation_users": args.users}
    if variant.keeps_mean_ridge:
        wanted, found = (mean_ridge(dataset, config) for config in (TrainingConfig(loss=LOSS), plain))
        options["reg"] = plain.reg * wanted / found
    return TrainingConfig(**options)


def mean_ridge(dataset: Dataset, config: TrainingConfig) -> float:
    """Give the mean ridge over all rows, users and items together."""
    loss = config.to_loss()
    shards = WeightedShards.prepare(dataset, loss, InProcessExecutor(1), "ridges")
    return float(np.concatenate([shards.terms(side, loss).ridges for side in SIDES]).mean())


class Ranking:
    """The validation users that are in the train part too, and what they have seen and kept back.

    Parameters
    ----------
    dataset : Dataset
        With a validation part.
    n_users : int
        Size of the sample; 0 takes them all. It is the same whatever the seed of the training.
    cutoff : int
        Length of the ranked lists.
    """

    def __init__(self, dataset: Dataset, n_users: int, cutoff: int) -> None:
        train, held_out = dataset.read_part("train"), dataset.read_part("validation")
        self.users = sample_rows(np.flatnonzero((held_out.degrees > 0) & (train.degrees > 0)), n_users, 0)
        if self.users.size < 2:
            raise SystemExit(f"{dataset}: expected validation users with train interactions, found {self.users.size}")
        self.cutoff = cutoff
        self._held_out, self._seen = held_out.take(self.users), train.take(self.users)

    def measure(self, solver: AlternatingSolver, log_prior: Weights | None, n_threads: int) -> list[Float64Array]:
        """Give NDCG and Recall of each user by the solver's present factors; a log pi is added to the scores."""
        users, items = solver.reader.read_rows("user", self.users), solver.reader.read_all("item")
        if log_prior is not None:
            users = np.column_stack([users, np.ones(len(users), dtype=np.float32)])
            items = np.column_stack([items, log_prior])
        ranked = top_k(users, items, self.cutoff, seen=self._seen, n_threads=n_threads).items
        found = ranking_metrics(ranked, self._held_out, [self.cutoff])
        return [found[f"{name}@{self.cutoff}"] for name in ("ndcg", "recall")]


def run_variant(
    dataset: Dataset, variant: Variant, config: TrainingConfig, ranking: Ranking, executor: Executor
) -> tuple[dict[str, Any], Float64Array]:
    """Train once; give what goes into the file, and each user's NDCG at the best expanded sweep."""
    with patch.object(reexpanding_solver, "ReexpandingSolver", variant.solver):
        solver = reexpanding_solver.make_solver(dataset, config, executor)
    prior = config.to_loss().item_prior(solver.item_degrees)
    log_prior = log_prior_of(prior) if variant.ranks_with_prior else None
    curve: list[dict[str, float]] = []
    by_user, best, train_s = np.zeros(0), 0, 0.0
    try:
        while solver.sweep < config.n_sweeps and len(curve) - best < config.patience:
            started = time.perf_counter()
            record = solver.run_sweep()
            sweep_s = time.perf_counter() - started
            train_s += sweep_s
            if record.expanded is None:
                continue
            ndcg, recall = ranking.measure(solver, log_prior, executor.caller_threads)
            point = {"ndcg": float(ndcg.mean()), "recall": float(recall.mean()), "objective": record.objective}
            point |= {"step_length": record.expanded.step_length, "sweep_s": sweep_s, "train_s": train_s}
            curve.append(point)
            if best == 0 or point["ndcg"] > curve[best - 1]["ndcg"]:
                by_user, best = ndcg, len(curve)
    finally:
        solver.close()
    median_s = statistics.median(point["sweep_s"] for point in curve)
    shortest = min(point["step_length"] for point in curve)
    found = {key: curve[best - 1][key] for key in ("ndcg", "recall", "train_s")}
    found |= {"expanded_sweep": best, "median_sweep_s": median_s, "shortest_step": shortest}
    return {**found, "final_objective": curve[-1]["objective"], "curve": curve}, by_user


@cache
def warm_up(dataset: Dataset, n_factors: int, executor: Executor) -> None:
    """Run one sweep of either kind, once in this process: the compiler's seconds are no variant's."""
    config = TrainingConfig(loss=LOSS, n_factors=n_factors, start_sweeps=1)
    solver = reexpanding_solver.make_solver(dataset, config, executor)
    for _ in range(config.start_sweeps + 1):
        solver.run_sweep()
    solver.close()


class Results:
    """The file with one line for each training, and the folder with the users' NDCG beside it."""

    def __init__(self, path: Path) -> None:
        self._path, self._folder = path, path.with_suffix(".users")
        self._folder.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self.found: dict[str, dict[str, Any]] = {result["key"]: result for result in map(json.loads, lines)}

    def add(self, key: str, default_key: str, result: dict[str, Any], by_user: Float64Array) -> None:
        """Write one training, its line last."""
        np.save(self._folder / f"{key}.npy", by_user.astype(np.float32))
        mean, error = self.compare([key], [default_key])
        self.found[key] = {"key": key, **result, "difference": mean, "standard_error": error, **provenance()}
        with self._path.open("a") as stream:
            stream.write(json.dumps(self.found[key]) + "\n")

    def compare(self, keys: list[str], default_keys: list[str]) -> tuple[float, float]:
        """Give the mean over users and seeds of the NDCG less the default's, and its standard error over users."""
        found, default = ([np.load(self._folder / f"{key}.npy") for key in part] for part in (keys, default_keys))
        if any(part.size < 2 for part in (*found, *default)):  # a training that failed
            return float("nan"), float("nan")
        differences = np.mean(found, axis=0, dtype=np.float64) - np.mean(default, axis=0, dtype=np.float64)
        return float(differences.mean()), float(differences.std(ddof=1) / differences.size**0.5)


def run_all(dataset: Dataset, args: argparse.Namespace, results: Results) -> dict[str, list[str]]:
    """Train what is not in the file yet; give the keys of each variant, one for each seed."""
    executor, base, keys = InProcessExecutor(args.threads), TrainingConfig(loss=LOSS), dict[str, list[str]]()
    ranking = Ranking(dataset, args.users, base.validation_cutoff)
    for name, (number, seed) in product(args.variants, enumerate(args.seeds)):
        config = configure(variant := all_variants()[name], dataset, args, seed)
        parts = [dataset.fingerprint, name, config.model_dump(mode="json")]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        keys.setdefault(name, []).append(key)
        if key in results.found:
            continue
        warm_up(dataset, args.factors, executor)
        try:
            result, by_user = run_variant(dataset, variant, config, ranking, executor)
        except NumericalError as error:
            result, by_user = {"failure": str(error)}, np.zeros(0)
        is_same = all(getattr(config, option) == getattr(base, option) for option in OBJECTIVE_OPTIONS)
        about = {"variant": name, "seed": seed, "n_users": ranking.users.size, "threads": args.threads}
        about |= {"dataset": dataset.fingerprint, "config": parts[2], "has_default_objective": is_same}
        results.add(key, keys[DEFAULT][number], {**about, **result}, by_user)
        print(f"seed {seed}:", *describe(name, [key], [keys[DEFAULT][number]], results), sep="  ", flush=True)
    return keys


def describe(name: str, keys: list[str], default_keys: list[str], results: Results) -> list[str]:
    """Give the cells of a variant's line: means over the seeds; an objective other than the default's in brackets."""
    found = [results.found[key] for key in keys]
    if any("failure" in result for result in found):
        return [name, "failed"]
    mean = {key: statistics.fmean(result[key] for result in found) for key in (*NUMBERS, "final_objective")}
    cells = [name, *(format(mean[key], form) for key, form in NUMBERS.items())]
    objective = ("{:.6g}" if found[0]["has_default_objective"] else "({:.6g})").format(mean["final_objective"])
    difference, error = results.compare(keys, default_keys)
    return [*cells, objective, "" if name == DEFAULT else f"{difference:+.5f} ± {error:.5f}"]


def read_arguments() -> argparse.Namespace:
    """Read the command line; the default is always the first of the variants."""
    base = TrainingConfig(loss=LOSS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--factors", type=int, default=base.n_factors)
    parser.add_argument("--sweeps", type=int, default=base.n_sweeps, help="most expanded sweeps, the start not counted")
    parser.add_argument("--patience", type=int, default=3)
    parser.add_argument("--users", type=int, default=0, help="size of the sample of validation users; 0 takes them all")
    parser.add_argument("--variants", default="all", help=f"names by commas, or all: {', '.join(all_variants())}")
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0])
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--json", type=Path, required=True, help="JSON Lines, added to")
    args = parser.parse_args()
    names = list(all_variants()) if args.variants == "all" else args.variants.split(",")
    if unknown := [name for name in names if name not in all_variants()]:
        parser.error(f"--variants: no such variant: {', '.join(unknown)}; there are {', '.join(all_variants())}")
    args.variants = list(dict.fromkeys([DEFAULT, *names]))
    return args


def main() -> None:
    """Train, then print one line for each variant."""
    args = read_arguments()
    dataset, results = Dataset.open(args.dataset), Results(args.json)
    with one_blas_thread:  # its idle workers would spin
        keys = run_all(dataset, args, results)
    table = Table(*HEADINGS, title=f"{LOSS}, {args.factors} factors, {args.threads} threads", caption=CAPTION)
    for name in args.variants:
        table.add_row(*describe(name, keys[name], keys[DEFAULT], results))
    Console(width=max(Console().width, 140)).print(table)


if __name__ == "__main__":
    main()
