"""Command line options made from the fields of a configuration, so that they are written once."""

import inspect
from collections.abc import Callable
from types import NoneType
from typing import Annotated, TypeVar, get_args

import typer

from rgals.training.config import TrainingConfig

__all__ = ["with_config_options"]

Command = TypeVar("Command", bound=Callable[..., None])


def with_config_options(command: Command) -> Command:
    """Give a command one option per field of `TrainingConfig`, handed to it as ``**options``.

    Names, help and defaults come from the fields, so that they are written once. Words and numbers
    are checked by the configuration, which lists every problem at once.
    """
    signature = inspect.signature(command)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    for name, field in TrainingConfig.model_fields.items():
        kinds = [kind for kind in get_args(field.annotation) or (field.annotation,) if kind is not NoneType]
        is_word = isinstance(kinds[0], str)
        option = typer.Option(
            f"--{name.replace('_', '-')}",
            help=field.description,
            show_default="none" if field.default is None else str(field.default),
            metavar="|".join(kinds) if is_word else None,
            rich_help_panel="Training",
        )
        value_type = str if is_word else kinds[0]
        own.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[value_type | None, option]
            )
        )
    command.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in own} | {"return": None}
    return command
