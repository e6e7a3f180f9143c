"""Operators that move and select numbers, and plain arithmetic: NumPy's work."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .graph import DTYPES
from .operators import Call, operator

__all__ = ["axes_of"]

Array = NDArray[Any]

# ---------------------------------------------------------------- arithmetic


def _together(call: Call, *arrays: Array) -> None:
    """Refuse inputs of several types, or whose shapes do not broadcast."""
    if any(a.dtype != arrays[0].dtype for a in arrays):
        raise ValueError(f"inputs must be of one type, got {', '.join(str(a.dtype) for a in arrays)}")
    try:
        shape = np.broadcast_shapes(*(a.shape for a in arrays))
    except ValueError:
        raise ValueError(f"shapes {', '.join(str(a.shape) for a in arrays)} do not broadcast") from None
    call.room(shape)


def _pair(f: Callable[[Array, Array], Array]) -> Callable[[Call], Array]:
    """An operator of two broadcast inputs."""

    def apply(call: Call) -> Array:
        a, b = call.input(0), call.input(1)
        if call.version < 7:
            b = _placed(call, a, b)
        _together(call, a, b)
        with np.errstate(all="ignore"):
            return np.asarray(f(a, b))

    return apply


def _placed(call: Call, a: Array, b: Array) -> Array:
    """The second input as the first operator sets broadcast it: its dimensions begin at `axis` of a's."""
    if not call.integer("broadcast", 0):
        if a.shape != b.shape:
            raise ValueError(f"inputs must have one shape, got {a.shape} and {b.shape}")
        return b
    axis = call.axis_of(call.integer("axis", a.ndim - b.ndim), a.ndim, end=True)
    if axis + b.ndim > a.ndim:
        raise ValueError(f"{b.shape} does not fit into {a.shape} from axis {axis} on")
    return b.reshape(*b.shape, *(1 for _ in range(a.ndim - axis - b.ndim)))


def _divide(a: Array, b: Array) -> Array:
    """Division; that of integers cuts towards zero."""
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    if a.dtype.kind not in "iu":
        raise ValueError(f"inputs must be numbers, got {a.dtype}")
    if not b.all():
        raise ValueError("integers are divided by 0")
    quotient = np.asarray(a // b)
    quotient += ((quotient < 0) & (quotient * b != a)).astype(a.dtype)
    return quotient


_PAIRS: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _divide,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Equal": np.equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
}
for _op, _f in _PAIRS.items():
    operator(_op)(_pair(_f))


@operator("Pow")
def _pow(call: Call) -> Array:
    a, b = call.input(0), call.input(1)
    call.room(np.broadcast_shapes(a.shape, b.shape))
    with np.errstate(all="ignore"):
        return np.asarray(np.power(a, b)).astype(a.dtype, copy=False)


def _one(f: Callable[[Array], Array], kinds: str = "f") -> Callable[[Call], Array]:
    """An operator of each number by itself."""

    def apply(call: Call) -> Array:
        x = call.input(0)
        if x.dtype.kind not in kinds:
            raise ValueError(f"the input must be numbers, got {x.dtype}")
        with np.errstate(all="ignore"):
            return np.asarray(f(x)).astype(x.dtype, copy=False)

    return apply


def _erf(x: Array) -> Array:
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x))


_ONES: dict[str, Callable[..., Any]] = {
    "Sqrt": np.sqrt,
    "Exp": np.exp,
    "Log": np.log,
    "Sin": np.sin,
    "Cos": np.cos,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Round": np.rint,
    "Reciprocal": np.reciprocal,
    "Erf": _erf,
}
for _op, _g in _ONES.items():
    operator(_op)(_one(_g))
operator("Neg")(_one(np.negative, "fi"))
operator("Abs")(_one(np.abs, "fiu"))
operator("Sign")(_one(np.sign, "fiu"))
operator("Not")(_one(np.logical_not, "b"))


def _many(f: Callable[[Array, Array], Array]) -> Callable[[Call], Array]:
    """An operator of any number of broadcast inputs."""

    def apply(call: Call) -> Array:
        arrays = [call.input(i) for i in range(max(1, len(call.inputs)))]
        _together(call, *arrays)
        found = arrays[0]
        with np.errstate(all="ignore"):
            for array in arrays[1:]:
                found = f(found, array)
        return np.asarray(found)

    return apply


operator("Max")(_many(np.maximum))
operator("Min")(_many(np.minimum))
operator("Sum")(_many(np.add))


@operator("Clip")
def _clip(call: Call) -> Array:
    x = call.input(0)
    if x.dtype.kind not in "fiu":
        raise ValueError(f"the input must be numbers, got {x.dtype}")
    low: Any
    high: Any
    if call.version < 11:
        low, high = call.real("min", None), call.real("max", None)
    else:
        low, high = call.optional(1), call.optional(2)
        for bound in (low, high):
            if bound is not None and (bound.size != 1 or bound.dtype != x.dtype):
                raise ValueError(f"min and max must be numbers of {x.dtype}, got {bound!r:.60}")
    found = x
    if low is not None:
        found = np.maximum(found, np.asarray(low, x.dtype).reshape(()))
    if high is not None:
        found = np.minimum(found, np.asarray(high, x.dtype).reshape(()))
    return np.asarray(found)


