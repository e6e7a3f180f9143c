"""The steps of epochs: several epochs in one call of the program where nobody looks in between, else one, or
a part of one where callbacks want to look inside.

Nothing of a training depends on where it was cut: the sums of the loss go on from part to part, and all else
goes by the number of the step.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import devices, optimizers, validation
from .callbacks import Callback, Team
from .errors import DivergenceError
from .late_dataclass import dataclass
from .samples import Sample, Task, is_source, without_targets
from .stepping import batches, cut

if TYPE_CHECKING:
    from . import program as program_
    from .steps import Step
    from .streaming import Stream

__all__ = ["Course", "Piece", "TimeLimit", "course_of", "epochs_of", "judge_plan", "rows_of", "walk"]

Array = NDArray[Any]
# Arrays as programs take them, and steps (steps, batch) on their rows: x, y, order, weights.
Piece: TypeAlias = tuple[Array, Array, Array, "Array | None"]
# Of weight * loss and of weights, of each epoch.
Sums: TypeAlias = "list[tuple[float, float]] | NDArray[np.float64]"


# Of one call: their sums take 16 bytes each, and the smallest nets do about so many in the time of a call.
_MOST_EPOCHS = 1024
# What callbacks that want no step answer.
_NEVER = (math.inf, math.inf)


def epochs_of(
    trainer: Any, program: devices.Program, course: Any, team: Team, is_measured: bool
) -> Generator[Sums, None, None]:
    """The epochs of the running fit, until its last one or a stop, whenever some have been done.

    What ends the fit inside an epoch is raised when those before it have been given.

    Parameters
    ----------
    course : Course or StreamCourse
    is_measured : bool
        Whether more is wanted of each epoch than its loss: then they come one by one.

    Yields
    ------
    list of (float, float), or ndarray (n, 2)
        The sums of weight * loss and of weights of each epoch done. Whoever takes it counts them in
        `trainer.epoch`, and takes `trainer.epoch_step` back to 0.
    """
    # A schedule is asked in each epoch; a loss in Python may look at the trainer, as callbacks may.
    varies = not isinstance(trainer.optimizer.lr, (int, float)) or hasattr(trainer.loss, "function")
    looks = is_measured or varies or team.looks_between
    while trainer.epoch < trainer.last_epoch and trainer.stop_reason is None:
        if not trainer.epoch_step:
            team.epoch_begin(trainer, trainer.epoch + 1)
        asked = None  # of callbacks, who are asked once between two steps
        if _is_plain(trainer, course):
            asked = team.asked(trainer)
            if asked == _NEVER and devices.judges_rows(program):
                most = 1 if looks else min(_MOST_EPOCHS, trainer.last_epoch - trainer.epoch)
                yield from _run(trainer, program, course, most)
                continue
        with course.begun(trainer) as pieces:
            is_done = walk(trainer, program, pieces, team, course.augment, asked)
        if not is_done:
            return
        yield [trainer._sums]


def rows_of(sums: Sums, epochs_done: int, name: str) -> list[tuple[int, dict[str, float]]]:
    """What the history has of epochs by their sums: number and loss of each.

    name: of the rows, for a message where they have no weight.
    """
    pairs = sums if isinstance(sums, list) else sums.tolist()
    if not all(weight for _, weight in pairs):
        raise ValueError(f"the sample weights of {name} must not be all zero in an epoch")
    losses = (loss / weight for loss, weight in pairs)
    return [(epoch, {"loss": loss}) for epoch, loss in enumerate(losses, epochs_done + 1)]


def _is_plain(trainer: Any, course: Any) -> bool:
    """Whether the next epoch is one of rows in their order or shuffled, from its first step on."""
    return isinstance(course, Course) and course.draw is None and not trainer.epoch_step


def _run(trainer: Any, program: program_.Program, course: Course, most: int) -> Generator[Sums, None, None]:
    """Up to so many epochs, in one call; see `epochs_of`."""
    trained, n = course.trained, len(course.trained)
    batch = min(course.batch_size or n, n)
    n_steps = -(-n // batch)
    at, optimizer = (program.step, trainer.epoch), trainer.optimizer
    rates = optimizers.rates(optimizer, n_steps, trainer._rate_factor, *at, trainer.model.dtype)
    sums = np.empty((most, 2))
    try:
        n_done = program.run_epochs(
            trained.x,
            trained.y,
            rates,
            sums,
            n_rows=n,
            batch=batch,
            seed=trainer.seed,
            epoch=trainer.epoch,
            shuffle=course.shuffle and course.batch_size is not None,
            rows=trained.rows,
            sample_weight=course.weights,
            momenta=optimizers.momenta(optimizer, n_steps, *at),
            augment=course.augment,
        )
    except BaseException as error:
        met = error
    else:
        yield sums[:n_done]
        return
    n_done = (program.step - at[0]) // n_steps
    if n_done:
        yield sums[:n_done]
    if not isinstance(met, DivergenceError):
        raise met
    step = met.step_in_call
    whole, rest = course.order(trainer)
    order = whole[step] if step < len(whole) else rest[0]
    raise trainer._told(met, trained.x, trained.y, order, step + 1) from None


def walk(
    trainer: Any,
    program: devices.Program,
    pieces: Iterable[Piece],
    team: Team,
    augment: tuple[tuple[str, float], ...] = (),
    asked: tuple[float, float] | None = None,
) -> bool:
    """Do the steps of the running epoch that are left, and let callbacks look in where they have asked to.

    Parameters
    ----------
    pieces : iterable of Piece
        The steps of the epoch from number `trainer.epoch_step` on, in their order.
    augment : tuple
        See `devices.Program.run`.
    asked : tuple of float, optional
        What callbacks have answered for the first step; None: they have not been asked.

    Returns
    -------
    bool
        Whether the epoch was done to its end: False where a callback has stopped the fit in its middle.
    """
    number, saves = trainer.epoch + 1, False
    looked = math.inf  # when callbacks that ask for a time had their last look
    pieces = iter(pieces)
    for x, y, order, weights in pieces:
        done, n_steps, waited = 0, len(order) if order.size else 0, True
        while done < n_steps:
            if saves:
                team.step_checkpoint(trainer, number)
            step, when = team.asked(trainer) if asked is None else asked
            asked = None
            end = n_steps if math.isinf(step) else min(n_steps, done + max(1, int(step) - program.step))
            now = 0.0 if math.isinf(when) else time.monotonic()
            # A time that has come while this piece was waited for: they look before its first step. Once: who
            # asks for any time from now on would hold it up for ever.
            is_late = waited and looked < when <= now
            waited = False
            if not is_late:
                left = None if math.isinf(when) else max(0.0, when - now)
                n_before = program.step
                _go_on(trainer, program, (x, y, order[done:end], weights), left, augment)
                done += program.step - n_before
            saves = team.step(trainer, number, by_time=is_late)
            looked = math.inf if math.isinf(when) else time.monotonic()
            # After its last step the epoch ends as any other.
            if trainer._halted and (done < n_steps or any(order.size for _, _, order, _ in pieces)):
                team.step_checkpoint(trainer, number, ends=True)
                return False
    return True


def _go_on(
    trainer: Any,
    program: devices.Program,
    piece: Piece,
    seconds_left: float | None,
    augment: tuple[tuple[str, float], ...],
) -> None:
    """The next steps of the running epoch."""
    n_before, at = program.step, trainer.epoch_step
    try:
        trainer._sums = trainer._steps(program, *piece, at, trainer._sums, seconds_left, augment)
    except BaseException:
        trainer.epoch_step, trainer._sums = 0, (0.0, 0.0)  # what its steps had lost is gone with the call
        raise
    trainer.epoch_step += program.step - n_before


@dataclass(frozen=True, eq=False)
class Course:
    """How the epochs of a fit on arrays go.

    Parameters
    ----------
    trained : Sample
    weights : ndarray or None
        Of all rows of x.
    batch_size : int or None
        None: all rows are one batch, in their order.
    shuffle : bool
    sampler : Sampler or None
        What gives the order of an epoch; None: each row once.
    draw : function or None
        (seed, epochs done) -> row numbers, of that sampler.
    augment : tuple
        What is done to its batches, as programs take it.
    """

    trained: Sample
    weights: Array | None
    batch_size: int | None
    shuffle: bool
    sampler: Any = None
    draw: Callable[[int, int], Array] | None = None
    augment: tuple[tuple[str, float], ...] = ()

    name = "the rows taken"

    @property
    def n_in(self) -> int:
        """Columns of x."""
        return int(self.trained.x.shape[1])

    def judge(self, steps: tuple[Step, ...]) -> None:
        """Refuse what the steps of a network cannot train on; of rows that are drawn, as they come."""
        n = len(self.trained)
        if self.draw is None:
            validation.judge_batches(steps, n, self.batch_size or n)

    def told(self) -> dict[str, Any]:
        """What a fit that goes on inside an epoch must have alike."""
        found: dict[str, Any] = {
            "rows": len(self.trained),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
        }
        if self.sampler is not None:
            found["sampler"] = self.sampler.told()
        if self.augment:
            found["augment"] = [list(one) for one in self.augment]
        return found

    def begun(self, trainer: Any) -> AbstractContextManager[Iterator[Piece]]:
        """The running epoch's pieces, within a context."""
        return contextlib.closing(self.pieces(trainer))

    def pieces(self, trainer: Any) -> Generator[Piece, None, None]:
        """What is left of the running epoch: whole batches, and the rest as a smaller one."""
        trained, done = self.trained, trainer.epoch_step
        whole, rest = self.order(trainer)
        for order in (whole[done:], rest[max(0, done - len(whole)) :]):
            if order.size:
                yield trained.x, trained.y, order, self.weights

    def order(self, trainer: Any) -> tuple[Array, Array]:
        """Row numbers of the running epoch: of its whole batches (steps, batch), and of the rest."""
        if self.draw is not None:
            assert self.batch_size is not None
            return cut(self.draw(trainer.seed, trainer.epoch), self.batch_size)
        n, rows = len(self.trained), self.trained.rows
        shuffle = self.shuffle and self.batch_size is not None
        whole, rest = batches(trainer.seed, trainer.epoch, n, self.batch_size or n, shuffle)
        return (whole, rest) if rows is None else (rows[whole], rows[rest])


