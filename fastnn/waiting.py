"""Waits of the main thread for other threads that a Ctrl-C always ends."""

from __future__ import annotations

import queue
import threading
import time
from typing import TypeVar

__all__ = ["PAUSE", "join", "start", "take"]

T = TypeVar("T")

# Seconds that the main thread sleeps at a time. A lock wakes it for a signal only where the system gave that
# to the main thread while it slept: not one that another thread received, that came just before the sleep,
# or that `_thread.interrupt_main` made. Python's handler runs when it wakes; that costs next to nothing.
PAUSE = 0.04


def take(items: queue.SimpleQueue[T]) -> T:
    """The next item of a queue."""
    while True:
        try:
            return items.get(timeout=PAUSE)
        except queue.Empty:
            pass


def start(thread: threading.Thread) -> None:
    """Start a thread, and be interrupted only when it has begun or never will: `join` then waits for it.

    `Thread.start` waits for the thread's first sign. A Ctrl-C there leaves one that has no number yet, and
    nobody waits for it.
    """
    try:
        thread.start()
    except BaseException:
        give_up = time.monotonic() + 1.0  # where the Ctrl-C came before the system was asked for it
        while thread.ident is None and thread in threading.enumerate() and time.monotonic() < give_up:
            time.sleep(0.001)
        raise


def join(thread: threading.Thread) -> None:
    """Until a thread that was started has ended.

    `is_alive` does not tell: Python 3.11 and 3.12 mark a thread as stopped, which runs on, where a Ctrl-C
    interrupts its `join`, so that the next one would not wait.
    """
    while thread.ident is not None and thread in threading.enumerate():
        if thread.is_alive():
            thread.join(PAUSE)
        else:
            time.sleep(0.001)
