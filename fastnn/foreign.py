"""Arrays of other libraries as NumPy arrays, of the same memory wherever that can be.

Objects are known by what they can do, or by a library that is loaded already; none is imported. This is the
slow half of the door (`errors.array`), loaded with the first value that is no plain NumPy array.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_numpy", "is_tensor", "memory", "shares_memory", "tell_written"]

Array = NDArray[Any]

# DLDeviceType of dlpack.h: what the CPU can read (CPU, pinned memory of CUDA and ROCm, CUDA managed).
_READABLE = (1, 3, 11, 13)
# What else NumPy can read an object by, without DLPack.
_OTHER_WAYS = ("__array__", "__array_interface__", "__array_struct__", "__buffer__")
# Small floats that NumPy knows by packages only, or not at all: widened to float32, which holds each of them.
_SMALL_FLOATS = ("bfloat16", "float8")


def as_numpy(argument: str, value: Any) -> Array:
    """What `value` holds, of any dtype: its own memory where NumPy can read that, else a copy.

    Raises
    ------
    TypeError
        It is in the memory of a GPU, sparse, masked, part of a graph of gradients, or no array at all.
    ValueError
        A sequence whose parts differ in shape.
    """
    if type(value) is list:  # what most who come here have
        return _of_list(argument, value)
    if isinstance(value, np.ndarray):
        if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
            raise TypeError(
                f"{argument} must have no masked values; np.ma.filled({argument}, number) fills them in"
            )
        return _widened(np.asarray(value))
    if isinstance(value, (tuple, list)):
        return _of_list(argument, value)
    if isinstance(value, (int, float)):
        return _converted(argument, value)
    if hasattr(value, "toarray"):
        raise TypeError(
            f"{argument} must be a dense array, got {type(value).__name__}; pass {argument}.toarray()"
        )
    _judge_place(argument, value)
    if is_tensor(value):
        value = _plain_tensor(argument, value)
    elif _has_dlpack_alone(value):
        return _from_dlpack(argument, value)
    elif _library(value) == "polars" and hasattr(value, "collect"):
        raise TypeError(f"{argument} must be an array, got a {_name(value)}; pass {argument}.collect()")
    elif _library(value) == "polars" and hasattr(value, "columns"):
        return _converted(argument, value, _in_c_order)
    found = _converted(argument, value)
    if found.dtype == object and found.ndim and hasattr(value, "dtypes"):
        found = _numbers_of_frame(value, found)
    return found


def is_tensor(value: object) -> bool:
    """Whether a value is a tensor of PyTorch."""
    kind = getattr(sys.modules.get("torch"), "Tensor", None)
    return kind is not None and isinstance(value, kind)


def shares_memory(found: Array, tensor: Any) -> bool:
    """Whether what is written to an array of `as_numpy` is written to its tensor."""
    return not found.size or found.ctypes.data == tensor.data_ptr()


def tell_written(tensor: Any) -> None:
    """Count a change in place, as PyTorch's own operations do: what it has kept for gradients is void."""
    if not tensor.is_inference():
        sys.modules["torch"].autograd.graph.increment_version(tensor)


def memory(argument: str, value: Any, written: bool) -> Any:
    """An array of another library's memory, for callers who convert nothing; else the value itself.

    Parameters
    ----------
    written : bool
        It is an output: of other libraries' arrays tensors alone can be one.
    """
    if not any(hasattr(value, name) for name in (*_OTHER_WAYS, "__dlpack__", "__cuda_array_interface__")):
        return value
    found = as_numpy(argument, value)
    if not written:
        return found
    if not is_tensor(value) or not shares_memory(found, value):
        return value
    tell_written(value)
    return found


def _library(value: object) -> str:
    return type(value).__module__.partition(".")[0]


def _name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{_library(value)}.{kind.__name__}"


def _told(error: Exception) -> str:
    """The first line of another's error, with its type where the words tell little (KeyError: 'x')."""
    line = str(error).partition("\n")[0]
    usual = (BufferError, RuntimeError, TypeError, ValueError)
    return line if type(error) in usual and line else f"{type(error).__name__}: {line}"


# ---------------------------------------------------------------- where it is


def _judge_place(argument: str, value: Any) -> None:
    """Refuse what lies in the memory of a GPU: a copy to the CPU is never made silently."""
    if not _is_on_gpu(value):
        return
    moves = {
        "cupy": f"cupy.asnumpy({argument})",
        "torch": f"{argument}.cpu()",
        "jax": f"jax.device_get({argument})",
        "jaxlib": f"jax.device_get({argument})",
        "numba": f"{argument}.copy_to_host()",
    }
    move = moves.get(_library(value), f"a copy of {argument} as a NumPy array")
    raise TypeError(
        f'{argument} must be in the memory of the CPU for device="cpu", got {_name(value)}, which is in that '
        f"of a GPU; pass {move}"
    )


