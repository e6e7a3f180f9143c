"""What goes in as a tensor of PyTorch, or an array of CuPy, comes out as one: `fastnn.ops` as users call it.

A tensor is read, and as ``out=`` or as what a step changes in place is written, where it lies. Arrays of CuPy
are computed with on their card (`cards`). Other arrays are taken by the door and give NumPy arrays.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import errors

__all__ = ["of_any_library"]

# Types that are never a tensor, looked up by themselves: what nearly all calls have, in 20 ns a value.
_OWN = frozenset({np.ndarray, float, int, bool, str, tuple, list, type(None), np.float32, np.float64})


def of_any_library(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of NumPy arrays, for tensors and arrays on a card too."""

    def call(*args: Any, **kwargs: Any) -> Any:
        for value in args:
            if type(value) not in _OWN:
                return _with_others(function, args, kwargs)
        for value in kwargs.values():
            if type(value) not in _OWN:
                return _with_others(function, args, kwargs)
        return function(*args, **kwargs)

    # functools.wraps takes three times as long, and there are ninety functions.
    call.__name__ = call.__qualname__ = function.__name__
    call.__doc__, call.__module__ = function.__doc__, function.__module__
    call.__wrapped__ = function  # type: ignore[attr-defined]
    return call


def _with_others(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    from .. import foreign

    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    given = dict(zip(names, args, strict=False)) | kwargs
    if len(args) > len(names) or not set(names[: len(args)]).isdisjoint(kwargs):
        return function(*args, **kwargs)  # which says itself what is wrong with its arguments
    on_card = getattr(sys.modules.get("cupy"), "ndarray", None)
    if on_card is not None and any(isinstance(value, on_card) for value in given.values()):
        from . import cards

        return cards.call(sys.modules["cupy"], function, given)
    tensors = {name: value for name, value in given.items() if foreign.is_tensor(value)}
    if not tensors:
        return function(*args, **kwargs)
    arrays = {name: errors.plain(name, tensor) for name, tensor in tensors.items()}
    in_place = function.__name__.endswith("_update")  # a step changes all of its arrays but the gradient
    written = [name for name in tensors if name == "out" or (in_place and name != "g")]
    for name in written:
        if not foreign.shares_memory(arrays[name], tensors[name]):
            raise TypeError(
                f"{name} must be a float32 or float64 tensor whose memory NumPy can write, got "
                f"{tensors[name].dtype}{' of negated numbers' if tensors[name].is_neg() else ''}"
            )
    result = function(**{**given, **arrays})
    for name in written:
        foreign.tell_written(tensors[name])
    theirs = {id(arrays[name]): tensors[name] for name in written}
    if isinstance(result, tuple):
        return tuple(_as_tensor(one, theirs) for one in result)
    return _as_tensor(result, theirs)


def _as_tensor(value: Any, theirs: dict[int, Any]) -> Any:
    """An array of a result as a tensor of the same memory, the caller's own where it is that."""
    if not isinstance(value, np.ndarray):
        return value
    return theirs[id(value)] if id(value) in theirs else sys.modules["torch"].from_dlpack(value)
