"""The inverse of a large symmetric positive definite matrix, in place, in tiles.

LAPACK's own threads are not used: OpenBLAS 0.3.30 ends the process with a segmentation fault in ``spotrf`` at some
30,000 rows and two threads. Tiles over plain threads, each with one BLAS thread, are as fast, and no bit depends on how
many threads there are.
"""

from functools import partial

import numpy as np
from scipy.linalg import lapack

from rgals.errors import NumericalError
from rgals.names import Factors
from rgals.numerics.compile import kernel
from rgals.numerics.threads import one_blas_thread, run_blocks

__all__ = ["copy_triangle", "invert_in_place"]

_TILE = 512
_COPY_TILE = 64


def invert_in_place(matrix: Factors, *, n_threads: int) -> None:
    """Invert a symmetric positive definite matrix.

    Parameters
    ----------
    matrix : float32 array of shape (n_rows, n_rows)
        In C order; its lower triangle counts, the upper one holds zeros. Becomes the whole inverse.
    n_threads : int
        Number of threads; no bit depends on it.

    Raises
    ------
    NumericalError
        If it is not positive definite in float32.

    Notes
    -----
    A = L Lᵀ, then W = L⁻¹, then A⁻¹ = Wᵀ W, each n³/3 multiplications, in tiles of 512 rows. Beside the
    matrix, a strip of 512 columns is held.
    """
    with one_blas_thread:
        _factorize(matrix, n_threads)
        _invert_triangle(matrix, n_threads)
        _multiply_triangles(matrix, n_threads)
    copy_triangle(matrix, n_threads=n_threads)


def copy_triangle(matrix: Factors, *, n_threads: int) -> None:
    """Copy the lower triangle of a square matrix to the upper one.

    Parameters
    ----------
    matrix : float32 array of shape (n_rows, n_rows)
        Written to.
    n_threads : int
        Number of threads.
    """
    run_blocks(partial(_copy_tiles, matrix), range(0, len(matrix), _COPY_TILE), n_threads)


def _factorize(matrix: Factors, n_threads: int) -> None:
    """Put L into the lower triangle, but for its tiles on the diagonal, which hold their inverses."""
    n_rows = len(matrix)
    for first in range(0, n_rows, _TILE):
        last = min(first + _TILE, n_rows)
        left, corner = matrix[first:last, :first], matrix[first:last, first:last]
        corner -= left @ left.T
        factor, failed = lapack.spotrf(corner, lower=1, clean=1)
        if failed:
            raise NumericalError(f"not positive definite in float32, found at row {first + failed - 1} of {n_rows}")
        corner[:] = lapack.strtri(factor, lower=1)[0]

        def solve(start: int, first: int = first, last: int = last) -> None:
            stop = min(start + _TILE, n_rows)
            tile = matrix[start:stop, first:last]
            tile -= matrix[start:stop, :first] @ matrix[first:last, :first].T
            tile[:] = tile @ matrix[first:last, first:last].T

        run_blocks(solve, range(last, n_rows, _TILE), n_threads)


def _invert_triangle(matrix: Factors, n_threads: int) -> None:
    """Turn L into W, the last columns first: column k of W is -(W of the columns after it) (column k of L) W_kk."""
    n_rows = len(matrix)
    for first in range(0, n_rows, _TILE)[::-1]:
        last = min(first + _TILE, n_rows)
        strip = matrix[last:, first:last] @ matrix[first:last, first:last]

        def multiply(start: int, first: int = first, last: int = last, strip: Factors = strip) -> None:
            stop = min(start + _TILE, n_rows)
            np.negative(matrix[start:stop, last:stop] @ strip[: stop - last], out=matrix[start:stop, first:last])

        # The rows with the longest products come first.
        run_blocks(multiply, range(last, n_rows, _TILE)[::-1], n_threads)


def _multiply_triangles(matrix: Factors, n_threads: int) -> None:
    """Turn W into the lower triangle of Wᵀ W, the first rows first: row i of the product needs rows i and after."""
    n_rows = len(matrix)
    for first in range(0, n_rows, _TILE):
        last = min(first + _TILE, n_rows)
        strip = np.ascontiguousarray(matrix[first:, first:last].T)

        def multiply(start: int, first: int = first, last: int = last, strip: Factors = strip) -> None:
            stop = min(start + _TILE, n_rows)
            matrix[first:last, start:stop] = strip @ matrix[first:, start:stop]

        run_blocks(multiply, range(0, last, _TILE), n_threads)


@kernel
def _copy_tiles(matrix: Factors, start: int) -> None:
    n_rows = matrix.shape[0]
    stop = min(start + _COPY_TILE, n_rows)
    for first in range(start, n_rows, _COPY_TILE):
        for below in range(first, min(first + _COPY_TILE, n_rows)):
            for row in range(start, min(stop, below)):
                matrix[row, below] = matrix[below, row]
