"""The one door that judges arrays and numbers; and the exceptions, by the names that all go by.

Every public call passes its arguments through the functions below once; what is behind the door
(programs, kernels) trusts them. A message names the argument, what was expected and what came.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .exceptions import DeviceError as DeviceError
from .exceptions import DivergenceError as DivergenceError
from .exceptions import FormatError as FormatError
from .exceptions import NotFittedError as NotFittedError

Array = NDArray[Any]

_LONGEST = 200  # letters of a value in a message

# ---------------------------------------------------------------- names and numbers


def choice(argument: str, value: object, names: Iterable[str]) -> str:
    """The name, if it is one of `names`; the error proposes the nearest."""
    known = list(names)
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a name ({', '.join(known)}), got {shown(value)}")
    if value not in known:
        unknown(argument, value, known)
    return value


def unknown(argument: str, value: str, known: list[str]) -> NoReturn:
    """Raise the error of a name that is not known."""
    import difflib  # 2 ms that only mistakes pay

    near = difflib.get_close_matches(value.lower(), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{argument} must be one of {', '.join(known)}, got {shown(value)}{hint}")


def integer(argument: str, value: object, minimum: int = 1, maximum: int | None = None) -> int:
    """A whole number as int; bools and floats are none."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Integral, np.integer)):
        raise TypeError(f"{argument} must be an integer, got {shown(value)}")
    number = operator.index(value)
    if number < minimum or (maximum is not None and number > maximum):
        bound = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ValueError(f"{argument} must be {bound}, got {shown(number)}")
    return number


def seed(argument: str, value: object) -> int:
    """A seed: an integer of 64 bits."""
    return integer(argument, value, 0, 2**64 - 1)


def real(argument: str, value: object, minimum: float = 0.0, below: float = math.inf) -> float:
    """A finite number with minimum <= value < below as float."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Real, np.floating, np.integer)):
        raise TypeError(f"{argument} must be a number, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:  # an int of more than 308 digits
        number = math.inf
    if not minimum <= number < below:  # NaN compares false, so it ends here too
        limit = "finite" if below == math.inf else f"below {below:g}"
        raise ValueError(f"{argument} must be at least {minimum:g} and {limit}, got {shown(value)}")
    return number


def shown(value: object) -> str:
    """A value for a message, on one line that is not long; an array or a table by its shape."""
    if isinstance(value, int) and value.bit_length() > 1024:  # Python refuses to print thousands of digits
        return f"an integer of {value.bit_length()} bits"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"{type(value).__name__} of shape {shape}"
    text = repr(value)
    if "\n" in text:
        text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def listed(value: Any) -> Any:
    """A range, or the numbers of an array, as a tuple (of tuples); anything else as it is."""
    if isinstance(value, np.ndarray) and value.ndim:
        return tuple(listed(one) for one in value)
    return tuple(value) if isinstance(value, range) else value


def flag(argument: str, value: object) -> bool:
    """True or False; numbers and strings are none."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{argument} must be True or False, got {shown(value)}")
    return bool(value)


def real_dtype(argument: str, value: Any) -> np.dtype[Any]:
    """float32 or float64 in native byte order."""
    try:
        dtype: np.dtype[Any] = np.dtype(value)
    except TypeError:
        raise TypeError(f"{argument} must be 'float32' or 'float64', got {shown(value)}") from None
    if value is None or dtype.name not in ("float32", "float64") or not dtype.isnative:
        raise ValueError(f"{argument} must be 'float32' or 'float64', got {shown(value)}")
    return dtype


