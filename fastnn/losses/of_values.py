"""Losses of values: what the model gives is compared with numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import errors, kernels
from ..late_dataclass import dataclass
from .base import Array, Loss, one_or_more

__all__ = [
    "MAE",
    "MSE",
    "GaussianNLL",
    "Huber",
    "LogCosh",
    "Poisson",
    "Quantile",
]


@dataclass(frozen=True)
class MSE(Loss):
    """Mean of squared differences over rows and outputs (no factor 1/2)."""

    name: ClassVar[str] = "mse"


@dataclass(frozen=True)
class MAE(Loss):
    """Mean of absolute differences over rows and outputs; the derivative at 0 is 0."""

    name: ClassVar[str] = "mae"


@dataclass(frozen=True)
class Huber(Loss):
    """Half the square of differences up to delta, linear beyond (Huber 1964); the mean over rows and outputs.

    For a difference d beyond, delta times its size less delta / 2, as PyTorch's HuberLoss.

    Parameters
    ----------
    delta : float
        Above 0.
    """

    delta: float = 1.0
    name: ClassVar[str] = "huber"

    def __post_init__(self) -> None:
        object.__setattr__(self, "delta", errors.real("delta", self.delta))
        if self.delta == 0:
            raise ValueError("delta must be above 0, got 0")

    def numbers(self, n_out: int) -> Mapping[str, Any]:
        """Its field."""
        return {"delta": self.delta}


@dataclass(frozen=True)
class LogCosh(Loss):
    """Mean of log(cosh(z - y)) over rows and outputs: smooth, far from 0 nearly the absolute difference."""

    name: ClassVar[str] = "log_cosh"


@dataclass(frozen=True)
class Quantile(Loss):
    """Pinball loss, least where the output is the quantile q of the targets; the mean over rows and outputs.

    q (y - z) where the target is above the output, (1 - q) (z - y) where it is below (Koenker and Bassett
    1978); the derivative where they are equal is 0.

    Parameters
    ----------
    q : float or sequence of floats
        Between 0 and 1. Several: the model has as many outputs for each target, side by side; targets are
        (batch, n_out / len(q)).
    """

    q: float | tuple[float, ...] = 0.5
    name: ClassVar[str] = "quantile"

    def __post_init__(self) -> None:
        q = one_or_more("q", self.q, below=1.0)
        if not np.all(q):
            raise ValueError(f"q must be above 0, got {self.q!r}")
        object.__setattr__(self, "q", q)

    def numbers(self, n_out: int) -> Mapping[str, Any]:
        """The quantile of each output, and outputs of each target."""
        several = self.q if isinstance(self.q, tuple) else (self.q,)
        return {"each": np.tile(several, self.n_targets(n_out)), "repeat": len(several)}

    def n_targets(self, n_out: int) -> int:
        """One for all quantiles of it."""
        return kernels.target_columns(self.name, n_out, len(self.q) if isinstance(self.q, tuple) else 1)

    def prediction(self, output: Array) -> Array:
        """Of several quantiles the one nearest to the median."""
        if not isinstance(self.q, tuple):
            return output
        return output[:, int(np.abs(np.subtract(self.q, 0.5)).argmin()) :: len(self.q)]


@dataclass(frozen=True)
class Poisson(Loss):
    """Negative log-likelihood of counts y >= 0, the mean over rows and outputs, as PyTorch's PoissonNLLLoss.

    Parameters
    ----------
    log_input : bool
        Whether outputs are logarithms of rates: exp(z) - y z; else z - y log(z + eps).
    full : bool
        Add Stirling's y log(y) - y + log(2 pi y) / 2 for y > 1, which has no gradient.
    eps : float
        Keeps the logarithm of a rate of 0 finite.
    """

    log_input: bool = True
    full: bool = False
    eps: float = 1e-8
    name: ClassVar[str] = "poisson"
    bounds: ClassVar[tuple[float, float] | None] = (0.0, float("inf"))

    def __post_init__(self) -> None:
        for name in ("log_input", "full"):
            object.__setattr__(self, name, errors.flag(name, getattr(self, name)))
        object.__setattr__(self, "eps", errors.real("eps", self.eps))

    def numbers(self, n_out: int) -> Mapping[str, Any]:
        """Its fields."""
        return {"log_input": self.log_input, "full": self.full, "eps": self.eps}

    def fault(self) -> tuple[str, str] | None:
        """Rates below 0 have no logarithm."""
        if self.log_input:
            return None
        return (
            "with log_input=False an output is a rate, and one below 0 has no logarithm",
            "end the model with an activation such as softplus, or leave log_input=True",
        )

    def prediction(self, output: Array) -> Array:
        """The rate."""
        return np.exp(output) if self.log_input else output


@dataclass(frozen=True)
class GaussianNLL(Loss):
    """Negative log-likelihood of targets (batch, n_out / 2) under normal distributions that the model gives.

    The first half of the outputs are means m, the second half logarithms of variances, in the same order:
    1/2 (log(v) + (m - y)^2 / v), v = max(exp(s), eps), the mean over rows and targets (Nix and Weigend 1994).
    The value and gradient of PyTorch's ``GaussianNLLLoss()(m, y, s.exp())``, whose clamp does not take part
    in the gradient.

    Parameters
    ----------
    full : bool
        Add the constant log(2 pi) / 2.
    eps : float
        Least variance, above 0.
    """

    full: bool = False
    eps: float = 1e-6
    name: ClassVar[str] = "gaussian_nll"

    def __post_init__(self) -> None:
        object.__setattr__(self, "full", errors.flag("full", self.full))
        # A smaller one would be 0 in float32, and the loss of an exact prediction minus infinity.
        object.__setattr__(self, "eps", errors.real("eps", self.eps, float(np.finfo(np.float32).tiny)))

    def numbers(self, n_out: int) -> Mapping[str, Any]:
        """Its fields."""
        return {"full": self.full, "eps": self.eps}

    def prediction(self, output: Array) -> Array:
        """The mean."""
        return output[:, : output.shape[1] // 2]
