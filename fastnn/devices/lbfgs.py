"""L-BFGS over the gradients of a program: two loops over the history, and a line search.

Inner products are the kernels', whose sums have one shape, so the result does not depend on threads or on the
instruction set.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..errors import DivergenceError
from ..optimizers import LBFGS
from ..steps import Step

if TYPE_CHECKING:
    from . import Program

__all__ = ["LBFGSProgram"]

Array = NDArray[Any]


class _Point(NamedTuple):
    """A place on the line of a search: step length, loss, gradient, and slope along the line."""

    t: float
    loss: float
    gradient: Array
    slope: float


class _Memory:
    """What goes from one iteration to the next; arrays are replaced, never changed."""

    def __init__(self) -> None:
        self.n_iterations = 0
        self.t = 0.0
        self.scale = 1.0  # of the first inverse Hessian
        self.direction: Array | None = None
        self.gradient: Array | None = None
        self.pairs: list[tuple[Array, Array, float]] = []  # change of gradient, of parameters, 1 / product

    def copy(self) -> _Memory:
        other = _Memory()
        other.__dict__.update(self.__dict__, pairs=list(self.pairs))
        return other


class LBFGSProgram:
    """A program whose steps are L-BFGS's; the face of `fastnn.devices.Program`.

    Parameters
    ----------
    program : Program
        Gives gradients; made without an optimizer.
    parameters : ndarray (n,)
        The block that it computes with, changed in place.
    optimizer : LBFGS
    still : Program, optional
        With BatchNorm: one of the same parameters that trains at the rate 0, which stores running
        statistics. The evaluations of a step use those of the batch and store none; after the step
        they are stored once, at the parameters that it ended with.
    buffers : ndarray, optional
        The running statistics, which a step that fails leaves as they were.
    """

    def __init__(
        self,
        program: Program,
        parameters: Array,
        optimizer: LBFGS,
        still: Program | None = None,
        buffers: Array | None = None,
    ) -> None:
        self._program, self._o, self._still = program, optimizer, still
        self._buffers = np.empty(0) if buffers is None else buffers
        self._w = parameters[: program.state.shape[1]]
        self._memory = _Memory()
        self.step = 0

    @property
    def steps(self) -> tuple[Step, ...]:
        """What was compiled."""
        return self._program.steps

    # ------------------------------------------------------------ state

    @property
    def state(self) -> Array:
        """A copy of the state: direction, gradient, changes of the gradient, changes of the parameters."""
        m = self._memory
        rows = [] if m.direction is None or m.gradient is None else [m.direction, m.gradient]
        rows += [pair[0] for pair in m.pairs] + [pair[1] for pair in m.pairs]
        return np.array(rows, self._w.dtype).reshape(len(rows), len(self._w))

    @property
    def numbers(self) -> NDArray[np.float64]:
        """A copy of its scalars: iterations, step length, scale, 1 / product of each pair."""
        m = self._memory
        return np.array([m.n_iterations, m.t, m.scale, *(pair[2] for pair in m.pairs)])

    def restore(self, state: Array, numbers: NDArray[np.float64]) -> None:
        """Take over what `state` and `numbers` gave (ValueError where they are no such thing)."""
        n_pairs = len(numbers) - 3
        rows = 2 + 2 * n_pairs if len(numbers) and numbers[0] else 0
        if not 0 <= n_pairs <= self._o.history_size or state.shape != (rows, len(self._w)):
            raise ValueError(
                f"'optimizer.state' has shape {state.shape}, which {len(numbers)} numbers do not fit"
            )
        m = self._memory = _Memory()
        m.n_iterations, m.t, m.scale = int(numbers[0]), float(numbers[1]), float(numbers[2])
        if rows:
            rows_ = [row.copy() for row in state]
            m.direction, m.gradient = rows_[:2]
            changes = zip(rows_[2 : 2 + n_pairs], rows_[2 + n_pairs :], numbers[3:].tolist(), strict=True)
            m.pairs = list(changes)

    # ------------------------------------------------------------ the face of a program

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
        """One step for each row of order; gives the sums of weight * loss, before it, and of weights."""
        if augment:
            raise ValueError("augment must be empty with LBFGS")
        loss_sum, weight_sum = sums
        deadline = math.inf if seconds_left is None else time.monotonic() + seconds_left
        for i, rows in enumerate(order):
            given = None if sample_weight is None else sample_weight[rows]
            total = float(len(rows)) if given is None else float(np.sum(given))
            everything = len(rows) == len(x) and bool((rows == np.arange(len(x))).all())
            data = (x, y, sample_weight) if everything else (x[rows], y[rows], given)
            before, statistics = self._w.copy(), self._buffers.copy()
            memory = self._memory.copy()
            try:
                step_loss = self._minimise(data, float(rates[i]), memory)
                if self._still is not None:
                    self._store_statistics(self._still, data)
                loss_sum += total * step_loss
                if step_losses is not None:
                    step_losses[i] = total * step_loss
            except BaseException as error:
                self._w[...], self._buffers[...] = before, statistics
                if isinstance(error, DivergenceError):
                    error.step_in_call, error.loss_sum, error.weight_sum = i, loss_sum, weight_sum
                raise
            self._memory = memory
            weight_sum += total
            self.step += 1
            if time.monotonic() >= deadline:
                break
        return loss_sum, weight_sum

    def gradient(
        self, x: Array, y: Array, sample_weight: Array | None = None, dropout_step: int | None = None
    ) -> tuple[float, Array]:
        """See `Program.gradient`."""
        return self._program.gradient(x, y, sample_weight, dropout_step)

    def loss(self, x: Array, y: Array, sample_weight: Array | None = None) -> float:
        """See `Program.loss`."""
        return self._program.loss(x, y, sample_weight)

    def predict(self, x: Array, out: Array) -> Array:
        """See `Program.predict`."""
        return self._program.predict(x, out)

    def _store_statistics(self, still: Program, data: Any) -> None:
        """Running statistics of a batch, at the present parameters, which stay."""
        x, y, weight = data
        w = self._w.copy()
        still.step = self.step
        try:
            still.run(x, y, np.arange(len(x))[None], np.zeros(1), weight)
        finally:
            self._w[...] = w  # a rate of 0 changes no number but the sign of a zero

    # ------------------------------------------------------------ the algorithm

    def _minimise(self, data: Any, lr: float, m: _Memory) -> float:
        """One step of the optimizer; gives the loss before it."""
        o, w = self._o, self._w

        def evaluate() -> tuple[float, Array]:
            x, y, weight = data
            return self._program.gradient(x, y, weight, self.step)

        first_loss, g = evaluate()
        loss, n_evaluations = first_loss, 1
        most = o.max_iter * 5 // 4 if o.max_eval is None else o.max_eval
        if _largest(g) <= o.tolerance_grad:
            return first_loss
        for iteration in range(1, o.max_iter + 1):
            m.n_iterations += 1
            d = self._direction(m, g)
            m.direction, m.gradient, loss_before = d, g, loss
            m.t = lr if m.n_iterations > 1 else min(1.0, 1.0 / _sum_of_sizes(g)) * lr
            slope = kernels.dot(g, d)
            if slope > -o.tolerance_change:
                break
            if o.line_search is not None:
                start = w.copy()
                line = _Line(evaluate, w, start, d)
                found = line.search(_Point(0.0, loss, g, slope), m.t, most - n_evaluations)
                loss, g, m.t = found.loss, found.gradient, found.t
                n_evaluations += line.n_evaluations
                _move(w, start, m.t, d)
            else:
                _move(w, w, m.t, d)
                if iteration < o.max_iter:
                    loss, g = evaluate()
                    n_evaluations += 1
            if n_evaluations >= most or _largest(g) <= o.tolerance_grad:
                break
            if _largest(d) * abs(m.t) <= o.tolerance_change or abs(loss - loss_before) < o.tolerance_change:
                break
        return first_loss

    def _direction(self, m: _Memory, g: Array) -> Array:
        """Minus the inverse Hessian, as the history knows it, times the gradient; the history grows first."""
        if m.direction is None or m.gradient is None:
            return -g
        y, s = g - m.gradient, m.direction * g.dtype.type(m.t)
        product = kernels.dot(y, s)
        if product > 1e-10:
            m.pairs = [*m.pairs[1 if len(m.pairs) == self._o.history_size else 0 :], (y, s, 1.0 / product)]
            m.scale = product / kernels.dot(y, y)
        real = g.dtype.type
        q, shares = -g, []
        for change, moved, inverse in reversed(m.pairs):
            share = kernels.dot(moved, q) * inverse
            shares.append(share)
            q += real(-share) * change
        q *= real(m.scale)
        for (change, moved, inverse), share in zip(m.pairs, reversed(shares), strict=True):
            q += real(share - kernels.dot(change, q) * inverse) * moved
        return q


def _largest(a: Array) -> float:
    """The largest size of a number; nan if one is."""
    return float(np.max(np.abs(a)))


def _sum_of_sizes(a: Array) -> float:
    return kernels.dot(np.abs(a), np.ones_like(a))


def _move(w: Array, start: Array, t: float, d: Array) -> None:
    """w = start + t d."""
    np.add(start, d * d.dtype.type(t), out=w)


class _Line:
    """The loss along a line, and the search for a place where the strong Wolfe conditions hold.

    Nocedal and Wright (2006), algorithms 3.5 (outwards) and 3.6 (inwards), with PyTorch's bounds.
    """

    enough, flat = 1e-4, 0.9  # c1: share of the slope that the loss must fall; c2: of it that may be left
    tolerance = 1e-9

    def __init__(self, evaluate: Callable[[], tuple[float, Array]], w: Array, start: Array, d: Array) -> None:
        self._evaluate, self._w, self._start, self._d = evaluate, w, start, d
        self.n_evaluations = 0

    def _at(self, t: float) -> _Point:
        _move(self._w, self._start, t, self._d)
        loss, gradient = self._evaluate()
        self.n_evaluations += 1
        return _Point(t, loss, gradient, kernels.dot(gradient, self._d))

    def search(self, zero: _Point, t: float, most: int) -> _Point:
        """The place found, from a first step length and with `most` further evaluations."""
        before, here, turns = zero, self._at(t), 0
        while turns < most:
            too_high = here.loss > zero.loss + self.enough * here.t * zero.slope
            if too_high or (turns > 1 and here.loss >= before.loss):
                return self._zoom(zero, before, here, turns, most)
            if self._is_flat(here, zero):
                return here
            if here.slope >= 0:
                return self._zoom(zero, before, here, turns, most)
            bounds = here.t + 0.01 * (here.t - before.t), 10 * here.t
            t = _between(before, here, bounds)
            before, here, turns = here, self._at(t), turns + 1
        return zero if zero.loss <= here.loss else here

    def _is_flat(self, point: _Point, zero: _Point) -> bool:
        return abs(point.slope) <= -self.flat * zero.slope

    def _zoom(self, zero: _Point, one: _Point, other: _Point, turns: int, most: int) -> _Point:
        """Narrow a bracket until a place is found in it; else its lower end."""
        low, high = (one, other) if one.loss <= other.loss else (other, one)
        length, stuck = _largest(self._d), False
        while turns < most and abs(high.t - low.t) * length >= self.tolerance:
            left, right = min(low.t, high.t), max(low.t, high.t)
            t = _between(low, high, (left, right))
            margin = 0.1 * (right - left)
            if min(right - t, t - left) < margin:  # an end is no progress: once is allowed
                if stuck or t >= right or t <= left:
                    t = right - margin if abs(t - right) < abs(t - left) else left + margin
                    stuck = False
                else:
                    stuck = True
            else:
                stuck = False
            new = self._at(t)
            turns += 1
            if new.loss > zero.loss + self.enough * new.t * zero.slope or new.loss >= low.loss:
                low, high = (low, new) if low.loss <= new.loss else (new, low)
                continue
            if self._is_flat(new, zero):
                return new
            if new.slope * (high.t - low.t) >= 0:
                high = low
            low = new
        return low


def _between(one: _Point, other: _Point, bounds: tuple[float, float]) -> float:
    """Where the cubic through two places with their slopes is least, within bounds; their middle for none."""
    middle = (bounds[0] + bounds[1]) / 2
    if one.t == other.t:
        return middle
    a = one.slope + other.slope - 3 * (one.loss - other.loss) / (one.t - other.t)
    square = a * a - one.slope * other.slope
    if not square >= 0:
        return middle
    root = math.sqrt(square)
    left, right = (one, other) if one.t <= other.t else (other, one)
    bend = right.slope - left.slope + 2 * root
    if bend == 0:  # a straight line has no least place
        return middle
    found = right.t - (right.t - left.t) * ((right.slope + root - a) / bend)
    return min(max(found, bounds[0]), bounds[1]) if math.isfinite(found) else middle
