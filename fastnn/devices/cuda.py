"""The device "cuda": the program of a network on one of the cards.

Nothing of CUDA is loaded before the device is named. Of a training that `cuda_step.why_not` has nothing
against, the steps are graphs of our own kernels, or many of them one kernel where the net is small
(`cuda_persistent`); all else is the array program with CuPy in NumPy's place.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import kernels, losses, targets
from ..errors import DeviceError, DivergenceError
from ..losses import Loss
from ..optimizers import Optimizer
from ..steps import Objective, Step, n_parameters
from . import cuda_constants
from .arrays import ArrayProgram
from .cuda_cards import cards, check, number_of
from .cuda_data import Rows, Window, on_card
from .cuda_kernels import PRECISIONS, ROUNDED_FROM, Kernels
from .cuda_persistent import CLUSTERS_FROM, PersistentStep
from .cuda_products import Used
from .cuda_step import STOP_INPUT, CapturedStep, why_not

__all__ = ["PRECISIONS", "CudaProgram", "cards", "check", "make", "number_of"]

Array = NDArray[Any]

# Seconds of steps that are queued before the host looks whether they go on: Ctrl-C is answered within twice
# that.
_PACE_SECONDS = 0.04
_FIRST_STEPS = 32
# Nets that are launched together have longer windows: the host looks at one after the other, 0.2 ms for each.
_NETS_A_PACE = 32


class CudaProgram:
    """A network on a card; the face of `fastnn.devices.Program`.

    Parameters and running statistics are sent at the beginning of a call and fetched at its end: between
    calls those of the host hold. Optimizer state stays on the card until it is asked for.

    Parameters
    ----------
    cp : module
        CuPy, or what has its face.
    number : int
        Of the card.
    precision : str
        Of the products of training steps: "float32", "tf32" or "bf16".
    steps, parameters, loss, optimizer, seed, buffers, objective
        As for `ArrayProgram`.

    Attributes
    ----------
    not_captured : str or None
        Why no step of this training is a graph; None where they are, or could be.
    not_persistent : str or None
        Why the steps of the last call (before there was one: of a batch of one row) were not done many in a
        launch by the kernel for small nets; None where they were.
    products : Used
        What computes the large products: a library, or why our own kernels do.
    """

    def __init__(
        self,
        cp: Any,
        steps: tuple[Step, ...],
        parameters: Array,
        *,
        number: int = 0,
        precision: str = "float32",
        loss: str | Loss | None = None,
        optimizer: Optimizer | None = None,
        seed: int = 0,
        buffers: Array | None = None,
        objective: Objective | None = None,
    ) -> None:
        self._cp, self._device = cp, cp.cuda.Device(number)
        self._host = parameters[: n_parameters(steps)]
        self._host_buffers = buffers
        self._loss = losses.get(loss) if loss is not None else None
        self._optimizer = optimizer
        self._mirror: Array | None = None
        self._pace = _FIRST_STEPS
        if objective == Objective():  # the mean loss
            objective = None
        self.not_captured = why_not(steps, parameters.dtype, self._loss, optimizer)
        self.not_persistent, self._objective = self.not_captured, objective
        training = self._loss is not None and optimizer is not None
        if precision != "float32" and self.not_captured and training:
            raise ValueError(
                f"precision must be 'float32' with {self.not_captured}, which the captured step does not "
                f"have, got {precision!r}"
            )
        self._captured: CapturedStep | None = None
        self._persistent: PersistentStep | None = None
        with self._device:
            self._judge_memory(len(self._host) * self._host.itemsize, optimizer)
            self._stream = cp.cuda.Stream(non_blocking=True)
        with self._at_work():
            self._inner = ArrayProgram(
                steps,
                cp.asarray(self._host),
                loss=self._loss,
                optimizer=optimizer,
                seed=seed,
                buffers=None if buffers is None else cp.asarray(buffers),
                objective=objective,
                xp=cp,
            )
            self._rows = Rows(cp)
            if self.not_captured is None:
                assert self._loss is not None
                assert optimizer is not None
                self._n_processors, capability, shared_bytes = self._properties(number)
                if precision != "float32" and capability < ROUNDED_FROM:
                    raise DeviceError(
                        f"precision {precision!r} needs a card of compute capability 8.0 or newer, got "
                        f"{capability[0]}.{capability[1]}"
                    )
                inner = self._inner
                blocks = inner._parameters, inner._gradient, inner.state
                self._precision, self._training = precision, (steps, self._loss, optimizer, *blocks, seed)
                if objective is not None:
                    self.not_persistent = "an objective beyond the mean loss"
                elif precision == "float32":
                    what = shared_bytes, capability >= CLUSTERS_FROM, *self._training
                    self._persistent = PersistentStep(cp, number, *what, self._stream)
                    n_targets = 0 if self._loss.takes_labels else self._loss.n_targets(steps[-1].n_out)
                    self.not_persistent = self._persistent.why_not(1, n_targets)
                else:
                    self.not_persistent = f"precision {precision!r}"
                if self.not_persistent is not None:
                    self._capture()

    def _judge_memory(self, n_bytes: int, optimizer: Optimizer | None) -> None:
        """Refuse blocks that the card has no room for: parameters, gradient and optimizer state."""
        n_blocks = 2
        if optimizer is not None:
            n_blocks += optimizer.n_states + (optimizer.accumulate > 1) + (optimizer.ema is not None)
        free, memory = self._cp.cuda.Device().mem_info
        if n_blocks * n_bytes > free:
            raise DeviceError(
                f"device 'cuda:{self._device.id}' has {free:,} bytes free of {memory:,}, and {n_blocks} "
                f"blocks of {n_bytes:,} bytes are needed for parameters, gradient and optimizer state"
            )

    def _properties(self, number: int) -> tuple[int, tuple[int, int], int]:
        found = self._cp.cuda.runtime.getDeviceProperties(number)
        capability = int(found["major"]), int(found["minor"])
        return int(found["multiProcessorCount"]), capability, int(found["sharedMemPerBlockOptin"])

    def _capture(self) -> CapturedStep:
        """The captured step; its kernels are compiled when it is first asked for."""
        if self._captured is None:
            run = Kernels(self._cp, self._n_processors, self._precision)
            self._captured = CapturedStep(
                self._cp, run, *self._training, self._stream, objective=self._objective
            )
        return self._captured

    def _step_for(self, n_rows: int, n_targets: int) -> CapturedStep | PersistentStep:
        """What does the steps of a batch size."""
        if self._persistent is not None:
            self.not_persistent = self._persistent.why_not(n_rows, n_targets)
            if self.not_persistent is None:
                self.not_persistent = self._persistent.refusal(n_rows, n_targets)
            if self.not_persistent is None:
                return self._persistent
        return self._capture()

    @contextmanager
    def _at_work(self) -> Generator[None, None, None]:
        """Within it the card and our stream are the current ones."""
        try:
            with self._device, self._stream:
                yield
        except self._cp.cuda.memory.OutOfMemoryError as error:
            raise DeviceError(
                f"device 'cuda:{self._device.id}' has no memory for this batch size or these rows: {error}; "
                "try a smaller batch_size"
            ) from error

    # ------------------------------------------------------------ what the host sees

    @property
    def steps(self) -> tuple[Step, ...]:
        """What was compiled."""
        return self._inner.steps

    @property
    def products(self) -> Used:
        """What computes the large products of captured steps, as far as they have been made."""
        return Used() if self._captured is None else self._captured.products

    @property
    def step(self) -> int:
        """Optimizer steps done; may be set."""
        return self._inner.step

    @step.setter
    def step(self, value: int) -> None:
        self._inner.step = value

    @property
    def state(self) -> Array:
        """The optimizer state as it is now, fetched; what is written to it holds from the next call on."""
        if self._mirror is None:
            with self._at_work():
                self._mirror = self._cp.asnumpy(self._inner.state)
        return self._mirror

    @property
    def numbers(self) -> NDArray[np.float64]:
        """Scalars of the state."""
        return self._inner.numbers

    def hold(self, is_holding: bool) -> None:
        """Whether data of the calls to come stays as it is, as within a fit: it is then sent once."""
        with self._at_work():
            self._rows.hold(is_holding)

    def _send(self) -> None:
        """Parameters, statistics and state of the host to the card."""
        inner: Any = self._inner  # whose arrays are CuPy's
        inner._parameters.set(self._host, stream=self._stream)
        if self._host_buffers is not None and len(self._host_buffers):
            inner._buffers.set(self._host_buffers, stream=self._stream)
        if self._mirror is not None:
            if self._mirror.size:
                inner.state.set(self._mirror, stream=self._stream)
            self._mirror = None

    def _fetch(self) -> None:
        """Parameters and statistics of the card to the host."""
        self._host[...] = self._cp.asnumpy(self._inner._parameters)
        if self._host_buffers is not None and len(self._host_buffers):
            self._host_buffers[...] = self._cp.asnumpy(self._inner._buffers)

    def _counted(self, y: Any, weight: Any) -> tuple[Any, Any]:
        """Labels and weights without those that the loss is to ignore."""
        ignored = self._loss.ignore_index if self._loss is not None else None
        if ignored is None or y.ndim != 1 or not bool((y == ignored).any()):
            return y, weight
        return targets.without_ignored(y, weight, ignored)

    def _judge_card(self, x: Any) -> None:
        """Refuse rows in the memory of another card."""
        number = getattr(getattr(x, "device", None), "id", self._device.id) if on_card(x) else self._device.id
        if number != self._device.id:
            raise ValueError(f"x must be on card {self._device.id} as the model is, got one on card {number}")

    def _there(self, *arrays: Any) -> list[Any]:
        return [None if a is None else self._cp.asarray(a) for a in arrays]

    # ------------------------------------------------------------ the face of a program

    def run(
        self,
        x: Any,
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
        """See `fastnn.devices.Program.run`."""
        deadline = math.inf if seconds_left is None else time.monotonic() + seconds_left
        self._judge_card(x)
        y, weight = self._counted(y, sample_weight)
        # Of cross-entropy the captured step has labels alone.
        is_captured = not augment
        is_captured &= y.ndim == 1 or self._loss is None or not self._loss.takes_labels
        with self._at_work():
            self._send()
            try:
                if self.not_captured is None and is_captured:
                    return self._run_captured(
                        x, y, weight, order, rates, momenta, sums, deadline, step_losses
                    )
                more = sums, deadline, augment, step_losses
                return self._run_arrays(x, y, weight, order, rates, momenta, *more)
            finally:
                self._fetch()

    def _run_arrays(
        self,
        x: Any,
        y: Array,
        weight: Array | None,
        order: Array,
        rates: NDArray[np.float64],
        momenta: NDArray[np.float64] | None,
        sums: tuple[float, float],
        deadline: float,
        augment: tuple[tuple[str, float], ...],
        step_losses: NDArray[np.float64] | None,
    ) -> tuple[float, float]:
        """The steps as array code; augmentations, which take rows of all of x, have all of it there."""
        if augment:
            x, y, weight = self._there(x, y, weight)
        done = 0
        for window in self._rows.windows(x, y, weight, order, lambda: len(order)):
            self._wait_for(window)
            part = slice(done, done + window.n_steps)
            before = self.step
            try:
                sums = self._inner.run(
                    window.x,
                    window.y,
                    window.order,
                    rates[part],
                    window.weight,
                    None if momenta is None else momenta[part],
                    sums=sums,
                    seconds_left=None if math.isinf(deadline) else max(0.0, deadline - time.monotonic()),
                    augment=augment,
                    step_losses=None if step_losses is None else step_losses[part],
                )
            except DivergenceError as error:
                error.step_in_call += done
                raise
            done += self.step - before
            if self.step - before < window.n_steps:
                break
        return sums

    def _wait_for(self, window: Window) -> None:
        if window.ready is not None:
            self._stream.wait_event(window.ready)

    def _run_captured(
        self,
        x: Any,
        y: Array,
        weight: Array | None,
        order: Array,
        rates: NDArray[np.float64],
        momenta: NDArray[np.float64] | None,
        sums: tuple[float, float],
        deadline: float,
        step_losses: NDArray[np.float64] | None,
    ) -> tuple[float, float]:
        """The steps by kernels of our own; the loss is read once, at the end."""
        cp, stream, n_targets = self._cp, self._stream, 0 if y.ndim == 1 else y.shape[1]
        captured = self._step_for(order.shape[1], n_targets)
        assert self._optimizer is not None
        table = cuda_constants.table(self._optimizer, captured.rules, rates, momenta, self.step)
        constants = cp.asarray(table)
        losses_ = None if step_losses is None else cp.zeros(len(order), np.float64)
        captured.sums.set(np.array(sums, np.float64), stream=stream)
        captured.progress.set(np.array([0, self.step, 0, 0]), stream=stream)
        what = order.shape[1], n_targets, x.dtype == np.uint8
        windows = self._rows.windows(x, y, weight, order, lambda: self._pace)
        window = next(windows, None)
        done, first = 0, self.step
        try:
            while window is not None:
                self._wait_for(window)
                rest = None if losses_ is None else losses_[done:]
                self._point(captured, window, constants[done:], rest)
                captured.prepare(window.n_steps, *what)
                begun = time.monotonic()
                captured.progress.set(np.array([0, self.step, 0, 0]), stream=stream)
                captured.launch(window.n_steps, *what)
                coming = next(windows, None)  # sent while the card is at work
                progress = captured.progress.get(stream=stream)
                now = time.monotonic()
                self.step = int(progress[1])
                done += int(progress[0])
                if progress[2]:
                    self._stop(int(progress[2]), done, captured)
                if kernels.is_told_to_stop():
                    raise KeyboardInterrupt
                if now >= deadline:
                    break
                each = captured.each or max(1e-7, (now - begun) / window.n_steps)
                pace = _PACE_SECONDS * max(1.0, captured.n_together / _NETS_A_PACE)
                self._pace = max(1, min(4 * self._pace, int(pace / each)))
                window = coming
        finally:  # Ctrl-C may have come while steps were queued: they are done
            stream.synchronize()
            progress = captured.progress.get(stream=stream)
            self.step = int(progress[1])
            if step_losses is not None and losses_ is not None:
                step_losses[: self.step - first] = losses_.get(stream=stream)[: self.step - first]
        loss_sum, weight_sum = captured.sums.get(stream=stream)
        return float(loss_sum), float(weight_sum)

    def _point(
        self, captured: CapturedStep | PersistentStep, window: Window, constants: Any, losses_: Any
    ) -> None:
        """Tell the kernels where the data of a window lies."""
        arrays = window.x, window.y, window.weight, window.order, constants, losses_
        addresses = [0 if a is None else a.data.ptr for a in arrays]
        captured.sources.set(np.array(addresses, np.uint64), stream=self._stream)

    def _stop(self, why: int, done: int, captured: CapturedStep | PersistentStep) -> None:
        """Raise what a batch met; its numbers are still there."""
        error = DivergenceError(layer=-1 if why == STOP_INPUT else None)
        if why != STOP_INPUT:
            broken = captured.broken_step()
            error.layer = None if broken is None else self.steps[broken].layer
        loss_sum, weight_sum = captured.sums.get(stream=self._stream)
        error.step_in_call, error.loss_sum, error.weight_sum = done, float(loss_sum), float(weight_sum)
        raise error

    def gradient(
        self, x: Any, y: Array, sample_weight: Array | None = None, dropout_step: int | None = None
    ) -> tuple[float, Array]:
        """Mean loss and its flat gradient, all rows being one batch; no dropout unless a step is named."""
        self._judge_card(x)
        with self._at_work():
            self._send()
            there, targets_, weight = self._there(x, *self._counted(y, sample_weight))
            loss, gradient = self._inner.gradient(there, targets_, weight, dropout_step)
            return loss, self._cp.asnumpy(gradient)

    def loss(self, x: Any, y: Array, sample_weight: Array | None = None) -> float:
        """Mean loss of all rows without dropout."""
        self._judge_card(x)
        with self._at_work():
            self._send()
            return self._inner.loss(*self._there(x, *self._counted(y, sample_weight)))

    def predict(self, x: Any, out: Array) -> Array:
        """Fill out (rows, n_out) with what the last layer gives, and return it."""
        self._judge_card(x)
        with self._at_work():
            self._send()
            for first in range(0, len(x), _PREDICT_ROWS):
                rows = self._cp.asarray(x[first : first + _PREDICT_ROWS])
                room = self._cp.empty((len(rows), out.shape[1]), out.dtype)
                out[first : first + len(rows)] = self._cp.asnumpy(self._inner.predict(rows, room))
        return out


# Rows that are sent, predicted and fetched at once.
_PREDICT_ROWS = 1 << 16


def make(
    device: str,
    steps: tuple[Step, ...],
    parameters: Array,
    *,
    precision: str = "float32",
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    seed: int = 0,
    buffers: Array | None = None,
    objective: Objective | None = None,
) -> CudaProgram:
    """The program of a network on the card of that name."""
    return CudaProgram(
        check(device),
        steps,
        parameters,
        number=number_of(device),
        precision=precision,
        loss=loss,
        optimizer=optimizer,
        seed=seed,
        buffers=buffers,
        objective=objective,
    )
