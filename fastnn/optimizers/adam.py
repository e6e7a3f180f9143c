"""Adam and its family: rates by weight from running means of gradients and of their squares."""

from __future__ import annotations

from typing import ClassVar

from ..late_dataclass import dataclass
from .base import Optimizer, Schedule

__all__ = ["Adam", "AdamW", "Adamax", "Lion", "NAdam", "RAdam"]


@dataclass(frozen=True, repr=False)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), in PyTorch's form: eps is added after the bias corrections.

    `weight_decay` is added to the gradient as ``weight_decay * w``. `amsgrad` (Reddi et al. 2018) divides by
    the largest mean square so far. With `eps_hat`, eps is added before the bias corrections, as at the end of
    section 2 of the paper, and in scikit-learn.
    """

    name: ClassVar[str] = "adam"
    lr: float | Schedule = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    eps_hat: bool = False

    def __post_init__(self) -> None:
        self.judge("eps")
        self.judge_betas()
        self.judge_flag("amsgrad")
        self.judge_flag("eps_hat")

    @property
    def n_states(self) -> int:
        """The mean, the mean square; the largest mean square."""
        return 3 if self.amsgrad else 2


@dataclass(frozen=True, repr=False)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), in PyTorch's form.

    ``w *= 1 - lr * weight_decay`` before the step; the gradient has no part in it.
    """

    name: ClassVar[str] = "adamw"
    weight_decay: float = 1e-2


@dataclass(frozen=True, repr=False)
class Adamax(Optimizer):
    """Adamax (Kingma and Ba 2015): Adam by the infinity norm, in PyTorch's form.

    ``m += (1 - beta1) * (g - m);  n = max(beta2 * n, abs(g) + eps);  w -= lr / (1 - beta1**t) * m / n``.
    """

    name: ClassVar[str] = "adamax"
    lr: float | Schedule = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self.judge("eps")
        self.judge_betas()

    @property
    def n_states(self) -> int:
        """The mean and the norm."""
        return 2


@dataclass(frozen=True, repr=False)
class NAdam(Optimizer):
    """Adam with Nesterov's momentum (Dozat 2016), in PyTorch's form.

    The momentum of step t is ``beta1 * (1 - 0.5 * 0.96**(t * momentum_decay))``. `weight_decay` joins the
    gradient, or with `decoupled_weight_decay` shrinks w as in AdamW.
    """

    name: ClassVar[str] = "nadam"
    lr: float | Schedule = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum_decay: float = 4e-3
    decoupled_weight_decay: bool = False

    def __post_init__(self) -> None:
        self.judge("eps", "momentum_decay")
        self.judge_betas()
        self.judge_flag("decoupled_weight_decay")

    @property
    def n_states(self) -> int:
        """The mean and the mean square."""
        return 2


@dataclass(frozen=True, repr=False)
class RAdam(Optimizer):
    """Rectified Adam (Liu et al. 2020), in PyTorch's form.

    While too few steps are done to know the variance of the adaptive rate, it is momentum alone; then the
    rate is rectified. `weight_decay` as in `NAdam`.
    """

    name: ClassVar[str] = "radam"
    lr: float | Schedule = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False

    def __post_init__(self) -> None:
        self.judge("eps")
        self.judge_betas()
        self.judge_flag("decoupled_weight_decay")

    @property
    def n_states(self) -> int:
        """The mean and the mean square."""
        return 2


@dataclass(frozen=True, repr=False)
class Lion(Optimizer):
    """Lion (Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, Algorithm 2).

    ``w -= lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * w);  m = beta2 * m + (1 - beta2) * g``.
    """

    name: ClassVar[str] = "lion"
    lr: float | Schedule = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self.judge()
        self.judge_betas()

    @property
    def n_states(self) -> int:
        """The mean."""
        return 1
