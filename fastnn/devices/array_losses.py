"""Losses as array code over `xp`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from ..steps import Objective
from .array_activations import ACTIVATIONS

__all__ = ["LOSSES", "told_rows"]

Array = NDArray[Any]

# name: (xp, z, y, dz, **numbers of the loss) -> loss of each row; dz is filled with the gradient of each
# row's own loss.


def _cross_entropy(xp: Any, z: Array, y: Array, dz: Array, smoothing: float = 0.0) -> Array:
    if y.ndim == 2 or smoothing:
        if y.ndim == 1:
            y = xp.eye(z.shape[1], dtype=z.dtype)[y]
        return _distribution(xp, z, (1 - smoothing) * y + smoothing / z.shape[1], dz)
    rows = xp.arange(len(z))
    xp.subtract(z, z.max(axis=1, keepdims=True), out=dz)
    at_label = dz[rows, y]
    xp.exp(dz, out=dz)
    total = dz.sum(axis=1)
    dz /= total[:, None]
    dz[rows, y] -= 1
    loss: Array = xp.log(total) - at_label
    return loss


def _distribution(xp: Any, z: Array, t: Array, dz: Array) -> Array:
    """Cross-entropy with targets t (n, n_out)."""
    below = z.max(axis=1, keepdims=True) - z
    xp.exp(-below, out=dz)
    total = dz.sum(axis=1, keepdims=True)
    loss: Array = (t * (below + xp.log(total))).sum(axis=1)
    dz *= t.sum(axis=1, keepdims=True) / total
    dz -= t
    return loss


def _kl_divergence(xp: Any, z: Array, y: Array, dz: Array) -> Array:
    there = y != 0
    entropy = xp.where(there, y * xp.log(xp.where(there, y, 1)), 0).sum(axis=1)
    loss: Array = entropy + _distribution(xp, z, y, dz)
    return loss


def _multi_margin(xp: Any, z: Array, y: Array, dz: Array, p: int, margin: float) -> Array:
    rows = xp.arange(len(z))
    own = z[rows, y].copy()
    over = xp.maximum(margin - own[:, None] + z, 0)
    over[rows, y] = own - own  # 0, and NaN of what is not finite
    loss: Array = (over**p).sum(axis=1) / z.shape[1]
    dz[...] = 2 * over if p == 2 else over > 0
    dz[rows, y] = 0
    dz[rows, y] = -dz.sum(axis=1)
    dz /= z.shape[1]
    return loss


def _log1p_exp(xp: Any, z: Array) -> Array:
    """log(1 + exp(z)) with the exponential of -|z| alone."""
    found: Array = xp.maximum(z, 0) + xp.log1p(xp.exp(-xp.abs(z)))
    return found


def _sigmoid(xp: Any, z: Array) -> Array:
    found = z.copy()
    ACTIVATIONS["sigmoid"][0](xp, found)
    return found


def _binary_cross_entropy(xp: Any, z: Array, y: Array, dz: Array, each: Any = None) -> Array:
    loss: Array
    if each is not None:
        loss = (each * y * _log1p_exp(xp, -z) + (1 - y) * _log1p_exp(xp, z)).mean(axis=1)
        dz[...] = ((1 - y) * _sigmoid(xp, z) - each * y * _sigmoid(xp, -z)) / z.shape[1]
        return loss
    loss = (_log1p_exp(xp, z) - z * y).mean(axis=1)
    dz[...] = z
    ACTIVATIONS["sigmoid"][0](xp, dz)
    dz -= y
    dz /= z.shape[1]
    return loss


def _focal(xp: Any, z: Array, y: Array, dz: Array, alpha: float, gamma: float) -> Array:
    p, not_p = _sigmoid(xp, z), _sigmoid(xp, -z)
    cross = y * _log1p_exp(xp, -z) + (1 - y) * _log1p_exp(xp, z)
    slope = (1 - y) * p - y * not_p
    q = p * (1 - y) + not_p * y  # 1 - p_t
    weight = (1 if alpha < 0 else alpha * y + (1 - alpha) * (1 - y)) * q**gamma
    # q' / q; q cancels where the target is 0 or 1, and may be 0 there
    hard = (y == 0) | (y == 1)
    ratio = xp.where(hard, xp.where(y == 0, not_p, -p), p * not_p * (1 - 2 * y) / xp.where(hard, 1, q))
    dz[...] = weight * (gamma * ratio * cross + slope) / z.shape[1]
    loss: Array = (weight * cross).mean(axis=1)
    return loss


def _softmax_focal(xp: Any, z: Array, y: Array, dz: Array, gamma: float) -> Array:
    rows = xp.arange(len(z))
    top = z.max(axis=1)
    xp.exp(z - top[:, None], out=dz)
    own = dz[rows, y].copy()
    dz[rows, y] = 0
    rest = dz.sum(axis=1)
    total = rest + own
    q, chosen = rest / total, z[rows, y]
    cross = xp.where(chosen == top, xp.log1p(rest), xp.log(total) + (top - chosen))
    power = q**gamma
    steep = power * (1 + gamma * own / total * xp.where(q == 0, 1, cross / xp.where(q == 0, 1, q)))
    dz /= total[:, None]
    dz[rows, y] = -q
    dz *= steep[:, None]
    loss: Array = power * cross + (chosen - chosen)
    return loss


def _hinge(xp: Any, z: Array, y: Array, dz: Array) -> Array:
    short = 1 - y * z
    dz[...] = xp.where(short > 0, -y, 0) / z.shape[1]
    loss: Array = xp.maximum(short, 0).mean(axis=1)
    return loss


def _mse(xp: Any, z: Array, y: Array, dz: Array) -> Array:
    xp.subtract(z, y, out=dz)
    loss: Array = (dz * dz).mean(axis=1)
    dz *= 2 / z.shape[1]
    return loss


def _mae(xp: Any, z: Array, y: Array, dz: Array) -> Array:
    xp.subtract(z, y, out=dz)
    loss: Array = xp.abs(dz).mean(axis=1)
    xp.sign(dz, out=dz)
    dz /= z.shape[1]
    return loss


def _huber(xp: Any, z: Array, y: Array, dz: Array, delta: float) -> Array:
    d = z - y
    size = xp.abs(d)
    loss: Array = xp.where(size > delta, delta * (size - delta / 2), d * d / 2).mean(axis=1)
    dz[...] = xp.clip(d, -delta, delta) / z.shape[1]
    return loss


def _log_cosh(xp: Any, z: Array, y: Array, dz: Array) -> Array:
    d = z - y
    size = xp.abs(d)
    near = xp.log1p(xp.sinh(xp.minimum(size, 1)) ** 2) / 2  # the other form cancels there
    far = size + xp.log1p(xp.exp(-2 * size)) - xp.log(2.0)
    dz[...] = xp.tanh(d) / z.shape[1]
    loss: Array = xp.where(size < 1, near, far).mean(axis=1)
    return loss


def _quantile(xp: Any, z: Array, y: Array, dz: Array, each: Array, repeat: int) -> Array:
    d = z - xp.repeat(y, repeat, axis=1)
    dz[...] = xp.where(d > 0, 1 - each, xp.where(d < 0, -each, 0)) / z.shape[1]
    loss: Array = xp.where(d > 0, (1 - each) * d, -each * d).mean(axis=1)
    return loss


def _poisson(xp: Any, z: Array, y: Array, dz: Array, log_input: bool, full: bool, eps: float) -> Array:
    if log_input:
        loss = xp.exp(z) - y * z
        dz[...] = xp.exp(z) - y
    else:
        loss = z - y * xp.log(z + eps)
        dz[...] = 1 - y / (z + eps)
    if full:
        large = xp.maximum(y, 1)
        loss = loss + xp.where(y > 1, large * xp.log(large) - large + xp.log(2 * xp.pi * large) / 2, 0)
    dz /= z.shape[1]
    rows: Array = loss.mean(axis=1)
    return rows


def _gaussian_nll(xp: Any, z: Array, y: Array, dz: Array, full: bool, eps: float) -> Array:
    n = z.shape[1] // 2
    d, s = z[:, :n] - y, z[:, n:]
    given = xp.exp(s)
    low = given < eps
    variance = xp.where(low, eps, given)
    slope = d / variance
    square = d * slope  # d * d would overflow first
    loss: Array = ((xp.where(low, xp.log(variance), s) + square) / 2).mean(axis=1)
    if full:
        loss = loss + xp.log(2 * xp.pi) / 2
    dz[:, :n] = slope / n
    dz[:, n:] = (1 - square) / 2 * xp.where(low, given / eps, 1) / n
    return loss


LOSSES: dict[str, Callable[..., Array]] = {
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "mse": _mse,
    "mae": _mae,
    "huber": _huber,
    "log_cosh": _log_cosh,
    "quantile": _quantile,
    "poisson": _poisson,
    "gaussian_nll": _gaussian_nll,
    "hinge": _hinge,
    "multi_margin": _multi_margin,
    "focal": _focal,
    "kl_divergence": _kl_divergence,
    "softmax_focal": _softmax_focal,
}


def told_rows(xp: Any, name: str, z: Array, y: Array, rows: Array, objective: Objective) -> Array:
    """Losses of rows as they are told, floor .. cap; of several yes or no's each one's share is."""
    floor, cap = objective.floor, objective.cap
    if name == "binary_cross_entropy" and z.shape[1] > 1 and (floor > -xp.inf or cap < xp.inf):
        shares = _log1p_exp(xp, z) - z * y
        rows = xp.clip(shares, floor, cap).astype(rows.dtype).mean(axis=1)
    found: Array = xp.clip(rows, floor, cap)
    return found
