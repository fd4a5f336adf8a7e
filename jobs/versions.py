"""``rgals versions``: what a registry holds, and what happened to it."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rgals.artifact.registry import Version, list_versions, read_history
from rgals.artifact.registry_records import Event, Judgement

__all__ = ["versions"]

_SHOWN_CHARACTERS = 8
"""Of a checksum."""


def versions(
    registry: Annotated[str, typer.Argument(metavar="REGISTRY", help="Registry: a local path or a URI.")],
    history: Annotated[
        bool, typer.Option("--history", help="Show every event instead: who did what, when, also refusals.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the versions of a registry with their numbers, the current one marked."""
    if history:
        events = read_history(registry)
        if as_json:
            typer.echo(json.dumps([event.model_dump(mode="json") for event in events], indent=2, ensure_ascii=False))
        else:
            _print_history(events)
        return
    held = list_versions(registry)
    if as_json:
        records = [
            {"version": version.name, "is_current": version.is_current, "event": version.event.model_dump(mode="json")}
            for version in held
        ]
        typer.echo(json.dumps(records, indent=2, ensure_ascii=False))
        return
    Console().print(_versions_table(held))


def _versions_table(held: list[Version]) -> Table:
    table = Table()
    for name in ("version", "published\nUTC", "measured", "after", "model", "trained on\njudged on"):
        table.add_column(name)
    for version in held:
        event = version.event
        marks = [name for name, is_set in (("current", version.is_current), ("forced", event.is_forced)) if is_set]
        judgement, model = event.judgement, event.model
        table.add_row(
            "\n".join([version.name, *marks]),
            _when(event).replace(" ", "\n"),
            escape("\n".join(_measured(judgement))),
            event.previous or "",
            "" if model is None else escape(f"{model.loss} {model.n_factors}\n{_short(model.factor_sha256)}"),
            f"{_short(None if model is None else model.dataset_fingerprint)}\n"
            f"{_short(None if judgement is None else judgement.dataset_fingerprint)}",
        )
    return table


def _print_history(events: list[Event]) -> None:
    for event in events:
        words = [_when(event), event.action, *([event.version] if event.version else [])]
        words += ["forced"] if event.is_forced else []
        words += [f"after {event.previous}"] if event.previous else []
        words += [f"by {event.by}", *_measured(event.judgement)]
        typer.echo("  ".join(words))
        for reason in () if event.judgement is None else event.judgement.reasons:
            typer.echo(f"    {reason}")


def _when(event: Event) -> str:
    return event.at[:19].replace("T", " ")


def _measured(judgement: Judgement | None) -> list[str]:
    """Give the metric and its interval, each to be shown in one piece."""
    if judgement is None:
        return []
    values = (judgement.candidate.mean, judgement.candidate.ci_low, judgement.candidate.ci_high)
    mean, low, high = ("undefined" if value is None else f"{value:.4f}" for value in values)
    return [f"{judgement.metric} {mean}", f"{low} to {high}"]


def _short(checksum: str | None) -> str:
    return "" if checksum is None else escape(checksum[:_SHOWN_CHARACTERS])
