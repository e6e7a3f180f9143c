"""Activations as array code over `xp`: f in place, and its derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

__all__ = ["ACTIVATIONS", "SLOPES", "with_gradient"]

Array = NDArray[Any]

# name: f, which changes z into a = f(z); and backward, which changes da into dz, given a = f(z), or f'(z) for
# the activations in SLOPES. np.maximum and the like hand NaN on.


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
    xp.copyto(da, 0.01 * da, where=a <= 0)


def _relu6(xp: Any, z: Array) -> None:
    xp.clip(z, 0, 6, out=z)


def _relu6_backward(xp: Any, a: Array, da: Array) -> None:
    xp.copyto(da, 0, where=(a <= 0) | (a >= 6))


def _hard_tanh(xp: Any, z: Array) -> None:
    xp.clip(z, -1, 1, out=z)


def _hard_tanh_backward(xp: Any, a: Array, da: Array) -> None:
    xp.copyto(da, 0, where=(a <= -1) | (a >= 1))


def _hard_sigmoid(xp: Any, z: Array) -> None:
    z += 3
    xp.clip(z, 0, 6, out=z)
    z /= 6


def _hard_sigmoid_backward(xp: Any, a: Array, da: Array) -> None:
    da /= 6
    xp.copyto(da, 0, where=(a <= 0) | (a >= 1))


def _hard_swish(xp: Any, z: Array) -> None:
    xp.maximum(z, -3, out=z)  # -inf times 0 would be NaN
    z *= xp.clip(z + 3, 0, 6) / 6


def _hard_swish_slope(xp: Any, z: Array) -> Array:
    slope: Array = xp.where(z <= -3, 0, xp.where(z >= 3, 1, z / 3 + 0.5)).astype(z.dtype)
    return slope


def _softsign(xp: Any, z: Array) -> None:
    # 1 - 1 / (1 + |z|), which is right for an infinity, where |z| is large
    t = xp.abs(z)
    a = xp.where(t < 1, t / (1 + xp.minimum(t, 1)), 1 - 1 / (1 + t))
    xp.copysign(a, z, out=z)


def _softsign_backward(xp: Any, a: Array, da: Array) -> None:
    da *= (1 - xp.abs(a)) ** 2


def _one_sided(xp: Any, z: Array, upper: Array) -> Array:
    """z times a sigmoid whose value at -|z| is `upper`; -0 for -inf."""
    t = xp.minimum(xp.abs(z), 1e4)  # where `upper` is 0
    a: Array = xp.maximum(z, -0.0) - t * upper
    return a


def _upper_sigmoid(xp: Any, y: Array) -> Array:
    """1 / (1 + exp(y)) for y >= 0, to its own last places."""
    e = xp.exp(-y)
    upper: Array = e / (1 + e)
    return upper


def _silu(xp: Any, z: Array) -> None:
    z[...] = _one_sided(xp, z, _upper_sigmoid(xp, xp.abs(z)))


def _silu_slope(xp: Any, z: Array) -> Array:
    t = xp.minimum(xp.abs(z), 1e4)
    upper = _upper_sigmoid(xp, t)
    w = upper * (1 - t * (1 - upper))
    slope: Array = xp.where(z < 0, w, 1 - w)
    return slope


def _elu(xp: Any, z: Array) -> None:
    xp.copyto(z, xp.expm1(xp.minimum(z, 0)), where=z < 0)


def _elu_backward(xp: Any, a: Array, da: Array) -> None:
    xp.copyto(da, da * (a + 1), where=a <= 0)


# scale * alpha and scale of Klambauer et al. (2017)
_SELU_LEFT, _SELU_RIGHT = 1.7580993408473768599, 1.0507009873554804934


def _selu(xp: Any, z: Array) -> None:
    z[...] = xp.where(z < 0, _SELU_LEFT * xp.expm1(xp.minimum(z, 0)), _SELU_RIGHT * z)


def _selu_backward(xp: Any, a: Array, da: Array) -> None:
    da *= xp.where(a <= 0, a + _SELU_LEFT, _SELU_RIGHT)


def _softplus(xp: Any, z: Array) -> None:
    soft = xp.maximum(z, 0) + xp.log1p(xp.exp(-xp.abs(z)))
    xp.copyto(z, soft, where=~(z > 20))


def _softplus_backward(xp: Any, a: Array, da: Array) -> None:
    # f' = 1 - exp(-a), but 1 beyond softplus(20), where PyTorch goes on with z
    xp.copyto(da, da * -xp.expm1(-a), where=~(a > 20.000000002061153))


def _mish(xp: Any, z: Array) -> None:
    inner = xp.minimum(z, 40)  # where tanh(softplus) is 1
    e = xp.exp(inner)
    left = xp.maximum(z, -1e4) * (e * (e + 2) / (e * (e + 2) + 2))
    z[...] = xp.where(z < 40, left, z)


def _mish_slope(xp: Any, z: Array) -> Array:
    inner = xp.clip(z, -1e4, 40)
    e = xp.exp(inner)
    part = 1 / (e * (e + 2) + 2)
    slope: Array = part * (e * (e + 2) + 4 * inner * (e * part) * (1 + e))
    return slope


def _upper_normal(xp: Any, t: Array) -> Array:
    """Probability of more than t >= 0 in the normal distribution, to about its own last places.

    Up to 3 one half less the series t + t^3/3 + t^5/15 .. times the density (all terms positive); beyond,
    where that would cancel, the continued fraction of Laplace, 1/(t + 1/(t + 2/(t + ..))), 60 levels deep.
    """
    near = xp.minimum(t, 3)
    square = near * near
    term = total = near
    for k in range(3, 103, 2):
        term = term * square / k
        total = total + term
    far = xp.maximum(t, 3)
    fraction = far
    for k in range(60, 0, -1):
        fraction = far + k / fraction
    upper: Array = xp.where(t < 3, 0.5 - _density(xp, near) * total, _density(xp, far) / fraction)
    return upper


def _density(xp: Any, t: Array) -> Array:
    density: Array = xp.exp(-t * t / 2) * 0.39894228040143267794
    return density


def _gelu(xp: Any, z: Array) -> None:
    z[...] = _one_sided(xp, z, _upper_normal(xp, xp.minimum(xp.abs(z), 1e4)))


def _gelu_slope(xp: Any, z: Array) -> Array:
    t = xp.minimum(xp.abs(z), 1e4)
    w = _upper_normal(xp, t) - t * _density(xp, t)
    slope: Array = xp.where(z < 0, w, 1 - w)
    return slope


# 2 sqrt(2 / pi) (z + 0.044715 z^3) is the logit of the GELU with tanh
_C1, _C3 = 1.5957691216057307117, 1.5957691216057307117 * 0.044715


def _gelu_tanh(xp: Any, z: Array) -> None:
    t = xp.minimum(xp.abs(z), 1e4)
    z[...] = _one_sided(xp, z, _upper_sigmoid(xp, t * (_C1 + _C3 * t * t)))


def _gelu_tanh_slope(xp: Any, z: Array) -> Array:
    t = xp.minimum(xp.abs(z), 1e4)
    upper = _upper_sigmoid(xp, t * (_C1 + _C3 * t * t))
    w = upper * (1 - t * (_C1 + 3 * _C3 * t * t) * (1 - upper))
    slope: Array = xp.where(z < 0, w, 1 - w)
    return slope


def _kept_backward(xp: Any, slope: Array, da: Array) -> None:
    da *= slope


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


def _log_softmax(xp: Any, z: Array) -> None:
    z -= z.max(axis=1, keepdims=True)
    z -= xp.log(xp.exp(z).sum(axis=1, keepdims=True))


def _log_softmax_backward(xp: Any, a: Array, da: Array) -> None:
    da -= xp.exp(a) * da.sum(axis=1, keepdims=True)


ACTIVATIONS: dict[str, tuple[Callable[[Any, Array], None], Callable[[Any, Array, Array], None]]] = {
    "identity": (_identity, _identity_backward),
    "relu": (_relu, _relu_backward),
    "leaky_relu": (_leaky_relu, _leaky_relu_backward),
    "relu6": (_relu6, _relu6_backward),
    "hard_tanh": (_hard_tanh, _hard_tanh_backward),
    "hard_sigmoid": (_hard_sigmoid, _hard_sigmoid_backward),
    "hard_swish": (_hard_swish, _kept_backward),
    "softsign": (_softsign, _softsign_backward),
    "elu": (_elu, _elu_backward),
    "selu": (_selu, _selu_backward),
    "celu": (_elu, _elu_backward),  # with alpha 1 the same
    "softplus": (_softplus, _softplus_backward),
    "silu": (_silu, _kept_backward),
    "mish": (_mish, _kept_backward),
    "gelu": (_gelu, _kept_backward),
    "gelu_tanh": (_gelu_tanh, _kept_backward),
    "sigmoid": (_sigmoid, _sigmoid_backward),
    "tanh": (_tanh, _tanh_backward),
    "softmax": (_softmax, _softmax_backward),
    "log_softmax": (_log_softmax, _log_softmax_backward),
}

# f'(z) of the activations whose output does not tell it.
SLOPES: dict[str, Callable[[Any, Array], Array]] = {
    "hard_swish": _hard_swish_slope,
    "silu": _silu_slope,
    "mish": _mish_slope,
    "gelu": _gelu_slope,
    "gelu_tanh": _gelu_tanh_slope,
}


def with_gradient(xp: Any, name: str, z: Array, da: Array) -> None:
    """Change z (m, n) into a = f(z) and da into dz."""
    slope = SLOPES[name](xp, z) if name in SLOPES else None
    forward, backward = ACTIVATIONS[name]
    forward(xp, z)
    backward(xp, z if slope is None else slope, da)
