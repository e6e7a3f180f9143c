"""The recipe: how the named columns of a table become the matrix of a model; fixed, and kept with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..errors import FormatError
from ..layers import Embedding
from .columns import Column, Kind
from .encoders import ENCODERS, CategoryEncoder, Encoder, encoder_for, encoder_from_json
from .tables import read_table
from .target import TASKS, Target, Task

__all__ = ["Recipe"]

Array = NDArray[Any]

# Of what `to_json` gives; raised with every change of meaning.
FORMAT = 1

# Below this many rows a text that never repeats may still be a category.
ID_ROWS = 20


@dataclass(frozen=True)
class Recipe:
    """How the columns of a table become a matrix; made by `Recipe.fit`, compared and saved as it is.

    Kinds of columns, by rules: all values are numbers: a number; all are true/false/yes/no/t/f/y/n: a
    boolean; all are ISO dates: a date; anything else: a category. Empty fields, NA, NaN, null and None
    are missing; infinities too. A number or boolean is standardised (values far outside of the others are
    limited); a missing one is the median, and a further 0/1 column flags it. A category is one 0/1 column
    for each text; beyond 64 texts the rarer ones share one. A text never seen before is all zeros, or
    that shared column. Columns are left out where all values are equal, where no text of more than 20
    repeats, and where whole numbers count the rows.

    Parameters
    ----------
    encoders : tuple
        One for each column used, in the order of the table.
    target : Target or None
    dropped : tuple of (str, str)
        Names of columns left out, each with the reason.

    Examples
    --------
    >>> table = {"size": [1.0, 2.0, 3.0], "color": ["red", "blue", "red"], "price": [10.5, 30.0, 50.0]}
    >>> recipe = Recipe.fit(table, target="price")
    >>> recipe.features
    ['size', 'color=blue', 'color=red']
    >>> recipe.matrix({"size": [2.0], "color": ["green"]}).tolist()
    [[0.0, 0.0, 0.0]]
    """

    encoders: tuple[Encoder, ...]
    target: Target | None = None
    dropped: tuple[tuple[str, str], ...] = ()
    doubts: tuple[str, ...] = field(default=(), compare=False)  # of the fit; not saved

    @classmethod
    def fit(
        cls,
        table: Any,
        target: str | None = None,
        *,
        task: Task | None = None,
        kinds: Mapping[str, Kind] | None = None,
        drop: Iterable[str] = (),
    ) -> Recipe:
        """Look at a table and decide.

        Parameters
        ----------
        table : path, mapping, DataFrame, pyarrow Table or structured array
            See `read_table`.
        target : str, optional
            Name of the column to predict; rows that lack it are not looked at.
        task : "classification" or "regression", optional
            Overrides the rule of `Target.fit`.
        kinds : mapping of str to str, optional
            "number", "boolean", "date" or "category" for columns where the rules are to be overridden;
            such a column is never taken for an id.
        drop : iterable of str
            Columns to leave out.
        """
        table = read_table(table)
        kinds, drop = dict(kinds or {}), [drop] if isinstance(drop, str) else list(drop)
        for kind in kinds.values():
            errors.choice("kinds", kind, ENCODERS)
        if task is not None:
            errors.choice("task", task, TASKS)
            if target is None:
                raise ValueError("task needs a target, got none")
        table.require([*([target] if target is not None else []), *kinds, *drop])
        if table.n_rows == 0:
            raise ValueError(f"the table must have at least one row, got none in {table.source}")
        fitted = None
        if target is not None:
            fitted = Target.fit(target, table.columns[target], task)
            if table.columns[target].missing.any():
                table = table.take(np.flatnonzero(~table.columns[target].missing))

        encoders, dropped, doubts = [], [], []
        for name, raw in table.columns.items():
            if name == target:
                continue
            column = raw.converted(kinds[name], name, table.where) if name in kinds else raw.inferred()
            reason = "as asked" if name in drop else _useless(column, is_chosen=name in kinds)
            nearly = None if name in kinds or name in drop else column.nearly_numbers()
            if nearly is not None:
                n_numbers, text = nearly
                doubts.append(
                    f"column {name!r} is taken as texts: {n_numbers} of its {len(column.texts)} are numbers, "
                    f"but {text!r} is not"
                )
            if reason is None:
                encoder = encoder_for(name, column)
                if encoder.features():
                    encoders.append(encoder)
                    continue
                reason = "all values are equal"
            dropped.append((name, reason))
        if not encoders:
            reasons = "; ".join(f"{name!r}: {reason}" for name, reason in dropped)
            raise ValueError(
                f"the table must have a column to learn from, got none ({reasons or 'no others'})"
            )
        return cls(tuple(encoders), fitted, tuple(dropped), tuple(doubts))

    # ------------------------------------------------------------ use

    @property
    def columns(self) -> list[str]:
        """Names of the columns that a table must have for a prediction."""
        return [encoder.name for encoder in self.encoders]

    def embedding(self) -> Embedding | None:
        """The first layer that the columns of codes ask for; None where there are none."""
        columns, at = [], 0
        for encoder in self.encoders:
            if isinstance(encoder, CategoryEncoder) and encoder.is_embedded:
                columns.append((at, *encoder.embedding()))
            at += len(encoder.features())
        return Embedding(tuple(columns)) if columns else None

    @property
    def features(self) -> list[str]:
        """Names of the columns of the matrix."""
        return [feature for encoder in self.encoders for feature in encoder.features()]

    @property
    def notes(self) -> list[str]:
        """A sentence for each column left out, and for each that may not be what was meant."""
        return [f"column {name!r} is left out: {reason}" for name, reason in self.dropped] + list(self.doubts)

    def unseen(self, table: Any) -> dict[str, int]:
        """In how many rows a category or yes/no column holds a text that was not there in training."""
        table, found = read_table(table), {}
        for encoder in self.encoders:
            if encoder.kind not in ("category", "boolean"):
                continue
            raw = table.columns[encoder.name]
            column = raw.converted(encoder.kind, encoder.name, table.where)
            n_rows = encoder.unseen(column) if isinstance(encoder, CategoryEncoder) else 0
            if encoder.kind == "boolean":
                n_rows = int((np.isnan(column.data) & ~raw.missing).sum())
            if n_rows:
                found[encoder.name] = n_rows
        return found

    def matrix(self, table: Any, dtype: Any = np.float32) -> Array:
        """The matrix (n_rows, n_features) of a table; columns that the recipe does not know are ignored.

        Raises
        ------
        ValueError
            A column is not there, or a value is no number or date where the recipe wants one.
        """
        table, dtype = read_table(table), errors.real_dtype("dtype", dtype)
        table.require(self.columns)
        widths = [len(encoder.features()) for encoder in self.encoders]
        out = np.zeros((table.n_rows, sum(widths)), dtype)
        at = 0
        for encoder, width in zip(self.encoders, widths, strict=True):
            column = table.columns[encoder.name].converted(encoder.kind, encoder.name, table.where)
            encoder.encode(column, out[:, at : at + width])
            at += width
        return out

    def rows_with_target(self, table: Any) -> Array:
        """Numbers of the rows that have a target."""
        table = read_table(table)
        target = self._required_target()
        table.require([target.name])
        return np.flatnonzero(~table.columns[target.name].missing)

    def arrays(self, table: Any, dtype: Any = np.float32) -> tuple[Array, Array]:
        """Matrix and target of the rows that have a target: labels 0 .. n-1 as int64, or numbers as float64.

        Numbers are in their own unit: ``(y - target.mean) / target.scale`` is what to train on.
        """
        table = read_table(table)
        rows = self.rows_with_target(table)
        if len(rows) < table.n_rows:
            table = table.take(rows)
        return self.matrix(table, dtype), self._required_target().read(table)

    def _required_target(self) -> Target:
        if self.target is None:
            raise ValueError("the recipe must have a target, got one that was made without")
        return self.target

    def describe(self) -> str:
        """A line for each column: its kind and what becomes of it."""
        table: list[tuple[str, str, str, str]] = [("column", "kind", "width", "")]
        table += [(e.name, e.kind, str(len(e.features())), e.describe()) for e in self.encoders]
        table += [(name, "-", "0", f"left out: {reason}") for name, reason in self.dropped]
        widths = [max(len(row[i]) for row in table) for i in range(3)]
        lines = [
            f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {n:>{widths[2]}}  {text}".rstrip()
            for name, kind, n, text in table
        ]
        if self.target is not None:
            lines.append(f"target {self.target.name}: {self.target.describe()}")
        return "\n".join(lines)

    # ------------------------------------------------------------ saving

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON takes it; `from_json` gives an equal one back."""
        return {
            "format": FORMAT,
            "columns": [encoder.to_json() for encoder in self.encoders],
            "target": None if self.target is None else self.target.to_json(),
            "dropped": [list(pair) for pair in self.dropped],
        }

    @classmethod
    def from_json(cls, value: Any) -> Recipe:
        """The recipe that `to_json` described.

        Raises
        ------
        FormatError
            A field is missing, unknown or wrong, or the format is newer than this version.
        """
        names = {"format", "columns", "target", "dropped"}
        if not isinstance(value, dict) or value.keys() != names:
            found = sorted(value) if isinstance(value, dict) else value
            raise FormatError(f"a recipe must have the fields {sorted(names)}, got {found!r}")
        if value["format"] != FORMAT or isinstance(value["format"], bool):
            raise FormatError(f"the recipe must be of format {FORMAT}, got {value['format']!r}")
        columns, dropped = value["columns"], value["dropped"]
        if not isinstance(columns, list) or not columns:
            raise FormatError(f"a recipe must have a list of columns, got {columns!r}")
        encoders = tuple(encoder_from_json(column) for column in columns)
        if len({encoder.name for encoder in encoders}) < len(encoders):
            raise FormatError("a recipe must have each column once")
        if not isinstance(dropped, list) or not all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
            for pair in dropped
        ):
            raise FormatError(f"dropped in the recipe must be pairs of name and reason, got {dropped!r}")
        target = None if value["target"] is None else Target.from_json(value["target"])
        return cls(encoders, target, tuple((name, reason) for name, reason in dropped))


def _useless(column: Column, is_chosen: bool) -> str | None:
    """Why nothing can be learned from a column; None where something can."""
    if column.kind == "category":
        present = column.data[column.data >= 0]
        n_distinct = len(np.unique(present))
        if n_distinct == len(present) > ID_ROWS and not is_chosen:
            return "no text repeats: an id"
    else:
        present = column.data[np.isfinite(column.data)]
        n_distinct = 0 if not len(present) else 1 + (present.min() != present.max())
        counts_rows = column.kind == "number" and len(present) == len(column) > ID_ROWS
        if counts_rows and not is_chosen and (np.diff(present) == 1).all():
            return "it counts the rows"
    if n_distinct == 0:
        return "it has no value"
    if n_distinct == 1 and len(present) == len(column):
        return "all values are equal"
    return None
