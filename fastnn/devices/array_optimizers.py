"""Optimizer steps as array code over `xp`, in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from ..optimizers import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Lion,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    Rule,
)

__all__ = ["OPTIMIZERS", "average", "clip_norm", "is_decoupled", "limit_columns", "one_step", "update"]

Array = NDArray[Any]

# name: one step in place; g may be changed too, lr is the rate of the step, t counts steps from 1; decay is
# of the weight, for those that decouple it (it has joined g for the others).


def _sgd(xp: Any, o: SGD, w: Array, g: Array, state: Array, lr: float, t: int, decay: float) -> None:
    if o.momentum:
        v = state[0]
        v *= o.momentum
        v += g if t == 1 or not o.dampening else (1 - o.dampening) * g
        if o.nesterov:
            g += o.momentum * v
        else:
            g[...] = v
    g *= lr
    w -= g


def _rmsprop(xp: Any, o: RMSprop, w: Array, g: Array, state: Array, lr: float, t: int, decay: float) -> None:
    square = state[0]
    square *= o.alpha
    square += (1 - o.alpha) * g * g
    divisor = square
    if o.centered:
        mean = state[-1]
        mean += (1 - o.alpha) * (g - mean)
        divisor = square - mean * mean
    g /= xp.sqrt(divisor) + o.eps
    if o.momentum:
        state[1] *= o.momentum
        state[1] += g
        g = state[1]
    w -= lr * g


def _adagrad(xp: Any, o: Adagrad, w: Array, g: Array, state: Array, lr: float, t: int, decay: float) -> None:
    state[0] += g * g
    w -= lr / (1 + (t - 1) * o.lr_decay) * g / (xp.sqrt(state[0]) + o.eps)


def _adadelta(
    xp: Any, o: Adadelta, w: Array, g: Array, state: Array, lr: float, t: int, decay: float
) -> None:
    square, steps = state
    square *= o.rho
    square += (1 - o.rho) * g * g
    g *= xp.sqrt(steps + o.eps) / xp.sqrt(square + o.eps)
    steps *= o.rho
    steps += (1 - o.rho) * g * g
    w -= lr * g


def _moments(o: Any, g: Array, state: Array) -> tuple[Array, Array]:
    """The mean and the mean square, with g; g is the square of g times 1 - beta2 afterwards."""
    (beta1, beta2), m, v = o.betas, state[0], state[1]
    toward = g - m
    toward *= 1 - beta1
    m += toward
    g *= g
    g *= 1 - beta2
    v *= beta2
    v += g
    return m, v


def _adam(xp: Any, o: Adam, w: Array, g: Array, state: Array, lr: float, t: int, decay: float) -> None:
    beta1, beta2 = o.betas
    m, v = _moments(o, g, state)
    if o.amsgrad:
        xp.maximum(state[2], v, out=state[2])
        v = state[2]
    correction = (1 - beta2**t) ** 0.5
    xp.sqrt(v, out=g)
    g *= 1 / correction
    g += o.eps / correction if o.eps_hat else o.eps
    xp.divide(m, g, out=g)
    g *= lr / (1 - beta1**t)
    w -= g


def _adamw(xp: Any, o: AdamW, w: Array, g: Array, state: Array, lr: float, t: int, decay: float) -> None:
    w *= 1 - lr * decay
    _adam(xp, o, w, g, state, lr, t, decay)


def _adamax(xp: Any, o: Adamax, w: Array, g: Array, state: Array, lr: float, t: int, decay: float) -> None:
    (beta1, beta2), (m, norm) = o.betas, state
    m += (1 - beta1) * (g - m)
    norm *= beta2
    xp.maximum(norm, xp.abs(g) + o.eps, out=norm)
    w -= lr / (1 - beta1**t) * m / norm


def _nadam(xp: Any, o: NAdam, w: Array, g: Array, state: Array, lr: float, t: int, decay: float) -> None:
    beta1, beta2 = o.betas
    momenta = [beta1 * (1 - 0.5 * 0.96 ** (i * o.momentum_decay)) for i in range(1, t + 2)]
    product = 1.0
    for momentum in momenta[:t]:
        product *= momentum
    if o.decoupled_weight_decay:
        w *= 1 - lr * decay
    given = g.copy()
    m, v = _moments(o, g, state)
    divisor = xp.sqrt(v / (1 - beta2**t)) + o.eps
    w -= lr * (1 - momenta[t - 1]) / (1 - product) * given / divisor
    w -= lr * momenta[t] / (1 - product * momenta[t]) * m / divisor


def _radam(xp: Any, o: RAdam, w: Array, g: Array, state: Array, lr: float, t: int, decay: float) -> None:
    beta1, beta2 = o.betas
    if o.decoupled_weight_decay:
        w *= 1 - lr * decay
    m, v = _moments(o, g, state)
    most = 2 / (1 - beta2) - 1
    length = most - 2 * t * beta2**t / (1 - beta2**t)
    step = lr / (1 - beta1**t) * m
    if length > 5:
        square = (length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length)
        step *= (square * (1 - beta2**t)) ** 0.5 / (xp.sqrt(v) + o.eps)
    w -= step


def _lion(xp: Any, o: Lion, w: Array, g: Array, state: Array, lr: float, t: int, decay: float) -> None:
    (beta1, beta2), m = o.betas, state[0]
    w *= 1 - lr * decay
    w -= lr * xp.sign(beta1 * m + (1 - beta1) * g)
    m *= beta2
    m += (1 - beta2) * g


OPTIMIZERS: dict[str, Callable[..., None]] = {
    "sgd": _sgd,
    "adam": _adam,
    "rmsprop": _rmsprop,
    "adagrad": _adagrad,
    "adadelta": _adadelta,
    "adamw": _adamw,
    "adamax": _adamax,
    "nadam": _nadam,
    "radam": _radam,
    "lion": _lion,
}

_DECOUPLED = ("adamw", "lion")


def is_decoupled(o: Optimizer) -> bool:
    """Whether decay shrinks the weights and has no part in the gradient."""
    return o.name in _DECOUPLED or bool(getattr(o, "decoupled_weight_decay", False))


def update(
    xp: Any, o: Optimizer, rules: Sequence[Rule], w: Array, g: Array, state: Array, lr: float, t: int
) -> None:
    """One step of all weights that are not frozen, in place; g may be changed too."""
    for rule in rules:
        if rule.frozen:
            continue
        part = slice(rule.offset, rule.offset + rule.length)
        wi, gi = w[part], g[part]
        if o.clip_value is not None:
            xp.clip(gi, -o.clip_value, o.clip_value, out=gi)
        one_step(xp, o, wi, gi, state[:, part], lr * rule.lr, t, rule.decay, rule.l1)


def one_step(
    xp: Any, o: Optimizer, w: Array, g: Array, state: Any, lr: float, t: int, decay: float, l1: float
) -> None:
    """One step of weights that are all treated alike; state: their vectors, in one array or a list."""
    penalty = l1 * xp.sign(w) if l1 else None
    if decay and not is_decoupled(o):
        g += decay * w
    if penalty is not None:
        g += penalty
    OPTIMIZERS[o.name](xp, o, w, g, state, lr, t, decay)


def clip_norm(xp: Any, g: Array, most: float) -> None:
    """``torch.nn.utils.clip_grad_norm_``, in place."""
    norm = float(xp.sqrt(xp.sum(xp.square(g, dtype=xp.float64))))
    g *= min(1.0, most / (norm + 1e-6))


def limit_columns(xp: Any, w: Array, most: float) -> None:
    """Scale columns of w (m, n) that are longer than `most` down to it."""
    norm = xp.sqrt(xp.sum(w * w, axis=0))
    w *= xp.where(norm > most, most / norm, 1).astype(w.dtype)


def average(xp: Any, mean: Array, w: Array, decay: float, t: int) -> None:
    """The exponential moving average of the weights after update t, from 1."""
    if t == 1:
        mean[...] = w
    else:
        mean += (1 - decay) * (w - mean)
