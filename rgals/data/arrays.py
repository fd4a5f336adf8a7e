"""NumPy files in a folder: memory-mapped where the folder is local, never pickled, written whole or by blocks."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

from rgals.data.storage import Folder
from rgals.errors import DataError, InputError
from rgals.names import Factors

__all__ = [
    "ArrayRows",
    "ArrayStream",
    "FactorBlocks",
    "check_array",
    "is_memory_mapped",
    "new_array",
    "read_array",
    "write_array",
]

_WRITE_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class FactorBlocks:
    """A factor matrix that is handed over block by block, so that it need not be whole in memory.

    Parameters
    ----------
    n_rows, n_factors : int
        Its shape.
    blocks : iterable of float32 arrays of shape (n_block_rows, n_factors)
        Consecutive rows, from the first to the last; gone through once. A block may be reused or
        dropped by whoever makes it once the next is asked for.
    """

    n_rows: int
    n_factors: int
    blocks: Iterable[Factors]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of factors."""
        return self.n_rows, self.n_factors


class ArrayStream:
    """A NumPy file under way; made by `new_array`.

    Parameters
    ----------
    stream : pyarrow.NativeFile
        The open file, at its beginning.
    path : str
        Where it is, for messages.
    dtype : dtype
        Type of the numbers.
    shape : tuple of int
        Shape of the whole array.
    """

    def __init__(self, stream: "pa.NativeFile", path: str, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
        self._stream, self._path = stream, path
        self._dtype, self._shape = np.dtype(dtype), shape
        self._n_rows = 0
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)

    @property
    def n_rows(self) -> int:
        """Rows written so far."""
        return self._n_rows

    def append(self, block: NDArray[Any]) -> None:
        """Write the next rows.

        Raises
        ------
        InputError
            If the block has another type or row shape than the array, or goes beyond its last row.
        """
        if block.dtype != self._dtype or block.shape[1:] != self._shape[1:] or block.ndim != len(self._shape):
            raise InputError(
                f"{self._path}: expected blocks of {self._dtype} of shape (rows{_tail(self._shape)}), "
                f"found {block.dtype} of shape {block.shape} after row {self._n_rows}"
            )
        if self._n_rows + len(block) > self._shape[0]:
            raise InputError(
                f"{self._path}: expected {self._shape[0]} rows, found at least {self._n_rows + len(block)}; "
                "the announced shape and the blocks must be one array's"
            )
        _write_numbers(self._stream, block)
        self._n_rows += len(block)

    def check_complete(self) -> None:
        """Refuse an array with rows missing.

        Raises
        ------
        InputError
            If fewer rows were written than announced.
        """
        if self._n_rows != self._shape[0]:
            raise InputError(
                f"{self._path}: expected {self._shape[0]} rows, found {self._n_rows}; "
                "the announced shape and the blocks must be one array's"
            )


@contextmanager
def new_array(folder: Folder, name: str, dtype: DTypeLike, shape: tuple[int, ...]) -> Iterator[ArrayStream]:
    """Write an array block by block; the file has the bytes that `write_array` gives the whole.

    Parameters
    ----------
    folder : Folder
        Where to, on any filesystem.
    name : str
        The file's name, with its suffix.
    dtype : dtype
        Type of the numbers.
    shape : tuple of int
        Shape of the whole array, of at least one dimension; the file begins with it.

    Raises
    ------
    InputError
        On a normal exit, if fewer rows were written than announced.
    """
    with folder.open_output(name) as stream:
        array = ArrayStream(stream, folder.label(name), dtype, shape)
        yield array
        array.check_complete()


def write_array(folder: Folder, name: str, array: NDArray[Any]) -> None:
    """Write an array in C order as a NumPy file of version 1.0.

    Parameters
    ----------
    folder : Folder
        Where to, on any filesystem.
    name : str
        The file's name, with its suffix.
    array : array
        Numbers, not Python objects.
    """
    contiguous = np.asarray(array, order="C")
    with folder.open_output(name) as stream:
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(contiguous))
        _write_numbers(stream, contiguous)


