"""Dropout, and steps of optimizers in place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import errors, kernels, optimizers
from .shapes import Array, out_table

__all__ = ["adam_update", "dropout", "sgd_update"]


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
        kernels.dropout(out_table(out), out_table(mask), seed, step, layer, rate, 0)
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
