"""Numba by hand: the whole epoch is one compiled function, with loops alone or with `np.dot`."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

import numba
import numpy as np
import scipy

from ..cells import Array, Cell, arrays_of
from . import Task, numba_source

# Above, plain loops took 1.7 to 5 times as long as a BLAS in every cell.
LOOP_FLOPS = 0.3e6


def _compiled(source: str, name: str, **constants: Array) -> Any:
    space = {"np": np, "math": math, **constants}
    exec(compile(source, f"<{name}>", "exec"), space)
    # fastmath lets sums run in vectors and products fuse; error_model="numpy" drops checks of divisors.
    return numba.njit(space[name], fastmath=True, error_model="numpy", nogil=True)


def _empty(shapes: list[tuple[int, int]]) -> list[Array]:
    return [np.empty(shape, np.float32) for shape in shapes]


class Looped:
    """Loops alone, on one thread."""

    dots = False

    @staticmethod
    def suits(cell: Cell) -> bool:
        """Only where a BLAS has no chance to win by more than its call costs."""
        return cell.flops <= LOOP_FLOPS

    def __init__(self, task: Task) -> None:
        cell = task.cell
        self._flat = task.parameters.copy()
        weights = [one for pair in arrays_of(cell, self._flat) for one in pair]
        widths = [(cell.batch, n_out) for _, n_out in cell.pairs]
        gradients = _empty(cell.pairs if self.dots else [(1, n_out) for _, n_out in cell.pairs])
        inner = [*_empty(widths), *_empty(widths), *gradients, *_empty([(cell.batch, cell.sizes[0])])]
        self._arrays = [*weights, *inner]
        self._x, self._y = task.x, task.y
        self._epoch = _compiled(numba_source.epoch(cell, self.dots), "epoch")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", numba.NumbaPerformanceWarning)
            self.train(np.zeros((0, cell.batch), np.int64))  # compiles

    def train(self, order: Array) -> None:
        """The steps of order."""
        self._epoch(self._x, self._y, order, *self._arrays)

    def parameters(self) -> Array:
        """Flat."""
        return self._flat


class Dotted(Looped):
    """Products by SciPy's BLAS, on as many threads as it was given."""

    dots = True

    @staticmethod
    def suits(cell: Cell) -> bool:
        """Everywhere."""
        return True


class PredictedByLoops:
    """Loops alone, into an array made once."""

    link = None
    dots = False

    @staticmethod
    def suits(cell: Cell) -> bool:
        """As in training."""
        return cell.flops <= LOOP_FLOPS

    def __init__(self, task: Task) -> None:
        cell, x = task.cell, task.x
        arrays = _empty([(cell.batch, n_out) for _, n_out in cell.pairs])
        pairs = enumerate(arrays_of(cell, task.parameters))
        constants = {
            f"{name}{i}": one.copy() for i, pair in pairs for name, one in zip("wb", pair, strict=True)
        }
        call = _compiled(numba_source.forward(cell, self.dots), "forward", **constants)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", numba.NumbaPerformanceWarning)
            call(x, *arrays)  # compiles
        self._out = arrays[-1]
        self.predict = partial(call, x, *arrays)

    def outputs(self, result: Any) -> Array:
        """As an array."""
        return self._out


class PredictedByDots(PredictedByLoops):
    """Products by SciPy's BLAS."""

    dots = True

    @staticmethod
    def suits(cell: Cell) -> bool:
        """Everywhere."""
        return True


WAYS_TO_TRAIN = {"loops": Looped, "np.dot": Dotted}
WAYS_TO_PREDICT = {"loops": PredictedByLoops, "np.dot": PredictedByDots}


def about(threads: int) -> dict[str, str]:
    """Versions."""
    return {"numba": numba.__version__, "scipy": scipy.__version__}