def read_array(folder: Folder, name: str) -> NDArray[Any]:
    """Open an array: memory-mapped on a local disk, read whole from any other filesystem.

    Returns
    -------
    array
        Not writable. Processes that open the same local file share its memory.

    Raises
    ------
    DataError
        If the file is missing, truncated, not a NumPy file, or holds pickled objects.
    """
    path = folder.label(name)
    try:
        if folder.local_path is not None:
            # asarray drops the memmap subclass, which would otherwise spread to every result.
            return np.asarray(np.load(folder.file_path(name), mmap_mode="r", allow_pickle=False))
        with folder.open_input(name) as stream:
            array: NDArray[Any] = np.load(stream, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: the file is missing; restore it or write the folder again") from error
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a readable NumPy file ({error}); restore it or write the folder again") from error
    array.setflags(write=False)
    return array


class ArrayRows:
    """Rows of an array that are read as they are asked for; made by `open` or `of`.

    Parameters
    ----------
    dtype : dtype
        Type of the numbers.
    shape : tuple of int
        Shape of the whole array, of at least one dimension.
    read : callable
        Gives the rows from a position to another.
    """

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...], read: Callable[[int, int], NDArray[Any]]) -> None:
        self.dtype, self.shape, self._read = dtype, shape, read

    @classmethod
    def of(cls, array: NDArray[Any]) -> "ArrayRows":
        """Give the rows of an array in memory, or mapped there, as views."""
        return cls(array.dtype, array.shape, lambda start, stop: array[start:stop])

    @classmethod
    def open(cls, folder: Folder, name: str) -> "ArrayRows":
        """Open a file; on a filesystem that is not local, nothing but its header is read now.

        Raises
        ------
        DataError
            If the file is missing, not a NumPy file, holds pickled objects, or is not in C order.
        """
        if folder.local_path is not None:
            return cls.of(read_array(folder, name))
        path = folder.label(name)
        try:
            with folder.open_input(name) as stream:
                version = np.lib.format.read_magic(stream)
                shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
                first_byte = stream.tell()
        except (ValueError, EOFError, OSError) as error:
            raise DataError(f"{path}: not a readable NumPy file ({error}); restore it") from error
        if version != (1, 0) or is_fortran or dtype.hasobject or not shape:
            raise DataError(f"{path}: expected plain numbers in C order, NumPy format 1.0; write the folder again")
        row_bytes = dtype.itemsize * math.prod(shape[1:])

        def read(start: int, stop: int) -> NDArray[Any]:
            n_bytes = (stop - start) * row_bytes
            with folder.open_input(name) as stream:
                content = _read_at(stream, path, n_bytes, first_byte + start * row_bytes)
            if len(content) != n_bytes:
                raise DataError(f"{path}: ends before row {stop} of {shape[0]}; restore it or write the folder again")
            return np.frombuffer(content, dtype=dtype).reshape(stop - start, *shape[1:])

        return cls(dtype, shape, read)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Give rows ``start`` to ``stop``, not to be modified.

        Raises
        ------
        DataError
            If the file has become shorter or cannot be read.
        """
        return self._read(start, stop)


def check_array(path: str, array: NDArray[Any], dtype: Any, shape: tuple[int | None, ...]) -> None:
    """Compare an array with what the format prescribes.

    Parameters
    ----------
    path : str
        Where it was read, for the message.
    array : array
        What was read.
    dtype : dtype
        The prescribed type.
    shape : tuple of int or None
        The prescribed shape; None stands for any length.

    Raises
    ------
    DataError
        If the type, the shape or the memory order differs.
    """
    fits = len(shape) == array.ndim and all(
        want is None or want == found for want, found in zip(shape, array.shape, strict=True)
    )
    if array.dtype != dtype or not fits or not array.flags.c_contiguous:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise DataError(
            f"{path}: expected {np.dtype(dtype)} of shape ({wanted}) in C order, "
            f"found {array.dtype} of shape {array.shape}; write the folder again"
        )


def is_memory_mapped(array: NDArray[Any]) -> bool:
    """Tell whether an array's memory is a file's."""
    owner: Any = array
    while owner is not None:
        if isinstance(owner, np.memmap):
            return True
        owner = getattr(owner, "base", None)
    return False


def _write_numbers(stream: "pa.NativeFile", array: NDArray[Any]) -> None:
    """Write an array's numbers in C order, with copies of bounded size."""
    flat = np.asarray(array, order="C").reshape(-1)
    block_size = max(1, _WRITE_BLOCK_BYTES // max(1, flat.itemsize))
    for start in range(0, flat.size, block_size):
        stream.write(flat[start : start + block_size].tobytes())


def _tail(shape: tuple[int, ...]) -> str:
    return "".join(f", {length}" for length in shape[1:])


def _read_at(stream: Any, path: str, n_bytes: int, first_byte: int) -> bytes:
    """Read bytes from a place in a file on an object store."""
    try:
        return bytes(stream.read_at(n_bytes, first_byte))
    except OSError as error:
        raise DataError(f"{path}: reading was broken off ({error}); try again") from error
