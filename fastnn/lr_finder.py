"""The range of learning rates in which a training makes progress (Smith 2017)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import devices, errors
from .callbacks import Callback
from .errors import DivergenceError
from .samples import Sample
from .stepping import batches

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["LRFinder", "lr_find"]

_REACH = 3.0
_LEFT_OUT = 5  # rates at the begin, where a mean of losses is not yet one


class LRFinder(Callback):
    """Trains a few batches with a rate that grows from min_lr to max_lr, and tells the losses (Smith 2017).

    As a callback it does so before the first epoch of a fit, on its rows; `lr_find` does so at once.
    Parameters, buffers, optimizer state and step of the trainer are afterwards what they were; the rate that
    its optimizer names plays no part. `fastnn.plots.learning_rates` draws what was found.

    Parameters
    ----------
    min_lr, max_lr : float
        Rates between lie at equal ratios.
    steps : int
        How many rates; at least 2.
    smoothing : float
        From 0 to below 1: of the mean of losses.
    stop_factor : float
        Above 1: ends when the smoothed loss is so many times the least so far, or a loss is not finite.
    use : bool
        As a callback: whether the fit then begins with the suggestion, where there is one. It changes
        `trainer.rate_factor`, so that a schedule goes on from there.

    Attributes
    ----------
    rates : ndarray (n,)
        Tried, each larger than the one before; empty before the search.
    losses : ndarray (n,)
        Of the batch that was then trained at that rate, before its step; NaN for one without weight.
    smoothed : ndarray (n,)
        Exponential mean of the losses, corrected for its beginning.
    suggestion : float or None
        The rate at which the smoothed loss falls steepest over the logarithm of the rate; None: it never
        falls.

    Examples
    --------
    >>> import fastnn as fn, numpy as np
    >>> x = np.linspace(-1, 1, 64).reshape(-1, 1)
    >>> trainer = fn.Trainer(fn.Sequential(fn.Dense(1)), loss="mse", optimizer="sgd", seed=0)
    >>> finder = fn.LRFinder(use=True)
    >>> history = trainer.fit(x, 3 * x[:, 0], callbacks=[finder])
    >>> trainer.lr == finder.suggestion
    True
    """

    def __init__(
        self,
        min_lr: float = 1e-7,
        max_lr: float = 10.0,
        steps: int = 100,
        smoothing: float = 0.9,
        stop_factor: float = 4.0,
        use: bool = False,
    ) -> None:
        self.min_lr, self.max_lr = errors.real("min_lr", min_lr), errors.real("max_lr", max_lr)
        if not 0.0 < self.min_lr < self.max_lr:
            raise ValueError(f"min_lr must be above 0 and below max_lr, got {min_lr!r} and {max_lr!r}")
        self.steps = errors.integer("steps", steps, 2)
        self.smoothing = errors.real("smoothing", smoothing, 0.0, 1.0)
        self.stop_factor = errors.real("stop_factor", stop_factor)
        if self.stop_factor <= 1.0:
            raise ValueError(f"stop_factor must be above 1, got {stop_factor!r}")
        self.use = errors.flag("use", use)
        self._found([], [], [])

    def _found(self, rates: Any, losses: Any, smoothed: Any) -> None:
        self.rates: NDArray[np.float64] = np.array(rates, np.float64)
        self.losses: NDArray[np.float64] = np.array(losses, np.float64)
        self.smoothed: NDArray[np.float64] = np.array(smoothed, np.float64)
        self.suggestion = _steepest(self.rates, self.smoothed) if len(self.rates) else None

    def on_fit_begin(self, trainer: Any) -> None:
        if trainer._interrupted:  # it was done before the interruption
            return
        if trainer._fitted is None:  # an estimator's, which runs its steps itself
            raise ValueError("LRFinder needs Trainer.fit or fn.lr_find: an estimator has its own steps")
        sample, weights, batch_size = trainer._fitted
        if not isinstance(sample, Sample):
            raise ValueError("LRFinder needs arrays, got a Source; fn.lr_find takes some of its rows")
        _judge_optimizer(trainer)
        program = trainer._ready(sample.x.shape[1])
        self._search(trainer, program, sample.x, sample.y, weights, batch_size or len(sample), sample.rows)
        lr = trainer.lr
        if self.use and self.suggestion is not None and lr > 0:
            trainer.rate_factor *= self.suggestion / lr

    def state_dict(self) -> dict[str, Any]:
        return {"rates": self.rates, "losses": self.losses, "smoothed": self.smoothed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._found(state["rates"], state["losses"], state["smoothed"])

    def _search(
        self,
        trainer: Trainer,
        program: Any,
        matrix: NDArray[Any],
        targets: NDArray[Any],
        weights: NDArray[Any] | None,
        batch_size: int,
        rows: NDArray[Any] | None = None,
    ) -> None:
        """Fill the attributes from steps on shuffled batches of the rows, again and again."""
        kept = (
            trainer.model.parameters.copy(),
            _buffers(trainer),
            program.state.copy(),
            program.numbers.copy(),
        )
        step, n_rows = program.step, len(matrix) if rows is None else len(rows)
        low, ratio = self.min_lr, math.log(self.max_lr / self.min_lr)
        rates = np.array([low * math.exp(i / (self.steps - 1) * ratio) for i in range(self.steps)])
        losses: list[float] = []
        smoothed: list[float] = []
        mean, counted, order = 0.0, 0, np.empty((0, 0), np.int64)
        try:
            for i in range(self.steps):
                turn, at = divmod(i, len(order)) if len(order) else (0, 0)
                if at == 0:
                    order, _ = batches(trainer.seed, trainer.epoch + turn, n_rows, batch_size, True)
                    order = order if rows is None else rows[order]
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
                mean = self.smoothing * mean + (1 - self.smoothing) * losses[-1]
                smoothed.append(mean / (1 - self.smoothing**counted))
                if smoothed[-1] > self.stop_factor * np.nanmin(smoothed):
                    break
        finally:
            trainer.model.parameters = kept[0]
            if kept[1] is not None:
                trainer.model.buffers[...] = kept[1]
            devices.restore(program, kept[2], kept[3])
            program.step = step
        self._found(rates[: len(losses)], losses, smoothed)


def _judge_optimizer(trainer: Trainer) -> None:
    if trainer.optimizer.full_batch:
        raise ValueError(f"optimizer must take mini-batches, got {trainer.optimizer!r}")


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
    """What an `LRFinder` finds on these rows, which are taken in shuffled batches, again and again.

    Parameters
    ----------
    trainer : Trainer
        Its model is built where it is not.
    x, y, sample_weight : array_like
        As for `Trainer.fit`.
    min_lr, max_lr, steps, smoothing, stop_factor
        Of the `LRFinder`.
    batch_size : int

    Raises
    ------
    DivergenceError
        The very first loss is not finite.
    """
    if not hasattr(trainer, "optimizer"):
        raise TypeError(f"trainer must be a Trainer, got {type(trainer).__name__}")
    found = LRFinder(min_lr, max_lr, steps, smoothing, stop_factor)
    batch_size = errors.integer("batch_size", batch_size)
    _judge_optimizer(trainer)
    matrix, targets, weights, _ = trainer._task.judged(x, y, sample_weight)
    found._search(trainer, trainer._ready(matrix.shape[1]), matrix, targets, weights, batch_size)
    return found


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
