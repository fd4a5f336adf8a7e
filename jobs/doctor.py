"""``rgals doctor``: whether this machine, and a cluster, are fit for training."""

import json
import sys
from collections import Counter
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from rgals.errors import RgalsError
from rgals.execution.doctor import Finding, examine

__all__ = ["doctor", "main"]

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}


def doctor(
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="A running Ray cluster to look at.", show_default="$RAY_ADDRESS"),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FOLDER", help="A folder that will be written to.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="DATASET", help="A dataset that will be read: a local path or a URI.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Look at this machine before work is sent to it, and say what to change.

    The exit code is 1 if there is a problem; warnings alone give 0.
    """
    findings = examine(address=address, output=output, dataset=dataset)
    counts: Counter[str] = Counter(finding.status for finding in findings)
    if as_json:
        document = {
            "n_problems": counts["problem"],
            "n_warnings": counts["warning"],
            "findings": [asdict(finding) for finding in findings],
        }
        typer.echo(json.dumps(document, indent=2))
    else:
        _print(findings, counts)
    if counts["problem"]:
        raise typer.Exit(1)


def _print(findings: list[Finding], counts: Counter[str]) -> None:
    """Print a line for each finding, and its advice below."""
    console = Console()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        console.print(f"{finding.status:<9}", style=_STYLES[finding.status], end="", highlight=False)
        console.print(f"{finding.name:<{width}}  {finding.found}", markup=False, highlight=False, soft_wrap=True)
        if finding.advice:
            console.print(f"{'':9}{'':{width}}  -> {finding.advice}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"\n{_count(counts, 'problem')}, {_count(counts, 'warning')}", highlight=False)


def _count(counts: Counter[str], status: str) -> str:
    return f"{counts[status]} {status}{'' if counts[status] == 1 else 's'}"


def main() -> None:
    """Run the command on its own, as ``python -m jobs.doctor``: it works where the other commands cannot be loaded."""
    try:
        typer.run(doctor)
    except RgalsError as error:
        print(f"rgals: error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
