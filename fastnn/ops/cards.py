"""Arrays of CuPy in, arrays of CuPy out: the functions of `fastnn.ops` on a card.

They are the same functions: their code, which judges the arguments and knows what may overlap, is bound a
second time, to names that mean CuPy and array code where they meant NumPy and compiled kernels. So a check, a
shape or a rule of dtypes is written once. CuPy comes with the first such array: nobody here imports it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from .. import errors, targets
from ..devices.array_kernels import ArrayKernels
from ..devices.cuda_cards import judge_version
from . import activations, losses, noise, norms, products, shapes, updates

__all__ = ["call"]

# Arguments that are sequences of numbers, of NumPy too, and no arrays of the call.
_NUMBERS = ("pos_weight", "q", "betas")
# Elements of targets judged at a time: each look waits for the card, so there are few.
_BLOCK = 1 << 24


def call(cp: Any, function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """What a function of `fastnn.ops` gives for arguments by name, one of them an array of CuPy.

    Raises
    ------
    TypeError
        Another one is an array of another library, or of another card.
    """
    first = next(name for name, value in given.items() if isinstance(value, cp.ndarray))
    device = given[first].device
    for name, value in given.items():
        if isinstance(value, cp.ndarray):
            if value.device.id != device.id:
                raise TypeError(
                    f"{name} must be on card {device.id} as {first} is, got an array on card "
                    f"{value.device.id}"
                )
        elif name not in _NUMBERS and _is_array(value):
            raise TypeError(
                f"{name} must be an array of CuPy as {first} is, got {_name(value)}; "
                f"pass cupy.asarray({name})"
            )
    with device:
        return _functions(cp)[function.__module__, function.__name__](**given)


def _is_array(value: object) -> bool:
    """Whether it is an array of some library; numbers and lists are none."""
    if isinstance(value, np.generic):
        return False
    return any(hasattr(value, name) for name in ("__array_interface__", "__dlpack__", "__array__"))


def _name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _bound_to(module: ModuleType, names: dict[str, Any]) -> dict[str, Any]:
    """The names of a module, whose functions find `names` before its own."""
    space = dict(vars(module))
    for name, value in vars(module).items():
        if isinstance(value, FunctionType) and value.__module__ == module.__name__:
            bound = FunctionType(value.__code__, space, name, value.__defaults__, value.__closure__)
            bound.__kwdefaults__ = value.__kwdefaults__
            space[name] = bound
    space |= names
    return space


class _Names:
    """Names as of a module."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.__dict__.update(names)


@cache
def _functions(cp: Any) -> dict[tuple[str, str], Callable[..., Any]]:
    """The functions of `fastnn.ops` for arrays of CuPy, by module and name."""
    judge_version(cp, "an array of CuPy")
    np_ = _Numpy(cp)
    errors_ = _Names(_bound_to(errors, {"np": np_, "_BLOCK": _BLOCK, **_door(cp)}))
    targets_ = _Names(_bound_to(targets, {"np": np_, "errors": errors_}))
    names = {"np": np_, "errors": errors_, "targets": targets_, "kernels": ArrayKernels(cp)}
    shapes_ = _bound_to(shapes, names)
    names |= {name: shapes_[name] for name in ("table", "out_table", "two_dimensional")}
    names |= {"any_strides": _as_it_is, "right_factor": _as_it_is}  # array code takes all
    found: dict[tuple[str, str], Callable[..., Any]] = {}
    for module in (activations, losses, noise, norms, products, updates):
        space = _bound_to(module, names)
        found |= {(module.__name__, name): space[name] for name in module.__all__ if name != "ACTIVATIONS"}
    return found


def _as_it_is(array: Any) -> Any:
    return array


class _Numpy:
    """CuPy under NumPy's name, with what it has not, or has in another way."""

    def __init__(self, cp: Any) -> None:
        self._cp = cp

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cp, name)

    @staticmethod
    def errstate(**kinds: str) -> Any:
        """Nothing: a card warns of nothing."""
        return contextlib.nullcontext()

    def require(self, array: Any, dtype: Any, requirements: list[str]) -> Any:
        """All arrays of a card are aligned."""
        return self._cp.ascontiguousarray(array, dtype)

    def shares_memory(self, a: Any, b: Any) -> bool:
        """By the bounds first: CuPy alone would sort the addresses of all elements."""
        return bool(self._cp.may_share_memory(a, b) and self._cp.shares_memory(a, b))

    @staticmethod
    def unravel_index(index: int, shape: tuple[int, ...]) -> Any:
        """Of a number of the host."""
        return np.unravel_index(index, shape)

    @staticmethod
    def finfo(dtype: Any) -> Any:
        return np.finfo(dtype)

    @staticmethod
    def shape(value: Any) -> tuple[int, ...]:
        """Of a number too."""
        return tuple(value.shape) if hasattr(value, "shape") else np.shape(value)


def _door(cp: Any) -> dict[str, Callable[..., Any]]:
    """What of `fastnn.errors` looks into NumPy's arrays, for those of CuPy."""

    def plain(argument: str, value: Any) -> Any:
        return value if isinstance(value, cp.ndarray) else cp.asarray(errors.array(argument, value))

    def cast(argument: str, found: Any, dtype: Any) -> Any:
        if found.dtype == dtype:
            return found
        result = found.astype(dtype)
        if found.dtype == np.float64 and bool((cp.isinf(result) & cp.isfinite(found)).any()):
            raise ValueError(f"{argument} has values too large for {dtype}; scale them or use float64")
        return result

    def reals(**arguments: Any) -> tuple[Any, ...]:
        found = {name: plain(name, value) for name, value in arguments.items()}
        for name, value in found.items():
            if value.dtype.kind not in "biuf":
                raise TypeError(f"{name} must hold real numbers, got dtype {value.dtype}")
        all_single = all(value.dtype == np.float32 for value in found.values())
        dtype = np.dtype(np.float32 if all_single else np.float64)
        return tuple(cast(name, value, dtype) for name, value in found.items())

    def writable(argument: str, value: Any, dtype: Any) -> None:
        if not isinstance(value, cp.ndarray):
            raise TypeError(f"{argument} must be an array of CuPy, got {_name(value)}")
        if value.dtype != dtype:
            raise TypeError(f"{argument} must have dtype {dtype}, got {value.dtype.str}")
        if value.flags.c_contiguous:
            return
        size = value.itemsize
        regular = value.ndim == 2 and value.strides[1] == size and value.strides[0] % size == 0
        if not regular or value.strides[0] < value.shape[1] * size:
            raise ValueError(
                f"{argument} must be C-contiguous, or 2-D with contiguous rows, got strides {value.strides} "
                f"for shape {value.shape}"
            )

    def same_memory(a: Any, b: Any) -> bool:
        mine = a.data.ptr, a.shape, a.strides, a.dtype
        return bool(mine == (b.data.ptr, b.shape, b.strides, b.dtype))

    return {
        "plain": plain,
        "cast": cast,
        "reals": reals,
        "rows": _as_it_is,
        "writable": writable,
        "_same_memory": same_memory,
    }
