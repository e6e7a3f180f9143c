"""Trainings side by side: one Python thread each, which leaves Python for whole epochs of steps.

A worker's program runs on its own thread alone, as a team would take the cores of the others; the last one
that is left may use them. The last trainings begin before there is a core for each, and take turns: one that
began late would end alone, beside idle cores. A signal reaches Python's main thread only, so that workers are
held by reins (`kernels.Reins`). Threads that train on one card are a gang: they have it in turn
(`devices.gangs`).
"""

from __future__ import annotations

import contextvars
import itertools
import os
import queue
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from . import kernels, waiting
from .callbacks import Callback
from .devices.gangs import Gang
from .history import History
from .reports import Board, on_terminal
from .trainer import Trainer

__all__ = ["Job", "run"]

# Seconds that a training waits for another one to begin. Until its first epoch each holds the GIL most of the
# time and gives it up for moments: two at once would take turns, with some 20 us of sleep at each.
_BEGINNING = 0.002
# Seconds of a turn at least: waking another thread takes up to 0.05 ms.
_TURN = 0.004


@dataclass
class Job:
    """One training of several.

    Parameters
    ----------
    trainer : Trainer
    x : ndarray
        As the trainer's program takes it, and shared with other jobs.
    y : Any
    arguments : dict
        Of `fit`.
    rows : ndarray or None
        Numbers of the rows to train on; None: all.
    measure : function or None
        What follows the training, in the same worker.

    Attributes
    ----------
    outcome : History, exception or None
        None: it was not begun.
    measured : Any
        What `measure` gave.
    """

    trainer: Trainer
    x: Any
    y: Any
    arguments: dict[str, Any]
    rows: Any = None
    measure: Callable[[], Any] | None = None
    outcome: History | BaseException | None = None
    measured: Any = None
    epochs_done: int = field(default=0, repr=False)

    @property
    def epochs_trained(self) -> int:
        """How many it did."""
        return len(self.outcome.epoch) if isinstance(self.outcome, History) else self.epochs_done

    @property
    def epochs(self) -> int:
        """How many it was asked for."""
        return int(self.arguments.get("epochs", 1))

    def work(self, reins: kernels.Reins, turns: _Turns | None) -> None:
        """Train and measure in this thread; what goes wrong is the outcome."""
        trainer, watcher = self.trainer, _Watcher(self, reins, turns)
        trainer._rows, trainer._watchers = self.rows, (watcher,)
        try:
            watcher.begin()
            history = trainer.fit(self.x, self.y, progress=False, **self.arguments)
            if self.measure is not None:
                self.measured = self.measure()
            self.outcome = history
        except BaseException as error:
            self.outcome = error
        finally:
            trainer._rows, trainer._watchers = None, ()
            watcher.end()


