"""Layers as frozen descriptions, and the steps that a list of them becomes.

A layer holds no numbers and does no arithmetic: it compares, prints and validates itself. `lower`
gives each its place in the flat block of parameters; a device compiles the result.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import TypeAlias

from . import errors, initializers, kernels

__all__ = [
    "Activation",
    "Dense",
    "Dropout",
    "Embedding",
    "Layer",
    "Scale",
    "Step",
    "Table",
    "lower",
    "n_parameters",
    "places",
]


class Layer:
    """What all layers share: a short repr, with the fields that differ from their defaults."""

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        shown = [f"{f.name}={getattr(self, f.name)!r}" for f in fields if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, repr=False)
class Dense(Layer):
    """A fully connected layer, ``f(x @ w + b)``.

    Parameters
    ----------
    units : int
        Number of outputs.
    activation : str, optional
        Name of f; None is the identity.
    bias : bool
        Whether b is there.
    weight_init : str, optional
        Name of the distribution of the initial weights; None takes He's for rectifiers and Glorot's
        for all others. Biases start at zero.
    """

    units: int
    activation: str | None = None
    bias: bool = True
    weight_init: str | None = None

    def __post_init__(self) -> None:
        _set(self, "units", errors.integer("units", self.units))
        if self.activation is not None:
            errors.choice("activation", self.activation, kernels.ACTIVATIONS)
        _set(self, "bias", errors.flag("bias", self.bias))
        if self.weight_init is not None:
            errors.choice("weight_init", self.weight_init, initializers.INITIALIZERS)


@dataclass(frozen=True, repr=False)
class Activation(Layer):
    """An activation by its name, as a layer of its own."""

    name: str

    def __post_init__(self) -> None:
        errors.choice("name", self.name, kernels.ACTIVATIONS)


@dataclass(frozen=True, repr=False)
class Dropout(Layer):
    """Sets each number to zero with probability `rate` while training, and scales the rest by 1/(1-rate).

    Predictions are left as they are. Srivastava et al. (2014), in the form that scales while training.

    Parameters
    ----------
    rate : float
        From 0 to below 1.
    """

    rate: float

    def __post_init__(self) -> None:
        _set(self, "rate", errors.real("rate", self.rate, 0.0, 1.0))


@dataclass(frozen=True, repr=False)
class Scale(Layer):
    """``factor * x + shift``, not trained.

    As the first layer it is done while rows are gathered: uint8 images become ``x / 255`` by
    ``Scale(1 / 255)`` and are never held as floats.

    Parameters
    ----------
    factor, shift : float
    """

    factor: float
    shift: float = 0.0

    def __post_init__(self) -> None:
        for field in ("factor", "shift"):
            value = getattr(self, field)
            _set(self, field, errors.real(field, value, -sys.float_info.max))


@dataclass(frozen=True, repr=False)
class Embedding(Layer):
    """Columns of category codes, each replaced by trained numbers of its own (Guo and Berkhahn 2016).

    The result holds the other columns, in order, then the numbers of each category column. A whole number
    outside 0 .. n_categories-1 is an unknown category: zeros, which are not trained. Comes before all
    layers with parameters. Tables start with normal numbers of deviation 1.

    Parameters
    ----------
    columns : tuple of (column, n_categories, width)
        Sorted by column here.

    Examples
    --------
    Two columns of numbers and one (the second) of 40 categories become 2 + 6 columns:

    >>> import fastnn as fn
    >>> model = fn.Sequential(fn.Embedding(((1, 40, 6),)), fn.Dense(1)).build(3)
    >>> model.weights["0.weight_1"].shape, model.weights["1.weight"].shape
    ((40, 6), (8, 1))
    """

    columns: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if not isinstance(self.columns, (tuple, list)) or not self.columns:
            raise TypeError(f"columns must be a tuple of (column, n_categories, width), got {self.columns!r}")
        judged = []
        for i, entry in enumerate(self.columns):
            if not isinstance(entry, (tuple, list)) or len(entry) != 3:
                raise TypeError(f"columns[{i}] must be (column, n_categories, width), got {entry!r}")
            column = errors.integer(f"columns[{i}][0]", entry[0], 0)
            judged.append((column, *(errors.integer(f"columns[{i}][{j}]", entry[j]) for j in (1, 2))))
        names = [column for column, _, _ in judged]
        if len(set(names)) < len(names):
            raise ValueError(f"columns must name each column once, got {names}")
        _set(self, "columns", tuple(sorted(judged)))


def _set(layer: Layer, field: str, value: object) -> None:
    """Store the judged form of a field of a frozen layer (np.int64(3) becomes 3)."""
    object.__setattr__(layer, field, value)


AnyLayer: TypeAlias = Dense | Activation | Dropout | Scale | Embedding


@dataclass(frozen=True)
class Table:
    """A category column, its table (n_categories, width) at `weight`, and its first column in the result."""

    column: int
    n_categories: int
    width: int
    weight: int
    out: int


@dataclass(frozen=True)
class Step:
    """One step of a program: a layer with its widths and its place in the flat block.

    Parameters
    ----------
    kind : str
        "dense", "activation", "dropout", "scale" or "embedding".
    layer : int
        Position of the layer in the model; part of the key of its dropout mask.
    n_in, n_out : int
        Widths.
    activation : str
        Name of f; "identity" for none.
    weight, bias : int
        Offsets in elements into the flat block, -1 for none. The weight is (n_in, n_out), row-major.
    rate : float
        Of a dropout step.
    factor, shift : float
        Of a scale step.
    tables : tuple of Table
        Of an embedding step, sorted by column.
    """

    kind: str
    layer: int
    n_in: int
    n_out: int
    activation: str = "identity"
    weight: int = -1
    bias: int = -1
    rate: float = 0.0
    factor: float = 1.0
    shift: float = 0.0
    tables: tuple[Table, ...] = ()

    @property
    def n_parameters(self) -> int:
        """How many numbers of the flat block are this step's."""
        if self.tables:
            return sum(table.n_categories * table.width for table in self.tables)
        n_weights = self.n_in * self.n_out if self.weight >= 0 else 0
        return n_weights + (self.n_out if self.bias >= 0 else 0)


