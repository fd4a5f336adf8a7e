"""NumPy files in a folder: memory-mapped where the folder is local, never pickled."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgals.data.storage import Folder
from rgals.errors import DataError

__all__ = ["check_array", "is_memory_mapped", "read_array", "write_array"]

_WRITE_BLOCK_BYTES = 1 << 24


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
        flat = contiguous.reshape(-1)
        block_size = max(1, _WRITE_BLOCK_BYTES // max(1, contiguous.itemsize))
        for start in range(0, flat.size, block_size):
            stream.write(flat[start : start + block_size].tobytes())


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
    path = folder.file_path(name)
    try:
        if folder.local_path is not None:
            # asarray drops the memmap subclass, which would otherwise spread to every result.
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        with folder.open_input(name) as stream:
            array: NDArray[Any] = np.load(stream, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: the file is missing; restore it or write the folder again") from error
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a readable NumPy file ({error}); restore it or write the folder again") from error
    array.setflags(write=False)
    return array


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
