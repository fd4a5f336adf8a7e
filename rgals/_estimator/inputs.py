"""What callers of the estimator hand over, checked and translated: matrices, row numbers, list lengths, seeds."""

import operator
import secrets
import warnings
from typing import Any

import numpy as np
import scipy.sparse

from rgals.errors import InputError, RowIndexError
from rgals.names import BoolArray, Offsets
from rgals.numerics.sparse import InteractionRows

__all__ = [
    "check_length",
    "check_shape",
    "interaction_rows",
    "is_single",
    "mask_without",
    "row_numbers",
    "seed_from",
    "thread_count",
    "unique_rows",
]


def interaction_rows(matrix: Any, name: str, *, converts: bool) -> InteractionRows:
    """Convert a scipy sparse matrix into rows of interactions.

    Parameters
    ----------
    matrix : scipy sparse matrix or array
        Weights by row and column, of any boolean, integer or floating type, finite and not negative.
        Duplicates are summed and explicit zeros dropped; the matrix is not modified.
    name : str
        The argument's name, for messages.
    converts : bool
        Whether another sparse format than CSR is converted with a warning; else it is refused.

    Returns
    -------
    InteractionRows
        A copy.

    Raises
    ------
    InputError
        If it is not sparse, not numeric, not CSR where that is asked for, or an entry is negative, NaN or infinite.
    """
    if not scipy.sparse.issparse(matrix):
        raise InputError(
            f"{name}: expected a scipy sparse CSR matrix, found {type(matrix).__name__}; "
            "convert with scipy.sparse.csr_matrix(...)"
        )
    if matrix.ndim != 2:
        raise InputError(
            f"{name}: expected a matrix with rows and columns, found shape {matrix.shape}; reshape it to (1, n_columns)"
        )
    if matrix.format != "csr":
        if not converts:
            raise InputError(f"{name}: expected a CSR matrix, found {matrix.format.upper()}; convert with .tocsr()")
        warnings.warn(
            f"{name}: expected a CSR matrix, found {matrix.format.upper()}, which is converted; "
            "convert once with .tocsr() to save the time",
            scipy.sparse.SparseEfficiencyWarning,
            stacklevel=3,  # the caller of the estimator's method
        )
    if matrix.dtype.kind not in "biuf":
        raise InputError(
            f"{name}: expected numeric weights, found dtype {matrix.dtype}; convert with .astype('float32')"
        )
    if matrix.dtype.kind in "biu":
        # Duplicates are summed in the matrix's own type, where small integers overflow.
        matrix = matrix.astype(np.float64)
    try:
        return InteractionRows.from_scipy(matrix)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def check_shape(rows: InteractionRows, name: str, n_rows: int, n_columns: int, columns: str) -> None:
    """Refuse interactions of another shape than one row per query and one column per known row of the other side.

    Raises
    ------
    InputError
        If the shape differs; a transposed matrix is the usual reason.
    """
    if (rows.n_rows, rows.n_columns) != (n_rows, n_columns):
        raise InputError(
            f"{name}: expected shape {(n_rows, n_columns)}, one row for each one asked about and one column for each "
            f"of the model's {columns}, found {(rows.n_rows, rows.n_columns)}; "
            f"select the rows first, as {name}[[...]], and check that the matrix is not transposed"
        )


def is_single(ids: Any) -> bool:
    """Tell whether one row was asked about instead of an array of rows."""
    return np.ndim(ids) == 0


def row_numbers(ids: Any, name: str, n_rows: int | None) -> Offsets:
    """Give row numbers as an int64 array of one dimension; a single number becomes an array of one.

    Parameters
    ----------
    ids : int or integer array-like of one dimension
        Row numbers.
    name : str
        The argument's name, for messages.
    n_rows : int or None
        How many rows there are; None accepts any number that is not negative.

    Raises
    ------
    InputError
        If they are not integers or have more than one dimension.
    RowIndexError
        If one is negative or not below ``n_rows``.
    """
    array = np.atleast_1d(np.asarray(ids))
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"{name}: expected an integer or integers in one dimension, found {array.dtype} of shape {array.shape}; "
            "pass row numbers of the training matrix"
        )
    is_known = (array >= 0) & (array < n_rows) if n_rows is not None else array >= 0
    if not is_known.all():
        bound = f"from 0 to {n_rows - 1}" if n_rows is not None else "of at least 0"
        raise RowIndexError(
            f"{name}: expected row numbers {bound}, found {int(array[~is_known][0])}; "
            "pass rows that the model was fitted with"
        )
    return array.astype(np.int64)


def unique_rows(ids: Any, name: str, n_rows: int | None) -> Offsets:
    """Give row numbers in the given order, refusing one that is named twice; see `row_numbers`.

    Raises
    ------
    InputError
        If a row is named twice, or as `row_numbers`.
    RowIndexError
        As `row_numbers`.
    """
    rows = row_numbers(ids, name, n_rows)
    values, counts = np.unique(rows, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{name}: expected each row once, found {int(values[counts > 1][0])} {int(counts[counts > 1][0])} times; "
            "merge its interactions into one row"
        )
    return rows


def mask_without(excluded: Any, name: str, n_rows: int) -> BoolArray | None:
    """Give which rows are left when ``excluded`` are taken out; None when that is nobody."""
    if excluded is None or np.size(excluded) == 0:
        return None
    is_left = np.ones(n_rows, dtype=np.bool_)
    is_left[row_numbers(excluded, name, n_rows)] = False
    return is_left


def check_length(n: Any) -> int:
    """Give the list length ``N`` as an int.

    Raises
    ------
    InputError
        If it is not an integer of at least 1.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise InputError(f"N: expected an integer of at least 1, found {n!r}; it is the length of the list")
    return int(n)


def seed_from(random_state: Any) -> int:
    """Turn scikit-learn's ``random_state`` into the seed of the starting factors.

    Parameters
    ----------
    random_state : None, int, numpy Generator or RandomState
        None draws a seed; an int is the seed; a generator is asked for one, and so gives another each time.

    Raises
    ------
    InputError
        If it is something else, or a negative int.
    """
    if random_state is None:
        return secrets.randbits(63)
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**63, dtype=np.uint64))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31))
    if isinstance(random_state, bool) or not isinstance(random_state, int | np.integer) or random_state < 0:
        raise InputError(
            f"random_state: expected None, an integer of at least 0, or a numpy Generator, found {random_state!r}"
        )
    return int(random_state)


def thread_count(n_threads: Any) -> int | None:
    """Give the number of threads, None for all processors, which 0 stands for too as in implicit.

    Raises
    ------
    InputError
        If it is neither None nor an integer of at least 0.
    """
    if n_threads is None:
        return None
    try:
        count = operator.index(n_threads)
    except TypeError:
        count = -1
    if count < 0:
        raise InputError(
            f"n_threads: expected None or an integer of at least 0, found {n_threads!r}; 0 or None uses every processor"
        )
    return count or None
