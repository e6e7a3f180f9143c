"""How many cores this process may use."""

from __future__ import annotations

import os

__all__ = ["default_threads", "usable_cores"]


def _quota_cores() -> int | None:
    """Cores that the cgroup's CPU quota leaves, rounded up; None without a quota."""
    for path, period_path in (
        ("/sys/fs/cgroup/cpu.max", None),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        try:
            with open(path) as file:
                words = file.read().split()
            if period_path is not None:
                with open(period_path) as file:
                    words += file.read().split()
            if words[0] in ("max", "-1"):
                continue
            return max(1, -(-int(words[0]) // int(words[1])))
        except (OSError, ValueError, IndexError):
            continue
    return None


def default_threads(most: int) -> int:
    """Threads to use unless told otherwise.

    FASTNN_NUM_THREADS, else OMP_NUM_THREADS (its first level), else the cores that affinity and the
    cgroup's quota leave to this process.

    Raises
    ------
    ValueError
        FASTNN_NUM_THREADS is no whole number from 1 to `most`.
    """
    for variable in ("FASTNN_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(variable, "").split(",")[0].strip()
        if text:
            number = int(text) if text.isdecimal() and len(text) < 10 else 0
            if 1 <= number <= most:
                return number
            if variable == "FASTNN_NUM_THREADS":
                raise ValueError(f"{variable} must be a whole number from 1 to {most}, got {text!r}")
            if number > most:  # that one is not ours to judge
                return most
    return min(usable_cores(), most)


def usable_cores() -> int:
    """Cores that affinity and the cgroup's quota leave to this process."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _quota_cores() or cores)
