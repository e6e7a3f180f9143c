"""Losses as frozen descriptions; the arithmetic is the kernels'.

A loss is a number for each row; that of a batch is the mean over its rows, with weights
sum(weight * loss) / sum(weight). Where outputs count alone (all but cross_entropy, kl_divergence,
softmax_focal and multi_margin), the number of a row is the mean over its outputs. Gradients are of the mean
over the batch.
"""

from __future__ import annotations

from .base import Loss
from .of_classes import (
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    Hinge,
    KLDivergence,
    MultiMargin,
    SoftmaxFocal,
)
from .of_values import MAE, MSE, GaussianNLL, Huber, LogCosh, Poisson, Quantile
from .own import CLASSES, Custom, check, get

__all__ = [
    "CLASSES",
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
    "SoftmaxFocal",
    "check",
    "get",
]
