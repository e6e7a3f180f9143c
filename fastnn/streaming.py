"""Training and measuring on a source: its parts as programs take them, judged as they come."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import devices, errors, targets, validation
from .data.source_ahead import Ahead
from .data.source_order import Drawn
from .data.source_parts import Part, Wanted, target_dtype
from .errors import DivergenceError
from .input_layers import flattened
from .samples import is_source

if TYPE_CHECKING:
    from .data.source import Source
    from .samples import Task
    from .steps import Step

__all__ = ["Stream", "alone", "course_of", "measure", "predict", "to_validate"]

Array = NDArray[Any]

# Rows measured in one call: as those of a sample are, for the same bits.
BLOCK_ROWS = 1024
# Targets looked at in one piece.
_TARGET_ROWS = 2**16
# As `fastnn.epochs.Piece`.
Piece: TypeAlias = tuple[Array, Array, Array, "Array | None"]
# fit's batch_size where nobody gave one.
_DEFAULT_BATCH = 32


def course_of(
    task: Task,
    source: Source,
    y: object,
    weight: object,
    *,
    batch_size: int | None,
    epochs: int,
    shuffle: bool,
    validation_data: Any,
    validation_split: float,
    class_weight: object,
    sampler: object,
    augment: Any,
) -> tuple[StreamCourse, Any]:
    """The course of a fit on a source, judged, and what it is validated on: a Stream, a Sample or None."""
    _judge_given(y, weight)
    if batch_size is None:
        raise ValueError("batch_size must be a number of rows with a source, got None")
    if validation_split > 0:
        raise ValueError(
            f"validation_split must be 0 with a source, got {validation_split:g}; "
            "validation_data takes another one"
        )
    if source.has_own_batches and batch_size != _DEFAULT_BATCH:
        raise ValueError(
            f"batch_size must be left out with a source that has its own batches, got {batch_size}; "
            "Source.batches(..., regroup=True) cuts them anew"
        )
    if source.is_once and (epochs > 1 or task.metrics):
        why = f"epochs={epochs}" if epochs > 1 else "metrics, which are taken on all rows after the epoch"
        raise ValueError(
            f"the source is an iterator, which can be run through once, got {why}; "
            "pass a function that makes one, or steps= of an epoch to Source.batches"
        )
    stream = Stream(task, source, "x", class_weight)
    measured = _validated(task, stream, validation_data, epochs)
    changes: tuple[tuple[str, float], ...] = ()
    if not isinstance(augment, tuple) or augment:
        from .augment import lowered  # as the samplers, only where it is used

        changes = lowered(augment, task, stream.n_in, False, not task.loss.takes_soft)
    if sampler is None:
        return StreamCourse(stream, batch_size, shuffle, augment=changes), measured
    from . import samplers

    found = samplers.get(sampler)
    if not shuffle:
        raise ValueError("shuffle must be True with a sampler, which gives the order itself, got False")
    draw = samplers.bound_to_source(found, stream)
    return StreamCourse(stream, batch_size, shuffle, found, draw, changes), measured


def to_validate(task: Task, source: Source, epochs: int) -> Stream:
    """A source to measure on after each epoch."""
    if source.is_once and epochs > 1:
        raise ValueError(
            f"validation_data is an iterator, which can be run through once, got epochs={epochs}; "
            "pass a function that makes one, or steps= of an epoch to Source.batches"
        )
    return Stream(task, source, "validation_data")


def _validated(task: Task, stream: Stream, given: Any, epochs: int) -> Any:
    """What to validate on, of as many columns as the stream has."""
    if given is None:
        return None
    if is_source(given):
        measured = to_validate(task, given, epochs)
        if measured.n_in != stream.n_in:
            raise ValueError(f"validation_data must have {stream.n_in} columns as x has, got {measured.n_in}")
        return measured
    names = [f"validation_data[{i}]" for i in range(3)]
    sample = task.sample(*validation.triple(given), names)
    if sample.x.shape[1] != stream.n_in:
        raise ValueError(f"{names[0]} must have {stream.n_in} columns as x has, got shape {sample.x.shape}")
    return sample


def alone(task: Task, source: Source, y: object = None, weight: object = None) -> Stream:
    """A source to measure on, or to predict."""
    _judge_given(y, weight)
    return Stream(task, source)


def _judge_given(y: object, weight: object) -> None:
    for name, value in (("y", y), ("sample_weight", weight)):
        if value is not None:
            got = type(value).__name__
            raise TypeError(f"{name} must be left out with a source, which has it itself, got {got}")


class Stream:
    """A source as the data of a training.

    Parameters
    ----------
    task : Task
    source : Source
    name : str
        Of the argument, for messages.
    class_weight : mapping or sequence, optional
        As for `fit`.
    """

    def __init__(self, task: Task, source: Source, name: str = "x", class_weight: object = None) -> None:
        self.source, self.name, self._class_weight = source, name, class_weight
        if isinstance(class_weight, str):
            errors.choice("class_weight", class_weight, ["balanced"])
            raise ValueError(
                "class_weight must be weights by label with a source, got 'balanced', for which all labels "
                "would have to be counted first"
            )
        # Of a built model the first batch need not be asked for: each is judged as it comes.
        has_rows = source.n_rows is not None or task.n_in is None
        shape = source._reader.row_shape if has_rows else (task.n_in,)
        stand_in = np.broadcast_to(np.zeros(1, task.dtype), (1, *shape))
        matrix = task.matrix(name, flattened(name, stand_in, task.layers))
        self.n_in = matrix.shape[1]
        self._loss, self._layers, self._dtype = task.loss, task.layers, task.dtype
        self._n_out = task.n_out(matrix)
        self._wanted = Wanted(
            self.n_in,
            task.dtype,
            task.loss.takes_labels,
            class_weight is not None or task.loss.ignore_index is not None,
        )

    def judge_steps(self, steps: tuple[Step, ...], batch_size: int, takes_all: bool = True) -> None:
        """Refuse a batch of one row where BatchNorm is to train; where rows are not known, as they come."""
        self._has_norm = any(step.running >= 0 for step in steps)
        if self.source.n_rows is not None and takes_all:
            validation.judge_batches(steps, self.source.n_rows, batch_size)

    _has_norm = False

    def parts(
        self,
        seed: int,
        epoch: int,
        batch_size: int,
        shuffle: bool,
        start_step: int = 0,
        drawn: Drawn | None = None,
    ) -> AbstractContextManager[Iterator[list[Part]]]:
        """Parts of an epoch from a step on, read ahead; the thread ends with the context."""
        raw = self.source.parts(self._wanted, seed, epoch, batch_size, shuffle, start_step, drawn)
        return Ahead(self._judged(raw), self.source._prefetch)

    def _judged(self, raw: Generator[list[Part], None, None]) -> Generator[list[Part], None, None]:
        try:
            for parts in raw:
                right: list[Part] = []
                try:
                    for part in parts:
                        right.append(self._judge(part))  # noqa: PERF401 (what is there counts)
                except Exception:
                    yield right  # the steps before it are done
                    raise
                yield right
        finally:
            raw.close()

    def _judge(self, part: Part) -> Part:
        """x, targets and weights as programs take them; values of x are looked at by the program."""
        x = errors.matrix(part.names[0], part.x, self.n_in, self._dtype)
        if self._has_norm and part.order.shape[1] == 1:
            raise ValueError(
                f"a batch must not have one row, which has no variance for BatchNorm to train on: step "
                f"{part.first_step + 1} of the epoch has"
            )
        for name, of_rows in ((part.names[1], part.y), (part.names[2], part.weight)):
            if of_rows is not None and (of_rows.ndim == 0 or len(of_rows) != len(x)):
                raise ValueError(f"{name} must have {len(x)} rows as x has, got shape {of_rows.shape}")
        y, weight = self._judge_targets(part)
        return replace(part, x=x, y=y, weight=weight)

    def _judge_targets(self, part: Part) -> tuple[Array, Array | None]:
        """Targets, and weights with those of classes and 0 for what is ignored; of the rows of the order."""
        _, y_name, weight_name = part.names

        def judged(y: Array, order: Array | None) -> Array:
            return targets.judged(self._loss, y_name, y, len(y), self._n_out, self._dtype, order)

        y = self._located(part, part.y, judged)
        weight = part.weight
        if weight is not None:
            weight = self._located(
                part,
                weight,
                lambda w, order: errors.sample_weights(weight_name, w, len(w), order),
            )
        y, weight, ignored = targets.counted(self._loss, y_name, y, weight, part.order)
        if self._class_weight is not None:
            weight = self._weighted(y, weight, ignored)
        return y, weight

    def classes(self) -> tuple[Array | None, Array | None]:
        """Class of each row of a source of rows, and whether it has weight (None: all have); x is not read.

        None of both where targets are no classes.
        """
        n_rows, n_classes = self.source.n_rows, self._n_classes
        assert n_rows is not None
        classes = np.zeros(n_rows, np.min_scalar_type(n_classes))
        counts: Array | None = None
        with contextlib.closing(self.source.targets(_TARGET_ROWS)) as pieces:
            for first, raw, weight, where in pieces:
                y = errors.cast("y", raw, target_dtype(raw.dtype, self._wanted))
                y, weight = self._judge_targets(Part(y, y, weight, _all(len(y)), 0, where))
                of_rows = validation.classes_of(self._loss, y, None, n_classes)
                if of_rows is None:
                    return None, None
                here = slice(first, first + len(y))
                classes[here] = of_rows
                if weight is not None:
                    counts = np.ones(n_rows, bool) if counts is None else counts
                    counts[here] = weight > 0
        return classes, counts

    @property
    def _n_classes(self) -> int:
        return self._n_out if self._loss.takes_labels else 2

    def _located(self, part: Part, values: Array, judge: Callable[[Array, Array | None], Any]) -> Any:
        """What a judge makes of values; the error of a wrong one names its row in the source."""
        try:
            return judge(values, part.order)
        except ValueError as error:
            rows = part.order.reshape(-1)
            bad = _first_bad(lambda some: judge(values[some], _all(len(some))), rows)
            if bad is None:
                raise
            try:
                judge(values[bad : bad + 1], _all(1))
            except ValueError as of_row:
                text = str(of_row).replace("in row 0", f"in {part.where(bad)}", 1)
                raise ValueError(text) from None
            raise error

    def _weighted(self, y: Array, weight: Array | None, ignored: Array | None) -> Array:
        """Weights of a part with those of its classes."""
        classes = validation.classes_of(self._loss, y, ignored, self._n_classes)
        shares = None if classes is not None else validation.shares_of(self._loss, y)
        of_class = validation.class_weights(self._class_weight, self._loss, classes, self._n_classes, shares)
        return of_class if weight is None else of_class * weight

    def fault(self, part: Part, rows: Array) -> str:
        """Which value of x in a batch is not finite, and where: words for an error."""
        for row in rows.tolist():
            bad = ~np.isfinite(part.x[row])
            if bad.any():
                column = int(bad.argmax())
                return f"it is {part.x[row, column]} in column {column} of {part.where(row)}"
        return "none of its rows has it any more: the file was changed meanwhile"


class StreamCourse:
    """How the epochs of a fit on a source go; what `fastnn.epochs.Course` is for arrays, by its names."""

    weights = None  # each part has its own

    def __init__(
        self,
        stream: Stream,
        batch_size: int,
        shuffle: bool,
        sampler: Any = None,
        draw: Callable[[int, int], Array] | None = None,
        augment: tuple[tuple[str, float], ...] = (),
    ) -> None:
        self.trained, self.batch_size, self.shuffle = stream, batch_size, shuffle
        self.sampler, self.draw, self.augment = sampler, draw, augment
        self.n_in, self.name = stream.n_in, repr(stream.source)

    def judge(self, steps: tuple[Step, ...]) -> None:
        """Refuse what the steps of a network cannot train on."""
        self.trained.judge_steps(steps, self.batch_size, takes_all=self.draw is None)

    def told(self) -> dict[str, Any]:
        """What a fit that goes on inside an epoch must have alike."""
        source = self.trained.source
        # Of batches nothing is known before they are asked for, which may use them up.
        mark = "batches" if source.n_rows is None else source.fingerprint
        found = {"source": mark, "batch_size": self.batch_size, "shuffle": self.shuffle}
        if self.sampler is not None:
            found["sampler"] = self.sampler.told()
        if self.augment:
            found["augment"] = [list(one) for one in self.augment]
        return found

    @contextlib.contextmanager
    def begun(self, trainer: Any) -> Generator[Iterator[Piece], None, None]:
        """What is left of the running epoch, read ahead; the thread ends with the context.

        What is wrong in rows of x is named by their place in the source.
        """
        at: list[Part] = []
        seed, epoch, drawn = trainer.seed, trainer.epoch, None
        if self.draw is not None:
            drawn = Drawn(self.draw(seed, epoch), self.sampler.keeps_order)
        groups = self.trained.parts(seed, epoch, self.batch_size, self.shuffle, trainer.epoch_step, drawn)
        with groups as found:
            try:
                yield self._pieces(found, at)
            except DivergenceError as error:
                if error.layer == -1 and error.batch is not None and at:
                    part = at[0]
                    fault = self.trained.fault(part, part.order[error.batch - 1 - part.first_step])
                    error.args = (f"{str(error).partition('; look for it')[0]}; {fault}",)
                raise

    def _pieces(self, groups: Iterator[list[Part]], at: list[Part]) -> Iterator[Piece]:
        for parts in groups:
            for part in parts:
                at[:] = [part]
                yield part.x, part.y, part.order, part.weight


def _all(n: int) -> Array:
    return np.arange(n).reshape(1, -1)


def _first_bad(judge: Callable[[Array], Any], rows: Array) -> int | None:
    """The first of some rows that a judge refuses, found by halves; None where no single one is to blame."""

    def refused(some: Array) -> bool:
        try:
            judge(some)
        except ValueError:
            return True
        return False

    low, high = 0, len(rows)
    while high - low > 1:
        middle = (low + high) // 2
        if refused(rows[low:middle]):
            high = middle
        else:
            low = middle
    if high == low or not refused(rows[low:high]):
        return None
    return int(rows[low])


# ---------------------------------------------------------------- measuring


def _blocks(stream: Stream) -> Generator[tuple[Array, Array, Array | None, Part, slice], None, None]:
    """x, y and weight of BLOCK_ROWS rows after the other in the order of the source; where in which part."""
    with stream.parts(0, 0, BLOCK_ROWS, False) as groups:
        for parts in groups:
            for part in parts:
                for rows in part.order:
                    first, end = int(rows[0]), int(rows[-1]) + 1
                    for begin in range(first, end, BLOCK_ROWS):
                        some = slice(begin, min(end, begin + BLOCK_ROWS))
                        weight = None if part.weight is None else part.weight[some]
                        yield part.x[some], part.y[some], weight, part, some


def measure(program: devices.Program, task: Task, stream: Stream, with_loss: bool = True) -> dict[str, float]:
    """Mean loss and metrics of a source by name, dropout off; see `samples.measure`.

    Outputs and targets are kept for metrics only.

    Raises
    ------
    DivergenceError
        As the program gives it; `fault` says which value of x is not finite, where it is one of x.
    """
    loss_sum = weight_sum = 0.0
    outputs: list[Array] = []
    seen: list[Array] = []
    weights: list[Array] = []
    with contextlib.closing(_blocks(stream)) as blocks:  # else a traceback would keep its thread
        for x, y, weight, part, some in blocks:
            total = float(len(x) if weight is None else weight.sum())
            if with_loss and total > 0:
                try:
                    loss_sum += total * program.loss(x, y, weight)
                except DivergenceError as error:
                    if error.layer == -1:
                        error.fault = stream.fault(part, np.arange(some.start, some.stop))
                    raise
                weight_sum += total
            if task.metrics:
                outputs.append(program.predict(x, np.empty((len(x), program.steps[-1].n_out), task.dtype)))
                seen.append(y.copy())
                if weight is not None:
                    weights.append(weight.copy())
    if with_loss and weight_sum == 0:
        raise ValueError(f"the sample weights of {stream.name} must not be all zero")
    found = {"loss": loss_sum / weight_sum} if with_loss else {}
    if task.metrics:
        output, y = np.concatenate(outputs), np.concatenate(seen)
        of_rows = np.concatenate(weights) if weights else None
        with np.errstate(all="ignore"):  # outputs that overflow give nan: the loss of the next batch says why
            for metric in task.metrics:
                metric.check_data("y", y, output.shape[1], task.loss.meaning, of_rows is not None)
                values = task.loss.prediction(output) if metric.of_values else output
                found[metric.name] = metric.measure(y, values, of_rows, task.loss.meaning)
    return found


def predict(program: devices.Program, task: Task, stream: Stream) -> Array:
    """What the last layer gives for each row of a source, in its order, (n, n_out)."""
    n_out = program.steps[-1].n_out
    with contextlib.closing(_blocks(stream)) as blocks:
        return np.concatenate(
            [program.predict(x, np.empty((len(x), n_out), task.dtype)) for x, _, _, _, _ in blocks]
        )
