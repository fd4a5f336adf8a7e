"""What callers hand over, checked and translated: ids to rows and back, list lengths."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

import numpy as np

from rgals.artifact.contents import Id
from rgals.data.ids import IdDictionary
from rgals.errors import InputError, UnknownIdError
from rgals.names import IntArray, Offsets

__all__ = ["check_k", "find_rows", "ids_of_rows", "several_ids"]

_FEW_IDS = 16


def check_k(k: int, n_rows: int | None, what: str) -> None:
    """Refuse a list length outside 1 to the number of rows.

    Parameters
    ----------
    k : int
        The length asked for.
    n_rows : int or None
        How many there are; None allows any length of at least 1.
    what : str
        What they are, for the message: ``"items"``, ``"users"``.

    Raises
    ------
    InputError
        If ``k`` is not an integer in that range.
    """
    is_integer = isinstance(k, int | np.integer) and not isinstance(k, bool)
    if not is_integer or k < 1 or (n_rows is not None and k > n_rows):
        most = "on" if n_rows is None else f"to {n_rows}, the number of {what}"
        raise InputError(f"k: expected an integer from 1 {most}, found {k!r}")


def several_ids(name: str, ids: Iterable[Id]) -> list[Id]:
    """List ids as Python strings and integers; a bare id is refused.

    Raises
    ------
    InputError
        If ``ids`` is one string or number: a string would be taken apart into its letters.
    """
    if isinstance(ids, str | bytes | int | np.integer):
        raise InputError(f"{name}: expected several ids, found {ids!r}; pass a list: [{ids!r}]")
    if isinstance(ids, np.ndarray):
        return list(ids.tolist())
    return list(ids.to_pylist()) if hasattr(ids, "to_pylist") else list(ids)


def find_rows(dictionary: IdDictionary, ids: Sequence[Id]) -> Offsets:
    """Give the row of each id, int64, -1 where unknown; integer ids may be given as text.

    Raises
    ------
    InputError
        If an id is neither text nor an integer.
    """
    if len(ids) > _FEW_IDS and None not in ids:
        # All at once is far cheaper, but wants all ids of one type; where they are not, one by one.
        with suppress(InputError):
            return dictionary.rows_of(ids)
    rows = np.full(len(ids), -1, dtype=np.int64)
    for position, wanted in enumerate(ids):
        with suppress(UnknownIdError):
            rows[position] = dictionary.row_of(wanted)
    return rows


def ids_of_rows(dictionary: IdDictionary, rows: IntArray) -> list[Id]:
    """Give the ids of rows as Python strings or integers."""
    return list(dictionary.ids_of(rows))
