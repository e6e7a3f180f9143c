"""Columns of a table too large for memory: read in pieces, of a kind decided once, kept in files."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .columns import MISSING_WORDS, Column, Kind, boolean_or_nan, column, text_column
from .tables import _with_points

__all__ = ["Spool", "arrow_column"]

Array = NDArray[Any]
Where = Callable[[int], str]

_WHOLE = 2**53


def arrow_column(name: str, values: Any, pa: Any, points: bool) -> Column:
    """A piece of a column of Arrow as the rules of tables read it; texts stay texts.

    Parameters
    ----------
    values : pyarrow.Array
    pa : module
    points : bool
        Whether decimal commas are points.
    """
    types = pa.types
    if types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if types.is_null(values.type):
        return Column("category", np.full(len(values), -1))
    if types.is_string(values.type) or types.is_large_string(values.type):
        # Each distinct text is looked at once.
        coded = values.dictionary_encode()
        texts = text_column(coded.dictionary.to_pylist())
        if points:
            texts = _with_points(texts)
        places = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return Column("category", np.append(texts.data, -1)[places], texts.texts)
    if types.is_integer(values.type) and values.null_count:
        found = values.to_numpy(zero_copy_only=False)
        if np.nanmax(np.abs(found), initial=0.0) >= _WHOLE:  # two of them could become one float
            return column(name, values.to_pylist())
        return column(name, found)
    return column(name, values.to_numpy(zero_copy_only=False))


def _as_numbers(values: Any, pa: Any) -> Array | None:
    """Texts that are all numbers or missing, read at once; None where the slow way must tell."""
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return None
    import pyarrow.compute as pc

    for clean in (False, True):
        try:
            if clean:
                values = pc.utf8_trim_whitespace(values)
                words = pa.array(sorted(MISSING_WORDS), values.type)
                missing = pc.is_in(pc.utf8_lower(values), value_set=words)
                values = pc.if_else(missing, None, values)
            found: Array = pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            continue
        return found
    return None


class Spool:
    """One column, written as it is read: float64, or the numbers of its texts.

    Parameters
    ----------
    name : str
    path : str
        Of the temporary file.
    kind : str or None
        None: what the first values are.
    role : str
        "column" or "target", for messages.
    """

    def __init__(self, name: str, path: str, kind: Kind | None, role: str = "column") -> None:
        self.name, self.path, self.kind, self._role = name, path, kind, role
        self._chosen = kind is not None
        self._file: IO[bytes] | None = open(path, "wb")  # noqa: SIM115 (closed by `end`)
        self._codes: dict[str, int] = {}
        self._texts: tuple[str, ...] = ()
        self.n_rows = self._n_unknown = 0

    def add(self, values: Any, pa: Any, where: Where, points: bool) -> None:
        """Take the next piece in.

        Raises
        ------
        ValueError
            A value is of another kind than those before.
        """
        self.n_rows += len(values)
        if self.kind == "number":
            found = _as_numbers(values, pa)
            if found is not None:
                self._write(found)
                return
        piece = arrow_column(self.name, values, pa, points)
        if self.kind is None:
            piece = piece.inferred()
            if piece.missing.all():
                self._n_unknown += len(piece)
                return
            self.kind = piece.kind
        if self._n_unknown:  # nothing was known of the first rows: all of them are missing
            n, self._n_unknown = self._n_unknown, 0
            self._write(np.full(n, -1 if self.kind == "category" else np.nan))
        self._write(self._converted(piece, where))

    def _converted(self, piece: Column, where: Where) -> Array:
        assert self.kind is not None
        if self.kind == "category":
            piece = piece.converted("category", self.name, where)
            codes = [self._codes.setdefault(text, len(self._codes)) for text in piece.texts]
            return np.array([*codes, -1], np.int64)[piece.data]
        try:
            if self.kind == "boolean" and piece.kind == "category":
                self._judge_words(piece, where)
            return piece.converted(self.kind, self.name, where).data
        except ValueError as error:
            if self._chosen:
                raise
            raise ValueError(
                f"{error}; the first rows decided on {self.kind}s, "
                f"kinds={{{self.name!r}: 'category'}} takes all values as texts"
            ) from None

    def _judge_words(self, piece: Column, where: Where) -> None:
        for i, text in enumerate(piece.texts):
            if boolean_or_nan(text) != boolean_or_nan(text):
                row = int((piece.data == i).argmax())
                raise ValueError(f"column {self.name!r} must hold yes or no, got {text!r} in {where(row)}")

    def _write(self, values: Array) -> None:
        assert self._file is not None
        dtype = np.int32 if self.kind == "category" else np.float64
        self._file.write(np.ascontiguousarray(values, dtype).data)

    def end(self) -> None:
        """All pieces are there."""
        if self._file is not None:
            if self.kind is None or self._n_unknown:
                self.kind = self.kind or "category"
                n, self._n_unknown = self._n_unknown, 0
                self._write(np.full(n, -1 if self.kind == "category" else np.nan))
            self._file.close()
            self._file = None
        self._texts = tuple(self._codes)

    def column(self, rows: slice | Array) -> Column:
        """Some rows, read from the file."""
        assert self.kind is not None
        data: Array
        if os.path.getsize(self.path) == 0:
            data = np.zeros(0)
        else:
            dtype = np.int32 if self.kind == "category" else np.float64
            data = np.array(np.memmap(self.path, dtype, "r")[rows])
        if self.kind == "category":
            return Column("category", data.astype(np.int64), self._texts)
        return Column(self.kind, data)
