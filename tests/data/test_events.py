"""Every row of a batch is good, left out by a rule, or rejected with its first reason."""

import numpy as np
import pyarrow as pa
import pytest

from rgals.data.events import parse_events
from rgals.data.ingest_options import IngestOptions
from rgals.data.readers import MalformedRow, RawBatch
from rgals.errors import InputError


def batch(users, items, weights=None, times=None, malformed=()):
    columns = {"user_id": users, "item_id": items, "weight": weights, "time": times}
    arrays = {
        name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in columns.items() if values
    }
    return RawBatch(arrays, np.arange(1, len(users) + 1), list(malformed))


def options(**fields):
    return IngestOptions(**fields)


def test_good_rows_come_with_ids_weights_times_and_row_numbers():
    raw = batch([b"a", b"7"], [5, 6], [2.0, 3.0], [10, 20])
    events = parse_events(raw, "f", options(weight_column="weight", time_column="time"))
    assert events.users.texts.to_pylist() == ["a", None]
    assert events.users.numbers.tolist() == [0, 7]
    assert events.items.numbers.tolist() == [5, 6]
    assert events.weights.tolist() == [2.0, 3.0]
    assert events.times.tolist() == [10_000_000, 20_000_000]
    assert events.rows.tolist() == [1, 2]
    assert (events.n_read, events.n_below_minimum, events.rejects) == (2, 0, [])


def test_without_weight_and_time_columns_there_are_none():
    events = parse_events(batch([1], [2]), "f", options())
    assert events.weights is None
    assert events.times is None


def test_the_first_reason_in_the_order_user_item_weight_time_rejects_a_row():
    raw = batch(
        [b"", b"u", b"u", b"u", b"u"],
        [b"", b"", b"i", b"i", b"i"],
        [b"x", b"x", b"x", b"1", b"1"],
        [b"x", b"x", b"x", b"x", b"1"],
        [MalformedRow(6, "not a JSON object", "{")],
    )
    events = parse_events(raw, "f.jsonl", options(weight_column="weight", time_column="time"))
    assert [(reject.row, reject.reason) for reject in events.rejects] == [
        (6, "not a JSON object"),
        (1, "missing user id"),
        (2, "missing item id"),
        (3, "weight is not a number"),
        (4, "time is neither a number nor ISO-8601"),
    ]
    assert events.rejects[3][3:] == ("u", "i", "x", "x", None)
    assert events.rejects[0].describe() == "f.jsonl, row 6: not a JSON object (line '{')"
    assert "f.jsonl, row 2: missing item id (user 'u', item '', weight 'x'" in events.rejects[2].describe()
    assert events.n_read == 6
    assert events.rows.tolist() == [5]


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (float("nan"), "weight is not finite"),
        (float("inf"), "weight is not finite"),
        (-1.0, "weight is negative"),
        (0.0, "weight is zero"),
        (1e-50, "weight is zero"),
        (1e39, "weight is too large"),
        (None, "missing weight"),
    ],
)
def test_weights_that_no_interaction_can_have_are_rejected(weight, reason):
    events = parse_events(batch([1, 2], [3, 3], [1.0, weight]), "f", options(weight_column="weight"))
    assert [reject.reason for reject in events.rejects] == [reason]
    assert events.weights.tolist() == [1.0]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("linear", [0.5, 5.0]), ("binary", [1.0, 1.0]), ("gain", [2**0.5 - 1, 2**5 - 1])],
)
def test_ratings_become_weights_by_the_rule(rule, expected):
    events = parse_events(
        batch([1, 2], [3, 3], [0.5, 5.0]), "f", options(weight_column="weight", weight_from_rating=rule)
    )
    assert events.weights.tolist() == expected


def test_a_gain_beyond_float32_is_rejected_not_stored_as_infinity():
    events = parse_events(
        batch([1, 1], [2, 3], [200.0, 5000.0]), "f", options(weight_column="weight", weight_from_rating="gain")
    )
    assert [reject.reason for reject in events.rejects] == ["weight is too large", "weight is too large"]


def test_ratings_below_the_minimum_are_left_out_before_they_are_weights():
    raw = batch([1, 2, 3, 4, None], [5] * 5, [-1.0, 0.0, 3.9, 4.0, 1.0])
    events = parse_events(raw, "f", options(weight_column="weight", minimum_rating=4))
    assert events.n_below_minimum == 3
    assert events.weights.tolist() == [4.0]
    assert [reject.reason for reject in events.rejects] == ["missing user id"]


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("user_id", pa.array([1.5]), "user ids as text or integers, found double"),
        ("item_id", pa.array([[1]]), r"item ids as text or integers, found list<item: int64>"),
        ("weight", pa.array([[1]]), "weights as numbers, found list"),
        ("time", pa.array([True]), "times as numbers, text or timestamps, found bool"),
    ],
)
def test_a_column_of_a_wrong_type_is_an_error_that_names_it(column, values, expected):
    columns = {"user_id": pa.array([1]), "item_id": pa.array([1]), "weight": pa.array([1]), "time": pa.array([1])}
    raw = RawBatch({**columns, column: values}, np.ones(1, dtype=np.int64))
    with pytest.raises(InputError, match=f"events.parquet: column '{column}': expected {expected}"):
        parse_events(raw, "events.parquet", options(weight_column="weight", time_column="time"))


def test_text_that_is_not_utf8_is_rejected_and_still_shown():
    (reject,) = parse_events(batch([b"a\xff"], [1]), "f", options()).rejects
    assert (reject.reason, reject.user) == ("user id is not UTF-8 text", "a\ufffd")
