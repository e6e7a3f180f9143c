"""Waits of the main thread for other threads that a Ctrl-C always ends."""

from __future__ import annotations

import queue
import threading
from typing import TypeVar

__all__ = ["PAUSE", "join", "take"]

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


def join(thread: threading.Thread) -> None:
    """Until a thread that was started has ended."""
    while thread.is_alive():
        thread.join(PAUSE)
