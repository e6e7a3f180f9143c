"""One thread that prepares the next piece of data while the caller trains on this one."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Generator
from typing import Any, Generic, TypeVar

from .. import waiting

__all__ = ["Ahead"]

T = TypeVar("T")

_END: Any = object()


class Ahead(Generic[T]):
    """Runs a generator in a thread of its own, one item ahead of its reader; a context manager.

    Item i + 2 is begun when the reader is done with item i, that is, when it asks for item i + 1. So two
    buffers that take turns are enough. What the generator raises is raised in the reader, with its traceback.
    At the end of the context, however it came, the generator is closed and the thread joined.

    Parameters
    ----------
    items : generator
    threaded : bool
        False: the generator runs in the reader.
    """

    def __init__(self, items: Generator[T, None, None], threaded: bool = True) -> None:
        self._items = items
        self._room = threading.Semaphore(2)
        self._ready: queue.SimpleQueue[tuple[T, BaseException | None]] = queue.SimpleQueue()
        self._ended = self._has_read = False
        self._thread: threading.Thread | None = None
        if threaded:
            # Daemonic: where somebody's iterator never comes back, a second Ctrl-C gives up waiting for it.
            self._thread = threading.Thread(
                target=contextvars.copy_context().run, args=(self._work,), name="fastnn-source", daemon=True
            )

    def _work(self) -> None:
        """The thread."""
        item, failed = _END, None
        try:
            try:
                while True:
                    self._room.acquire()
                    if self._ended:
                        break
                    item = next(self._items, _END)
                    if item is _END:
                        break
                    self._ready.put((item, None))
                    item = _END
            finally:
                self._items.close()
        except BaseException as error:
            failed = error
        self._ready.put((_END, failed))

    def __enter__(self) -> Ahead[T]:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is None:
            self._items.close()
            return
        self._ended = True
        self._room.release()
        waiting.join(self._thread)

    def __iter__(self) -> Ahead[T]:
        return self

    def __next__(self) -> T:
        if self._thread is None:
            return next(self._items)
        if self._has_read:
            self._room.release()
        self._has_read = True
        item, error = waiting.take(self._ready)
        if error is not None:
            raise error
        if item is _END:
            raise StopIteration
        return item
