"""Id dictionaries: sorting, lookups, files."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgals.data.ids import IdDictionary
from rgals.data.storage import Folder
from rgals.errors import DataError, InputError, UnknownIdError

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
integers = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(texts, unique=True, max_size=30), st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter_and_rows_follow_utf8_bytes(ids, random):
    shuffled = list(ids)
    random.shuffle(shuffled)
    dictionary = IdDictionary.from_values(pa.array(shuffled, pa.string()))
    assert dictionary == IdDictionary.from_values(pa.array(ids, pa.string()))
    assert dictionary.values.to_pylist() == sorted(ids, key=lambda text: text.encode())


@given(st.lists(texts, unique=True, min_size=1, max_size=40), st.lists(texts, max_size=5))
def test_every_string_finds_its_row_and_no_other_does(ids, others):
    dictionary = IdDictionary.from_values(pa.array(ids, pa.string()))
    ordered = sorted(ids)
    expected = [ordered.index(text) if text in ordered else -1 for text in ids + others]
    assert dictionary.rows_of(ids + others).tolist() == expected
    assert [dictionary.row_of(text) for text in ids] == expected[: len(ids)]
    assert dictionary.ids_of(dictionary.rows_of(ids)) == ids


@given(st.lists(integers, unique=True, min_size=1, max_size=40), st.lists(integers, max_size=5))
def test_every_integer_finds_its_row_and_no_other_does(ids, others):
    dictionary = IdDictionary.from_values(pa.array(ids, pa.int64()))
    ordered = sorted(ids)
    expected = [ordered.index(number) if number in ordered else -1 for number in ids + others]
    wanted = np.array(ids + others, dtype=np.int64)
    assert dictionary.rows_of(wanted).tolist() == expected
    assert dictionary.rows_of([str(number) for number in ids + others]).tolist() == expected
    assert [dictionary.row_of(number) for number in ids] == expected[: len(ids)]
    assert [dictionary.row_of(str(number)) for number in ids] == expected[: len(ids)]


def test_few_lookups_in_many_strings_agree_with_many_lookups():
    ids = [f"item-{number * 7919 % 10007:05d}" for number in range(5000)]
    dictionary = IdDictionary.from_values(pa.array(ids))
    many = dictionary.rows_of([*ids, "item-"])
    assert many[-1] == -1
    for position in (0, 1, 777, 4999):
        assert dictionary.rows_of([ids[position], "item-", "zzz", None]).tolist() == [many[position], -1, -1, -1]


@pytest.mark.parametrize(
    "wanted",
    [
        pa.array(["b", None, "", "a"]),
        pa.array(["b", None, "", "a"], pa.large_string()),
        pa.chunked_array([["b", None], ["", "a"]]),
        pa.array(["b", None, "", "a"]).dictionary_encode(),
        np.array(["b", None, "", "a"], dtype=object),
        ["b", None, "", "a"],
        iter(["b", None, "", "a"]),
    ],
)
def test_ids_of_many_containers_are_looked_up_and_null_and_empty_are_unknown(wanted):
    rows = IdDictionary.from_values(pa.array(["b", "a"])).rows_of(wanted)
    assert rows.dtype == np.int64
    assert rows.tolist() == [1, -1, -1, 0]


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint8, np.uint64])
def test_integers_of_any_width_are_looked_up(dtype):
    dictionary = IdDictionary.from_values(pa.array([5, -3, 100]))
    assert dictionary.rows_of(np.array([100, 7, 5], dtype=dtype)).tolist() == [2, -1, 1]


def test_integers_beyond_64_bits_are_unknown_not_wrapped():
    dictionary = IdDictionary.from_values(pa.array([-1, 0, 2**63 - 1]))
    assert dictionary.rows_of(np.array([2**64 - 1, 2**63 - 1], dtype=np.uint64)).tolist() == [-1, 2]
    assert dictionary.rows_of([str(2**64 - 1), "9" * 30]).tolist() == [-1, -1]
    with pytest.raises(UnknownIdError):
        dictionary.row_of(2**64 - 1)


@pytest.mark.parametrize("text", ["05", "+5", " 5", "5 ", "5.0", "-0", "", "five", "\u0665", "5\n"])
def test_only_the_canonical_text_of_an_integer_names_it(text):
    dictionary = IdDictionary.from_values(pa.array([0, 5]))
    with pytest.raises(UnknownIdError, match="not among the 2 int64 ids"):
        dictionary.row_of(text)
    assert dictionary.rows_of([text]).tolist() == [-1]


def test_integers_find_strings_of_digits():
    dictionary = IdDictionary.from_values(pa.array(["10", "9"]))
    assert dictionary.row_of(9) == 1
    assert dictionary.rows_of([9, 10, 11]).tolist() == [1, 0, -1]


@pytest.mark.parametrize("wanted", [1.5, None, True, b"a"])
def test_a_row_is_asked_for_by_string_or_integer(wanted):
    with pytest.raises(InputError, match="expected a string or an integer"):
        IdDictionary.from_values(pa.array(["a"])).row_of(wanted)


@pytest.mark.parametrize("wanted", [[1.5], np.array([1.5]), ["a", 1], [2**64], [True], pa.array([b"a"]), ["\ud800"]])
def test_ids_that_are_neither_strings_nor_integers_are_refused(wanted):
    with pytest.raises(InputError, match=r"^ids: expected"):
        IdDictionary.from_values(pa.array(["a"])).rows_of(wanted)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array(["a", None]), "1 of 2 are null"),
        (pa.array(["a", ""]), "'' is empty"),
        (pa.array(["a", "b", "a"]), "'a' is empty or there twice"),
        (pa.array([3, 3]), "3 is empty or there twice"),
        (pa.array([1.0]), "expected strings or integers, found double"),
        (pa.array([2**63], pa.uint64()), "beyond 64-bit"),
    ],
)
def test_bad_ids_make_no_dictionary(values, message):
    with pytest.raises(InputError, match=message):
        IdDictionary.from_values(values)


def test_rows_outside_the_dictionary_have_no_id():
    dictionary = IdDictionary.from_values(pa.array(["a", "b"]))
    assert dictionary.ids_of(np.array([1, 0, 1])) == ["b", "a", "b"]
    for rows in ([2], [-1]):
        with pytest.raises(InputError, match="expected 0 to 1"):
            dictionary.ids_of(np.array(rows))


@pytest.mark.parametrize("kind", [pa.string(), pa.int64()])
def test_an_empty_dictionary_knows_nothing(kind, tmp_path):
    dictionary = IdDictionary.from_values(pa.array([], kind))
    assert len(dictionary) == 0
    assert dictionary.rows_of(["1"]).tolist() == [-1]
    assert dictionary.rows_of([]).tolist() == []
    with pytest.raises(UnknownIdError):
        dictionary.row_of("1")
    dictionary.write(Folder.at(tmp_path), "ids.parquet")
    assert IdDictionary.read(Folder.at(tmp_path), "ids.parquet") == dictionary


@pytest.mark.parametrize("values", [pa.array(["b", "ä", "日本", "a"]), pa.array([4, -(2**63), 2**63 - 1], pa.int64())])
def test_write_and_read_is_the_identity_and_the_bytes_are_reproducible(values, tmp_path):
    dictionary = IdDictionary.from_values(values)
    folder = Folder.at(tmp_path)
    dictionary.write(folder, "ids.parquet")
    again = IdDictionary.read(folder, "ids.parquet")
    assert again == dictionary
    assert again.kind == dictionary.kind
    again.write(folder, "again.parquet")
    assert folder.read_bytes("again.parquet") == folder.read_bytes("ids.parquet")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"id": ["b", "a"]}), "expected ascending unique ids"),
        (pa.table({"id": ["a", "a"]}), "expected ascending unique ids"),
        (pa.table({"id": ["", "a"]}), "expected ascending unique ids"),
        (pa.table({"id": ["a", None]}), "expected ascending unique ids"),
        (pa.table({"id": [0.5]}), "expected strings or integers"),
        (pa.table({"other": ["a"]}), "not a readable file of ids"),
    ],
)
def test_a_file_that_is_no_dictionary_is_refused_with_its_path(table, message, tmp_path):
    pq.write_table(table, tmp_path / "ids.parquet")
    with pytest.raises(DataError, match=message) as caught:
        IdDictionary.read(Folder.at(tmp_path), "ids.parquet")
    assert str(tmp_path / "ids.parquet") in str(caught.value)


def test_a_truncated_or_missing_file_is_a_data_error(tmp_path):
    folder = Folder.at(tmp_path)
    with pytest.raises(DataError, match="missing"):
        IdDictionary.read(folder, "ids.parquet")
    IdDictionary.from_values(pa.array(["a", "b"])).write(folder, "ids.parquet")
    content = folder.read_bytes("ids.parquet")
    folder.write_bytes("ids.parquet", content[: len(content) // 2])
    with pytest.raises(DataError, match="not a readable file of ids"):
        IdDictionary.read(folder, "ids.parquet")
