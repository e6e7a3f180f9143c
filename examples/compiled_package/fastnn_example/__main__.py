"""Trains one perceptron a thread, on one thread and on four: `python -m fastnn_example`."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from . import Perceptron
from .perceptron import limit_threads

ROWS, N_IN, HIDDEN, N_OUT = 4096, 64, 96, 10


def data():
    """Rows, and the one of ten sums that is the largest."""
    x = np.random.default_rng(0).normal(size=(ROWS, N_IN)).astype(np.float32)
    return x, (x[:, :N_OUT] + x[:, N_OUT : 2 * N_OUT]).argmax(axis=1)


def trained(seed, x, y, epochs):
    """A perceptron trained in the calling thread alone."""
    limit_threads(1)  # the package has threads of its own: fastnn's pool would only compete with them
    net = Perceptron(N_IN, HIDDEN, N_OUT, seed=seed)
    return net.fit(x, y, epochs), net.parameters


def measure(epochs=100, n_threads=4):
    """Seconds of n_threads trainings in turn and side by side, and whether the bits are the same."""
    x, y = data()
    trained(0, x, y, 1)
    begin = time.perf_counter()
    alone = [trained(seed, x, y, epochs) for seed in range(n_threads)]
    middle = time.perf_counter()
    with ThreadPoolExecutor(n_threads) as executor:
        together = list(executor.map(lambda seed: trained(seed, x, y, epochs), range(n_threads)))
    end = time.perf_counter()
    same = all(np.array_equal(a[1], b[1]) and a[0] == b[0] for a, b in zip(alone, together, strict=True))
    return middle - begin, end - middle, same


if __name__ == "__main__":
    one, four, same = measure()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"four trainings in turn {one:.2f} s, on four threads {four:.2f} s: {one / four:.2f} times")
    print(f"as fast on {cores} cores; the bits are {'the same' if same else 'OTHERS'}")
