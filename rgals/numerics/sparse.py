"""Interactions of consecutive rows, compressed: the one sparse layout of rgals."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from rgals.errors import InputError
from rgals.names import Offsets, Rows, Weights

__all__ = ["InteractionRows"]


@dataclass(frozen=True, slots=True)
class InteractionRows:
    """The interactions of ``n_rows`` consecutive rows with ``n_columns`` columns.

    Unlike scipy's CSR, offsets are always int64 and columns always int32, whatever the size, and
    the weights can be absent.

    Parameters
    ----------
    indptr : int64 array of shape (n_rows + 1,)
        Row ``r`` holds the entries from ``indptr[r]`` to ``indptr[r + 1]``.
    columns : int32 array of shape (n_interactions,)
        Column of each entry; ascending and unique within a row.
    weights : float32 array of shape (n_interactions,) or None
        Weight of each entry, finite and positive; None stands for 1 everywhere.
    n_columns : int
        Number of columns that exist, observed or not.
    """

    indptr: Offsets
    columns: Rows
    weights: Weights | None
    n_columns: int

    def __post_init__(self) -> None:
        if self.indptr.dtype != np.int64 or self.columns.dtype != np.int32:
            raise InputError(
                "InteractionRows: expected int64 indptr and int32 columns, found "
                f"{self.indptr.dtype} and {self.columns.dtype}; use InteractionRows.from_scipy to convert"
            )

    @property
    def n_rows(self) -> int:
        """Number of rows, with or without interactions."""
        return self.indptr.size - 1

    @property
    def n_interactions(self) -> int:
        """Number of stored entries."""
        return int(self.indptr[-1] - self.indptr[0])

    @property
    def degrees(self) -> Offsets:
        """Number of interactions of each row, int64 of shape (n_rows,)."""
        return np.diff(self.indptr)

    def columns_of(self, row: int) -> Rows:
        """Give the columns of one row, ascending; a view."""
        return self.columns[self.indptr[row] : self.indptr[row + 1]]

    def weights_of(self, row: int) -> Weights:
        """Give the weights of one row, in the order of its columns."""
        start, stop = self.indptr[row], self.indptr[row + 1]
        if self.weights is None:
            return np.ones(int(stop - start), dtype=np.float32)
        return self.weights[start:stop]

    def row_slice(self, start: int, stop: int) -> "InteractionRows":
        """Give rows ``start`` to ``stop`` with offsets that begin at 0; columns and weights are views."""
        first, last = self.indptr[start], self.indptr[stop]
        return InteractionRows(
            self.indptr[start : stop + 1] - first,
            self.columns[first:last],
            None if self.weights is None else self.weights[first:last],
            self.n_columns,
        )

    def take(self, rows: Offsets | Rows) -> "InteractionRows":
        """Give the named rows, in the given order, as a copy."""
        counts = self.degrees[rows]
        indptr = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(counts, out=indptr[1:])
        positions = np.repeat(self.indptr[:-1][rows] - indptr[:-1], counts) + np.arange(indptr[-1])
        return InteractionRows(
            indptr,
            self.columns[positions],
            None if self.weights is None else self.weights[positions],
            self.n_columns,
        )

    def transpose(self) -> "InteractionRows":
        """Give the same interactions with rows and columns exchanged, columns ascending in each row."""
        order = np.argsort(self.columns, kind="stable")
        row_of_entry = np.repeat(np.arange(self.n_rows, dtype=np.int32), self.degrees)
        indptr = np.zeros(self.n_columns + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.columns, minlength=self.n_columns), out=indptr[1:])
        return InteractionRows(
            indptr,
            row_of_entry[order],
            None if self.weights is None else self.weights[order],
            self.n_rows,
        )

    def iter_rows(self) -> Iterator[Rows]:
        """Go through the rows, giving each row's columns."""
        for row in range(self.n_rows):
            yield self.columns_of(row)

    @classmethod
    def from_pairs(
        cls,
        rows: "np.ndarray[Any, Any]",
        columns: "np.ndarray[Any, Any]",
        weights: "np.ndarray[Any, Any] | None",
        n_rows: int,
        n_columns: int,
    ) -> "InteractionRows":
        """Sort unordered unique (row, column) pairs into rows.

        Parameters
        ----------
        rows, columns : integer arrays of shape (n_interactions,)
            Row and column of each interaction; a pair occurs at most once.
        weights : float array of shape (n_interactions,) or None
            Weight of each interaction.
        n_rows, n_columns : int
            The shape.
        """
        order = np.lexsort((columns, rows))
        indptr = np.zeros(n_rows + 1, dtype=np.int64)
        np.cumsum(np.bincount(rows, minlength=n_rows), out=indptr[1:])
        return cls(
            indptr,
            np.ascontiguousarray(columns[order], dtype=np.int32),
            None if weights is None else np.ascontiguousarray(weights[order], dtype=np.float32),
            n_columns,
        )

    @classmethod
    def from_scipy(cls, matrix: Any) -> "InteractionRows":
        """Convert a scipy sparse matrix or array; duplicates are summed, explicit zeros dropped.

        Raises
        ------
        InputError
            If an entry is negative, NaN, infinite or outside the range of float32, or ``matrix`` is not sparse.
        """
        if not scipy.sparse.issparse(matrix):
            raise InputError(
                f"expected a scipy sparse matrix of users by items, found {type(matrix).__name__}; "
                "convert with scipy.sparse.csr_array(...)"
            )
        # Summing duplicates in a small integer type could overflow.
        csr = scipy.sparse.csr_array(matrix, dtype=np.float64, copy=True)
        csr.sum_duplicates()
        csr.eliminate_zeros()
        csr.sort_indices()
        with np.errstate(over="ignore"):
            values = csr.data.astype(np.float32)
        is_bad = ~np.isfinite(values) | (values <= 0)
        if is_bad.any():
            position = int(np.flatnonzero(is_bad)[0])
            row = int(np.searchsorted(csr.indptr, position, side="right")) - 1
            raise InputError(
                f"row {row}, column {int(csr.indices[position])}: expected a finite positive weight, "
                f"found {csr.data[position]}; drop such entries or map them to positive weights"
            )
        is_plain = bool((values == 1).all())
        return cls(
            csr.indptr.astype(np.int64),
            csr.indices.astype(np.int32),
            None if is_plain else values,
            int(csr.shape[1]),
        )

    def to_scipy(self) -> "scipy.sparse.csr_array":
        """Convert to a float32 scipy CSR array of shape (n_rows, n_columns)."""
        values = np.ones(self.n_interactions, np.float32) if self.weights is None else self.weights
        return scipy.sparse.csr_array((values, self.columns, self.indptr), shape=(self.n_rows, self.n_columns))
