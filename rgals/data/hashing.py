"""Stable 64-bit hashes of ids, and the scan that tells integers in text form from other text.

The hash of an id depends on the id alone: not on the machine, the process, the file it came from,
or whether an integer was stored as a number or as text. Buckets of an ingest and random splits are
keyed by it, so neither moves when a file is converted from CSV to Parquet.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rgals.names import BoolArray, Offsets
from rgals.numerics.compile import kernel

__all__ = ["ScannedTexts", "hash_ids", "hash_numbers", "scan_texts"]

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_MIX_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_MIX_SECOND = np.uint64(0x94D049BB133111EB)
_SHIFT_30, _SHIFT_27, _SHIFT_31 = np.uint64(30), np.uint64(27), np.uint64(31)


@dataclass(frozen=True, slots=True)
class ScannedTexts:
    """What a scan of texts found.

    Parameters
    ----------
    hashes : uint64 array of shape (n,)
        The hash of the number where the text is one, else of its bytes.
    numbers : int64 array of shape (n,)
        The value where ``is_number``, else 0.
    is_number : bool array of shape (n,)
        Whether the text is the canonical form of a 64-bit integer: ``str(int(text)) == text``, so
        neither ``007`` nor ``+7`` nor ``-0``.
    is_blank : bool array of shape (n,)
        Whether the text is empty or only white space.
    """

    hashes: NDArray[np.uint64]
    numbers: Offsets
    is_number: BoolArray
    is_blank: BoolArray


def hash_numbers(numbers: Offsets) -> NDArray[np.uint64]:
    """Hash int64 ids of any shape with the splitmix64 finalizer.

    References
    ----------
    .. [1] Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    state = numbers.astype(np.int64).view(np.uint64) + _MIX_STEP
    state = (state ^ (state >> _SHIFT_30)) * _MIX_FIRST
    state = (state ^ (state >> _SHIFT_27)) * _MIX_SECOND
    return state ^ (state >> _SHIFT_31)


def scan_texts(texts: pa.Array) -> ScannedTexts:
    """Hash texts and find the integers among them, in one pass over the Arrow buffers.

    Parameters
    ----------
    texts : Arrow array of string, large_string, binary or large_binary, of length n
        The texts as UTF-8; a null counts as the empty text.

    Returns
    -------
    ScannedTexts
        Four arrays of shape (n,).
    """
    plain = texts.cast(pa.large_binary())
    if plain.null_count:
        plain = plain.fill_null(b"")
    n = len(plain)
    hashes, numbers = np.zeros(n, dtype=np.uint64), np.zeros(n, dtype=np.int64)
    is_number, is_blank = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
    if n:
        _, offset_buffer, data_buffer = plain.buffers()
        offsets = np.frombuffer(offset_buffer, dtype=np.int64)[plain.offset : plain.offset + n + 1]
        data = np.frombuffer(data_buffer, dtype=np.uint8) if data_buffer else np.zeros(0, dtype=np.uint8)
        with np.errstate(over="ignore"):  # products of hashes wrap; only uncompiled kernels would warn
            _scan(offsets, data, hashes, numbers, is_number, is_blank)
        hashes[is_number] = hash_numbers(numbers[is_number])
    return ScannedTexts(hashes, numbers, is_number, is_blank)


def hash_ids(ids: pa.Array) -> NDArray[np.uint64]:
    """Hash the ids of a dictionary: an Arrow array of int64 or of strings, without nulls."""
    if pa.types.is_integer(ids.type):
        return hash_numbers(ids.cast(pa.int64()).to_numpy(zero_copy_only=False))
    return scan_texts(ids).hashes


@kernel
def _scan(
    offsets: Offsets,
    data: "NDArray[np.uint8]",
    hashes: "NDArray[np.uint64]",
    numbers: Offsets,
    is_number: BoolArray,
    is_blank: BoolArray,
) -> None:
    """FNV-1a with a splitmix finish over each text, and its value if it is a canonical integer."""
    for i in range(hashes.size):
        start, stop = offsets[i], offsets[i + 1]
        state = _FNV_OFFSET
        blank = True
        for position in range(start, stop):
            byte = data[position]
            state = (state ^ np.uint64(byte)) * _FNV_PRIME
            blank = blank and (byte == 32 or 9 <= byte <= 13)
        state = state + _MIX_STEP
        state = (state ^ (state >> _SHIFT_30)) * _MIX_FIRST
        state = (state ^ (state >> _SHIFT_27)) * _MIX_SECOND
        hashes[i] = state ^ (state >> _SHIFT_31)
        is_blank[i] = blank

        first = start
        negative = stop > start and data[start] == 45
        if negative:
            first += 1
        n_digits = stop - first
        # At most 19 digits fit; a leading zero is canonical only in "0" itself.
        if n_digits < 1 or n_digits > 19 or (data[first] == 48 and (n_digits > 1 or negative)):
            continue
        value = np.int64(0)  # built up as a negative number, whose range is the larger by one
        fits = True
        for position in range(first, stop):
            digit = np.int64(data[position]) - np.int64(48)
            if digit < 0 or digit > 9 or value < -922337203685477580:
                fits = False
                break
            if value == -922337203685477580 and (digit > 8 or (digit == 8 and not negative)):
                fits = False
                break
            value = value * np.int64(10) - digit
        if fits:
            numbers[i] = value if negative else -value
            is_number[i] = True
