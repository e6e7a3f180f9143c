"""What is measured on, and a lock for machines that several people measure on."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import fastnn as fn

from ..demo import BLAS_CAPS
from .processes import environment

__all__ = ["alone", "cpu_name", "machine"]


def cpu_name() -> str:
    """As the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine() -> dict[str, Any]:
    """The machine, Python, NumPy and fastnn; `caps` is what caps OpenBLAS in the peers' processes."""
    given = environment(1)
    config = fn.show_config(mode="dict")
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "fastnn": {key: value for key, value in config.items() if key != "threads_started"},
        "caps": {name: given.get(name) for name in BLAS_CAPS},
    }


class _Lock:
    """A lock file: held with others while things are made, alone while they are timed."""

    def __init__(self, path: Path) -> None:
        import fcntl

        self._fcntl, self._file = fcntl, path.open("a")
        fcntl.flock(self._file, fcntl.LOCK_SH)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        self._fcntl.flock(self._file, self._fcntl.LOCK_EX)
        try:
            yield
        finally:
            self._fcntl.flock(self._file, self._fcntl.LOCK_SH)

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def alone(path: Path | None) -> Iterator[Any]:
    """Gives a function of no arguments: contexts in which nobody else who respects the lock is at work."""
    if path is None:
        yield contextlib.nullcontext
        return
    if sys.platform == "win32":
        raise ValueError("--lock needs flock, which this system lacks")
    lock = _Lock(path)
    try:
        yield lock.alone
    finally:
        lock.close()
