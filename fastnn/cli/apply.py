"""`fastnn predict` and `fastnn evaluate`: a model file and a CSV file."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

import fastnn as fn
from fastnn import data, metrics

__all__ = ["evaluate", "load", "measured", "predict", "printed"]

Array = NDArray[Any]

METRICS = {
    "classification": ("accuracy", "balanced_accuracy", "log_loss"),
    "regression": ("r2", "mae", "rmse"),
}


def read(path: str) -> data.Table:
    """The table of a CSV file; "-" is the standard input."""
    return data.read_table("/dev/stdin" if path == "-" else path)


def load(path: str) -> tuple[fn.Sequential, data.Recipe]:
    """A model that was trained on a table, and its recipe."""
    model = fn.load(path)
    if isinstance(model, fn.Ensemble):
        raise ValueError(f"{path} is an ensemble; in Python, fn.load(path).predict(table) uses it")
    if model.recipe is None:
        raise ValueError(f"{path} has no recipe for tables; in Python, fn.load(path).predict(matrix) uses it")
    return model, model.recipe


def predict(arguments: argparse.Namespace) -> int:
    """Write the predictions as CSV."""
    if arguments.threads is not None:
        fn.set_num_threads(arguments.threads)
    model, recipe = load(arguments.model)
    table = read(arguments.data)
    header, columns = predictions(model, table)
    for name, n_rows in recipe.unseen(table).items():
        print(
            f"fastnn: column {name!r}: {n_rows} of {table.n_rows} rows hold what was never seen",
            file=sys.stderr,
        )
    if arguments.output is None:
        _write(sys.stdout, header, columns)
    else:
        with open(arguments.output, "w", encoding="utf-8", newline="") as file:
            _write(file, header, columns)
    return 0


def predictions(model: fn.Sequential, table: data.Table) -> tuple[list[str], list[Any]]:
    """Names and values of the columns that a prediction has; the last is the label or number."""
    if model.link is None:
        out = model.predict(table)
        if out.shape[1] == 1:
            return ["prediction"], [out[:, 0]]
        return [f"prediction_{i}" for i in range(out.shape[1])], list(out.T)
    probabilities = model.predict_proba(table)
    classes = model.classes or list(range(probabilities.shape[1]))
    if len(classes) != probabilities.shape[1]:
        raise ValueError(
            f"the model must have a class for each of {probabilities.shape[1]} probabilities, "
            f"got {len(classes)}"
        )
    labels = [classes[i] for i in probabilities.argmax(axis=1).tolist()]
    return [*(f"probability_{label}" for label in classes), "prediction"], [*probabilities.T, labels]


def _write(file: IO[str], header: list[str], columns: list[Any]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    # The shortest text that reads as the same float32.
    texts = [c if isinstance(c, list) else map(str, c) for c in columns]
    writer.writerows(zip(*texts, strict=True))


def evaluate(arguments: argparse.Namespace) -> int:
    """Print what is measured on the rows that have a target."""
    if arguments.threads is not None:
        fn.set_num_threads(arguments.threads)
    model, recipe = load(arguments.model)
    if recipe.target is None:
        raise ValueError(f"{arguments.model} does not know its target; it was trained in Python without one")
    table = read(arguments.data)
    x, y = recipe.arrays(table, model.dtype)
    if not len(x):
        raise ValueError(f"{arguments.data} must have a row with a {recipe.target.name!r}, got none")
    if len(x) < table.n_rows:
        text = f"{table.n_rows - len(x)} rows are left out: they have no {recipe.target.name!r}"
        print(f"fastnn: {text}", file=sys.stderr)
    found: dict[str, Any] = {"rows": len(x), **measured(model, recipe, x, y)}
    print(json.dumps(found) if arguments.json else printed(found, "\n"))
    return 0


def measured(model: fn.Sequential, recipe: data.Recipe, x: Array, y: Array) -> dict[str, float | None]:
    """Metrics of a model for the target of its recipe; None where one is not defined (R2 of a constant)."""
    assert recipe.target is not None
    outputs = model.predict(x)
    found = {name: metrics.get(name)(y, outputs, link=model.link) for name in METRICS[recipe.target.task]}
    return {name: value if np.isfinite(value) else None for name, value in found.items()}


def printed(found: dict[str, Any], between: str = ", ") -> str:
    """Names with their values."""
    return between.join(
        f"{name} {'undefined' if value is None else format(value, '.6g')}" for name, value in found.items()
    )
