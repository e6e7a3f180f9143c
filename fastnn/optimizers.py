"""Optimizers as frozen descriptions, with PyTorch's names, defaults and formulas.

The arithmetic is the kernels'.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from . import errors

__all__ = ["SGD", "Adam", "Optimizer", "get", "rates"]

_KEPT_RATES = 4096


class Optimizer:
    """What all optimizers share: a name in the kernels and a learning rate."""

    name: ClassVar[str]
    lr: float

    def _judge(self, *fields: str) -> None:
        """Make each field a float that is finite and not negative."""
        for field in fields:
            object.__setattr__(self, field, errors.real(field, getattr(self, field)))

    def judge_dtype(self, dtype: np.dtype[Any]) -> None:
        """Refuse numbers that a model of that dtype cannot hold."""
        limits = np.finfo(dtype)
        largest, smallest = float(limits.max), float(limits.smallest_subnormal)
        for field in ("lr", "momentum", "weight_decay", "eps"):
            number = getattr(self, field, 0.0)
            if number > largest:
                raise ValueError(f"{field} must be at most {largest:g} in {dtype}, got {number!r}")
            if field == "eps" and 0.0 < number <= smallest / 2:  # it would be rounded to 0
                raise ValueError(f"{field} must be 0 or at least {smallest:g} in {dtype}, got {number!r}")


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Polyak 1964), in PyTorch's form.

    ``g += weight_decay * w;  v = momentum * v + g;  w -= lr * v``; with `nesterov` (Sutskever et al.
    2013) the last is ``w -= lr * (g + momentum * v)``.
    """

    name: ClassVar[str] = "sgd"
    lr: float = 1e-3
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self._judge("lr", "momentum", "weight_decay")
        errors.flag("nesterov", self.nesterov)
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov=True needs momentum above 0, got momentum=0.0")


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), in PyTorch's form: eps is added after the bias corrections.

    `weight_decay` is added to the gradient as ``weight_decay * w``.
    """

    name: ClassVar[str] = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self._judge("lr", "eps", "weight_decay")
        try:
            beta1, beta2 = self.betas
        except (TypeError, ValueError):
            raise TypeError(f"betas must be two numbers, got {self.betas!r}") from None
        judged = errors.real("betas[0]", beta1, 0.0, 1.0), errors.real("betas[1]", beta2, 0.0, 1.0)
        object.__setattr__(self, "betas", judged)


_CLASSES: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam}


def get(optimizer: object) -> Optimizer:
    """The description of an optimizer given by name or as one."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    for known in _CLASSES.values():
        if optimizer is known:
            raise TypeError(f"optimizer must be a description, got the class; write {known.__name__}()")
    return _CLASSES[errors.choice("optimizer", optimizer, _CLASSES)]()


@lru_cache(maxsize=8)
def _constant(lr: float, n_steps: int) -> NDArray[np.float64]:
    found = np.full(n_steps, lr)
    found.flags.writeable = False
    return found


def rates(optimizer: Optimizer, n_steps: int, factor: float = 1.0) -> NDArray[np.float64]:
    """The learning rate of each of the next n_steps steps, times a factor; not to be written to."""
    lr = optimizer.lr * factor
    # Those of a few steps are kept: making them anew would take longer than one small step.
    return _constant(lr, n_steps) if n_steps <= _KEPT_RATES else np.full(n_steps, lr)
