"""CSV and Parquet files of any size, converted once to .npy files: read, decided, written, in pieces."""

from __future__ import annotations

import contextlib
import csv
import gzip
import itertools
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from .columns import Column, Kind
from .encoders import ENCODERS
from .recipe import Recipe
from .source_cache import Progress, replacing_folder
from .source_folder import LIST
from .source_frameworks import arrow
from .source_spool import Spool
from .tables import _SNIFFED, Table, _delimiter, _judge_header
from .target import TASKS, Task

__all__ = ["convert"]

Array = NDArray[Any]

# Bytes of a CSV file, and rows of a Parquet file, that are read at a time.
_READ_BYTES = 2**23
_READ_ROWS = 2**16
# Rows that are encoded and written at a time.
_WRITE_ROWS = 2**15


@dataclass
class _File:
    """One of the files of a table."""

    path: str
    first_row: int = 0
    n_rows: int = 0


class _Pieces:
    """The files, read piece by piece.

    Parameters
    ----------
    kind : "csv" or "parquet"
    paths : list of str
    """

    def __init__(self, kind: str, paths: list[str]) -> None:
        self._pa = arrow(f"Source.{kind}")
        self._kind, self.files = kind, [_File(path) for path in paths]
        self.points = False  # whether the delimiter leaves commas to numbers
        self.names = self._names(paths[0])
        for path in paths[1:]:
            names = self._names(path)
            if set(names) != set(self.names):
                lacks = [name for name in self.names if name not in names]
                more = [name for name in names if name not in self.names]
                raise ValueError(
                    f"{path} must have the columns of {paths[0]}: it lacks {lacks or 'none'}, "
                    f"and has {more or 'none'} beside them"
                )

    def where(self, row: int) -> str:
        """Words for a row of all files."""
        for file in reversed(self.files):
            if row >= file.first_row:
                below = " below the header" if self._kind == "csv" else ""
                return f"row {row - file.first_row + 1}{below} of {file.path}"
        raise AssertionError(row)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """First row and record batch of each piece."""
        row = 0
        for file in self.files:
            file.first_row = row
            for batch in self._csv(file.path) if self._kind == "csv" else self._parquet(file.path):
                if batch.num_rows:
                    yield row, batch
                    row += batch.num_rows
            file.n_rows = row - file.first_row

    def _names(self, path: str) -> list[str]:
        """Names of the columns of a file."""
        if self._kind == "parquet":
            import pyarrow.parquet as pq

            try:
                return list(pq.read_schema(path).names)
            except self._pa.ArrowInvalid as error:
                raise ValueError(f"{path} must be a Parquet file: {error}") from None
        return self._header(path)[0]

    def _header(self, path: str) -> tuple[list[str], str, int]:
        """Names, delimiter, and the lines up to the end of the header."""
        opened: Any = gzip.open if path.endswith(".gz") else open
        try:
            with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
                head = list(itertools.islice(file, _SNIFFED))
        except UnicodeDecodeError as error:
            got = error.object[error.start : error.end]
            raise ValueError(f"{path} must be text in UTF-8, got {got!r} ({error.reason})") from None
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise _broken_gzip(path, error) from None
        delimiter = _delimiter(head)
        reader = csv.reader(head, delimiter=delimiter, skipinitialspace=True)
        names = next(([name.strip() for name in fields] for fields in reader if fields), [])
        _judge_header(path, names)
        return names, delimiter, reader.line_num

    def _csv(self, path: str) -> Iterator[Any]:
        from pyarrow import csv as arrow_csv

        pa = self._pa
        names, delimiter, n_header = self._header(path)
        self.points = delimiter != ","
        wrong: list[Any] = []

        def judge(row: Any) -> str:
            if len(names) > 1 and not row.text.strip():
                return "skip"  # an empty line
            wrong.append(row)
            return "error"

        def told(error: Exception) -> ValueError:
            if wrong:
                row = wrong[0]
                place = "" if row.number is None else f" in line {row.number}"
                return ValueError(
                    f"every line of {path} must have {row.expected_columns} fields, as its header has; got "
                    f"{row.actual_columns}{place}: {row.text[:200]!r}"
                )
            return ValueError(f"{path} must be a CSV file in UTF-8: {error}")

        try:
            with pa.input_stream(path, compression="detect") as stream:
                reader = arrow_csv.open_csv(
                    stream,
                    # Without threads lines are numbered; reading is ahead of us anyway.
                    arrow_csv.ReadOptions(
                        column_names=names, skip_rows=n_header, block_size=_READ_BYTES, use_threads=False
                    ),
                    arrow_csv.ParseOptions(
                        delimiter=delimiter, newlines_in_values=True, invalid_row_handler=judge
                    ),
                    arrow_csv.ConvertOptions(
                        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
                    ),
                )
                yield from reader
        except pa.ArrowInvalid as error:
            if not wrong and "Empty CSV" in str(error):
                return  # a header and no row
            raise told(error) from None
        except OSError as error:
            if error.errno is not None or not path.endswith(".gz"):
                raise
            raise _broken_gzip(path, error) from None  # what Arrow says of it names no file

    def _parquet(self, path: str) -> Iterator[Any]:
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(batch_size=_READ_ROWS)
        except self._pa.ArrowInvalid as error:
            raise ValueError(f"{path} must be a Parquet file: {error}") from None