def course_of(
    task: Task,
    x: Any,
    y: Any,
    sample_weight: Any,
    *,
    epochs: int,
    batch_size: int | None,
    shuffle: bool,
    validation_data: Any,
    validation_split: float,
    class_weight: Any,
    sampler: object,
    augment: Any,
    rows: Array | None,
    seed: int,
    full_batch: bool,
) -> tuple[Course, Sample | Stream | None]:
    """The course of a fit on arrays, judged, and what it is validated on.

    `rows` are those that may be taken, None all of them; for the others see `Trainer.fit`.
    """
    trained, weights, measured = _shared_out(
        task, x, y, sample_weight, validation_data, validation_split, class_weight, rows, seed, epochs
    )
    changes: tuple[tuple[str, float], ...] = ()
    if not isinstance(augment, tuple) or augment:
        from .augment import lowered  # as the samplers, only where it is used

        changes = lowered(augment, task, trained.x.shape[1], full_batch, trained.y.ndim == 1)
    if sampler is None:
        return Course(trained, weights, batch_size, shuffle, augment=changes), measured
    from . import samplers  # 1 ms that only its users pay

    found = samplers.get(sampler)
    if batch_size is None:
        raise ValueError("sampler must be None with batch_size=None, which takes all rows")
    if not shuffle:
        raise ValueError("shuffle must be True with a sampler, which gives the order itself, got False")
    draw = samplers.bound(found, task, trained, weights)
    return Course(trained, weights, batch_size, shuffle, found, draw, changes), measured


