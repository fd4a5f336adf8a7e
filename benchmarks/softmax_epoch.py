"""Seconds per epoch of the softmax baseline, side by side with the same model in PyTorch in one run.

    pip install torch==2.13.0
    python benchmarks/softmax_epoch.py --data DATA --factors 64,128 --epochs 3 --json softmax_epoch.json

DATA is a Parquet file with the columns user_id and item_id, or a folder written by ``rgals ingest``. The
contenders take turns, epoch by epoch, so that a slow minute of the machine hits both; medians are printed,
of the clock and of the processor's time, which other programs on the machine disturb less.
The PyTorch model is written as one would for speed: the partition sum by ``logsumexp``, the observed scores
taken out of the score matrix by index (no dense targets), fused Adam for items, sparse Adam for users.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from machine import provenance
from rich.console import Console
from rich.table import Table
from sweep import read_interactions

from rgals.baselines.model import Round
from rgals.baselines.softmax import SoftmaxOptions, fit_softmax
from rgals.numerics.sparse import InteractionRows


class TorchSoftmax:
    """Matrix factorization under the softmax loss over all items, in PyTorch."""

    def __init__(self, rows: InteractionRows, options: SoftmaxOptions, *, is_dense: bool) -> None:
        self.rows, self.options, self.is_dense = rows, options, is_dense
        shape, scale = options.n_factors, options.init_scale / options.n_factors**0.5
        self.users = torch.nn.Embedding(rows.n_rows, shape, sparse=True)
        self.items = torch.nn.Parameter(torch.randn(rows.n_columns, shape) * scale)
        torch.nn.init.normal_(self.users.weight, std=scale)
        self.user_steps = torch.optim.SparseAdam(self.users.parameters(), lr=options.user_learning_rate)
        self.item_steps = torch.optim.Adam([self.items], lr=options.learning_rate, fused=True)

    def run_epoch(self, epoch: int) -> float:
        """Go once through all users; give the loss per interaction."""
        order = np.random.default_rng(epoch).permutation(np.flatnonzero(self.rows.degrees))
        total = 0.0
        for batch in np.array_split(order, -(-order.size // self.options.batch_users)):
            total += self.step(batch)
        return total / self.rows.n_interactions

    def step(self, batch: np.ndarray) -> float:
        """Do one step; give the loss of the batch."""
        rows = self.rows.take(batch)
        vectors, items = self.users(torch.from_numpy(batch)), self.items
        if self.options.scores == "cosine":
            vectors = torch.nn.functional.normalize(vectors, dim=1) / self.options.temperature
            items = torch.nn.functional.normalize(items, dim=1)
        scores = vectors @ items.T
        degrees = torch.from_numpy(rows.degrees)
        users = torch.repeat_interleave(torch.arange(rows.n_rows), degrees)
        columns = torch.from_numpy(rows.columns).long()
        if self.is_dense:
            targets = torch.zeros_like(scores)
            targets[users, columns] = 1.0
            loss = torch.nn.functional.cross_entropy(scores, targets, reduction="sum")
        else:
            loss = (degrees * torch.logsumexp(scores, dim=1)).sum() - scores[users, columns].sum()
        for optimizer in (self.user_steps, self.item_steps):
            optimizer.zero_grad(set_to_none=True)
        (loss / rows.n_interactions).backward()
        for optimizer in (self.user_steps, self.item_steps):
            optimizer.step()
        return loss.item()


def run_both(
    rows: InteractionRows, options: SoftmaxOptions, args: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    """Let both take turns; give the seconds of each epoch."""
    models = {
        "PyTorch": TorchSoftmax(rows, options, is_dense=False),
        "PyTorch, dense targets": TorchSoftmax(rows, options, is_dense=True),
    }
    seconds: dict[str, list[float]] = {"rgals": [], **{name: [] for name in models}}
    processor_s: dict[str, list[float]] = {name: [] for name in seconds}
    last = time.process_time()

    def watch(seen: Round) -> bool:
        seconds["rgals"].append(seen.train_s)
        nonlocal last
        processor_s["rgals"].append(time.process_time() - last)
        for name, model in models.items():
            started, processor = time.perf_counter(), time.process_time()
            model.run_epoch(seen.number)
            seconds[name].append(time.perf_counter() - started)
            processor_s[name].append(time.process_time() - processor)
        last = time.process_time()
        return True

    fit_softmax(rows, options, n_threads=args.threads, watch=watch)
    seconds["rgals"] = np.diff(seconds["rgals"], prepend=0.0).tolist()
    # The first epoch of each compiles kernels and touches memory for the first time.
    return {
        kind: {name: values[1:] for name, values in found.items()}
        for kind, found in (("clock", seconds), ("processor", processor_s))
    }


def settings(args: argparse.Namespace) -> Iterator[SoftmaxOptions]:
    """Go through what is measured."""
    for n_factors in map(int, args.factors.split(",")):
        for batch_users in map(int, args.batch_users.split(",")):
            for scores in args.scores.split(","):
                yield SoftmaxOptions(
                    n_factors=n_factors, batch_users=batch_users, scores=scores, n_epochs=args.epochs + 1
                )


def print_table(results: list[dict[str, object]]) -> None:
    """Print medians of the seconds, and the ratio to the faster PyTorch."""
    table = Table(
        "scores", "factors", "users a batch", "time", "rgals s", "PyTorch s", "dense targets s", "rgals / PyTorch"
    )
    for result in results:
        medians = result["median_s"]
        table.add_row(
            str(result["scores"]),
            str(result["n_factors"]),
            str(result["batch_users"]),
            str(result["time"]),
            *(f"{medians[name]:.2f}" for name in ("rgals", "PyTorch", "PyTorch, dense targets")),
            f"{result['ratio']:.2f}",
        )
    Console().print(table)


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--factors", default="64")
    parser.add_argument("--batch-users", default="256")
    parser.add_argument("--scores", default="dot,cosine")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--users", type=int, help="take the first so many users, and all items")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = read_interactions(args.data)
    rows = rows.row_slice(0, min(args.users or rows.n_rows, rows.n_rows))
    results: list[dict[str, object]] = []
    for options in settings(args):
        for kind, seconds in run_both(rows, options, args).items():
            medians = {name: statistics.median(values) for name, values in seconds.items()}
            ratio = medians["rgals"] / min(value for name, value in medians.items() if name != "rgals")
            sizes = {"scores": options.scores, "n_factors": options.n_factors, "batch_users": options.batch_users}
            results.append({**sizes, "time": kind, "seconds": seconds, "median_s": medians, "ratio": ratio})
    print_table(results)
    shape = {"n_users": rows.n_rows, "n_items": rows.n_columns, "n_interactions": rows.n_interactions}
    report = {"data": shape, "threads": args.threads, "torch": torch.__version__, "results": results, **provenance()}
    print(json.dumps({key: value for key, value in report.items() if key != "results"}, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
