"""The kernels as functions of arrays.

float32 arrays give float32; everything else (float64, integers, lists, a mix of types) is computed in
float64, as NumPy promotes. Inputs may be read-only, strided or Fortran-ordered. ``out=`` must have the
exact shape and dtype, be writable and have contiguous rows; it may be the input itself for elementwise
functions and must not overlap an input in any other way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import errors, kernels, optimizers

__all__ = [
    "adam_update",
    "binary_cross_entropy",
    "cross_entropy",
    "dropout",
    "exp",
    "identity",
    "identity_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "linear",
    "linear_backward",
    "log",
    "log_softmax",
    "matmul",
    "mse",
    "relu",
    "relu_backward",
    "sgd_update",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_backward",
    "tanh",
    "tanh_backward",
]

Array: TypeAlias = NDArray[Any]

# ---------------------------------------------------------------- shapes


def _table(found: Array) -> Array:
    """An array of any number of dimensions as rows of its last axis; a view where the memory allows."""
    if found.ndim != 2:
        found = np.ascontiguousarray(found)
        found = found.reshape(-1, found.shape[-1] if found.ndim else 1) if found.size else found.reshape(0, 1)
    return errors.rows(found) if found.size else np.empty((0, 1), found.dtype)


def _out_table(out: Array) -> Array:
    """The same of an array that has been judged as an output: always a view."""
    return out if out.ndim == 2 else out.reshape(-1, out.shape[-1] if out.ndim else 1)


def _two_dimensional(**arguments: Array) -> None:
    for name, value in arguments.items():
        if value.ndim != 2:
            raise ValueError(f"{name} must be 2-D, got shape {value.shape}")


def _any_strides(a: Array) -> Array:
    """A left factor: rows or columns may be strided, but not backwards."""
    legal = all(stride >= 0 and stride % a.itemsize == 0 for stride in a.strides)
    return a if legal else np.ascontiguousarray(a)


# ---------------------------------------------------------------- products


def matmul(a: ArrayLike, b: ArrayLike, *, out: Array | None = None) -> Array:
    """a (m, k) @ b (k, n) as (m, n); each element is summed in the order of k, whatever the machine."""
    a, b = errors.reals(a=a, b=b)
    _two_dimensional(a=a, b=b)
    return _product("a", a, "b", b, None, "identity", out)


def linear(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    activation: str | None = None,
    out: Array | None = None,
) -> Array:
    """f(x @ w + b) for x (batch, n_in), w (n_in, n_out), b (n_out,): (batch, n_out)."""
    name = "identity" if activation is None else errors.choice("activation", activation, kernels.ACTIVATIONS)
    if b is None:
        x, w = errors.reals(x=x, w=w)
    else:
        x, w, b = errors.reals(x=x, w=w, b=b)
    _two_dimensional(x=x, w=w)
    if b is not None and b.shape != (w.shape[1],):
        raise ValueError(f"b must have shape ({w.shape[1]},), got {b.shape}")
    return _product("x", x, "w", w, b, name, out)


def _product(
    a_name: str, a: Array, b_name: str, b: Array, bias: Array | None, f: str, out: Array | None
) -> Array:
    if a.shape[1] != b.shape[0]:
        raise ValueError(
            f"{b_name} must have {a.shape[1]} rows, as {a_name} has columns, got shape {b.shape}"
        )
    inputs = (a, b) if bias is None else (a, b, bias)
    result = errors.output(out, (a.shape[0], b.shape[1]), a.dtype, *inputs)
    if result.size == 0:
        return result
    if a.shape[1] == 0:  # an empty sum, and the kernels need an address of b
        a, b = np.zeros((len(a), 1), a.dtype), np.zeros((1, b.shape[1]), b.dtype)
    bias = None if bias is None else np.ascontiguousarray(bias)
    kernels.matmul(_any_strides(a), errors.rows(b), bias, f, result)
    return result


def linear_backward(
    dz: ArrayLike, x: ArrayLike, w: ArrayLike, *, need_dx: bool = True
) -> tuple[Array | None, Array, Array]:
    """Gradients of ``z = x @ w + b`` for dz (batch, n_out): dx (batch, n_in), dw (n_in, n_out), db (n_out,).

    dx is None where need_dx is False.
    """
    dz, x, w = errors.reals(dz=dz, x=x, w=w)
    _two_dimensional(dz=dz, x=x, w=w)
    if x.shape[1] != w.shape[0]:
        raise ValueError(f"w must have {x.shape[1]} rows, as x has columns, got shape {w.shape}")
    if dz.shape != (x.shape[0], w.shape[1]):
        raise ValueError(f"dz must have shape {(x.shape[0], w.shape[1])}, got {dz.shape}")
    dw, db = np.zeros(w.shape, dz.dtype), np.zeros(w.shape[1], dz.dtype)
    dx = np.zeros(x.shape, dz.dtype) if need_dx else None
    if dz.size:
        dz = errors.rows(dz)
        kernels.sum_rows(dz, db)
        if x.size:
            kernels.matmul(_any_strides(x).T, dz, None, "identity", dw)
            if dx is not None:
                kernels.linear_input_gradient(dz, errors.rows(w), dx)
    return dx, dw, db


# ---------------------------------------------------------------- activations


def _apply(name: str, z: ArrayLike, out: Array | None) -> Array:
    (found,) = errors.reals(z=z)
    if kernels.ACTIVATIONS[name] == "rowwise":
        _has_rows(name, found)
    result = errors.output(out, found.shape, found.dtype, found, in_place=True)
    if result.size:
        kernels.activation(name, _table(found), _out_table(result))
    return result


def _apply_backward(name: str, da: ArrayLike, z: ArrayLike, out: Array | None) -> Array:
    gradient, found = errors.reals(da=da, z=z)
    if kernels.ACTIVATIONS[name] == "rowwise":
        _has_rows(name, found)
    if gradient.shape != found.shape:
        raise ValueError(f"da must have the shape of z, {found.shape}, got {gradient.shape}")
    result = errors.output(out, found.shape, found.dtype, gradient, found, in_place=True)
    if result.size:
        a = np.empty_like(_table(found), order="C")
        kernels.activation(name, _table(found), a)
        kernels.activation_backward(name, a, _table(gradient), _out_table(result))
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
        kernels.log_softmax(_table(found), _out_table(result))
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


# ---------------------------------------------------------------- losses


def cross_entropy(
    z: ArrayLike, labels: ArrayLike, sample_weight: ArrayLike | None = None
) -> tuple[float, Array]:
    """Softmax cross-entropy of logits z (n, n_out) and integer labels (n,).

    Returns
    -------
    loss : float
        Mean over the rows, sum(w * l) / sum(w) with weights.
    dz : ndarray (n, n_out)
        Its gradient.
    """
    return _loss("cross_entropy", z, labels, sample_weight)


def binary_cross_entropy(
    z: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
) -> tuple[float, Array]:
    """Cross-entropy of logits z (n, n_out) and targets y of the same shape, from 0 to 1.

    Returns
    -------
    loss : float
        Mean over rows and outputs, the rows weighted.
    dz : ndarray (n, n_out)
        Its gradient.
    """
    return _loss("binary_cross_entropy", z, y, sample_weight, (0.0, 1.0))


def mse(z: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> tuple[float, Array]:
    """Mean of squares of z - y, both (n, n_out).

    Returns
    -------
    loss : float
        Mean over rows and outputs, the rows weighted.
    dz : ndarray (n, n_out)
        Its gradient.
    """
    return _loss("mse", z, y, sample_weight)


def _loss(
    name: str,
    z: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    bounds: tuple[float, float] | None = None,
) -> tuple[float, Array]:
    (found,) = errors.reals(z=z)
    _two_dimensional(z=found)
    if found.size == 0:
        raise ValueError(f"z must have at least one row and one column, got shape {found.shape}")
    n_rows, n_out = found.shape
    weights = errors.sample_weights("sample_weight", sample_weight, n_rows)
    if kernels.LOSSES[name] == "label":
        targets = errors.labels("labels", y, n_rows, n_out)
    else:
        targets = errors.values("y", y, n_rows, n_out, found.dtype, bounds)
    total = float(n_rows) if weights is None else float(weights.sum())
    rows, dz = np.empty(n_rows), np.empty(found.shape, found.dtype)
    kernels.loss(name, errors.rows(found), targets, weights, 1.0 / total, rows, dz)
    return float(rows.sum() if weights is None else weights @ rows) / total, dz


# ---------------------------------------------------------------- dropout and updates


def dropout(x: ArrayLike, rate: float, *, seed: int, step: int = 0, layer: int = 0) -> tuple[Array, Array]:
    """x with each number set to 0 with probability rate, the rest scaled by 1/(1-rate).

    Returns
    -------
    out, mask : ndarray
        ``out = x * mask``; the mask is a function of (seed, step, layer, row, column), a row being one of
        the last axis: the same as training uses.
    """
    (found,) = errors.reals(x=x)
    rate = errors.real("rate", rate, 0.0, 1.0)
    seed = errors.seed("seed", seed)
    step = errors.integer("step", step, 0, 2**44 - 1)
    layer = errors.integer("layer", layer, 0, 2**16 - 1)
    out = np.array(found, order="C")
    mask = np.empty(out.shape, out.dtype)
    if out.size:
        kernels.dropout(_out_table(out), _out_table(mask), seed, step, layer, rate, 0)
    return out, mask


def _in_place(w: Any, **others: Any) -> list[Any]:
    """Parameters and what belongs to them, judged and as vectors: one shape and dtype, contiguous."""
    if not isinstance(w, np.ndarray) or w.dtype not in (np.float32, np.float64):
        raise TypeError(f"w must be a float32 or float64 array, got {getattr(w, 'dtype', type(w).__name__)}")
    vectors: list[Any] = []
    for name, value in {"w": w, **others}.items():
        if value is None:
            vectors.append(None)
            continue
        if name == "g":
            value = np.ascontiguousarray(errors.cast("g", errors.array("g", value), w.dtype))
        else:
            errors.writable(name, value, w.dtype)
            if not value.flags.c_contiguous:
                raise ValueError(
                    f"{name} must be C-contiguous, got strides {value.strides} for shape {value.shape}"
                )
        if value.shape != w.shape:
            raise ValueError(f"{name} must have the shape of w, {w.shape}, got {value.shape}")
        if any(v is not None and np.may_share_memory(v, value) for v in vectors):
            raise ValueError(f"{name} must not overlap another array of the call")
        vectors.append(value.reshape(-1))
    return vectors


def sgd_update(
    w: Array,
    g: ArrayLike,
    velocity: Array | None = None,
    *,
    lr: float = 1e-3,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> None:
    """One step of SGD on w, in place, of any shape; velocity too, which momentum needs (zeros at first)."""
    sgd = optimizers.SGD(lr, momentum, nesterov, weight_decay)
    if sgd.momentum and velocity is None:
        raise ValueError("velocity must be an array where momentum is not 0, got None")
    flat, gradient, state = _in_place(w, g=g, velocity=velocity)
    sgd.judge_dtype(w.dtype)
    if flat.size:
        kernels.sgd_update(flat, gradient, state, sgd.lr, sgd.momentum, sgd.nesterov, sgd.weight_decay, None)


def adam_update(
    w: Array,
    g: ArrayLike,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> None:
    """One step of Adam on w, m and v, in place, of any shape; m and v are zeros before the first.

    Parameters
    ----------
    step : int
        Number of this step, counted from 1.
    """
    step = errors.integer("step", step, 1, 2**62)
    adam = optimizers.Adam(lr, betas, eps, weight_decay)
    flat, gradient, first, second = _in_place(w, g=g, m=m, v=v)
    adam.judge_dtype(w.dtype)
    if flat.size:
        numbers = adam.lr, *adam.betas, adam.eps, adam.weight_decay
        kernels.adam_update(flat, gradient, first, second, step, *numbers, None)


Pair: TypeAlias = tuple[Callable[..., Array], Callable[..., Array]]
"""An activation and its backward, as `ACTIVATIONS` holds them."""

ACTIVATIONS: dict[str, Pair] = {
    name: (globals()[name], globals()[f"{name}_backward"]) for name in kernels.ACTIVATIONS
}
