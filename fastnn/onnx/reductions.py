"""Operators that reduce numbers over axes, or look for the largest: NumPy's work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import axes_of
from .operators import Call, operator

__all__: list[str] = []

Array = NDArray[Any]


def _reduction(f: Callable[..., Any], since: int) -> Callable[[Call], Array]:
    """A reduction over axes, which are an input since an operator set."""

    def apply(call: Call) -> Array:
        x, axes = call.input(0), axes_of(call, since)
        if not axes and call.integer("noop_with_empty_axes", 0):
            return np.asarray(f(x, axis=()))
        places = tuple(call.axis_of(axis, x.ndim) for axis in axes) if axes else tuple(range(x.ndim))
        where = {"axis": tuple(set(places)), "keepdims": bool(call.integer("keepdims", 1))}
        if f in (np.max, np.min):  # of nothing: the smallest or largest number that there is
            where["initial"] = _bound(x.dtype, lowest=f is np.max)
        with np.errstate(all="ignore"):
            found = f(x, **where)
        return np.asarray(found).astype(x.dtype, copy=False)

    return apply


def _bound(dtype: np.dtype[Any], *, lowest: bool) -> Any:
    """The end of the numbers of a type."""
    if dtype.kind == "f":
        return -np.inf if lowest else np.inf
    if dtype.kind == "b":
        return not lowest
    limits = np.iinfo(dtype)
    return limits.min if lowest else limits.max


def _sum(x: Array, **where: Any) -> Any:
    return x.sum(dtype=x.dtype, **where)


operator("ReduceSum")(_reduction(_sum, 13))
operator("ReduceMean")(_reduction(np.mean, 18))
operator("ReduceMax")(_reduction(np.max, 18))
operator("ReduceMin")(_reduction(np.min, 18))


@operator("ReduceSumSquare")
def _reduce_sum_square(call: Call) -> Array:
    call.inputs[0] = call.input(0) * call.input(0)
    return _reduction(_sum, 18)(call)


def _position(f: Callable[..., Any]) -> Callable[[Call], Array]:
    """Where along an axis the largest or smallest number is."""

    def apply(call: Call) -> Array:
        x = call.input(0)
        if x.dtype.kind not in "fiu":
            raise ValueError(f"the input must be numbers, got {x.dtype}")
        axis = call.axis(x.ndim, 0)
        if x.shape[axis] == 0:
            raise ValueError(f"nothing is there to choose from, in shape {x.shape}")
        if call.integer("select_last_index", 0):
            found = x.shape[axis] - 1 - f(np.flip(x, axis), axis)
        else:
            found = f(x, axis)
        found = np.asarray(found, np.int64)
        return np.expand_dims(found, axis) if call.integer("keepdims", 1) else found

    return apply


operator("ArgMax")(_position(np.argmax))
operator("ArgMin")(_position(np.argmin))
