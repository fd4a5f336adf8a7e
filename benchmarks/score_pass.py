"""Seconds of the two passes over all scores of a re-expanded sweep, beside plain matrix products in the same run.

    python benchmarks/score_pass.py --users 29858 --items 40981 --factors 64,256 --json score_pass.json

Both passes, the expansion of the users (``expand``) and the slopes of the items (``item_slopes``), are two products
of all users with all items with an exponential of every score between them. Factors are random, of scores with the
given standard deviation; interactions are random too, and crowd at popular items. Everything takes turns, so that a
slow minute of the machine hits all; medians are printed. The limit is the faster of two ways to multiply by tiles, each
thread its own with one BLAS thread, as the passes do: both products in tiles of the passes, without anything between
them, and the first product alone in larger tiles. Whole sweeps are those of a model trained on the same interactions.
Sizes with half the users and with half the items show that the time is linear in users times items.
"""

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from machine import provenance
from rich.console import Console
from rich.table import Table

from rgals.data.shards import InMemoryInteractions
from rgals.execution import InProcessExecutor
from rgals.names import Factors, Offsets
from rgals.numerics.reexpansion import expand
from rgals.numerics.reexpansion_items import item_slopes
from rgals.numerics.sparse import InteractionRows
from rgals.numerics.threads import available_threads, run_blocks
from rgals.training.config import TrainingConfig
from rgals.training.reexpanding_solver import make_solver

PASSES = {"users": "expand", "items": "item_slopes"}
"""The passes, by the side that they go over."""

NOTHING = np.empty(0, dtype=np.float32)
PASS_TILE = (128, 2048)
"""Users and items of a tile of scores in the passes; the other way round in that of the items."""

LARGE_TILE = (512, 2048)
"""The fastest of several for a product alone, measured with 64 and 256 factors."""

POPULARITY_POWER = 2.0
"""Items are drawn as uniform numbers to this power: the first percent of the items gets a tenth of the interactions."""

DEGREE_SPREAD = 0.9
"""Standard deviation of the logarithm of a user's degree."""


