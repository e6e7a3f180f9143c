"""What schedules share: they count steps or epochs, and judge their fields by name."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..late_dataclass import dataclass
from ..optimizers import Schedule

__all__ = ["By", "Rates", "Times", "milestones"]

Times = NDArray[np.int64]
Rates = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class By(Schedule):
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


def milestones(given: Any) -> tuple[int, ...]:
    """Whole numbers that do not fall."""
    given = errors.listed(given)
    if not isinstance(given, (tuple, list)):
        raise TypeError(f"milestones must be a tuple of integers, got {errors.shown(given)}")
    found = tuple(errors.integer("milestones", one, 0, 2**62) for one in given)
    if list(found) != sorted(found):
        raise ValueError(f"milestones must not fall, got {found}")
    return found
