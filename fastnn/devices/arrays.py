"""The array program: a network as plain array code, written once over an array module `xp`.

With NumPy it is the reference that every compiled result is compared with, and the baseline of the
benchmarks: so it is plain, but allocates nothing large in a step and works in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..errors import DivergenceError
from ..layers import Step, Table, n_parameters
from ..optimizers import SGD, Optimizer
from .array_activations import ACTIVATIONS, SLOPES
from .array_losses import LOSSES
from .array_optimizers import OPTIMIZERS
from .array_random import dropout_mask

__all__ = ["ArrayProgram", "make"]

Array = NDArray[Any]

# ---------------------------------------------------------------- embeddings


def _codes(xp: Any, x: Array, table: Table) -> tuple[Array, Array, Array]:
    """Row of the table for each row of x; which rows name one; which hold no whole number."""
    code = x[:, table.column]
    whole = code == xp.floor(code)  # NaN is none, infinities are
    whole &= xp.isfinite(code)
    known = whole & (code >= 0) & (code < table.n_categories)
    return xp.where(known, code, 0).astype(xp.int64), known, ~whole


def _embed(xp: Any, s: Step, parameters: Array, x: Array, out: Array) -> None:
    kept = [j for j in range(s.n_in) if all(j != table.column for table in s.tables)]
    out[:, : len(kept)] = x[:, kept]
    for table in s.tables:
        row, known, broken = _codes(xp, x, table)
        end = table.weight + table.n_categories * table.width
        numbers = parameters[table.weight : end].reshape(table.n_categories, table.width)[row]
        numbers[~known] = 0
        numbers[broken] = xp.nan
        out[:, table.out : table.out + table.width] = numbers


def _embed_backward(xp: Any, s: Step, x: Array, da: Array, gradient: Array) -> None:
    for table in s.tables:
        row, known, _ = _codes(xp, x, table)
        end = table.weight + table.n_categories * table.width
        g = gradient[table.weight : end].reshape(table.n_categories, table.width)
        g[...] = 0
        xp.add.at(g, row[known], da[known, table.out : table.out + table.width])


# ---------------------------------------------------------------- the program

# Rows that are predicted at once: large enough for the products to be at speed, small enough that the
# numbers between two layers stay in the second-level cache of most machines.
_PREDICT_ROWS = 1024


class _Workspace:
    """Arrays of one batch size: what each step gives, its gradient, and masks."""

    def __init__(self, xp: Any, steps: tuple[Step, ...], n_rows: int, dtype: Any) -> None:
        n_out = steps[-1].n_out
        self.x = xp.empty((n_rows, steps[0].n_in), dtype)
        self.outputs = [xp.empty((n_rows, s.n_out), dtype) for s in steps]
        both = list(zip(steps, self.outputs, strict=True))
        self.gradients = [xp.empty((n_rows, s.n_in), dtype) for s in steps]
        # what the derivative of each activation is computed from
        self.kept = [xp.empty_like(a) if s.activation in SLOPES else a for s, a in both]
        self.masks: list[Any] = [xp.empty_like(a) if s.kind == "dropout" else None for s, a in both]
        self.dz = xp.empty((n_rows, n_out), dtype)


class ArrayProgram:
    """A network as array code; the face of `fastnn.devices.Program`.

    Parameters
    ----------
    steps : tuple of Step
    parameters : ndarray (n,)
        The flat block, trained in place; elements after the last parameter are left alone.
    loss : str, optional
        Name of the loss; None where the program only predicts.
    optimizer : SGD or Adam, optional
    seed : int
        Key of the dropout masks.
    xp : module
        NumPy, or a module with its face.
    """

    def __init__(
        self,
        steps: tuple[Step, ...],
        parameters: Array,
        *,
        loss: str | None = None,
        optimizer: Optimizer | None = None,
        seed: int = 0,
        xp: Any = np,
    ) -> None:
        self.xp = xp
        self.steps = steps
        self.step = 0
        self._parameters = parameters = parameters[: n_parameters(steps)]
        self._loss = LOSSES[loss] if loss is not None else None
        self._optimizer = optimizer
        self._seed = seed
        n_states = kernels.OPTIMIZERS[optimizer.name] if optimizer is not None else 0
        if isinstance(optimizer, SGD) and not optimizer.momentum:
            n_states = 0
        self.state: Array = xp.zeros((n_states, len(parameters)), parameters.dtype)
        self._gradient: Array = xp.zeros_like(parameters)
        self._views = self._split(parameters)
        self._gradient_views = self._split(self._gradient)
        self._spaces: dict[int, _Workspace] = {}
        # Nothing below the first weights needs a gradient.
        self._first = next((i for i, s in enumerate(steps) if s.n_parameters), len(steps))

    def _split(self, block: Array) -> list[tuple[Any, Any]]:
        """Weight and bias of each step as views of a flat block, None where there are none."""
        views: list[tuple[Any, Any]] = []
        for s in self.steps:
            w = (
                block[s.weight : s.weight + s.n_in * s.n_out].reshape(s.n_in, s.n_out)
                if s.weight >= 0
                else None
            )
            views.append((w, block[s.bias : s.bias + s.n_out] if s.bias >= 0 else None))
        return views

    def _space(self, n_rows: int) -> _Workspace:
        """The arrays for a batch size; the two last used are kept (whole batches and the ragged rest)."""
        space = self._spaces.pop(n_rows, None) or _Workspace(
            self.xp, self.steps, n_rows, self._parameters.dtype
        )
        while len(self._spaces) > 1:
            del self._spaces[next(iter(self._spaces))]
        self._spaces[n_rows] = space
        return space

    def _forward(self, x: Array, space: _Workspace, dropout_step: int | None) -> Array:
        """What the last step gives; all outputs stay in the workspace. Dropout is off for None."""
        xp, a = self.xp, x
        if x.dtype != self._parameters.dtype and self.steps[0].kind != "scale":
            space.x[...] = x  # bytes
            a = space.x
        for i, (s, (w, b)) in enumerate(zip(self.steps, self._views, strict=True)):
            out = space.outputs[i]
            if s.kind == "dense":
                xp.matmul(a, w, out=out)
                if b is not None:
                    out += b
                self._activate(s, out, space.kept[i])
            elif s.kind == "scale":
                # as the first step it takes bytes too
                out[...] = a
                out *= s.factor
                out += s.shift
            elif s.kind == "embedding":
                _embed(xp, s, self._parameters, a, out)
            elif s.kind == "activation":
                out[...] = a
                self._activate(s, out, space.kept[i])
            elif dropout_step is None:
                out[...] = a
            else:
                dropout_mask(xp, self._seed, dropout_step, s.layer, s.rate, space.masks[i])
                xp.multiply(a, space.masks[i], out=out)
            a = out
        return a

    def _activate(self, s: Step, z: Array, kept: Array) -> None:
        """Change z into f(z), and keep f'(z) where that does not tell it."""
        if s.activation in SLOPES:
            kept[...] = SLOPES[s.activation](self.xp, z)
        ACTIVATIONS[s.activation][0](self.xp, z)

    def _backward(self, x: Array, space: _Workspace, dropout: bool) -> None:
        """Fill the flat gradient from space.dz, the gradient of what the last step gives; changes it."""
        xp, da = self.xp, space.dz
        for i in range(len(self.steps) - 1, self._first - 1, -1):
            s, (w, _), (dw, db) = self.steps[i], self._views[i], self._gradient_views[i]
            if s.kind == "dropout":
                if dropout:
                    da *= space.masks[i]
                continue
            if s.kind == "scale":
                da *= s.factor
                continue
            if s.kind == "embedding":
                _embed_backward(xp, s, space.outputs[i - 1] if i else x, da, self._gradient)
                continue
            ACTIVATIONS[s.activation][1](xp, space.kept[i], da)
            if s.kind == "dense":
                xp.matmul((space.outputs[i - 1] if i else x).T, da, out=dw)
                if db is not None:
                    xp.sum(da, axis=0, out=db)
                if i > self._first:
                    da = xp.matmul(da, w.T, out=space.gradients[i])

    def _losses(self, x: Array, y: Array, space: _Workspace, dropout_step: int | None) -> Array:
        """Loss of each row, float64, and space.dz its gradient at what the last step gives."""
        assert self._loss is not None
        # A saturated activation would hide an infinity in x from the loss, and the gradient be NaN.
        if x.dtype.kind == "f" and not bool(self.xp.isfinite(x).all()):
            raise DivergenceError(layer=-1)
        z = self._forward(x, space, dropout_step)
        losses: Array = self._loss(self.xp, z, y, space.dz).astype(np.float64)
        if not bool(self.xp.isfinite(losses).all()):  # of rows without weight too
            raise DivergenceError(layer=self._first_not_finite(x, space))
        return losses

    def _first_not_finite(self, x: Array, space: _Workspace) -> int | None:
        """Layer whose output is the first with a NaN or Inf; -1 for x; None for none."""
        if not bool(self.xp.isfinite(x).all()):
            return -1
        outputs = zip(self.steps, space.outputs, strict=True)
        return next((s.layer for s, out in outputs if not bool(self.xp.isfinite(out).all())), None)

    def _batch(
        self, x: Array, y: Array, weight: Array | None, dropout_step: int | None
    ) -> tuple[float, float]:
        """Forward, loss and backward of one batch: sums of weight * loss and of weights."""
        space = self._space(len(x))
        losses = self._losses(x, y, space, dropout_step)
        if weight is None:
            space.dz *= 1 / len(x)
            self._backward(x, space, dropout_step is not None)
            return float(losses.sum()), float(len(x))
        total = float(weight.sum())
        if total == 0.0:
            self._gradient[...] = 0
            return 0.0, 0.0
        space.dz *= (weight / total).astype(space.dz.dtype)[:, None]
        self._backward(x, space, dropout_step is not None)
        return float((weight * losses).sum()), total

    def run(
        self, x: Array, y: Array, order: Array, rates: NDArray[np.float64], sample_weight: Array | None = None
    ) -> tuple[float, float]:
        """One optimizer step for each row of order; gives the sums of weight * loss and of weights."""
        o, w, g = self._optimizer, self._parameters, self._gradient
        assert o is not None
        loss_sum = weight_sum = 0.0
        # A loss that overflows is an answer here, not an accident: it is looked at in _losses.
        with np.errstate(all="ignore"):
            for i, rows in enumerate(order):
                batch = self._space(len(rows)).x
                # Row numbers are judged already, and mode="raise" would go through a second buffer.
                if x.dtype == batch.dtype:
                    self.xp.take(x, rows, axis=0, out=batch, mode="clip")
                else:
                    batch[...] = x[rows]
                weight = None if sample_weight is None else sample_weight[rows]
                try:
                    loss, total = self._batch(batch, y[rows], weight, self.step)
                except DivergenceError as error:
                    error.step_in_call, error.loss_sum, error.weight_sum = i, loss_sum, weight_sum
                    raise
                OPTIMIZERS[o.name](self.xp, o, w, g, self.state, float(rates[i]), self.step + 1)
                self.step += 1
                loss_sum += loss
                weight_sum += total
        return loss_sum, weight_sum

    def gradient(
        self, x: Array, y: Array, sample_weight: Array | None = None, dropout_step: int | None = None
    ) -> tuple[float, Array]:
        """Mean loss and its flat gradient, all rows being one batch; no dropout unless a step is named."""
        with np.errstate(all="ignore"):
            loss_sum, weight_sum = self._batch(x, y, sample_weight, dropout_step)
        self._spaces.clear()  # all rows at once may be large
        return (loss_sum / weight_sum if weight_sum else 0.0), self._gradient.copy()

    def loss(self, x: Array, y: Array, sample_weight: Array | None = None) -> float:
        """Mean loss of all rows without dropout."""
        with np.errstate(all="ignore"):
            losses = self._losses(x, y, self._space(len(x)), None)
        self._spaces.clear()
        return float(np.average(losses, weights=sample_weight))

    def predict(self, x: Array, out: Array) -> Array:
        """Fill out (rows, n_out) with what the last layer gives, and return it."""
        with np.errstate(all="ignore"):
            for first in range(0, len(x), _PREDICT_ROWS):
                rows = x[first : first + _PREDICT_ROWS]
                out[first : first + len(rows)] = self._forward(rows, self._space(len(rows)), None)
        return out


def make(
    steps: tuple[Step, ...],
    parameters: Array,
    *,
    loss: str | None = None,
    optimizer: Optimizer | None = None,
    seed: int = 0,
) -> ArrayProgram:
    """The array program of a network with NumPy."""
    return ArrayProgram(steps, parameters, loss=loss, optimizer=optimizer, seed=seed)
