"""The FMA peak of this machine: registers alone, on one or several threads."""

from __future__ import annotations

import threading
import time

from fastnn import kernels

__all__ = ["fma_peak"]

# What a call is to take: long beside a change of hands of the GIL, short beside a measurement.
CALL_SECONDS = 2e-3


def fma_peak(seconds: float, threads: int, itemsize: int = 4) -> float:
    """FLOP/s of all threads together, in float32 (itemsize 4) or float64 (8); about `seconds` are spent."""
    turns = 1000
    while True:
        began = time.perf_counter()
        kernels.fma_loop(turns, itemsize)
        taken = time.perf_counter() - began
        if taken > CALL_SECONDS / 4:
            break
        turns *= 2
    turns = max(1, int(turns * CALL_SECONDS / taken))
    rates = [0.0] * threads
    start = threading.Barrier(threads)

    def work(number: int) -> None:
        start.wait()
        begin = now = time.perf_counter()
        done = 0.0
        while now - begin < seconds:
            done += kernels.fma_loop(turns, itemsize)
            now = time.perf_counter()
        rates[number] = done / (now - begin)

    others = [threading.Thread(target=work, args=(number,)) for number in range(1, threads)]
    for other in others:
        other.start()
    work(0)
    for other in others:
        other.join()
    return sum(rates)
