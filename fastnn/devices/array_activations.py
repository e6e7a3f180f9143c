"""Activations as array code over `xp`: f in place, and its derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

__all__ = ["ACTIVATIONS"]

Array = NDArray[Any]

# name: f, which changes z into a = f(z); and backward, which changes da into dz, given a = f(z).
# np.maximum and the like hand NaN on.


def _identity(xp: Any, z: Array) -> None:
    pass


def _identity_backward(xp: Any, a: Array, da: Array) -> None:
    pass


def _relu(xp: Any, z: Array) -> None:
    xp.maximum(z, 0, out=z)


def _relu_backward(xp: Any, a: Array, da: Array) -> None:
    xp.copyto(da, 0, where=a <= 0)


def _leaky_relu(xp: Any, z: Array) -> None:
    xp.maximum(z, 0.01 * z, out=z)


def _leaky_relu_backward(xp: Any, a: Array, da: Array) -> None:
    xp.multiply(da, 0.01, out=da, where=a <= 0)


def _sigmoid(xp: Any, z: Array) -> None:
    e = xp.exp(-xp.abs(z))  # never overflows
    xp.divide(xp.where(z < 0, e, 1), e + 1, out=z)


def _sigmoid_backward(xp: Any, a: Array, da: Array) -> None:
    da *= a * (1 - a)


def _tanh(xp: Any, z: Array) -> None:
    xp.tanh(z, out=z)


def _tanh_backward(xp: Any, a: Array, da: Array) -> None:
    da *= 1 - a * a


def _softmax(xp: Any, z: Array) -> None:
    z -= z.max(axis=1, keepdims=True)
    xp.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)


def _softmax_backward(xp: Any, a: Array, da: Array) -> None:
    da -= (da * a).sum(axis=1, keepdims=True)
    da *= a


ACTIVATIONS: dict[str, tuple[Callable[[Any, Array], None], Callable[[Any, Array, Array], None]]] = {
    "identity": (_identity, _identity_backward),
    "relu": (_relu, _relu_backward),
    "leaky_relu": (_leaky_relu, _leaky_relu_backward),
    "sigmoid": (_sigmoid, _sigmoid_backward),
    "tanh": (_tanh, _tanh_backward),
    "softmax": (_softmax, _softmax_backward),
}
