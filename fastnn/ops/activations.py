"""Activations and their derivatives, and functions of vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from .. import errors, kernels
from .shapes import Array, out_table, table

__all__ = [
    "ACTIVATIONS",
    "exp",
    "identity",
    "identity_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "log",
    "log_softmax",
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_backward",
    "tanh",
    "tanh_backward",
]


def _apply(name: str, z: ArrayLike, out: Array | None) -> Array:
    (found,) = errors.reals(z=z)
    if kernels.ACTIVATIONS[name] == "rowwise":
        _has_rows(name, found)
    result = errors.output(out, found.shape, found.dtype, found, in_place=True)
    if result.size:
        kernels.activation(name, table(found), out_table(result))
    return result


def _apply_backward(name: str, da: ArrayLike, z: ArrayLike, out: Array | None) -> Array:
    gradient, found = errors.reals(da=da, z=z)
    if kernels.ACTIVATIONS[name] == "rowwise":
        _has_rows(name, found)
    if gradient.shape != found.shape:
        raise ValueError(f"da must have the shape of z, {found.shape}, got {gradient.shape}")
    result = errors.output(out, found.shape, found.dtype, gradient, found, in_place=True)
    if result.size:
        a = np.empty_like(table(found), order="C")
        kernels.activation(name, table(found), a)
        kernels.activation_backward(name, a, table(gradient), out_table(result))
    return result


def _has_rows(name: str, z: Array) -> None:
    if z.ndim == 0:
        raise ValueError(f"z must have at least one dimension for {name}, got a number")


def identity(z: ArrayLike, *, out: Array | None = None) -> Array:
    """A copy of z; of any shape."""
    return _apply("identity", z, out)


def identity_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of the identity: a copy of da."""
    return _apply_backward("identity", da, z, out)


def relu(z: ArrayLike, *, out: Array | None = None) -> Array:
    """max(z, 0), NaN staying NaN; of any shape."""
    return _apply("relu", z, out)


def relu_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of relu at z: da where z > 0, else 0."""
    return _apply_backward("relu", da, z, out)


def leaky_relu(z: ArrayLike, *, out: Array | None = None) -> Array:
    """z where it is not negative, else 0.01 z; of any shape."""
    return _apply("leaky_relu", z, out)


def leaky_relu_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of leaky_relu at z: da where z > 0, else 0.01 da."""
    return _apply_backward("leaky_relu", da, z, out)


def sigmoid(z: ArrayLike, *, out: Array | None = None) -> Array:
    """1 / (1 + exp(-z)); of any shape."""
    return _apply("sigmoid", z, out)


def sigmoid_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of sigmoid at z: da * a * (1 - a)."""
    return _apply_backward("sigmoid", da, z, out)


def tanh(z: ArrayLike, *, out: Array | None = None) -> Array:
    """Hyperbolic tangent; of any shape."""
    return _apply("tanh", z, out)


def tanh_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of tanh at z: da * (1 - a * a)."""
    return _apply_backward("tanh", da, z, out)


def softmax(z: ArrayLike, *, out: Array | None = None) -> Array:
    """exp(z) / sum(exp(z)) over the last axis, without overflow."""
    return _apply("softmax", z, out)


def softmax_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of softmax at z, over the last axis: a * (da - sum(da * a))."""
    return _apply_backward("softmax", da, z, out)


def log_softmax(z: ArrayLike, *, out: Array | None = None) -> Array:
    """z - log(sum(exp(z))) over the last axis, without overflow or cancellation."""
    (found,) = errors.reals(z=z)
    _has_rows("log_softmax", found)
    result = errors.output(out, found.shape, found.dtype, found, in_place=True)
    if result.size:
        kernels.log_softmax(table(found), out_table(result))
    return result


def exp(x: ArrayLike, *, out: Array | None = None) -> Array:
    """Exponential; of any shape."""
    return _vector("exp", x, out)


def log(x: ArrayLike, *, out: Array | None = None) -> Array:
    """Natural logarithm; of any shape. -inf for 0, NaN below."""
    return _vector("log", x, out)


def _vector(name: str, x: ArrayLike, out: Array | None) -> Array:
    (found,) = errors.reals(x=x)
    result = errors.output(out, found.shape, found.dtype, found, in_place=True)
    if result.size == 0:
        return result
    if result.flags.c_contiguous:
        kernels.vector(name, np.ascontiguousarray(found).reshape(-1), result.reshape(-1))
    else:  # rows with room between them
        for read, written in zip(found, result, strict=True):
            kernels.vector(name, np.ascontiguousarray(read), written)
    return result


Pair: TypeAlias = tuple[Callable[..., Array], Callable[..., Array]]
"""An activation and its backward, as `ACTIVATIONS` holds them."""

ACTIVATIONS: dict[str, Pair] = {
    name: (globals()[name], globals()[f"{name}_backward"]) for name in kernels.ACTIVATIONS
}
