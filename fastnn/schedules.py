"""Learning rates by step or epoch, as frozen descriptions: ``fn.Adam(lr=fn.schedules.Cosine(1e-3, 5000))``.

Parameters have PyTorch's names and each schedule is PyTorch's closed formula. t counts from 0: with
``by="step"`` changes of the weights, with ``by="epoch"`` epochs, over all fits. Rates of an epoch are
evaluated before it runs, by operations that give the same bits on every machine.

A rate that goes by what an epoch measured (a plateau) is the callback `fastnn.ReduceLROnPlateau`, which
multiplies whatever schedule there is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import errors
from .late_dataclass import dataclass
from .optimizers import Schedule
from .portable_math import cosine, geometric, power

__all__ = [
    "Chained",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Cyclic",
    "Exponential",
    "Function",
    "InverseScaling",
    "Linear",
    "MultiStep",
    "OneCycle",
    "Polynomial",
    "Sequential",
    "Step",
    "Warmup",
]

Times = NDArray[np.int64]
Rates = NDArray[np.float64]

# ---------------------------------------------------------------- what they share


@dataclass(frozen=True, kw_only=True)
class _By(Schedule):
    """Counts steps or epochs."""

    by: str = "step"

    def _judge(self, **whole: int) -> None:
        """Judge every field by its name: rates, factors, and whole numbers with their least values."""
        errors.choice("by", self.by, ["step", "epoch"])
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in whole:
                object.__setattr__(
                    self, field.name, errors.integer(field.name, value, whole[field.name], 2**62)
                )
            elif field.type == "float":
                object.__setattr__(self, field.name, errors.real(field.name, value))

    def largest(self) -> float:
        return max(getattr(self, name, 0.0) for name in ("lr", "max_lr", "base_lr", "eta_min"))


@dataclass(frozen=True)
class Constant(_By):
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
class Step(_By):
    """``lr * gamma**(t // step_size)``: StepLR."""

    lr: float
    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        self._judge(step_size=1)

    def at(self, t: Times) -> Rates:
        return self.lr * geometric(self.gamma, t // self.step_size)


@dataclass(frozen=True)
class MultiStep(_By):
    """lr times gamma at each of the milestones that is reached: MultiStepLR."""

    lr: float
    milestones: tuple[int, ...]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        self._judge()
        object.__setattr__(self, "milestones", _milestones(self.milestones))

    def at(self, t: Times) -> Rates:
        reached = np.searchsorted(np.array(self.milestones, np.int64), t, side="right")
        return self.lr * geometric(self.gamma, reached.astype(np.int64))


def _milestones(given: Any) -> tuple[int, ...]:
    """Whole numbers that do not fall."""
    given = errors.listed(given)
    if not isinstance(given, (tuple, list)):
        raise TypeError(f"milestones must be a tuple of integers, got {given!r}")
    found = tuple(errors.integer("milestones", one, 0, 2**62) for one in given)
    if list(found) != sorted(found):
        raise ValueError(f"milestones must not fall, got {found}")
    return found


@dataclass(frozen=True)
class Exponential(_By):
    """``lr * gamma**t``: ExponentialLR."""

    lr: float
    gamma: float

    def __post_init__(self) -> None:
        self._judge()

    def at(self, t: Times) -> Rates:
        return self.lr * geometric(self.gamma, t)


@dataclass(frozen=True)
class Polynomial(_By):
    """``lr * (1 - t / total_iters)**power``, then 0: PolynomialLR."""

    lr: float
    total_iters: int = 5
    power: float = 1.0

    def __post_init__(self) -> None:
        self._judge(total_iters=1)

    def at(self, t: Times) -> Rates:
        return self.lr * power(1 - np.minimum(t, self.total_iters) / self.total_iters, self.power)


@dataclass(frozen=True)
class Linear(_By):
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
class Cosine(_By):
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
class CosineRestarts(_By):
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
class OneCycle(_By):
    """Up from ``max_lr / div_factor`` to max_lr, then down (Smith and Topin 2018): PyTorch's OneCycleLR.

    The end is ``max_lr / div_factor / final_div_factor``, at step ``total_steps - 1``, and the rate stays
    there. With `cycle_momentum` the momentum of SGD and RMSprop, or the first beta of Adam and its like, goes
    the other way, from max_momentum to base_momentum and back, whatever the optimizer names.
    """

    max_lr: float
    total_steps: int
    pct_start: float = 0.3
    anneal_strategy: str = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False
    cycle_momentum: bool = True
    base_momentum: float = 0.85
    max_momentum: float = 0.95

    def __post_init__(self) -> None:
        self._judge(total_steps=1)
        errors.choice("anneal_strategy", self.anneal_strategy, ["cos", "linear"])
        object.__setattr__(self, "three_phase", errors.flag("three_phase", self.three_phase))
        _judge_momenta(self)
        if self.pct_start > 1:
            raise ValueError(f"pct_start must be from 0 to 1, got {self.pct_start!r}")
        for field in ("div_factor", "final_div_factor"):
            if getattr(self, field) == 0.0:
                raise ValueError(f"{field} must be above 0, got 0.0")

    @property
    def cycles(self) -> bool:  # type: ignore[override]
        """Whether it gives the momentum too."""
        return self.cycle_momentum

    def at(self, t: Times) -> Rates:
        first = self.max_lr / self.div_factor
        return self._between(t, first, self.max_lr, first / self.final_div_factor)

    def momenta(self, t: Times) -> Rates:
        return self._between(t, self.max_momentum, self.base_momentum, self.max_momentum)

    def _between(self, t: Times, first: float, middle: float, last: float) -> Rates:
        """From first to middle, and to last; of three phases back to first before that."""
        peak = float(self.pct_start * self.total_steps) - 1
        ends = [(peak, first, middle), (self.total_steps - 1, middle, last)]
        if self.three_phase:
            ends[1:] = [(2 * peak, middle, first), (self.total_steps - 1, first, last)]
        time = np.minimum(t, self.total_steps - 1).astype(np.float64)
        found, begin, done = np.zeros(t.shape), 0.0, np.zeros(t.shape, bool)
        for i, (end, low, high) in enumerate(ends):
            here = ~done & ((time <= end) | (i == len(ends) - 1))
            share = (time - begin) / (end - begin) if end != begin else np.ones(t.shape)
            share = np.clip(share, 0, 1)
            if self.anneal_strategy == "cos":
                rates = high + (low - high) / 2 * (cosine(share) + 1)
            else:
                rates = (high - low) * share + low
            found[here] = rates[here]
            done |= here
            begin = end
        return found

    def largest(self) -> float:
        return max(self.max_lr, self.max_lr / self.div_factor)


def _judge_momenta(schedule: Any) -> None:
    """Judge the fields of one that may cycle the momentum."""
    object.__setattr__(schedule, "cycle_momentum", errors.flag("cycle_momentum", schedule.cycle_momentum))
    for field in ("base_momentum", "max_momentum"):
        value = errors.real(field, getattr(schedule, field), 0.0, 1.0)
        if value == 0.0:
            raise ValueError(f"{field} must be above 0, got 0.0")
    growth = getattr(schedule, "gamma", 1.0)
    if schedule.cycle_momentum and growth > 1:
        raise ValueError(f"gamma must be at most 1 with cycle_momentum=True, got {growth!r}")


@dataclass(frozen=True)
class InverseScaling(_By):
    """``lr / (t + 1)**power_t``: scikit-learn's "invscaling"."""

    lr: float
    power_t: float = 0.5

    def __post_init__(self) -> None:
        self._judge()

    def at(self, t: Times) -> Rates:
        return self.lr / power((t + 1).astype(np.float64), self.power_t)


@dataclass(frozen=True)
class Cyclic(_By):
    """Up and down between base_lr and max_lr (Smith 2017): CyclicLR.

    Parameters
    ----------
    base_lr, max_lr : float
    step_size_up, step_size_down : int
        Lengths of the two ways; None: as long as the other.
    mode : str
        "triangular"; "triangular2" halves the height with each cycle; "exp_range" multiplies it by
        ``gamma**t``.
    cycle_momentum : bool
        Whether the momentum (see `OneCycle`) goes the other way, between base_momentum and max_momentum.
    """

    base_lr: float
    max_lr: float
    step_size_up: int = 2000
    step_size_down: int | None = None
    mode: str = "triangular"
    gamma: float = 1.0
    cycle_momentum: bool = True
    base_momentum: float = 0.8
    max_momentum: float = 0.9

    def __post_init__(self) -> None:
        self._judge(step_size_up=1)
        _judge_momenta(self)
        if self.step_size_down is not None:
            object.__setattr__(self, "step_size_down", errors.integer("step_size_down", self.step_size_down))
        errors.choice("mode", self.mode, ["triangular", "triangular2", "exp_range"])

    @property
    def cycles(self) -> bool:  # type: ignore[override]
        """Whether it gives the momentum too."""
        return self.cycle_momentum

    def at(self, t: Times) -> Rates:
        return self.base_lr + (self.max_lr - self.base_lr) * self._height(t)

    def momenta(self, t: Times) -> Rates:
        return self.max_momentum - (self.max_momentum - self.base_momentum) * self._height(t)

    def _height(self, t: Times) -> Rates:
        """0 where a cycle begins, 1 at its top, less with the mode."""
        up = self.step_size_up
        down = up if self.step_size_down is None else self.step_size_down
        place = t % (up + down)
        height = np.where(place <= up, place / up, (up + down - place) / down)
        if self.mode == "triangular2":
            height = height * geometric(0.5, t // (up + down))
        elif self.mode == "exp_range":
            height = height * geometric(self.gamma, t)
        return height


# ---------------------------------------------------------------- schedules of schedules


def _inner(name: str, given: Any) -> Schedule:
    if not isinstance(given, Schedule):
        raise TypeError(f"{name} must be a schedule, got {given!r}")
    if given.cycles:
        raise ValueError(f"{name} must have cycle_momentum=False within another schedule, got {given!r}")
    return given


def _together(given: Any) -> tuple[Schedule, ...]:
    """Schedules, at least one, that count the same."""
    if not isinstance(given, (tuple, list)) or not given:
        raise TypeError(f"schedules must be a tuple of schedules, got {given!r}")
    found = tuple(_inner(f"schedules[{i}]", one) for i, one in enumerate(given))
    if len({one.by for one in found}) > 1:
        raise ValueError(f"schedules must all count steps or all epochs, got {[one.by for one in found]}")
    return found


@dataclass(frozen=True)
class Warmup(Schedule):
    """Linear warm-up before another schedule (Goyal et al. 2017), which begins when it ends.

    For `total_iters`, the first rate of the schedule times a factor from start_factor to 1; the same as
    PyTorch's SequentialLR of a LinearLR and the other.

    Parameters
    ----------
    schedule : Schedule or float
        A number is a constant rate. Says whether steps or epochs are counted.
    total_iters : int
    start_factor : float
    """

    schedule: Schedule | float
    total_iters: int
    start_factor: float = 1 / 3

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            object.__setattr__(self, "schedule", Constant(errors.real("schedule", self.schedule)))
        _inner("schedule", self.schedule)
        object.__setattr__(self, "total_iters", errors.integer("total_iters", self.total_iters, 1, 2**62))
        object.__setattr__(self, "start_factor", errors.real("start_factor", self.start_factor))

    @property
    def by(self) -> str:  # type: ignore[override]
        """What the schedule counts."""
        return _inner("schedule", self.schedule).by

    def at(self, t: Times) -> Rates:
        schedule = _inner("schedule", self.schedule)
        share = np.minimum(t, self.total_iters) / self.total_iters
        rates = schedule.at(np.maximum(t - self.total_iters, 0))
        return rates * (self.start_factor + (1 - self.start_factor) * share)

    def largest(self) -> float:
        return _inner("schedule", self.schedule).largest() * max(1.0, self.start_factor)


@dataclass(frozen=True)
class Sequential(Schedule):
    """Schedules one after the other, each beginning at 0 when its milestone is reached: SequentialLR.

    Parameters
    ----------
    schedules : tuple of Schedule
    milestones : tuple of int
        One less than schedules.
    """

    schedules: tuple[Schedule, ...]
    milestones: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedules", _together(self.schedules))
        object.__setattr__(self, "milestones", _milestones(self.milestones))
        if len(self.milestones) != len(self.schedules) - 1:
            raise ValueError(f"milestones must be {len(self.schedules) - 1} numbers, got {self.milestones}")

    @property
    def by(self) -> str:  # type: ignore[override]
        """What the schedules count."""
        return self.schedules[0].by

    def at(self, t: Times) -> Rates:
        rates = self.schedules[0].at(t)
        for schedule, milestone in zip(self.schedules[1:], self.milestones, strict=True):
            later = t >= milestone
            rates[later] = schedule.at(t[later] - milestone)
        return rates

    def largest(self) -> float:
        return max(one.largest() for one in self.schedules)


@dataclass(frozen=True)
class Chained(Schedule):
    """The product of schedules of the same lr: ``lr * (s1 / lr) * (s2 / lr) ..``, PyTorch's ChainedScheduler.

    Parameters
    ----------
    schedules : tuple of Schedule
        Each has the field lr, and all the same.
    """

    schedules: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedules", _together(self.schedules))
        rates = [getattr(one, "lr", None) for one in self.schedules]
        if None in rates or len(set(rates)) > 1 or rates[0] == 0:
            raise ValueError(f"schedules must have the same lr above 0, got {rates}")

    @property
    def by(self) -> str:  # type: ignore[override]
        """What the schedules count."""
        return self.schedules[0].by

    def at(self, t: Times) -> Rates:
        rates = self.schedules[0].at(t)
        for one in self.schedules[1:]:
            rates = rates * (one.at(t) / one.lr)  # type: ignore[attr-defined]
        return rates

    def largest(self) -> float:
        first, *others = self.schedules
        factors = [one.largest() / one.lr for one in others]  # type: ignore[attr-defined]
        return float(first.largest() * math.prod(factors))


@dataclass(frozen=True)
class Function(_By):
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
            raise TypeError(f"function must be a function of the step, got {self.function!r}")
        name = self.name or getattr(self.function, "__name__", type(self.function).__name__)
        if not isinstance(name, str):
            raise TypeError(f"name must be a text, got {name!r}")
        object.__setattr__(self, "name", name)

    def at(self, t: Times) -> Rates:
        named = f"{self.name} of {self.by}"
        return np.array([errors.real(f"{named} {i}", self.function(i)) for i in t.tolist()], np.float64)

    def largest(self) -> float:
        return 0.0  # not known before it is asked
