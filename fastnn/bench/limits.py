"""What this machine can do at most, on one or several threads: FMAs in registers, bytes read from memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from fastnn import kernels

__all__ = ["fma_peak", "read_rate"]

# What a call is to take: long beside a change of hands of the GIL, short beside a measurement.
CALL_SECONDS = 2e-3
# Read by each thread in turn: with two threads 128 MB, beyond the caches of most machines.
READ_BYTES = 64 << 20


def _together(call: Callable[[int], float], seconds: float, threads: int) -> float:
    """Sum over threads of what their calls give for each second; a call is told the number of its thread."""
    rates = [0.0] * threads
    start = threading.Barrier(threads)

    def work(number: int) -> None:
        start.wait()
        begin = now = time.perf_counter()
        done = 0.0
        while now - begin < seconds:
            done += call(number)
            now = time.perf_counter()
        rates[number] = done / (now - begin)

    others = [threading.Thread(target=work, args=(number,)) for number in range(1, threads)]
    for other in others:
        other.start()
    work(0)
    for other in others:
        other.join()
    return sum(rates)


def fma_peak(seconds: float, threads: int, itemsize: int = 4) -> float:
    """FLOP/s of all threads together, in float32 (itemsize 4) or float64 (8); about `seconds` are spent."""
    turns, taken = 500, 0.0
    while taken < CALL_SECONDS / 4:
        turns *= 2
        began = time.perf_counter()
        kernels.fma_loop(turns, itemsize)
        taken = time.perf_counter() - began
    turns = max(1, int(turns * CALL_SECONDS / taken))
    return _together(lambda number: kernels.fma_loop(turns, itemsize), seconds, threads)


def read_rate(seconds: float, threads: int) -> float:
    """Bytes a second that all threads together read from memory."""
    arrays = [np.zeros(READ_BYTES // 4, np.float32) for _ in range(threads)]
    for array in arrays:
        array.fill(1)  # else all of it is one page of zeros

    def read(number: int) -> float:
        arrays[number].max()  # several elements an instruction, and nothing written
        return float(READ_BYTES)

    return _together(read, seconds, threads)
