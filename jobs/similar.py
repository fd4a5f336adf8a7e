"""``rgals similar``: the items most alike to one item."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rgals.artifact.model import Model

__all__ = ["similar"]


def similar(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder: a local path or a URI such as s3://...")],
    item: Annotated[str, typer.Option("--item", metavar="ID", help="The item to compare with.")],
    k: Annotated[int, typer.Option("-k", "--k", help="Length of the list, from 1 to the number of items.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the items whose factors point the same way (cosine), the most alike first."""
    answer = Model.open(model).similar_items(item, k)
    if as_json:
        neighbors = [
            {"rank": rank, "item_id": neighbor, "score": score}
            for rank, (neighbor, score) in enumerate(zip(answer.neighbors, answer.scores, strict=True), start=1)
        ]
        document = {"item_id": answer.id, "exhausted": answer.exhausted, "items": neighbors}
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    console = Console()
    console.print(f"Items like {answer.id}", markup=False, highlight=False, soft_wrap=True)
    table = Table()
    table.add_column("rank", justify="right")
    table.add_column("item")
    table.add_column("cosine", justify="right")
    for rank, (neighbor, score) in enumerate(zip(answer.neighbors, answer.scores, strict=True), start=1):
        table.add_row(str(rank), escape(str(neighbor)), f"{score:.4f}")
    console.print(table)
    if answer.exhausted:
        console.print(f"No more than {len(answer.neighbors)} items can be compared with this one.")
