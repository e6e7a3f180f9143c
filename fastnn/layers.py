"""Layers as frozen descriptions, and the steps that a list of them becomes.

A layer holds no numbers and does no arithmetic: it compares, prints and validates itself. `lower`
gives each its place in the flat block of parameters; a device compiles the result.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeAlias

from . import errors, initializers, kernels

__all__ = ["Activation", "Dense", "Dropout", "Layer", "Step", "lower", "n_parameters"]


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


def _set(layer: Layer, field: str, value: object) -> None:
    """Store the judged form of a field of a frozen layer (np.int64(3) becomes 3)."""
    object.__setattr__(layer, field, value)


AnyLayer: TypeAlias = Dense | Activation | Dropout


@dataclass(frozen=True)
class Step:
    """One step of a program: a layer with its widths and its place in the flat block.

    Parameters
    ----------
    kind : str
        "dense", "activation" or "dropout".
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
    """

    kind: str
    layer: int
    n_in: int
    n_out: int
    activation: str = "identity"
    weight: int = -1
    bias: int = -1
    rate: float = 0.0

    @property
    def n_parameters(self) -> int:
        """How many numbers of the flat block are this step's."""
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
        else:
            steps.append(Step("dropout", i, width, width, rate=layer.rate))
    return tuple(steps)


def n_parameters(steps: tuple[Step, ...]) -> int:
    """Length of the flat block."""
    return sum(step.n_parameters for step in steps)
