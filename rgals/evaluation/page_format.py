"""Numbers as the report page shows them: short, in words where a sign would need an explanation."""

import math
import re
from collections.abc import Mapping
from typing import Any

__all__ = [
    "UNDEFINED",
    "bytes_text",
    "count",
    "fixed",
    "metric_name",
    "metric_value",
    "option_value",
    "p_value",
    "percent",
    "plain",
    "seconds",
    "short",
    "signed",
    "times",
    "unbroken",
]

UNDEFINED = "—"
"""Stands for a number that is undefined or was not measured."""

_METRIC_NAMES = {"ndcg": "NDCG", "map": "MAP", "mrr": "MRR", "hit_rate": "HitRate"}
_WIDE_COUNT = 10_000
_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def fixed(value: float | None, n_digits: int = 4) -> str:
    """Write a number with a fixed number of decimals."""
    return UNDEFINED if value is None else f"{value:,.{n_digits}f}"


def signed(value: float | None, n_digits: int = 4) -> str:
    """Write a difference with its sign; the minus sign is a real one."""
    if value is None:
        return UNDEFINED
    text = f"{abs(value):,.{n_digits}f}"
    if float(text.replace(",", "")) == 0:
        return text
    return ("+" if value > 0 else "\N{MINUS SIGN}") + text


def short(value: float | None, n_significant: int = 3) -> str:
    """Write a number of any size with a few significant digits."""
    if value is None:
        return UNDEFINED
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if not -5 <= exponent < 9:
        mantissa, _, power = f"{value:.{n_significant - 1}e}".partition("e")
        return f"{mantissa}e{int(power)}".replace("-", "\N{MINUS SIGN}")
    text = f"{value:,.{max(0, n_significant - 1 - exponent)}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def plain(value: float | None) -> str:
    """Write a chosen number, such as an option, without the zeros that say nothing."""
    if value is None:
        return UNDEFINED
    text = f"{value:,.0f}" if value == round(value) and abs(value) < 1e9 else f"{value:.4g}"
    return text.replace("-", "\N{MINUS SIGN}")


def count(value: int | None) -> str:
    """Write a whole number with thousands separated."""
    return UNDEFINED if value is None else f"{value:,}"


def percent(fraction: float | None, n_digits: int = 1) -> str:
    """Write a fraction of 1 in percent."""
    return UNDEFINED if fraction is None else f"{100 * fraction:.{n_digits}f}%"


def seconds(value: float | None) -> str:
    """Write seconds: two or three digits that matter, always in seconds so that rows compare."""
    if value is None:
        return UNDEFINED
    if value >= 100:
        return f"{value:,.0f} s"
    if value >= 10:
        return f"{value:.1f} s"
    return f"{value:.2f} s" if value >= 0.1 or value == 0 else f"{short(value, 2)} s"


def times(ratio: float) -> str:
    """Write a ratio of at least 1 as a number of times."""
    if ratio >= 100:
        n_figures = 10 ** (len(str(int(ratio))) - 2)
        return f"{round(ratio / n_figures) * n_figures:,}"
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}".removesuffix(".0")


def p_value(value: float | None) -> str:
    """Write a p-value; tiny ones as a bound."""
    if value is None:
        return UNDEFINED
    if value < 0.0001:
        return "< 0.0001"
    return f"{value:.4f}" if value < 0.1 else f"{value:.2f}"


def metric_name(key: str) -> str:
    """Write ``ndcg@20`` as NDCG@20."""
    name, at, k = key.partition("@")
    return _METRIC_NAMES.get(name, name.replace("_", " ").capitalize()) + at + k


def metric_value(key: str, value: float | None) -> str:
    """Write the value of a metric: four decimals, but a mean degree with one."""
    if key.startswith("popularity"):
        return fixed(value, 1 if value is None or abs(value) < _WIDE_COUNT else 0)
    return fixed(value)


def option_value(value: Any) -> str:
    """Write an option of a model in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return plain(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {option_value(part)}" for key, part in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(option_value(part) for part in value) or "none"
    return "none" if value is None else str(value)


def unbroken(text: str) -> str:
    """Keep numbers on the line of their unit, and p-values on that of their p."""
    return re.sub(r"(?<=\d) (?=s\b)|(?<=\bp) (?=[=<])|(?<=[=<]) (?=\d)", "\N{NO-BREAK SPACE}", text)


def bytes_text(value: int | None) -> str:
    """Write a number of bytes in the largest unit that keeps it above 1."""
    if value is None:
        return UNDEFINED
    position = min(len(_BYTE_UNITS) - 1, max(0, int(math.log2(value) // 10))) if value > 0 else 0
    return f"{short(value / 1024**position)} {_BYTE_UNITS[position]}"
