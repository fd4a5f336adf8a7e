"""Ids, weights and times out of columns of every kind."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgals.data.values import cast_valid, parse_ids, parse_numbers, parse_times


def reasons(problems, n):
    """The first problem of each row."""
    return [next((reason for mask, reason in problems if mask[row]), None) for row in range(n)]


def ids_as_text(ids):
    texts = ids.texts.to_pylist()
    return [str(number) if text is None else text for number, text in zip(ids.numbers, texts, strict=True)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"7", b"42", b"-1"]),
        pa.array([7, 42, -1], pa.int8()),
        pa.array([7, 42, -1], pa.int64()),
        pa.array(["7", "42", "-1"]),
        pa.array(["7", "42", "-1"], pa.large_string()),
        pa.array(["7", "42", "-1"]).dictionary_encode(),
    ],
    ids=str,
)
def test_an_integer_id_is_the_same_in_every_column_type(column):
    ids, problems = parse_ids(column, "user", "auto")
    assert ids.numbers.tolist() == [7, 42, -1]
    assert ids.texts.null_count == 3
    assert reasons(problems, 3) == [None] * 3
    assert ids.hashes.tolist() == parse_ids(pa.array([7, 42, -1]), "user", "auto")[0].hashes.tolist()


@pytest.mark.parametrize(
    ("column", "id_type", "expected"),
    [
        (pa.array([b"7", b"007"]), "auto", [True, False]),
        (pa.array([b"7", b"8"]), "string", [False, False]),
        (pa.array(["7", "8"]), "auto", [False, False]),  # a Parquet column of strings was somebody's choice
        (pa.array(["7", "8"]), "int64", [True, True]),
        (pa.array([7, 8]), "auto", [True, True]),
        (pa.array([7, 8]), "string", [False, False]),
    ],
    ids=str,
)
def test_the_id_type_decides_what_may_become_integers(column, id_type, expected):
    assert parse_ids(column, "user", id_type)[0].can_be_int64.tolist() == expected


def test_texts_that_are_no_canonical_integer_survive_as_they_are():
    ids, problems = parse_ids(pa.array([b"007", b"7", "é".encode(), b" x "]), "user", "auto")
    assert ids_as_text(ids) == ["007", "7", "é", " x "]
    assert reasons(problems, 4) == [None] * 4


def test_each_bad_id_has_its_reason():
    _, problems = parse_ids(pa.array([b"", b"  ", None, b"\xff", b"ok", b"5"]), "item", "int64")
    assert reasons(problems, 6) == [
        "missing item id",
        "missing item id",
        "missing item id",
        "item id is not UTF-8 text",
        "item id is not a 64-bit integer",
        None,
    ]


def test_unsigned_ids_beyond_64_bit_integers_are_a_problem():
    ids, problems = parse_ids(pa.array([1, 1 << 63, None], pa.uint64()), "user", "auto")
    assert ids.numbers.tolist() == [1, 0, 0]
    assert reasons(problems, 3) == [None, "user id is beyond 64-bit integers", "missing user id"]


@pytest.mark.parametrize(
    "kind", [pa.float64(), pa.bool_(), pa.list_(pa.int64()), pa.timestamp("s"), pa.null()], ids=str
)
def test_columns_that_cannot_hold_ids_are_refused(kind):
    assert parse_ids(pa.nulls(2, kind), "user", "auto") is None


def test_numbers_are_read_from_text_with_a_reason_for_each_bad_one():
    texts = [b"4.5", b" 1 ", b"1e-3", b"+2", b"", None, b"four", b"nan", b"-inf", b"1e999", b"\xff", b"1_0"]
    values, problems = parse_numbers(pa.array(texts), "weight")
    assert values[:4].tolist() == [4.5, 1.0, 1e-3, 2.0]
    assert reasons(problems, 12) == [
        *[None] * 4,
        "missing weight",
        "missing weight",
        "weight is not a number",
        "weight is not finite",
        "weight is not finite",
        "weight is not finite",
        "weight is not a number",
        "weight is not a number",
    ]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 3], pa.int32()),
        pa.array([1, 3], pa.uint64()),
        pa.array([1.0, 3.0], pa.float32()),
        pa.array(["1", "3.0"]),
        pa.array([1, 3]).cast(pa.decimal128(24, 2)),
        pa.array([1, 3]).dictionary_encode(),
    ],
    ids=str,
)
def test_numbers_are_read_from_every_numeric_type(column):
    values, problems = parse_numbers(column, "weight")
    assert values.tolist() == [1.0, 3.0]
    assert reasons(problems, 2) == [None, None]


def test_columns_that_cannot_hold_numbers_are_refused():
    assert parse_numbers(pa.array([[1.0]]), "weight") is None
    assert parse_numbers(pa.array([dt.date(2020, 1, 1)]), "weight") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-01-01", 1_577_836_800_000_000),
        ("2020-01-01T00:00:01", 1_577_836_801_000_000),
        ("2020-01-01 00:00:00.5", 1_577_836_800_500_000),
        ("2020-01-01T00:00:00Z", 1_577_836_800_000_000),
        ("2020-01-01T02:00:00+02:00", 1_577_836_800_000_000),
        ("2020-01-01T02:00:00+0200", 1_577_836_800_000_000),
        ("2020-01-01T00:00:00.123456789Z", 1_577_836_800_123_456),
        ("1577836800", 1_577_836_800_000_000),
        ("1577836800.25", 1_577_836_800_250_000),
        (" -1 ", -1_000_000),
        ("1969-12-31T23:59:59Z", -1_000_000),
    ],
)
def test_times_are_read_from_text_as_utc_microseconds(text, expected):
    values, problems = parse_times(pa.array([text.encode()]), "s")
    assert values.tolist() == [expected]
    assert reasons(problems, 1) == [None]


def test_each_bad_time_has_its_reason_and_good_neighbors_survive():
    texts = ["soon", "2020-02-30", "", None, "1e30", "1577836800000", "nan", "12", "2020-01-01T25:00:00"]
    values, problems = parse_times(pa.array(texts), "s")
    unreadable, outside = (
        "time is neither a number nor ISO-8601",
        "time is outside the years 1 to 9999 (is its unit right?)",
    )
    assert reasons(problems, 9) == [
        unreadable,
        unreadable,
        "missing time",
        "missing time",
        outside,
        outside,
        outside,
        None,
        unreadable,
    ]
    assert values[7] == 12_000_000


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        (pa.array([1_577_836_800], pa.int64()), "s"),
        (pa.array([1_577_836_800_000], pa.int64()), "ms"),
        (pa.array([1_577_836_800_000_000], pa.int64()), "us"),
        (pa.array([1_577_836_800_000_000_999], pa.int64()), "ns"),
        (pa.array([1_577_836_800.0]), "s"),
        (pa.array([dt.datetime(2020, 1, 1, tzinfo=dt.UTC)], pa.timestamp("s")), "s"),
        (pa.array([dt.datetime(2020, 1, 1, tzinfo=dt.UTC)], pa.timestamp("ms", "Europe/Paris")), "ms"),
        (pa.array([1_577_836_800_000_000_999]).cast(pa.timestamp("ns", "UTC")), "s"),
        (pa.array([dt.date(2020, 1, 1)]), "s"),
        (pa.array([dt.date(2020, 1, 1)], pa.date64()), "s"),
    ],
    ids=str,
)
def test_times_are_read_from_every_type(column, unit):
    values, problems = parse_times(column, unit)
    assert values.tolist() == [1_577_836_800_000_000]
    assert reasons(problems, 1) == [None]


def test_times_before_1970_in_nanoseconds_round_down_like_those_after():
    assert parse_times(pa.array([-1]), "ns")[0].tolist() == [-1]
    assert parse_times(pa.array([-1]).cast(pa.timestamp("ns")), "s")[0].tolist() == [-1]


def test_integers_that_overflow_microseconds_are_outside_the_range():
    for column in (pa.array([(1 << 63) - 1, -(1 << 63)]), pa.array([1 << 63, 1 << 63], pa.uint64())):
        assert [bool(reason) for reason in reasons(parse_times(column, "s")[1], 2)] == [True, True]


def test_columns_that_cannot_hold_times_are_refused():
    assert parse_times(pa.array([[1]]), "s") is None
    assert parse_times(pa.array([True]), "s") is None


@settings(deadline=None)
@given(st.lists(st.sampled_from(["1", "x", "2.5", None, "nan?", "-3"])))
def test_a_cast_judges_each_value_on_its_own(texts):
    values, is_valid = cast_valid(pa.array(texts, pa.string()), pa.float64())
    alone = [cast_valid(pa.array([text], pa.string()), pa.float64()) for text in texts]
    assert values.to_pylist() == [value.to_pylist()[0] for value, _ in alone]
    assert is_valid.tolist() == [bool(ok[0]) for _, ok in alone]
    assert values.type == pa.float64()
    assert isinstance(is_valid, np.ndarray)
