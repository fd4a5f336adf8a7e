"""Users per second of top-k recommendation, side by side with implicit's in one run on the same factors.

    python benchmarks/recommend.py --data train.parquet --factors 64,128,256 --k 20 --json recommend.json

DATA is a Parquet file with the columns user_id and item_id, or a folder written by ``rgals ingest``. Both
models hold the same trained factors, filter the same interactions and use the same number of threads;
they take turns, so that a slow minute of the machine hits both, and medians are printed.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from machine import provenance
from rich.console import Console
from rich.table import Table
from scipy.sparse import csr_matrix
from sweep import read_interactions
from threadpoolctl import threadpool_limits

from rgals import RankingALS


def time_in_turn(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Give the median seconds of each contender over rounds in which all take a turn."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def share_of_equal_lists(ours: RankingALS, theirs: AlternatingLeastSquares, user_items: csr_matrix, k: int) -> float:
    """Compare the lists of a thousand users, as sets: equal scores may come in another order."""
    users = np.linspace(0, user_items.shape[0] - 1, min(1000, user_items.shape[0])).astype(np.int64)
    rows = user_items[users]
    mine, others = ours.recommend(users, rows, N=k)[0], theirs.recommend(users, rows, N=k)[0]
    return float((np.sort(mine, axis=1) == np.sort(others, axis=1)).all(axis=1).mean())


def measure(user_items: csr_matrix, n_factors: int, args: argparse.Namespace) -> dict[str, float]:
    """Measure lists for all users at once, and one user after the other."""
    ours = RankingALS(n_factors=n_factors, n_sweeps=args.sweeps, random_state=0, n_threads=args.threads)
    ours.fit(user_items, show_progress=False)
    theirs = AlternatingLeastSquares(factors=n_factors, num_threads=args.threads)
    theirs.user_factors, theirs.item_factors = ours.user_factors, ours.item_factors
    everyone = np.arange(user_items.shape[0])
    some = everyone[:: max(1, everyone.size // args.single_users)][: args.single_users]
    rows = [user_items[user] for user in some]

    def one_by_one(model: RankingALS | AlternatingLeastSquares) -> None:
        for user, row in zip(some, rows, strict=True):
            model.recommend(int(user), row, N=args.k)

    equal = share_of_equal_lists(ours, theirs, user_items, args.k)
    batch = time_in_turn(
        {
            "rgals": lambda: ours.recommend(everyone, user_items, N=args.k),
            "implicit": lambda: theirs.recommend(everyone, user_items, N=args.k),
        },
        args.rounds,
    )
    single = time_in_turn({"rgals": lambda: one_by_one(ours), "implicit": lambda: one_by_one(theirs)}, args.rounds)
    return {
        "factors": n_factors,
        "users_per_s": everyone.size / batch["rgals"],
        "implicit_users_per_s": everyone.size / batch["implicit"],
        "speedup": batch["implicit"] / batch["rgals"],
        "single_user_ms": 1000 * single["rgals"] / some.size,
        "implicit_single_user_ms": 1000 * single["implicit"] / some.size,
        "equal_lists_fraction": equal,
    }


def print_rows(rows: list[dict[str, float]], title: str) -> None:
    """Print the table."""
    table = Table(title=title)
    names = ("factors", "users/s", "implicit", "speedup", "one user, ms", "implicit, ms", "equal lists")
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row["factors"]),
            f"{row['users_per_s']:,.0f}",
            f"{row['implicit_users_per_s']:,.0f}",
            f"{row['speedup']:.2f}",
            f"{row['single_user_ms']:.2f}",
            f"{row['implicit_single_user_ms']:.2f}",
            f"{row['equal_lists_fraction']:.1%}",
        )
    Console().print(table)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Parquet file of pairs, or a dataset folder")
    parser.add_argument("--factors", default="64,128,256", help="comma-separated numbers of factors")
    parser.add_argument("--k", type=int, default=20, help="length of the lists")
    parser.add_argument("--threads", type=int, default=2, help="threads of both contenders")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--sweeps", type=int, default=4, help="sweeps of the training that makes the factors")
    parser.add_argument("--single-users", type=int, default=200, help="users asked about one at a time")
    parser.add_argument("--json", type=Path, help="where the numbers are written")
    args = parser.parse_args()
    interactions = read_interactions(args.data)
    scipy_rows = interactions.to_scipy()
    # implicit knows scipy's matrix class only, not its array class, and 32-bit offsets only.
    user_items = csr_matrix(
        (scipy_rows.data, scipy_rows.indices.astype(np.int32), scipy_rows.indptr.astype(np.int32)), scipy_rows.shape
    )
    with threadpool_limits(1, "blas"):
        rows = [measure(user_items, int(text), args) for text in args.factors.split(",")]
    shape = f"{user_items.shape[0]:,} users, {user_items.shape[1]:,} items, {user_items.nnz:,} interactions"
    print_rows(rows, f"Top {args.k}, {args.threads} threads, {shape}")
    if args.json is not None:
        document = {"rows": rows, "k": args.k, "threads": args.threads, "data": shape, **provenance()}
        args.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