def _shared_out(
    task: Task,
    x: Any,
    y: Any,
    sample_weight: Any,
    validation_data: Any,
    validation_split: float,
    class_weight: Any,
    rows: Array | None,
    seed: int,
    epochs: int,
) -> tuple[Sample, Array | None, Sample | Stream | None]:
    """Rows to train on, the weights of all rows in training, and what to validate on."""
    if y is None:
        raise without_targets(x)
    matrix = task.matrix("x", x)
    task.some_rows("x", matrix)
    names = ("x", "y", "sample_weight")
    if rows is None:
        sample = task.sample_of(matrix, y, sample_weight, names)
    else:
        y, sample_weight = task.of_the_host(y, sample_weight)
        sample = task.sample_of(*validation.of_rows(matrix, y, sample_weight, rows), names)
    streamed = is_source(validation_data)
    if streamed and validation_split > 0:
        raise ValueError(f"validation_split must be 0 with validation_data, got {validation_split:g}")
    trained, weights, measured = validation.share_out(
        task,
        sample,
        validation_data=None if streamed else validation_data,
        validation_split=validation_split,
        class_weight=class_weight,
        seed=seed,
    )
    if rows is not None:
        trained, weights, measured = validation.put_back(matrix, rows, trained, weights, measured)
    if streamed:
        from .streaming import to_validate

        return trained, weights, to_validate(task, validation_data, epochs)
    return trained, weights, measured


class TimeLimit(Callback):
    """Ends a fit at the step that is running when its time is over; what a checkpoint then keeps goes on.

    Parameters
    ----------
    seconds : float
        From the beginning of the fit.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = math.inf

    def on_fit_begin(self, trainer: Any) -> None:
        self._end = time.monotonic() + self.seconds

    def next_time(self, trainer: Any) -> float | None:
        return self._end

    def on_step(self, trainer: Any, epoch: int) -> None:
        trainer._pause(f"the time limit of {self.seconds:g} s is over in epoch {epoch}, step {trainer.step}")

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        if time.monotonic() >= self._end and epoch < trainer.last_epoch and trainer.stop_reason is None:
            trainer._pause(f"the time limit of {self.seconds:g} s is over after epoch {epoch}")


def judge_plan(trainer: Any, plan: dict[str, Any]) -> None:
    """Refuse to finish an epoch in another order than it was begun in."""
    theirs = trainer._plan
    if not trainer.epoch_step or plan == theirs:
        return
    names = [name for name in {**theirs, **plan} if theirs.get(name) != plan.get(name)]
    told = "; ".join(f"{name} was {theirs.get(name)!r} and is {plan.get(name)!r}" for name in names)
    raise ValueError(
        f"fit must go on with epoch {trainer.epoch + 1} after its step {trainer.epoch_step} as it was begun, "
        f"but {told}"
    )
