"""Layers as frozen descriptions, and the steps that a list of them becomes.

A layer holds no numbers and does no arithmetic: it compares, prints and validates itself. `lower`
gives each its place in the flat block of parameters; a device compiles the result. Layers that hold
others are here too: the steps of their parts make a small graph.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import ClassVar, TypeAlias

from . import errors, initializers, kernels
from .late_dataclass import dataclass
from .steps import Lowering, Step, Table, n_parameters, places

__all__ = [
    "Activation",
    "Concat",
    "Dense",
    "Dropout",
    "Embedding",
    "Layer",
    "Residual",
    "Scale",
    "Step",
    "Table",
    "lower",
    "n_parameters",
    "places",
    "set_field",
]


class Layer:
    """What all layers share: a short repr, with the fields that differ from their defaults.

    Attributes
    ----------
    by_number : bool
        Whether each number is taken by itself, wherever it stands.
    """

    by_number: ClassVar[bool] = False

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        shown = [f"{f.name}={getattr(self, f.name)!r}" for f in fields if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(shown)})"

    def lower(self, to: Lowering) -> None:
        """Append the steps of this layer, which reads where `to.at` is."""
        raise NotImplementedError


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
    weight_init : str or Initializer, optional
        The distribution of the initial weights: a name (``"he_normal"``, ``"orthogonal"``, ..) or one with
        parameters (``initializers.TruncatedNormal(std=0.02)``). None takes He's for rectifiers, LeCun's for
        selu and Glorot's for all others.
    bias_init : float, sequence of floats, str or Initializer, optional
        What biases start with: one number, or one a unit (the logarithm of its odds, say), or a distribution
        as that of the weights. None: 0.
    """

    later: ClassVar[tuple[str, ...]] = ("bias_init",)

    units: int
    activation: str | None = None
    bias: bool = True
    weight_init: str | initializers.Initializer | None = None
    bias_init: float | tuple[float, ...] | str | initializers.Initializer | None = None

    def __post_init__(self) -> None:
        set_field(self, "units", errors.integer("units", self.units))
        if self.activation is not None:
            errors.choice("activation", self.activation, kernels.ACTIVATIONS)
        set_field(self, "bias", errors.flag("bias", self.bias))
        if self.weight_init is not None:
            initializers.judged("weight_init", self.weight_init)
        if self.bias_init is not None:
            if not self.bias:
                raise ValueError(f"bias_init must be None with bias=False, got {self.bias_init!r}")
            set_field(self, "bias_init", initializers.judged_bias("bias_init", self.bias_init, self.units))

    def lower(self, to: Lowering) -> None:
        """Weight, then bias."""
        weight = to.parameters(to.width * self.units)
        bias = to.parameters(self.units) if self.bias else -1
        activation = self.activation or "identity"
        step = Step("dense", to.layer, to.width, self.units, activation, weight, bias)
        to.add(step, weight_init=self.weight_init, bias_init=self.bias_init)


@dataclass(frozen=True, repr=False)
class Activation(Layer):
    """An activation by its name, as a layer of its own."""

    name: str

    def __post_init__(self) -> None:
        errors.choice("name", self.name, kernels.ACTIVATIONS)

    def lower(self, to: Lowering) -> None:
        """One step."""
        to.add(Step("activation", to.layer, to.width, to.width, self.name))


@dataclass(frozen=True, repr=False)
class Dropout(Layer):
    """Sets each number to zero with probability `rate` while training, and scales the rest by 1/(1-rate).

    Predictions are left as they are. Srivastava et al. (2014), in the form that scales while training.

    Parameters
    ----------
    rate : float
        From 0 to below 1.
    """

    by_number: ClassVar[bool] = True
    rate: float

    def __post_init__(self) -> None:
        set_field(self, "rate", errors.real("rate", self.rate, 0.0, 1.0))

    def lower(self, to: Lowering) -> None:
        """One step."""
        to.add(Step("dropout", to.layer, to.width, to.width, rate=self.rate))


