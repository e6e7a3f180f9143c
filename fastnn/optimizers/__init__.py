"""Optimizers as frozen descriptions, with PyTorch's names, defaults and formulas.

The arithmetic is the kernels'. Beside its own fields each has those of `Optimizer`, by keyword: penalties,
clipping, accumulation, averages, groups of weights.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from .adam import Adam, Adamax, AdamW, Lion, NAdam, RAdam
from .base import Group, Optimizer, Rule, Schedule
from .lbfgs import LBFGS
from .plain import SGD, Adadelta, Adagrad, RMSprop

__all__ = [
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Group",
    "Lion",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rule",
    "Schedule",
    "get",
    "momenta",
    "rates",
    "with_momentum",
]

_KEPT_RATES = 4096

_CLASSES: dict[str, type[Optimizer]] = {
    one.name: one for one in (SGD, Adam, RMSprop, Adagrad, Adadelta, AdamW, Adamax, NAdam, RAdam, Lion, LBFGS)
}


def get(optimizer: object) -> Optimizer:
    """The description of an optimizer given by name or as one."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    for known in _CLASSES.values():
        if optimizer is known:
            raise TypeError(f"optimizer must be a description, got the class; write {known.__name__}()")
    return _CLASSES[errors.choice("optimizer", optimizer, _CLASSES)]()


@lru_cache(maxsize=8)
def _constant(lr: float, n_steps: int) -> NDArray[np.float64]:
    found = np.full(n_steps, lr)
    found.flags.writeable = False
    return found


def rates(
    optimizer: Optimizer,
    n_steps: int,
    factor: float = 1.0,
    step: int = 0,
    epoch: int = 0,
    dtype: Any = np.float64,
) -> NDArray[np.float64]:
    """The learning rate of each of the next n_steps steps, times a factor; not to be written to.

    Parameters
    ----------
    step, epoch : int
        Steps and epochs done before, which a schedule goes by.
    dtype : dtype
        That holds the rates.

    Raises
    ------
    ValueError
        A schedule grows beyond dtype.
    """
    lr = optimizer.lr
    if isinstance(lr, Schedule):
        if lr.by == "epoch":
            times = np.array([epoch], np.int64)
        else:
            times = np.arange(step, step + n_steps, dtype=np.int64) // optimizer.accumulate
        with np.errstate(all="ignore"):  # gamma above 1: judged here
            found = lr.at(times) * factor
        most = float(np.finfo(dtype).max)
        legal = found <= most  # NaN is not
        if not legal.all():
            at = int((~legal).argmax())
            raise ValueError(
                f"lr must be at most {most:g}, got {found[at]:g} at {lr.by} {times[at]} of {lr!r}"
            )
        return np.full(n_steps, found[0]) if lr.by == "epoch" else found
    lr *= factor
    # Those of a few steps are kept: making them anew would take longer than one small step.
    return _constant(lr, n_steps) if n_steps <= _KEPT_RATES else np.full(n_steps, lr)


def momenta(optimizer: Optimizer, n_steps: int, step: int = 0, epoch: int = 0) -> NDArray[np.float64] | None:
    """The momentum, or first beta, of each of the next n_steps steps; None: the optimizer's own."""
    lr = optimizer.lr
    if not isinstance(lr, Schedule) or not lr.cycles:
        return None
    if lr.by == "epoch":
        return np.full(n_steps, lr.momenta(np.array([epoch], np.int64))[0])
    return lr.momenta(np.arange(step, step + n_steps, dtype=np.int64) // optimizer.accumulate)


def with_momentum(optimizer: Optimizer, value: float) -> Optimizer:
    """The optimizer with that momentum, or first beta."""
    if hasattr(optimizer, "betas"):
        return replace(optimizer, betas=(value, optimizer.betas[1]))  # type: ignore[call-arg]
    return replace(optimizer, momentum=value)  # type: ignore[call-arg]