def file_path(argument: str, value: object) -> str:
    """A path as str."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{argument} must be a path, got {shown(value)}")
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(f"{argument} must be a text that is not empty and has no NUL, got {shown(text)}")
    return text


# ---------------------------------------------------------------- arrays

# Elements judged at a time: the flags of a block stay in the second-level cache and no array of the size of
# the data is made. Smaller pays NumPy's calls (24 ms instead of 14 for 47 million floats at 8192).
_BLOCK = 65536

# The objects that native arrays of these types have as their dtype.
_SINGLE: np.dtype[Any] = np.dtype(np.float32)
_DOUBLE: np.dtype[Any] = np.dtype(np.float64)

_as_numpy: Callable[[str, Any], Array] | None = None  # of fastnn.foreign


def plain(argument: str, value: Any) -> Array:
    """An ndarray, of no subclass, of what `value` holds: of its own memory where that can be, else a copy."""
    if type(value) is np.ndarray:
        return value
    global _as_numpy
    if _as_numpy is None:  # loaded with the first such value, and kept: to ask each time takes 0.5 us
        from .foreign import as_numpy

        _as_numpy = as_numpy
    return _as_numpy(argument, value)


def array(argument: str, value: Any, kind: str = "real numbers", hint: str = "") -> Array:
    """An ndarray of bools, integers or real floats: what `value` holds, not yet converted."""
    found = plain(argument, value)
    if found.dtype.kind not in "biuf":
        # a set, a generator, None: NumPy makes one object of it, and what came is no array of objects
        whole = found.dtype == object and found.ndim == 0 and not isinstance(value, np.ndarray)
        got = f"{type(value).__name__}, which is no array" if whole else f"dtype {found.dtype}{hint}"
        raise TypeError(f"{argument} must hold {kind}, got {got}")
    return found


def on_card(value: object) -> bool:
    """Whether an array lies in the memory of a card, as those of CuPy."""
    return hasattr(value, "__cuda_array_interface__")


def fetched(value: Any) -> Any:
    """An array of CuPy as one of NumPy; all else as it is."""
    return value.get() if on_card(value) and hasattr(value, "get") else value


def table_on_card(argument: str, value: Any, n_columns: int | None, dtype: np.dtype[Any]) -> Any:
    """A 2-D array on a card, judged as a `table`, of dtype or uint8, in C order: itself where it is that."""
    if not hasattr(value, "astype") or not hasattr(value, "get"):
        kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
        raise TypeError(
            f"{argument} must be an array of NumPy or CuPy, got {kind}; pass cupy.from_dlpack({argument})"
        )
    if value.dtype.kind not in "biuf":
        raise TypeError(f"{argument} must hold real numbers, got dtype {value.dtype}")
    _two_dimensions(argument, value.shape, n_columns)
    return value.astype(value.dtype if value.dtype == np.uint8 else dtype, order="C", copy=False)


def cast(argument: str, found: Array, dtype: np.dtype[Any]) -> Array:
    """`found` as dtype, native and aligned; itself where it is that already."""
    if found.dtype == dtype and found.dtype.isnative and found.flags.aligned:
        return found
    # The conversion itself reports overflow, so no second look at the values is needed.
    with np.errstate(all="ignore", over="raise"):
        try:
            return np.require(found, dtype, ["A"])
        except FloatingPointError:
            raise ValueError(
                f"{argument} has values too large for {dtype}; scale them or use float64"
            ) from None


def rows(found: Array) -> Array:
    """A 2-D array whose rows lie whole in memory, in order: itself where they do, else a copy.

    Any row stride of whole elements passes (a slice of columns, padded rows, a broadcast row).
    """
    row, column = found.strides
    if found.shape[1] == 1:
        column = found.itemsize  # never stepped; x[:, None] has 0
    if column == found.itemsize and row >= 0 and row % found.itemsize == 0:
        return found
    return np.ascontiguousarray(found)


def table(argument: str, value: Any, n_columns: int | None) -> Array:
    """A 2-D array (rows, n_columns) of what `value` holds, judged by its shape and kind, not yet converted.

    Parameters
    ----------
    n_columns : int or None
        None takes any number from one on.
    """
    found = array(argument, value)
    _two_dimensions(argument, found.shape, n_columns)
    return found


def _two_dimensions(argument: str, shape: tuple[int, ...], n_columns: int | None) -> None:
    if len(shape) != 2:
        want = "columns" if n_columns is None else str(n_columns)
        hint = (
            f"; {argument}.reshape(1, -1) makes one row of it, .reshape(-1, 1) one column"
            if len(shape) == 1
            else "; a model that begins with Flatten() takes rows of any shape"
            if len(shape) > 2
            else ""
        )
        raise ValueError(f"{argument} must be 2-D (rows, {want}), got shape {shape}{hint}")
    if n_columns is not None and shape[1] != n_columns:
        plural = "" if n_columns == 1 else "s"
        raise ValueError(f"{argument} must have {n_columns} column{plural}, got shape {shape}")
    if shape[1] == 0:
        raise ValueError(f"{argument} must have at least one column, got shape {shape}")


def inputs(argument: str, found: Array, dtype: np.dtype[Any]) -> Array:
    """A judged table as programs take it: of dtype, or of uint8, with unit column stride.

    Not copied where it is one already. Bytes stay bytes: programs widen them row by row.
    """
    return rows(found if found.dtype == np.uint8 else cast(argument, found, dtype))


def matrix(argument: str, value: Any, n_columns: int | None, dtype: np.dtype[Any]) -> Array:
    """A `table` as `inputs` gives it."""
    return inputs(argument, table(argument, value, n_columns), dtype)


def labels(
    argument: str,
    value: Any,
    n_rows: int,
    n_out: int,
    order: Array | None = None,
    ignored: int | None = None,
) -> Array:
    """Labels 0 .. n_out-1 as int64 (n_rows,), C-contiguous.

    Parameters
    ----------
    order : ndarray, optional
        Row numbers: only these labels are looked at.
    ignored : int, optional
        A label that is legal too.
    """
    names = f"; np.unique({argument}, return_inverse=True)[1] numbers the classes"
    found = array(argument, value, f"integer labels from 0 to {n_out - 1}", names)
    if found.dtype.kind == "f":
        raise TypeError(
            f"{argument} must hold integer labels, got dtype {found.dtype}; use {argument}.astype(int)"
        )
    if found.shape == (n_rows, 1):
        found = found[:, 0]
    if found.shape != (n_rows,):
        one_hot = found.ndim == 2 and found.shape == (n_rows, n_out)
        hint = f"; {argument}.argmax(axis=1) turns one-hot rows into labels" if one_hot else ""
        raise ValueError(f"{argument} must have shape ({n_rows},), got {found.shape}{hint}")
    seen = found if order is None else found[order.reshape(-1)]
    wrong = np.zeros(0, bool)
    if seen.size and (seen.min() < 0 or seen.max() >= n_out):
        wrong = (seen < 0) | (seen >= n_out)
        if ignored is not None:
            wrong &= seen != ignored
    if wrong.any():  # found only to be named: the row is looked for once something is wrong
        at = int(wrong.argmax())
        row = at if order is None else int(order.reshape(-1)[at])
        hint = " (binary_cross_entropy takes one output)" if n_out == 1 else ""
        raise ValueError(
            f"{argument} must hold labels from 0 to {n_out - 1}, got {seen[at]} in row {row}{hint}"
        )
    return np.require(found, np.int64, ["C", "A"])


def values(
    argument: str,
    value: Any,
    n_rows: int,
    n_out: int,
    dtype: np.dtype[Any],
    bounds: tuple[float, float] | None = None,
    order: Array | None = None,
) -> Array:
    """Target values (n_rows, n_out) of dtype, C-contiguous and finite.

    (n_rows,) is the same as (n_rows, 1) for one output; nothing is broadcast.

    Parameters
    ----------
    bounds : (low, high), optional
        Smallest and largest legal value.
    order : ndarray, optional
        Row numbers: only these rows are looked at.
    """
    found = array(argument, value)
    if n_out == 1 and found.shape == (n_rows,):
        found = found.reshape(-1, 1)
    if found.shape != (n_rows, n_out):
        want = f"({n_rows},) or ({n_rows}, 1)" if n_out == 1 else f"({n_rows}, {n_out})"
        raise ValueError(f"{argument} must have shape {want}, got {found.shape}")
    numbers = None if order is None else order.reshape(-1)
    n_seen, step = n_rows if numbers is None else len(numbers), max(1, _BLOCK // n_out)
    for first in range(0, n_seen, step):
        part = slice(first, first + step)
        seen = found[part] if numbers is None else found[numbers[part]]
        bad, want = np.isfinite(seen), "be finite"
        np.logical_not(bad, out=bad)
        if bounds is not None and not bad.any():
            bad = (seen < bounds[0]) | (seen > bounds[1])
            low, high = bounds
            want = f"lie from {low:g} to {high:g}" if high < math.inf else f"be at least {low:g}"
        if bad.any():
            at, column = (int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
            row = first + at if numbers is None else int(numbers[first + at])
            raise ValueError(f"{argument} must {want}, got {seen[at, column]} in row {row}")
    return np.ascontiguousarray(cast(argument, found, dtype))


def sample_weights(argument: str, value: Any, n_rows: int, order: Array | None = None) -> Array | None:
    """Weights of rows as float64 (n_rows,), C-contiguous: finite, none negative, not all zero; or None.

    With an order only the weights of its rows are looked at, and all of them may be zero.
    """
    if value is None:
        return None
    found = array(argument, value)
    if found.shape == (n_rows, 1):
        found = found[:, 0]
    if found.shape != (n_rows,):
        raise ValueError(f"{argument} must have shape ({n_rows},), got {found.shape}")
    weights = np.require(found, np.float64, ["C", "A"])
    seen = weights if order is None else weights[order.reshape(-1)]
    legal = (seen >= 0.0) & np.isfinite(seen)
    if not legal.all():
        at = int((~legal).argmax())
        row = at if order is None else int(order.reshape(-1)[at])
        raise ValueError(f"{argument} must be finite and not negative, got {seen[at]} in row {row}")
    if n_rows and order is None and not weights.any():
        raise ValueError(f"{argument} must not be all zero")
    return of_middle_size(weights, seen)


def of_middle_size(weights: Array, seen: Array | None = None) -> Array:
    """Weights that give the same means, with a sum and products that neither overflow nor lose digits.

    `seen` are those that count; None: all.
    """
    seen = weights if seen is None else seen
    with np.errstate(all="ignore"):
        if seen.size and not 1e-100 <= seen.sum() <= 1e100:
            return np.ldexp(weights, -int(np.frexp(seen.max())[1]))
    return weights


def row_order(argument: str, value: Any, n_rows: int) -> Array:
    """Row numbers (steps, batch) from 0 to n_rows-1 as int64, C-contiguous."""
    found = array(argument, value)
    if found.dtype.kind not in "iu" and found.size:
        raise TypeError(f"{argument} must hold integers, got dtype {found.dtype}")
    if found.ndim != 2:
        hint = f"; {argument}.reshape(1, -1) makes one step of it" if found.ndim == 1 else ""
        raise ValueError(f"{argument} must be 2-D (steps, batch), got shape {found.shape}{hint}")
    if found.size and (found.min() < 0 or found.max() >= n_rows):
        bad = found[(found < 0) | (found >= n_rows)][0]
        raise ValueError(f"{argument} must hold row numbers from 0 to {n_rows - 1}, got {bad}")
    return np.require(found, np.int64, ["C", "A"])


# ---------------------------------------------------------------- arrays of fastnn.ops


def reals(**arguments: Any) -> tuple[Array, ...]:
    """Arrays of one real type, by argument name: float32 if all are, else float64 (NumPy's promotion)."""
    first = None
    for value in arguments.values():  # a quarter of the time of what follows, and finds nothing to do
        if type(value) is not np.ndarray or not value.flags.aligned:
            break
        if first is None and (value.dtype is _SINGLE or value.dtype is _DOUBLE):
            first = value.dtype
        if value.dtype is not first:
            break
    else:
        return tuple(arguments.values())
    found = {name: array(name, value) for name, value in arguments.items()}
    all_single = all(a.dtype.newbyteorder("=") == np.float32 for a in found.values())
    dtype = _SINGLE if all_single else _DOUBLE
    return tuple(cast(name, a, dtype) for name, a in found.items())


def output(
    out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], *inputs: Array, in_place: bool = False
) -> Array:
    """The array to be filled: a new one for None, else `out` itself once it is found fit.

    Parameters
    ----------
    inputs : ndarray
        What is read while `out` is written: they must not overlap.
    in_place : bool
        `out` may be exactly one of the inputs.
    """
    if out is None:
        return np.empty(shape, dtype)
    writable("out", out, dtype)
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {out.shape}")
    for read in inputs:
        same = in_place and _same_memory(out, read)
        if not same and np.may_share_memory(out, read) and np.shares_memory(out, read):
            kind = "partly overlap" if in_place else "overlap"
            raise ValueError(f"out must not {kind} an input")
    found: Array = out
    return found


def writable(argument: str, value: Any, dtype: np.dtype[Any]) -> None:
    """Judge an array that is changed in place: the dtype, writable, last axis contiguous."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{argument} must be a NumPy array, got {type(value).__name__}")
    if value.dtype != dtype or not value.dtype.isnative:
        raise TypeError(f"{argument} must have dtype {dtype}, got {value.dtype.str}")
    if not value.flags.writeable:
        raise ValueError(f"{argument} must be writable, got a read-only array")
    if not value.flags.aligned:
        raise ValueError(f"{argument} must be aligned in memory")
    if value.flags.c_contiguous:
        return
    regular = (
        value.ndim == 2 and value.strides[1] == value.itemsize and value.strides[0] % value.itemsize == 0
    )
    if not regular or value.strides[0] < value.shape[1] * value.itemsize:
        raise ValueError(
            f"{argument} must be C-contiguous, or 2-D with contiguous rows, got strides {value.strides} "
            f"for shape {value.shape}"
        )


def _same_memory(a: Array, b: Array) -> bool:
    """Whether two arrays are the same elements in the same places."""
    mine = a.__array_interface__["data"][0], a.shape, a.strides, a.dtype
    return mine == (b.__array_interface__["data"][0], b.shape, b.strides, b.dtype)