@operator("Where")
def _where(call: Call) -> Array:
    condition, x, y = call.input(0), call.input(1), call.input(2)
    if condition.dtype != bool:
        raise ValueError(f"the condition must be boolean, got {condition.dtype}")
    _together(call, x, y)
    call.room(np.broadcast_shapes(condition.shape, x.shape, y.shape))
    return np.where(condition, x, y)


# ---------------------------------------------------------------- types


@operator("Cast")
def _cast(call: Call) -> Array:
    to = call.integer("to", None) if call.version >= 6 else call.text("to", None)
    if isinstance(to, str):
        to = {"FLOAT": 1, "INT32": 6, "INT64": 7, "BOOL": 9, "DOUBLE": 11}.get(to)
    if to not in DTYPES:
        raise ValueError(f"attribute 'to' must be a type that is supported, got {to!r}")
    return _as(call.input(0), DTYPES[to])


@operator("CastLike")
def _cast_like(call: Call) -> Array:
    return _as(call.input(0), call.input(1).dtype)


def _as(x: Array, dtype: np.dtype[Any]) -> Array:
    if x.dtype == dtype:
        return x
    if x.dtype.kind == "O":
        with np.errstate(all="ignore"):
            return x.astype(np.float64).astype(dtype)
    if dtype.kind == "O":
        return x.astype(np.str_).astype(object)
    with np.errstate(all="ignore"):
        return x.astype(dtype)


# ---------------------------------------------------------------- shapes


@operator("Identity")
def _identity(call: Call) -> Array:
    return call.input(0)


@operator("Constant")
def _constant(call: Call) -> Array:
    given = call.node.attributes
    if len(given) != 1:
        raise ValueError(f"must have one attribute, got {', '.join(sorted(given)) or 'none'}")
    ((name, value),) = given.items()
    if name == "value":
        return np.asarray(call.constant("value"))
    if name in ("value_float", "value_floats"):
        return np.array(value, np.float32)
    if name in ("value_int", "value_ints"):
        return np.array(value, np.int64)
    if name in ("value_string", "value_strings"):
        return np.array(value, object)
    raise ValueError(f"attribute {name!r} is not supported")


@operator("ConstantOfShape")
def _constant_of_shape(call: Call) -> Array:
    value = call.constant("value", None)
    shape = call.room(_whole(call.input(0)))
    return np.zeros(shape, np.float32) if value is None else np.full(shape, value.reshape(()), value.dtype)


def _whole(array: Array) -> tuple[int, ...]:
    """The numbers of a vector of integers (or of one)."""
    if array.dtype.kind not in "iu" or array.ndim > 1:
        raise ValueError(f"a vector of whole numbers is wanted, got {array.dtype} of shape {array.shape}")
    return tuple(int(i) for i in array.reshape(-1))


@operator("Shape")
def _shape(call: Call) -> Array:
    x = call.input(0)
    start, end = call.integer("start", 0), call.integer("end", None)
    return np.array(x.shape[slice(start, end)], np.int64)


@operator("Size")
def _size(call: Call) -> Array:
    return np.array(call.input(0).size, np.int64)


@operator("Flatten")
def _flatten(call: Call) -> Array:
    x = call.input(0)
    axis = call.axis(x.ndim, 1, end=True)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Reshape")
def _reshape(call: Call) -> Array:
    x = call.input(0)
    wanted = _whole(call.input(1)) if call.version >= 5 else call.several("shape")
    allow_zero = call.integer("allowzero", 0)
    shape = []
    for i, size in enumerate(wanted):
        if size == 0 and not allow_zero:
            if i >= x.ndim:
                raise ValueError(f"dimension {i} of the new shape {wanted} is that of x, of shape {x.shape}")
            size = x.shape[i]
        shape.append(size)
    try:
        return x.reshape(shape)
    except (ValueError, OverflowError):
        raise ValueError(f"{x.size} numbers of shape {x.shape} do not fill the shape {wanted}") from None


@operator("Transpose")
def _transpose(call: Call) -> Array:
    x = call.input(0)
    order = call.several("perm", tuple(range(x.ndim))[::-1])
    if sorted(order) != list(range(x.ndim)):
        raise ValueError(f"attribute 'perm' must be an order of {x.ndim} axes, got {order}")
    return x.transpose(order)


@operator("Concat")
def _concat(call: Call) -> Array:
    arrays = [call.input(i) for i in range(max(1, len(call.inputs)))]
    axis = call.axis(arrays[0].ndim, 1 if call.version < 4 else call.integer("axis"))
    if any(a.dtype != arrays[0].dtype for a in arrays):
        raise ValueError(f"inputs must be of one type, got {', '.join(str(a.dtype) for a in arrays)}")
    call.room((sum(a.size for a in arrays),))
    return np.concatenate(arrays, axis)


