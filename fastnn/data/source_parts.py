"""What a source gives to a training: parts of an epoch, and what is wanted of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors

__all__ = ["Buffer", "Part", "Wanted", "assembled", "target_dtype"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Wanted:
    """How a program takes rows.

    Parameters
    ----------
    n_in : int
    dtype : numpy.dtype
        Of the model.
    takes_labels : bool
        Whether whole numbers in y are labels.
    copies : bool
        Whether each part must be arrays of its own, as its targets or weights are worked on.
    """

    n_in: int
    dtype: np.dtype[Any]
    takes_labels: bool
    copies: bool = False


@dataclass(frozen=True, eq=False)
class Part:
    """Rows for some steps, good until the next but one is asked for.

    Parameters
    ----------
    x : ndarray (n, n_in)
    y : ndarray
    weight : ndarray (n,) or None
    order : ndarray of int64 (steps, batch)
        Row numbers into x, y and weight.
    first_step : int
        Of the epoch.
    where : function
        Words for the row of that number.
    names : tuple of str
        Of x, y and weight, for messages.
    """

    x: Array
    y: Array
    weight: Array | None
    order: NDArray[np.int64]
    first_step: int
    where: Callable[[int], str]
    names: tuple[str, str, str] = ("x", "y", "sample_weight")


def target_dtype(raw: np.dtype[Any], wanted: Wanted) -> np.dtype[Any]:
    """The type that targets of a raw type become."""
    return np.dtype(np.int64) if wanted.takes_labels and raw.kind in "biu" else wanted.dtype


class Buffer:
    """Room for some rows as a program takes them, and the number that each has in the source."""

    def __init__(
        self,
        room: int,
        wanted: Wanted,
        x_dtype: np.dtype[Any],
        y: tuple[tuple[int, ...], np.dtype[Any]],
        has_weight: bool,
    ) -> None:
        of_bytes = x_dtype == np.uint8
        self.x = np.empty((room, wanted.n_in), np.uint8 if of_bytes else wanted.dtype)
        self.y = np.empty((room, *y[0]), target_dtype(y[1], wanted))
        self.weight = np.empty(room, np.float64) if has_weight else None
        self.rows = np.empty(room, np.int64)

    def fill(
        self,
        at: int,
        x: Array,
        y: Array,
        weight: Array | None,
        first_row: int,
        names: tuple[str, str, str],
    ) -> None:
        """Take rows in from place `at` on."""
        here = slice(at, at + len(x))
        self.x[here] = errors.cast(names[0], x.reshape(len(x), -1), self.x.dtype)
        self.y[here] = errors.cast(names[1], y, self.y.dtype)
        if self.weight is not None and weight is not None:
            self.weight[here] = errors.cast(names[2], weight.reshape(len(x)), self.weight.dtype)
        self.rows[here] = np.arange(first_row, first_row + len(x))

    def move(self, other: Buffer, places: Array) -> None:
        """Take some rows of another buffer to the front of this one."""
        n = len(places)
        self.x[:n], self.y[:n], self.rows[:n] = other.x[places], other.y[places], other.rows[places]
        if self.weight is not None and other.weight is not None:
            self.weight[:n] = other.weight[places]


def assembled(
    groups: Iterator[tuple[int, int, Any, Callable[[Buffer, int], None]]],
    make: Callable[[], Buffer],
    batch_size: int,
    start_step: int,
    where: Callable[[int], str],
) -> Generator[Part, None, None]:
    """Cut groups of rows into batches, in two buffers that take turns.

    Rows that are left of a group for less than a batch begin the next one.

    Parameters
    ----------
    groups : iterator of (first, n, place, fill)
        Where it begins in the epoch's order, the number of its rows, the order (m,) of the places that they
        are read to (a sampler leaves some out and repeats others), and a function that reads them into a
        buffer from a place on.
    make : function
        Makes a buffer for batch_size rows more than the largest group.
    where : function
        Words for a row number of a buffer.
    """
    at, step = start_step * batch_size, start_step
    buffers: list[Buffer] = []
    turn, left, used = 0, np.zeros(0, np.int64), 0
    for first, n, place, fill in groups:
        if first + len(place) <= at:
            continue
        if not buffers:
            buffers = [make(), make()]
        buffer = buffers[turn]
        fill(buffer, used)
        pending = np.concatenate([left, place[max(0, at - first) :] + used])
        at, used = first + len(place), used + n
        whole = len(pending) // batch_size * batch_size
        if whole:
            order = pending[:whole].reshape(-1, batch_size)
            yield _part(buffer, used, order, step, where)
            step += len(order)
            turn = 1 - turn
        # What is left is less than a batch. Where nothing was given away it stays in this buffer: the other
        # one is in use.
        left = pending[whole:]
        buffers[turn].move(buffer, left)
        left, used = np.arange(len(left)), len(left)
    if len(left):
        yield _part(buffers[turn], used, left.reshape(1, -1), step, where)


def _part(
    buffer: Buffer, used: int, order: NDArray[np.int64], step: int, where: Callable[[int], str]
) -> Part:
    weight = None if buffer.weight is None else buffer.weight[:used]
    rows = buffer.rows
    return Part(buffer.x[:used], buffer.y[:used], weight, order, step, lambda i: where(int(rows[i])))
