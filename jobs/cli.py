"""The command line: ``rgals COMMAND``. Every command makes one library call."""

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from rgals.errors import RgalsError

__all__ = ["COMMANDS", "app", "main"]

COMMANDS = (
    "demo", "synthesize", "download", "doctor", "ingest", "describe", "plan", "train", "tune", "evaluate", "compare",
    "recommend", "similar", "publish", "versions", "rollback", "serve", "api-key",
)  # fmt: skip
"""All commands, as they are listed. Each is the function of that name in the module of that name."""


class _Commands(TyperGroup):
    """Imports a command's module when the command is asked for: a service does not wait for what draws pictures."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {**dict.fromkeys(COMMANDS), **self.commands}  # type: ignore[dict-item]

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Give the names."""
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Give a command, None where there is none of that name."""
        if cmd_name in COMMANDS and self.commands[cmd_name] is None:
            name = cmd_name.replace("-", "_")
            alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            alone.command(cmd_name)(getattr(import_module(f"jobs.{name}"), name))
            self.commands[cmd_name] = typer.main.get_command(alone)
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    name="rgals",
    cls=_Commands,
    help="Train, evaluate and query recommenders with the RG2 and RGx losses.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _begin() -> None:
    """Make this a program with commands also where none is loaded yet."""


def main() -> None:
    """Run a command; a known error goes to standard error with exit code 1."""
    try:
        app()
    except RgalsError as error:
        print(f"rgals: error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    main()
