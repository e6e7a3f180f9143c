"""The rows of a training on their way to a card: there for a whole fit, or sent ahead window by window."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import gangs

__all__ = ["Rows", "Window", "on_card"]

Array = NDArray[Any]

# A window that is sent: large enough for the bus, 5 ms at 12 GB/s, small enough that two of them in pinned
# memory and two on the card are little beside the data.
WINDOW_BYTES = 64 << 20
# Of the free memory that data may take for a fit; buffers of the batches need the rest.
HELD_SHARE = 0.6


def on_card(value: object) -> bool:
    """Whether an array lies in the memory of a card."""
    return hasattr(value, "__cuda_array_interface__")


@dataclass(frozen=True, eq=False)
class Window:
    """Steps whose rows are on the card: arrays there, and an order (steps, batch) on their rows.

    ready: what the stream of the steps must wait for, or None.
    """

    x: Any
    y: Any
    weight: Any
    order: Any
    ready: Any = None

    @property
    def n_steps(self) -> int:
        """How many steps."""
        return len(self.order)


class _Slot:
    """Room for one window: pinned memory that the card reads on its own, and memory on the card."""

    def __init__(self, cp: Any) -> None:
        self._cp = cp
        self._pinned: dict[str, Any] = {}
        self._there: dict[str, Any] = {}

    def send(self, name: str, source: Array, rows: Array, stream: Any) -> Any:
        """Gather rows of an array and send them; gives them on the card."""
        shape = (len(rows), *source.shape[1:])
        n_bytes = int(np.prod(shape)) * source.itemsize
        if name not in self._pinned or self._there[name].nbytes < n_bytes:
            self._pinned[name] = self._cp.cuda.alloc_pinned_memory(max(1, n_bytes))
            self._there[name] = self._cp.empty(max(1, n_bytes), np.uint8)
        host = np.frombuffer(self._pinned[name], source.dtype, n_bytes // source.itemsize).reshape(shape)
        # The rows are judged, and mode="raise" would gather into a buffer of its own first.
        np.take(source, rows, axis=0, out=host, mode="clip")
        there = self._there[name][:n_bytes].view(source.dtype).reshape(shape)
        there.set(host, stream=stream)
        return there


class Rows:
    """What a program knows of the data that its calls bring.

    Parameters
    ----------
    cp : module
        CuPy, or what has its face.
    """

    def __init__(self, cp: Any) -> None:
        self._cp = cp
        self._is_holding = False
        self._held: dict[int, tuple[Any, Any]] = {}  # by id: the array itself, so that it lives, and its copy
        self._copies: Any = None
        self._slots: list[_Slot] = []
        self._numbers: Any = None

    def hold(self, is_holding: bool) -> None:
        """Whether the arrays of the calls to come stay as they are, so that they need be sent once only."""
        self._is_holding = is_holding
        self._held.clear()

    def windows(self, x: Any, y: Any, weight: Any, order: Array, pace: Callable[[], int]) -> Iterator[Window]:
        """The steps of an order (steps, batch), in windows.

        A window that is sent is good until the one after the next is asked for.

        Parameters
        ----------
        x, y, weight : array
            On the host or on the card; weight may be None.
        pace : function
            How many steps the next window may have, where nothing else bounds it.
        """
        if self._fits(x, y, weight):
            cp = self._cp
            x, y, weight = (None if a is None else self._there(a) for a in (x, y, weight))
            there = cp.asarray(order)
            done = 0
            while done < len(order):
                end = done + max(1, pace())
                yield Window(x, y, weight, there[done:end])
                done = end
            return
        yield from self._sent(x, y, weight, order, pace)

    def _fits(self, x: Any, y: Any, weight: Any) -> bool:
        """Whether the arrays are, or may be, on the card as a whole."""
        if on_card(x):
            return True
        if not self._is_holding:
            return False
        away = sum(a.nbytes for a in (x, y, weight) if a is not None and id(a) not in self._kept(a))
        free, _ = self._cp.cuda.Device().mem_info
        return bool(away <= HELD_SHARE * free)

    def _there(self, array: Any) -> Any:
        if on_card(array):
            return array
        kept = self._kept(array)
        found = kept.get(id(array))
        if found is None:
            found = array, self._cp.asarray(np.ascontiguousarray(array))
            if self._is_holding:
                kept[id(array)] = found
        return found[1]

    def _kept(self, array: Any) -> dict[int, tuple[Any, Any]]:
        """Where the copy of an array is kept: by all who train together, where they share it."""
        gang = gangs.current()
        return self._held if gang is None or not gang.shares(array) else gang.held

    def _sent(
        self, x: Array, y: Array, weight: Array | None, order: Array, pace: Callable[[], int]
    ) -> Iterator[Window]:
        """Rows gathered on the host and sent by a stream of their own, while the steps before are at work."""
        cp = self._cp
        if not self._slots:
            self._slots = [_Slot(cp), _Slot(cp)]
            self._copies = cp.cuda.Stream(non_blocking=True)
        batch = order.shape[1]
        each = max(1, batch * (x.nbytes // max(1, len(x))))
        done = number = 0
        while done < len(order):
            n = min(max(1, WINDOW_BYTES // each), max(1, pace()), len(order) - done)
            rows = order[done : done + n].reshape(-1)
            slot = self._slots[number % 2]
            sent: list[Any] = [
                None if a is None else slot.send(name, a, rows, self._copies)
                for name, a in (("x", x), ("y", y), ("weight", weight))
            ]
            if self._numbers is None or len(self._numbers) < len(rows):
                self._numbers = cp.arange(len(rows), dtype=np.int64)
                cp.cuda.get_current_stream().synchronize()
            in_order = self._numbers[: len(rows)].reshape(n, batch)
            x_there, y_there, weight_there = sent
            yield Window(x_there, y_there, weight_there, in_order, self._copies.record())
            done, number = done + n, number + 1
