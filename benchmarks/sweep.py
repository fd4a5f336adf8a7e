"""Seconds per sweep, side by side with implicit's ALS in one run, and the gap to the exact solve.

    python benchmarks/sweep.py --data train.parquet --factors 64,128,256 --json sweep.json

DATA is a Parquet file with the columns user_id and item_id, or a folder written by ``rgals ingest``. The
contenders take turns, so that a slow minute of the machine hits all of them; medians are printed.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from implicit.cpu.als import AlternatingLeastSquares
from machine import provenance
from rich.console import Console
from rich.table import Table
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from rgals.data.dataset import Dataset
from rgals.data.shards import InMemoryInteractions
from rgals.execution import InProcessExecutor
from rgals.numerics.loss import LOSS_NAMES, Loss
from rgals.numerics.sparse import InteractionRows
from rgals.training.solver import AlternatingSolver


def read_interactions(path: Path) -> InteractionRows:
    """Read the training interactions of a dataset, or of a Parquet file of pairs."""
    if path.is_dir():
        return Dataset.open(path).read_part("train")
    table = pq.read_table(path, columns=["user_id", "item_id"])
    users, user_rows = np.unique(table["user_id"].to_numpy(), return_inverse=True)
    items, item_rows = np.unique(table["item_id"].to_numpy(), return_inverse=True)
    return InteractionRows.from_pairs(user_rows, item_rows, None, users.size, items.size)


def make_solver(rows: InteractionRows, args: argparse.Namespace, n_factors: int, solver: str) -> AlternatingSolver:
    """Make a solver at its starting point."""
    return AlternatingSolver(
        InMemoryInteractions(rows),
        Loss(args.loss, args.alpha, args.reg),
        n_factors=n_factors,
        seed=0,
        executor=InProcessExecutor(args.threads),
        solver=solver,
        cg_steps=args.cg_steps,
    )


def time_sweeps(solver: AlternatingSolver, n_sweeps: int) -> list[float]:
    """Time whole sweeps, objective included."""
    seconds = []
    for _ in range(n_sweeps):
        start = time.perf_counter()
        solver.run_sweep()
        seconds.append(time.perf_counter() - start)
    return seconds


def time_implicit(
    rows: InteractionRows, args: argparse.Namespace, n_factors: int, n: int, *, use_cg: bool
) -> list[float]:
    """Time iterations of implicit's ALS, by its own callback."""
    seconds: list[float] = []
    confidence = csr_matrix(rows.to_scipy())
    model = AlternatingLeastSquares(
        factors=n_factors, iterations=n, use_cg=use_cg, num_threads=args.threads, random_state=0
    )
    model.fit(confidence, show_progress=False, callback=lambda _i, elapsed, _loss: seconds.append(elapsed))
    return seconds


def measure(rows: InteractionRows, args: argparse.Namespace, n_factors: int) -> dict[str, float]:
    """Measure one number of factors."""
    ours, exact = make_solver(rows, args, n_factors, "auto"), make_solver(rows, args, n_factors, "exact")
    seconds: dict[str, list[float]] = {"rgals": [], "exact": [], "cg": [], "cholesky": []}
    time_sweeps(make_solver(rows, args, n_factors, "auto"), 1)  # compiles
    time_implicit(rows, args, n_factors, 1, use_cg=True)
    for turn in range(args.turns):
        seconds["rgals"] += time_sweeps(ours, args.sweeps // args.turns)
        seconds["cg"] += time_implicit(rows, args, n_factors, args.sweeps // args.turns, use_cg=True)
        seconds["exact"] += time_sweeps(exact, args.sweeps // args.turns)
        if turn < args.cholesky_turns:
            seconds["cholesky"] += time_implicit(rows, args, n_factors, 1, use_cg=False)
    median = {name: statistics.median(values) for name, values in seconds.items() if values}
    return {
        "factors": n_factors,
        "seconds": median["rgals"],
        "seconds_exact": median["exact"],
        "seconds_implicit_cg": median["cg"],
        "seconds_implicit_cholesky": median.get("cholesky", float("nan")),
        "ratio_to_implicit_cg": median["rgals"] / median["cg"],
        "ratio_to_implicit_cholesky": median["rgals"] / median.get("cholesky", float("nan")),
        "objective": ours.objective,
        "objective_exact": exact.objective,
        "objective_gap": (ours.objective - exact.objective) / abs(exact.objective),
    }


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--factors", type=lambda text: [int(part) for part in text.split(",")], default=[64, 128, 256])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--loss", choices=LOSS_NAMES, default="rg2")
    parser.add_argument("--alpha", type=float, default=0.03)
    parser.add_argument("--reg", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sweeps", type=int, default=12, help="sweeps of each contender, in turns")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument(
        "--cholesky-turns", type=int, default=2, help="iterations of implicit's Cholesky; 0 leaves it out"
    )
    parser.add_argument("--cg-steps", type=int, default=3)
    args = parser.parse_args()
    interactions = read_interactions(args.data)
    table = Table(
        "factors", "rgals", "implicit", "ratio", "Cholesky", "ratio", "exact", "gap",
        title=f"seconds of a sweep, {interactions.n_interactions:,} interactions, {args.threads} threads, medians",
        caption="implicit, Cholesky: implicit's ALS, its default and its Cholesky; exact: rgals without gradients; "
        "gap: of the objective to that of exact",
    )  # fmt: skip
    rows = []
    for n_factors in args.factors:
        # Idle BLAS workers spin, and would slow down whoever comes next.
        with threadpool_limits(1, "blas"):
            row = measure(interactions, args, n_factors)
        rows.append(row)
        table.add_row(
            str(n_factors), f"{row['seconds']:.3f}", f"{row['seconds_implicit_cg']:.3f}",
            f"{row['ratio_to_implicit_cg']:.2f}", f"{row['seconds_implicit_cholesky']:.2f}",
            f"{row['ratio_to_implicit_cholesky']:.3f}", f"{row['seconds_exact']:.3f}", f"{row['objective_gap']:+.0e}",
        )  # fmt: skip
    Console().print(table)
    if args.json:
        document = {"rows": rows, "sweeps": args.sweeps, "loss": args.loss, "alpha": args.alpha, "reg": args.reg}
        args.json.write_text(json.dumps({**document, **provenance()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
