"""Losses as array code over `xp`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from .array_activations import ACTIVATIONS

__all__ = ["LOSSES"]

Array = NDArray[Any]

# name: (z, y, dz) -> loss of each row; dz is filled with the gradient of each row's own loss.


def _cross_entropy(xp: Any, z: Array, y: Array, dz: Array) -> Array:
    rows = xp.arange(len(z))
    xp.subtract(z, z.max(axis=1, keepdims=True), out=dz)
    at_label = dz[rows, y]
    xp.exp(dz, out=dz)
    total = dz.sum(axis=1)
    dz /= total[:, None]
    dz[rows, y] -= 1
    loss: Array = xp.log(total) - at_label
    return loss


def _binary_cross_entropy(xp: Any, z: Array, y: Array, dz: Array) -> Array:
    # log(1 + exp(z)) - y z, with the exponential of -|z| alone
    loss: Array = (xp.maximum(z, 0) - z * y + xp.log1p(xp.exp(-xp.abs(z)))).mean(axis=1)
    dz[...] = z
    ACTIVATIONS["sigmoid"][0](xp, dz)
    dz -= y
    dz /= z.shape[1]
    return loss


def _mse(xp: Any, z: Array, y: Array, dz: Array) -> Array:
    xp.subtract(z, y, out=dz)
    loss: Array = (dz * dz).mean(axis=1)
    dz *= 2 / z.shape[1]
    return loss


LOSSES: dict[str, Callable[[Any, Array, Array, Array], Array]] = {
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "mse": _mse,
}
