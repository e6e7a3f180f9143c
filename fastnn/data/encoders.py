"""What a column becomes: one frozen description for each kind, and the numbers it gives."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from .columns import Column, Kind

__all__ = ["ENCODERS", "CategoryEncoder", "DateEncoder", "Encoder", "NumberEncoder", "encoder_for"]

Array = NDArray[Any]

# A column with more distinct texts is embedded: the matrix holds a code, and the network learns some numbers
# for each text. The one switch between small and large categories.
ONE_HOT_CATEGORIES = 64
# Of an embedded column the most frequent texts have numbers of their own, and all others share one row.
EMBEDDED_CATEGORIES = 10_000

_DAY = 86400

# Share of the values at each end that the limits of a number are not taken from.
_TAIL = 1e-3


def _circle(n: int, period: float) -> Array:
    """Sine and cosine of n equal parts of a circle, (n, 2); a table, so that a row's value is its own."""
    angles = [2 * math.pi * i / period for i in range(n)]
    return np.array([[math.sin(a), math.cos(a)] for a in angles])


_MONTHS, _DAYS, _HOURS = _circle(12, 12), _circle(366, 365.25), _circle(24, 24)


class Encoder:
    """What all encoders share.

    Attributes
    ----------
    name : str
        Of the column.
    missing : bool
        Whether values were missing when the recipe was made: then a further 0/1 column tells where
        they are (of a category: it is one more category).
    """

    kind: ClassVar[Kind]
    name: str
    missing: bool

    def features(self) -> list[str]:
        """Names of the columns of the matrix that this one becomes."""
        raise NotImplementedError

    def describe(self) -> str:
        """What is done, in words."""
        raise NotImplementedError

    def encode(self, column: Column, out: Array) -> None:
        """Fill out (n_rows, len(features)), zeros before, from a column of this kind."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Kind and fields, as JSON takes them."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {"kind": self.kind, **{k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}}


@dataclass(frozen=True)
class NumberEncoder(Encoder):
    """A number or boolean as (value - mean) / scale, a missing one as `fill` (the median).

    Values beyond `low` and `high` are taken as these: a network goes on in a straight line outside of what
    it has seen, and one slip of the pen (a diamond 59 mm wide) would be predicted absurdly. The limits are
    the quantiles of 1/1000 at both ends, and half their distance more; mean and scale are of the limited
    values, so that a 999999 for "unknown" does not flatten all others.

    `scale` is the standard deviation; 0 where all values are equal, and then only the flag of missing
    values is left.
    """

    kind: ClassVar[Kind] = "number"
    name: str
    mean: float
    scale: float
    fill: float
    low: float
    high: float
    missing: bool

    @classmethod
    def fit(cls, name: str, column: Column) -> NumberEncoder:
        """Measure a column that has a value."""
        values = column.data[np.isfinite(column.data)]
        low, high = _limits(values)
        mean, scale = mean_and_scale(name, np.clip(values, low, high))
        return cls(name, mean, scale, float(np.median(values)), low, high, len(values) < len(column))

    def features(self) -> list[str]:
        return [self.name] * (self.scale > 0) + [f"{self.name} is missing"] * self.missing

    def describe(self) -> str:
        text = "constant"
        if self.scale > 0:
            text = f"(x - {self.mean:.6g}) / {self.scale:.6g}, x limited to {self.low:.6g} .. {self.high:.6g}"
        return text + (f"; missing: {self.fill:.6g}, flagged" if self.missing else "")

    def encode(self, column: Column, out: Array) -> None:
        is_missing = ~np.isfinite(column.data)
        if self.scale > 0:
            values = np.clip(np.where(is_missing, self.fill, column.data), self.low, self.high)
            out[:, 0] = (values - self.mean) / self.scale
        if self.missing:
            out[:, -1] = is_missing


@dataclass(frozen=True)
class BooleanEncoder(NumberEncoder):
    """A boolean, standardised as the number 0 or 1."""

    kind: ClassVar[Kind] = "boolean"


@dataclass(frozen=True)
class CategoryEncoder(Encoder):
    """A category: one 0/1 column for each of its texts, or one column of codes where there are many.

    Codes number the texts, then (where there are such) "other" and "missing"; -1 stands for what is none
    of them, which `Embedding` turns into zeros.

    Parameters
    ----------
    categories : tuple of str
        In alphabetical order.
    other : bool
        Whether rarer texts were seen, that share a last column; texts never seen go there too, and
        are all zeros where it is not.
    """

    kind: ClassVar[Kind] = "category"
    name: str
    categories: tuple[str, ...]
    other: bool
    missing: bool

    @classmethod
    def fit(cls, name: str, column: Column) -> CategoryEncoder:
        """Count the texts of a column that has one."""
        present = column.data[column.data >= 0]
        counts = np.bincount(present, minlength=len(column.texts))
        seen = [i for i in range(len(counts)) if counts[i]]
        seen.sort(key=lambda i: (-counts[i], column.texts[i]))
        kept = sorted(column.texts[i] for i in seen[:EMBEDDED_CATEGORIES])
        return cls(name, tuple(kept), len(seen) > len(kept), len(present) < len(column))

    @property
    def is_embedded(self) -> bool:
        """Whether the matrix holds a code."""
        return len(self.categories) > ONE_HOT_CATEGORIES

    def embedding(self) -> tuple[int, int]:
        """Number of codes, and how many numbers the network learns for each.

        1.6 n^0.56, at most 50: the rule of the fastai library (Howard and Gugger 2020).
        """
        n = len(self.categories) + self.other + self.missing
        return n, min(50, round(1.6 * n**0.56))

    def features(self) -> list[str]:
        if self.is_embedded:
            return [self.name]
        names = [f"{self.name}={text}" for text in self.categories]
        return names + [f"{self.name} is other"] * self.other + [f"{self.name} is missing"] * self.missing

    def describe(self) -> str:
        shown = ", ".join(self.categories[:8]) + (", ..." if len(self.categories) > 8 else "")
        extra = " and other" * self.other + " and missing" * self.missing
        how = f", embedded in {self.embedding()[1]} numbers" * self.is_embedded
        return f"one of {len(self.categories)}: {shown}{extra}{how}"

    def unseen(self, column: Column) -> int:
        """Rows with a text that is none of the categories; 0 where rare ones share a place."""
        known = set(self.categories)
        is_new = np.array([*(text not in known for text in column.texts), False])
        return 0 if self.other else int(is_new[column.data].sum())

    def encode(self, column: Column, out: Array) -> None:
        place = {text: i for i, text in enumerate(self.categories)}
        n = len(place)
        unknown = n if self.other else -1
        absent = n + self.other if self.missing else -1
        places = np.array([*(place.get(text, unknown) for text in column.texts), absent])[column.data]
        if self.is_embedded:
            out[:, 0] = places
            return
        rows = np.flatnonzero(places >= 0)
        out[rows, places[rows]] = 1


@dataclass(frozen=True)
class DateEncoder(Encoder):
    """A date as time and year (standardised), month, day of the year and hour on circles, and weekday.

    Parameters
    ----------
    mean, scale : float
        Of the time, in seconds since 1970; the year's follow from them.
    hours : bool
        Whether a time of day was seen.
    """

    kind: ClassVar[Kind] = "date"
    name: str
    mean: float
    scale: float
    fill: float
    hours: bool
    missing: bool

    @classmethod
    def fit(cls, name: str, column: Column) -> DateEncoder:
        """Measure a column that has a date."""
        values = column.data[np.isfinite(column.data)]
        mean, scale = mean_and_scale(name, values)
        hours = bool((values % _DAY != 0).any())
        return cls(name, mean, scale, float(np.median(values)), hours, len(values) < len(column))

    def features(self) -> list[str]:
        if self.scale == 0:
            return [f"{self.name} is missing"] * self.missing
        parts = ["time", "year", "month sin", "month cos", "day sin", "day cos"]
        parts += ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
        parts += ["hour sin", "hour cos"] * self.hours + ["is missing"] * self.missing
        return [f"{self.name} {part}" for part in parts]

    def describe(self) -> str:
        if self.scale == 0:
            return "constant; missing: flagged"
        around = np.datetime64(round(self.mean), "s").astype("datetime64[D]")
        parts = "time, year, month, day of the year, weekday" + ", hour" * self.hours
        middle = f"{parts}; around {around}, deviation {self.scale / _DAY:.6g} days"
        return middle + ("; missing: the median, flagged" if self.missing else "")

    def encode(self, column: Column, out: Array) -> None:
        is_missing = ~np.isfinite(column.data)
        if self.missing:
            out[:, -1] = is_missing
        if self.scale == 0:
            return
        seconds = np.where(is_missing, self.fill, column.data)
        days = np.floor(seconds / _DAY).astype(np.int64)
        dates = days.astype("datetime64[D]")
        years, months = dates.astype("datetime64[Y]"), dates.astype("datetime64[M]")
        out[:, 0] = (seconds - self.mean) / self.scale
        # In units of the time's deviation, so that a year means the same in both.
        year = 365.25 * _DAY
        out[:, 1] = (years.astype(np.int64) - self.mean / year) * (year / self.scale)
        out[:, 2:4] = _MONTHS[months.astype(np.int64) % 12]
        out[:, 4:6] = _DAYS[(dates - years.astype("datetime64[D]")).astype(np.int64)]
        out[np.arange(len(days)), 6 + (days + 3) % 7] = 1  # 1970 began on a Thursday
        if self.hours:
            out[:, 13:15] = _HOURS[(seconds - days * _DAY).astype(np.int64) // 3600]


def _limits(values: Array) -> tuple[float, float]:
    """Smallest and largest value that is taken for true."""
    with np.errstate(over="ignore", invalid="ignore"):  # judged with mean and scale
        low, high = np.quantile(values, [_TAIL, 1 - _TAIL])
        if low == high:  # nearly all are equal, and the rare others are what is to be told apart
            low, high = values.min(), values.max()
        room = (high - low) / 2
        low, high = low - room, high + room
    greatest = np.finfo(np.float64).max
    return max(float(low), -greatest), min(float(high), greatest)


def mean_and_scale(name: str, values: Array) -> tuple[float, float]:
    """Mean and standard deviation of finite values; the deviation is 0 exactly where all are equal."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean, scale = float(values.mean()), float(values.std())
    if not (math.isfinite(mean) and math.isfinite(scale)):
        raise ValueError(f"column {name!r} has values too large to take their mean and deviation")
    if values.min() == values.max():
        return float(values[0]), 0.0
    return mean, max(scale, np.finfo(np.float64).tiny)


