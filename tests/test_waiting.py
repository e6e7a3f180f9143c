"""Threads that are waited for, whenever a Ctrl-C comes."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest

from fastnn import waiting
from fastnn.data.source_ahead import Ahead


def interrupted(thread: threading.Thread) -> None:
    """Let a Ctrl-C come while `Thread.start` waits for the first sign of the thread."""

    def wait(timeout: float | None = None) -> bool:
        raise KeyboardInterrupt

    thread._started.wait = wait  # type: ignore[attr-defined]


def test_a_thread_that_was_being_started_at_a_ctrl_c_is_waited_for() -> None:
    for _ in range(20):  # without it about every other was still to begin
        go_on = threading.Event()
        thread = threading.Thread(target=go_on.wait, args=(60,))
        interrupted(thread)
        with pytest.raises(KeyboardInterrupt):
            waiting.start(thread)
        assert thread.ident is not None
        go_on.set()
        waiting.join(thread)


@pytest.mark.usefixtures("ctrl_c")
def test_a_wait_that_a_ctrl_c_has_ended_can_be_begun_again() -> None:
    go_on, ended = threading.Event(), []

    def work() -> None:
        go_on.wait(60)
        time.sleep(0.02)
        ended.append(1)

    def interrupted() -> None:
        timer.start()
        waiting.join(thread)

    thread = threading.Thread(target=work)
    waiting.start(thread)
    for _ in range(3):
        timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        timer.join()
    go_on.set()
    waiting.join(thread)
    assert ended == [1]


def test_a_thread_that_cannot_be_started_is_not_waited_for() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    with pytest.raises(RuntimeError):
        waiting.start(thread)
    waiting.join(thread)


def test_a_source_that_was_being_opened_at_a_ctrl_c_is_closed() -> None:
    ended: list[Any] = []

    def items() -> Any:
        try:
            yield from range(9)
        finally:
            ended.append(threading.current_thread().name)

    ahead = Ahead(items())
    assert ahead._thread is not None
    interrupted(ahead._thread)
    with pytest.raises(KeyboardInterrupt), ahead:
        pass
    assert not ahead._thread.is_alive()
    # a generator that was never begun has nothing to end
    assert ended in ([], ["fastnn-source"])
