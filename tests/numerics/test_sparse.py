"""Compressed interactions against scipy and plain loops."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from rgals.errors import InputError
from rgals.numerics.sparse import InteractionRows


@st.composite
def dense_matrices(draw):
    """A small matrix of weights; zero stands for no interaction."""
    shape = draw(st.tuples(st.integers(0, 6), st.integers(1, 6)))
    n = shape[0] * shape[1]
    values = draw(st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0, 3.0]), min_size=n, max_size=n))
    return np.array(values, dtype=np.float32).reshape(shape)


def rows_of(dense, *, weights=True):
    rows, columns = np.nonzero(dense)
    return InteractionRows.from_pairs(rows, columns, dense[rows, columns] if weights else None, *dense.shape)


def to_dense(rows):
    dense = np.zeros((rows.n_rows, rows.n_columns), dtype=np.float32)
    for row in range(rows.n_rows):
        dense[row, rows.columns_of(row)] = rows.weights_of(row)
    return dense


def assert_well_formed(rows):
    assert rows.indptr.dtype == np.int64
    assert rows.columns.dtype == np.int32
    assert rows.weights is None or rows.weights.dtype == np.float32
    assert rows.indptr[0] == 0
    assert rows.indptr[-1] == rows.columns.size == rows.n_interactions
    for columns in rows.iter_rows():
        assert (np.diff(columns) > 0).all()


@given(dense_matrices(), st.randoms(use_true_random=False))
def test_pairs_in_any_order_give_the_same_rows(dense, random):
    rows, columns = np.nonzero(dense)
    order = list(range(rows.size))
    random.shuffle(order)
    order = np.array(order, dtype=np.int64)
    found = InteractionRows.from_pairs(rows[order], columns[order], dense[rows[order], columns[order]], *dense.shape)
    assert_well_formed(found)
    assert (to_dense(found) == dense).all()
    assert found.degrees.tolist() == np.count_nonzero(dense, axis=1).tolist()


@given(dense_matrices())
def test_transposing_is_the_dense_transpose_and_twice_is_the_identity(dense):
    rows = rows_of(dense)
    transposed = rows.transpose()
    assert_well_formed(transposed)
    assert (to_dense(transposed) == dense.T).all()
    twice = transposed.transpose()
    assert twice.indptr.tolist() == rows.indptr.tolist()
    assert twice.columns.tolist() == rows.columns.tolist()
    assert twice.weights.tolist() == rows.weights.tolist()


@given(dense_matrices(), st.data())
def test_a_slice_is_the_dense_slice_and_a_view(dense, data):
    start = data.draw(st.integers(0, dense.shape[0]))
    stop = data.draw(st.integers(start, dense.shape[0]))
    rows = rows_of(dense)
    part = rows.row_slice(start, stop)
    assert_well_formed(part)
    assert (to_dense(part) == dense[start:stop]).all()
    if part.n_interactions:
        assert np.shares_memory(part.columns, rows.columns)
        assert np.shares_memory(part.weights, rows.weights)


@given(dense_matrices(), st.data())
def test_taking_rows_repeats_and_reorders_them(dense, data):
    if dense.shape[0]:
        wanted = np.array(data.draw(st.lists(st.integers(0, dense.shape[0] - 1), max_size=8)), dtype=np.int64)
        taken = rows_of(dense).take(wanted)
        assert_well_formed(taken)
        assert (to_dense(taken) == dense[wanted]).all()


@given(dense_matrices())
def test_absent_weights_stand_for_one(dense):
    rows = rows_of(dense, weights=False)
    assert (to_dense(rows) == (dense > 0)).all()
    for derived in (rows.transpose(), rows.row_slice(0, rows.n_rows), rows.take(np.arange(rows.n_rows))):
        assert derived.weights is None
    assert (rows.to_scipy().toarray() == (dense > 0)).all()


@given(dense_matrices(), st.sampled_from(["csr", "csc", "coo", "lil"]))
def test_scipy_there_and_back_is_the_identity(dense, layout):
    matrix = scipy.sparse.csr_array(dense).asformat(layout)
    rows = InteractionRows.from_scipy(matrix)
    assert_well_formed(rows)
    assert (to_dense(rows) == dense).all()
    assert (rows.to_scipy().toarray() == dense).all()
    assert (rows.weights is None) == (set(np.unique(dense)) <= {0.0, 1.0})


def test_from_scipy_sums_duplicates_drops_zeros_sorts_and_leaves_the_matrix_alone():
    matrix = scipy.sparse.coo_array(([1.0, 2.0, 0.0, 4.0], ([0, 0, 0, 1], [2, 2, 1, 0])), shape=(2, 3))
    rows = InteractionRows.from_scipy(matrix)
    assert rows.columns.tolist() == [2, 0]
    assert rows.weights.tolist() == [3.0, 4.0]
    unsorted = scipy.sparse.csr_array((np.array([5.0, 6.0]), np.array([1, 0]), np.array([0, 2])), shape=(1, 2))
    assert InteractionRows.from_scipy(unsorted).columns.tolist() == [0, 1]
    assert unsorted.indices.tolist() == [1, 0]


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_a_bad_entry_is_named_by_row_and_column(value):
    dense = np.zeros((4, 5))
    dense[0, 1], dense[2, 3] = 1.0, value
    with pytest.raises(InputError, match="row 2, column 3: expected a finite positive weight"):
        InteractionRows.from_scipy(scipy.sparse.csr_array(dense))


def test_a_weight_beyond_float32_is_refused():
    with (
        np.errstate(over="ignore"),
        pytest.raises(InputError, match="row 0, column 0: expected a finite positive weight"),
    ):
        InteractionRows.from_scipy(scipy.sparse.csr_array(np.array([[1e300]])))


@pytest.mark.parametrize("matrix", [np.eye(2), [[1, 0]], None])
def test_what_is_not_sparse_is_refused(matrix):
    with pytest.raises(InputError, match="expected a scipy sparse matrix"):
        InteractionRows.from_scipy(matrix)


@pytest.mark.parametrize(("indptr_type", "column_type"), [(np.int32, np.int32), (np.int64, np.int64)])
def test_narrow_offsets_and_wide_columns_are_refused(indptr_type, column_type):
    with pytest.raises(InputError, match="expected int64 indptr and int32 columns"):
        InteractionRows(np.zeros(1, indptr_type), np.zeros(0, column_type), None, 3)


def test_offsets_beyond_31_bits_keep_their_value():
    first = 2**31 + 5
    rows = InteractionRows(np.array([first, first + 2, first + 3]), np.zeros(0, dtype=np.int32), None, 9)
    assert rows.n_interactions == 3
    assert rows.degrees.tolist() == [2, 1]
