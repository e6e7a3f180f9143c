"""Averages of the weights over epochs."""

from __future__ import annotations

from typing import Any

from . import errors
from .callbacks import Callback

__all__ = ["WeightAverage"]


class WeightAverage(Callback):
    """Stochastic weight averaging: the model gets the mean of its weights at the ends of epochs.

    Izmailov et al. (2018), PyTorch's ``AveragedModel`` with equal weights: ``mean += (w - mean) / (n + 1)``.
    For an average by step see `ema` of the optimizers. Buffers, as running statistics, are not averaged.

    Parameters
    ----------
    start : int
        The first epoch that counts, from 1; epochs count on over fits.
    replace : bool
        Whether the model has the mean as its weights after the fit, however that ended.

    Attributes
    ----------
    parameters : ndarray (n_parameters,) or None
        The mean; None before the first epoch that counts.
    n_averaged : int
        Epochs in it.
    """

    def __init__(self, start: int = 1, replace: bool = True) -> None:
        self.start = errors.integer("start", start)
        self.replace = errors.flag("replace", replace)
        self.n_averaged = 0
        self.parameters: Any = None
        self._trainer: Any = None

    def on_fit_begin(self, trainer: Any) -> None:
        self.n_averaged, self.parameters, self._trainer = 0, None, trainer

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        if epoch < self.start:
            return
        w = trainer.model.parameters
        if self.parameters is None:
            self.parameters = w.copy()
        else:
            self.parameters += (w - self.parameters) / (self.n_averaged + 1)
        self.n_averaged += 1

    def on_fit_end(self, trainer: Any) -> None:
        if self.replace and self.parameters is not None:
            trainer.model.parameters = self.parameters
        self._trainer = None

    def state_dict(self) -> dict[str, Any]:
        return {"n_averaged": self.n_averaged, "parameters": self.parameters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.n_averaged, self.parameters = state["n_averaged"], state["parameters"]