def _broken_gzip(path: str, error: Exception) -> ValueError:
    return ValueError(f"{path} must be a gzip file, got a broken one ({error})")


class _Columns(Mapping[str, Column]):
    """Columns that are read from their spools when they are asked for: one at a time is in memory."""

    def __init__(
        self, spools: Mapping[str, Spool], dropped: Iterable[str], names: list[str], rows: Any
    ) -> None:
        self._spools, self._rows = spools, rows
        self._names = [name for name in names if name in spools or name in set(dropped)]

    def __getitem__(self, name: str) -> Column:
        if name in self._spools:
            return self._spools[name].column(self._rows)
        if name in self._names:
            return Column("number", np.zeros(0))  # dropped: nobody looks at it
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def convert(
    kind: str,
    paths: Any,
    target: str,
    cache: Any,
    recipe: Recipe | None,
    task: Task | None,
    kinds: Mapping[str, Kind] | None,
    drop: Iterable[str],
    sample_weight: str | None,
    scale_target: bool,
    dtype: Any,
    progress: bool | None,
) -> str:
    """`Source.csv` and `Source.parquet`: the folder of the arrays, made where it is not there."""
    given = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    # Tables give the names of their columns, which could be those of files.
    is_table = isinstance(given, Mapping) or hasattr(given, "__arrow_c_stream__") or hasattr(given, "columns")
    if is_table or not isinstance(given, Iterable):
        raise TypeError(f"paths must be a path or a list of paths, got {type(paths).__name__}")
    files = [errors.file_path(f"paths[{i}]", one) for i, one in enumerate(given)]
    if not files:
        raise ValueError("paths must name at least one file, got none")
    folder = f"{files[0]}.fastnn" if cache is None else errors.file_path("cache", cache)
    kinds, drop = dict(kinds or {}), [drop] if isinstance(drop, str) else list(drop)
    for one in kinds.values():
        errors.choice("kinds", one, ENCODERS)
    if task is not None:
        errors.choice("task", task, TASKS)
    if recipe is not None:
        if kinds or drop or task is not None:
            raise ValueError("task, kinds and drop must be left out with a recipe, which has decided on them")
        if recipe.target is None or recipe.target.name != target:
            name = None if recipe.target is None else recipe.target.name
            raise ValueError(f"target must be the recipe's, {name!r}, got {target!r}")
    wanted = {
        "kind": kind,
        "files": [
            [os.path.basename(path), (found := os.stat(path)).st_size, found.st_mtime_ns] for path in files
        ],
        "target": target,
        "recipe": None if recipe is None else recipe.to_json(),
        "task": task,
        "kinds": kinds,
        "drop": sorted(drop),
        "sample_weight": sample_weight,
        "scale_target": errors.flag("scale_target", scale_target),
        "dtype": str(errors.real_dtype("dtype", dtype)),
    }
    if _is_made(folder, wanted):
        return folder
    shown = Progress(progress)
    with replacing_folder(folder) as room:
        pieces = _Pieces(kind, files)
        spools = _read(pieces, room, target, recipe, kinds, drop, sample_weight, shown)
        kept = _kept(spools[target], target)
        if recipe is None:
            features = {name: spool for name, spool in spools.items() if name != sample_weight}
            columns: Any = _Columns(features, drop, pieces.names, kept)
            n = len(kept) if isinstance(kept, np.ndarray) else spools[target].n_rows
            recipe = Recipe.fit(Table(columns, n, files[0]), target, task=task, kinds=kinds, drop=drop)
        n_rows = _write(pieces, room, spools, kept, recipe, sample_weight, wanted, shown)
        for name in spools:
            os.unlink(spools[name].path)
        told: dict[str, Any] = {"format": 1, "rows": n_rows, "has_weight": sample_weight is not None}
        told |= {"recipe": recipe.to_json(), "made_from": wanted}
        with open(os.path.join(room, LIST), "w", encoding="utf-8") as file:
            json.dump(told, file)
            file.flush()
            os.fsync(file.fileno())
    shown.end()
    return folder


def _is_made(folder: str, wanted: dict[str, Any]) -> bool:
    """Whether the folder holds what is wanted; refuses one that is not ours."""
    if not os.path.lexists(folder):
        return False
    if not os.path.isdir(folder):
        raise NotADirectoryError(20, "the cache must be a folder", folder)
    path = os.path.join(folder, LIST)
    if not os.path.exists(path):
        if os.listdir(folder):
            raise ValueError(f"cache must be a folder of its own, got {folder}, which holds other files")
        return False
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("made_from") == json.loads(json.dumps(wanted))


