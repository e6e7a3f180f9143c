"""A column of a table in one of four forms, whatever it came from, and the rules that choose the form."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Column", "Kind", "column", "text_column"]

Array = NDArray[Any]
Kind = Literal["number", "boolean", "date", "category"]

# Compared in lower case, after blanks at the ends are gone.
MISSING_WORDS = frozenset(("", "na", "nan", "null", "none"))
BOOLEAN_WORDS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "t": 1.0, "f": 0.0, "y": 1.0, "n": 0.0}

# Whole numbers beyond this are not all floats: two ids could become one, so they stay text.
LARGEST_EXACT = 2**53

_LONG_WHOLE = re.compile(r"[+-]?\d{16,}")
_WHOLE_AS_FLOAT = re.compile(r"([+-]?\d+)\.0+")
_DATE = re.compile(r"\d{4}([-/])\d{2}\1\d{2}([T ].*)?")
_EPOCH = datetime.datetime(1970, 1, 1)


@dataclass(frozen=True)
class Column:
    """One column.

    Parameters
    ----------
    kind : str
        "number", "boolean", "date" or "category".
    data : ndarray (n_rows,)
        float64 with NaN where the value is missing: numbers, 0 and 1, or seconds since 1970 (UTC). Of
        a category: positions in texts as int64, -1 where it is missing.
    texts : tuple of str
        Of a category: its distinct texts in order of appearance.
    """

    kind: Kind
    data: Array
    texts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.data)

    @property
    def missing(self) -> Array:
        """Where no value is, as bools (n_rows,)."""
        return self.data < 0 if self.kind == "category" else np.isnan(self.data)

    def take(self, rows: Array) -> Column:
        """The column of some rows only."""
        return Column(self.kind, self.data[rows], self.texts)

    # ------------------------------------------------------------ from one kind to another

    def inferred(self) -> Column:
        """Texts that are all numbers, all boolean words or all dates as what they say; others as they are."""
        if self.kind != "category" or not self.texts:
            return self
        if not any(_LONG_WHOLE.fullmatch(text) for text in self.texts):
            found = _each(self.texts, number)
            if found is not None:
                return Column("number", self._spread(found))
        for kind, read in (("boolean", _boolean), ("date", _seconds)):
            values = _each(self.texts, read)
            if values is not None:
                return Column(kind, self._spread(values))  # type: ignore[arg-type]
        return self

    def nearly_numbers(self) -> tuple[int, str] | None:
        """How many texts are numbers, and one that is none, where most are: a slip of the pen, or units."""
        if self.kind != "category" or len(self.texts) < 2:
            return None
        readable = [number(text) is not None for text in self.texts]
        if not len(readable) > sum(readable) > len(readable) / 2:
            return None
        return sum(readable), self.texts[readable.index(False)]

    def converted(self, kind: Kind, name: str, where: Callable[[int], str]) -> Column:
        """The column as the kind that a recipe knows it as.

        Parameters
        ----------
        where : callable
            Gives the words for a row number in an error.

        Raises
        ------
        ValueError
            A text is no number or date where one is wanted. (Where a boolean is wanted it counts as
            missing, as a category never seen before does.)
        """
        if self.kind == kind:
            return self
        if kind == "category":
            return text_column([_text_of_value(v, self.kind) for v in self.data.tolist()])
        if kind == "boolean":
            if self.kind == "category":
                return Column(kind, self._spread([boolean_or_nan(text) for text in self.texts]))
            return Column(kind, np.where((self.data == 0) | (self.data == 1), self.data, np.nan))
        if self.kind == "boolean" and kind == "number":
            return Column(kind, self.data)
        if self.kind != "category" and not self.missing.all():
            found = "dates" if self.kind == "date" else f"{self.kind}s"
            raise ValueError(f"column {name!r} must hold {kind}s, got {found}")
        read = number if kind == "number" else _seconds
        values = []
        for i, text in enumerate(self.texts):
            value = read(text)
            if value is None and kind == "number":
                value = BOOLEAN_WORDS.get(text.lower())
            if value is None:
                row = int((self.data == i).argmax())
                raise ValueError(f"column {name!r} must hold {kind}s, got {text!r} in {where(row)}")
            values.append(value)
        return Column(kind, self._spread(values))

    def _spread(self, values: list[float]) -> Array:
        """What stands for each text, row by row; NaN where the text is missing."""
        if self.kind != "category":
            return np.full(len(self), np.nan)
        return np.array([*values, np.nan])[self.data]  # -1 is the last


# ---------------------------------------------------------------- what a text says


def _each(texts: tuple[str, ...], read: Callable[[str], float | None]) -> list[float] | None:
    """What all texts say, None as soon as one says nothing."""
    values = []
    for text in texts:
        value = read(text)
        if value is None:
            return None
        values.append(value)
    return values


def number(text: str) -> float | None:
    """The number that a text says, or None."""
    if "_" in text:  # Python reads 1_000 as a number; in a table it is a name
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _boolean(text: str) -> float | None:
    return BOOLEAN_WORDS.get(text.lower())


def boolean_or_nan(text: str) -> float:
    """0 or 1 for the words and numbers of a boolean, else NaN."""
    value = BOOLEAN_WORDS.get(text.lower())
    if value is None:
        value = number(text)
    return value if value is not None and value in (0.0, 1.0) else float("nan")


def _seconds(text: str) -> float | None:
    """Seconds since 1970 of an ISO date, with or without a time; a zone is taken into account."""
    if not _DATE.fullmatch(text):
        return None
    try:
        moment = datetime.datetime.fromisoformat(text.replace("/", "-", 2))
    except ValueError:
        return None
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return (moment - _EPOCH) / datetime.timedelta(seconds=1)


# ---------------------------------------------------------------- columns of any origin


def text_column(texts: Iterable[str | None]) -> Column:
    """A category column of texts; None and the words for "missing" are missing."""
    codes: dict[str | None, int] = {None: -1}
    kept: dict[str, int] = {}
    data = []
    for text in texts:
        code = codes.get(text)
        if code is None:
            assert text is not None
            clean = text.strip()
            if clean.lower() in MISSING_WORDS:
                code = -1
            else:
                whole = _WHOLE_AS_FLOAT.fullmatch(clean)  # 3.0 is what is left of 3 beside a missing value
                code = kept.setdefault(whole[1] if whole else clean, len(kept))
            codes[text] = code
        data.append(code)
    return Column("category", np.array(data, np.int64), tuple(kept))


def column(name: str, values: Any) -> Column:
    """The column of a 1-D array_like of numbers, bools, dates or texts, with or without missing values.

    Raises
    ------
    ValueError, TypeError
        It is no 1-D array of such.
    """
    if isinstance(values, np.ma.MaskedArray):
        values = values.tolist()
    try:
        found = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"column {name!r} must be an array of one shape: {error}") from None
    if found.ndim != 1:
        raise ValueError(f"column {name!r} must be 1-D, got shape {found.shape}")
    kind = found.dtype.kind
    if kind == "b":
        return Column("boolean", found.astype(np.float64))
    if kind in "iu":
        if len(found) and (int(found.max()) > LARGEST_EXACT or int(found.min()) < -LARGEST_EXACT):
            return text_column(map(str, found.tolist()))
        return Column("number", found.astype(np.float64))
    if kind == "f":
        return Column("number", found.astype(np.float64))
    if kind == "M":
        ticks = found.astype("datetime64[us]")
        seconds = ticks.astype(np.int64) / 1e6
        return Column("date", np.where(np.isnat(ticks), np.nan, seconds))
    if kind == "m":
        length = found.astype("timedelta64[us]")
        return Column("number", np.where(np.isnat(length), np.nan, length.astype(np.int64) / 1e6))
    if kind not in "OUST":
        raise TypeError(f"column {name!r} must hold numbers, bools, dates or texts, got dtype {found.dtype}")
    if isinstance(values, (list, tuple)):
        found = np.array([*values, None], object)[:-1]  # not the texts that NumPy made of a mixed list
    return text_column([_text(name, value) for value in found.tolist()])


def _text(name: str, value: Any) -> str | None:
    """The text of one value of a mixed column: as it would stand in a CSV file."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ValueError(f"column {name!r} must hold texts in UTF-8, got {value!r}") from None
    if type(value).__name__ in ("NAType", "NaTType"):  # pandas'; they cannot be compared
        return None
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, (float, np.floating)):
        return None if value != value else repr(float(value))
    if isinstance(value, (list, tuple, dict, set, np.ndarray)):
        raise TypeError(f"column {name!r} must hold numbers, bools, dates or texts, got {value!r}")
    return str(value)


def _text_of_value(value: float, kind: Kind) -> str | None:
    """The text of a number, boolean or date that a recipe knows as a category."""
    if value != value:
        return None
    if kind == "boolean":
        return str(bool(value))
    if kind == "date":
        moment = _EPOCH + datetime.timedelta(seconds=value)
        return moment.date().isoformat() if value % 86400 == 0 else moment.isoformat(" ")
    return str(int(value)) if value.is_integer() and abs(value) <= LARGEST_EXACT else repr(value)
