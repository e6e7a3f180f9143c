"""fastnn itself, as a user calls it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import fastnn as fn

from ..cells import LR, Array
from ..limits import fma_peak, read_rate
from . import Task


def _model(task: Task) -> fn.Sequential:
    sizes = task.cell.sizes
    hidden = [fn.Dense(units, activation="relu") for units in sizes[1:-1]]
    model = fn.Sequential(*hidden, fn.Dense(sizes[-1])).build(sizes[0])
    model.parameters[:] = task.parameters
    return model


class Trained:
    """`Trainer.run` on an order."""

    def __init__(self, task: Task) -> None:
        optimizer: Any = fn.SGD(lr=LR) if task.cell.optimizer == "sgd" else fn.Adam(lr=LR / 10)
        self._trainer = fn.Trainer(_model(task), loss=task.cell.loss, optimizer=optimizer, seed=0)
        self._x, self._y = task.x, task.y

    def train(self, order: Array) -> None:
        """The steps of order."""
        self._trainer.run(self._x, self._y, order)

    def parameters(self) -> Array:
        """Flat."""
        return self._trainer.model.parameters


class Handle:
    """The compiled handle, writing into a given array."""

    link = None

    def __init__(self, task: Task) -> None:
        handle = _model(task).compile()
        x, out = task.x, np.empty((len(task.x), task.cell.sizes[-1]), np.float32)
        self.predict = partial(handle, x, out)

    def outputs(self, result: Any) -> Array:
        """As an array."""
        return np.asarray(result)


class Method:
    """`model.predict`, which gives a new array."""

    link = None

    def __init__(self, task: Task) -> None:
        model, x = _model(task), task.x
        self.predict = partial(model.predict, x)

    def outputs(self, result: Any) -> Array:
        """As an array."""
        return np.asarray(result)


WAYS_TO_TRAIN = {"run": Trained}
WAYS_TO_PREDICT = {"handle": Handle, "model.predict": Method}


def about(threads: int) -> dict[str, str]:
    """Version, and what it runs with."""
    fn.set_num_threads(threads)
    found = fn.show_config(mode="dict")
    return {"fastnn": f"{found['version']} ({found['isa']}, {found['compiler']})"}


def peak(threads: int, seconds: float) -> float:
    """FLOP/s of FMAs in float32."""
    return fma_peak(seconds, threads)


def memory(threads: int, seconds: float) -> float:
    """Bytes a second read from memory."""
    return read_rate(seconds, threads)
