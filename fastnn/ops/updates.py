"""Steps of optimizers in place.

Long vectors are shared among the threads of `fn.set_num_threads`, with the bits of one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import errors, kernels, optimizers
from .shapes import Array

__all__ = [
    "adadelta_update",
    "adagrad_update",
    "adam_update",
    "adamax_update",
    "adamw_update",
    "lion_update",
    "nadam_update",
    "radam_update",
    "rmsprop_update",
    "sgd_update",
]


def _in_place(w: Any, **others: Any) -> list[Any]:
    """Parameters and what belongs to them, judged and as vectors: one shape and dtype, contiguous."""
    if not isinstance(w, np.ndarray) or w.dtype.char not in "fd" or not w.dtype.isnative:
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


def _update(optimizer: optimizers.Optimizer, step: int, w: Any, g: Any, **states: Any) -> None:
    """One step of an optimizer on w and its states."""
    step = errors.integer("step", step, 1, 2**62)
    flat, gradient, *found = _in_place(w, g=g, **states)
    optimizer.judge_dtype(w.dtype)
    assert isinstance(optimizer.lr, float)
    if flat.size:
        kernels.update(optimizer, flat, gradient, found, step, optimizer.lr)


def sgd_update(
    w: Array,
    g: ArrayLike,
    velocity: Array | None = None,
    *,
    lr: float = 1e-3,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    dampening: float = 0.0,
    step: int = 1,
) -> None:
    """One step of SGD on w, in place, of any shape; velocity too, which momentum needs (zeros at first).

    Parameters
    ----------
    step : int
        Number of this step, counted from 1; dampening alone needs it: it has no part in the first.
    """
    sgd = optimizers.SGD(lr, momentum, nesterov, weight_decay, dampening)
    if not sgd.momentum:
        _in_place(w, g=g, velocity=velocity)
        _update(sgd, step, w, g)
    elif velocity is None:
        raise ValueError("velocity must be an array where momentum is not 0, got None")
    else:
        _update(sgd, step, w, g, velocity=velocity)


def rmsprop_update(
    w: Array,
    g: ArrayLike,
    square: Array,
    velocity: Array | None = None,
    mean: Array | None = None,
    *,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
) -> None:
    """One step of RMSprop on w and its mean square, in place, of any shape; all states begin as zeros.

    Momentum needs velocity, centered needs mean; what is not needed is left as it is.
    """
    rmsprop = optimizers.RMSprop(lr, alpha, eps, weight_decay, momentum, centered)
    states = {"square": square}
    for name, value, needed in (("velocity", velocity, rmsprop.momentum != 0), ("mean", mean, centered)):
        if needed and value is None:
            raise ValueError(
                f"{name} must be an array with momentum={momentum} and centered={centered}, got None"
            )
        if needed and value is not None:
            states[name] = value
    _update(rmsprop, 1, w, g, **states)


def adagrad_update(
    w: Array,
    g: ArrayLike,
    square_sum: Array,
    *,
    step: int = 1,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    eps: float = 1e-10,
) -> None:
    """One step of Adagrad on w and its sum of squares, in place, of any shape.

    Parameters
    ----------
    step : int
        Number of this step, counted from 1; lr_decay alone needs it.
    """
    _update(optimizers.Adagrad(lr, lr_decay, weight_decay, 0.0, eps), step, w, g, square_sum=square_sum)


def adadelta_update(
    w: Array,
    g: ArrayLike,
    square: Array,
    step_square: Array,
    *,
    lr: float = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
) -> None:
    """One step of Adadelta on w and its mean squares, of gradients and steps, in place, of any shape."""
    _update(optimizers.Adadelta(lr, rho, eps, weight_decay), 1, w, g, square=square, step_square=step_square)


def adam_update(
    w: Array,
    g: ArrayLike,
    m: Array,
    v: Array,
    largest_v: Array | None = None,
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
    largest_v : ndarray, optional
        Makes it AMSGrad: the largest v so far, zeros before the first step.
    step : int
        Number of this step, counted from 1.
    """
    adam = optimizers.Adam(lr, betas, eps, weight_decay, largest_v is not None)
    more = {} if largest_v is None else {"largest_v": largest_v}
    _update(adam, step, w, g, m=m, v=v, **more)


def adamw_update(
    w: Array,
    g: ArrayLike,
    m: Array,
    v: Array,
    largest_v: Array | None = None,
    *,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> None:
    """`adam_update` with decoupled weight decay: w shrinks by ``1 - lr * weight_decay`` first."""
    adamw = optimizers.AdamW(lr, betas, eps, weight_decay, largest_v is not None)
    more = {} if largest_v is None else {"largest_v": largest_v}
    _update(adamw, step, w, g, m=m, v=v, **more)


def adamax_update(
    w: Array,
    g: ArrayLike,
    m: Array,
    norm: Array,
    *,
    step: int,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> None:
    """One step of Adamax, number `step` from 1, on w, m and norm, in place; these are zeros at first."""
    _update(optimizers.Adamax(lr, betas, eps, weight_decay), step, w, g, m=m, norm=norm)


def nadam_update(
    w: Array,
    g: ArrayLike,
    m: Array,
    v: Array,
    *,
    step: int,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False,
) -> None:
    """One step of NAdam, number `step` from 1, on w, m and v, in place; m and v are zeros at first."""
    nadam = optimizers.NAdam(lr, betas, eps, weight_decay, momentum_decay, decoupled_weight_decay)
    _update(nadam, step, w, g, m=m, v=v)


def radam_update(
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
    decoupled_weight_decay: bool = False,
) -> None:
    """One step of RAdam, number `step` from 1, on w, m and v, in place; m and v are zeros at first."""
    _update(optimizers.RAdam(lr, betas, eps, weight_decay, decoupled_weight_decay), step, w, g, m=m, v=v)


def lion_update(
    w: Array,
    g: ArrayLike,
    m: Array,
    *,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
) -> None:
    """One step of Lion on w and m, in place, of any shape; m is zeros before the first."""
    _update(optimizers.Lion(lr, betas, weight_decay), 1, w, g, m=m)