def lower(layers: tuple[AnyLayer, ...], n_in: int) -> tuple[Step, ...]:
    """The steps of a list of layers for inputs of width n_in.

    The flat block holds weight and bias of each layer in layer order, without gaps.
    """
    steps: list[Step] = []
    width, offset = n_in, 0
    for i, layer in enumerate(layers):
        if isinstance(layer, Dense):
            weight = offset
            offset += width * layer.units
            bias = offset if layer.bias else -1
            offset += layer.units if layer.bias else 0
            activation = layer.activation or "identity"
            steps.append(Step("dense", i, width, layer.units, activation, weight, bias))
            width = layer.units
        elif isinstance(layer, Activation):
            steps.append(Step("activation", i, width, width, layer.name))
        elif isinstance(layer, Scale):
            steps.append(Step("scale", i, width, width, factor=layer.factor, shift=layer.shift))
        elif isinstance(layer, Embedding):
            if offset:
                raise ValueError(f"layer {i}, {layer!r}, must come before all layers with parameters")
            tables = _tables(layer, i, width)
            n_out = tables[-1].out + tables[-1].width
            steps.append(Step("embedding", i, width, n_out, tables=tables))
            offset, width = steps[-1].n_parameters, n_out
        else:
            steps.append(Step("dropout", i, width, width, rate=layer.rate))
    return tuple(steps)


def _tables(layer: Embedding, position: int, width: int) -> tuple[Table, ...]:
    """The tables of an embedding of inputs of that width, at the start of the flat block."""
    if layer.columns[-1][0] >= width:
        raise ValueError(
            f"layer {position}, {layer!r}, names column {layer.columns[-1][0]} of {width} columns"
        )
    tables, weight, out = [], 0, width - len(layer.columns)
    for column, n_categories, n_numbers in layer.columns:
        tables.append(Table(column, n_categories, n_numbers, weight, out))
        weight, out = weight + n_categories * n_numbers, out + n_numbers
    return tuple(tables)


def places(steps: tuple[Step, ...]) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Offset and shape of each weight by its name, in the order of the flat block.

    "0.weight" (n_in, n_out) and "0.bias" (n_out,) by layer position; "0.weight_3" (n_categories, width) of
    the category column 3 of an embedding.
    """
    found: dict[str, tuple[int, tuple[int, ...]]] = {}
    for s in steps:
        for table in s.tables:
            found[f"{s.layer}.weight_{table.column}"] = table.weight, (table.n_categories, table.width)
        if s.weight >= 0:
            found[f"{s.layer}.weight"] = s.weight, (s.n_in, s.n_out)
        if s.bias >= 0:
            found[f"{s.layer}.bias"] = s.bias, (s.n_out,)
    return found


def n_parameters(steps: tuple[Step, ...]) -> int:
    """Length of the flat block."""
    return sum(step.n_parameters for step in steps)
