"""One thread that prepares the next piece of data while the caller trains on this one."""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections.abc import Generator
from typing import Any, Generic, TypeVar

from .. import kernels, waiting
from ..cores import usable_cores

__all__ = ["Ahead"]

T = TypeVar("T")

_END: Any = object()

# A thread that computes for this share of its time takes a core, also where others compete with it; one that
# waits for a disk does not. On two cores one that is left costs half of the time, and a thread that competes
# stops both of a team while it computes: alone beside them that is equal at a half.
_BUSY = 0.35


class _Work(Generic[T]):
    """What the thread knows. It does not know its reader, so that a reader which is gone ends it."""

    def __init__(self, items: Generator[T, None, None]) -> None:
        self.items = items
        self.room = threading.Semaphore(2)
        self.ready: queue.SimpleQueue[tuple[T, BaseException | None]] = queue.SimpleQueue()
        self.ended = False
        self._n_cores = usable_cores()

    def run(self) -> None:
        """The thread."""
        item, failed = _END, None
        try:
            try:
                takes_core = False
                while True:
                    self.room.acquire()
                    if self.ended:
                        break
                    item, takes_core = self._make(takes_core)
                    if item is _END:
                        break
                    self.ready.put((item, None))
                    item = _END
            finally:
                self.items.close()
        except BaseException as error:
            failed = error
        self.ready.put((_END, failed))

    def _make(self, takes_core: bool) -> tuple[T, bool]:
        """The next item, and whether the one after it is worth a core of its own."""
        aside = takes_core and kernels.get_num_threads() >= self._n_cores
        begun, computed = time.monotonic(), time.thread_time()
        if aside:
            kernels.step_aside(1)
        try:
            item = next(self.items, _END)
        finally:
            if aside:
                kernels.step_aside(-1)
        computed = time.thread_time() - computed
        return item, computed > _BUSY * (time.monotonic() - begun)

    def end(self) -> None:
        """No more items, please."""
        self.ended = True
        self.room.release()


class Ahead(Generic[T]):
    """Runs a generator in a thread of its own, one item ahead of its reader; a context manager.

    Item i + 2 is begun when the reader is done with item i, that is, when it asks for item i + 1. So two
    buffers that take turns are enough. What the generator raises is raised in the reader, with its traceback.
    At the end of the context, however it came, the generator is closed and the thread joined. While an item
    is made, trainings leave the thread a core if it took one for the item before.

    Parameters
    ----------
    items : generator
    threaded : bool
        False: the generator runs in the reader.
    """

    def __init__(self, items: Generator[T, None, None], threaded: bool = True) -> None:
        self._items = items
        self._has_read = False
        self._work: _Work[T] | None = None
        self._thread: threading.Thread | None = None
        if threaded:
            self._work = _Work(items)
            # Daemonic: where somebody's iterator never comes back, a second Ctrl-C gives up waiting for it.
            self._thread = threading.Thread(
                target=contextvars.copy_context().run,
                args=(self._work.run,),
                name="fastnn-source",
                daemon=True,
            )

    def __enter__(self) -> Ahead[T]:
        if self._thread is not None:
            try:
                waiting.start(self._thread)
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is None or self._work is None:
            self._items.close()
            return
        self._work.end()
        waiting.join(self._thread)

    def __del__(self) -> None:
        # A Ctrl-C may come between the end of __enter__ and the begin of the context.
        if getattr(self, "_work", None) is not None and not self._work.ended:  # type: ignore[union-attr]
            self._work.end()  # type: ignore[union-attr]

    def __iter__(self) -> Ahead[T]:
        return self

    def __next__(self) -> T:
        work = self._work
        if work is None:
            return next(self._items)
        if self._has_read:
            work.room.release()
        self._has_read = True
        item, error = waiting.take(work.ready)
        if error is not None:
            raise error
        if item is _END:
            raise StopIteration
        return item
