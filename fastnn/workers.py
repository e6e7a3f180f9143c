"""Trainings side by side: one Python thread each, which leaves Python for whole segments of steps.

A worker's program runs on its own thread alone, as a team would take the cores of the others; the last one
that is left may use them. A signal reaches Python's main thread only, so that workers are held by reins
(`kernels.Reins`). Trainings on one card are a gang (`devices.gangs`), whose threads have the card in turn.
"""

from __future__ import annotations

import contextvars
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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

    def work(self, reins: kernels.Reins) -> None:
        """Train and measure in this thread; what goes wrong is the outcome."""
        trainer = self.trainer
        trainer._rows, trainer._watchers = self.rows, (_Watcher(self, reins),)
        try:
            history = trainer.fit(self.x, self.y, progress=False, **self.arguments)
            if self.measure is not None:
                self.measured = self.measure()
            self.outcome = history
        except BaseException as error:
            self.outcome = error
        finally:
            trainer._rows, trainer._watchers = None, ()


class _Watcher(Callback):
    """Counts epochs for the bar, and ends a training between two epochs."""

    def __init__(self, job: Job, reins: kernels.Reins) -> None:
        self.job, self.reins = job, reins

    def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
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
    reins = [kernels.Reins(1 if n_workers > 1 else 0) for _ in range(n_workers)]
    ended: queue.SimpleQueue[tuple[int, Job | None]] = queue.SimpleQueue()
    to_do: Iterator[Job] = iter(jobs)
    taking = threading.Lock()

    def work(number: int) -> None:
        try:
            with reins[number], nullcontext() if gang is None else gang.member():
                while not reins[number].stopped:
                    with taking:
                        job = next(to_do, None)
                    if job is None:
                        break
                    job.work(reins[number])
                    ended.put((number, job))
        finally:
            ended.put((number, None))

    # Each with the settings of the caller, as NumPy's errstate.
    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(work, i), name=f"fastnn-fit-{i}")
        for i in range(n_workers)
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
