"""Products, activations, norms and losses: the operators that our kernels compute."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import kernels, ops
from .operators import Call, operator

__all__: list[str] = []

Array = NDArray[Any]


def _is_real(array: Array) -> bool:
    return array.dtype in (np.float32, np.float64)


def _reals(*arrays: Array | None) -> tuple[Any, ...]:
    """Arrays as kernels take them, and the type to give back; half precision is computed in single."""
    given = [a for a in arrays if a is not None]
    dtype = given[0].dtype
    if any(a.dtype != dtype for a in given):
        raise ValueError(f"inputs must be of one type, got {', '.join(str(a.dtype) for a in given)}")
    if dtype == np.float16:
        return *(a if a is None else a.astype(np.float32) for a in arrays), dtype
    if not _is_real(given[0]):
        raise ValueError(f"inputs must be float32 or float64, got {dtype}")
    return *arrays, dtype


# ---------------------------------------------------------------- products


def _product(call: Call, a: Array, b: Array, bias: Array | None = None) -> Array:
    call.room((a.shape[0], b.shape[1]))
    return call.kernel(ops.linear, a, b, bias)


@operator("MatMul")
def _matmul(call: Call) -> Array:
    a, b = call.input(0), call.input(1)
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"inputs must have dimensions, got shapes {a.shape} and {b.shape}")
    left, right = a.ndim == 1, b.ndim == 1
    a, b = a[None] if left else a, b[:, None] if right else b
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"shapes {call.input(0).shape} and {call.input(1).shape} do not multiply")
    if a.dtype.kind in "iu" and a.dtype == b.dtype:
        found = np.matmul(a, b)  # integers: no kernel of ours
    else:
        a, b, dtype = _reals(a, b)
        found = _stacked(call, a, b).astype(dtype, copy=False)
    if left:
        found = found[..., 0, :]
    return np.asarray(found[..., 0] if right else found)


def _stacked(call: Call, a: Array, b: Array) -> Array:
    """a @ b, with the dimensions before the last two broadcast."""
    m, n = a.shape[-2], b.shape[-1]
    if b.ndim == 2:
        # One product of all rows.
        return _product(call, a.reshape(-1, a.shape[-1]), b).reshape(*a.shape[:-1], n)
    outer = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    found = np.empty(call.room((*outer, m, n)), a.dtype)
    a = np.broadcast_to(a, (*outer, *a.shape[-2:]))
    b = np.broadcast_to(b, (*outer, *b.shape[-2:]))
    for at in np.ndindex(*outer):
        found[at] = _product(call, a[at], b[at])
    return found


@operator("Gemm")
def _gemm(call: Call) -> Array:
    a, b, c, dtype = _reals(call.input(0), call.input(1), call.optional(2))
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"A and B must be matrices, got shapes {a.shape} and {b.shape}")
    alpha, beta = call.real("alpha", 1.0), call.real("beta", 1.0)
    a = a.T if call.integer("transA", 0) else a
    b = b.T if call.integer("transB", 0) else b
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"A and B must multiply, got {a.shape} and {b.shape} after the transpositions")
    shape = a.shape[0], b.shape[1]
    if c is not None and (c.ndim > 2 or np.broadcast_shapes(c.shape, shape) != shape):
        raise ValueError(f"C must broadcast to {shape}, got shape {c.shape}")
    fused = c is not None and alpha == 1 and (c.ndim < 2 or c.shape[0] == 1)
    bias = None
    if fused:
        bias = np.broadcast_to(c.reshape(-1), shape[1:])
        bias = bias if beta == 1 else bias * bias.dtype.type(beta)
    found = _product(call, a, b, bias)
    if alpha != 1:
        found *= found.dtype.type(alpha)
    if c is not None and not fused:
        found += c if beta == 1 else c * c.dtype.type(beta)
    return found.astype(dtype, copy=False)


# ---------------------------------------------------------------- activations


def _plain(name: str) -> Callable[[Call], Array]:
    """An operator that is one of our activations."""
    f = ops.ACTIVATIONS[name][0]

    def apply(call: Call) -> Array:
        z, dtype = _reals(call.input(0))
        return call.kernel(f, z).astype(dtype, copy=False)

    return apply


for _op, _name in {
    "HardSwish": "hard_swish",
    "Mish": "mish",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Tanh": "tanh",
}.items():
    operator(_op)(_plain(_name))


@operator("Relu")
def _relu(call: Call) -> Array:
    z = call.input(0)
    if z.dtype.kind == "i":
        return np.asarray(np.maximum(z, z.dtype.type(0)))  # integers: no kernel of ours
    return _plain("relu")(call)


@operator("LeakyRelu")
def _leaky_relu(call: Call) -> Array:
    z, dtype = _reals(call.input(0))
    alpha = z.dtype.type(call.real("alpha", 0.01))
    return _bent(call, z, np.full(1, alpha)).astype(dtype, copy=False)


@operator("PRelu")
def _prelu(call: Call) -> Array:
    z, slope, dtype = _reals(call.input(0), call.input(1))
    if np.broadcast_shapes(z.shape, slope.shape) != z.shape:
        raise ValueError(f"slope must broadcast to {z.shape}, got shape {slope.shape}")
    if slope.size == 1:
        found = _bent(call, z, slope.reshape(1))
    elif slope.size == slope.shape[-1] == z.shape[-1]:
        found = _bent(call, z, slope.reshape(-1))
    else:  # a slope for each number of a row, or of all
        slopes = np.broadcast_to(slope, z.shape).reshape(-1)
        found = _bent(call, z.reshape(1, -1), slopes).reshape(z.shape)
    return found.astype(dtype, copy=False)


def _bent(call: Call, z: Array, slope: Array) -> Array:
    return call.kernel(ops.prelu, z, slope)


def _left(call: Call, z: Array, alpha: float, scale: float = 1.0) -> Array:
    """z on the right of 0, alpha * (exp(z) - 1) on the left, all times scale."""
    found = call.kernel(ops.elu, z)
    if alpha != 1:
        np.multiply(found, found.dtype.type(alpha), out=found, where=found < 0)
    if scale != 1:
        found *= found.dtype.type(scale)
    return found


@operator("Elu")
def _elu(call: Call) -> Array:
    z, dtype = _reals(call.input(0))
    return _left(call, z, call.real("alpha", 1.0)).astype(dtype, copy=False)


@operator("Selu")
def _selu(call: Call) -> Array:
    z, dtype = _reals(call.input(0))
    alpha = call.real("alpha", 1.67326319217681884765625)
    gamma = call.real("gamma", 1.05070102214813232421875)
    if z.dtype == np.float32 and np.float32(alpha) == 1.6732632 and np.float32(gamma) == 1.050701:
        return call.kernel(ops.selu, z).astype(dtype, copy=False)
    return _left(call, z, alpha, gamma).astype(dtype, copy=False)


@operator("Celu")
def _celu(call: Call) -> Array:
    z, dtype = _reals(call.input(0))
    alpha = call.real("alpha", 1.0)
    if alpha == 0:
        raise ValueError("attribute 'alpha' must not be 0")
    if alpha == 1:
        return call.kernel(ops.celu, z).astype(dtype, copy=False)
    left = call.kernel(ops.celu, z / z.dtype.type(alpha))
    left *= z.dtype.type(alpha)
    return np.where(z > 0, z, left).astype(dtype, copy=False)


@operator("Gelu")
def _gelu(call: Call) -> Array:
    z, dtype = _reals(call.input(0))
    forms = {"none": ops.gelu, "tanh": ops.gelu_tanh}
    form = call.text("approximate", "none")
    if form not in forms:
        raise ValueError(f"attribute 'approximate' must be 'none' or 'tanh', got {form!r}")
    return call.kernel(forms[form], z).astype(dtype, copy=False)


@operator("Swish")
def _swish(call: Call) -> Array:
    z, dtype = _reals(call.input(0))
    alpha = call.real("alpha", 1.0)
    if alpha == 1:
        return call.kernel(ops.silu, z).astype(dtype, copy=False)
    gate = call.kernel(ops.sigmoid, z * z.dtype.type(alpha))
    gate *= z
    return gate.astype(dtype, copy=False)


@operator("HardSigmoid")
def _hard_sigmoid(call: Call) -> Array:
    z, dtype = _reals(call.input(0))
    alpha, beta = call.real("alpha", 0.2), call.real("beta", 0.5)
    # min(max(t, 0), 1) by min(max(6 t, 0), 6) / 6
    six = z.dtype.type(6)
    found = call.kernel(ops.relu6, (z * z.dtype.type(alpha) + z.dtype.type(beta)) * six)
    found /= six
    return found.astype(dtype, copy=False)


@operator("ThresholdedRelu")
def _thresholded_relu(call: Call) -> Array:
    z, dtype = _reals(call.input(0))
    found = call.kernel(ops.relu, z)
    alpha = z.dtype.type(call.real("alpha", 1.0))
    return np.where(z > alpha, found if alpha >= 0 else z, z.dtype.type(0)).astype(dtype, copy=False)


# ---------------------------------------------------------------- softmax


def _by_rows(f: Callable[[Array], Array]) -> Callable[[Call], Array]:
    """Softmax or its logarithm along an axis."""

    def apply(call: Call) -> Array:
        z, dtype = _reals(call.input(0))
        if call.version < 13:
            # All dimensions from the axis on are one.
            axis = call.axis(z.ndim, 1, end=True)
            flat = z.reshape(math.prod(z.shape[:axis]), math.prod(z.shape[axis:]))
            return call.kernel(f, flat).reshape(z.shape).astype(dtype, copy=False)
        axis = call.axis(z.ndim, -1)
        return _along(call, f, z, axis).astype(dtype, copy=False)

    return apply


def _along(call: Call, f: Callable[[Array], Array], z: Array, axis: int) -> Array:
    """f of the numbers along an axis, which is the last for f."""
    moved = np.ascontiguousarray(np.moveaxis(z, axis, -1))
    return np.moveaxis(call.kernel(f, moved), -1, axis)


operator("Softmax")(_by_rows(ops.softmax))
operator("LogSoftmax")(_by_rows(ops.log_softmax))


# ---------------------------------------------------------------- norms


@operator("BatchNormalization")
def _batch_normalization(call: Call) -> Any:
    x, scale, bias, dtype = _reals(call.input(0), call.input(1), call.input(2))
    mean, var = call.input(3), call.input(4)
    if call.version < 9 and call.integer("spatial", 1) != 1:
        raise ValueError("attribute 'spatial' must be 1")
    if x.ndim < 2:
        raise ValueError(f"X must have two dimensions or more, got shape {x.shape}")
    for name, given in (("scale", scale), ("B", bias), ("mean", mean), ("var", var)):
        if given.shape != x.shape[1:2]:
            raise ValueError(f"{name} must have shape {x.shape[1:2]}, got {given.shape}")
    eps = call.real("epsilon", 1e-5)
    moved = np.moveaxis(x, 1, -1)
    rows = np.ascontiguousarray(moved).reshape(-1, x.shape[1])
    training = call.version >= 14 and call.integer("training_mode", 0)
    if not training and call.version < 7 and not call.integer("is_test", 0):
        raise ValueError("attribute 'is_test' must be 1: training is not supported in that form")
    numbers = mean.astype(x.dtype), var.astype(x.dtype)
    moments = call.kernel(ops.column_moments, rows) if training else numbers
    found = call.kernel(ops.batch_norm, rows, scale, bias, mean=moments[0], var=moments[1], eps=eps)
    y = np.moveaxis(found.reshape(moved.shape), -1, 1).astype(dtype, copy=False)
    if not training:
        return y
    keep = x.dtype.type(call.real("momentum", 0.9))
    rest = x.dtype.type(1) - keep
    running = [(a * keep + b * rest) for a, b in zip(numbers, moments, strict=True)]
    return y, running[0].astype(mean.dtype), running[1].astype(var.dtype)


def _norm(call: Call, *, centred: bool) -> Any:
    x, scale, bias, dtype = _reals(call.input(0), call.input(1), call.optional(2) if centred else None)
    axis = call.axis(x.ndim, -1)
    normal = x.shape[axis:]
    rows = x.reshape(math.prod(x.shape[:axis]), math.prod(normal))
    out = np.empty(rows.shape, rows.dtype)
    stats = np.empty((len(rows), 2), rows.dtype)
    fused = all(np.broadcast_shapes(p.shape, normal) == normal for p in (scale, bias) if p is not None)
    gamma = beta = None
    if fused:
        gamma = np.ascontiguousarray(np.broadcast_to(scale, normal)).reshape(-1)
        beta = None if bias is None else np.ascontiguousarray(np.broadcast_to(bias, normal)).reshape(-1)
    eps = call.real("epsilon", 1e-5)
    if eps < 0:
        raise ValueError(f"attribute 'epsilon' must not be negative, got {eps}")
    if out.size:
        call.kernel(kernels.norm_rows, rows, gamma, beta, centred, eps, out, stats)
    y = out.reshape(x.shape)
    if not fused:  # numbers that differ from row to row
        for p, f in ((scale, np.multiply), (bias, np.add)):
            if p is not None and np.broadcast_shapes(p.shape, x.shape) != x.shape:
                raise ValueError(f"scale and bias must broadcast to {x.shape}, got shape {p.shape}")
            y = y if p is None else f(y, p)
    y = y.astype(dtype, copy=False)
    if not centred:
        return y
    shape = (*x.shape[:axis], *(1 for _ in normal))
    return y, *(np.ascontiguousarray(stats[:, i]).reshape(shape) for i in range(2))


@operator("LayerNormalization")
def _layer_normalization(call: Call) -> Any:
    return _norm(call, centred=True)


@operator("RMSNormalization")
def _rms_normalization(call: Call) -> Any:
    return _norm(call, centred=False)


@operator("Dropout")
def _dropout(call: Call) -> Any:
    x = call.input(0)
    training, ratio = call.optional(2), call.optional(1)
    if training is not None and bool(training) and (ratio is None or float(ratio) != 0):
        raise ValueError("training_mode must be false: dropout while training is not supported")
    if call.version < 7 and not call.integer("is_test", 0):
        raise ValueError("attribute 'is_test' must be 1: dropout while training is not supported")
    mask = np.ones(x.shape, bool if call.version >= 10 else x.dtype)
    return x, mask


# ---------------------------------------------------------------- losses


@operator("NegativeLogLikelihoodLoss")
def _negative_log_likelihood(call: Call) -> Array:
    scores, weight, dtype = _reals(call.input(0), call.optional(2))
    return _likelihood(call, scores, call.input(1), weight).astype(dtype, copy=False)


@operator("SoftmaxCrossEntropyLoss")
def _softmax_cross_entropy(call: Call) -> Any:
    scores, weight, dtype = _reals(call.input(0), call.optional(2))
    if scores.ndim < 2:
        raise ValueError(f"scores must have two dimensions or more, got shape {scores.shape}")
    log_prob = _along(call, ops.log_softmax, scores, 1)
    loss = _likelihood(call, log_prob, call.input(1), weight)
    return loss.astype(dtype, copy=False), np.ascontiguousarray(log_prob).astype(dtype, copy=False)


def _likelihood(call: Call, log_prob: Array, labels: Array, weight: Array | None) -> Array:
    """-weight * log_prob at the labels, reduced; log_prob (n, classes, ..), labels (n, ..)."""
    if log_prob.ndim < 2 or labels.shape != (log_prob.shape[0], *log_prob.shape[2:]):
        raise ValueError(f"labels must fit scores of shape {log_prob.shape}, got shape {labels.shape}")
    if labels.dtype not in (np.int32, np.int64):
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    n_classes = log_prob.shape[1]
    if weight is not None and weight.shape != (n_classes,):
        raise ValueError(f"weights must have shape ({n_classes},), got {weight.shape}")
    ignored = call.integer("ignore_index", None)
    counts = np.ones(labels.shape, bool) if ignored is None else labels != ignored
    if labels.size and ((labels < 0) | (labels >= n_classes))[counts].any():
        raise ValueError(f"labels must lie from 0 to {n_classes - 1}")
    safe = np.where(counts, labels, 0).astype(np.int64)
    picked = np.take_along_axis(log_prob, safe[:, None], axis=1)[:, 0]
    weights = counts.astype(log_prob.dtype)
    if weight is not None:
        weights *= weight[safe]
    loss: Array = np.where(counts, -picked, log_prob.dtype.type(0)) * weights
    reduction = call.text("reduction", "mean")
    if reduction == "none":
        return loss
    if reduction == "sum":
        return np.asarray(loss.sum(dtype=loss.dtype))
    if reduction == "mean":
        with np.errstate(invalid="ignore"):
            return np.asarray(loss.sum(dtype=loss.dtype) / weights.sum(dtype=loss.dtype))
    raise ValueError(f"attribute 'reduction' must be 'none', 'sum' or 'mean', got {reduction!r}")
