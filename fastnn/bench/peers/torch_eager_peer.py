"""PyTorch, one call of Python for each operation: `nn.Sequential`, its loss, `backward`, its SGD."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..cells import LR, Array, arrays_of
from . import Task


def model(task: Task) -> Any:
    """The network with the parameters of the task; its weights are (n_out, n_in)."""
    pairs = task.cell.pairs
    layers: list[Any] = []
    for (n_in, n_out), (w, b) in zip(pairs, arrays_of(task.cell, task.parameters), strict=True):
        layer = torch.nn.Linear(n_in, n_out)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(w.T))
            layer.bias.copy_(torch.from_numpy(b))
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def flat(weights: Any) -> Array:
    """Weights (n_out, n_in) and biases in turn, as fastnn lays them out."""
    return np.concatenate([one.detach().numpy().T.ravel() for one in weights])


class Trained:
    """The loop that the tutorials show, on tensors that lie in memory."""

    fused: Any = None

    def __init__(self, task: Task) -> None:
        self._model = model(task)
        parameters = self._model.parameters()
        if task.cell.optimizer == "sgd":
            self._optimizer: Any = torch.optim.SGD(parameters, lr=LR, fused=self.fused)
        else:
            self._optimizer = torch.optim.Adam(parameters, lr=LR / 10, fused=self.fused)
        self._x, self._y = torch.from_numpy(task.x), torch.from_numpy(task.y)
        self._loss: Any = functional.mse_loss if task.cell.loss == "mse" else functional.cross_entropy

    def train(self, order: Array) -> None:
        """The steps of order."""
        network, optimizer, loss, x, y = self._model, self._optimizer, self._loss, self._x, self._y
        for rows in torch.from_numpy(order):
            optimizer.zero_grad()
            loss(network(x[rows]), y[rows]).backward()
            optimizer.step()

    def parameters(self) -> Array:
        """Flat."""
        return flat(self._model.parameters())


class TrainedFused(Trained):
    """With the optimizer's update in one call."""

    fused = True


class Predicted:
    """In inference mode, tensor in and tensor out."""

    link = None

    def __init__(self, task: Task) -> None:
        network, x = model(task).eval(), torch.from_numpy(task.x)

        def predict() -> Any:
            with torch.inference_mode():
                return network(x)

        self.predict = predict

    def outputs(self, result: Any) -> Array:
        """As an array."""
        return np.asarray(result.numpy())


WAYS_TO_TRAIN = {"SGD": Trained, "fused SGD": TrainedFused}
WAYS_TO_PREDICT = {"nn.Sequential": Predicted}


def about(threads: int) -> dict[str, str]:
    """Version; its threads are set."""
    torch.set_num_threads(threads)
    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": f"{torch.__version__} ({capability}, MKL {torch.backends.mkl.is_available()})"}
