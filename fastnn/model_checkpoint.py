"""Files while a training runs: after epochs, and after steps or minutes of long ones."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from . import checkpoints, errors, waiting
from .callbacks import Monitor, multiple_after

__all__ = ["ModelCheckpoint"]


class ModelCheckpoint(Monitor):
    """Saves after each epoch, or after each that is better than all before; and inside long epochs.

    What is saved inside an epoch is copied at a step and written by a thread beside the training, one file at
    a time. A file appears whole or not at all, and older files are taken away only when it is on the disk. A
    disk that is full ends the fit with the OSError that tells so; older files are as they were.

    Parameters
    ----------
    path : str or path
        May have fields, ``"run-{epoch:03d}-{step}.safetensors"``: the epoch, the steps done and what was
        measured; inside an epoch that is nan, but for what `monitor` goes by. Its folder must be there.
    monitor : str
        What tells the better epoch.
    save_best_only : bool
    model_only : bool
        Whether `model.save` is called instead of `trainer.save_checkpoint`.
    min_delta : float
        An improvement is larger than this.
    mode : "min", "max" or None
        Which way is better; None: as the loss or metric says.
    every_steps : int, optional
        Also after steps that are multiples of this; with save_best_only validation rows are measured there.
    every_minutes : float, optional
        Also when so much time has passed since the last file, at a step.
    keep : int, optional
        How many of its newest files are kept; None: all. Only a path with fields gives more than one.
    keep_best : bool
        Whether that of the best epoch is kept beside those.

    Attributes
    ----------
    saved : str or None
        Path of the last file that was written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        monitor: str = "val_loss",
        save_best_only: bool = False,
        model_only: bool = False,
        min_delta: float = 0.0,
        mode: str | None = None,
        every_steps: int | None = None,
        every_minutes: float | None = None,
        keep: int | None = None,
        keep_best: bool = False,
    ) -> None:
        self.path = errors.file_path("path", path)
        self.save_best_only = errors.flag("save_best_only", save_best_only)
        self.model_only = errors.flag("model_only", model_only)
        self.every_steps = None if every_steps is None else errors.integer("every_steps", every_steps)
        self.every_minutes = None if every_minutes is None else errors.real("every_minutes", every_minutes)
        if self.every_minutes == 0:
            raise ValueError("every_minutes must be above 0, got 0.0")
        self.keep = None if keep is None else errors.integer("keep", keep)
        self.keep_best = errors.flag("keep_best", keep_best)
        if self.save_best_only and self.every_minutes is not None:
            raise ValueError(
                "every_minutes must be None with save_best_only: which file is best would depend on the "
                "machine's speed; give every_steps"
            )
        super().__init__(monitor, mode, min_delta)
        if self.save_best_only and self.every_steps is not None:
            self._judge_steps()

    def _forget(self) -> None:
        super()._forget()
        self.saved: str | None = None
        self._due = False
        self._last = time.monotonic()
        self._files: list[str] = []  # its own, the oldest first
        self._gone: list[str] = []  # of those, taken away when the last file was written
        self._best_file: str | None = None
        self._writer = Writer()

    def judge(self, measured: Mapping[str, str | None]) -> None:
        if self.save_best_only or self.keep_best:
            super().judge(measured)
        values: dict[str, Any] = {"epoch": 1, "step": 1, **dict.fromkeys(measured, 0.5)}
        try:
            import string  # 1 ms that only those who save pay

            fields = {name for _, name, _, _ in string.Formatter().parse(self.path) if name is not None}
            for name in sorted(fields - set(values)):
                raise ValueError(f"its fields must be of {', '.join(values)}, got {{{name}}}")
            self.path.format(**values)
        except ValueError as error:
            raise ValueError(f"path of ModelCheckpoint, {self.path!r}: {error}") from None
        folder = os.path.dirname(self.path)
        # Said now, not after an epoch. One with fields may be made on the way.
        if folder and "{" not in folder and not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, "path of ModelCheckpoint: no such folder", folder)
        self._unmeasured = dict.fromkeys(measured, math.nan)

    def on_fit_begin(self, trainer: Any) -> None:
        self._forget()

    # ------------------------------------------------------------ when

    def next_step(self, trainer: Any) -> int | None:
        return None if self.every_steps is None else multiple_after(trainer.step, self.every_steps)

    def next_time(self, trainer: Any) -> float | None:
        return None if self.every_minutes is None else self._last + 60 * self.every_minutes

    def on_step(self, trainer: Any, epoch: int) -> None:
        if self.save_best_only:
            self._due = self._improved(epoch, trainer.validate())

    def on_step_checkpoint(self, trainer: Any, epoch: int) -> None:
        if self.save_best_only and not self._due:
            return
        logs = self._unmeasured | (trainer.validate() if self.save_best_only else {})
        self._save(trainer, epoch, logs, inside=True)

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        is_better = (self.save_best_only or self.keep_best) and self._improved(epoch, logs)
        # _due: the last step of the epoch was better, and its file is still to be written
        self._due = self._due or is_better or not self.save_best_only
        if is_better and self.keep_best:
            self._best_file = self._named(trainer, epoch, logs)

    def on_checkpoint(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        if self._due:
            self._save(trainer, epoch, logs, inside=False)

    def on_fit_end(self, trainer: Any) -> None:
        self._writer.wait()
        # A process killed between the last file and what it made too many left that for the one that goes on.
        self._take_away([one for one in self._too_many() if one not in self._gone])

    # ------------------------------------------------------------ files

    def _named(self, trainer: Any, epoch: int, logs: Mapping[str, float]) -> str:
        return self.path.format(epoch=epoch, step=trainer.step, **logs)

    def _save(self, trainer: Any, epoch: int, logs: Mapping[str, float], *, inside: bool) -> None:
        """Write the file of this moment, then take away those that are too many."""
        self._writer.wait()
        path = self._named(trainer, epoch, logs)
        self._due, self._last = False, time.monotonic()
        # Those that the last file made too many are gone, or will be with this one: a kill between the two.
        self._files = [one for one in self._files if one not in (*self._gone, path)] + [path]
        self._gone = self._too_many()
        gone = list(self._gone)
        beside = inside and not self.model_only
        write: Callable[[Any], None] = trainer.model.save if self.model_only else trainer.save_checkpoint
        if beside:
            write = checkpoints.writer(trainer, copied=True)

        def work() -> None:
            write(path)
            self._take_away(gone)
            self.saved = path

        if beside:
            self._writer.begin(work)
        else:
            work()

    def _too_many(self) -> list[str]:
        too_many = [] if self.keep is None else self._files[: -self.keep]
        return [one for one in too_many if one != self._best_file]

    @staticmethod
    def _take_away(files: list[str]) -> None:
        for one in files:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(one)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self.keep is not None:
            state |= {"files": list(self._files), "best_file": self._best_file}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._files, self._best_file = list(state.get("files", [])), state.get("best_file")


class Writer:
    """A thread beside the training that writes one file at a time."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def begin(self, work: Callable[[], None]) -> None:
        """Do it in the thread; what it raises comes out of the next `wait`."""

        def run() -> None:
            try:
                work()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, name="fastnn-checkpoint")
        waiting.start(self._thread)

    def wait(self) -> None:
        """Until the file is on the disk."""
        if self._thread is not None:
            waiting.join(self._thread)
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error