@dataclass(frozen=True, repr=False)
class Scale(Layer):
    """``factor * x + shift``, not trained.

    As the first layer one with two numbers is done while rows are gathered: uint8 images become ``x / 255``
    by ``Scale(1 / 255)`` and are never held as floats.

    Parameters
    ----------
    factor, shift : float or sequence of floats
        A sequence has one number for each column of x.

    Examples
    --------
    Columns with their means taken off and divided by their deviations:

    >>> import numpy as np
    >>> import fastnn as fn
    >>> mean, deviation = np.array([2.0, 50.0]), np.array([0.5, 4.0])
    >>> fn.Scale(1 / deviation, -mean / deviation)
    Scale(factor=(2.0, 0.25), shift=(-4.0, -12.5))
    """

    by_number: ClassVar[bool] = True
    factor: float | tuple[float, ...]
    shift: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        for field in ("factor", "shift"):
            value = errors.listed(getattr(self, field))
            if isinstance(value, (tuple, list)):
                if not value:
                    raise ValueError(f"{field} must be a number, or one for each column, got none")
                set_field(self, "by_number", False)
                numbers = enumerate(value)
                value = tuple(errors.real(f"{field}[{i}]", v, -sys.float_info.max) for i, v in numbers)
            else:
                value = errors.real(field, value, -sys.float_info.max)
            set_field(self, field, value)

    def lower(self, to: Lowering) -> None:
        """One step."""
        found = []
        for field in ("factor", "shift"):
            value = getattr(self, field)
            if isinstance(value, tuple) and len(value) != to.width:
                raise ValueError(
                    f"layer {to.name}, Scale: {field} must have {to.width} numbers, one for each column, "
                    f"got {len(value)}"
                )
            found.append(value if isinstance(value, tuple) else (value,) * to.width)
        if isinstance(self.factor, float) and isinstance(self.shift, float):
            step = Step("scale", to.layer, to.width, to.width, factor=self.factor, shift=self.shift)
        else:
            step = Step("scale_columns", to.layer, to.width, to.width, factors=found[0], shifts=found[1])
        to.add(step)


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
        columns = errors.listed(self.columns)
        if not isinstance(columns, (tuple, list)) or not columns:
            raise TypeError(
                f"columns must be a tuple of (column, n_categories, width), got {errors.shown(self.columns)}"
            )
        judged = []
        for i, entry in enumerate(columns):
            entry = errors.listed(entry)
            if not isinstance(entry, (tuple, list)) or len(entry) != 3:
                raise TypeError(
                    f"columns[{i}] must be (column, n_categories, width), got {errors.shown(entry)}"
                )
            column = errors.integer(f"columns[{i}][0]", entry[0], 0)
            judged.append((column, *(errors.integer(f"columns[{i}][{j}]", entry[j]) for j in (1, 2))))
        names = [column for column, _, _ in judged]
        if len(set(names)) < len(names):
            raise ValueError(f"columns must name each column once, got {names}")
        set_field(self, "columns", tuple(sorted(judged)))

    def lower(self, to: Lowering) -> None:
        """One step with a table for each column."""
        where = f"layer {to.name}, {self!r}"
        if to.trains(to.at):
            raise ValueError(f"{where}, must come before all layers with parameters")
        if self.columns[-1][0] >= to.width:
            raise ValueError(f"{where}, names column {self.columns[-1][0]} of {to.width} columns")
        tables, out = [], to.width - len(self.columns)
        for column, n_categories, width in self.columns:
            tables.append(Table(column, n_categories, width, to.parameters(n_categories * width), out))
            out += width
        to.add(Step("embedding", to.layer, to.width, out, tables=tuple(tables)))


# ---------------------------------------------------------------- layers that hold layers


def _inner(name: str, layers: object) -> tuple[AnyLayer, ...]:
    """The layers within a layer, judged."""
    if not isinstance(layers, (tuple, list)):
        raise TypeError(f"{name} must be layers, got {errors.shown(layers)}")
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise TypeError(f"{name}[{i}] must be a layer such as Dense, got {errors.shown(layer)}")
    return tuple(layers)


