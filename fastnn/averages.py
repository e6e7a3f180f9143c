"""Averages of the weights over epochs."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import devices, errors, optimizers
from .callbacks import Callback

if TYPE_CHECKING:
    from .network import Sequential

__all__ = ["WeightAverage", "update_statistics"]


def update_statistics(model: Sequential, x: Any, *, batch_size: int = 256, seed: int = 0) -> None:
    """Compute a model's running statistics anew, as PyTorch's ``update_bn`` does.

    Parameters
    ----------
    model : Sequential
        A built model; its parameters stay, `model.buffers` change. One without BatchNorm is left as it is.
    x : array_like (n, n_in)
        The rows that it was trained on, in an order without pattern.
    batch_size : int
        Rows whose mean and variance are taken at a time, dropout and noise on as in training; the
        running statistics become the mean over the batches. A last batch of one row is left out.
    seed : int
        Of dropout and noise.

    Raises
    ------
    ValueError
        x is of another width, or has fewer than two rows.
    DivergenceError
        A result of the last layer is not finite. `model.buffers` are as before.
    """
    model._require()
    n_rows_of_batch = errors.integer("batch_size", batch_size, minimum=2)
    seed = errors.seed("seed", seed)
    buffers = model.buffers
    if not len(buffers):
        return
    x = errors.matrix("x", x, model.n_in, model.dtype)
    if len(x) < 2:
        raise ValueError(f"x must have at least 2 rows, got {len(x)}")
    # A momentum of 1 stores each batch's own statistics; a rate of 0 keeps the (copied) parameters.
    steps = tuple(replace(s, momentum=1.0) if s.kind == "batch_norm" else s for s in model.steps)
    of_batch = np.zeros_like(buffers)
    program = devices.make(
        "cpu",
        steps,
        copy.deepcopy(model)._block,  # type: ignore[arg-type]
        loss="mse",
        optimizer=optimizers.SGD(),
        seed=seed,
        buffers=of_batch,
    )
    y = np.zeros((len(x), steps[-1].n_out), model.dtype)
    mean = np.zeros(len(buffers))
    for n_before, begin in enumerate(range(0, len(x) - 1, n_rows_of_batch)):
        of_batch[...] = 0
        rows = np.arange(begin, min(begin + n_rows_of_batch, len(x)))[None]
        program.run(x, y, rows, np.zeros(1))
        mean += (of_batch - mean) / (n_before + 1)
    for s in steps:
        if s.counted:
            mean[s.running + 2 * s.n_out] = n_before + 1
    model.buffers = mean


class WeightAverage(Callback):
    """Stochastic weight averaging: the model gets the mean of its weights at the ends of epochs.

    Izmailov et al. (2018), PyTorch's ``AveragedModel`` with equal weights: ``mean += (w - mean) / (n + 1)``.
    For an average by step see `ema` of the optimizers.

    Parameters
    ----------
    start : int
        The first epoch that counts, from 1; epochs count on over fits.
    replace : bool
        Whether the model has the mean as its weights after the fit, however that ended.
    use_buffers : bool
        Whether running statistics of BatchNorm are averaged too. Without it (PyTorch's default) the
        model has the last epoch's. `update_statistics` computes those of the averaged weights, after the fit.

    Attributes
    ----------
    parameters, buffers : ndarray or None
        The means; None before the first epoch that counts, and buffers without `use_buffers`.
    n_averaged : int
        Epochs in it.
    """

    def __init__(self, start: int = 1, replace: bool = True, use_buffers: bool = True) -> None:
        self.start = errors.integer("start", start)
        self.replace = errors.flag("replace", replace)
        self.use_buffers = errors.flag("use_buffers", use_buffers)
        self.n_averaged = 0
        self.parameters: Any = None
        self.buffers: Any = None
        self._trainer: Any = None

    def on_fit_begin(self, trainer: Any) -> None:
        self.n_averaged, self.parameters, self.buffers, self._trainer = 0, None, None, trainer

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        if epoch < self.start:
            return
        self.parameters = self._mean(self.parameters, trainer.model.parameters)
        if self.use_buffers:
            self.buffers = self._mean(self.buffers, trainer.model.buffers)
        self.n_averaged += 1

    def _mean(self, mean: Any, latest: Any) -> Any:
        return latest.copy() if mean is None else mean + (latest - mean) / (self.n_averaged + 1)

    def on_fit_end(self, trainer: Any) -> None:
        if self.replace and self.parameters is not None:
            trainer.model.parameters = self.parameters
            if self.buffers is not None:
                trainer.model.buffers = self.buffers
        self._trainer = None

    def state_dict(self) -> dict[str, Any]:
        return {"n_averaged": self.n_averaged, "parameters": self.parameters, "buffers": self.buffers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.n_averaged, self.parameters = state["n_averaged"], state["parameters"]
        self.buffers = state.get("buffers")
