"""Losses of classes: logits or scores, and labels or probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from .. import errors
from ..late_dataclass import dataclass
from .base import Loss, one_or_more, share

__all__ = [
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Focal",
    "Hinge",
    "KLDivergence",
    "MultiMargin",
    "SoftmaxFocal",
]


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Softmax cross-entropy of logits (batch, n_out) and labels (batch,), or probabilities (batch, n_out).

    Targets are integers, or floats of shape (batch, n_out) from 0 to 1 whose rows sum to 1. The loss of a
    row is the sum over outputs of -t log(softmax(z)).

    Parameters
    ----------
    label_smoothing : float
        Share s, from 0 to 1, of the even distribution in the target: t = (1 - s) target + s / n_out (Szegedy
        et al. 2016).
    ignore_index : int
        Label of rows that count for nothing, neither in the sum nor in the weight: the mean is over the
        others. It need be no class. Where every row of a call is ignored there is no mean: ValueError.
        A batch of an epoch without other rows has the gradient zero.
    """

    label_smoothing: float = 0.0
    ignore_index: int = -100
    name: ClassVar[str] = "cross_entropy"
    link: ClassVar[str | None] = "softmax"
    takes_soft: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "label_smoothing", share("label_smoothing", self.label_smoothing))
        index = errors.integer("ignore_index", self.ignore_index, -(2**62), 2**62)
        object.__setattr__(self, "ignore_index", index)

    def numbers(self, n_out: int) -> Mapping[str, Any]:
        """The smoothing, if any; ignored rows do not reach the kernels."""
        return {"smoothing": self.label_smoothing} if self.label_smoothing else {}


@dataclass(frozen=True)
class KLDivergence(Loss):
    """Kullback-Leibler divergence of softmax(logits) from probabilities as targets, both (batch, n_out).

    The loss of a row is the sum over outputs of t (log(t) - log(softmax(z))), 0 where t is 0; its mean over
    rows is PyTorch's ``reduction="batchmean"``. The gradient is that of cross_entropy.
    """

    name: ClassVar[str] = "kl_divergence"
    link: ClassVar[str | None] = "softmax"
    takes_soft: ClassVar[bool] = True


@dataclass(frozen=True)
class MultiMargin(Loss):
    """Hinge loss of several classes: scores (batch, n_out) and labels (batch,), as PyTorch's MultiMarginLoss.

    The loss of a row is the sum over the other outputs j of max(0, margin - z[label] + z[j])^p, divided by
    n_out (Weston and Watkins 1999). Scores are no logits: there are no probabilities.

    Parameters
    ----------
    p : 1 or 2
    margin : float
    """

    p: int = 1
    margin: float = 1.0
    name: ClassVar[str] = "multi_margin"

    @property
    def meaning(self) -> str:
        """Scores."""
        return "scores"

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", errors.integer("p", self.p, 1, 2))
        object.__setattr__(self, "margin", errors.real("margin", self.margin))

    def numbers(self, n_out: int) -> Mapping[str, Any]:
        """Its fields."""
        return {"p": self.p, "margin": self.margin}


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Cross-entropy of logits and targets from 0 to 1, each output on its own; the mean over outputs.

    It applies the sigmoid itself: the last layer gives logits.

    Parameters
    ----------
    pos_weight : float, sequence of n_out floats, or None
        What the positive part of each output's loss is multiplied by:
        -(pos_weight y log(p) + (1 - y) log(1 - p)).
    """

    pos_weight: float | tuple[float, ...] | None = None
    name: ClassVar[str] = "binary_cross_entropy"
    link: ClassVar[str | None] = "sigmoid"
    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.pos_weight is not None:
            object.__setattr__(self, "pos_weight", one_or_more("pos_weight", self.pos_weight))

    def numbers(self, n_out: int) -> Mapping[str, Any]:
        """The weight of each output, if any."""
        if self.pos_weight is None:
            return {}
        if isinstance(self.pos_weight, tuple) and len(self.pos_weight) != n_out:
            raise ValueError(
                f"pos_weight must have {n_out} numbers, one an output, got {len(self.pos_weight)}"
            )
        return {"each": np.broadcast_to(self.pos_weight, n_out)}


@dataclass(frozen=True)
class Focal(Loss):
    """Focal loss of logits and targets from 0 to 1, each output on its own; the mean over outputs.

    alpha_t (1 - p_t)^gamma times the binary cross-entropy (Lin et al. 2017), p_t = p y + (1 - p) (1 - y):
    easy rows count for less. As ``torchvision.ops.sigmoid_focal_loss`` has it.

    Parameters
    ----------
    alpha : float or None
        Weight of positive targets, from 0 to 1; negative ones have 1 - alpha. None: both have 1.
    gamma : float
        At least 0; with 0 and alpha=None it is the binary cross-entropy.
    """

    alpha: float | None = 0.25
    gamma: float = 2.0
    name: ClassVar[str] = "focal"
    link: ClassVar[str | None] = "sigmoid"
    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.alpha is not None:
            object.__setattr__(self, "alpha", share("alpha", self.alpha))
        object.__setattr__(self, "gamma", errors.real("gamma", self.gamma))

    def numbers(self, n_out: int) -> Mapping[str, Any]:
        """Its fields; alpha is -1 for None."""
        return {"alpha": -1.0 if self.alpha is None else self.alpha, "gamma": self.gamma}


@dataclass(frozen=True)
class SoftmaxFocal(Loss):
    """Focal loss of logits (batch, n_out) and labels (batch,): (1 - p)^gamma times the cross-entropy.

    p is the softmax's probability of the label, which the loss takes itself (Lin et al. 2017, of several
    classes). Their alpha, a weight of each class, is the `class_weight` of `fit`. For outputs that count
    each on its own: `Focal`.

    Parameters
    ----------
    gamma : float
        At least 0; with 0 it is the cross-entropy.
    """

    gamma: float = 2.0
    name: ClassVar[str] = "softmax_focal"
    link: ClassVar[str | None] = "softmax"

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", errors.real("gamma", self.gamma))

    def numbers(self, n_out: int) -> Mapping[str, Any]:
        """Its field."""
        return {"gamma": self.gamma}


@dataclass(frozen=True)
class Hinge(Loss):
    """max(0, 1 - y z) of scores and targets -1 or 1, each output on its own; the mean over outputs.

    The derivative at the kink is 0. For labels of several classes: `MultiMargin`.
    """

    name: ClassVar[str] = "hinge"
    bounds: ClassVar[tuple[float, float] | None] = (-1.0, 1.0)
    levels: ClassVar[tuple[float, float] | None] = (-1.0, 1.0)

    @property
    def meaning(self) -> str:
        """Signs."""
        return "signs"
