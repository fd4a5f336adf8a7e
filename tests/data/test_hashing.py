"""Hashes of ids against a twin in plain Python, and which texts count as integers."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgals.data import hashing
from rgals.data.hashing import hash_ids, hash_numbers, scan_texts

MASK = (1 << 64) - 1
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=24)
NUMBER_LIKE = st.from_regex(r"[+-]?0?[0-9]{0,20}", fullmatch=True)


def twin_of_number(number):
    """Splitmix64 of a number, from its definition."""
    state = ((number & MASK) + 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def is_canonical(text):
    try:
        number = int(text)
    except ValueError:
        return False
    return text.isascii() and str(number) == text and -(1 << 63) <= number < 1 << 63


def twin_of_text(text):
    """FNV-1a with a splitmix finish, or the hash of the number that the text stands for."""
    if is_canonical(text):
        return twin_of_number(int(text))
    state = 0xCBF29CE484222325
    for byte in text.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    return twin_of_number(state)


@settings(deadline=None)
@given(st.lists(INT64))
def test_hashes_of_numbers_equal_the_twin(numbers):
    assert hash_numbers(np.array(numbers, dtype=np.int64)).tolist() == [twin_of_number(n) for n in numbers]


@settings(deadline=None)
@given(st.lists(st.one_of(TEXTS, NUMBER_LIKE, INT64.map(str))))
def test_hashes_of_texts_equal_the_twin(texts):
    scanned = scan_texts(pa.array(texts, pa.string()))
    assert scanned.hashes.tolist() == [twin_of_text(text) for text in texts]
    assert scanned.is_number.tolist() == [is_canonical(text) for text in texts]
    assert scanned.numbers.tolist() == [int(text) if is_canonical(text) else 0 for text in texts]


@pytest.mark.parametrize(
    ("text", "is_number"),
    [
        ("0", True),
        ("-0", False),
        ("007", False),
        ("+7", False),
        ("-7", True),
        ("7 ", False),
        ("", False),
        ("-", False),
        ("9223372036854775807", True),
        ("9223372036854775808", False),
        ("-9223372036854775808", True),
        ("-9223372036854775809", False),
        ("99999999999999999999", False),
        ("1e3", False),
        ("٣", False),
    ],
)
def test_only_the_canonical_form_of_a_64_bit_integer_is_a_number(text, is_number):
    assert scan_texts(pa.array([text])).is_number.tolist() == [is_number]


def test_an_integer_hashes_the_same_as_number_and_as_text():
    numbers = pa.array([0, -1, 42, (1 << 63) - 1])
    assert hash_ids(numbers).tolist() == hash_ids(numbers.cast(pa.string())).tolist()


def test_slices_and_other_arrow_types_hash_the_same():
    texts = pa.array(["a", "bc", None, "17"])
    expected = scan_texts(texts).hashes[1:].tolist()
    for other in (texts[1:], texts.cast(pa.large_string())[1:], texts.cast(pa.binary())[1:]):
        assert scan_texts(other).hashes.tolist() == expected


def test_blank_texts_are_found():
    scanned = scan_texts(pa.array(["", " ", "\t\r\n", None, " x", "\u00a0"]))
    assert scanned.is_blank.tolist() == [True, True, True, True, False, False]


def test_no_texts_give_empty_arrays():
    assert scan_texts(pa.array([], pa.string())).hashes.size == 0
    assert scan_texts(pa.array(["", ""])).numbers.tolist() == [0, 0]


def test_the_kernel_runs_without_its_compiler(monkeypatch):
    texts = pa.array(["a", "-17", "9223372036854775807", "é", ""])
    compiled = scan_texts(texts)
    kernel = hashing._scan
    monkeypatch.setattr(hashing, "_scan", getattr(kernel, "py_func", kernel))
    interpreted = scan_texts(texts)
    assert interpreted.hashes.tolist() == compiled.hashes.tolist()
    assert interpreted.numbers.tolist() == compiled.numbers.tolist()


def test_buckets_of_consecutive_numbers_are_even():
    counts = np.bincount(hash_numbers(np.arange(64_000)) % np.uint64(64), minlength=64)
    assert counts.min() > 850
    assert counts.max() < 1150