class _Pipe:
    """A sign that one thread waits for and another one gives, with the face of `threading.Event`.

    Linux puts what waits for a pipe onto the core of the thread that writes and then sleeps. What waits for a
    lock may get the core of another one that computes, and stay there for milliseconds.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)

    def set(self) -> None:
        os.write(self._write, b".")

    def wait(self, seconds: float) -> bool:
        return bool(self._poll.poll(1e3 * seconds))

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class _Turns:
    """Lets n trainings compute at a time; who has waited longest is the next."""

    def __init__(self, n: int) -> None:
        self._free = n
        self._waiting: deque[_Pipe | threading.Event] = deque()
        self._lock = threading.Lock()
        self.beginning = threading.Lock()  # of that which begins

    def take(self, reins: kernels.Reins) -> None:
        """Wait for a turn. Raises KeyboardInterrupt where the worker was told to stop."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
            sign: _Pipe | threading.Event
            try:
                sign = _Pipe()
            except OSError:  # no more open files for this process: slower, but no reason to fail
                sign = threading.Event()
            self._waiting.append(sign)
        try:
            while not sign.wait(waiting.PAUSE):
                with self._lock:
                    if reins.stopped and sign in self._waiting:
                        self._waiting.remove(sign)
                        raise KeyboardInterrupt
        finally:
            if isinstance(sign, _Pipe):
                sign.close()

    def give(self) -> None:
        """End a turn."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1

    @property
    def are_wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)


class _Watcher(Callback):
    """Counts epochs for the bar; between two epochs it ends a training, or its turn."""

    _looks_between = False

    def __init__(self, job: Job, reins: kernels.Reins, turns: _Turns | None) -> None:
        self.job, self.reins, self.turns = job, reins, turns
        self._has_turn = self._is_beginning = False
        self._since = 0.0

    def begin(self) -> None:
        """Wait for a turn, and a little for others that begin."""
        if self.turns is not None:
            self._take(self.turns)
            self._is_beginning = self.turns.beginning.acquire(timeout=_BEGINNING)

    def _take(self, turns: _Turns) -> None:
        turns.take(self.reins)
        self._has_turn, self._since = True, time.monotonic()

    def _has_begun(self) -> None:
        if self.turns is not None and self._is_beginning:
            self._is_beginning = False
            self.turns.beginning.release()

    def end(self) -> None:
        """Leave all to the others."""
        self._has_begun()
        if self.turns is not None and self._has_turn:
            self._has_turn = False
            self.turns.give()

    def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
        self._has_begun()
        turns = self.turns
        if turns is not None and turns.are_wanted and time.monotonic() >= self._since + _TURN:
            self._has_turn = False
            turns.give()
            self._take(turns)
        if self.reins.stopped:
            raise KeyboardInterrupt

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        self.job.epochs_done += 1


def run(jobs: Sequence[Job], n_workers: int, progress: bool | None, gang: Gang | None = None) -> None:
    """Work on all jobs; their outcomes tell how each ended.

    gang: of workers that train on one card, each in its turn, and launch steps of small nets together.

    Raises
    ------
    KeyboardInterrupt, SystemExit
        Ctrl-C, or what a callback raised to end the process: after all have stopped, at the end of a step.
    """
    n_workers = min(n_workers, len(jobs))
    # A time limit would run on while its training waits for a turn.
    takes_turns = gang is None and all(job.arguments.get("time_limit") is None for job in jobs)
    n_late = min(n_workers - 1, len(jobs) - n_workers) if takes_turns else 0
    reins = [kernels.Reins(1 if n_workers > 1 else 0) for _ in range(n_workers + n_late)]
    ended: queue.SimpleQueue[tuple[int, Job | None]] = queue.SimpleQueue()
    to_do = deque(jobs)
    taking, end_is_near = threading.Lock(), threading.Event()
    turns = _Turns(n_workers) if gang is None else None  # a gang has turns of its own

    def work(number: int) -> None:
        try:
            if number >= n_workers:
                end_is_near.wait()
            with reins[number], nullcontext() if gang is None else gang.member():
                while not reins[number].stopped:
                    with taking:
                        job = to_do.popleft() if to_do else None
                        if len(to_do) <= n_late:
                            end_is_near.set()
                    if job is None:
                        break
                    job.work(reins[number], turns)
                    ended.put((number, job))
        finally:
            ended.put((number, None))

    # Each with the settings of the caller, as NumPy's errstate.
    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(work, i), name=f"fastnn-fit-{i}")
        for i in range(len(reins))
    ]
    shown = progress if progress is not None else on_terminal()
    board = Board(sum(job.epochs for job in jobs), len(jobs)) if shown else None
    started: list[threading.Thread] = []
    try:
        with nullcontext() if gang is None else gang.closed(n_workers):
            for thread in threads:
                started.append(thread)
                waiting.start(thread)
        _wait(jobs, reins, ended, board)
    finally:
        # Whatever ended the wait, nobody trains on unseen; a second Ctrl-C gives up waiting.
        for one in reins:
            one.stop()
        end_is_near.set()
        for thread in started:
            waiting.join(thread)
        if board is not None:
            board.close()


def _wait(
    jobs: Sequence[Job],
    reins: Sequence[kernels.Reins],
    ended: queue.SimpleQueue[tuple[int, Job | None]],
    board: Board | None,
) -> None:
    """Until all workers have gone home."""
    numbers = {id(job): i for i, job in enumerate(jobs)}
    alive = set(range(len(reins)))
    begun, n_ended = time.perf_counter(), itertools.count(1)
    next_look = begun
    while alive:
        try:
            worker, job = ended.get(timeout=waiting.PAUSE)
        except queue.Empty:
            if board is not None and time.perf_counter() >= next_look:
                board.show(sum(one.epochs_done for one in jobs))
                next_look = time.perf_counter() + board.PAUSE
            continue
        if job is None:
            alive.discard(worker)
            if len(alive) == 1:
                for one in alive:
                    reins[one].limit = 0
            continue
        done = next(n_ended)
        outcome = job.outcome
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            raise outcome
        if board is not None:
            job.epochs_done = job.epochs  # a training that stopped early is done, too
            board.show(sum(one.epochs_done for one in jobs))
            board.end(numbers[id(job)], done, outcome, time.perf_counter() - begun)
