"""One training step as a row of kernel launches, captured in a CUDA graph and replayed.

CuPy refuses its own matrix products while a stream is captured, so the step is made of kernels_*.cu, and of
what cuda_products.py has from cublasLt.
All that changes from step to step (row numbers, rates, counts of steps) lies in arrays on the card; the host
comes back only to look whether the training goes on.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np

from .. import kernels
from ..losses import Custom, Loss
from ..optimizers import LBFGS, Optimizer
from ..steps import Objective, Step, sources_of
from . import cuda_constants
from .array_optimizers import is_decoupled
from .cuda_kernels import FROM_INPUT, NO_ARRAY, NORM_BLOCKS, THREADS, Kernels, number_of
from .cuda_products import Planned, Products, Used, folded_rules

__all__ = ["STEPS_A_GRAPH", "CapturedStep", "batch_bytes", "why_not"]

# Steps in the long graph: the gap between two launches, about 5 us, is then paid once for so many steps.
STEPS_A_GRAPH = 16
STOP_INPUT = 2  # STOP_* of kernels_base.cu
_KINDS = ("dense", "activation", "scale", "scale_columns", "dropout")
_LOSSES = ("cross_entropy", "mse", "mae", "huber", "log_cosh", "binary_cross_entropy", "hinge")
_BY_ROW = ("softmax", "log_softmax")


def why_not(
    steps: tuple[Step, ...],
    dtype: Any,
    loss: Loss | None,
    optimizer: Optimizer | None,
) -> str | None:
    """What of a training the captured step does not have; None where it has all of it."""
    if dtype != np.float32:
        return f"dtype {np.dtype(dtype).name}"
    for i, s in enumerate(steps):
        if sources_of(i, s) != (i - 1,):
            return f"layer {s.layer}, which has branches"
        if s.kind not in _KINDS:
            return f"layer {s.layer}, a {s.kind} step"
    if all(s.n_parameters == 0 for s in steps):
        return "a network without parameters"
    if loss is None or optimizer is None:
        return "no training"
    if isinstance(loss, Custom) or loss.name not in _LOSSES:
        return f"loss {loss.name!r}"
    if loss.numbers(steps[-1].n_out).get("each") is not None:
        return f"loss {loss.name!r} with weights of its own for outputs"
    if isinstance(optimizer, LBFGS):
        return "LBFGS"
    if optimizer.accumulate > 1:
        return "accumulate"
    if optimizer.max_norm is not None or any(rule.max_norm for rule in optimizer.rules(steps)):
        return "max_norm"
    return None


def batch_bytes(steps: tuple[Step, ...], n_rows: int) -> int:
    """Bytes of the buffers for a batch of n_rows, without its targets: "activations" of docs/gpu.md."""
    kept = sum(s.n_out * (1 + (s.activation in FROM_INPUT)) for s in steps)
    return 4 * n_rows * (steps[0].n_in + kept + 2 * max(max(s.n_in, s.n_out) for s in steps))


class _Batch:
    """Buffers of a batch size, and the graphs that work on them."""

    def __init__(self, cp: Any, steps: tuple[Step, ...], n_rows: int, n_targets: int) -> None:
        self.x = cp.empty((n_rows, steps[0].n_in), np.float32)
        self.outputs = [cp.empty((n_rows, s.n_out), np.float32) for s in steps]
        self.inputs = [
            cp.empty((n_rows, s.n_out), np.float32) if s.activation in FROM_INPUT else NO_ARRAY for s in steps
        ]
        widest = max(max(s.n_in, s.n_out) for s in steps)
        self.gradients = [cp.empty(n_rows * widest, np.float32) for _ in range(2)]
        self.targets = cp.empty((n_rows, n_targets), np.float32) if n_targets else NO_ARRAY
        self.labels = NO_ARRAY if n_targets else cp.empty(n_rows, np.int64)
        self.weight = cp.empty(n_rows + 1, np.float64)
        self.losses = cp.empty(n_rows, np.float64)
        self.graphs: dict[tuple[bool, int], Any] = {}
        self.planned: Planned  # what a library computes of it
        self.bytes_ = False  # whether x of its last step was uint8


class CapturedStep:
    """Gather, forward, loss, backward and update of a network, for any batch size.

    Parameters
    ----------
    cp : module
        CuPy, or what has its face.
    run : Kernels
    steps, loss, optimizer
        Of which `why_not` says nothing.
    parameters, gradient, state : arrays on the card
        Flat blocks, float32; changed in place.
    seed : int
        Of dropout.
    stream : Stream
        That steps are captured and replayed on; not the default one.
    """

    each: float | None = None  # seconds of a step of the last launch, where `launch` waits for them
    n_together = 1

    def __init__(
        self,
        cp: Any,
        run: Kernels,
        steps: tuple[Step, ...],
        loss: Loss,
        optimizer: Optimizer,
        parameters: Any,
        gradient: Any,
        state: Any,
        seed: int,
        stream: Any,
        objective: Objective | None = None,
    ) -> None:
        self._cp, self._run, self._steps = cp, run, steps
        self._objective = objective or Objective()
        self._loss, self._numbers, self._o = loss, loss.numbers(steps[-1].n_out), optimizer
        self._w, self._g, self._state, self._seed = parameters, gradient, state, np.uint64(seed)
        self.rules = tuple(r for r in cuda_constants.merged(optimizer.rules(steps)) if not r.frozen)
        self._frozen = tuple(r for r in cuda_constants.merged(optimizer.rules(steps)) if r.frozen)
        self.progress, self.sums = cp.zeros(4, np.int64), cp.zeros(2, np.float64)
        self.sources = cp.zeros(6, np.uint64)
        self._partial, self._factor = cp.zeros(NORM_BLOCKS, np.float64), cp.zeros(1, np.float32)
        self._matrices = [s for s in steps if s.kind == "dense"] if self._objective.l2 else []
        self._squares = cp.zeros(max(1, NORM_BLOCKS * len(self._matrices)), np.float64)
        self._columns = {
            i: (cp.asarray(s.factors, np.float32), cp.asarray(s.shifts, np.float32))
            for i, s in enumerate(steps)
            if s.kind == "scale_columns"
        }
        self.stream = stream
        # A penalty divides by the weight of the batch: no number of a call.
        folded = {} if self._objective.l2 else folded_rules(optimizer, self.rules, steps)
        blocks = parameters, gradient, run.precision, stream, folded, len(self.rules)
        self._products = Products(cp, run, steps, *blocks, self.sources, self.progress)
        self._batches: dict[tuple[int, int], _Batch] = {}

    # ------------------------------------------------------------ graphs

    def launch(self, n_steps: int, n_rows: int, n_targets: int, bytes_: bool) -> None:
        """Queue so many steps; `sources`, `progress` and `sums` say on what.

        n_targets: columns of targets that are values, 0 for labels; bytes_: whether x is uint8.
        """
        batch = self._batch(n_rows, n_targets)
        batch.bytes_ = bytes_
        done = 0
        while done < n_steps:
            n = STEPS_A_GRAPH if n_steps - done >= STEPS_A_GRAPH else 1
            self._graph(batch, n_rows, n_targets, bytes_, n).launch(self.stream)
            done += n

    def prepare(self, n_steps: int, n_rows: int, n_targets: int, bytes_: bool) -> None:
        """Make what `launch` of the same will need: memory is asked for and graphs are captured now.

        `sources` must be set already: the first time a step is tried. `progress` is changed.
        """
        batch = self._batch(n_rows, n_targets)
        if n_steps >= STEPS_A_GRAPH:
            self._graph(batch, n_rows, n_targets, bytes_, STEPS_A_GRAPH)
        if n_steps % STEPS_A_GRAPH:
            self._graph(batch, n_rows, n_targets, bytes_, 1)

    @property
    def products(self) -> Used:
        """What computes the products."""
        return self._products.used

    def broken_step(self) -> int | None:
        """The step of the network that was the first with an output not finite, in the last batch."""
        (m, n_targets), batch = next(reversed(self._batches.items()))
        if batch.planned.folded:  # which makes zeros of them once the training has stopped
            with self.stream:
                self._record_rows(batch, m, n_targets, batch.bytes_)
                self._forward(batch, m)
        outputs = batch.outputs
        return next((i for i, out in enumerate(outputs) if not bool(self._cp.isfinite(out).all())), None)

    def _batch(self, n_rows: int, n_targets: int) -> _Batch:
        """The buffers for a batch size; the two last used are kept (whole batches and the ragged rest)."""
        key = n_rows, n_targets
        batch = self._batches.pop(key, None)
        if batch is None:
            while len(self._batches) > 1:
                self.stream.synchronize()  # its graphs may be running
                del self._batches[next(iter(self._batches))]
            batch = _Batch(self._cp, self._steps, n_rows, n_targets)
            with self.stream:
                batch.planned = self._products.plan(batch, n_rows)
            if self._products.used.reason is not None:
                self._drop_products()
        self._batches[key] = batch
        return batch

    def _drop_products(self) -> None:
        """Make all batches anew with our own kernels, where one has a library's."""
        for (m, _), batch in self._batches.items():
            if batch.planned:
                self.stream.synchronize()
                batch.graphs.clear()
                batch.planned = self._products.none(batch, m)

    def _graph(self, batch: _Batch, n_rows: int, n_targets: int, bytes_: bool, n_steps: int) -> Any:
        """The graph of so many steps, with our own kernels where those of a library cannot be captured."""
        try:
            return self._captured(batch, n_rows, n_targets, bytes_, n_steps)
        except Exception as error:
            if not batch.planned:
                raise
            self._products.give_up(f"a step could not be captured: {type(error).__name__}: {error}")
            self._drop_products()
        return self._captured(batch, n_rows, n_targets, bytes_, n_steps)

    def _captured(self, batch: _Batch, n_rows: int, n_targets: int, bytes_: bool, n_steps: int) -> Any:
        graph = batch.graphs.get((bytes_, n_steps))
        if graph is None:
            with self.stream:
                # Once as it is: kernels are loaded at their first launch, which a capture may not stand. With
                # the mark that the training has stopped nothing is changed by it.
                self.progress.set(np.array([0, 0, STOP_INPUT, 0]), stream=self.stream)
                self._record(batch, n_rows, n_targets, bytes_)
                self.stream.begin_capture()
                try:
                    for _ in range(n_steps):
                        self._record(batch, n_rows, n_targets, bytes_)
                except BaseException:
                    # What broke a capture may be told once more by its end; the first is the one to know.
                    with suppress(Exception):
                        self.stream.end_capture()
                    raise
                graph = batch.graphs[bytes_, n_steps] = self.stream.end_capture()
        return graph

    # ------------------------------------------------------------ one step

    def _record_rows(self, batch: _Batch, m: int, n_targets: int, bytes_: bool) -> None:
        """Gather the rows of the batch."""
        run, progress = self._run, self.progress
        rows = np.int32(m)
        n_in = self._steps[0].n_in
        name = "gather_bytes" if bytes_ else "gather_floats"
        run.over(name, m * n_in, self.sources, progress, rows, np.int32(n_in), batch.x)
        if n_targets:
            columns = np.int32(n_targets)
            run.over("gather_targets", m * n_targets, self.sources, progress, rows, columns, batch.targets)
        run.blocks("gather_weights", 1, self.sources, progress, rows, batch.weight, batch.labels)

    def _record(self, batch: _Batch, m: int, n_targets: int, bytes_: bool) -> None:
        """Launch the kernels of one step."""
        run, progress = self._run, self.progress
        rows = np.int32(m)
        self._record_rows(batch, m, n_targets, bytes_)
        self._forward(batch, m)
        at = 0  # which of the two buffers has the gradient
        self._record_loss(batch, m, batch.gradients[at])
        self._record_squares()
        l2 = self._objective.l2
        squares = self._squares, np.int32(NORM_BLOCKS * len(self._matrices)), np.float64(l2 / 2)
        places = self.sources, progress, self.sums
        run.blocks("loss_total", 1, batch.losses, batch.weight, rows, *squares, *places)
        self._backward(batch, m, at)
        for s in self._matrices:
            w, g, size = self._weight(self._w, s), self._weight(self._g, s), s.n_in * s.n_out
            run.over("penalty_slope", size, g, w, np.int64(size), batch.weight[m:], np.float64(l2))
        self._update(batch.planned)
        run.over("advance", 1, progress)

    def _weight(self, block: Any, s: Step) -> Any:
        return block[s.weight : s.weight + math.prod(s.weight_shape)]

    def _bias(self, block: Any, s: Step) -> Any:
        return block[s.bias : s.bias + s.n_out] if s.bias >= 0 else NO_ARRAY

    def _forward(self, batch: _Batch, m: int) -> None:
        run, x = self._run, batch.x
        for i, s in enumerate(self._steps):
            out, size = batch.outputs[i], m * s.n_out
            by_row = s.activation in _BY_ROW
            kind = "identity" if by_row else s.activation
            if s.kind == "dense":
                w, bias = self._weight(self._w, s), self._bias(self._w, s)
                if not batch.planned.forward(i, x):
                    run.product("nn", x, w, (m, s.n_out, s.n_in), out, bias, kind, batch.inputs[i])
                x = out
            elif s.kind == "activation" and not by_row:
                if s.activation in FROM_INPUT:
                    identity = number_of(kernels.ACTIVATIONS, "identity")
                    run.over("activation", size, x, batch.inputs[i], np.int64(size), identity)
                run.over("activation", size, x, out, np.int64(size), number_of(kernels.ACTIVATIONS, kind))
            elif s.kind in ("scale", "scale_columns"):
                factors, shifts = self._columns.get(i, (NO_ARRAY, NO_ARRAY))
                numbers = np.float32(s.factor), np.float32(s.shift), factors, shifts
                run.over("scale", size, x, out, np.int64(size), np.int32(s.n_out), *numbers)
            elif s.kind == "dropout":
                self._dropout(s, m, x, out)
            if by_row:
                logarithm = np.int32(s.activation == "log_softmax")
                run.rows("softmax", m, x, out, np.int32(m), np.int32(s.n_out), logarithm)
            x = out

    def _dropout(self, s: Step, m: int, x: Any, out: Any) -> None:
        threshold = min(int(s.rate * 2**32 + 0.5), 0xFFFFFFFF)
        numbers = np.uint32(s.draws & 0xFFFF), np.uint32(threshold), np.float32(1 / (1 - s.rate))
        size, columns = m * (-(-s.n_out // 4)), np.int32(s.n_out)
        self._run.over("dropout", size, x, out, np.int32(m), columns, self._seed, self.progress, *numbers)

    def _record_loss(self, batch: _Batch, m: int, dz: Any) -> None:
        z, rows, n = batch.outputs[-1], np.int32(m), np.int32(self._steps[-1].n_out)
        name, o = self._loss.name, self._objective
        numbers = (o.told, o.floor, o.cap, o.limit)
        objective = np.float32(o.factor), *map(np.float64, numbers)
        if name == "cross_entropy":
            smoothing = np.float32(self._numbers.get("smoothing", 0.0))
            given = z, batch.labels, batch.weight, rows, n, smoothing
            self._run.rows(name, m, *given, *objective, dz, batch.losses)
        else:
            kind, number = number_of(kernels.LOSSES, name), np.float32(self._numbers.get("delta", 0.0))
            arrays = z, batch.targets, batch.weight, rows, n
            self._run.rows("loss_of_values", m, kind, number, *arrays, *objective, dz, batch.losses)

    def _record_squares(self) -> None:
        """Sums of squares of what the penalty is of, some for each matrix."""
        for i, s in enumerate(self._matrices):
            w, part = self._weight(self._w, s), self._squares[i * NORM_BLOCKS : (i + 1) * NORM_BLOCKS]
            self._run.blocks("sum_of_squares", NORM_BLOCKS, w, np.int64(w.size), np.float32(0.0), part)

    def _backward(self, batch: _Batch, m: int, at: int) -> None:
        """Fill the flat gradient; buffer number `at` has the gradient at the last output."""
        run, first = self._run, next(i for i, s in enumerate(self._steps) if s.n_parameters)
        planned = batch.planned
        for i in range(len(self._steps) - 1, first - 1, -1):
            s, da = self._steps[i], batch.gradients[at]
            rows, n, size = np.int32(m), np.int32(s.n_out), m * s.n_out
            if s.activation in _BY_ROW:
                logarithm = np.int32(s.activation == "log_softmax")
                run.rows("softmax_slope", m, batch.outputs[i], da, rows, n, logarithm)
            if s.kind == "dropout":
                self._dropout(s, m, da, da)
            elif s.kind in ("scale", "scale_columns"):
                factors = self._columns[i][0] if i in self._columns else NO_ARRAY
                numbers = np.float32(s.factor), np.float32(0.0), factors, NO_ARRAY
                run.over("scale", size, da, da, np.int64(size), n, *numbers)
            elif s.kind == "dense" or s.activation not in ("identity", *_BY_ROW):
                bends = s.activation not in ("identity", *_BY_ROW)
                kept = batch.inputs[i] if s.activation in FROM_INPUT else batch.outputs[i]
                kind = number_of(kernels.ACTIVATIONS, s.activation)
                bias = self._bias(self._g, s) if s.kind == "dense" else NO_ARRAY
                is_done = planned.has_slope(i) or (not bends and planned.has_bias(i))
                if (bends or s.bias >= 0) and not is_done:
                    kept = kept if bends else NO_ARRAY
                    run.columns("slope_and_bias", s.n_out, da, kept, kind, rows, n, bias)
            if s.kind == "dense":
                x = batch.outputs[i - 1] if i else batch.x
                if i > first:  # before the weights, which a library's product may update
                    at = 1 - at
                    w, below = self._weight(self._w, s), batch.gradients[at]
                    if not planned.down(i, da, below):
                        run.product("nt", da, w, (m, s.n_in, s.n_out), below)
                if not planned.weights(i, x, da):
                    run.product("tn", x, da, (s.n_in, s.n_out, m), self._weight(self._g, s))

    def _update(self, planned: Planned) -> None:
        o, run, progress = self._o, self._run, self.progress
        factor: Any = NO_ARRAY
        clip = np.float32(o.clip_value or 0.0)
        if o.clip_norm is not None:
            for rule in self._frozen:
                part = self._g[rule.offset : rule.offset + rule.length]
                run.over("fill", rule.length, part, np.int64(rule.length), np.float32(0.0))
            n_blocks = min(NORM_BLOCKS, -(-self._g.size // THREADS))
            run.blocks("sum_of_squares", n_blocks, self._g, np.int64(self._g.size), clip, self._partial)
            factor = self._factor
            run.over("norm_factor", 1, self._partial, np.int32(n_blocks), np.float64(o.clip_norm), factor)
        kind, flags = number_of(kernels.OPTIMIZERS, o.name), cuda_constants.flags_of(o)
        n_rules, between = np.int32(len(self.rules)), np.int64(self._w.size)
        decoupled = is_decoupled(o)
        parts = ((j, rule, part) for j, rule in enumerate(self.rules) for part in planned.rest_of(rule))
        for j, rule, part in parts:
            length = part.stop - part.start
            state = self._state[0, part] if o.n_states else NO_ARRAY
            decay = np.float32(0.0 if decoupled else rule.decay)
            arrays = (
                self._w[part],
                self._g[part],
                state,
                between,
                np.int64(length),
                self.sources,
                progress,
            )
            numbers = np.int32(j), n_rules, decay, np.float32(rule.l1), clip, factor
            run.over("update", length, kind, flags, *arrays, *numbers)
        if o.ema is not None:
            toward = np.float32(1 - o.ema)
            run.over(
                "average", self._w.size, self._state[-1], self._w, np.int64(self._w.size), progress, toward
            )
