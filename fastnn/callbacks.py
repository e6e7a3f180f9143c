"""What happens between epochs and steps: the contract of callbacks, and those that steer a training."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from . import errors

__all__ = [
    "Callback",
    "EarlyStopping",
    "Monitor",
    "ReduceLROnPlateau",
    "Team",
    "get_all",
    "judge_resumed",
    "multiple_after",
]


class Callback:
    """Base of what `fit` calls between epochs, and steps; a subclass overrides what it needs.

    Epochs count from 1, as in `History`. What a callback raises ends the fit, after `on_fit_end` of all.
    Training leaves Python for whole epochs: it stops inside one only where `next_step` or `next_time` asks.

    Examples
    --------
    >>> class StopAt(Callback):
    ...     def on_epoch_end(self, trainer, epoch, logs):
    ...         if logs["loss"] < 0.1:
    ...             trainer.stop("good enough")
    """

    def on_fit_begin(self, trainer: Any) -> None:
        """Before the first epoch; the model is built. What an earlier fit left behind is forgotten here."""

    def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
        """Before the first step of an epoch; not again where a resumed fit goes on in its middle."""

    def next_step(self, trainer: Any) -> int | None:
        """Number of steps, as `trainer.step` counts, after which `on_step` is wanted next; None: never."""
        return None

    def next_time(self, trainer: Any) -> float | None:
        """Time, as `time.monotonic` has it, from which `on_step` is wanted next, at a step; None: never."""
        return None

    def on_step(self, trainer: Any, epoch: int) -> None:
        """Inside an epoch, where this callback has asked for it.

        ``trainer.stop(reason, now=True)`` ends the fit here; `trainer.validate` measures the validation rows.
        """

    def on_step_checkpoint(self, trainer: Any, epoch: int) -> None:
        """After `on_step` of all, and where a fit ends inside an epoch: the place to save.

        After the last step of an epoch it is left out, as `on_checkpoint` follows.
        """

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        """After an epoch was measured; `logs` is the epoch's row of the history, which has it already."""

    def on_checkpoint(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        """After `on_epoch_end` of all: the place to save, as every callback's state is that of this epoch."""

    def on_fit_end(self, trainer: Any) -> None:
        """After the last epoch, and after an error or Ctrl-C."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: numbers, strings, None and arrays by name."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Called after `on_fit_begin` in the fit that finishes an interrupted one.
        """

    def judge(self, measured: Mapping[str, str | None]) -> None:
        """Refuse a fit in which what it needs is not measured, before anything has happened.

        Parameters
        ----------
        measured : mapping
            Names of the quantities that each epoch's logs will have, and which way each is better: "min",
            "max" or None where nobody has said.
        """


def get_all(callbacks: object) -> tuple[Callback, ...]:
    """The callbacks of a list of them."""
    if isinstance(callbacks, (Callback, str)) or not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks must be a list of callbacks, got {errors.shown(callbacks)}")
    found = tuple(callbacks)
    for i, one in enumerate(found):
        if isinstance(one, type) and issubclass(one, Callback):
            raise TypeError(f"callbacks[{i}] must be a callback, got the class; write {one.__name__}()")
        if not isinstance(one, Callback):
            raise TypeError(f"callbacks[{i}] must be a fastnn.Callback, got {errors.shown(one)}")
    return found


class Team:
    """The callbacks of one running fit, called in their order.

    Parameters
    ----------
    given : tuple of Callback
        Those whose states a checkpoint keeps.
    shown : tuple of Callback
        Others.
    """

    def __init__(self, given: tuple[Callback, ...], shown: tuple[Callback, ...] = ()) -> None:
        self.given = given
        self._all = (*given, *shown)
        self._begun: list[Callback] = []
        self._asked: list[tuple[Callback, float, float]] = []  # of those that want on_step: step and time
        self._saving: list[Callback] = []  # those whose on_step_checkpoint is to follow

    @property
    def looks_between(self) -> bool:
        """Whether one of them may look at the training between two epochs.

        Else they may learn of several at once: `on_epoch_begin` of the first, then `on_epoch_end` of each. A
        class says so of itself alone, as what derives from it may look.
        """
        return any(vars(type(one)).get("_looks_between", True) for one in self._all)

    def begin(self, trainer: Any, states: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Begin a fit; with states, one for each that was given, it goes on with an interrupted one."""
        for one in self._all:
            self._begun.append(one)
            one.on_fit_begin(trainer)
        for one, (_, state) in zip(self.given, states, strict=False):
            one.load_state_dict(state)

    def epoch_begin(self, trainer: Any, epoch: int) -> None:
        """Before the steps of an epoch."""
        for one in self._all:
            one.on_epoch_begin(trainer, epoch)

    def asked(self, trainer: Any) -> tuple[float, float]:
        """Step and time at which the first of them wants `on_step`; infinite where none does."""
        self._asked = []
        for one in self._all:
            step, when = one.next_step(trainer), one.next_time(trainer)
            if step is not None or when is not None:
                asked = math.inf if step is None else step, math.inf if when is None else when
                self._asked.append((one, *asked))
        steps, times = [step for _, step, _ in self._asked], [when for _, _, when in self._asked]
        return min(steps, default=math.inf), min(times, default=math.inf)

    def step(self, trainer: Any, epoch: int, *, by_time: bool = False) -> bool:
        """Call `on_step` of those that have asked for this step or for an earlier time; whether any had.

        by_time: no step has been done since the last call, so that a time alone can be due.
        """
        if not self._asked:
            return False
        now = time.monotonic()
        due = [
            one for one, step, when in self._asked if now >= when or (trainer.step >= step and not by_time)
        ]
        for one in due:
            one.on_step(trainer, epoch)
        self._saving += due
        return bool(due)

    def step_checkpoint(self, trainer: Any, epoch: int, *, ends: bool = False) -> None:
        """After `step`, if a step of the epoch follows, or all where the fit ends here."""
        saving, self._saving = self._all if ends else tuple(self._saving), []
        for one in saving:
            one.on_step_checkpoint(trainer, epoch)

    def epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        """All learn of the epoch before the first of them saves."""
        self._saving = []
        for one in self._all:
            one.on_epoch_end(trainer, epoch, dict(logs))
        for one in self._all:
            one.on_checkpoint(trainer, epoch, dict(logs))

    def end(self, trainer: Any, error: BaseException | None) -> None:
        """End all that have begun, whatever one of them raises; the first error is what the caller sees."""
        first = error
        for one in self._begun:
            try:
                one.on_fit_end(trainer)
            except BaseException as failed:
                if first is None:
                    first = failed
                else:
                    first.add_note(f"then {type(one).__name__}.on_fit_end failed: {failed!r}")
        if first is not None and first is not error:
            raise first


def multiple_after(step: int, n: int) -> int:
    """The next multiple of n: a resumed fit stops where the undisturbed one does."""
    return (step // n + 1) * n


def judge_resumed(given: Sequence[Callback], states: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Refuse other callbacks than those whose states a checkpoint brought."""
    want, got = [name for name, _ in states], [type(one).__name__ for one in given]
    if want != got:
        raise ValueError(
            f"callbacks must be those of the interrupted fit, [{', '.join(want)}], got [{', '.join(got)}]"
        )


class Monitor(Callback):
    """A callback that watches one quantity.

    nan is never better than what was before.
    """

    def __init__(self, monitor: str, mode: str | None, min_delta: float) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"monitor must be a name, got {errors.shown(monitor)}")
        if mode is not None:
            errors.choice("mode", mode, ["min", "max"])
        self.monitor = monitor
        self.mode = mode
        self.min_delta = errors.real("min_delta", min_delta)
        self._sign = -1.0 if mode == "min" else 1.0
        self._forget()

    def _forget(self) -> None:
        self.best: float | None = None
        self.best_epoch: int | None = None

    def _judge_steps(self) -> None:
        """Refuse to go by what is measured at the ends of epochs alone."""
        if not self.monitor.startswith("val_"):
            raise ValueError(
                f"monitor of {type(self).__name__} must be of the validation rows with every_steps, as only "
                f"those are measured inside an epoch, got {self.monitor!r}"
            )

    def judge(self, measured: Mapping[str, str | None]) -> None:
        if self.monitor not in measured:
            validation = self.monitor.startswith("val_") and not any(n.startswith("val_") for n in measured)
            advice = "; it needs validation_data or validation_split" if validation else ""
            raise ValueError(
                f"monitor of {type(self).__name__} must be one of {', '.join(measured)}, "
                f"got {self.monitor!r}{advice}"
            )
        mode = self.mode or measured[self.monitor]
        if mode is None:
            raise ValueError(
                f"mode of {type(self).__name__} must be 'min' or 'max', got None: "
                f"nobody has said which way {self.monitor!r} is better"
            )
        self._sign = -1.0 if mode == "min" else 1.0

    def _least(self) -> float:
        """How much better than the best an improvement is at least."""
        return self.min_delta

    def _improved(self, epoch: int, logs: Mapping[str, float]) -> bool:
        """Whether the epoch is better than the best by more than `_least`; it is the best then."""
        value = logs[self.monitor]
        if math.isnan(value):
            return False
        if self.best is not None and not self._sign * (value - self.best) > self._least():
            return False
        self.best, self.best_epoch = value, epoch
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_epoch = state["best"], state["best_epoch"]


class EarlyStopping(Monitor):
    """Ends a fit when the monitored quantity has not become better for `patience` epochs (Prechelt 1998).

    Parameters
    ----------
    monitor : str
        A quantity of the history.
    patience : int
        Epochs, or judgements by steps, without improvement that end the fit.
    min_delta : float
        An improvement is larger than this.
    restore_best : bool
        Whether the model has the parameters of the best epoch after the fit, however that ended. Optimizer
        state stays that of the last step.
    mode : "min", "max" or None
        Which way is better; None: as the loss or metric says.
    every_steps : int, optional
        For long epochs: the validation rows are measured, and judged, after each so many steps instead of
        each epoch. The fit ends at such a step.

    Attributes
    ----------
    best, best_epoch, best_step : float, int and int, or None
        Of the last fit; None before the first judgement.
    wait : int
        Judgements since the best one.
    judged : list of (int, float)
        With every_steps: number of the step and what was measured, of each judgement.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 5,
        min_delta: float = 0.0,
        restore_best: bool = True,
        mode: str | None = None,
        every_steps: int | None = None,
    ) -> None:
        self.patience = errors.integer("patience", patience)
        self.restore_best = errors.flag("restore_best", restore_best)
        self.every_steps = None if every_steps is None else errors.integer("every_steps", every_steps)
        super().__init__(monitor, mode, min_delta)
        if self.every_steps is not None:
            self._judge_steps()

    def _forget(self) -> None:
        super()._forget()
        self.wait = 0
        self.best_step: int | None = None
        self.judged: list[tuple[int, float]] = []
        self._parameters: Any = None
        self._buffers: Any = None
        self._trainer: Any = None

    def on_fit_begin(self, trainer: Any) -> None:
        self._forget()
        self._trainer = trainer

    def next_step(self, trainer: Any) -> int | None:
        return None if self.every_steps is None else multiple_after(trainer.step, self.every_steps)

    def on_step(self, trainer: Any, epoch: int) -> None:
        logs = trainer.validate()
        self.judged.append((trainer.step, logs[self.monitor]))
        self._judge(trainer, epoch, logs)

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        if self.every_steps is None:
            self._judge(trainer, epoch, logs)

    def _judge(self, trainer: Any, epoch: int, logs: Mapping[str, float]) -> None:
        if self._improved(epoch, logs):
            self.wait, self.best_step = 0, trainer.step
            if self.restore_best:
                self._parameters = trainer.model.parameters.copy()
                self._buffers = trainer.model.buffers.copy()
            return
        self.wait += 1
        self._judge_patience(trainer)

    def _judge_patience(self, trainer: Any) -> None:
        if self.wait < self.patience:
            return
        plural = "" if self.patience == 1 else "s"
        if self.every_steps is None:
            since = "" if self.best is None else f" since epoch {self.best_epoch} ({self.best:.6g})"
            trainer.stop(f"{self.monitor} has not improved for {self.patience} epoch{plural}{since}")
        else:
            since = "" if self.best is None else f" since step {self.best_step} ({self.best:.6g})"
            often = f"{self.patience} time{plural} of {self.every_steps} steps"
            trainer.stop(f"{self.monitor} has not improved for {often}{since}", now=True)

    def on_fit_end(self, trainer: Any) -> None:
        if self._parameters is not None:
            trainer.model.parameters, trainer.model.buffers = self._parameters, self._buffers
        self._parameters = self._buffers = self._trainer = None

    def state_dict(self) -> dict[str, Any]:
        best = {"parameters": self._parameters, "buffers": self._buffers}
        state = {**super().state_dict(), "wait": self.wait, **best}
        if self.every_steps is not None:
            steps = np.array([step for step, _ in self.judged], np.int64)
            values = np.array([value for _, value in self.judged], np.float64)
            state |= {"best_step": self.best_step, "steps": steps, "values": values}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.wait, self._parameters, self._buffers = state["wait"], state["parameters"], state["buffers"]
        if self.every_steps is not None:
            if "steps" not in state:
                raise ValueError("every_steps of EarlyStopping must be None as in the interrupted fit")
            self.best_step = state["best_step"]
            self.judged = list(zip(state["steps"].tolist(), state["values"].tolist(), strict=True))
        # The interrupted fit may have been killed after its last epoch.
        self._judge_patience(self._trainer)


class ReduceLROnPlateau(Monitor):
    """Multiplies the learning rate by `factor` when a quantity no longer becomes better, as PyTorch's.

    `patience` epochs without improvement are borne; the next one reduces. It changes `trainer.rate_factor`,
    which stays as it is after the fit.

    Parameters
    ----------
    monitor : str
        A quantity of the history.
    factor : float
        From above 0 to below 1.
    patience : int
        At least 0. Keras counts one less: its ``patience=3`` is 2 here.
    threshold : float
        An improvement is larger than this: of the best value in size, or by itself.
    threshold_mode : "rel" or "abs"
        Where the best value is negative, "rel" goes by its size; PyTorch's takes a value as good, or a
        little worse, for better there.
    cooldown : int
        Epochs after a reduction that are not counted.
    min_lr : float
        The rate is not made smaller than this.
    eps : float
        A reduction by no more than this is left out.
    mode : "min", "max" or None
        Which way is better; None: as the loss or metric says.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
        mode: str | None = None,
    ) -> None:
        self.factor = errors.real("factor", factor, 0.0, 1.0)
        if self.factor == 0.0:
            raise ValueError("factor must be above 0, got 0.0")
        self.patience = errors.integer("patience", patience, 0)
        self.threshold = errors.real("threshold", threshold)
        self.threshold_mode = errors.choice("threshold_mode", threshold_mode, ["rel", "abs"])
        self.cooldown = errors.integer("cooldown", cooldown, 0)
        self.min_lr = errors.real("min_lr", min_lr)
        self.eps = errors.real("eps", eps)
        super().__init__(monitor, mode, 0.0)

    def _forget(self) -> None:
        super()._forget()
        self.wait = 0
        self._cooling = 0
        self._trainer: Any = None

    def on_fit_begin(self, trainer: Any) -> None:
        self._forget()
        self._trainer = trainer

    def _least(self) -> float:
        if self.threshold_mode == "abs" or self.best is None:
            return self.threshold
        return self.threshold * abs(self.best) if math.isfinite(self.best) else 0.0

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        self.wait = 0 if self._improved(epoch, logs) else self.wait + 1
        if self._cooling > 0:
            self._cooling -= 1
            self.wait = 0
        if self.wait > self.patience:
            self.wait, self._cooling = 0, self.cooldown
            lr = trainer.lr  # with the factor
            factor = self.factor if lr * self.factor >= self.min_lr or lr == 0 else self.min_lr / lr
            if lr - lr * factor > self.eps:
                trainer.rate_factor *= factor

    def on_fit_end(self, trainer: Any) -> None:
        self._trainer = None

    def state_dict(self) -> dict[str, Any]:
        state = {**super().state_dict(), "wait": self.wait, "cooling": self._cooling}
        return {**state, "rate_factor": None if self._trainer is None else self._trainer.rate_factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.wait, self._cooling = state["wait"], state["cooling"]
        if state["rate_factor"] is not None:
            self._trainer.rate_factor = state["rate_factor"]
