"""Losses as frozen descriptions; the arithmetic is the kernels'.

A loss is a number for each row; that of a batch is the mean over its rows, with weights
sum(weight * loss) / sum(weight). Where outputs count alone (all but cross_entropy, kl_divergence and
multi_margin), the number of a row is the mean over its outputs. Gradients are of the mean over the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from . import errors, kernels

__all__ = [
    "MAE",
    "MSE",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Custom",
    "Focal",
    "GaussianNLL",
    "Hinge",
    "Huber",
    "KLDivergence",
    "LogCosh",
    "Loss",
    "MultiMargin",
    "Poisson",
    "Quantile",
    "get",
]


class Loss:
    """What a loss says of itself.

    Attributes
    ----------
    name : str
        Its name in the kernels.
    link : "softmax", "sigmoid" or None
        The activation that turns the model's outputs into probabilities; the loss applies it itself.
    bounds : (float, float) or None
        Smallest and largest legal target value.
    levels : (float, float) or None
        The two values that targets may have.
    takes_soft : bool
        Whether targets are, or beside labels may be, probabilities of all outputs.
    ignore_index : int or None
        Label of rows that count for nothing.
    """

    link: ClassVar[str | None] = None
    bounds: ClassVar[tuple[float, float] | None] = None
    levels: ClassVar[tuple[float, float] | None] = None
    takes_soft: ClassVar[bool] = False

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def ignore_index(self) -> int | None:
        return None

    @property
    def takes_labels(self) -> bool:
        """Whether a target is one integer a row, rather than values."""
        return kernels.LOSSES[self.name] == "label"

    def numbers(self, n_out: int) -> Mapping[str, Any]:
        """What the kernels must know of it for n_out outputs: `kernels.LOSS_NUMBERS` names them."""
        return {}

    def n_targets(self, n_out: int) -> int:
        """Columns of targets of values for a model of n_out outputs (ValueError: no model for it)."""
        return kernels.target_columns(self.name, n_out)


def _share(argument: str, value: object) -> float:
    """A number from 0 to 1."""
    number = errors.real(argument, value)
    if number > 1:
        raise ValueError(f"{argument} must be from 0 to 1, got {value!r}")
    return number


def _one_or_more(
    argument: str, value: object, minimum: float = 0.0, below: float = float("inf")
) -> float | tuple[float, ...]:
    """A number, or a tuple of some."""
    if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) and np.ndim(value):
        if len(value) == 0:
            raise ValueError(f"{argument} must hold at least one number, got {value!r}")
        return tuple(errors.real(f"{argument}[{i}]", one, minimum, below) for i, one in enumerate(value))
    return errors.real(argument, value, minimum, below)


# ---------------------------------------------------------------- of classes


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
        object.__setattr__(self, "label_smoothing", _share("label_smoothing", self.label_smoothing))
        index = errors.integer("ignore_index", self.ignore_index, -(2**62), 2**62)
        object.__setattr__(self, "ignore_index", index)

    def numbers(self, n_out: int) -> Mapping[str, Any]:
        """The smoothing; ignored rows do not reach the kernels."""
        return {"smoothing": self.label_smoothing}


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
            object.__setattr__(self, "pos_weight", _one_or_more("pos_weight", self.pos_weight))

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
            object.__setattr__(self, "alpha", _share("alpha", self.alpha))
        object.__setattr__(self, "gamma", errors.real("gamma", self.gamma))

    def numbers(self, n_out: int) -> Mapping[str, Any]:
        """Its fields; alpha is -1 for None."""
        return {"alpha": -1.0 if self.alpha is None else self.alpha, "gamma": self.gamma}


@dataclass(frozen=True)
class Hinge(Loss):
    """max(0, 1 - y z) of scores and targets -1 or 1, each output on its own; the mean over outputs.

    The derivative at the kink is 0. For labels of several classes: `MultiMargin`.
    """

    name: ClassVar[str] = "hinge"
    bounds: ClassVar[tuple[float, float] | None] = (-1.0, 1.0)
    levels: ClassVar[tuple[float, float] | None] = (-1.0, 1.0)


# ---------------------------------------------------------------- of values


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
        q = _one_or_more("q", self.q, below=1.0)
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


# ---------------------------------------------------------------- your own


@dataclass(frozen=True)
class Custom(Loss):
    """A loss of your own; as ``loss=`` the bare function will do.

    It is called once a step, on the whole batch and on one thread, with the GIL.

    Parameters
    ----------
    function : callable
        ``function(z, y, sample_weight) -> (loss, dz)``: z (batch, n_out) what the model gives, in its dtype;
        y labels (batch,) as int64, or values (batch, n_out) in the model's dtype; sample_weight (batch,)
        float64, or None. All are copies, yours to change. `loss` is the mean over the batch, with weights
        sum(weight * loss) / sum(weight), and `dz`, of the shape of z, the gradient of that number: divided by
        the rows or the weights. A batch whose weights are all zero does not reach it. What it raises ends the
        call before the update, and parameters and optimizer state are as before that step.
        `fastnn.losses.check` compares the two.
    name : str, optional
        For messages; None takes the function's own. Checkpoints keep the name, and not the function.
    takes_labels : bool
        Whether targets are labels 0 .. n_out - 1 rather than values.
    """

    function: Callable[..., Any] = field(compare=False)
    name: str = ""
    takes_labels: bool = False

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function must be callable, got {self.function!r}")
        name = self.name or getattr(self.function, "__name__", type(self.function).__name__)
        if not isinstance(name, str):
            raise TypeError(f"name must be a text, got {name!r}")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "takes_labels", errors.flag("takes_labels", self.takes_labels))

    def n_targets(self, n_out: int) -> int:
        """As outputs."""
        return n_out


# ---------------------------------------------------------------- by name


_CLASSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "binary_cross_entropy": BinaryCrossEntropy,
    "mse": MSE,
    "mae": MAE,
    "huber": Huber,
    "log_cosh": LogCosh,
    "quantile": Quantile,
    "poisson": Poisson,
    "gaussian_nll": GaussianNLL,
    "hinge": Hinge,
    "multi_margin": MultiMargin,
    "focal": Focal,
    "kl_divergence": KLDivergence,
}


def get(loss: str | Loss | Callable[..., Any]) -> Loss:
    """The description of a loss given by name, as one, or as a function of yours."""
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, (str, type)) or not callable(loss):
        return _CLASSES[errors.choice("loss", loss, _CLASSES)]()
    return Custom(loss)