def _is_on_gpu(value: Any) -> bool:
    if is_tensor(value):  # of some layouts PyTorch raises what it likes when asked as others are
        return value.device.type not in ("cpu", "meta")
    try:
        if value.__cuda_array_interface__ is not None:
            return True
    except AttributeError:
        pass
    except Exception:  # of a tensor on a GPU that requires a gradient, for one
        return True
    try:
        return int(value.__dlpack_device__()[0]) not in _READABLE
    except Exception:  # has none, or what has no place as DLPack knows them: NumPy will see
        return False


# ---------------------------------------------------------------- what it is


def _plain_tensor(argument: str, tensor: Any) -> Any:
    """A tensor that NumPy can read, of the same memory but for types that NumPy has not."""
    torch = sys.modules["torch"]
    if tensor.requires_grad and torch.is_grad_enabled():
        raise TypeError(
            f"{argument} must be a tensor without gradient, got one that requires it, and fastnn records "
            f"none; pass {argument}.detach(), or call inside torch.no_grad()"
        )
    if tensor.layout is not torch.strided:
        raise TypeError(
            f"{argument} must be a dense array, got a tensor of layout {tensor.layout}; "
            f"pass {argument}.to_dense()"
        )
    tensor = tensor.detach()
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    if str(tensor.dtype).removeprefix("torch.").startswith(_SMALL_FLOATS):
        tensor = tensor.float()
    return tensor


def _has_dlpack_alone(value: Any) -> bool:
    """Whether DLPack is the only way to its memory; where there are others, NumPy takes them itself."""
    return hasattr(value, "__dlpack__") and not any(hasattr(value, name) for name in _OTHER_WAYS)


def _from_dlpack(argument: str, value: Any) -> Array:
    try:
        return np.from_dlpack(value)
    except MemoryError:
        raise
    except Exception as error:
        raise TypeError(
            f"{argument} must be an array that NumPy can read by DLPack, got {_name(value)} ({_told(error)})"
        ) from error


def _of_list(argument: str, value: Any) -> Array:
    """A list or tuple as an array; of masked rows NumPy would take what lies under the masks."""
    if value and isinstance(value[0], np.ma.MaskedArray) and any(np.ma.is_masked(row) for row in value):
        raise TypeError(
            f"{argument} must have no masked values; np.ma.filled(row, number) fills those of a row in"
        )
    return _converted(argument, value)


def _in_c_order(frame: Any) -> Array:
    """A DataFrame of polars, which would be in Fortran order else, and copied once more."""
    return np.asarray(frame.to_numpy(order="c"))


def _converted(argument: str, value: Any, convert: Callable[[Any], Array] = np.asarray) -> Array:
    """`np.asarray`, with the argument in its errors."""
    try:
        return _widened(convert(value))
    except MemoryError:
        raise
    except Exception as error:  # an object may raise what it likes when it is asked for its numbers
        if isinstance(error, ValueError) and isinstance(value, (tuple, list)):
            raise ValueError(f"{argument} must be an array of one shape: {_told(error)}") from error
        raise TypeError(
            f"{argument} must be an array that NumPy can read, got {_name(value)} ({_told(error)})"
        ) from error


def _widened(found: Array) -> Array:
    """bfloat16 and its like, as packages add them to NumPy, as float32."""
    if found.dtype.kind == "V" and found.dtype.name.startswith(_SMALL_FLOATS):
        return found.astype(np.float32)
    return found


def _numbers_of_frame(frame: Any, found: Array) -> Array:
    """A DataFrame or Series of nullable or Arrow types, which NumPy gets as objects, in one type of numbers.

    What is missing becomes NaN. A frame with a column that is no number stays what it was.
    """
    kinds = frame.dtypes if found.ndim == 2 else [frame.dtypes]
    types = [getattr(one, "numpy_dtype", one) for one in kinds]
    if not types or not all(isinstance(one, np.dtype) and one.kind in "biuf" for one in types):
        return found
    if frame.isna().to_numpy().any():
        return np.asarray(frame.to_numpy(np.result_type(*types, np.float32), na_value=np.nan))
    return np.asarray(frame.to_numpy(np.result_type(*types)))
