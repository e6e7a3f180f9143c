"""Rates that are one formula of the time, and your own function of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from .. import errors
from ..late_dataclass import dataclass
from ..portable_math import cosine, geometric, power
from .base import By, Rates, Times, milestones


@dataclass(frozen=True)
class Constant(By):
    """``lr * factor`` for `total_iters`, then lr: PyTorch's ConstantLR, but constant unless told."""

    lr: float
    factor: float = 1.0
    total_iters: int = 0

    def __post_init__(self) -> None:
        self._judge(total_iters=0)

    def at(self, t: Times) -> Rates:
        return np.where(t < self.total_iters, self.lr * self.factor, self.lr)

    def largest(self) -> float:
        return self.lr * max(1.0, self.factor)


@dataclass(frozen=True)
class Step(By):
    """``lr * gamma**(t // step_size)``: StepLR."""

    lr: float
    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        self._judge(step_size=1)

    def at(self, t: Times) -> Rates:
        return self.lr * geometric(self.gamma, t // self.step_size)


@dataclass(frozen=True)
class MultiStep(By):
    """lr times gamma at each of the milestones that is reached: MultiStepLR."""

    lr: float
    milestones: tuple[int, ...]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        self._judge()
        object.__setattr__(self, "milestones", milestones(self.milestones))

    def at(self, t: Times) -> Rates:
        reached = np.searchsorted(np.array(self.milestones, np.int64), t, side="right")
        return self.lr * geometric(self.gamma, reached.astype(np.int64))


@dataclass(frozen=True)
class Exponential(By):
    """``lr * gamma**t``: ExponentialLR."""

    lr: float
    gamma: float

    def __post_init__(self) -> None:
        self._judge()

    def at(self, t: Times) -> Rates:
        return self.lr * geometric(self.gamma, t)


@dataclass(frozen=True)
class Polynomial(By):
    """``lr * (1 - t / total_iters)**power``, then 0: PolynomialLR."""

    lr: float
    total_iters: int = 5
    power: float = 1.0

    def __post_init__(self) -> None:
        self._judge(total_iters=1)

    def at(self, t: Times) -> Rates:
        return self.lr * power(1 - np.minimum(t, self.total_iters) / self.total_iters, self.power)


@dataclass(frozen=True)
class Linear(By):
    """lr times a factor that goes from start_factor to end_factor in `total_iters`, then stays: LinearLR."""

    lr: float
    start_factor: float = 1 / 3
    end_factor: float = 1.0
    total_iters: int = 5

    def __post_init__(self) -> None:
        self._judge(total_iters=1)

    def at(self, t: Times) -> Rates:
        share = np.minimum(t, self.total_iters) / self.total_iters
        return self.lr * (self.start_factor + (self.end_factor - self.start_factor) * share)

    def largest(self) -> float:
        return self.lr * max(self.start_factor, self.end_factor)


@dataclass(frozen=True)
class Cosine(By):
    """``eta_min + (lr - eta_min) * (1 + cos(pi t / T_max)) / 2``: CosineAnnealingLR.

    Loshchilov and Hutter (2017). After T_max it rises again, as PyTorch's does, with the period 2 T_max.
    """

    lr: float
    T_max: int
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        self._judge(T_max=1)

    def at(self, t: Times) -> Rates:
        place = t % (2 * self.T_max)
        turns = np.minimum(place, 2 * self.T_max - place) / self.T_max
        return self.eta_min + (self.lr - self.eta_min) * (1 + cosine(turns)) / 2


@dataclass(frozen=True)
class CosineRestarts(By):
    """Cosines that begin anew, each T_mult times as long: CosineAnnealingWarmRestarts.

    The first is T_0 long (Loshchilov and Hutter 2017).
    """

    lr: float
    T_0: int
    T_mult: int = 1
    eta_min: float = 0.0

    def __post_init__(self) -> None:
        self._judge(T_0=1, T_mult=1)

    def at(self, t: Times) -> Rates:
        place, length = t.copy(), np.full(t.shape, self.T_0, np.int64)
        if self.T_mult == 1:
            place %= self.T_0
        while (place >= length).any():
            later = place >= length
            place[later] -= length[later]
            length[later] *= self.T_mult
        return self.eta_min + (self.lr - self.eta_min) * (1 + cosine(place / length)) / 2


@dataclass(frozen=True)
class InverseScaling(By):
    """``lr / (t + 1)**power_t``: scikit-learn's "invscaling"."""

    lr: float
    power_t: float = 0.5

    def __post_init__(self) -> None:
        self._judge()

    def at(self, t: Times) -> Rates:
        return self.lr / power((t + 1).astype(np.float64), self.power_t)


@dataclass(frozen=True)
class Function(By):
    """Your own function of the step or epoch, ``function(t) -> rate``.

    Checkpoints keep its name and not the function: resume with a trainer that has it.

    Parameters
    ----------
    function : callable
        Of one int, counted from 0.
    name : str, optional
        For messages and checkpoints; None takes the function's own.
    """

    function: Callable[[int], float] = dataclasses.field(compare=False)
    name: str = ""

    def __post_init__(self) -> None:
        self._judge()
        if not callable(self.function):
            raise TypeError(f"function must be a function of the step, got {errors.shown(self.function)}")
        name = self.name or getattr(self.function, "__name__", type(self.function).__name__)
        if not isinstance(name, str):
            raise TypeError(f"name must be a text, got {errors.shown(name)}")
        object.__setattr__(self, "name", name)

    def at(self, t: Times) -> Rates:
        named = f"{self.name} of {self.by}"
        return np.array([errors.real(f"{named} {i}", self.function(i)) for i in t.tolist()], np.float64)

    def largest(self) -> float:
        return 0.0  # not known before it is asked
