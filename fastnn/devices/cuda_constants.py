"""What the update kernel needs to know of a step, worked out on the host in double for a whole call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..optimizers import Optimizer, Rule
from .array_optimizers import is_decoupled

__all__ = ["COLUMNS", "flags_of", "merged", "table"]

# rate, shrink and six of each optimizer's own: the enum K_* of kernels_updates.cu.
COLUMNS = 8
_NESTEROV, _MOMENTUM, _CENTERED, _AMSGRAD = 1, 2, 4, 8  # UPDATE_* of kernels_updates.cu


def flags_of(o: Optimizer) -> np.int32:
    """Which forms of an optimizer are meant."""
    fields = {"nesterov": _NESTEROV, "centered": _CENTERED, "amsgrad": _AMSGRAD}
    found = sum(number for field, number in fields.items() if getattr(o, field, False))
    has_velocity = o.name in ("sgd", "rmsprop") and o.has_velocity
    return np.int32(found + _MOMENTUM * has_velocity)


def merged(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Rules in which neighbours that say the same are one: each costs a launch."""
    found: list[Rule] = []
    for rule in sorted(rules, key=lambda rule: rule.offset):
        last = found[-1] if found else None
        if (
            last is not None
            and replace(rule, offset=last.offset, length=last.length) == last
            and rule.offset == last.offset + last.length
        ):
            found[-1] = replace(last, length=last.length + rule.length)
        else:
            found.append(rule)
    return tuple(found)


def table(
    o: Optimizer,
    rules: tuple[Rule, ...],
    rates: NDArray[np.float64],
    momenta: NDArray[np.float64] | None,
    first_step: int,
) -> NDArray[np.float32]:
    """Constants of each step and rule, (steps, rules, COLUMNS); the step `first_step` is the first.

    Formulas are those of `array_optimizers`; the kernel adds nothing to them that changes from step to step.
    """
    t = np.arange(first_step + 1, first_step + len(rates) + 1, dtype=np.float64)
    own, factor = _OWN[o.name](o, t, momenta)
    found = np.zeros((len(rates), len(rules), COLUMNS))
    for j, rule in enumerate(rules):
        rate = rates * rule.lr
        found[:, j, 0] = -rate * factor
        found[:, j, 1] = 1 - rate * rule.decay if is_decoupled(o) else 1.0
        for q, value in enumerate(own):
            found[:, j, 2 + q] = value
        if o.name == "nadam":
            found[:, j, 7] *= -rate
    return found.astype(np.float32)


def _sgd(o: Any, t: Any, momenta: Any) -> tuple[list[Any], Any]:
    fresh = np.where(t == 1, 1.0, 1 - o.dampening) if o.dampening else 1.0
    return [o.momentum if momenta is None else momenta, fresh], 1.0


def _rmsprop(o: Any, t: Any, momenta: Any) -> tuple[list[Any], Any]:
    return [o.alpha, 1 - o.alpha, o.eps, o.momentum if momenta is None else momenta], 1.0


def _adagrad(o: Any, t: Any, momenta: Any) -> tuple[list[Any], Any]:
    return [o.eps], 1 / (1 + (t - 1) * o.lr_decay)


def _adadelta(o: Any, t: Any, momenta: Any) -> tuple[list[Any], Any]:
    return [o.rho, 1 - o.rho, o.eps], 1.0


def _betas(o: Any, momenta: Any) -> tuple[Any, float]:
    return (o.betas[0] if momenta is None else momenta), o.betas[1]


def _adam(o: Any, t: Any, momenta: Any) -> tuple[list[Any], Any]:
    beta1, beta2 = _betas(o, momenta)
    correction = np.sqrt(1 - beta2**t)
    eps = o.eps / correction if o.eps_hat else o.eps
    return [1 - beta1, beta2, 1 - beta2, eps, 1 / correction], 1 / (1 - beta1**t)


def _adamax(o: Any, t: Any, momenta: Any) -> tuple[list[Any], Any]:
    beta1, beta2 = _betas(o, momenta)
    return [1 - beta1, beta2, 0.0, o.eps], 1 / (1 - beta1**t)


def _nadam(o: Any, t: Any, momenta: Any) -> tuple[list[Any], Any]:
    beta1, beta2 = o.betas
    until = np.arange(1, t[-1] + 2)
    each = beta1 * (1 - 0.5 * 0.96 ** (until * o.momentum_decay))
    product = np.cumprod(each)
    at = t.astype(int) - 1
    of_mean = each[at + 1] / (1 - product[at] * each[at + 1])
    own = [1 - beta1, beta2, 1 - beta2, o.eps, 1 / np.sqrt(1 - beta2**t), of_mean]
    return own, (1 - each[at]) / (1 - product[at])


def _radam(o: Any, t: Any, momenta: Any) -> tuple[list[Any], Any]:
    beta1, beta2 = _betas(o, momenta)
    most = 2 / (1 - beta2) - 1
    length = most - 2 * t * beta2**t / (1 - beta2**t)
    known = length > 5
    safe = np.where(known, length, 6.0)
    square = (safe - 4) * (safe - 2) * most / ((most - 4) * (most - 2) * safe)
    factor = np.where(known, np.sqrt(np.maximum(square, 0) * (1 - beta2**t)), 1.0)
    own = [1 - beta1, beta2, 1 - beta2, np.where(known, o.eps, 1.0), np.where(known, 1.0, 0.0)]
    return own, factor / (1 - beta1**t)


def _lion(o: Any, t: Any, momenta: Any) -> tuple[list[Any], Any]:
    beta1, beta2 = _betas(o, momenta)
    return [1 - beta1, beta2, 1 - beta2, beta1], 1.0


# name -> (optimizer, steps from 1, momenta or None) -> its own constants, and what multiplies the rate
_OWN: dict[str, Any] = {
    "sgd": _sgd,
    "rmsprop": _rmsprop,
    "adagrad": _adagrad,
    "adadelta": _adadelta,
    "adam": _adam,
    "adamw": _adam,
    "adamax": _adamax,
    "nadam": _nadam,
    "radam": _radam,
    "lion": _lion,
}
