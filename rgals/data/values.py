"""Ids, weights and times out of Arrow columns, with a mask for every way a value can be wrong.

Nothing here raises for a bad value: each parser gives the values and a list of (mask, reason). A
column whose type cannot hold the values at all gives None, which the caller reports as an error.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rgals.data.hashing import hash_numbers, scan_texts
from rgals.names import BoolArray, Float64Array, Offsets

__all__ = ["IdType", "ParsedIds", "Problems", "TimeUnit", "cast_valid", "parse_ids", "parse_numbers", "parse_times"]

IdType: TypeAlias = Literal["auto", "int64", "string"]
TimeUnit: TypeAlias = Literal["s", "ms", "us", "ns"]
Problems: TypeAlias = list[tuple[BoolArray, str]]

_INTEGER = r"^-?\d{1,18}$"
_ISO_DATE = r"^\d{4}-\d{2}-\d{2}"
_ZONED = r"[T ].*(Z|[+-]\d{2}(:?\d{2})?)$"
_PER_SECOND: dict[TimeUnit, int] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_MICROSECONDS = 1_000_000
# The years 1 and 9999: beyond them a time was almost surely written in another unit.
_FIRST_TIME, _LAST_TIME = -62_135_596_800 * _MICROSECONDS, 253_402_300_800 * _MICROSECONDS


@dataclass(frozen=True, slots=True)
class ParsedIds:
    """The ids of some rows: a number where the id is a 64-bit integer, else a text.

    Parameters
    ----------
    hashes : uint64 array of shape (n,)
        Stable hash of each id.
    numbers : int64 array of shape (n,)
        The number, 0 where the id is text.
    texts : Arrow string array of length n
        The text, null where the id is a number.
    can_be_int64 : bool array of shape (n,)
        Whether the id may go into a dictionary of integers.
    """

    hashes: NDArray[np.uint64]
    numbers: Offsets
    texts: pa.Array
    can_be_int64: BoolArray

    def take(self, is_taken: BoolArray) -> "ParsedIds":
        """Give the ids of the marked rows."""
        if is_taken.all():
            return self
        return ParsedIds(
            self.hashes[is_taken],
            self.numbers[is_taken],
            self.texts.filter(pa.array(is_taken)),
            self.can_be_int64[is_taken],
        )


def parse_ids(column: pa.Array, side: str, id_type: IdType) -> tuple[ParsedIds, Problems] | None:
    """Split ids into numbers and texts.

    Parameters
    ----------
    column : Arrow array of length n
        Integers, strings, binary (the text of a CSV or JSON Lines file), or a dictionary of these.
    side : {"user", "item"}
        For the reasons.
    id_type : {"auto", "int64", "string"}
        ``auto`` lets binary become integers where every id is one, but not strings, whose type was
        a choice; ``int64`` makes every other id a problem.

    Returns
    -------
    tuple of ParsedIds and Problems, or None
        None if the column's type cannot hold ids.

    Notes
    -----
    Text that is the canonical form of a 64-bit integer is stored as that number, so an id is the
    same whether one file holds it as text and another as an integer.
    """
    column = _plain(column)
    is_null = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_integer(column.type):
        signed, fits = cast_valid(column, pa.int64())
        numbers = signed.fill_null(0).to_numpy(zero_copy_only=False)
        n = numbers.size
        ids = ParsedIds(hash_numbers(numbers), numbers, pa.nulls(n, pa.string()), np.full(n, id_type != "string"))
        return ids, [(is_null, f"missing {side} id"), (~fits, f"{side} id is beyond 64-bit integers")]
    if not _is_text(column.type):
        return None
    scanned = scan_texts(column)
    texts, is_utf8 = cast_valid(column, pa.string())
    if scanned.is_number.all():
        texts = pa.nulls(len(column), pa.string())
    elif scanned.is_number.any():
        texts = pc.if_else(pa.array(scanned.is_number), pa.scalar(None, pa.string()), texts)
    problems: Problems = [
        (is_null | scanned.is_blank, f"missing {side} id"),
        (~is_utf8, f"{side} id is not UTF-8 text"),
    ]
    can_be_int64 = scanned.is_number
    if id_type == "int64":
        problems.append((~can_be_int64, f"{side} id is not a 64-bit integer"))
    elif id_type == "string" or not pa.types.is_binary(column.type):
        can_be_int64 = np.zeros(len(column), dtype=np.bool_)
    return ParsedIds(scanned.hashes, scanned.numbers, texts, can_be_int64), problems


def parse_numbers(column: pa.Array, name: str) -> tuple[Float64Array, Problems] | None:
    """Read weights or ratings as float64.

    Parameters
    ----------
    column : Arrow array of length n
        Numbers, booleans or text.
    name : str
        For the reasons, such as ``weight``.

    Returns
    -------
    tuple of float64 array of shape (n,) and Problems, or None
        NaN where there is a problem. None if the column's type cannot hold numbers.
    """
    column = _plain(column)
    is_null = column.is_null().to_numpy(zero_copy_only=False)
    is_number = np.ones(len(column), dtype=np.bool_)
    if _is_text(column.type):
        trimmed, _ = cast_valid(column, pa.string())
        trimmed = pc.ascii_trim_whitespace(trimmed.fill_null("�"))
        is_null = is_null | pc.equal(trimmed, "").to_numpy(zero_copy_only=False)
        column, is_number = cast_valid(trimmed, pa.float64())
    elif not (
        pa.types.is_integer(column.type)
        or pa.types.is_floating(column.type)
        or pa.types.is_decimal(column.type)
        or pa.types.is_boolean(column.type)
        or pa.types.is_null(column.type)
    ):
        return None
    # An integer above 2^53 loses digits here, as it would in any weight.
    values = column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)
    is_finite = np.isfinite(values)
    return values, [
        (is_null, f"missing {name}"),
        (~is_number, f"{name} is not a number"),
        (~is_finite, f"{name} is not finite"),
    ]


def parse_times(column: pa.Array, unit: TimeUnit) -> tuple[Offsets, Problems] | None:
    """Read times as UTC microseconds since 1970.

    Parameters
    ----------
    column : Arrow array of length n
        Numbers in ``unit`` since 1970-01-01 UTC, Arrow timestamps or dates, or text that is such a
        number or an ISO-8601 date or time. A time without a zone is UTC.
    unit : {"s", "ms", "us", "ns"}
        The unit of numbers. Fractions of a microsecond are cut off.

    Returns
    -------
    tuple of int64 array of shape (n,) and Problems, or None
        0 where there is a problem. None if the column's type cannot hold times.
    """
    column = _plain(column)
    is_null = column.is_null().to_numpy(zero_copy_only=False)
    is_time = np.ones(len(column), dtype=np.bool_)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        values, in_range = _scale_integers(column.cast(pa.int64()), column.type.unit)
    elif pa.types.is_integer(column.type):
        values, in_range = _scale_integers(column, unit)
    elif pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        values, in_range = _scale_floats(column.cast(pa.float64(), safe=False), unit)
    elif _is_text(column.type):
        texts, _ = cast_valid(column, pa.string())
        texts = pc.ascii_trim_whitespace(texts.fill_null("�"))
        is_null = is_null | pc.equal(texts, "").to_numpy(zero_copy_only=False)
        values, is_time, in_range = _times_of_texts(texts, unit)
    elif pa.types.is_null(column.type):
        values, in_range = np.zeros(len(column), dtype=np.int64), is_time
    else:
        return None
    in_range = in_range & (values >= _FIRST_TIME) & (values < _LAST_TIME)
    return values, [
        (is_null, "missing time"),
        (~is_time, "time is neither a number nor ISO-8601"),
        (~in_range, "time is outside the years 1 to 9999 (is its unit right?)"),
    ]


def cast_valid(column: pa.Array, target: pa.DataType) -> tuple[pa.Array, BoolArray]:
    """Cast what can be cast.

    Returns
    -------
    tuple of Arrow array and bool array
        The values, null where a value cannot be cast; and whether each value could be (nulls can).
        Each value is judged on its own: the result does not depend on its neighbors.
    """
    try:
        return column.cast(target), np.ones(len(column), dtype=np.bool_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        if len(column) == 1:
            return pa.nulls(1, target), np.zeros(1, dtype=np.bool_)
    middle = len(column) // 2
    left, left_ok = cast_valid(column[:middle], target)
    right, right_ok = cast_valid(column[middle:], target)
    return pa.concat_arrays([left, right]), np.concatenate([left_ok, right_ok])


def _times_of_texts(texts: pa.Array, unit: TimeUnit) -> tuple[Offsets, BoolArray, BoolArray]:
    """Give the times of texts, whether each is a time, and whether it is in range."""
    values = np.zeros(len(texts), dtype=np.int64)
    is_time, in_range = np.zeros(len(texts), dtype=np.bool_), np.ones(len(texts), dtype=np.bool_)
    is_iso = _matches(texts, _ISO_DATE)
    is_zoned = is_iso & _matches(texts, _ZONED)
    is_integer = ~is_iso & _matches(texts, _INTEGER)
    is_float = ~is_iso & ~is_integer
    if is_integer.any():
        values[is_integer], in_range[is_integer] = _scale_integers(
            texts.filter(pa.array(is_integer)).cast(pa.int64()), unit
        )
    if is_float.any():
        numbers, is_time[is_float] = cast_valid(texts.filter(pa.array(is_float)), pa.float64())
        values[is_float], in_range[is_float] = _scale_floats(numbers, unit)
    is_time |= is_integer
    for mask, zone in ((is_zoned, "UTC"), (is_iso & ~is_zoned, None)):
        if mask.any():
            cut = pc.replace_substring_regex(texts.filter(pa.array(mask)), r"(\.\d{6})\d+", r"\1")
            times, is_time[mask] = cast_valid(cut, pa.timestamp("us", zone))
            values[mask] = times.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return values, is_time, in_range


def _scale_integers(column: pa.Array, unit: TimeUnit) -> tuple[Offsets, BoolArray]:
    """Turn integers in a unit into microseconds, exactly; 0 and False where they overflow."""
    signed, fits = cast_valid(column, pa.int64())
    numbers = signed.fill_null(0).to_numpy(zero_copy_only=False)
    per_second = _PER_SECOND[unit]
    if per_second > _MICROSECONDS:
        return numbers // (per_second // _MICROSECONDS), fits
    factor = _MICROSECONDS // per_second
    fits = fits & (np.abs(numbers // 2) <= np.iinfo(np.int64).max // factor // 2)
    return np.where(fits, numbers, 0) * factor, fits


def _scale_floats(column: pa.Array, unit: TimeUnit) -> tuple[Offsets, BoolArray]:
    """Turn floats in a unit into microseconds; 0 and False where they are not finite or too large."""
    numbers = column.fill_null(0.0).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        scaled = numbers * (_MICROSECONDS / _PER_SECOND[unit])
    fits = np.isfinite(scaled) & (np.abs(scaled) < 2.0**62)
    return np.where(fits, np.floor(np.where(fits, scaled, 0.0) + 0.5), 0.0).astype(np.int64), fits


def _matches(texts: pa.Array, pattern: str) -> BoolArray:
    matched: BoolArray = pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False)
    return matched


def _plain(column: pa.Array) -> pa.Array:
    """Give a dictionary-encoded column as plain values."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _is_text(data_type: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(data_type)
        or pa.types.is_large_string(data_type)
        or pa.types.is_binary(data_type)
        or pa.types.is_large_binary(data_type)
    )