def axes_of(call: Call, since: int) -> tuple[int, ...] | None:
    """Axes as an input since an operator set, before as an attribute; None for none given."""
    if call.version < since:
        found: tuple[int, ...] | None = call.several("axes", None)
        return found
    given = call.optional(1)
    return None if given is None else _whole(given)


@operator("Squeeze")
def _squeeze(call: Call) -> Array:
    x, axes = call.input(0), axes_of(call, 13)
    if axes is None:
        return np.squeeze(x)
    places = tuple(call.axis_of(axis, x.ndim) for axis in axes)
    if any(x.shape[axis] != 1 for axis in places):
        raise ValueError(f"axes {axes} of shape {x.shape} must be 1")
    return x.reshape([size for i, size in enumerate(x.shape) if i not in places])


@operator("Unsqueeze")
def _unsqueeze(call: Call) -> Array:
    x, axes = call.input(0), axes_of(call, 13)
    if axes is None:
        raise ValueError("axes must be given")
    ndim = x.ndim + len(axes)
    if ndim > 32:
        raise ValueError(f"{ndim} dimensions are too many")
    places = {call.axis_of(axis, ndim) for axis in axes}
    if len(places) != len(axes):
        raise ValueError(f"axes must differ, got {axes}")
    sizes = iter(x.shape)
    return x.reshape([1 if i in places else next(sizes) for i in range(ndim)])


@operator("Expand")
def _expand(call: Call) -> Array:
    x = call.input(0)
    shape = np.broadcast_shapes(x.shape, call.room(_whole(call.input(1))))
    return np.broadcast_to(x, call.room(shape))


@operator("Range")
def _range(call: Call) -> Array:
    start, limit, delta = (call.input(i).reshape(()) for i in range(3))
    if delta == 0:
        raise ValueError("delta must not be 0")
    with np.errstate(all="ignore"):
        n = (float(limit) - float(start)) / float(delta)
    if not math.isfinite(n):
        raise ValueError(f"start, limit and delta must be finite, got {start}, {limit} and {delta}")
    (count,) = call.room((max(0, math.ceil(n)),))
    return (start + np.arange(count) * delta).astype(start.dtype)


# ---------------------------------------------------------------- selections


@operator("Gather")
def _gather(call: Call) -> Array:
    x, indices = call.input(0), call.input(1)
    axis = call.axis(x.ndim, 0)
    if indices.dtype not in (np.int32, np.int64):
        raise ValueError(f"indices must be integers, got {indices.dtype}")
    n = x.shape[axis]
    if indices.size and not (-n <= indices.min() and indices.max() < n):
        raise ValueError(f"indices must lie from {-n} to {n - 1}, got {indices.min()} to {indices.max()}")
    call.room((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    return np.asarray(np.take(x, indices, axis))


@operator("GatherElements")
def _gather_elements(call: Call) -> Array:
    x, indices = call.input(0), call.input(1)
    return np.take_along_axis(x, indices, call.axis(x.ndim, 0))


@operator("Slice")
def _slice(call: Call) -> Array:
    x = call.input(0)
    if call.version < 10:
        starts, ends = call.several("starts"), call.several("ends")
        axes, steps = call.several("axes", None), None
    else:
        starts, ends = _whole(call.input(1)), _whole(call.input(2))
        axes, steps = (None if a is None else _whole(a) for a in (call.optional(3), call.optional(4)))
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ValueError(
            f"starts, ends, axes and steps must be as many, got {starts}, {ends}, {axes}, {steps}"
        )
    parts = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step == 0:
            raise ValueError("steps must not be 0")
        place = call.axis_of(axis, x.ndim)
        n = x.shape[place]
        if step < 0:
            # Python reads an end of -1 as the last, where ONNX means the place before the first.
            first = min(start + n if start < 0 else start, n - 1)
            last = end + n if end < 0 else end
            parts[place] = slice(first, last, step) if last >= 0 else slice(max(first, 0), None, step)
            if first < 0:
                parts[place] = slice(0, 0)
        else:
            parts[place] = slice(start, end, step)
    return x[tuple(parts)]


@operator("Split")
def _split(call: Call) -> tuple[Array, ...]:
    x = call.input(0)
    axis = call.axis(x.ndim, 0)
    n, k = x.shape[axis], len(call.node.outputs)
    sizes: Any = call.several("split", None)
    if call.version >= 13 and call.optional(1) is not None:
        sizes = _whole(call.input(1))
    if sizes is None:
        size = -(-n // k)
        sizes = tuple(max(0, min(size, n - i * size)) for i in range(k))
    if len(sizes) != k or sum(sizes) != n or min(sizes) < 0:
        raise ValueError(f"parts of {sizes} do not make {k} outputs of {n}")
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))
