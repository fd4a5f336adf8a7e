import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgals.artifact.arguments import check_k, find_rows, ids_of_rows, several_ids
from rgals.artifact.contents import gather_rows
from rgals.data.ids import IdDictionary
from rgals.errors import InputError
from rgals.numerics.sparse import InteractionRows

NUMBERS = IdDictionary.from_values(pa.array([-7, 0, 3, 12, 2**63 - 1]))
WORDS = IdDictionary.from_values(pa.array(["12", "a", "b", "é"]))


@settings(deadline=None)
@given(
    st.sampled_from([NUMBERS, WORDS]),
    st.lists(
        st.sampled_from([-7, 0, 3, 12, 13, 2**63 - 1, 2**63, "-7", "12", "012", "13", "a", "é", "e", "", "9" * 30]),
        max_size=40,
    ),
)
def test_ids_are_found_alike_few_or_many_and_of_one_type_or_mixed(dictionary, ids):
    rows = find_rows(dictionary, ids)
    assert rows.dtype == np.int64
    assert rows.tolist() == [int(find_rows(dictionary, [wanted])[0]) for wanted in ids]
    known = {str(value): row for row, value in enumerate(dictionary.values.to_pylist())}
    assert rows.tolist() == [known.get(str(wanted), -1) for wanted in ids]


@pytest.mark.parametrize("n_others", [0, 40])
def test_what_is_no_id_is_refused(n_others):
    for wrong in (1.5, None, b"a", True):
        with pytest.raises(InputError, match="expected a string or an integer"):
            find_rows(NUMBERS, [wrong, *[3] * n_others])


def test_rows_go_back_to_plain_ids():
    assert ids_of_rows(NUMBERS, np.array([2, 0])) == [3, -7]
    assert ids_of_rows(WORDS, np.array([3])) == ["é"]
    assert ids_of_rows(WORDS, np.array([], dtype=np.int64)) == []


@pytest.mark.parametrize(
    "ids",
    [["a", "b"], ("a", "b"), np.array(["a", "b"]), pa.array(["a", "b"]), pa.chunked_array([["a"], ["b"]]), iter("ab")],
)
def test_several_ids_come_in_any_container(ids):
    listed = several_ids("users", ids)
    assert listed == ["a", "b"]
    assert {type(entry) for entry in listed} == {str}


@pytest.mark.parametrize("bare", ["ab", 12, np.int64(12), b"ab"])
def test_a_bare_id_is_refused(bare):
    with pytest.raises(InputError, match=r"users: expected several ids, found .*; pass a list"):
        several_ids("users", bare)


def test_a_list_length_is_an_integer_in_range():
    for k in (1, 5, np.int32(3)):
        check_k(k, 5, "items")
    for k in (0, 6, -1, 1.0, "1", None, True):
        with pytest.raises(InputError, match="k: expected an integer from 1 to 5, the number of items"):
            check_k(k, 5, "items")


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 6), unique=True, max_size=5).map(sorted), min_size=1, max_size=6),
    st.data(),
    st.booleans(),
)
def test_gathered_rows_are_the_rows_one_by_one(lists, data, has_weights):
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in lists])]).astype(np.int64)
    columns = np.array([column for row in lists for column in row], dtype=np.int32)
    weights = np.arange(1, columns.size + 1, dtype=np.float32) if has_weights else None
    rows = InteractionRows(indptr, columns, weights, 7)
    wanted = np.array(data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=8)), dtype=np.int64)
    gathered = gather_rows(rows, wanted)
    assert (gathered.n_rows, gathered.n_columns) == (wanted.size, 7)
    for position, row in enumerate(wanted):
        assert gathered.columns_of(position).tolist() == lists[row]
        assert gathered.weights_of(position).tolist() == rows.weights_of(int(row)).tolist()
