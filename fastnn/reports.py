"""Callbacks that tell of a training and change nothing in it: lines in a file, progress on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from . import errors
from .callbacks import Callback

__all__ = ["Board", "CSVLogger", "ProgressBar", "on_terminal"]

# What comes of a stream that is gone, closed, None, or no stream at all.
_UNWRITABLE = (OSError, ValueError, AttributeError, TypeError)


def _csv() -> Any:
    """The module, 1 ms that only those who write tables pay."""
    import csv

    return csv


class CSVLogger(Callback):
    """Writes a line an epoch to a CSV file: epoch, loss and what else is measured, each float in full.

    The fit that finishes an interrupted one goes on in the same file: lines of epochs that the checkpoint
    does not know are taken away first.

    Parameters
    ----------
    path : str or path
    append : bool
        Whether the lines of a file that is there already are kept; it must have the same columns.
    """

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path = errors.file_path("path", path)
        self.append = errors.flag("append", append)
        self._file: TextIO | None = None
        self._position: int | None = None
        self._names: list[str] = []

    def judge(self, measured: Mapping[str, str | None]) -> None:
        self._names = ["epoch", *measured]

    def on_fit_begin(self, trainer: Any) -> None:
        self._position = None

    def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
        if self._file is None:
            self._file = self._open()

    def _open(self) -> TextIO:
        """The file, ready for the next line: as the interrupted fit left it, appended to, or new."""
        exists = os.path.exists(self.path) and os.path.getsize(self.path) > 0
        going_on = self._position is not None
        kept = going_on or (self.append and exists)
        # Stays open as long as the fit runs.
        file = open(self.path, "r+" if kept else "w", encoding="utf-8", newline="")  # noqa: SIM115
        try:
            if not kept:
                _csv().writer(file, lineterminator="\n").writerow(self._names)
                return file
            header: list[str] = next(_csv().reader(file), [])
            if header != self._names:
                raise ValueError(
                    f"{self.path} must have the columns {', '.join(self._names)}, got {', '.join(header)}"
                )
            size = file.seek(0, os.SEEK_END)
            if self._position is not None:
                if size < self._position:
                    raise ValueError(
                        f"{self.path} must have the {self._position} bytes of the interrupted fit, got {size}"
                    )
                file.seek(self._position)
                file.truncate()
        except BaseException:
            file.close()
            raise
        return file

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        if self._file is None:  # of an epoch that was resumed in its middle
            self._file = self._open()
        row = [str(epoch), *(repr(logs[name]) for name in self._names[1:])]
        size = self._file.tell()
        try:
            _csv().writer(self._file, lineterminator="\n").writerow(row)
            self._file.flush()
        except OSError as error:  # a full disk; closing tries to write the line once more
            file, self._file = self._file, None
            with contextlib.suppress(OSError):
                file.close()
            with contextlib.suppress(OSError):  # a part of the line, which the next fit would append to
                os.truncate(self.path, size)
            raise OSError(error.errno, error.strerror, self.path) from None
        self._position = self._file.tell()

    def on_fit_end(self, trainer: Any) -> None:
        if self._file is not None:
            file, self._file = self._file, None  # whatever closing says, the next fit opens it anew
            file.close()

    def state_dict(self) -> dict[str, Any]:
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._position = state["position"]


class ProgressBar(Callback):
    """Shows epochs and what was measured on stderr: a bar on a terminal where tqdm is installed, else lines.

    `fit` adds one by itself on a terminal; ``progress=False`` silences that one.
    """

    _looks_between = False

    def __init__(self) -> None:
        self._bar: Any = None
        self._begun = 0.0

    def on_fit_begin(self, trainer: Any) -> None:
        self._begun = time.perf_counter()
        self._bar = _bar(trainer.epoch, trainer.last_epoch)

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        shown = "  ".join(f"{name} {value:.6g}" for name, value in logs.items())
        if self._bar is not None:
            with contextlib.suppress(*_UNWRITABLE):
                self._bar.set_postfix_str(shown, refresh=False)
                self._bar.update()
        else:
            seconds = time.perf_counter() - self._begun
            _tell(f"epoch {epoch}/{trainer.last_epoch}  {shown}  {seconds:.1f} s")

    def on_fit_end(self, trainer: Any) -> None:
        if self._bar is not None:
            with contextlib.suppress(*_UNWRITABLE):
                self._bar.close()
            self._bar = None
        if trainer.stop_reason is not None:
            inside = f", step {trainer.epoch_step} of the next" if trainer.epoch_step else ""
            _tell(f"stopped after epoch {trainer.epoch}{inside}: {trainer.stop_reason}")


class Board:
    """One bar for many trainings on stderr, or a line for each that ends where that is no terminal.

    Parameters
    ----------
    epochs : int
        Of all.
    trainings : int
    """

    PAUSE = 0.2  # seconds between two pictures of the bar

    def __init__(self, epochs: int, trainings: int) -> None:
        self._trainings = trainings
        self._bar = _bar(0, epochs)

    def show(self, epochs_done: int) -> None:
        """So many epochs are done."""
        if self._bar is not None:
            with contextlib.suppress(*_UNWRITABLE):
                self._bar.update(epochs_done - self._bar.n)

    def end(self, number: int, done: int, outcome: Any, seconds: float) -> None:
        """A training has ended, the `done`-th of all."""
        failed = isinstance(outcome, BaseException)
        if self._bar is not None:
            with contextlib.suppress(*_UNWRITABLE):
                self._bar.set_postfix_str(f"{done}/{self._trainings} trainings", refresh=False)
        if self._bar is None or failed:
            told = f"failed: {outcome!r}" if failed else repr(outcome)
            _tell(f"trainer {number} ({done}/{self._trainings})  {told}  {seconds:.1f} s")

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            with contextlib.suppress(*_UNWRITABLE):
                self._bar.close()
            self._bar = None


def on_terminal() -> bool:
    """Whether stderr is there and a terminal."""
    try:
        return bool(sys.stderr.isatty())
    except _UNWRITABLE:
        return False


def _tell(line: str) -> None:
    """Write a line to stderr, if there is one that takes it: no training ends for want of a reader."""
    with contextlib.suppress(*_UNWRITABLE):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _bar(done: int, total: int) -> Any:
    """A bar of tqdm, or None where that is not installed or stderr is no terminal."""
    if not on_terminal():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # no thread beside the training

    try:
        return Bar(total=total, initial=done, file=sys.stderr, unit="epoch", dynamic_ncols=True)
    except _UNWRITABLE:
        return None
