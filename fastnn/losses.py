"""Losses as frozen descriptions; the arithmetic is the kernels'."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from . import errors, kernels

__all__ = ["MSE", "BinaryCrossEntropy", "CrossEntropy", "Loss", "get"]


class Loss:
    """What a loss says of itself.

    Attributes
    ----------
    name : str
        Its name in the kernels.
    link : str or None
        The activation that turns the model's outputs into probabilities; the loss applies it itself.
    bounds : (float, float) or None
        Smallest and largest legal target value.
    """

    name: ClassVar[str]
    link: ClassVar[str | None] = None
    bounds: ClassVar[tuple[float, float] | None] = None

    @property
    def takes_labels(self) -> bool:
        """Whether a target is one integer a row, rather than a value for each output."""
        return kernels.LOSSES[self.name] == "label"


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Softmax cross-entropy of logits (batch, n_out) and integer labels (batch,)."""

    name: ClassVar[str] = "cross_entropy"
    link: ClassVar[str | None] = "softmax"


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Cross-entropy of logits and targets from 0 to 1, each output on its own; the mean over outputs.

    It applies the sigmoid itself: the last layer gives logits.
    """

    name: ClassVar[str] = "binary_cross_entropy"
    link: ClassVar[str | None] = "sigmoid"
    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)


@dataclass(frozen=True)
class MSE(Loss):
    """Mean of squared differences over rows and outputs (no factor 1/2)."""

    name: ClassVar[str] = "mse"


_CLASSES: dict[str, type[Loss]] = {c.name: c for c in (CrossEntropy, BinaryCrossEntropy, MSE)}


def get(loss: str | Loss) -> Loss:
    """The description of a loss given by name or as one."""
    if isinstance(loss, Loss):
        return loss
    return _CLASSES[errors.choice("loss", loss, _CLASSES)]()
