"""What Compose does with docker-compose.yml before it starts anything: variables, and the words of a command."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
COMPOSE_FILE = REPOSITORY / "docker-compose.yml"
DASHBOARD_FILE = REPOSITORY / "docker" / "dashboard.yml"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """Put in ``$NAME``, ``${NAME}``, ``${NAME:-default}`` and ``${NAME:+replacement}``, nested too; ``$$`` is ``$``."""
    result, position = [], 0
    while (start := text.find("$", position)) >= 0:
        result.append(text[position:start])
        if text.startswith("$$", start):
            result.append("$")
            position = start + 2
        elif text.startswith("${", start):
            end = _closing_brace(text, start + 2)
            result.append(_value_of(text[start + 2 : end], variables))
            position = end + 1
        else:
            name = _NAME.match(text, start + 1)
            assert name is not None, f"a lone $ in {text!r}"
            result.append(variables[name[0]])
            position = name.end()
    return "".join(result) + text[position:]


def _closing_brace(text: str, position: int) -> int:
    depth = 1
    while depth:
        position += 1
        depth += text.startswith("${", position) - (text[position] == "}")
    return position


def _value_of(expression: str, variables: Mapping[str, str]) -> str:
    name = _NAME.match(expression)
    assert name is not None, expression
    value, rest = variables.get(name[0], ""), expression[name.end() :]
    match rest[:2]:
        case ":-":
            return value or substitute(rest[2:], variables)
        case ":+":
            return substitute(rest[2:], variables) if value else ""
        case "":
            return variables[name[0]]
    raise AssertionError(f"{expression}: of the forms of Compose only :- and :+ are understood here")


def resolve(node: Any, variables: Mapping[str, str]) -> Any:
    """Put the variables into every string of a document."""
    if isinstance(node, str):
        return substitute(node, variables)
    if isinstance(node, list):
        return [resolve(entry, variables) for entry in node]
    if isinstance(node, dict):
        return {key: resolve(value, variables) for key, value in node.items()}
    return node


def load(variables: Mapping[str, str] | None = None, path: Path = COMPOSE_FILE) -> dict[str, Any]:
    """Read the file with variables put in; without any, every default."""
    found = resolve(yaml.safe_load(path.read_text()), variables or {})
    assert isinstance(found, dict)
    return found


def words(command: str | list[str] | None) -> list[str]:
    """Give a command as a list; a string is split as a shell would."""
    if command is None:
        return []
    return shlex.split(command) if isinstance(command, str) else [str(word) for word in command]


def used_variables(path: Path = COMPOSE_FILE) -> dict[str, str]:
    """Give every variable that offers a default, with that default."""
    found: dict[str, str] = {}
    for name, default in re.findall(r"\$\{([A-Za-z_]+):-([^}]*)\}", path.read_text()):
        assert found.setdefault(name, default) == default, f"{name} has two defaults"
    return found


def in_bytes(size: str | int) -> int:
    """Read a size such as 512m."""
    units = {"k": 2**10, "m": 2**20, "g": 2**30}
    text = str(size).lower().removesuffix("b")
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)
