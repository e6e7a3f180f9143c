"""Activations and norms known by their numbers, however a graph writes them out.

Each function takes f, what some nodes compute, as a function of an array (None where they can not take it).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import kernels, ops
from ..layers import Activation
from ..norm_layers import LayerNorm, PReLU, RMSNorm
from .operators_as_layers import shortest
from .pieces import Piece, Pieces

__all__ = ["curve", "row_function", "slopes"]

Array = NDArray[Any]
Function: TypeAlias = Callable[[Array], Array | None]

# Beside 1 + |f|: ten times what single precision makes of a formula, and far below what tells two
# activations apart (the two forms of GELU differ by 4e-4).
_TOLERANCE = 2e-5


def _close(given: Array, wanted: Array) -> bool:
    return bool((np.abs(given - wanted) <= _TOLERANCE * (1 + np.abs(wanted))).all())


def _values(f: Function, x: Array) -> Array | None:
    """What f makes of x, all finite and in its shape; else None."""
    given = f(x)
    if given is None or given.size != x.size or not np.isfinite(given).all():
        return None
    return given.reshape(x.shape)


def curve(f: Function, dtype: Any) -> Pieces | None:
    """The activation that f is."""
    grid, known = _known(np.dtype(dtype))
    given = _values(f, grid)
    if given is None:
        return None
    for name, wanted in known.items():
        if _close(given, wanted):
            return [] if name == "identity" else [Piece(Activation(name))]
    return None


@functools.cache
def _known(dtype: Any) -> tuple[Array, dict[str, Array]]:
    """A grid of numbers, and what each activation makes of them."""
    # Not beyond 30, where a softplus or mish that is written out overflows.
    grid = np.concatenate([np.linspace(-12.1, 12.3, 489), [-25.7, 26.1, 1e-3, -1e-3]]).astype(dtype)
    names = [name for name, kind in kernels.ACTIVATIONS.items() if kind != "rowwise"]
    return grid, {name: ops.ACTIVATIONS[name][0](grid) for name in names}


def slopes(f: Function, n: int, dtype: Any) -> Pieces | None:
    """The PReLU of n columns that f is."""
    numbers = np.array([-1.0, -9.5, -0.03, 0.0, 0.25, 1.0, 12.5], dtype)
    x = np.ascontiguousarray(np.broadcast_to(numbers[:, None], (len(numbers), n)))
    given = _values(f, x)
    if given is None:
        return None
    slope = -given[0]
    found = _close(given, np.where(x > 0, x, x * slope))
    return [Piece(PReLU(n), {"weight": slope})] if found else None


def row_function(
    f: Function, n: int, dtype: Any, numbers: Iterable[float], columns: list[Array]
) -> Pieces | None:
    """The norm or softmax of rows of n numbers that f is.

    Parameters
    ----------
    numbers : iterable of float
        Constants of the nodes: eps is among them.
    columns : list of ndarray (n,)
        Others, a number for each column: weight and bias are.
    """
    x = np.random.default_rng(0).standard_normal((16, n)).astype(dtype) + dtype.type(0.5)
    x[8:] *= dtype.type(1e-3)  # rows where eps counts
    given = _values(f, x)
    if given is None:
        return None
    for name in ("softmax", "log_softmax"):
        if not columns and _close(given, ops.ACTIVATIONS[name][0](x)):
            return [Piece(Activation(name))]
    for eps in sorted(number for number in numbers if 0 < number < 0.5):
        for centred, normal in ((True, ops.layer_norm(x, eps=eps)), (False, ops.rms_norm(x, eps=eps))):
            if not columns and _close(given, normal):
                layer = LayerNorm if centred else RMSNorm
                return [Piece(layer(eps=shortest(eps), affine=False))]
            found = _affine(given, normal, columns) if columns else None
            if found is not None and (centred or "bias" not in found):
                layer = LayerNorm if centred else RMSNorm
                if centred:
                    found.setdefault("bias", np.zeros(n, dtype))
                return [Piece(layer(eps=shortest(eps)), found)]
    return None


def _affine(given: Array, normal: Array, columns: list[Array]) -> dict[str, Array] | None:
    """Weight, and bias where there is one, with which `given` is ``normal * weight + bias``."""
    zero = np.zeros(normal.shape[1], normal.dtype)
    for weight in columns:
        for bias in (zero, *columns):
            if _close(given, normal * weight + bias):
                return {"weight": weight} if bias is zero else {"weight": weight, "bias": bias}
    return None