ENCODERS: dict[str, type[Encoder]] = {
    encoder.kind: encoder for encoder in (NumberEncoder, BooleanEncoder, CategoryEncoder, DateEncoder)
}


def encoder_for(name: str, column: Column) -> Encoder:
    """The encoder that a column's kind asks for."""
    fitted: Encoder = ENCODERS[column.kind].fit(name, column)  # type: ignore[attr-defined]
    return fitted


def encoder_from_json(value: Any) -> Encoder:
    """The encoder that `to_json` described; strict.

    Raises
    ------
    FormatError
        A field is missing, unknown or of the wrong type.
    """
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in ENCODERS:
        raise FormatError(f"a column of the recipe must name its kind ({', '.join(ENCODERS)}), got {value!r}")
    cls = ENCODERS[kind]
    return cls(**checked_fields(cls, {k: v for k, v in value.items() if k != "kind"}))


def checked_fields(cls: type[Any], value: Any) -> dict[str, Any]:
    """The fields of a dataclass as found in JSON, judged by their annotations."""
    fields = {f.name: f.type for f in dataclasses.fields(cls)}
    if not isinstance(value, dict) or value.keys() != fields.keys():
        found = sorted(value) if isinstance(value, dict) else value
        raise FormatError(
            f"{cls.__name__} in the recipe must have the fields {sorted(fields)}, got {found!r}"
        )
    checked = {}
    for name, kind in fields.items():
        item = value[name]
        if kind == "float":
            good = isinstance(item, (int, float)) and not isinstance(item, bool) and math.isfinite(item)
            good = good and not (name == "scale" and item < 0)
            item = float(item) if good else item
        elif kind == "bool":
            good = isinstance(item, bool)
        elif kind == "str":
            good = isinstance(item, str)
        else:
            good = isinstance(item, list) and all(isinstance(text, str) for text in item)
            good = good and len(set(item)) == len(item)
            item = tuple(item) if good else item
        if not good:
            raise FormatError(f"{cls.__name__}.{name} in the recipe must be a {kind}, got {item!r}")
        checked[name] = item
    return checked
