"""What trainers are built on: a model, and the program that trains its parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import devices, errors, optimizers
from .callbacks import Callback
from .errors import DivergenceError
from .history import History
from .samples import Judged, Task
from .stepping import Gate, explained

if TYPE_CHECKING:
    from .losses import Loss
    from .network import Sequential
    from .optimizers import Optimizer

__all__ = ["Engine"]

Array = NDArray[Any]


class Engine:
    """A model with loss, optimizer and device, and their program, made when it is first needed.

    `fastnn.Trainer` sets the attributes and says what they are.
    """

    model: Sequential
    loss: Loss
    optimizer: Optimizer
    metrics: tuple[Any, ...]
    device: str
    precision: str
    seed: int
    epoch: int
    epoch_step: int
    history: History
    last_epoch: int
    stop_reason: str | None
    _rate_factor: float
    _callbacks: tuple[Callback, ...]
    _running: bool
    _fitted: Any
    _validated: Any
    _measured_at: Any
    _halted: bool
    _paused: bool
    _sums: tuple[float, float]
    _rows: Array | None
    _watchers: tuple[Callback, ...]
    _fit_begun: int
    _interrupted: bool
    _resumed_states: list[tuple[str, dict[str, Any]]]
    _program: devices.Program | None
    _block: Array | None
    _gate: Gate | None
    _learn: Callable[[Any, Any, float], float | None] | None
    _saved: tuple[Array, Array, int, int] | None

    def _measured(self, sample: Any, with_loss: bool = True) -> dict[str, float]:
        raise NotImplementedError

    # ------------------------------------------------------------ the program

    @property
    def _task(self) -> Task:
        """What data must fit."""
        model, keeps_cards = self.model, self.device not in devices.available()
        steps = () if model.n_in is None else model.steps
        return Task(model.layers, model.n_in, model.dtype, self.loss, self.metrics, keeps_cards, steps)

    def _judged(self, x: object, y: object, sample_weight: object, order: object = None) -> Judged:
        """x, y, sample_weight and order for one call of the program: at once where they are right already."""
        gate = self._gate
        if gate is not None and sample_weight is None and self._block is self.model._block:
            passed = gate.passed(x, y, order)
            if passed is not None:
                return passed
        return self._task.judged(x, y, sample_weight, order)

    def _ready(self, n_in: int) -> devices.Program:
        """The program; an unbuilt model is built for n_in columns."""
        program = self._program
        if program is not None and self._block is self.model._block:
            return program
        if not self.model.is_built:
            self.model.build(n_in, seed=self.seed)
        return self._current_program()

    def _current_program(self) -> devices.Program:
        """The program of the model's present parameters."""
        block = self.model._block
        assert block is not None
        if self._program is None or self._block is not block:
            stale = self._saved is not None and self._saved[3] != self.model._n_builds
            if self._program is not None or stale:
                # The model was built anew: what was learned about the old parameters is void.
                self._interrupted, self._resumed_states, self._saved = False, [], None
                self.epoch, self.history, self._rate_factor = 0, History(), 1.0
                self.epoch_step, self._sums = 0, (0.0, 0.0)
            steps, loss = self.model.steps, self.loss
            program = devices.make(
                self.device,
                steps,
                block,
                loss=loss,
                optimizer=self.optimizer,
                seed=self.seed,
                buffers=self.model.buffers,
                precision=self.precision,
            )
            if self._saved is not None:
                devices.restore(program, *self._saved[:2])
                program.step = self._saved[2]
            self._program, self._block, self._saved = program, block, None
            self._gate, self._learn = None, None
            if devices.judges_rows(program):
                self._gate = Gate(steps, self.model.dtype, self.loss)
                if self._gate.is_open and isinstance(self.optimizer.lr, (int, float)):  # no schedule
                    self._learn = program.learn
        return self._program

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        if self._program is not None:
            return self._program.step
        return self._saved[2] if self._saved is not None else 0

    @property
    def lr(self) -> float:
        """The learning rate of the next step, with the schedule and `rate_factor`."""
        return float(optimizers.rates(self.optimizer, 1, self._rate_factor, self.step, self.epoch)[0])

    @property
    def rate_factor(self) -> float:
        """What every rate of the optimizer is multiplied by: 1 until you or `ReduceLROnPlateau` change it."""
        return self._rate_factor

    @rate_factor.setter
    def rate_factor(self, value: float) -> None:
        self._rate_factor = errors.real("rate_factor", value)

    @property
    def out_of_time(self) -> bool:
        """Whether the last fit ended by its `time_limit`."""
        return self._paused

    # ------------------------------------------------------------ the running fit

    def _quantities(self, validated: bool) -> dict[str, str | None]:
        """What each epoch measures, in the order of the logs, and which way each is better."""
        modes = {"loss": "min", **{metric.name: metric.mode for metric in self.metrics}}
        return {**modes, **({f"val_{name}": mode for name, mode in modes.items()} if validated else {})}

    def _begin(self, epochs: int, quantities: Iterable[str]) -> History:
        """Set how far the fit goes; gives the history that it will return."""
        self._paused = self._halted = False  # a stop that came between two fits is over
        if self._interrupted:
            history, self.last_epoch = (
                self.history.copy(self._fit_begun),
                max(self.epoch, self._fit_begun + epochs),
            )
        else:
            self._fit_begun, self.stop_reason = self.epoch, None
            history, self.last_epoch = History(), self.epoch + epochs
        for kept in (history, self.history):
            kept.add_names(list(quantities))
        return history

    # ------------------------------------------------------------ for callbacks

    def stop(self, reason: str, *, now: bool = False) -> None:
        """End the running fit after the epoch that is running, or now, at this step; for callbacks."""
        if not isinstance(reason, str):
            raise TypeError(f"reason must be a text, got {reason!r}")
        self._halted = errors.flag("now", now) or self._halted
        self.stop_reason = reason

    def _pause(self, reason: str) -> None:
        """End the running fit now, for a checkpoint of this moment to go on with."""
        if self.stop_reason is None:
            self._paused = True
            self.stop(reason, now=True)

    def _held(self) -> Callable[[], None]:
        """What makes a resumed training again what it is now, for another try of the fit that finishes it."""
        model, at = self.model, (self.epoch_step, self._sums, self._rate_factor)
        parameters, buffers = model.parameters.copy(), model.buffers.copy()

        def put_back() -> None:
            model.parameters, model.buffers = parameters, buffers
            self.epoch_step, self._sums, self._rate_factor = at

        return put_back

    def validate(self) -> dict[str, float]:
        """What the validation rows of the running fit give at this step, under the names of its history.

        For callbacks; several at one step share one measurement.
        """
        if self._validated is None:
            raise RuntimeError("validate must be called while a fit with validation rows is running")
        if self._measured_at is None or self._measured_at[0] != self.step:
            found = {f"val_{name}": value for name, value in self._measured(self._validated).items()}
            self._measured_at = self.step, found
        return dict(self._measured_at[1])

    def averaged(self) -> Sequential:
        """A copy of the model with the moving average of the weights that the optimizer's `ema` asks for.

        Before the first update it is the model as it is. Buffers are those of the training, as with PyTorch's
        ``AveragedModel``; `fastnn.update_statistics(averaged, x)` computes those of the averaged weights.

        Raises
        ------
        ValueError
            The optimizer has no ema.
        """
        if self.optimizer.ema is None:
            raise ValueError(f"averaged needs an optimizer with ema, got {self.optimizer!r}")
        self.model._require()
        found = copy.deepcopy(self.model)
        program = self._current_program()
        if program.step >= self.optimizer.accumulate:
            found.parameters = program.state[-1]
        return found

    def _predicted(self, x: Any) -> Array:
        """What the last layer gives for each row of x; of a card by its own program."""
        if self.device in devices.available():
            return self.model.predict(x)
        self.model._require()
        if errors.on_card(x):
            matrix = self._task.matrix("x", x)
        else:  # a table too, where the model has a recipe
            matrix = errors.inputs("x", self.model._table(x), self.model.dtype)
        out = np.empty((len(matrix), self.model.steps[-1].n_out), self.model.dtype)
        return self._current_program().predict(matrix, out)

    # ------------------------------------------------------------ errors and copies

    def _explained(
        self,
        error: DivergenceError,
        where: str,
        x_name: str = "x",
        epoch: int | None = None,
        batch: int | None = None,
    ) -> DivergenceError:
        """The error of a program with the place in the training and what to try."""
        layers, loss, lr, step = self.model.layers, self.loss, self.lr, self.step
        found = {"layers": layers, "loss": loss, "lr": lr, "step": step, "epoch": epoch, "batch": batch}
        return explained(error, where, x_name=x_name, **found)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        precision = "" if self.precision == "float32" else f", precision={self.precision!r}"
        return (
            f"{type(self).__name__}({self.model!r}, loss={self.loss.name!r}, optimizer={self.optimizer!r}, "
            f"device={self.device!r}, seed={self.seed}{precision})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """What pickle and copy take: all but the program, of which state and step are kept."""
        state = self.__dict__.copy()
        if self._program is not None:
            fits = self._block is self.model._block
            build = self.model._n_builds if fits else -1  # -1: the model was built anew since
            program = self._program
            state["_saved"] = program.state.copy(), program.numbers.copy(), program.step, build
        state["_program"] = state["_block"] = state["_gate"] = state["_learn"] = None
        state["_callbacks"], state["_running"], state["_fitted"] = (), False, None  # the fit runs here
        state["_rows"], state["_watchers"] = None, ()
        state["_validated"] = state["_measured_at"] = None
        state["_halted"] = False
        if not self._interrupted:
            state["epoch_step"], state["_sums"] = 0, (0.0, 0.0)
        return state
