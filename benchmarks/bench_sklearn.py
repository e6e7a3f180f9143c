"""fit and predict of fastnn.sklearn beside scikit-learn's own: 20 cells and a grid search.

    python benchmarks/bench_sklearn.py [--quick] [--out FOLDER]

Each cell: the two in turn, the least of several times each, both held to the same number of threads, each
after a pause in which this process was idle (OpenBLAS's threads spin on for 0.1 s). Results are compared
first: scores may not differ by more than a row in a hundred. "At most" is what a fit would reach that did its
matrix products at the FMA peak of the machine, measured here, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from sklearn import neural_network
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from threadpoolctl import threadpool_info, threadpool_limits
from timing import machine, until_idle

import fastnn as fn
import fastnn.sklearn as ours
from fastnn.bench.limits import fma_peak
from fastnn.demo import uncap_blas

# name: inputs, hidden, classes, batch, rows, epochs, goal of fit
NETS: dict[str, tuple[int, tuple[int, ...], int, int, int, int, float]] = {
    "20-32-3, batch 32": (20, (32,), 3, 32, 1000, 6, 6.0),
    "64-64-64-10, batch 32": (64, (64, 64), 10, 32, 1797, 4, 5.0),
    "784-128-10, batch 200": (784, (128,), 10, 200, 4000, 2, 2.5),
}


LINES: list[str] = []
ROWS: list[dict[str, Any]] = []
PEAKS: dict[tuple[str, int], float] = {}  # FLOP/s by dtype and threads
PAUSE = 0.02


def told(line: str) -> None:
    """A line to the screen and the file."""
    print(line, flush=True)
    LINES.append(line)


def samples_of(calls: list[Callable[[], Any]], turns: int, pause: float) -> list[list[float]]:
    """Seconds of each call, several turns."""
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(turns):
        for seconds, call in zip(found, calls, strict=True):
            until_idle(pause)
            begin = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - begin)
    return found


def products(n_in: int, hidden: tuple[int, ...], classes: int) -> int:
    """Floating point operations of a row in training: each weight forward and back, but for the way to x."""
    widths = n_in, *hidden, classes
    weights = [a * b for a, b in pairwise(widths)]
    return 6 * sum(weights) - 2 * weights[0]


def often(call: Callable[[Any], Any], x: Any, n: int) -> None:
    """n calls."""
    for _ in range(n):
        call(x)


def cell(
    what: str,
    calls: list[Callable[[], Any]],
    turns: int,
    goal: float,
    *,
    count: int = 1,
    bound: float | None = None,
) -> bool:
    """Measure and print one; whether it reached its goal. Times in microseconds."""
    found = samples_of(calls, turns, PAUSE if turns > 1 else 0)
    samples = [[1e6 * seconds / count for seconds in one] for one in found]
    stock, own = map(min, samples)
    names = "scikit-learn", "fastnn"
    timings = {
        name: {"least": min(one), "median": statistics.median(one)}
        for name, one in zip(names, samples, strict=True)
    }
    ROWS.append({"case": what, "timings": timings, "goal": goal, "bound": bound})
    highest = f"{stock / bound:.1f}" if bound else ""
    told(f"| {what} | {stock:.1f} | {own:.1f} | {stock / own:.1f} | {goal:g} | {highest} |")
    return stock / own >= goal


def cells(quick: bool) -> int:
    """All 20; how many missed their goal."""
    missed, turns = 0, 1 if quick else 5
    rng = np.random.RandomState(0)
    told("| cell | scikit-learn µs | fastnn µs | times faster | goal | at most |")
    told("|---|---:|---:|---:|---:|---:|")
    for net, (n_in, hidden, classes, batch, rows, epochs, goal) in NETS.items():
        rows, epochs = (rows // 10, 1) if quick else (rows, epochs)
        y = rng.randint(0, classes, rows)
        for dtype in ("float32", "float64"):
            x = (rng.rand(rows, n_in) + 0.3 * y[:, None] / classes).astype(dtype)
            given: dict[str, Any] = {"batch_size": batch, "max_iter": epochs, "random_state": 0}
            pair = [m.MLPClassifier(hidden, **given).fit(x, y) for m in (neural_network, ours)]
            assert abs(pair[0].score(x, y) - pair[1].score(x, y)) < 0.01
            work = products(n_in, hidden, classes) * rows * epochs
            for threads in (1, 2):
                fn.set_num_threads(threads)
                bound = 1e6 * work / PEAKS[dtype, threads]
                with threadpool_limits(threads):
                    calls = [partial(m.fit, x, y) for m in pair]
                    what = f"fit {net}, {dtype}, {threads} threads"
                    missed += not cell(what, calls, turns, goal, bound=bound)
            fn.set_num_threads(1)
            with threadpool_limits(1):
                one, n = x[:1], 10 if quick else 100
                calls = [partial(often, m.predict, one, n) for m in pair]
                missed += not cell(f"predict a row, {net}, {dtype}", calls, turns, 10.0, count=n)
                if n_in == 784:
                    calls = [partial(m.predict, x) for m in pair]
                    missed += not cell(f"predict {rows} rows, {net}, {dtype}", calls, turns, 1.0)
    return missed


def grid(quick: bool, n_jobs: int) -> bool:
    """The digits grid of examples/sklearn/grid_search.py; whether it reached its goal."""
    x, y = load_digits(return_X_y=True)
    x, y = (x[:200] / 16, y[:200]) if quick else (x / 16, y)
    sizes = {"hidden_layer_sizes": [(16,), (32,)], "alpha": [1e-4, 1e-2], "learning_rate_init": [1e-3, 1e-2]}
    calls = []
    for module in (neural_network, ours):
        model = module.MLPClassifier(max_iter=2 if quick else 20, random_state=0, batch_size=32)
        search = GridSearchCV(model, sizes, cv=3, n_jobs=n_jobs, refit=False)
        search.fit(x[:100], y[:100])  # the workers have started, and have imported
        calls.append(partial(search.fit, x, y))
    return cell(f"grid search of digits, n_jobs={n_jobs}", calls, 1, 3.0)


def main() -> None:
    uncap_blas(sys.argv)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for sklearn.md and sklearn.json")
    arguments = parser.parse_args()
    quick = arguments.quick
    warnings.simplefilter("ignore")
    os.environ["PYTHONWARNINGS"] = "ignore"  # of workers
    pools = (one for one in threadpool_info() if one["user_api"] == "blas")
    blas = {f"{one['internal_api']} {one.get('architecture', '')}" for one in pools}
    told(f"scikit-learn {sklearn.__version__}, fastnn {fn.__version__} {fn.isa()}, {', '.join(sorted(blas))}")
    seconds, tries = (0.002, 1) if quick else (0.2, 3)
    for dtype in ("float32", "float64"):
        for threads in (1, 2):
            size = np.dtype(dtype).itemsize
            PEAKS[dtype, threads] = max(fma_peak(seconds, threads, size) for _ in range(tries))
    peaks = ", ".join(f"{rate / 1e9:.0f} ({dtype}, {n} threads)" for (dtype, n), rate in PEAKS.items())
    told(f"\nFMA peak in GFLOP/s: {peaks}. At most: were the fit no more than its products, at this peak.\n")
    missed = cells(quick)
    for n_jobs in (1, 2):
        fn.set_num_threads(1)
        with threadpool_limits(1):
            missed += not grid(quick, n_jobs)
    told(f"\n{missed} of 22 missed their goal")
    folder = arguments.out or (None if quick else Path(__file__).parent / "results")
    if folder is not None:
        peaks_by_name = {f"{dtype}, {n} threads": rate for (dtype, n), rate in PEAKS.items()}
        saved = {"machine": machine(), "peaks": peaks_by_name, "rows": ROWS}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sklearn.json").write_text(json.dumps(saved, indent=1) + "\n")
        (folder / "sklearn.md").write_text("# scikit-learn\n\n" + "\n".join(LINES) + "\n")


if __name__ == "__main__":
    main()
