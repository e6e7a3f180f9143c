"""JAX on the CPU: the steps of an order as one compiled `lax.scan`, or one compiled step called in a loop."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..cells import LR, Array, Cell, arrays_of
from . import Task

# About 50 µs: below, only scans are tried, above also a call for each step.
FEW_FLOPS = 5e6


def _forward(weights: Any, x: Any) -> Any:
    for w, b in weights[:-1]:
        x = jnp.maximum(x @ w + b, 0)
    w, b = weights[-1]
    return x @ w + b


def _loss(weights: Any, x: Any, y: Any, regression: bool) -> Any:
    z = _forward(weights, x)
    if regression:
        return jnp.mean((z - y) ** 2)
    chosen = jnp.take_along_axis(z, y[:, None], axis=1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(z, axis=1) - chosen)


def _step(weights: Any, x: Any, y: Any, rows: Any, regression: bool) -> Any:
    gradient = jax.grad(_loss)(weights, x[rows], y[rows], regression)
    return jax.tree.map(lambda w, g: w - LR * g, weights, gradient)


@functools.partial(jax.jit, static_argnums=(4, 5), donate_argnums=0)
def _scan(weights: Any, x: Any, y: Any, order: Any, regression: bool, unroll: int) -> Any:
    def body(carried: Any, rows: Any) -> Any:
        return _step(carried, x, y, rows, regression), None

    return jax.lax.scan(body, weights, order, unroll=unroll)[0]


_one_step = functools.partial(jax.jit, static_argnums=4, donate_argnums=0)(_step)


class Scanned:
    """All steps in one call; buffers are donated."""

    unroll = 1

    def __init__(self, task: Task) -> None:
        views = arrays_of(task.cell, task.parameters)
        self._weights = [(jnp.array(w), jnp.array(b)) for w, b in views]
        self._x, self._y = jnp.array(task.x), jnp.array(task.y)
        self._regression = task.cell.loss == "mse"
        self._order: tuple[Any, Any] = (None, None)

    def train(self, order: Array) -> None:
        """The steps of order."""
        if order is not self._order[0]:
            self._order = order, jnp.array(order.astype(np.int32))
        self._weights = self._run(self._order[1])
        jax.block_until_ready(self._weights)

    def _run(self, order: Any) -> Any:
        return _scan(self._weights, self._x, self._y, order, self._regression, self.unroll)

    def parameters(self) -> Array:
        """Flat."""
        return np.concatenate([np.asarray(one).ravel() for pair in self._weights for one in pair])


class ScannedUnrolled(Scanned):
    """Four steps in one turn of the loop."""

    unroll = 4

    @staticmethod
    def suits(cell: Cell) -> bool:
        """Where the loop itself is a visible share."""
        return cell.flops < FEW_FLOPS


class Stepped(Scanned):
    """One call a step: outside of a loop its products may use all threads."""

    @staticmethod
    def suits(cell: Cell) -> bool:
        """Where a call of 30 µs may pay."""
        return cell.flops >= FEW_FLOPS

    def _run(self, order: Any) -> Any:
        weights = self._weights
        for rows in order:
            weights = _one_step(weights, self._x, self._y, rows, self._regression)
        return weights


class Predicted:
    """A jitted function, arrays of its own in and out."""

    link = None

    def __init__(self, task: Task) -> None:
        weights = [(jnp.array(w), jnp.array(b)) for w, b in arrays_of(task.cell, task.parameters)]
        x = jnp.array(task.x)
        call = jax.jit(_forward).lower(weights, x).compile()
        self.predict = lambda: call(weights, x).block_until_ready()

    def outputs(self, result: Any) -> Array:
        """As an array."""
        return np.asarray(result)


WAYS_TO_TRAIN = {"scan": Scanned, "scan, 4 unrolled": ScannedUnrolled, "step": Stepped}
WAYS_TO_PREDICT = {"jit": Predicted}


def about(threads: int) -> dict[str, str]:
    """Version; its threads follow the affinity that the process was started with."""
    jax.config.update("jax_platforms", "cpu")
    return {"jax": jax.__version__}
