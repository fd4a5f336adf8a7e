"""``rgals demo``: from generated events to a measured model, each step as the command a user would type."""

import json
import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.panel import Panel

from rgals.artifact.model import Model
from rgals.data.storage import check_output
from rgals.evaluation.pictures import draw_training

__all__ = ["demo"]

_LOOK = "Three of the users, and what the model recommends to them."


def demo(
    ctx: typer.Context,
    *,
    folder: Annotated[Path, typer.Option("--output", "-o", help="Where everything goes.")] = Path("demo"),
    users: Annotated[int, typer.Option(min=50, help="Users to generate.")] = 4000,
    items: Annotated[int, typer.Option(min=50, help="Items to generate.")] = 2000,
    interactions: Annotated[int, typer.Option(min=500, help="Interactions to generate.")] = 200_000,
    seed: Annotated[int, typer.Option(help="Seed of the generator, the split and the training.")] = 1,
) -> None:
    """Run everything once on generated data: synthesize, ingest, train, evaluate, recommend.

    Needs no download and no server. An earlier demo in the same folder is replaced.
    """
    console, start = Console(), time.perf_counter()
    events, dataset, model, report = (folder / name for name in ("events.parquet", "dataset", "model", "report.json"))
    for made in (dataset, model):
        check_output(made, overwrite=True)
    steps: list[tuple[str, list[str]]] = [
        (
            "Generate events: who chose what, when, and how much they liked it.",
            ["synthesize", f"--users={users}", f"--items={items}", f"--interactions={interactions}",
             f"--seed={seed}", "--output", str(events), "--overwrite"],
        ),
        (
            "Turn them into a dataset: check, number the ids, keep a part for validation and one for the test.",
            ["ingest", str(events), "--time-column=time", "--split=random", "--validation-fraction=0.1",
             f"--seed={seed}", "--output", str(dataset), "--overwrite"],
        ),
        (
            "Train on the rest; stop when the validation NDCG no longer rises.",
            ["train", str(dataset), "--loss=rg2", "--n-factors=32", "--alpha=0.1", "--reg=0.05", "--n-sweeps=15",
             "--patience=3", f"--seed={seed}", "--output", str(model), "--overwrite"],
        ),
        (
            "Measure on the test part, which nothing has seen, beside two other models.",
            ["evaluate", str(model), "--dataset", str(dataset), "--baselines=popularity,ials",
             "--ials-reg=5", "--output", str(report), "--overwrite"],
        ),
    ]  # fmt: skip
    for number, (what, command) in enumerate(steps, start=1):
        _run(ctx, console, f"{number}. {what}", command)
    trained = Model.open(model)
    chosen = [str(user) for user in trained.user_ids.ids_of(np.array([0, users // 2, users - 1]))]
    named = [part for user in chosen for part in ("--user", user)]
    _run(ctx, console, f"5. {_LOOK}", ["recommend", str(model), *named, "-k", "5"])
    measured = json.loads(report.read_text())
    picture = folder / "demo.png"
    draw_training(picture, trained.metrics, measured)
    _print_summary(console, trained, measured, picture, time.perf_counter() - start)


def _run(ctx: typer.Context, console: Console, what: str, command: list[str]) -> None:
    """Print a step and its command line, then run it."""
    console.print(f"\n[bold]{what}[/bold]")
    console.print(f"$ rgals {shlex.join(command)}", style="dim", markup=False, highlight=False, soft_wrap=True)
    parent = ctx.find_root()
    with parent.command.make_context("rgals", command, parent=None) as inner:
        parent.command.invoke(inner)


def _print_summary(console: Console, model: Model, report: dict[str, Any], picture: Path, elapsed_s: float) -> None:
    """Say in a few sentences what came out."""
    by_name = {entry["name"]: entry for entry in report["models"]}
    lines = []
    for name, entry in by_name.items():
        value = entry["metrics"]["ndcg@20"]
        interval = f"95% interval {value['ci_low']:.3f} to {value['ci_high']:.3f}"
        lines.append(f"  {name:<12} {value['mean']:.3f}   ({interval}; trained in {entry['train_s']:.2f} s)")
    console.print(
        Panel(
            "NDCG@20 on the test part: 1 would be every hidden interaction ranked first.\n"
            + "\n".join(lines)
            + f"\n\nThe model kept sweep {model.metrics['kept_sweep']} of {model.metrics['n_sweeps']}; each sweep "
            "lowered the training objective, and the validation NDCG chose the sweep.\n"
            f"Picture: {picture}\n"
            f"All of it took {elapsed_s:.0f} s. With your own data, begin at step 2: rgals ingest --help",
            title="What you have just seen",
            expand=False,
        )
    )
