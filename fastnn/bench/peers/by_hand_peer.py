"""NumPy as a careful hand writes it, all in place: `fastnn.demo.NumpyNetwork`."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from fastnn.demo import NumpyNetwork

from ..cells import LR, Array
from . import Task


def network(task: Task, dtype: str = "float32") -> NumpyNetwork:
    """The network of a task with its parameters; in float64 it is the reference of all peers."""
    cell = task.cell
    made = NumpyNetwork(cell.sizes, loss=cell.loss, batch=cell.batch, lr=LR, dtype=dtype)
    made.parameters[:] = task.parameters
    return made


class Trained:
    """The loop over the rows of an order in Python."""

    def __init__(self, task: Task) -> None:
        self._network, self._x, self._y = network(task), task.x, task.y

    def train(self, order: Array) -> None:
        """The steps of order."""
        self._network.run(self._x, self._y, order)

    def parameters(self) -> Array:
        """Flat."""
        return self._network.parameters


class Predicted:
    """Into arrays made once."""

    link = None

    def __init__(self, task: Task) -> None:
        made, x = network(task), task.x
        self.predict = partial(made.predict, x)

    def outputs(self, result: Any) -> Array:
        """As an array."""
        return np.asarray(result)


WAYS_TO_TRAIN = {"in place": Trained}
WAYS_TO_PREDICT = {"in place": Predicted}


def about(threads: int) -> dict[str, str]:
    """Version."""
    return {"numpy": np.__version__}