@dataclass(frozen=True, repr=False, init=False)
class Residual(Layer):
    """``x + f(x)``, f being layers one after the other (He et al. 2016).

    Their weights are named by both positions: "2.0.weight" is that of the layer 0 of a Residual at 2.

    Parameters
    ----------
    *layers : layers
        f; at least one.
    projection : bool
        ``x @ w + f(x)`` with a trained w (n_in, n_out), named "2.projection.weight", as He et al. do where
        the widths of x and f(x) differ. Without it they must be equal.
    shortcut : tuple of layers
        ``g(x) + f(x)``, g being these layers: "2.shortcut.0.weight" is that of the first.

    Examples
    --------
    >>> import fastnn as fn
    >>> fn.Residual(fn.Dense(8, activation="relu"), fn.Dense(4))
    Residual(Dense(units=8, activation='relu'), Dense(units=4))
    """

    layers: tuple[AnyLayer, ...]
    projection: bool = False
    shortcut: tuple[AnyLayer, ...] = ()
    several: ClassVar[str] = "layers"
    later: ClassVar[tuple[str, ...]] = ("shortcut",)

    def __init__(
        self, *layers: AnyLayer, projection: bool = False, shortcut: Sequence[AnyLayer] = ()
    ) -> None:
        if len(layers) == 1 and isinstance(layers[0], (tuple, list)):
            raise TypeError("layers must be given one by one: Residual(*layers)")
        if not layers:
            raise ValueError("layers must be at least one, got none")
        set_field(self, "layers", _inner("layers", layers))
        set_field(self, "projection", errors.flag("projection", projection))
        set_field(self, "shortcut", _inner("shortcut", shortcut))
        if self.projection and self.shortcut:
            raise ValueError(f"shortcut must be () with projection=True, got {self.shortcut!r}")

    def __repr__(self) -> str:
        more = ["projection=True"] if self.projection else []
        if self.shortcut:
            more.append(f"shortcut={self.shortcut!r}")
        return f"Residual({', '.join([*map(repr, self.layers), *more])})"

    def lower(self, to: Lowering) -> None:
        """f, the projection or shortcut where there is one, and a sum."""
        begin, width = to.at, to.width
        for i, layer in enumerate(self.layers):
            to.within(str(i), layer)
        end, n_out = to.at, to.width
        if self.projection:
            to.at, to.width = begin, width
            to.within("projection", Dense(n_out, bias=False))
            begin = to.at
        elif self.shortcut:
            to.at, to.width = begin, width
            for i, layer in enumerate(self.shortcut):
                to.within(f"shortcut.{i}", layer)
            if to.width != n_out:
                raise ValueError(
                    f"layer {to.name}, {self!r}: the shortcut gives {to.width} columns and f(x) {n_out}; "
                    "they must be equal"
                )
            begin = to.at
        elif n_out != width:
            raise ValueError(
                f"layer {to.name}, {self!r}: x has {width} columns and f(x) {n_out}; "
                "give both the same width, or set projection=True, or layers as shortcut"
            )
        to.add(Step("add", to.layer, n_out, n_out), (begin, end))


