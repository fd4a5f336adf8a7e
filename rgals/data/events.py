"""From raw batches to events: every row is good, left out by a rule, or rejected with a reason.

A row is rejected for the first reason that holds, in the order user, item, weight, time; so the
counts by reason do not depend on how the rows were cut into batches.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from rgals.data.ingest_options import IngestOptions
from rgals.data.readers import RawBatch
from rgals.data.values import ParsedIds, Problems, parse_ids, parse_numbers, parse_times
from rgals.errors import InputError
from rgals.names import BoolArray, Float64Array, Offsets

__all__ = ["EventBatch", "Reject", "parse_events"]

_LARGEST_WEIGHT = float(np.finfo(np.float32).max)
_SMALLEST_WEIGHT = float(np.finfo(np.float32).tiny)


class Reject(NamedTuple):
    """One rejected row, its raw values as text."""

    source: str
    row: int
    reason: str
    user: str | None
    item: str | None
    weight: str | None
    time: str | None
    line: str | None

    def describe(self) -> str:
        """Say where the row is and what is wrong with it."""
        values = [
            f"{name} {value!r}" for name, value in zip(self._fields[3:], self[3:], strict=True) if value is not None
        ]
        return f"{self.source}, row {self.row}: {self.reason} ({', '.join(values) or 'no values'})"


@dataclass(frozen=True, slots=True)
class EventBatch:
    """The good rows of a batch, and what became of the others.

    Parameters
    ----------
    users, items : ParsedIds
        Ids of the good rows.
    weights : float64 array of shape (n_good,) or None
        Finite and positive; None if there is no weight column.
    times : int64 array of shape (n_good,) or None
        UTC microseconds since 1970; None if there is no time column.
    rows : int64 array of shape (n_good,)
        Row numbers in the file.
    n_read : int
        Rows of the batch, with the malformed.
    n_below_minimum : int
        Good rows left out for their rating.
    rejects : list of Reject
        The rejected rows.
    """

    users: ParsedIds
    items: ParsedIds
    weights: Float64Array | None
    times: Offsets | None
    rows: Offsets
    n_read: int
    n_below_minimum: int
    rejects: list[Reject]


def parse_events(raw: RawBatch, path: str, options: IngestOptions) -> EventBatch:
    """Check every row of a batch and compute its weight.

    Parameters
    ----------
    raw : RawBatch
        Rows of one file.
    path : str
        The file, for messages.
    options : IngestOptions
        Columns and rules.

    Raises
    ------
    InputError
        If a column has a type that cannot hold ids, weights or times.
    """
    problems: Problems = []
    users = _ids(raw, path, options.user_column, "user", options, problems)
    items = _ids(raw, path, options.item_column, "item", options, problems)
    n_rows = raw.rows.size
    weights, times, is_low = None, None, np.zeros(n_rows, dtype=np.bool_)
    if (name := options.weight_column) is not None:
        column = raw.columns[name]
        numbers = parse_numbers(column, "weight")
        if numbers is None:
            raise _wrong_type(path, name, "weights as numbers", column)
        problems += numbers[1]
        lowest = options.minimum_rating if options.grades is None else options.grades[0]
        if lowest is not None:
            is_low = numbers[0] < lowest
        weights = _weigh(_grade(numbers[0], options), options)
        problems += _weight_problems(weights, is_low)
    if (name := options.time_column) is not None:
        parsed = parse_times(raw.columns[name], options.time_unit)
        if parsed is None:
            raise _wrong_type(path, name, "times as numbers, text or timestamps", raw.columns[name])
        times = parsed[0]
        problems += parsed[1]

    codes = np.zeros(n_rows, dtype=np.int64)
    for code, (is_bad, _) in enumerate(problems, 1):
        codes[is_bad & (codes == 0)] = code
    is_accepted = codes == 0
    is_good = is_accepted & ~is_low
    rejects = [Reject(path, bad.row, bad.reason, None, None, None, None, bad.text) for bad in raw.malformed]
    rejects += _describe_rejects(raw, path, options, codes, problems)
    return EventBatch(
        users.take(is_good),
        items.take(is_good),
        None if weights is None else weights[is_good],
        None if times is None else times[is_good],
        raw.rows[is_good],
        n_rows + len(raw.malformed),
        int((is_accepted & is_low).sum()),
        rejects,
    )


def _ids(raw: RawBatch, path: str, name: str, side: str, options: IngestOptions, problems: Problems) -> ParsedIds:
    parsed = parse_ids(raw.columns[name], side, options.id_type)
    if parsed is None:
        raise _wrong_type(path, name, f"{side} ids as text or integers", raw.columns[name])
    problems += parsed[1]
    return parsed[0]


def _wrong_type(path: str, name: str, expected: str, column: pa.Array) -> InputError:
    return InputError(f"{path}: column {name!r}: expected {expected}, found {column.type}; convert it or name another")


def _grade(ratings: Float64Array, options: IngestOptions) -> Float64Array:
    """Replace ratings by their grades; NaN stays NaN."""
    if options.grades is None:
        return ratings
    grades = np.searchsorted(options.grades, ratings, side="right").astype(np.float64)
    return np.where(np.isfinite(ratings), grades, ratings)


def _weigh(ratings: Float64Array, options: IngestOptions) -> Float64Array:
    """Turn ratings into weights; NaN stays NaN."""
    if options.weight_from_rating == "binary":
        return np.where(np.isfinite(ratings), 1.0, np.nan)
    if options.weight_from_rating == "gain":
        with np.errstate(over="ignore"):
            gains: Float64Array = np.exp2(ratings) - 1.0
        return gains
    return ratings


def _weight_problems(weights: Float64Array, is_low: BoolArray) -> Problems:
    """Find weights that the dataset's float32 cannot hold; rows a rule leaves out anyway need none."""
    return [
        (~is_low & (weights < 0), "weight is negative"),
        (~is_low & (weights < _SMALLEST_WEIGHT), "weight is zero"),
        (~is_low & (weights > _LARGEST_WEIGHT), "weight is too large"),
    ]


def _describe_rejects(
    raw: RawBatch, path: str, options: IngestOptions, codes: Offsets, problems: Problems
) -> list[Reject]:
    """Give the rejected rows with their values as they stand in the file."""
    bad = np.flatnonzero(codes)
    if not bad.size:
        return []
    names = (options.user_column, options.item_column, options.weight_column, options.time_column)
    values = [
        [None] * bad.size if name is None else [_as_text(value) for value in raw.columns[name].take(pa.array(bad))]
        for name in names
    ]
    return [
        Reject(path, int(raw.rows[row]), problems[codes[row] - 1][1], user, item, weight, time, None)
        for row, user, item, weight, time in zip(bad, *values, strict=True)
    ]


def _as_text(value: pa.Scalar) -> str | None:
    plain = value.as_py() if not pa.types.is_timestamp(value.type) else str(value)
    if isinstance(plain, bytes):
        return plain.decode(errors="replace")
    return None if plain is None else str(plain)
