"""Trainings on one card whose steps are launched together: each on a thread of its own, one at a time.

The threads of a gang are as coroutines. One of them has the card; it gives it up where it comes to steps
that may be launched with those of others, and at its end. When all who are alive have come to such steps,
these are one launch. What is no such step (a large net, a validation, a callback) runs as if the trainings
came one after the other, so that nothing of a trainer has to stand two threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

__all__ = ["Gang", "Task", "current"]


class Task(NamedTuple):
    """Steps of one net: the address of its table on the card, how many, shared bytes of a block, blocks."""

    table: int
    n_steps: int
    n_bytes: int
    n_blocks: int = 1


# Launches tasks together and waits for them; gives the seconds.
Launcher = Callable[[Sequence[Task]], float]


class _Ticket:
    """A thread that waits for its task."""

    def __init__(self, task: Task, launcher: Launcher) -> None:
        self.task, self.launcher = task, launcher
        self.turn = _taken()
        self.seconds, self.n_together = 0.0, 0
        self.error: BaseException | None = None


def _taken() -> threading.Lock:
    """A lock that its owner will wait for."""
    found = threading.Lock()
    found.acquire()
    return found


class Gang:
    """Who trains together.

    Parameters
    ----------
    shared : list of array
        Of the host, given to several trainers: sent to the card once for all. They must stay as they are.

    Attributes
    ----------
    held : dict
        By the id of such an array: the array, and its copy on the card.
    n_launches, n_tasks : int
        So far.
    """

    def __init__(self, shared: Sequence[Any] = ()) -> None:
        self._shared = {id(one) for one in shared}
        self.held: dict[int, tuple[Any, Any]] = {}
        self.n_launches = self.n_tasks = 0
        self._mutex = threading.Lock()
        self._is_taken = False
        self._queue: deque[threading.Lock] = deque()  # of those that wait for the card, the first come first
        self._n_alive = 0
        self._tickets: list[_Ticket] = []

    def shares(self, array: object) -> bool:
        """Whether an array is one of those that several are given."""
        return id(array) in self._shared

    @contextmanager
    def member(self) -> Generator[None, None, None]:
        """Within it this thread trains; it begins when it has the card."""
        with self._mutex:
            self._n_alive += 1
        self._take()
        _here.gang = self
        try:
            yield
        finally:
            _here.gang = None
            with self._mutex:
                self._n_alive -= 1
            self._launch_if_all()
            self._pass_on()

    @contextmanager
    def closed(self, n: int) -> Generator[None, None, None]:
        """Within it nobody begins: until n have come, or half a second after its end at most."""
        self._take()
        try:
            yield
            for _ in range(500):
                with self._mutex:
                    if self._n_alive >= n:
                        break
                threading.Event().wait(0.001)
        finally:
            self._pass_on()

    def submit(self, task: Task, launcher: Launcher) -> tuple[float, int]:
        """Do the steps together with those of all others; gives the seconds of a step, and how many nets."""
        ticket = _Ticket(task, launcher)
        self._tickets.append(ticket)
        if not self._launch_if_all(ticket):
            self._pass_on()
            ticket.turn.acquire()
        if ticket.error is not None:
            raise ticket.error
        return ticket.seconds, ticket.n_together

    def _take(self) -> None:
        with self._mutex:
            if not self._is_taken:
                self._is_taken = True
                return
            turn = _taken()
            self._queue.append(turn)
        turn.acquire()

    def _pass_on(self) -> None:
        with self._mutex:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._is_taken = False

    def _launch_if_all(self, mine: _Ticket | None = None) -> bool:
        """Launch what waits where nobody else is to come; whether that was so."""
        with self._mutex:
            if not self._tickets or len(self._tickets) < self._n_alive:
                return False
        tickets, self._tickets = self._tickets, []
        try:
            seconds = tickets[0].launcher([one.task for one in tickets])
            each = seconds / max(1, max(one.task.n_steps for one in tickets))
            for one in tickets:
                one.seconds, one.n_together = each, len(tickets)
            self.n_launches += 1
            self.n_tasks += len(tickets)
        except BaseException as error:
            for one in tickets:
                one.error = error
        with self._mutex:
            self._queue.extend(one.turn for one in tickets if one is not mine)
        return True


class _Here(threading.local):
    gang: Gang | None = None


_here = _Here()


def current() -> Gang | None:
    """The gang of this thread."""
    return _here.gang