@dataclass(frozen=True, repr=False, init=False)
class Concat(Layer):
    """Groups of columns of x, each through layers of its own; the results stand side by side, in that order.

    The weights of a group's layers are named by all positions: "0.1.2.weight" is that of the third layer of
    the second group of a Concat at 0.

    Parameters
    ----------
    *branches : tuple
        Each ``(columns, *layers)``: columns is a tuple of column numbers, or a slice, and None for all
        columns; layers may be none. A column may be in several groups, or in none.

    Examples
    --------
    >>> import fastnn as fn
    >>> fn.Concat(((0, 1, 2), fn.Dense(8)), (slice(3, 10), fn.Dense(4)), (None,))
    Concat(((0, 1, 2), Dense(units=8)), (slice(3, 10, 1), Dense(units=4)), (None,))
    """

    branches: tuple[tuple[object, ...], ...]
    several: ClassVar[str] = "branches"

    def __init__(self, *branches: tuple[object, ...]) -> None:
        if not branches:
            raise ValueError("branches must be at least one, got none")
        judged = []
        for i, branch in enumerate(branches):
            if not isinstance(branch, (tuple, list)) or not branch:
                raise TypeError(f"branches[{i}] must be (columns, *layers), got {errors.shown(branch)}")
            layers = _inner(f"branches[{i}]", tuple(branch[1:]))
            judged.append((_group(f"branches[{i}][0]", branch[0]), *layers))
        set_field(self, "branches", tuple(judged))

    def __repr__(self) -> str:
        return f"Concat({', '.join(map(_branch_text, self.branches))})"

    def lower(self, to: Lowering) -> None:
        """Each branch, and one step that joins them."""
        begin, width = to.at, to.width
        ends, n_out = [], 0
        for i, (group, *layers) in enumerate(self.branches):
            to.at, to.width = begin, width
            if group is not None:
                numbers = _numbers(f"layer {to.name}, branches[{i}][0]", group, width)
                to.add(Step("columns", to.layer, width, len(numbers), columns=numbers))
            for j, layer in enumerate(layers):
                to.within(f"{i}.{j}", layer)
            ends.append(to.at)
            n_out += to.width
        to.add(Step("join", to.layer, to.width, n_out), tuple(ends))


# A group of columns: their numbers, (start, stop, step) of a slice behind the word, or None for all.
Group: TypeAlias = tuple[int | str, ...] | None


def _group(name: str, columns: object) -> Group:
    """Judged columns, in a form that hashes and that a file can keep."""
    if columns is None:
        return None
    if isinstance(columns, slice):
        start = errors.integer(f"{name}.start", 0 if columns.start is None else columns.start, 0)
        step = errors.integer(f"{name}.step", 1 if columns.step is None else columns.step, 1)
        if columns.stop is None:
            raise ValueError(
                f"{name} must say where it ends, as slice({start}, 10), got {errors.shown(columns)}"
            )
        stop = errors.integer(f"{name}.stop", columns.stop, start + 1)
        return ("slice", start, stop, step)
    columns = errors.listed(columns)
    if isinstance(columns, (tuple, list)) and len(columns) == 4 and columns[0] == "slice":
        return _group(name, slice(*columns[1:]))
    if not isinstance(columns, (tuple, list)):
        raise TypeError(f"{name} must be column numbers, a slice or None, got {errors.shown(columns)}")
    if not columns:
        raise ValueError(f"{name} must name at least one column, got none")
    numbers = tuple(errors.integer(f"{name}[{i}]", column, 0) for i, column in enumerate(columns))
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{name} must name each column once, got {list(numbers)}")
    return numbers


def _numbers(name: str, group: object, width: int) -> tuple[int, ...]:
    """The column numbers of a group, of that many columns."""
    assert isinstance(group, tuple)
    numbers: tuple[int, ...] = tuple(range(*group[1:])) if group[0] == "slice" else group
    if max(numbers) >= width:
        raise ValueError(f"{name} names column {max(numbers)} of {width} columns")
    return numbers


def _branch_text(branch: tuple[object, ...]) -> str:
    """A branch as it is written."""
    group, *layers = branch
    if isinstance(group, tuple) and group[0] == "slice":
        group = slice(*group[1:])
    texts = [repr(group), *map(repr, layers)]
    return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"


def set_field(layer: Layer, field: str, value: object) -> None:
    """Store the judged form of a field of a frozen layer (np.int64(3) becomes 3)."""
    object.__setattr__(layer, field, value)


AnyLayer: TypeAlias = Layer


def lower(layers: tuple[AnyLayer, ...], n_in: int) -> tuple[Step, ...]:
    """The steps of a list of layers for inputs of width n_in.

    The flat block holds weight and bias of each layer in layer order, without gaps.
    """
    to = Lowering(n_in)
    for i, layer in enumerate(layers):
        to.begin(i)
        layer.lower(to)
    if not to.steps:
        raise ValueError(f"layers must have one that computes something, got {errors.shown(layers)}")
    return tuple(to.steps)
