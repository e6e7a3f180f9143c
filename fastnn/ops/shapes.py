"""What the functions of `fastnn.ops` make of the shapes that they are given."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import errors

__all__ = ["any_strides", "out_table", "right_factor", "table", "two_dimensional"]

Array: TypeAlias = NDArray[Any]


def table(found: Array) -> Array:
    """An array of any number of dimensions as rows of its last axis; a view where the memory allows."""
    if found.ndim != 2:
        found = np.ascontiguousarray(found)
        found = found.reshape(-1, found.shape[-1] if found.ndim else 1) if found.size else found.reshape(0, 1)
    return errors.rows(found) if found.size else np.empty((0, 1), found.dtype)


def out_table(out: Array) -> Array:
    """The same of an array that has been judged as an output: always a view."""
    return out if out.ndim == 2 else out.reshape(-1, out.shape[-1] if out.ndim else 1)


def two_dimensional(**arguments: Array) -> None:
    for name, value in arguments.items():
        if value.ndim != 2:
            raise ValueError(f"{name} must be 2-D, got shape {value.shape}")


def any_strides(a: Array) -> Array:
    """A left factor: rows or columns may be strided, but not backwards."""
    legal = all(stride >= 0 and stride % a.itemsize == 0 for stride in a.strides)
    return a if legal else np.ascontiguousarray(a)


def right_factor(b: Array) -> Array:
    """A right factor: its rows, or its columns, as those of a transpose, side by side in memory."""
    rows, columns = b.strides
    is_turned = rows == b.itemsize and columns > 0 and columns % b.itemsize == 0 and b.flags.aligned
    return b if is_turned else errors.rows(b)
