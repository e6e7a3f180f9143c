"""The array program: a network as plain array code, written once over an array module `xp`.

With NumPy it is the reference that every compiled result is compared with, and the baseline of the
benchmarks: so it is plain, but allocates nothing large in a step and works in place.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import kernels, losses, targets
from ..errors import DivergenceError
from ..losses import Custom, Loss
from ..optimizers import Optimizer, with_momentum
from ..steps import Objective, Step, initial_buffers, n_parameters, sources_of
from . import array_optimizers
from .array_context import Context
from .array_layers import BACKWARD, FORWARD
from .array_losses import LOSSES, told_rows
from .array_norms import store_statistics

__all__ = ["ArrayProgram", "make"]

Array = NDArray[Any]

# Rows that are predicted at once: large enough for the products to be at speed, small enough that the
# numbers between two layers stay in the second-level cache of most machines.
_PREDICT_ROWS = 1024
_PREDICT_ROWS_ELSEWHERE = 16384  # of a card, which is idle between two calls


class _Workspace:
    """Arrays of one batch size: what each step gives, and what its forward leaves for its backward."""

    def __init__(self, xp: Any, steps: tuple[Step, ...], n_rows: int, dtype: Any) -> None:
        self.x = xp.empty((n_rows, steps[0].n_in), dtype)
        self.outputs = [xp.empty((n_rows, s.n_out), dtype) for s in steps]
        self.kept: list[dict[str, Any]] = [{} for _ in steps]
        self.dz = xp.empty((n_rows, steps[-1].n_out), dtype)

    def sources(self, i: int, step: Step, x: Any) -> list[Any]:
        """What a step reads."""
        return [self.outputs[j] if j >= 0 else x for j in sources_of(i, step)]


def _judge_objective(
    objective: Objective, loss: Loss | None, numbers: Mapping[str, Any], optimizer: Optimizer | None
) -> None:
    """Refuse what the compiled program refuses too."""
    if isinstance(loss, Custom):
        raise ValueError("objective must be None with a loss of your own")
    if (
        objective.l2
        and optimizer is not None
        and (array_optimizers.is_decoupled(optimizer) or optimizer.accumulate > 1)
    ):
        raise ValueError(
            f"l2 must be 0 with {optimizer!r}, which does not add decay to the gradient of a batch"
        )
    if loss is None or (objective.floor == -math.inf and objective.cap == math.inf):
        return
    if loss.name not in ("cross_entropy", "binary_cross_entropy") or numbers.get("each") is not None:
        raise ValueError(f"floor and cap must be infinite with {loss.name} or its weights, got {objective!r}")


class ArrayProgram:
    """A network as array code; the face of `fastnn.devices.Program`.

    Parameters
    ----------
    steps : tuple of Step
    parameters : ndarray (n,)
        The flat block, trained in place; elements after the last parameter are left alone.
    loss : str or Loss, optional
        None where the program only predicts.
    optimizer : Optimizer, optional
    seed : int
        Key of the dropout masks.
    buffers : ndarray, optional
        Running statistics, changed in place.
    objective : Objective, optional
        More than the mean loss of a batch.
    xp : module
        NumPy, or a module with its face.
    """

    def __init__(
        self,
        steps: tuple[Step, ...],
        parameters: Array,
        *,
        loss: str | Loss | None = None,
        optimizer: Optimizer | None = None,
        seed: int = 0,
        buffers: Array | None = None,
        objective: Objective | None = None,
        xp: Any = np,
    ) -> None:
        self.xp = xp
        self._on_host = getattr(xp, "asnumpy", np.array)
        # Row numbers are judged already, and NumPy's mode="raise" would go through a second buffer.
        self._take: dict[str, Any] = {"mode": "clip"} if xp is np else {}
        self._predict_rows = _PREDICT_ROWS if xp is np else _PREDICT_ROWS_ELSEWHERE
        self._objective = objective
        self.steps = steps
        self.step = 0
        self._parameters = parameters = parameters[: n_parameters(steps)]
        self._loss = losses.get(loss) if loss is not None else None
        self._numbers = dict(self._loss.numbers(steps[-1].n_out)) if self._loss is not None else {}
        if "each" in self._numbers:
            self._numbers["each"] = xp.asarray(self._numbers["each"])
        self._optimizer = optimizer
        self._seed = seed
        self._buffers: Array = initial_buffers(steps, parameters.dtype) if buffers is None else buffers
        self._rules = optimizer.rules(steps) if optimizer is not None else ()
        if objective is not None:
            _judge_objective(objective, self._loss, self._numbers, optimizer)
        n_rows, self.numbers = 0, np.zeros(0)
        if optimizer is not None:
            self._n_states = optimizer.n_states
            n_rows = self._n_states + (optimizer.accumulate > 1) + (optimizer.ema is not None)
            self.numbers = np.zeros(int(optimizer.accumulate > 1))
        self.state: Array = xp.zeros((n_rows, len(parameters)), parameters.dtype)
        if n_rows:
            self.state[: self._n_states] = getattr(optimizer, "initial_accumulator_value", 0.0)
        self._gradient: Array = xp.zeros_like(parameters)
        self._views = self._split(parameters)
        self._gradient_views = self._split(self._gradient)
        self._spaces: dict[int, _Workspace] = {}
        # What does not depend on parameters needs no gradient.
        self._trained: list[bool] = []
        for i, s in enumerate(steps):
            below = any(self._trained[j] for j in sources_of(i, s) if j >= 0)
            self._trained.append(s.n_parameters > 0 or below)

    def _split(self, block: Array) -> list[tuple[Any, Any]]:
        """Weight and bias of each step as views of a flat block, None where there are none."""
        views: list[tuple[Any, Any]] = []
        for s in self.steps:
            shape = s.weight_shape
            w = block[s.weight : s.weight + math.prod(shape)].reshape(shape) if s.weight >= 0 else None
            views.append((w, block[s.bias : s.bias + s.n_out] if s.bias >= 0 else None))
        return views

    def _context(self, i: int, space: _Workspace, dropout_step: int | None, statistics: bool) -> Context:
        """What step i works with."""
        steps = self.steps
        widths = [steps[j].n_out if j >= 0 else steps[0].n_in for j in sources_of(i, steps[i])]
        return Context(
            self.xp,
            self._parameters,
            self._gradient,
            *self._views[i],
            *self._gradient_views[i],
            space.kept[i],
            widths,
            self._buffers,
            statistics,
            self._seed,
            dropout_step,
        )

    def _space(self, n_rows: int) -> _Workspace:
        """The arrays for a batch size; the two last used are kept (whole batches and the ragged rest)."""
        space = self._spaces.pop(n_rows, None) or _Workspace(
            self.xp, self.steps, n_rows, self._parameters.dtype
        )
        while len(self._spaces) > 1:
            del self._spaces[next(iter(self._spaces))]
        self._spaces[n_rows] = space
        return space

    def _forward(
        self, x: Array, space: _Workspace, dropout_step: int | None, statistics: bool = False
    ) -> Array:
        """What the last step gives; all outputs stay in the workspace. Dropout is off for None."""
        if x.dtype != self._parameters.dtype and not (
            self.steps[0].kind == "scale" and all(-1 not in s.sources for s in self.steps)
        ):
            space.x[...] = x  # bytes
            x = space.x
        for i, s in enumerate(self.steps):
            context = self._context(i, space, dropout_step, statistics)
            FORWARD[s.kind](context, s, space.sources(i, s, x), space.outputs[i])
        result: Array = space.outputs[-1]
        return result

    def _backward(self, x: Array, space: _Workspace, dropout_step: int | None) -> None:
        """Fill the flat gradient from space.dz, the gradient of what the last step gives; changes it."""
        at: list[Any] = [None] * len(self.steps)
        at[-1] = space.dz
        for i in range(len(self.steps) - 1, -1, -1):
            s = self.steps[i]
            if not self._trained[i]:
                continue
            numbers = sources_of(i, s)
            wanted = [j >= 0 and self._trained[j] for j in numbers]
            context = self._context(i, space, dropout_step, True)
            given = BACKWARD[s.kind](context, s, space.sources(i, s, x), space.outputs[i], at[i], wanted)
            at[i] = None
            for j, is_wanted, gradient in zip(numbers, wanted, given, strict=True):
                if is_wanted and at[j] is None:
                    at[j] = gradient
                elif is_wanted:
                    at[j] += gradient

    def _losses(
        self,
        x: Array,
        y: Array,
        weight: Array | None,
        space: _Workspace,
        dropout_step: int | None,
        statistics: bool = True,
    ) -> tuple[float, float]:
        """Sums of weight * loss and of weights; space.dz is the gradient of the mean at the last output."""
        loss = self._loss
        assert loss is not None
        # A saturated activation would hide an infinity in x from the loss, and the gradient be NaN.
        if x.dtype.kind == "f" and not bool(self.xp.isfinite(x).all()):
            raise DivergenceError(layer=-1)
        if y.ndim == 1 and loss.ignore_index is not None and bool((y == loss.ignore_index).any()):
            y, weight = targets.without_ignored(y, weight, loss.ignore_index)
        z = self._forward(x, space, dropout_step, statistics)
        total = float(len(x) if weight is None else weight.sum())
        if isinstance(loss, Custom):
            if total == 0.0:
                space.dz[...] = 0
                return 0.0, 0.0
            # Copies on the host, be it another place or not.
            own = [None if a is None else self._on_host(a) for a in (z, y, weight)]
            mean, dz = targets.own_loss(loss, *own)  # type: ignore[arg-type]
            if not (np.isfinite(mean) and bool(np.isfinite(dz).all())):
                raise DivergenceError(layer=self._first_not_finite(x, space))
            space.dz[...] = self.xp.asarray(dz)
            return mean * total, total
        rows: Array = LOSSES[loss.name](self.xp, z, y, space.dz, **self._numbers).astype(np.float64)
        objective = self._objective
        limit = math.inf if objective is None else objective.limit
        if not bool((self.xp.isfinite(rows) & (self.xp.abs(rows) <= limit)).all()):  # without weight too
            raise DivergenceError(layer=self._first_not_finite(x, space))
        penalty = 0.0
        if objective is not None:
            rows = objective.told * told_rows(self.xp, loss.name, z, y, rows, objective)
            if objective.l2:  # on a card to wait for
                penalty = 0.5 * objective.l2 * self._squares()
            space.dz *= objective.factor
        if weight is None:
            space.dz *= 1 / len(x)
            return float(rows.sum()) + penalty, total
        if total == 0.0:
            space.dz[...] = 0
            return penalty, 0.0
        space.dz *= (weight / total).astype(space.dz.dtype)[:, None]
        return float((weight * rows).sum()) + penalty, total

    def _matrices(self) -> list[tuple[Any, Any]]:
        """Weight and its gradient of each dense step: what a penalty is of."""
        pairs = zip(self.steps, self._views, self._gradient_views, strict=True)
        return [(w[0], g[0]) for s, w, g in pairs if s.kind == "dense"]

    def _squares(self) -> float:
        return sum(float((w.astype(np.float64) ** 2).sum()) for w, _ in self._matrices())

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
        if len(x) == 1 and any(s.running >= 0 for s in self.steps):
            raise ValueError(
                "a batch of one row has no variance: BatchNorm must have 2 rows or more to train"
            )
        loss_sum, total = self._losses(x, y, weight, space, dropout_step)
        self._backward(x, space, dropout_step)
        if self._objective is not None and self._objective.l2 and total:
            for w, g in self._matrices():
                g += self._objective.l2 / total * w
        return loss_sum, total

    def run(
        self,
        x: Array,
        y: Array,
        order: Array,
        rates: NDArray[np.float64],
        sample_weight: Array | None = None,
        momenta: NDArray[np.float64] | None = None,
        *,
        sums: tuple[float, float] = (0.0, 0.0),
        seconds_left: float | None = None,
        augment: tuple[tuple[str, float], ...] = (),
        step_losses: NDArray[np.float64] | None = None,
    ) -> tuple[float, float]:
        """See `Program.run`."""
        o = self._optimizer
        assert o is not None
        loss_sum, weight_sum = sums
        loss_ = self._loss
        if augment:
            from .array_augment import augmented  # for few
        if augment and y.ndim == 1 and loss_ is not None and loss_.ignore_index is not None:
            y, sample_weight = targets.without_ignored(y, sample_weight, loss_.ignore_index)
        deadline = math.inf if seconds_left is None else time.monotonic() + seconds_left
        # A loss that overflows is an answer here, not an accident: it is looked at in _losses.
        with np.errstate(all="ignore"):
            for i, rows in enumerate(order):
                if kernels.is_told_to_stop():
                    raise KeyboardInterrupt
                batch = self._space(len(rows)).x
                if x.dtype == batch.dtype:
                    self.xp.take(x, rows, axis=0, out=batch, **self._take)
                else:
                    batch[...] = x[rows]
                targets_, weight = y[rows], None if sample_weight is None else sample_weight[rows]
                try:
                    if augment:
                        if not bool(self.xp.isfinite(batch).all()):
                            raise DivergenceError(layer=-1)
                        data, n_out = (x, y, sample_weight), self.steps[-1].n_out
                        targets_, weight = augmented(
                            self.xp, augment, self._seed, self.step, data, rows, batch, n_out
                        )
                    loss, total = self._batch(batch, targets_, weight, self.step)
                except DivergenceError as error:
                    error.step_in_call, error.loss_sum, error.weight_sum = i, loss_sum, weight_sum
                    raise
                for s, kept in zip(self.steps, self._space(len(batch)).kept, strict=True):
                    if s.running >= 0:
                        store_statistics(s, kept, self._buffers, len(batch))
                if momenta is not None:
                    o = with_momentum(o, float(momenta[i]))
                self._update(o, float(rates[i]), total)
                self.step += 1
                if step_losses is not None:
                    step_losses[i] = loss
                loss_sum += loss
                weight_sum += total
                if time.monotonic() >= deadline:
                    break
        return loss_sum, weight_sum

    def _update(self, o: Optimizer, rate: float, batch_weight: float) -> None:
        """What a batch whose gradient is known does to the parameters."""
        xp, w, g, position = self.xp, self._parameters, self._gradient, self.step % o.accumulate
        if o.accumulate > 1:
            summed = self.state[self._n_states]
            if position == 0:
                summed[...], self.numbers[0] = 0, 0.0
            summed += batch_weight * g
            self.numbers[0] += batch_weight
            if position < o.accumulate - 1:
                return
            g[...] = summed / self.numbers[0] if self.numbers[0] else 0
        t = self.step // o.accumulate + 1
        if o.clip_norm is not None:
            if o.clip_value is not None:
                xp.clip(g, -o.clip_value, o.clip_value, out=g)
            for rule in self._rules:
                if rule.frozen:
                    g[rule.offset : rule.offset + rule.length] = 0
            array_optimizers.clip_norm(xp, g, o.clip_norm)
        array_optimizers.update(xp, o, self._rules, w, g, self.state[: self._n_states], rate, t)
        for rule in self._rules:
            if rule.max_norm and not rule.frozen:
                matrix = w[rule.offset : rule.offset + rule.length].reshape(-1, rule.columns)
                array_optimizers.limit_columns(xp, matrix, rule.max_norm)
        if o.ema is not None:
            array_optimizers.average(xp, self.state[-1], w, o.ema, t)

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
            loss_sum, total = self._losses(x, y, sample_weight, self._space(len(x)), None, False)
        self._spaces.clear()
        return loss_sum / total if total else 0.0

    def predict(self, x: Array, out: Array) -> Array:
        """Fill out (rows, n_out) with what the last layer gives, and return it."""
        with np.errstate(all="ignore"):
            for first in range(0, len(x), self._predict_rows):
                rows = x[first : first + self._predict_rows]
                out[first : first + len(rows)] = self._forward(rows, self._space(len(rows)), None)
        return out


def make(
    steps: tuple[Step, ...],
    parameters: Array,
    *,
    loss: str | Loss | None = None,
    optimizer: Optimizer | None = None,
    seed: int = 0,
    buffers: Array | None = None,
    objective: Objective | None = None,
) -> ArrayProgram:
    """The array program of a network with NumPy."""
    return ArrayProgram(
        steps, parameters, loss=loss, optimizer=optimizer, seed=seed, buffers=buffers, objective=objective
    )
