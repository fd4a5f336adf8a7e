"""Ids by the beginning of their text, without a look at all of them."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgals.data.ids import IdDictionary

integers = st.integers(-(2**63), 2**63 - 1) | st.integers(-1500, 1500)
texts = st.text("ab\u00e9\U0001f600-1", min_size=1, max_size=4)


def found(dictionary: IdDictionary, prefix: str, limit: int = 10**6, start: int = 0) -> list:
    return dictionary.ids_of(dictionary.rows_with_prefix(prefix, limit, start))


@given(st.sets(texts, min_size=1, max_size=30), st.text("ab\u00e9\U0001f600-1", max_size=3))
def test_texts_are_found_by_their_beginning(ids, prefix):
    dictionary = IdDictionary.from_values(pa.array(sorted(ids)))
    assert found(dictionary, prefix) == sorted(each for each in ids if each.startswith(prefix))


@given(
    st.sets(integers, min_size=1, max_size=60),
    st.integers(-2000, 2000).map(str) | st.sampled_from(["", "-", "01", "x"]),
)
def test_integers_are_found_by_the_beginning_of_their_digits(ids, prefix):
    dictionary = IdDictionary.from_values(pa.array(sorted(ids), pa.int64()))
    assert found(dictionary, prefix) == sorted(each for each in ids if str(each).startswith(prefix))


@given(st.sets(integers, min_size=1, max_size=60), st.integers(0, 12), st.integers(0, 12))
def test_pages_of_matches_join_to_all_of_them(ids, start, limit):
    dictionary = IdDictionary.from_values(pa.array(sorted(ids), pa.int64()))
    assert found(dictionary, "1", limit, start) == found(dictionary, "1")[start : start + limit]


@pytest.mark.parametrize("kind", [pa.int64(), pa.string()])
def test_no_ids_no_matches(kind):
    dictionary = IdDictionary.from_values(pa.array([], kind))
    assert found(dictionary, "1") == []
