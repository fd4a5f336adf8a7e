"""What one look at the machine found."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Finding", "Status", "readable_bytes"]

Status: TypeAlias = Literal["ok", "warning", "problem"]
"""``problem``: something will fail or is unsafe; ``warning``: it works, slowly or only on a small scale."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Parameters
    ----------
    name : str
        What was looked at.
    status : {"ok", "warning", "problem"}
        See `Status`.
    found : str
        What is there, with numbers.
    advice : str
        What to do about it; empty where there is nothing to do.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


def readable_bytes(n_bytes: float) -> str:
    """Write a size for people: three digits and a decimal unit.

    Parameters
    ----------
    n_bytes : float
        The size, in bytes.

    Returns
    -------
    str
        Such as ``"7.43 GB"``.
    """
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n_bytes) < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.3g} TB" if abs(n_bytes) < 999.5 else f"{n_bytes:,.0f} TB"
