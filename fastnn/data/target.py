"""The target of a table: classes or numbers, and the rule that decides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from .columns import LARGEST_EXACT, Column, boolean_or_nan, number
from .encoders import mean_and_scale
from .tables import Table

__all__ = ["Target", "Task"]

Array = NDArray[Any]
Task = Literal["classification", "regression"]
Label = str | int | float | bool

TASKS: tuple[Task, ...] = ("classification", "regression")

# Whole numbers with at most this many distinct values are classes.
CLASS_COUNT = 20


@dataclass(frozen=True)
class Target:
    """The column that is to be predicted.

    Parameters
    ----------
    name : str
    task : "classification" or "regression"
    classes : tuple
        Labels in order of the model's outputs, texts sorted alphabetically, numbers by size; empty for
        numbers.
    mean, scale : float
        Of a number, as the training standardises it; 0 and 1 for classes.
    """

    name: str
    task: Task
    classes: tuple[Label, ...] = ()
    mean: float = 0.0
    scale: float = 1.0

    @classmethod
    def fit(cls, name: str, column: Column, task: Task | None = None) -> Target:
        """Decide what a column with missing values left out is.

        Texts and booleans are classes; whole numbers with at most 20 distinct values are classes; all
        else are numbers. `task` overrides.
        """
        column = column.take(np.flatnonzero(~column.missing))
        if not len(column):
            raise ValueError(f"the target {name!r} must have a value, got none in any row")
        if task == "regression" or (task is None and not _is_classes(column)):
            numbers = _numbers(name, column.inferred())
            mean, scale = mean_and_scale(name, numbers)
            if scale == 0:
                raise ValueError(f"the target {name!r} must vary, got {mean:g} in every row")
            return cls(name, "regression", (), mean, scale)
        labels = _labels(name, column)
        if len(labels) < 2:
            raise ValueError(f"the target {name!r} must have two classes or more, got only {labels[0]!r}")
        return cls(name, "classification", tuple(labels))

    @property
    def n_out(self) -> int:
        """Outputs that a model for it has."""
        return len(self.classes) or 1

    def read(self, table: Table) -> Array:
        """Codes of the classes as int64 (n_rows,), or numbers in their own unit as float64 (n_rows,).

        Raises
        ------
        ValueError
            The column is not there, a value is missing, is no number, or is a class not seen in training.
        """
        table.require([self.name])
        column = table.columns[self.name]
        if column.missing.any():
            row = int(column.missing.argmax())
            raise ValueError(f"the target {self.name!r} must not be missing, got none in {table.where(row)}")
        if self.task == "regression":
            return _numbers(self.name, column.converted("number", self.name, table.where))
        column = column.converted("category", self.name, table.where)
        codes = np.array([*self._places(column.texts), -1], np.int64)[column.data]
        if (codes < 0).any():
            row = int((codes < 0).argmax())
            raise ValueError(
                f"the target {self.name!r} must be one of the {len(self.classes)} classes of the training, "
                f"got {column.texts[column.data[row]]!r} in {table.where(row)}"
            )
        return codes

    def _places(self, texts: tuple[str, ...]) -> list[int]:
        """The class that each text names, -1 for none: 3 and 3.0 are one, and so are yes and true."""
        read: Callable[[str], object] = str
        if all(isinstance(label, bool) for label in self.classes):
            read = boolean_or_nan
        elif not any(isinstance(label, str) for label in self.classes):
            read = number
        place = {label: i for i, label in enumerate(self.classes)}
        return [place.get(read(text), -1) for text in texts]  # type: ignore[call-overload]

    def describe(self) -> str:
        """What it is, in words."""
        if self.task == "regression":
            return f"a number, mean {self.mean:.6g}, deviation {self.scale:.6g}"
        shown = ", ".join(map(str, self.classes[:8])) + (", ..." if len(self.classes) > 8 else "")
        return f"{len(self.classes)} classes: {shown}"

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON takes them."""
        return {
            "name": self.name,
            "task": self.task,
            "classes": list(self.classes),
            "mean": self.mean,
            "scale": self.scale,
        }

    @classmethod
    def from_json(cls, value: Any) -> Target:
        """The target that `to_json` described; strict (FormatError)."""
        names = {"name", "task", "classes", "mean", "scale"}
        if not isinstance(value, dict) or value.keys() != names:
            raise FormatError(f"the target of the recipe must have the fields {sorted(names)}, got {value!r}")
        name, task, classes = value["name"], value["task"], value["classes"]
        if not isinstance(name, str) or task not in TASKS:
            raise FormatError(f"the target of the recipe must have a name and a task, got {value!r}")
        if not isinstance(classes, list) or not all(
            isinstance(c, str) or (isinstance(c, (int, float)) and math.isfinite(c)) for c in classes
        ):
            raise FormatError(f"the classes of the recipe must be a list of labels, got {classes!r}")
        if len(set(classes)) != len(classes) or (len(classes) > 1) != (task == "classification"):
            raise FormatError(f"the classes of the recipe must be distinct and fit the task, got {classes!r}")
        for item in (value["mean"], value["scale"]):
            if isinstance(item, bool) or not isinstance(item, (int, float)) or not math.isfinite(item):
                raise FormatError(f"mean and scale of the target must be finite numbers, got {item!r}")
        if value["scale"] <= 0:
            raise FormatError(f"the scale of the target must be positive, got {value['scale']!r}")
        return cls(name, task, tuple(classes), float(value["mean"]), float(value["scale"]))


def _is_classes(column: Column) -> bool:
    found = column.inferred()
    if found.kind != "number":
        return found.kind != "date"
    values = np.unique(found.data)
    is_whole = np.isfinite(values) & (values == np.floor(values))
    return len(values) <= CLASS_COUNT and bool(is_whole.all())


def _numbers(name: str, column: Column) -> Array:
    if column.kind not in ("number", "boolean"):
        raise ValueError(f"the target {name!r} must hold numbers, got {_example(column)}")
    bad = column.data[~np.isfinite(column.data)]
    if len(bad):
        raise ValueError(f"the target {name!r} must be finite, got {bad[0]}")
    return column.data


def _example(column: Column) -> str:
    return "dates" if column.kind == "date" else repr(column.texts[int(column.data[0])])


def _labels(name: str, column: Column) -> list[Label]:
    """The distinct labels in order: bools, whole numbers, other numbers or texts."""
    if column.kind == "boolean":
        return [bool(v) for v in np.unique(column.data)]
    found = column.inferred()
    if found.kind == "number":
        values = np.unique(_numbers(name, found)).tolist()
        if all(v.is_integer() and abs(v) <= LARGEST_EXACT for v in values):
            return [int(v) for v in values]
        return list(values)
    texts = column.converted("category", "", str).texts
    seen = set(column.data.tolist()) if column.kind == "category" else range(len(texts))
    return sorted(texts[i] for i in seen)
