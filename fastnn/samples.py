"""Rows to train on and to measure on: how they are judged, walked in blocks, and measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from . import devices, errors, targets
from .input_layers import Flatten, flattened
from .late_dataclass import dataclass
from .layers import AnyLayer, Dense, Dropout, lower
from .losses import Loss
from .noise_layers import AlphaDropout, GaussianNoise

if TYPE_CHECKING:
    from .data.source import Source
    from .metrics import Metric
    from .steps import Step

__all__ = [
    "Judged",
    "Sample",
    "Task",
    "described",
    "is_source",
    "judge_end",
    "measure",
    "without_targets",
]

Array = NDArray[Any]
# x, y, sample_weight and order as programs take them.
Judged: TypeAlias = tuple[Array, Array, Array | None, Array | None]

# Rows measured in one call: enough for all threads, few enough that buffers stay small beside the data.
BLOCK_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows to train on or to measure on.

    Parameters
    ----------
    x : ndarray (n, n_in)
        Of any dtype: `blocks` converts one block after the other.
    y : ndarray
        Judged targets.
    weight : ndarray (n,) float64 or None
    rows : ndarray or None
        Numbers of the rows that belong to it; None: all.
    name : str
        Of x, for messages.
    ignored : ndarray (n,) bool or None
        Rows whose label is the loss's `ignore_index`; in y and weight they are 0.
    """

    x: Array
    y: Array
    weight: Array | None
    rows: Array | None = None
    name: str = "x"
    ignored: Array | None = None

    def __len__(self) -> int:
        return len(self.x) if self.rows is None else len(self.rows)

    def of(self, values: Array) -> Array:
        """The elements of an array by row that belong to the sample."""
        return values if self.rows is None else values[self.rows]

    def blocks(self, dtype: np.dtype[Any]) -> Iterator[tuple[Array, Array, Array | None]]:
        """x as programs take it, y and weight, of BLOCK_ROWS rows after the other.

        A block of a sample with `rows` is good until the next one.
        """
        room: Array | None = None
        there = errors.on_card(self.x)  # and judged already
        # Gathered into one buffer: a new one a block would be faulted in anew.
        if self.rows is not None and not there:
            room = np.empty((min(BLOCK_ROWS, len(self)), self.x.shape[1]), self.x.dtype)
        for first in range(0, len(self), BLOCK_ROWS):
            block: Any = slice(first, first + BLOCK_ROWS)
            if there:
                numbers = block if self.rows is None else self.rows[block].tolist()
                block = block if self.rows is None else self.rows[block]
                yield self.x[numbers], self.y[block], None if self.weight is None else self.weight[block]
                continue
            if self.rows is None or room is None:
                x = self.x[block]
            else:
                block = self.rows[block]
                # mode="raise" would gather into a buffer of its own first; the rows are ours and legal.
                x = np.take(self.x, block, axis=0, out=room[: len(block)], mode="clip")
            x = errors.inputs(self.name, x, dtype)
            yield x, self.y[block], None if self.weight is None else self.weight[block]


@dataclass(frozen=True, eq=False)
class Task:
    """What a trainer's data must fit.

    Parameters
    ----------
    layers : tuple of layers
    n_in : int or None
        Columns of x; None before the model is built.
    dtype : numpy.dtype
        Of the model.
    loss : Loss
    metrics : tuple of Metric
    keeps_cards : bool
        Whether an x on a card stays there.
    steps : tuple of Step
        Of a model that is built; without them they are made anew for the columns of each x.
    """

    layers: tuple[AnyLayer, ...]
    n_in: int | None
    dtype: np.dtype[Any]
    loss: Loss
    metrics: tuple[Metric, ...]
    keeps_cards: bool = False
    steps: tuple[Step, ...] = ()

    def n_out(self, x: Array) -> int:
        """Outputs of the model for the columns of x."""
        return (self.steps or lower(self.layers, x.shape[1]))[-1].n_out

    def targets(self, argument: str, y: object, x: Array, order: Array | None = None) -> Array:
        """y as the loss takes it, a target for each row of x; with an order only its rows are looked at."""
        return targets.judged(self.loss, argument, y, len(x), self.n_out(x), self.dtype, order)

    def matrix(self, argument: str, x: object) -> Array:
        """x as programs take it."""
        if self.keeps_cards and errors.on_card(x):
            found: Array = errors.table_on_card(argument, x, self.n_in, self.dtype)
            return found
        return errors.matrix(argument, flattened(argument, x, self.layers), self.n_in, self.dtype)

    def judged(self, x: object, y: object, weight: object, order: object = None) -> Judged:
        """x, y, sample_weight and order through the door; nothing has changed where they do not pass.

        With an order only the targets and weights that it names are looked at; without, there must be a row.
        """
        matrix = self.matrix("x", x)
        y, weight, order = self.of_the_host(y, weight, order)
        if order is None:
            self.some_rows("x", matrix)
        rows = None if order is None else errors.row_order("order", order, len(matrix))
        found = self.targets("y", y, matrix, rows)
        weights = errors.sample_weights("sample_weight", weight, len(matrix), rows)
        found, weights, _ = targets.counted(self.loss, "y", found, weights, rows)
        return matrix, found, weights, rows

    def of_the_host(self, *arrays: object) -> tuple[Any, ...]:
        """Arrays of a card as NumPy's for a device that keeps them; others are left to the door."""
        return tuple(errors.fetched(array) for array in arrays) if self.keeps_cards else arrays

    def some_rows(self, argument: str, x: Array) -> None:
        """Refuse a matrix without rows."""
        if len(x) == 0:
            raise ValueError(f"{argument} must have at least one row, got shape {x.shape}")

    def judge_metrics(self, argument: str, sample: Sample) -> None:
        """Refuse targets of which a metric can make nothing."""
        n_out = self.n_out(sample.x)
        for metric in self.metrics:
            metric.check_data(argument, sample.y, n_out, self.loss.meaning, sample.weight is not None)

    def sample(self, x: object, y: object, weight: object, names: Sequence[str]) -> Sample:
        """Rows to measure on, judged; x is not converted. `names` are those of the arguments."""
        if self.keeps_cards and errors.on_card(x):
            there = self.matrix(names[0], x)
            self.some_rows(names[0], there)
            return self.sample_of(there, y, weight, names)
        table = errors.table(names[0], flattened(names[0], x, self.layers), self.n_in)
        self.some_rows(names[0], table)
        return self.sample_of(table, y, weight, names)

    def sample_of(self, x: Array, y: object, weight: object, names: Sequence[str]) -> Sample:
        """The same of a judged x."""
        y, weight = self.of_the_host(y, weight)
        judged = self.targets(names[1], y, x)
        weights = errors.sample_weights(names[2], weight, len(x))
        judged, weights, ignored = targets.counted(self.loss, names[1], judged, weights)
        found = Sample(x, judged, weights, name=names[0], ignored=ignored)
        self.judge_metrics(names[1], found)
        return found


