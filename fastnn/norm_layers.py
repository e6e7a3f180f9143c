"""Layers that bring their input to a common scale, and PReLU: they have numbers by column."""

from __future__ import annotations

import sys

from . import errors
from .late_dataclass import dataclass
from .layers import Layer, set_field
from .steps import Lowering, Step

__all__ = ["BatchNorm", "LayerNorm", "PReLU", "RMSNorm"]


@dataclass(frozen=True, repr=False, kw_only=True)
class BatchNorm(Layer):
    """``(x - mean) / sqrt(var + eps) * weight + bias``, mean and variance by column (Ioffe and Szegedy 2015).

    While training they are those of the batch, the variance biased; all rows count alike, whatever their
    weight in the loss. Each step moves the running statistics, of the unbiased variance, towards them, and
    predictions use those. As PyTorch's BatchNorm1d. A batch of one row is an error in training. ``gradient``
    uses statistics of its batch and stores none.

    Weights begin with 1 ("0.weight") and 0 ("0.bias"); running statistics, "0.running_mean" and
    "0.running_var", are part of ``model.buffers``. Predictions by a model fold this layer into a Dense
    before it that has no activation, or into one after it where columns lie near 0.

    Parameters
    ----------
    momentum : float or None
        Weight of the present batch in the running statistics, from 0 to 1. None: they are the mean over all
        batches so far, whose number is kept with them ("0.num_batches_tracked").
    eps : float
    affine : bool
        Whether weight and bias are there.
    """

    momentum: float | None = 0.1
    eps: float = 1e-5
    affine: bool = True

    def __post_init__(self) -> None:
        if self.momentum is not None:
            momentum = errors.real("momentum", self.momentum)
            if momentum > 1:
                raise ValueError(f"momentum must be from 0 to 1, got {momentum}")
            set_field(self, "momentum", momentum)
        set_field(self, "eps", errors.real("eps", self.eps))
        set_field(self, "affine", errors.flag("affine", self.affine))

    def lower(self, to: Lowering) -> None:
        """Weight, then bias; the running mean, then the variance."""
        weight = to.parameters(to.width) if self.affine else -1
        bias = to.parameters(to.width) if self.affine else -1
        to.add(
            Step(
                "batch_norm",
                to.layer,
                to.width,
                to.width,
                weight=weight,
                bias=bias,
                shape=(to.width,),
                eps=self.eps,
                momentum=-1.0 if self.momentum is None else self.momentum,
                counted=self.momentum is None,
                running=to.running(2 * to.width + (self.momentum is None)),
                initial=1.0,
            )
        )


@dataclass(frozen=True, repr=False, kw_only=True)
class LayerNorm(Layer):
    """``(x - mean) / sqrt(var + eps) * weight + bias``, mean and biased variance of a row (Ba et al. 2016).

    As PyTorch's LayerNorm. Weights begin with 1 ("0.weight") and 0 ("0.bias").

    Parameters
    ----------
    eps : float
    affine : bool
        Whether weight and bias are there.
    """

    eps: float = 1e-5
    affine: bool = True

    def __post_init__(self) -> None:
        set_field(self, "eps", errors.real("eps", self.eps))
        set_field(self, "affine", errors.flag("affine", self.affine))

    def lower(self, to: Lowering) -> None:
        """Weight, then bias."""
        weight = to.parameters(to.width) if self.affine else -1
        bias = to.parameters(to.width) if self.affine else -1
        step = Step("layer_norm", to.layer, to.width, to.width, weight=weight, bias=bias, shape=(to.width,))
        to.add(step, eps=self.eps, initial=1.0)


@dataclass(frozen=True, repr=False, kw_only=True)
class RMSNorm(Layer):
    """``x / sqrt(mean(x**2) + eps) * weight`` of each row (Zhang and Sennrich 2019).

    As PyTorch's RMSNorm. The weight, "0.weight", begins with 1.

    Parameters
    ----------
    eps : float, optional
        None takes the spacing of the model's numbers at 1, as PyTorch does.
    affine : bool
        Whether the weight is there.
    """

    eps: float | None = None
    affine: bool = True

    def __post_init__(self) -> None:
        if self.eps is not None:
            set_field(self, "eps", errors.real("eps", self.eps))
        set_field(self, "affine", errors.flag("affine", self.affine))

    def lower(self, to: Lowering) -> None:
        """The weight."""
        weight = to.parameters(to.width) if self.affine else -1
        step = Step("rms_norm", to.layer, to.width, to.width, weight=weight, shape=(to.width,))
        to.add(step, eps=-1.0 if self.eps is None else self.eps, initial=1.0)


@dataclass(frozen=True, repr=False)
class PReLU(Layer):
    """``x`` where that is positive, else ``weight * x`` with a trained weight (He et al. 2015). As PyTorch's.

    Parameters
    ----------
    n : int
        1, or the number of columns: a slope for each.
    init : float
        What slopes begin with.
    """

    n: int = 1
    init: float = 0.25

    def __post_init__(self) -> None:
        set_field(self, "n", errors.integer("n", self.n))
        set_field(self, "init", errors.real("init", self.init, -sys.float_info.max))

    def lower(self, to: Lowering) -> None:
        """The slopes."""
        if self.n not in (1, to.width):
            raise ValueError(f"layer {to.name}, {self!r}: n must be 1 or {to.width}, the number of columns")
        step = Step("prelu", to.layer, to.width, to.width, weight=to.parameters(self.n), shape=(self.n,))
        to.add(step, initial=self.init)
