"""Many networks: side by side and one after the other, and a grid beside scikit-learn's GridSearchCV.

    python benchmarks/bench_many.py [--quick] [--out FOLDER]

Both are on scikit-learn's handwritten digits, 1797 rows of 64. The bits of `fit_many` are compared with
those of each training alone, and its time with that on one thread, the quicker way for nets so small. The
grids have the same networks, epochs, batches and folds, and both best accuracies are shown. n_jobs and
n_workers are 2, or fewer where this process may use fewer cores.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import case_tables
import numpy as np
from sklearn.datasets import load_digits

import fastnn as fn
from fastnn.demo import uncap_blas

FOLDER = Path(__file__).parent
LIMITS = {
    "16 nets side by side on 2 cores": "1.9x one after the other",
    "the grid": "8x GridSearchCV(n_jobs=2)",
}


def seconds_of(call: Callable[[], Any]) -> tuple[float, Any]:
    """How long a call takes, and what it gives."""
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    """Of each contender's times."""
    return {name: statistics.median(of) for name, of in times.items()}


def sixteen(x: Any, y: Any, workers: int, quick: bool) -> dict[str, Any]:
    """16 nets of 64-64-10, seeds 0 to 15, batch 32: in turn, and their bits compared."""
    n, epochs, rounds = (4, 2, 1) if quick else (16, 40, 5)

    def trainers() -> list[fn.Trainer]:
        return [
            fn.Trainer(
                fn.Sequential(fn.Dense(64, "relu"), fn.Dense(10)), "cross_entropy", fn.Adam(1e-3), seed=i
            )
            for i in range(n)
        ]

    def alone(threads: int) -> list[fn.Trainer]:
        found = trainers()
        fn.set_num_threads(threads)
        for one in found:
            one.fit(x, y, epochs=epochs, progress=False)
        fn.set_num_threads(before)
        return found

    def together() -> list[fn.Trainer]:
        found = trainers()
        fn.fit_many(found, x, y, epochs=epochs, n_workers=workers, progress=False)
        return found

    before = fn.get_num_threads()
    alone(1), together()
    times: dict[str, list[float]] = {"alone": [], "team": [], "together": []}
    for _ in range(rounds):
        first, one = seconds_of(lambda: alone(1))
        times["team"].append(seconds_of(lambda: alone(before))[0])
        second, other = seconds_of(together)
        times["alone"].append(first)
        times["together"].append(second)
        for a, b in zip(one, other, strict=True):
            if a.model.parameters.tobytes() != b.model.parameters.tobytes():
                raise SystemExit("fit_many: other bits than alone")
    ratio = statistics.median(a / b for a, b in zip(times["alone"], times["together"], strict=True))
    return case_tables.row(
        f"{n} nets 64-64-10, {epochs} epochs",
        medians(
            {
                "one after the other, one thread": times["alone"],
                "the same on all threads": times["team"],
                "fit_many": times["together"],
            }
        ),
        ratio=round(ratio, 2),
        same_bits=True,
    )


def grids(x: Any, y: Any, workers: int, quick: bool) -> dict[str, Any]:
    """2 rates, 2 widths, 2 batch sizes, 5 folds: 40 trainings."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.neural_network import MLPClassifier

    epochs, rounds, folds = (2, 1, 2) if quick else (20, 3, 5)
    widths = [32] if quick else [32, 64]
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=0).split(x, y))

    def theirs() -> float:
        net = MLPClassifier(alpha=0.0, max_iter=epochs, tol=0.0, n_iter_no_change=epochs, random_state=0)
        search = GridSearchCV(
            net,
            {
                "learning_rate_init": [1e-3, 3e-3],
                "hidden_layer_sizes": [(width,) for width in widths],
                "batch_size": [32, 128],
            },
            cv=splits,
            n_jobs=workers,
            refit=False,
        )
        search.fit(x, y)
        return float(search.best_score_)

    def make(lr: float, width: int) -> fn.Trainer:
        model = fn.Sequential(fn.Dense(width, "relu"), fn.Dense(10))
        return fn.Trainer(model, "cross_entropy", fn.Adam(lr), ["accuracy"], seed=0)

    def ours() -> float:
        parameters = {"lr": [1e-3, 3e-3], "width": widths, "batch_size": [32, 128]}
        found = fn.grid(
            make, parameters, x, y, folds=splits, epochs=epochs, n_workers=workers, progress=False
        )
        return float(found.best["accuracy"])

    warnings.simplefilter("ignore", ConvergenceWarning)
    os.environ["PYTHONWARNINGS"] = "ignore"  # of the processes that GridSearchCV starts
    theirs(), ours()  # their processes, and our modules, are there
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(rounds):
        taken, accuracy = seconds_of(ours)
        times["ours"].append(taken)
        taken, their_accuracy = seconds_of(theirs)
        times["theirs"].append(taken)
    if abs(accuracy - their_accuracy) > (1.0 if quick else 0.02):
        raise SystemExit(f"the grid: best accuracy {accuracy:.4f}, of scikit-learn {their_accuracy:.4f}")
    ratio = statistics.median(b / a for a, b in zip(times["ours"], times["theirs"], strict=True))
    return case_tables.row(
        f"digits grid, {4 * len(widths) * folds} trainings of {epochs} epochs",
        medians({"GridSearchCV": times["theirs"], "fn.grid": times["ours"]}),
        ratio=round(ratio, 2),
        best_accuracy=round(accuracy, 4),
        best_accuracy_of_scikit_learn=round(their_accuracy, 4),
    )


def main() -> None:
    """Measure, print, save."""
    uncap_blas(sys.argv)
    arguments = case_tables.parser(__doc__).parse_args()
    digits, y = load_digits(return_X_y=True)
    x = (digits / 16).astype(np.float32)
    y = y.astype(np.int64)
    workers = min(2, fn.get_num_threads())
    machine = case_tables.machine(workers=workers)
    rows = [sixteen(x, y, workers, arguments.quick), grids(x, y, workers, arguments.quick)]
    lines = case_tables.head("Many networks", machine, LIMITS)
    lines += case_tables.table("case | times", rows, lambda name, seconds: f"{name} {seconds * 1e3:.0f} ms")
    content = {"title": "Many networks", "machine": machine, "rows": rows}
    case_tables.save("many", case_tables.folder(arguments), content, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
