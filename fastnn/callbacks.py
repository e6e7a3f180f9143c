"""What happens between epochs: for now the progress line."""

from __future__ import annotations

import sys
import time

__all__ = ["ProgressLine"]


class ProgressLine:
    """One line an epoch on stderr: a line that renews itself on a terminal, whole lines elsewhere.

    Parameters
    ----------
    progress : bool or None
        None shows it on a terminal only.
    n_epochs : int
        Epochs to come in all.
    """

    def __init__(self, progress: bool | None, n_epochs: int) -> None:
        self._stream = sys.stderr  # None in a process without one
        self._is_terminal = self._stream is not None and self._stream.isatty()
        self._shown = self._stream is not None and (self._is_terminal if progress is None else progress)
        self._n_epochs = n_epochs
        self._begun = time.perf_counter()
        self._line_is_open = False

    def epoch(self, done: int, loss: float) -> None:
        """Show that `done` epochs are done and the loss of the last."""
        if not self._shown:
            return
        seconds = time.perf_counter() - self._begun
        line = f"epoch {done}/{self._n_epochs}  loss {loss:.6g}  {seconds:.1f} s"
        if self._is_terminal:
            self._stream.write(f"\r\x1b[K{line}")
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()
        self._line_is_open = self._is_terminal

    def close(self) -> None:
        """End the line, whatever ended the training."""
        if self._line_is_open:
            self._stream.write("\n")
            self._stream.flush()
            self._line_is_open = False
