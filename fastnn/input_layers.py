"""Layers for inputs: arrays of any shape as rows, and numbers spread over many columns."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import errors
from .late_dataclass import dataclass
from .layers import Layer, set_field
from .steps import Lowering, Step

__all__ = ["Flatten", "Periodic", "PiecewiseLinear", "flattened"]


@dataclass(frozen=True, repr=False)
class Flatten(Layer):
    """Rows of any shape as vectors: a model that begins with it takes x of shape (n, a, b, ..).

    Scale, Dropout and noise may come before it.

    Each row is read as C order has it, so images of (28, 28) become 784 columns. Nothing is computed.
    """

    def lower(self, to: Lowering) -> None:
        """No step: it is done before the first."""


@dataclass(frozen=True, repr=False)
class PiecewiseLinear(Layer):
    """Each column as one number a bin: how much of the bin lies below x (Gorishniy et al. 2022, their PLE).

    With the edges e of the bins of a column, output t is (x - e[t]) / (e[t+1] - e[t]), cut at 0 but in the
    first bin and at 1 but in the last. Nothing is trained.

    Parameters
    ----------
    bins : tuple of tuple of float
        Rising edges of the bins of each column, two at least.

    Examples
    --------
    >>> import fastnn as fn
    >>> model = fn.Sequential(fn.PiecewiseLinear(((0.0, 1.0, 3.0),)), dtype="float64").build(1)
    >>> model.predict([[-1.0], [0.5], [2.0], [5.0]]).tolist()
    [[-1.0, 0.0], [0.5, 0.0], [1.0, 0.5], [1.0, 2.0]]
    """

    bins: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        bins = errors.listed(self.bins)
        if not isinstance(bins, (tuple, list)) or not bins:
            raise TypeError(f"bins must be a tuple of edges for each column, got {errors.shown(self.bins)}")
        judged = []
        for j, edges in enumerate(bins):
            edges = errors.listed(edges)
            if not isinstance(edges, (tuple, list)) or len(edges) < 2:
                raise TypeError(f"bins[{j}] must be two edges or more, got {errors.shown(edges)}")
            numbers = tuple(
                errors.real(f"bins[{j}][{i}]", e, -sys.float_info.max) for i, e in enumerate(edges)
            )
            if any(numbers[i + 1] <= numbers[i] for i in range(len(numbers) - 1)):
                raise ValueError(f"bins[{j}] must rise, got {numbers}")
            judged.append(numbers)
        set_field(self, "bins", tuple(judged))

    @classmethod
    def of(cls, x: Any, n_bins: int = 16) -> PiecewiseLinear:
        """Bins between quantiles of the columns of x (n, n_columns), as the authors take them.

        Equal quantiles are one edge, so that a column of few values has fewer bins.

        Raises
        ------
        ValueError
            A column has one value alone.
        """
        table = errors.table("x", x, None).astype(np.float64)
        n_bins = errors.integer("n_bins", n_bins)
        if len(table) == 0:
            raise ValueError("x must have at least one row, got none")
        if not np.isfinite(table).all():
            raise ValueError("x must be finite to have quantiles")
        bins = []
        for j in range(table.shape[1]):
            edges = np.unique(np.quantile(table[:, j], np.linspace(0, 1, n_bins + 1)).astype(np.float32))
            if len(edges) < 2:
                raise ValueError(f"column {j} of x must have two values or more, got {edges.tolist()} alone")
            bins.append(tuple(edges.tolist()))
        return cls(tuple(bins))

    def lower(self, to: Lowering) -> None:
        """One step."""
        if len(self.bins) != to.width:
            raise ValueError(
                f"layer {to.name}, PiecewiseLinear has bins for {len(self.bins)} of {to.width} columns"
            )
        n_out = sum(len(edges) - 1 for edges in self.bins)
        to.add(Step("piecewise", to.layer, to.width, n_out), edges=self.bins)


@dataclass(frozen=True, repr=False)
class Periodic(Layer):
    """Sines and cosines of each column, ``sin(2 pi f x), cos(2 pi f x)``, of trained frequencies f.

    Gorishniy et al. (2022): of each column its `n_frequencies` sines, then its cosines. The frequencies,
    "0.weight" (n_columns, n_frequencies), begin with normal numbers of deviation sigma, which is to be tuned.

    The authors' PLR gives each column a linear layer and ReLU of its own: one group a column does that.

    Parameters
    ----------
    n_frequencies : int
        Of each column.
    sigma : float

    Examples
    --------
    Three columns, each as 8 numbers behind 16 frequencies:

    >>> import fastnn as fn
    >>> groups = [((j,), fn.Periodic(16), fn.Dense(8, activation="relu")) for j in range(3)]
    >>> fn.Sequential(fn.Concat(*groups), fn.Dense(1)).build(3).weights["1.weight"].shape
    (24, 1)
    """

    n_frequencies: int = 16
    sigma: float = 0.1

    def __post_init__(self) -> None:
        set_field(self, "n_frequencies", errors.integer("n_frequencies", self.n_frequencies))
        set_field(self, "sigma", errors.real("sigma", self.sigma))

    def lower(self, to: Lowering) -> None:
        """The frequencies."""
        shape = to.width, self.n_frequencies
        n = shape[0] * shape[1]
        step = Step("periodic", to.layer, to.width, 2 * n, weight=to.parameters(n), shape=shape)
        to.add(step, initial=self.sigma)


def flattened(argument: str, x: Any, layers: Sequence[Layer]) -> Any:
    """x for a model of these layers: where they begin with Flatten, each row as one vector.

    Not copied where it can be read so. What is no array of three or more dimensions is judged by others.
    """
    if not any(isinstance(layer, Flatten) for layer in layers):
        return x
    x = errors.plain(argument, x)
    if x.ndim < 3:
        return x
    # What takes each number by itself may stand before it: Scale(1 / 255), Flatten(), ...
    first = next(layer for layer in layers if not layer.by_number)
    if not isinstance(first, Flatten):
        raise ValueError(
            f"{argument} must be 2-D, as Flatten comes after {first!r}, which takes rows of columns; "
            f"got shape {x.shape}; begin the model with Flatten"
        )
    found = errors.array(argument, x)
    return found.reshape(len(found), math.prod(found.shape[1:]))
