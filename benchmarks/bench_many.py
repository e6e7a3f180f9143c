"""Many networks: side by side and one after the other, and a grid beside scikit-learn's GridSearchCV.

    python benchmarks/bench_many.py [--quick] [--out FOLDER]

Both are on scikit-learn's handwritten digits, 1797 rows of 64. The bits of `fit_many` are compared with
those of each training alone, and its time with that on one thread, the quicker way for nets so small. The
grids have the same networks, epochs, batches and folds, and both best accuracies are shown. n_jobs and
n_workers are 2, or fewer where this process may use fewer cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import fastnn as fn
from fastnn.demo import BLAS_CAPS, uncap_blas

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
    return row(
        f"{n} nets 64-64-10, {epochs} epochs",
        {
            "one after the other, one thread": times["alone"],
            "the same on all threads": times["team"],
            "fit_many": times["together"],
        },
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
    return row(
        f"digits grid, {4 * len(widths) * folds} trainings of {epochs} epochs",
        {"GridSearchCV": times["theirs"], "fn.grid": times["ours"]},
        ratio=round(ratio, 2),
        best_accuracy=round(accuracy, 4),
        best_accuracy_of_scikit_learn=round(their_accuracy, 4),
    )


def row(case: str, times: dict[str, list[float]], **facts: Any) -> dict[str, Any]:
    """A line of the table."""
    return {
        "case": case,
        **facts,
        "timings": {name: {"median": statistics.median(of)} for name, of in times.items()},
    }


def markdown(machine: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = ["# Many networks", "", ", ".join(f"{key} {value}" for key, value in machine.items()), ""]
    lines += ["Limits: " + ", ".join(f"{key} {value}" for key, value in LIMITS.items()), ""]
    lines += ["| case | times | |", "|---|---|---|"]
    for one in rows:
        times = ", ".join(f"{name} {of['median'] * 1e3:.0f} ms" for name, of in one["timings"].items())
        facts = ", ".join(
            f"{k.replace('_', ' ')} {v}" for k, v in one.items() if k not in ("case", "timings")
        )
        lines.append(f"| {one['case']} | {times} | {facts} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, save."""
    uncap_blas(sys.argv)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small and few, only to see that all runs")
    parser.add_argument("--out", type=Path, help="folder of the tables (default: results; --quick: none)")
    arguments = parser.parse_args()
    digits, y = load_digits(return_X_y=True)
    x = (digits / 16).astype(np.float32)
    y = y.astype(np.int64)
    workers = min(2, fn.get_num_threads())
    machine = {
        "cores": os.cpu_count(),
        "workers": workers,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "fastnn": fn.__version__,
        "isa": fn.kernels.isa(),
        "caps": {name: os.environ.get(name) for name in BLAS_CAPS},
    }
    rows = [sixteen(x, y, workers, arguments.quick), grids(x, y, workers, arguments.quick)]
    table = markdown(machine, rows)
    print(table)
    folder = arguments.out or (None if arguments.quick else FOLDER / "results")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        content = {"title": "Many networks", "machine": machine, "rows": rows}
        (folder / "many.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (folder / "many.md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