def measure(program: devices.Program, task: Task, sample: Sample, with_loss: bool = True) -> dict[str, float]:
    """Mean loss and metrics of a sample by name, dropout off.

    Outputs are kept only for metrics; x goes through in blocks.

    Raises
    ------
    DivergenceError
        As the program gives it: the loss of a block is not finite.
    """
    output = np.empty((len(sample) if task.metrics else 0, program.steps[-1].n_out), task.dtype)
    loss_sum = weight_sum = 0.0
    done = 0
    for x, y, weight in sample.blocks(task.dtype):
        total = float(len(x) if weight is None else weight.sum())
        if with_loss and total > 0:
            loss_sum += total * program.loss(x, y, weight)
            weight_sum += total
        if task.metrics:
            program.predict(x, output[done : done + len(x)])
            done += len(x)
    found = {"loss": loss_sum / weight_sum} if with_loss else {}
    if task.metrics:
        y = sample.of(sample.y)
        weight = None if sample.weight is None else sample.of(sample.weight)
        # Outputs that overflow after a bad epoch give nan: the loss of the next batch says why.
        with np.errstate(all="ignore"):
            for metric in task.metrics:
                seen = task.loss.prediction(output) if metric.of_values else output
                found[metric.name] = metric.measure(y, seen, weight, task.loss.meaning)
    return found


def is_source(x: object) -> TypeGuard[Source]:
    """Whether data is a `fastnn.data.Source`; without loading their module."""
    return getattr(type(x), "is_fastnn_source", False)


def without_targets(x: object) -> TypeError:
    """What is wrong with an x that came without y and is no source."""
    told = "y must be given with an array x, got None; only a Source has its targets itself"
    if hasattr(x, "__iter__") and not hasattr(x, "__array__") and not isinstance(x, (list, tuple)):
        told += (
            f", and x is of type {type(x).__name__}: fastnn.data.Source makes one of loaders and iterables"
        )
    return TypeError(told)


def described(metrics: Any, link: str | None) -> tuple[Metric, ...]:
    """The descriptions of metrics; their module, 5 ms of import, is loaded with the first one."""
    if isinstance(metrics, tuple) and not metrics:
        return ()
    from .metrics import get_all

    return get_all(metrics, link)


def judge_end(layers: tuple[AnyLayer, ...], loss: Loss) -> None:
    """Refuse a softmax, log_softmax or sigmoid before a loss that takes logits and applies one itself."""
    silent = Dropout, AlphaDropout, GaussianNoise, Flatten  # predictions pass by them
    last = next((layer for layer in reversed(layers) if not isinstance(layer, silent)), None)
    activation = getattr(last, "activation" if isinstance(last, Dense) else "name", None)
    if loss.link is not None and activation in {loss.link, "softmax", "log_softmax"}:
        why = (
            "one after the other is work without effect"
            if (loss.link, activation) == ("softmax", "log_softmax")
            else "twice would flatten the gradients"
        )
        raise ValueError(
            f"loss={loss.name!r} takes logits and applies {loss.link} itself, but {last!r} at the end "
            f"applies {'it too' if activation == loss.link else activation}: {why}. "
            "Leave it out; model.predict_proba gives probabilities"
        )
