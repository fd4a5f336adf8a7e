"""The compiler of the kernels, in one place.

A kernel takes flat arrays and numbers, holds no Python object, raises nothing and releases the
interpreter lock, so that plain threads run it side by side. Setting ``NUMBA_DISABLE_JIT=1`` runs
the same functions as ordinary Python.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

__all__ = ["kernel", "strict_kernel"]

Function = TypeVar("Function", bound=Callable[..., object])

_REASSOCIATE = {"reassoc", "contract", "arcp", "nsz"}
"""Lets the compiler vectorise sums; NaN and infinity keep their meaning, unlike with all of fastmath."""


def kernel(function: Function) -> Function:
    """Compile ``function`` on first use, without the interpreter lock, cached on disk."""
    return cast("Function", numba.njit(nogil=True, cache=True, fastmath=_REASSOCIATE, boundscheck=False)(function))


def strict_kernel(function: Function) -> Function:
    """Compile ``function`` likewise, with every operation in the written order."""
    return cast("Function", numba.njit(nogil=True, cache=True, boundscheck=False)(function))
