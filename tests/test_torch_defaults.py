"""Names and defaults of optimizers, schedules and losses are PyTorch's, but for what is listed here."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import fastnn as fn
from fastnn import losses, schedules

pytestmark = pytest.mark.torch

# Of PyTorch's machinery, or what a trainer or the shape of a model says.
ELSEWHERE = {
    *("params", "optimizer", "last_epoch", "foreach", "maximize", "capturable", "differentiable", "fused"),
    *("size_average", "reduce", "reduction", "device", "dtype", "schedulers"),
}
# class_weight is the fit's, AdamW Adam's decoupled decay; the rest is another name, or said in the docstring.
KNOWN = {
    "Adam": {"decoupled_weight_decay"},
    "LBFGS": {"line_search_fn"},
    "Constant": {"factor", "total_iters"},
    "OneCycle": {"epochs", "steps_per_epoch", "total_steps"},
    "Cyclic": {"scale_fn", "scale_mode"},
    "ReduceLROnPlateau": {"mode"},
    "CrossEntropy": {"weight"},
    "BinaryCrossEntropy": {"weight"},
    "MultiMargin": {"weight"},
}
OPTIMIZERS = ["SGD", "RMSprop", "Adagrad", "Adadelta", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "LBFGS"]
SCHEDULES = {
    "Constant": "ConstantLR",
    "Step": "StepLR",
    "MultiStep": "MultiStepLR",
    "Exponential": "ExponentialLR",
    "Polynomial": "PolynomialLR",
    "Linear": "LinearLR",
    "Cosine": "CosineAnnealingLR",
    "CosineRestarts": "CosineAnnealingWarmRestarts",
    "OneCycle": "OneCycleLR",
    "Cyclic": "CyclicLR",
    "Sequential": "SequentialLR",
}
LOSSES = {
    "CrossEntropy": "CrossEntropyLoss",
    "BinaryCrossEntropy": "BCEWithLogitsLoss",
    "Huber": "HuberLoss",
    "Poisson": "PoissonNLLLoss",
    "GaussianNLL": "GaussianNLLLoss",
    "MultiMargin": "MultiMarginLoss",
}


def defaults(of: Any) -> dict[str, Any]:
    return {name: given.default for name, given in inspect.signature(of).parameters.items()}


def test_names_and_defaults_are_pytorchs() -> None:
    import torch

    rates = torch.optim.lr_scheduler
    pairs = [(getattr(fn, name), getattr(torch.optim, name)) for name in OPTIMIZERS]
    pairs += [(getattr(schedules, name), getattr(rates, theirs)) for name, theirs in SCHEDULES.items()]
    pairs += [(getattr(losses, name), getattr(torch.nn, theirs)) for name, theirs in LOSSES.items()]
    pairs.append((fn.ReduceLROnPlateau, rates.ReduceLROnPlateau))
    for mine, theirs in pairs:
        ours, wanted = defaults(mine), defaults(theirs)
        off = {
            name
            for name, value in wanted.items()
            if name not in ELSEWHERE
            and (name not in ours or (value is not inspect.Parameter.empty and ours[name] != value))
        }
        assert off <= KNOWN.get(mine.__name__, set()), f"{mine.__name__}: {off}"
