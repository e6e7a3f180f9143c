"""Gradient descent, and rates by weight from squared gradients."""

from __future__ import annotations

from typing import ClassVar

from .. import errors
from ..late_dataclass import dataclass
from .base import Optimizer, Schedule

__all__ = ["SGD", "Adadelta", "Adagrad", "RMSprop"]


@dataclass(frozen=True, repr=False)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Polyak 1964), in PyTorch's form.

    ``g += weight_decay * w;  v = momentum * v + (1 - dampening) * g;  w -= lr * v``, the first v being g;
    with `nesterov` (Sutskever et al. 2013) the last is ``w -= lr * (g + momentum * v)``. With
    ``fit(batch_size=None)`` it is full-batch gradient descent.
    """

    name: ClassVar[str] = "sgd"
    lr: float | Schedule = 1e-3
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    dampening: float = 0.0

    def __post_init__(self) -> None:
        self.judge("momentum", "dampening")
        self.judge_flag("nesterov")
        if self.nesterov and not self.has_velocity:
            raise ValueError("nesterov=True needs momentum above 0, got momentum=0.0")
        if self.nesterov and self.dampening != 0.0:
            raise ValueError(f"nesterov=True needs dampening 0, got {self.dampening!r}")

    @property
    def n_states(self) -> int:
        """The velocity, where there is momentum."""
        return int(self.has_velocity)


@dataclass(frozen=True, repr=False)
class RMSprop(Optimizer):
    """RMSprop (Hinton 2012), in PyTorch's form.

    ``q = alpha * q + (1 - alpha) * g**2;  w -= lr * g / (sqrt(q) + eps)``. `centered` (Graves 2013) takes
    the square of the mean gradient from q; with `momentum`, ``v = momentum * v + g / (sqrt(q) + eps)`` and
    ``w -= lr * v``.
    """

    name: ClassVar[str] = "rmsprop"
    lr: float | Schedule = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        self.judge("eps", "momentum")
        object.__setattr__(self, "alpha", errors.real("alpha", self.alpha, 0.0, 1.0))
        self.judge_flag("centered")

    @property
    def n_states(self) -> int:
        """The mean square; the velocity; the mean."""
        return 1 + self.has_velocity + bool(self.centered)


@dataclass(frozen=True, repr=False)
class Adagrad(Optimizer):
    """Adagrad (Duchi et al. 2011), in PyTorch's form.

    ``q += g**2;  w -= lr / (1 + (t - 1) * lr_decay) * g / (sqrt(q) + eps)`` at step t, counted from 1; q
    begins as `initial_accumulator_value`.
    """

    name: ClassVar[str] = "adagrad"
    lr: float | Schedule = 1e-2
    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10

    def __post_init__(self) -> None:
        self.judge("lr_decay", "initial_accumulator_value", "eps")

    @property
    def n_states(self) -> int:
        """The sum of squares."""
        return 1


@dataclass(frozen=True, repr=False)
class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012), in PyTorch's form.

    ``q = rho * q + (1 - rho) * g**2;  d = sqrt(e + eps) / sqrt(q + eps) * g;
    e = rho * e + (1 - rho) * d**2;  w -= lr * d``.
    """

    name: ClassVar[str] = "adadelta"
    lr: float | Schedule = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self.judge("eps")
        object.__setattr__(self, "rho", errors.real("rho", self.rho, 0.0, 1.0))

    @property
    def n_states(self) -> int:
        """The mean squares of gradients and of steps."""
        return 2
