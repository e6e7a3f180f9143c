"""Files that appear whole or not at all, whatever ends the process while they are written."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from typing import BinaryIO

from . import errors

__all__ = ["replacing"]

_SUFFIX = ".tmp"


@contextlib.contextmanager
def replacing(path: object) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` at the end, whole and on the disk, or not at all.

    It is written under a temporary name in the same folder. A link stays, and what it points to is
    replaced. A new file has the permissions that any new file gets, one that was there keeps its own.

    Raises
    ------
    OSError
        It names `path`. What was there before is untouched.
    """
    given = errors.file_path("path", path)
    target = os.path.realpath(given)
    folder, name = os.path.split(target)
    temporary = ""
    try:
        mode = _writable_mode(given, target)
        _remove_abandoned(folder, name)
        temporary, number = _begin(folder, name, 0o666 if mode is None else 0o600)
        with open(number, "wb") as file:
            if mode is not None:
                os.fchmod(number, mode)
            yield file
            file.flush()
            os.fsync(number)
            os.replace(temporary, target)
        _sync_folder(folder)
    except BaseException as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # gone already where it has taken its place
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, given) from error
        raise


def _begin(folder: str, name: str, mode: int) -> tuple[str, int]:
    """A temporary file for `name`, new, open and locked: its path and number."""
    while True:
        path = os.path.join(folder, f"{_prefix(name)}{secrets.token_hex(8)}{_SUFFIX}")
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            if not _lock(number, fcntl.LOCK_EX) or os.fstat(number).st_nlink:
                return path, number
        except BaseException:
            os.close(number)
            os.unlink(path)
            raise
        os.close(number)  # another process has taken it for abandoned before it was locked


def _remove_abandoned(folder: str, name: str) -> None:
    """Remove the temporary files of `name` that killed processes left: those that nobody has locked."""
    pattern = re.compile(re.escape(_prefix(name)) + "[0-9a-f]{16}" + re.escape(_SUFFIX))
    for found in os.listdir(folder or "."):
        if not pattern.fullmatch(found):
            continue
        path = os.path.join(folder, found)
        with contextlib.suppress(OSError):  # another process was quicker, or owns it
            number = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if _lock(number, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    os.unlink(path)
            finally:
                os.close(number)


def _prefix(name: str) -> str:
    """How temporary files of `name` begin: short enough, and hidden."""
    return f".{name[:50]}."


def _lock(number: int, how: int) -> bool:
    """Whether the file could be locked; some filesystems have no locks, and nothing is abandoned there."""
    try:
        fcntl.flock(number, how)
    except OSError:
        return False
    return True


def _writable_mode(given: str, target: str) -> int | None:
    """Permissions of the file that is there, None where none is; refuses what can not be replaced."""
    if not os.path.basename(given):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    try:
        found = os.stat(target)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found.st_mode):
        # Replaced, a device like /dev/null would be gone.
        raise OSError(errno.EINVAL, "It is a device or a pipe")
    if not os.access(target, os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    return stat.S_IMODE(found.st_mode)


def _sync_folder(folder: str) -> None:
    """Have the folder's list of names on the disk too."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a filesystem that has no such thing
            raise
    finally:
        os.close(number)