# ---------------------------------------------------------------- reading


def _read(
    pieces: _Pieces,
    room: str,
    target: str,
    recipe: Recipe | None,
    kinds: Mapping[str, Kind],
    drop: Iterable[str],
    sample_weight: str | None,
    shown: Progress,
) -> dict[str, Spool]:
    """All files once; gives their columns by name."""
    chosen: dict[str, Kind | None] = {}
    if recipe is None:
        chosen = {name: kinds.get(name) for name in pieces.names if name not in set(drop)}
    else:
        chosen = {encoder.name: encoder.kind for encoder in recipe.encoders}
        chosen[target] = None
    if sample_weight is not None:
        chosen[sample_weight] = "number"
    Table(dict.fromkeys(pieces.names, Column("number", np.zeros(0))), 0, pieces.files[0].path).require(
        [target, *kinds, *drop, *chosen]
    )
    spools = {
        name: Spool(name, os.path.join(room, f"column-{i}"), kind)
        for i, (name, kind) in enumerate(chosen.items())
    }
    try:
        for row, batch in pieces:
            names = batch.schema.names
            for name, spool in spools.items():
                spool.add(
                    batch.column(names.index(name)),
                    pieces._pa,
                    lambda i, row=row: pieces.where(row + i),  # type: ignore[misc]
                    pieces.points,
                )
            shown.tell("read", row + batch.num_rows, pieces.where(row).rpartition(" of ")[2])
    finally:
        for spool in spools.values():
            spool.end()
    if spools[target].n_rows == 0:
        raise ValueError(f"the table must have at least one row, got none in {pieces.files[0].path}")
    return spools


def _kept(spool: Spool, target: str) -> slice | Array:
    """Rows that have a target: all, or their numbers."""
    missing = spool.column(slice(None)).missing
    if not missing.any():
        return slice(None)
    kept = np.flatnonzero(~missing)
    if not len(kept):
        raise ValueError(f"the target {target!r} must have a value, got none in any row")
    return kept


# ---------------------------------------------------------------- writing


def _write(
    pieces: _Pieces,
    room: str,
    spools: Mapping[str, Spool],
    kept: slice | Array,
    recipe: Recipe,
    sample_weight: str | None,
    wanted: Mapping[str, Any],
    shown: Progress,
) -> int:
    """x.npy, y.npy and perhaps sample_weight.npy; gives their number of rows."""
    target = recipe.target
    assert target is not None
    rows = np.arange(spools[target.name].n_rows) if isinstance(kept, slice) else kept
    dtype = np.dtype(wanted["dtype"])
    y_dtype = np.dtype(np.int64) if target.classes else dtype
    with contextlib.ExitStack() as stack:

        def begin(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> IO[bytes]:
            file: IO[bytes] = stack.enter_context(open(os.path.join(room, f"{name}.npy"), "wb"))
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            return file

        n = len(rows)
        files = [begin("x", (n, len(recipe.features)), dtype), begin("y", (n,), y_dtype)]
        if sample_weight is not None:
            files.append(begin("sample_weight", (n,), np.dtype(np.float64)))
        for first in range(0, n, _WRITE_ROWS):
            some = rows[first : first + _WRITE_ROWS]
            # Where all of a run are there it is read as one piece.
            at: Any = slice(int(some[0]), int(some[-1]) + 1) if some[-1] - some[0] == len(some) - 1 else some
            columns = {name: spool.column(at) for name, spool in spools.items()}
            piece = _Rows(columns, len(some), pieces.files[0].path, some, pieces=pieces)
            x = recipe.matrix(piece, dtype)
            y = target.read(piece)
            if wanted["scale_target"] and not target.classes:
                y = (y - target.mean) / target.scale
            files[0].write(x.data)
            files[1].write(np.ascontiguousarray(errors.cast("y", y, y_dtype)).data)
            if sample_weight is not None:
                files[2].write(_weights(columns[sample_weight].data, sample_weight, piece).data)
            shown.tell("written", first + len(some), f"{n} rows")
        for file in files:
            file.flush()
            os.fsync(file.fileno())
    return len(rows)


@dataclass(frozen=True)
class _Rows(Table):
    """Some rows of the table, which know where they came from."""

    pieces: _Pieces | None = None

    def where(self, row: int) -> str:
        assert self.pieces is not None
        assert self.lines is not None
        return self.pieces.where(int(self.lines[row]))


def _weights(values: Array, name: str, piece: Table) -> Array:
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"sample_weight {name!r} must be finite and not negative, got {values[row]} in {piece.where(row)}"
        )
    return values
