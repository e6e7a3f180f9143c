"""Schedules of schedules."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import errors
from ..late_dataclass import dataclass
from ..optimizers import Schedule
from .base import Rates, Times, milestones
from .curves import Constant


def _inner(name: str, given: Any) -> Schedule:
    if not isinstance(given, Schedule):
        raise TypeError(f"{name} must be a schedule, got {errors.shown(given)}")
    if given.cycles:
        raise ValueError(
            f"{name} must have cycle_momentum=False within another schedule, got {errors.shown(given)}"
        )
    return given


def _together(given: Any) -> tuple[Schedule, ...]:
    """Schedules, at least one, that count the same."""
    if not isinstance(given, (tuple, list)) or not given:
        raise TypeError(f"schedules must be a tuple of schedules, got {errors.shown(given)}")
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
        object.__setattr__(self, "milestones", milestones(self.milestones))
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
