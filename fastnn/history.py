"""The History of a training: what was measured, by epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["History"]


class History(Mapping[str, list[float]]):
    """What was measured, by epoch: ``history["val_loss"]``, or ``history.val_loss``, is a list of floats.

    An epoch that did not measure a quantity has nan for it.

    Parameters
    ----------
    names : sequence of str
        Quantities that are there from the beginning.

    Attributes
    ----------
    epoch : list of int
        Numbers of the epochs, counted from 1 over all fits of a trainer.
    """

    def __init__(self, names: Sequence[str] = ("loss",)) -> None:
        self._names = list(names)
        # A row an epoch, which `fit` adds itself: Ctrl-C can not leave series of different lengths.
        self._rows: list[tuple[int, dict[str, float]]] = []

    @property
    def epoch(self) -> list[int]:
        """Numbers of the epochs, counted from 1."""
        return [epoch for epoch, _ in self._rows]

    def __getitem__(self, name: str) -> list[float]:
        if name not in self._names:
            raise KeyError(f"{name!r}; there is {', '.join(self._names)}")
        return [measured.get(name, math.nan) for _, measured in self._rows]

    def __getattr__(self, name: str) -> list[float]:
        if name.startswith("_") or name not in self._names:
            raise AttributeError(f"History has no {name!r}")
        return self[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._names]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def append(self, epoch: int, **measured: float) -> None:
        """Add what was measured in an epoch."""
        self.add_names(measured)
        self._rows.append((epoch, measured))

    def add_names(self, names: Mapping[str, Any] | Sequence[str]) -> None:
        """Let there be these quantities, even before an epoch has measured them."""
        self._names += [name for name in names if name not in self._names]

    def copy(self, after: int = 0) -> History:
        """Another one with the epochs after that one."""
        other = History(self._names)
        other._rows = [row for row in self._rows if row[0] > after]
        return other

    def to_pandas(self) -> Any:
        """A pandas.DataFrame: a row an epoch, a column a quantity, the epoch as index.

        Raises
        ------
        ImportError
            Without pandas.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError('history.to_pandas needs pandas: run "python -m pip install pandas"') from error
        return pandas.DataFrame(dict(self), index=pandas.Index(self.epoch, name="epoch", dtype="int64"))

    def __repr__(self) -> str:
        if not self._rows:
            return "History(no epochs)"
        _, measured = self._rows[-1]
        last = ", ".join(f"{name} {value:.6g}" for name, value in measured.items())
        plural = "" if len(self._rows) == 1 else "s"
        return f"History({len(self._rows)} epoch{plural}, last: {last})"