@dataclass(frozen=True)
class Problem:
    """Random interactions, and random factors to go over.

    Parameters
    ----------
    rows : InteractionRows of shape (n_users, n_items)
        The observed entries.
    users, items : float32 arrays of shape (n_users, n_factors) and (n_items, n_factors)
        Where the model stands.
    moved : float32 array of shape (n_users, n_factors)
        Users after a half-step, for the slopes of the items.
    """

    rows: InteractionRows
    users: Factors
    items: Factors
    moved: Factors

    @classmethod
    def make(cls, n_users: int, n_items: int, n_factors: int, args: argparse.Namespace) -> "Problem":
        """Draw one; users have the same degrees, on average, whatever its size."""
        rng = np.random.default_rng(0)
        raw = rng.lognormal(sigma=DEGREE_SPREAD, size=n_users)
        degrees = np.clip(np.rint(raw * args.interactions / args.users / raw.mean()), 1, n_items // 2).astype(np.int64)
        scale = math.sqrt(args.score_deviation) / n_factors**0.25
        users, items, steps = (
            rng.standard_normal((n_rows, n_factors), dtype=np.float32) * np.float32(scale)
            for n_rows in (n_users, n_items, n_users)
        )
        return cls(draw_rows(rng, degrees, n_items), users, items, users + np.float32(0.1) * steps)


def draw_rows(rng: np.random.Generator, degrees: Offsets, n_items: int) -> InteractionRows:
    """Draw items for each user; one that is drawn twice counts once, so that there are a few less."""
    users = np.repeat(np.arange(degrees.size), degrees)
    items = (rng.random(users.size) ** POPULARITY_POWER * n_items).astype(np.int64)
    pairs = np.unique(users * n_items + rng.permutation(n_items)[items])
    return InteractionRows.from_pairs(pairs // n_items, pairs % n_items, None, degrees.size, n_items)


def multiply_twice(left: Factors, right: Factors, n_threads: int) -> None:
    """Do the two products of a pass, tile by tile, and nothing else."""

    def work(start: int) -> None:
        rows = left[start : start + PASS_TILE[0]]
        memory, sums = np.empty(rows.shape[0] * PASS_TILE[1], dtype=np.float32), np.empty_like(rows)
        for first in range(0, right.shape[0], PASS_TILE[1]):
            columns = right[first : first + PASS_TILE[1]]
            scores = memory[: len(rows) * len(columns)].reshape(len(rows), len(columns))
            np.matmul(rows, columns.T, out=scores)
            np.matmul(scores, columns, out=sums)

    run_blocks(work, range(0, left.shape[0], PASS_TILE[0]), n_threads)


def multiply_once(left: Factors, right: Factors, n_threads: int) -> None:
    """Compute all scores in large tiles, and keep none."""

    def work(start: int) -> None:
        rows = left[start : start + LARGE_TILE[0]]
        memory = np.empty(rows.shape[0] * LARGE_TILE[1], dtype=np.float32)
        for first in range(0, right.shape[0], LARGE_TILE[1]):
            columns = right[first : first + LARGE_TILE[1]]
            scores = memory[: len(rows) * len(columns)].reshape(len(rows), len(columns))
            np.matmul(rows, columns.T, out=scores)

    run_blocks(work, range(0, left.shape[0], LARGE_TILE[0]), n_threads)


class Sweeps:
    """Whole re-expanded sweeps on the interactions of a problem.

    Parameters
    ----------
    problem : Problem
        Whose interactions are trained on.
    n_threads : int
        Threads.
    """

    def __init__(self, problem: Problem, n_threads: int) -> None:
        config = TrainingConfig(loss="rg-softmax", n_factors=problem.items.shape[1], start_sweeps=1)
        source = InMemoryInteractions(problem.rows)
        self.parts: list[dict[str, float]] = []
        self._solver = make_solver(source, config, InProcessExecutor(n_threads))
        # The start, and the first sweep behind it, which has one pass more than others.
        for _ in range(config.start_sweeps + 1):
            self._solver.run_sweep()

    def run(self) -> None:
        """Run a sweep, and note its parts; with a step length below 1 it has several passes by the users."""
        record = self._solver.run_sweep()
        found = record.expanded
        assert found is not None
        parts = {"user_s": record.user_s, "item_s": record.item_s, "pass_s": found.passed.seconds}
        self.parts.append({**parts, "step_length": found.step_length})


def measure(n_users: int, n_items: int, n_factors: int, args: argparse.Namespace) -> dict[str, object]:
    """Measure one size: everything once to warm up, then in turns."""
    problem = Problem.make(n_users, n_items, n_factors, args)
    loss, n_threads = TrainingConfig(loss="rg-softmax").to_loss(), args.threads
    weight_sums = problem.rows.degrees.astype(np.float32)
    go_over_users = partial(
        expand, problem.users, problem.items, problem.rows, NOTHING, loss, first_block=0, n_threads=n_threads
    )
    partitions = go_over_users().log_partitions.astype(np.float32)
    sweeps = Sweeps(problem, n_threads)
    contenders: dict[str, Callable[[], object]] = {
        "users": go_over_users,
        "products": lambda: multiply_twice(problem.users, problem.items, n_threads),
        "items": lambda: item_slopes(
            problem.items, problem.users, problem.moved, weight_sums, partitions, NOTHING, n_threads=n_threads
        ),
        "large product": lambda: multiply_once(problem.users, problem.items, n_threads),
        "sweep": sweeps.run,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn, (name, function) in itertools.product(range(args.repeat + 1), contenders.items()):
        started = time.perf_counter()
        function()
        if turn > 0:
            seconds[name].append(time.perf_counter() - started)
    return {
        "n_users": n_users,
        "n_items": n_items,
        "n_factors": n_factors,
        "n_interactions": problem.rows.n_interactions,
        "n_hard": loss.n_hard,
        "seconds": seconds,
        "sweeps": sweeps.parts[-args.repeat :],
        **summarize(seconds, n_users * n_items, n_factors),
    }


def summarize(seconds: dict[str, list[float]], n_scores: int, n_factors: int) -> dict[str, object]:
    """Turn seconds into what is printed."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    product = 2e-9 * n_scores * n_factors
    limits = {"products": 2 * product / median["products"], "large product": product / median["large product"]}
    passes = {
        side: {
            "s": median[side],
            "ns_per_score": 1e9 * median[side] / n_scores,
            "gflop_per_s": 2 * product / median[side],
            "fraction_of_limit": 2 * product / median[side] / max(limits.values()),
            "exponentials_per_s": n_scores / median[side],
            "share_of_sweep": median[side] / median["sweep"],
        }
        for side in PASSES
    }
    return {"median_s": median, "limit_gflop_per_s": limits, "passes": passes}


def print_table(results: list[dict[str, object]], args: argparse.Namespace) -> None:
    """Print a line for each pass and size."""
    table = Table(
        "factors", "users", "items", "pass", "s", "ns a score", "GFLOP/s", "limit", "fraction", "G exp/s", "sweep s",
        "share",
        title=f"passes over all scores, {args.threads} threads, medians of {args.repeat}",
        caption="limit: GFLOP/s of the faster plain product; share: of a whole sweep with its two passes",
    )  # fmt: skip
    for result in results:
        sweep_s, limit = result["median_s"]["sweep"], max(result["limit_gflop_per_s"].values())
        for side, found in result["passes"].items():
            table.add_row(
                f"{result['n_factors']}", f"{result['n_users']:,}", f"{result['n_items']:,}", PASSES[side],
                f"{found['s']:.3f}", f"{found['ns_per_score']:.3f}", f"{found['gflop_per_s']:.1f}", f"{limit:.1f}",
                f"{found['fraction_of_limit']:.0%}", f"{found['exponentials_per_s'] / 1e9:.3f}", f"{sweep_s:.3f}",
                f"{found['share_of_sweep']:.0%}",
            )  # fmt: skip
    Console(width=max(Console().width, 128)).print(table)


def main() -> None:
    """Read the arguments, measure every size, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=29858)
    parser.add_argument("--items", type=int, default=40981)
    parser.add_argument("--interactions", type=int, default=810128, help="of all users; fewer users have fewer")
    parser.add_argument("--factors", type=lambda text: [int(part) for part in text.split(",")], default=[64, 256])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--score-deviation", type=float, default=2.0, help="standard deviation of the random scores")
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sizes = [(args.users, args.items), (args.users // 2, args.items), (args.users, args.items // 2)]
    results = [measure(*size, n_factors, args) for n_factors in args.factors for size in sizes]
    print_table(results, args)
    if args.json:
        options = {"threads": args.threads, "repeat": args.repeat, "score_deviation": args.score_deviation}
        args.json.write_text(json.dumps({**options, "results": results, **provenance()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
