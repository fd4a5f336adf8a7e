"""Search hyperparameters on the validation part of a dataset: random first, then around the best.

    python benchmarks/search.py DATASET --loss rgx --weights free --factors 64 --trials 60 --json OUT.jsonl

Only the train and validation parts are read; the test part is not opened. Each line of OUT is one
trial with its validation NDCG@20 by sweep; the command line of ``rgals train`` for the best is printed.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np

from rgals.data.dataset import Dataset
from rgals.errors import NumericalError
from rgals.execution import InProcessExecutor
from rgals.numerics.loss import LOSS_NAMES, Loss
from rgals.numerics.ranking import ranking_metrics
from rgals.numerics.topk import top_k
from rgals.training.solver import AlternatingSolver

SPACE = {"alpha": (0.01, 10.0), "reg": (1e-5, 0.3)}
"""Searched on a logarithmic scale."""
EXPONENTS = {"beta": (-0.2, 0.8), "user_exponent": (-1.0, 0.3), "item_exponent": (-0.6, 0.3)}
"""Searched on a linear scale where ``--weights`` says so; else 0, as in the paper."""
FREE: dict[str, tuple[str, ...]] = {
    "paper": (),
    "normalized": (),
    "degrees": ("user_exponent", "item_exponent"),
    "free": ("user_exponent", "item_exponent", "beta"),
}
FIXED = {"normalized": {"user_exponent": -0.5, "item_exponent": -0.25}}
"""Not searched: weights that fall with the degrees by fixed powers."""
IALS_REG = (1e-5, 1.0)


def draw(rng: np.random.Generator, name: str, weights: str, best: Loss | None, step: float) -> Loss:
    """Draw a trial: uniform over the space, or a step from the best so far."""
    space = {**SPACE, **({"reg": IALS_REG} if name == "ials" else {})}
    values: dict[str, float] = {}
    for key, (low, high) in space.items():
        if best is None:
            values[key] = math.exp(rng.uniform(math.log(low), math.log(high)))
        else:
            values[key] = getattr(best, key) * math.exp(rng.normal() * 0.3 * step)
    values["nu"] = (
        float(rng.choice([1.0, 1.0, 0.75, 0.5, 0.25])) if best is None else best.nu + rng.normal() * 0.08 * step
    )
    for key, (low, high) in EXPONENTS.items():
        if key not in FREE[weights]:
            values[key] = FIXED.get(weights, {}).get(key, 0.0)
        else:
            values[key] = rng.uniform(low, high) if best is None else getattr(best, key) + rng.normal() * 0.07 * step
    return Loss(name, **values)


def run_trial(dataset: Dataset, loss: Loss, args: argparse.Namespace) -> dict:
    """Train with one set of hyperparameters; measure validation NDCG@20 at the chosen sweeps."""
    executor = InProcessExecutor(args.threads)
    solver = AlternatingSolver(
        dataset, loss, n_factors=args.factors, seed=args.seed, executor=executor, cg_steps=args.cg_steps
    )
    held_out = dataset.read_part("validation")
    users = np.flatnonzero(held_out.degrees)
    if args.users < users.size:
        users = np.sort(np.random.default_rng(0).choice(users, args.users, replace=False))
    seen, held_out = dataset.read_part("train").take(users), held_out.take(users)
    ndcg: dict[int, float] = {}
    start = time.perf_counter()
    for sweep in range(1, max(args.sweeps) + 1):
        solver.run_sweep()
        if sweep in args.sweeps:
            state = solver.state
            factors = state.user_factors[users]
            ranked = top_k(factors, state.item_factors, 20, seen=seen, n_threads=args.threads).items
            ndcg[sweep] = float(np.nanmean(ranking_metrics(ranked, held_out, [20], "binary")["ndcg@20"]))
    best_sweep = max(ndcg, key=lambda sweep: ndcg[sweep])
    fields = {field: getattr(loss, field) for field in Loss.__dataclass_fields__}
    return {
        "loss": fields,
        "ndcg": ndcg,
        "best": ndcg[best_sweep],
        "sweep": best_sweep,
        "s": time.perf_counter() - start,
    }


def main() -> None:
    """Search and print the best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--loss", choices=LOSS_NAMES, default="rg2")
    parser.add_argument("--weights", choices=list(FREE), default="paper", help="which exponents are searched too")
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--sweeps", type=lambda text: [int(part) for part in text.split(",")], default=[6, 10, 16])
    parser.add_argument("--users", type=int, default=10**9, help="measure on a fixed sample of users")
    parser.add_argument("--cg-steps", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--start", default=None, help="JSON of a loss to begin around")
    parser.add_argument("--step", type=float, default=1.0, help="multiplies the steps around the best")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    dataset, rng = Dataset.open(args.dataset), np.random.default_rng(args.seed)
    best: dict | None = None
    centre = Loss(**json.loads(args.start)) if args.start else None
    for trial in range(args.trials):
        is_random = centre is None and trial < args.trials // 2
        around = None if is_random else (Loss(**best["loss"]) if best else centre)
        try:
            result = run_trial(
                dataset,
                centre if centre and trial == 0 else draw(rng, args.loss, args.weights, around, args.step),
                args,
            )
        except NumericalError as error:
            print(f"trial {trial}: {error}")
            continue
        with args.json.open("a") as stream:
            stream.write(json.dumps(result) + "\n")
        if best is None or result["best"] > best["best"]:
            best = result
            print(f"trial {trial}: {json.dumps(result)}", flush=True)
    if best is not None:
        options = " ".join(
            f"--{key.replace('_', '-')} {value:.4g}" for key, value in best["loss"].items() if key != "name"
        )
        print(f"rgals train DATASET --loss {best['loss']['name']} {options}")


if __name__ == "__main__":
    main()
