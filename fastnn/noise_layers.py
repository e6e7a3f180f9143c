"""Layers that disturb their input while training; predictions pass by them."""

from __future__ import annotations

import math
from typing import ClassVar

from . import errors
from .late_dataclass import dataclass
from .layers import Layer, set_field
from .steps import Lowering, Step

__all__ = ["AlphaDropout", "GaussianNoise"]

_ALPHA = 1.7580993408473766  # what SELU tends to on the left: scale times alpha


@dataclass(frozen=True, repr=False)
class AlphaDropout(Layer):
    """Dropout for networks of SELU: keeps mean 0 and variance 1 (Klambauer et al. 2017). As PyTorch's.

    With probability `rate` a number becomes what SELU tends to on the left; then all are scaled and shifted.

    Parameters
    ----------
    rate : float
        From 0 to below 1.
    """

    by_number: ClassVar[bool] = True
    rate: float

    def __post_init__(self) -> None:
        set_field(self, "rate", errors.real("rate", self.rate, 0.0, 1.0))

    def numbers(self) -> tuple[float, float, float]:
        """factor and shift: what is kept becomes ``factor * x + shift``; and what the others become."""
        scale = 1 / math.sqrt((_ALPHA * _ALPHA * self.rate + 1) * (1 - self.rate))
        shift = _ALPHA * scale * self.rate
        return scale, shift, shift - _ALPHA * scale

    def lower(self, to: Lowering) -> None:
        """One step."""
        scale, shift, dropped = self.numbers()
        step = Step("alpha_dropout", to.layer, to.width, to.width, rate=self.rate, factor=scale, shift=shift)
        to.add(step, dropped=dropped)


@dataclass(frozen=True, repr=False)
class GaussianNoise(Layer):
    """Adds normal numbers of mean 0 while training, as Keras' layer of that name.

    Parameters
    ----------
    std : float
        Their standard deviation.
    """

    by_number: ClassVar[bool] = True
    std: float

    def __post_init__(self) -> None:
        set_field(self, "std", errors.real("std", self.std))

    def lower(self, to: Lowering) -> None:
        """One step."""
        to.add(Step("noise", to.layer, to.width, to.width, factor=self.std))
