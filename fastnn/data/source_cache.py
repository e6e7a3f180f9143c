"""The folder that a conversion of tables writes: it appears whole or not at all, and is told of meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Generator

from .. import errors

__all__ = ["Progress", "replacing_folder"]

# Seconds between two lines of progress.
_PAUSE = 1.0


@contextlib.contextmanager
def replacing_folder(folder: str) -> Generator[str, None, None]:
    """A folder to fill that takes the place of `folder` at the end, whole and on the disk, or not at all.

    Raises
    ------
    OSError
        It names `folder`; nothing is left of what was written.
    """
    target = os.path.realpath(folder)
    parent, name = os.path.split(target)
    _remove_abandoned(parent, name)
    room = os.path.join(parent, f".{name}.{secrets.token_hex(8)}.tmp")
    lock = None
    try:
        os.mkdir(room)
        lock = os.open(room, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield room
        os.fsync(lock)
        if os.path.lexists(target):
            old = f"{room}.old"
            os.rename(target, old)
            os.rename(room, target)
            shutil.rmtree(old)
        else:
            os.rename(room, target)
        number = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except BaseException as error:
        shutil.rmtree(room, ignore_errors=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            why = f"the cache cannot be written: {error.strerror}"
            raise OSError(error.errno, why, folder) from error
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _remove_abandoned(parent: str, name: str) -> None:
    """Remove what killed conversions left: folders that nobody has locked."""
    pattern = re.compile(re.escape(f".{name}.") + r"[0-9a-f]{16}\.tmp(\.old)?")
    for found in os.listdir(parent):
        if not pattern.fullmatch(found):
            continue
        path = os.path.join(parent, found)
        with contextlib.suppress(OSError):
            number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(number)


class Progress:
    """A line on stderr now and then."""

    def __init__(self, shown: bool | None) -> None:
        if shown is None:
            isatty = getattr(sys.stderr, "isatty", None)
            shown = bool(isatty is not None and isatty())
        self._shown = errors.flag("progress", shown)
        self._last = time.monotonic()
        self._what = ""

    def tell(self, what: str, n_rows: int, of: str) -> None:
        """So many rows are done."""
        now = time.monotonic()
        if self._shown and (now - self._last > _PAUSE or what != self._what):
            self._last, self._what = now, what
            print(f"fastnn: {n_rows} rows {what} of {of}", file=sys.stderr)

    def end(self) -> None:
        """All is written."""
        if self._shown:
            print("fastnn: the cache is written", file=sys.stderr)
