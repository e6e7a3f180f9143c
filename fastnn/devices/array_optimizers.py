"""Optimizer steps as array code over `xp`, in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from ..optimizers import SGD, Adam

__all__ = ["OPTIMIZERS"]

Array = NDArray[Any]

# name: one step in place; g may be changed too, lr is the step's rate, t counts steps from 1.


def _sgd(xp: Any, o: SGD, w: Array, g: Array, state: Array, lr: float, t: int) -> None:
    if o.weight_decay:
        g += o.weight_decay * w
    if o.momentum:
        v = state[0]
        v *= o.momentum
        v += g
        if o.nesterov:
            g += o.momentum * v
        else:
            g[...] = v
    g *= lr
    w -= g


def _adam(xp: Any, o: Adam, w: Array, g: Array, state: Array, lr: float, t: int) -> None:
    (beta1, beta2), (m, v) = o.betas, state
    if o.weight_decay:
        g += o.weight_decay * w
    toward = g - m
    toward *= 1 - beta1
    m += toward
    g *= g
    g *= 1 - beta2
    v *= beta2
    v += g
    xp.sqrt(v, out=g)
    g *= 1 / (1 - beta2**t) ** 0.5
    g += o.eps
    xp.divide(m, g, out=g)
    g *= lr / (1 - beta1**t)
    w -= g


OPTIMIZERS: dict[str, Callable[..., None]] = {"sgd": _sgd, "adam": _adam}
