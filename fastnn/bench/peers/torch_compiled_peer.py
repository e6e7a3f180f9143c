"""PyTorch with `torch.compile`: a whole step is one graph, gather, gradient and update in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch._inductor import config as inductor
from torch.nn import functional

from ..cells import LR, Array, arrays_of
from . import Task
from .torch_eager_peer import about, flat, model

__all__ = ["WAYS_TO_PREDICT", "WAYS_TO_TRAIN", "about"]


class Trained:
    """One call a step; weights are updated in place."""

    def __init__(self, task: Task) -> None:
        views = arrays_of(task.cell, task.parameters)
        self._weights = [torch.from_numpy(one.T.copy()) for pair in views for one in pair]
        self._x, self._y = torch.from_numpy(task.x), torch.from_numpy(task.y)
        loss_of: Any = functional.mse_loss if task.cell.loss == "mse" else functional.cross_entropy

        def loss(weights: Any, x: Any, y: Any) -> Any:
            last = len(weights) - 2
            for i in range(0, last, 2):
                x = functional.linear(x, weights[i], weights[i + 1]).relu()
            return loss_of(functional.linear(x, weights[last], weights[last + 1]), y)

        gradient = torch.func.grad(loss)

        def step(weights: Any, x: Any, y: Any, rows: Any) -> None:
            for w, g in zip(weights, gradient(weights, x[rows], y[rows]), strict=True):
                w.sub_(g, alpha=LR)

        torch.compiler.reset()
        self._step = torch.compile(step, dynamic=False, fullgraph=True)

    def train(self, order: Array) -> None:
        """The steps of order."""
        step, weights, x, y = self._step, self._weights, self._x, self._y
        with torch.no_grad():
            for rows in torch.from_numpy(order):
                step(weights, x, y, rows)

    def parameters(self) -> Array:
        """Flat."""
        return flat(self._weights)


class Predicted:
    """Weights frozen into the graph, which packs them for its products."""

    link = None

    def __init__(self, task: Task) -> None:
        torch.compiler.reset()
        inductor.freezing = True
        network, x = torch.compile(model(task).eval(), dynamic=False), torch.from_numpy(task.x)

        def predict() -> Any:
            with torch.no_grad():
                return network(x)

        predict()  # compiles
        self.predict = predict

    def outputs(self, result: Any) -> Array:
        """As an array."""
        return np.asarray(result.numpy())


WAYS_TO_TRAIN = {"compiled step": Trained}
WAYS_TO_PREDICT = {"frozen": Predicted}
