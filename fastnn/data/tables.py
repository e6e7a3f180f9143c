"""Tables of any origin as named columns: CSV files, data frames, dicts of arrays, structured arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .columns import LARGEST_EXACT, Column, column, text_column

__all__ = ["Table", "is_table", "read_table"]

Array = NDArray[Any]

DELIMITERS = (",", ";", "\t", "|")

# Lines that the delimiter is chosen from.
_SNIFFED = 20


@dataclass(frozen=True)
class Table:
    """Named columns of one length.

    Parameters
    ----------
    columns : dict of str to Column
    n_rows : int
    source : str
        What it was read from, for messages.
    lines : ndarray (n_rows,), optional
        The line in the file that each row ends on; None where there is no file.
    """

    columns: dict[str, Column]
    n_rows: int
    source: str
    lines: Array | None = None

    def where(self, row: int) -> str:
        """The words for a row in an error: its line in the file, else its number from 0."""
        return f"row {row}" if self.lines is None else f"line {self.lines[row]} of {self.source}"

    def take(self, rows: Array) -> Table:
        """The table of some rows only."""
        columns = {name: c.take(rows) for name, c in self.columns.items()}
        return Table(columns, len(rows), self.source, None if self.lines is None else self.lines[rows])

    def require(self, names: Iterable[str], argument: str = "the table") -> None:
        """Raise unless all these columns are there."""
        lacking = [name for name in names if name not in self.columns]
        if lacking:
            import difflib  # 2 ms that only mistakes pay

            near = difflib.get_close_matches(lacking[0], self.columns, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{argument} must have the columns {_names(lacking)}; {self.source} has "
                f"{_names(list(self.columns))}{hint}"
            )


def _names(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown


def is_table(value: object) -> bool:
    """Whether a value has named columns (or is a path of a CSV file), so that a recipe can read it."""
    return (
        isinstance(value, (Table, Mapping, str, os.PathLike))
        or _names_of_frame(value) is not None
        or getattr(getattr(value, "dtype", None), "names", None) is not None
    )


def _names_of_frame(value: Any) -> list[Any] | None:
    """Column names of a pandas or polars DataFrame or a pyarrow Table; None for anything else."""
    if isinstance(value, (np.ndarray, type)):
        return None
    for attribute in ("column_names", "columns"):  # pyarrow's columns are the columns themselves
        names = getattr(value, attribute, None)
        if names is not None and not callable(names) and hasattr(value, "__getitem__"):
            return list(names)
    return None


def read_table(source: Any) -> Table:
    """The columns of a table.

    Parameters
    ----------
    source : path, mapping, DataFrame, pyarrow Table, structured array or Table
        A path names a CSV file (UTF-8, with a header; delimited by comma, semicolon, tab or bar,
        whichever fits the first lines; ``.gz`` is unpacked). A mapping gives 1-D arrays by name;
        scalars, if all are, make one row.

    Raises
    ------
    ValueError, TypeError, OSError
        It cannot be read; the text names the column or line.
    """
    if isinstance(source, Table):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _read_csv(os.fspath(source))
    if isinstance(source, Mapping):
        values = dict(source)
        if values and all(isinstance(v, (str, bytes)) or not hasattr(v, "__len__") for v in values.values()):
            values = {name: [v] for name, v in values.items()}
        return _table("the table", values, lambda v: v)
    names = getattr(getattr(source, "dtype", None), "names", None)
    if names is not None:
        if source.ndim != 1:
            raise ValueError(f"a structured array must be 1-D, got shape {source.shape}")
        return _table("the array", {name: source[name] for name in names}, lambda v: v)
    found = _names_of_frame(source)
    if found is None:
        raise TypeError(
            "the table must be the path of a CSV file, a DataFrame, a pyarrow Table, a mapping of names to "
            f"arrays or a structured array, got {type(source).__name__}"
        )
    if len(set(map(str, found))) < len(found):
        raise ValueError(f"the table must have a name of its own for each column, got {_names(found)}")
    return _table("the table", {name: source[name] for name in found}, _array_of_series)


def _table(source: str, values: Mapping[Any, Any], unpack: Callable[[Any], Any]) -> Table:
    columns = {str(name): column(str(name), unpack(v)) for name, v in values.items()}
    lengths = {name: len(c) for name, c in columns.items()}
    if not columns:
        raise ValueError(f"{source} must have at least one column, got none")
    if len(set(lengths.values())) > 1:
        raise ValueError(f"all columns must have one length, got {lengths}")
    return Table(columns, next(iter(lengths.values())), source)


def _array_of_series(series: Any) -> Any:
    """The values of a column of pandas, polars or pyarrow."""
    dtype = getattr(series, "dtype", None)
    if getattr(dtype, "tz", None) is not None:  # pandas would give objects; times become UTC
        series = series.dt.tz_convert(None)
    values = series.to_numpy()
    # Whole numbers with gaps come as floats, where two large ones could become one.
    was_whole = values.dtype.kind == "f" and "int" in str(getattr(series, "type", dtype)).lower()
    if was_whole and np.nanmax(np.abs(values), initial=0.0) >= LARGEST_EXACT:
        whole = series.to_pylist() if hasattr(series, "to_pylist") else series.to_list()
        return np.array([*whole, None], object)[:-1]
    return values


# ---------------------------------------------------------------- CSV


def _read_csv(path: str) -> Table:
    try:
        if path.endswith(".gz"):
            import gzip
            import zlib

            try:
                with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as file:
                    return _parse(path, file)
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise ValueError(f"{path} must be a gzip file, got a broken one ({error})") from None
        with open(path, encoding="utf-8-sig", newline="") as file:
            return _parse(path, file)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be text in UTF-8, got {error.object[error.start : error.end]!r} ({error.reason})"
        ) from None


def _parse(path: str, file: IO[str]) -> Table:
    import csv
    import itertools

    head = list(itertools.islice(file, _SNIFFED))
    delimiter = _delimiter(head)
    reader = csv.reader(itertools.chain(head, file), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        names: list[str] = []
        for fields in reader:
            if fields:
                names = [name.strip() for name in fields]
                break
        _judge_header(path, names)
        rows, lines = [], []
        n_fields = len(names)
        for fields in reader:
            if len(fields) != n_fields:
                if not fields or (n_fields > 1 and len(fields) == 1 and not fields[0].strip()):
                    continue  # an empty line
                raise ValueError(
                    f"every line of {path} must have {n_fields} fields, as its header has; "
                    f"got {len(fields)} in line {reader.line_num}"
                )
            rows.append(fields)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(f"{path} must be a CSV file, got {error} in line {reader.line_num}") from None
    columns = {}
    for name, texts in zip(names, zip(*rows, strict=True) if rows else [()] * n_fields, strict=True):
        found = text_column(texts)
        columns[name] = found if delimiter == "," else _with_points(found)
    return Table(columns, len(rows), path, np.array(lines, np.int64))


def _delimiter(head: list[str]) -> str:
    """The delimiter that gives most fields of those that give the first lines the same number of fields."""
    import csv

    best, chosen = (False, 1), ","
    for delimiter in DELIMITERS:
        try:
            # The last line may be cut inside quotes.
            counts = [len(fields) for fields in csv.reader(head, delimiter=delimiter) if fields]
        except csv.Error:
            continue
        if not counts:
            continue
        whole = counts[:-1] if len(head) == _SNIFFED and len(counts) > 1 else counts
        score = (len(set(whole)) == 1 and counts[0] > 1, counts[0])
        if score > best:
            best, chosen = score, delimiter
    return chosen


def _judge_header(path: str, names: list[str]) -> None:
    if not names:
        raise ValueError(f"{path} must begin with a header of column names, but it is empty")
    numeric = [name for name in names if _is_number(name)]
    if 2 * len(numeric) >= len(names) and numeric != [str(i) for i in range(len(numeric))]:
        raise ValueError(
            f"{path} must begin with a header of column names, got the numbers {', '.join(numeric[:4])}"
        )
    seen = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{path} must have a name of its own for each column, got {name!r} twice")
        seen.add(name)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _with_points(found: Column) -> Column:
    """Decimal commas as points, where every text of a column is a number once that is done."""
    pointed = tuple(text.replace(",", ".") if text.count(",") == 1 else text for text in found.texts)
    if pointed == found.texts or not all(map(_is_number, pointed)):
        return found
    return text_column([pointed[code] if code >= 0 else None for code in found.data.tolist()])
