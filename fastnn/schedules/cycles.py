"""Rates that rise and fall, with the momentum against them where asked (Smith 2017)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import errors
from ..late_dataclass import dataclass
from ..portable_math import cosine, geometric
from .base import By, Rates, Times


@dataclass(frozen=True)
class OneCycle(By):
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
class Cyclic(By):
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
