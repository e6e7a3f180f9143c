"""The range of learning rates in which a training makes progress (Smith 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import devices, errors
from .errors import DivergenceError
from .stepping import batches

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["LRFinder", "lr_find"]

_REACH = 3.0
_LEFT_OUT = 5  # rates at the begin, where a mean of losses is not yet one


@dataclass(frozen=True, eq=False)
class LRFinder:
    """What `lr_find` found; `fastnn.plots.learning_rates` draws it.

    Parameters
    ----------
    rates : ndarray (n,)
        Tried, each larger than the one before.
    losses : ndarray (n,)
        Of the batch that was then trained at that rate, before its step; NaN for one without weight.
    smoothed : ndarray (n,)
        Exponential mean of the losses, corrected for its beginning.
    suggestion : float or None
        The rate at which the smoothed loss falls steepest over the logarithm of the rate; None: it never
        falls.
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    suggestion: float | None


def lr_find(
    trainer: Trainer,
    x: ArrayLike,
    y: ArrayLike,
    *,
    min_lr: float = 1e-7,
    max_lr: float = 10.0,
    steps: int = 100,
    batch_size: int = 32,
    sample_weight: ArrayLike | None = None,
    smoothing: float = 0.9,
    stop_factor: float = 4.0,
) -> LRFinder:
    """Train a few batches with a rate that grows from min_lr to max_lr, and tell the losses (Smith 2017).

    Parameters, buffers, optimizer state and step of the trainer are afterwards what they were; the rate that
    its optimizer names plays no part.

    Parameters
    ----------
    trainer : Trainer
        Its model is built where it is not.
    x, y, sample_weight : array_like
        As for `Trainer.fit`; batches are taken in shuffled order, again and again.
    min_lr, max_lr : float
        Rates between lie at equal ratios.
    steps : int
        How many rates; at least 2.
    batch_size : int
    smoothing : float
        From 0 to below 1: of the mean of losses.
    stop_factor : float
        Above 1: ends when the smoothed loss is so many times the least so far, or a loss is not finite.

    Raises
    ------
    DivergenceError
        The very first loss is not finite.
    """
    if not hasattr(trainer, "optimizer"):
        raise TypeError(f"trainer must be a Trainer, got {type(trainer).__name__}")
    low, high = errors.real("min_lr", min_lr), errors.real("max_lr", max_lr)
    if not 0.0 < low < high:
        raise ValueError(f"min_lr must be above 0 and below max_lr, got {min_lr!r} and {max_lr!r}")
    steps, batch_size = errors.integer("steps", steps, 2), errors.integer("batch_size", batch_size)
    smoothing = errors.real("smoothing", smoothing, 0.0, 1.0)
    if errors.real("stop_factor", stop_factor) <= 1.0:
        raise ValueError(f"stop_factor must be above 1, got {stop_factor!r}")
    if trainer.optimizer.full_batch:
        raise ValueError(f"optimizer must take mini-batches, got {trainer.optimizer!r}")
    matrix, targets, weights, _ = trainer._task.judged(x, y, sample_weight)
    program = trainer._ready(matrix.shape[1])
    kept = trainer.model.parameters.copy(), _buffers(trainer), program.state.copy(), program.numbers.copy()
    step = program.step
    rates = np.array([low * math.exp(i / (steps - 1) * math.log(high / low)) for i in range(steps)])
    losses: list[float] = []
    smoothed: list[float] = []
    mean, counted, order = 0.0, 0, np.empty((0, 0), np.int64)
    try:
        for i in range(steps):
            turn, at = divmod(i, len(order)) if len(order) else (0, 0)
            if at == 0:
                order, _ = batches(trainer.seed, trainer.epoch + turn, len(matrix), batch_size, True)
            try:
                loss, weight = program.run(matrix, targets, order[at : at + 1], rates[i : i + 1], weights)
            except DivergenceError as error:
                if not losses:
                    raise trainer._explained(error, "in the first batch of lr_find") from None
                break
            if not weight:  # a batch without weight has no mean
                losses.append(math.nan)
                smoothed.append(smoothed[-1] if counted else math.nan)
                continue
            losses.append(loss / weight)
            counted += 1
            mean = smoothing * mean + (1 - smoothing) * losses[-1]
            smoothed.append(mean / (1 - smoothing**counted))
            if smoothed[-1] > stop_factor * np.nanmin(smoothed):
                break
    finally:
        trainer.model.parameters = kept[0]
        if kept[1] is not None:
            trainer.model.buffers[...] = kept[1]
        devices.restore(program, kept[2], kept[3])
        program.step = step
    n = len(losses)
    return LRFinder(rates[:n], np.array(losses), np.array(smoothed), _steepest(rates[:n], np.array(smoothed)))


def _buffers(trainer: Trainer) -> Any:
    """A copy of the numbers of the model that are not trained, where it has some."""
    buffers = getattr(trainer.model, "buffers", None)
    return None if buffers is None else buffers.copy()


def _steepest(rates: NDArray[np.float64], smoothed: NDArray[np.float64]) -> float | None:
    """The rate where the loss falls fastest over the logarithm of the rate, before its minimum.

    The slope is that between rates _REACH apart on either side: batches differ by more than one step at a
    small rate changes.
    """
    if np.isnan(smoothed).all():
        return None
    last = int(np.nanargmin(smoothed)) + 1
    first = min(_LEFT_OUT, max(0, last - 2))
    reach = int(np.searchsorted(rates, rates[0] * _REACH))
    reach = max(1, min(reach, (last - first - 1) // 2))
    if last - first < 2 * reach + 1:
        return None
    part, logs = smoothed[first:last], np.log(rates[first:last])
    slopes = (part[2 * reach :] - part[: -2 * reach]) / (logs[2 * reach :] - logs[: -2 * reach])
    if np.isnan(slopes).all():
        return None
    steepest = int(np.nanargmin(slopes))
    return float(rates[first + reach + steepest]) if slopes[steepest] < 0 else None
