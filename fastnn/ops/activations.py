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
    "celu",
    "celu_backward",
    "elu",
    "elu_backward",
    "exp",
    "gelu",
    "gelu_backward",
    "gelu_tanh",
    "gelu_tanh_backward",
    "hard_sigmoid",
    "hard_sigmoid_backward",
    "hard_swish",
    "hard_swish_backward",
    "hard_tanh",
    "hard_tanh_backward",
    "identity",
    "identity_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "log",
    "log_softmax",
    "log_softmax_backward",
    "mish",
    "mish_backward",
    "relu",
    "relu6",
    "relu6_backward",
    "relu_backward",
    "selu",
    "selu_backward",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softmax",
    "softmax_backward",
    "softplus",
    "softplus_backward",
    "softsign",
    "softsign_backward",
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
        if kernels.ACTIVATIONS[name] == "from_input":
            slope = np.empty_like(a)
            kernels.activation_and_slope(name, table(found), a, slope)
            a = slope
        else:
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


def relu6(z: ArrayLike, *, out: Array | None = None) -> Array:
    """min(max(z, 0), 6), NaN staying NaN (Krizhevsky 2010); of any shape."""
    return _apply("relu6", z, out)


def relu6_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of relu6 at z: da where 0 < z < 6, else 0."""
    return _apply_backward("relu6", da, z, out)


def hard_tanh(z: ArrayLike, *, out: Array | None = None) -> Array:
    """min(max(z, -1), 1), NaN staying NaN (Collobert 2004); of any shape."""
    return _apply("hard_tanh", z, out)


def hard_tanh_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of hard_tanh at z: da where -1 < z < 1, else 0."""
    return _apply_backward("hard_tanh", da, z, out)


def hard_sigmoid(z: ArrayLike, *, out: Array | None = None) -> Array:
    """min(max(z + 3, 0), 6) / 6 (Courbariaux et al. 2015, in PyTorch's form); of any shape."""
    return _apply("hard_sigmoid", z, out)


def hard_sigmoid_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of hard_sigmoid at z: da / 6 where -3 < z < 3, else 0."""
    return _apply_backward("hard_sigmoid", da, z, out)


def hard_swish(z: ArrayLike, *, out: Array | None = None) -> Array:
    """z * hard_sigmoid(z) (Howard et al. 2019), -0 for -inf; of any shape."""
    return _apply("hard_swish", z, out)


def hard_swish_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of hard_swish at z: da * (z / 3 + 1/2) where -3 < z < 3; 0 on the left of it, da on the right."""
    return _apply_backward("hard_swish", da, z, out)


def softsign(z: ArrayLike, *, out: Array | None = None) -> Array:
    """z / (1 + abs(z)) (Turian et al. 2009), 1 and -1 for infinities; of any shape."""
    return _apply("softsign", z, out)


def softsign_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of softsign at z: da * (1 - abs(a))^2."""
    return _apply_backward("softsign", da, z, out)


def silu(z: ArrayLike, *, out: Array | None = None) -> Array:
    """z * sigmoid(z), also called swish (Elfwing et al. 2017), -0 for -inf; of any shape."""
    return _apply("silu", z, out)


def silu_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of silu at z: da * s * (1 + z * (1 - s)) with s = sigmoid(z)."""
    return _apply_backward("silu", da, z, out)


def elu(z: ArrayLike, *, out: Array | None = None) -> Array:
    """z where it is not negative, else exp(z) - 1 (Clevert et al. 2016, alpha 1); of any shape."""
    return _apply("elu", z, out)


def elu_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of elu at z: da where z > 0, else da * exp(z), which is a + 1."""
    return _apply_backward("elu", da, z, out)


def selu(z: ArrayLike, *, out: Array | None = None) -> Array:
    """scale * max(z, 0) + scale * alpha * min(exp(z) - 1, 0) (Klambauer et al. 2017); of any shape."""
    return _apply("selu", z, out)


def selu_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of selu at z: da * scale where z > 0, else da * scale * alpha * exp(z)."""
    return _apply_backward("selu", da, z, out)


def celu(z: ArrayLike, *, out: Array | None = None) -> Array:
    """max(z, 0) + min(exp(z) - 1, 0) (Barron 2017, alpha 1, where it equals elu); of any shape."""
    return _apply("celu", z, out)


def celu_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of celu at z: da where z > 0, else da * exp(z)."""
    return _apply_backward("celu", da, z, out)


def softplus(z: ArrayLike, *, out: Array | None = None) -> Array:
    """log(1 + exp(z)) (Dugas et al. 2001), z itself above 20 as in PyTorch; of any shape."""
    return _apply("softplus", z, out)


def softplus_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of softplus at z: da * sigmoid(z), which is 1 - exp(-a); da above 20."""
    return _apply_backward("softplus", da, z, out)


def mish(z: ArrayLike, *, out: Array | None = None) -> Array:
    """z * tanh(softplus(z)) (Misra 2019), -0 for -inf; of any shape."""
    return _apply("mish", z, out)


def mish_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of mish at z: da * f'(z)."""
    return _apply_backward("mish", da, z, out)


def gelu(z: ArrayLike, *, out: Array | None = None) -> Array:
    """z * Phi(z) with the normal distribution Phi (Hendrycks and Gimpel 2016), -0 for -inf; of any shape."""
    return _apply("gelu", z, out)


def gelu_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of gelu at z: da * (Phi(z) + z * phi(z)) with its density phi."""
    return _apply_backward("gelu", da, z, out)


def gelu_tanh(z: ArrayLike, *, out: Array | None = None) -> Array:
    """z / 2 * (1 + tanh(sqrt(2 / pi) * (z + 0.044715 z^3))), which is near gelu; of any shape.

    Hendrycks and Gimpel (2016); PyTorch's ``approximate="tanh"``. -0 for -inf.
    """
    return _apply("gelu_tanh", z, out)


def gelu_tanh_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of gelu_tanh at z: da * f'(z)."""
    return _apply_backward("gelu_tanh", da, z, out)


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
    return _apply("log_softmax", z, out)


def log_softmax_backward(da: ArrayLike, z: ArrayLike, *, out: Array | None = None) -> Array:
    """dz of log_softmax at z, over the last axis: da - exp(a) * sum(da)."""
    return _apply_backward("log_softmax", da, z, out)


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
