"""Layers with their weights, and what becomes of lists of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..layers import Activation, Concat, Dense, Layer, Residual, Scale
from ..norm_layers import LayerNorm, RMSNorm

__all__ = ["Piece", "Pieces", "joined", "last_activation", "residual"]

Array = NDArray[Any]


@dataclass
class Piece:
    """A layer, with its weights and running statistics by the end of their names."""

    layer: Layer
    weights: dict[str, Array] = field(default_factory=dict)


Pieces: TypeAlias = "list[Piece]"


def residual(inner: Pieces, side: Pieces | None = None) -> Piece:
    """x + f(x), or g(x) + f(x): g is a projection where it is one product without a bias, else a shortcut."""
    weights = _numbered("", inner)
    layers = [piece.layer for piece in inner]
    if not side:
        return Piece(Residual(*layers), weights)
    first, plain = side[0].layer, len(side) == 1 and "bias" not in side[0].weights
    if plain and isinstance(first, Dense) and first.activation is None:
        weights["projection.weight"] = side[0].weights["weight"]
        return Piece(Residual(*layers, projection=True), weights)
    weights |= _numbered("shortcut.", side)
    return Piece(Residual(*layers, shortcut=[piece.layer for piece in side]), weights)


def _numbered(prefix: str, pieces: Pieces) -> dict[str, Array]:
    """The weights of layers in a row, by their places."""
    return {
        f"{prefix}{i}.{end}": array for i, piece in enumerate(pieces) for end, array in piece.weights.items()
    }


def joined(pieces: Pieces) -> Pieces:
    """The same layers, those put together that are one here: a bias, an activation, the weights of a norm."""
    found: Pieces = []
    for piece in pieces:
        merged = _merged(found[-1], piece) if found else None
        if merged is None:
            found.append(piece)
        else:
            found[-1] = merged
    return found


def _merged(a: Piece, b: Piece) -> Piece | None:
    first, second = a.layer, b.layer
    if isinstance(first, Dense) and first.activation is None:
        if isinstance(second, Activation):
            return Piece(Dense(first.units, second.name, first.bias), a.weights)
        if not first.bias and isinstance(second, Scale) and second.factor == 1.0:
            return Piece(Dense(first.units), {**a.weights, "bias": _row(second.shift, first.units)})
    if isinstance(first, Scale) and isinstance(second, Scale) and first.shift == 0.0 and second.factor == 1.0:
        return Piece(Scale(first.factor, second.shift))
    if isinstance(second, Scale) and isinstance(first, (LayerNorm, RMSNorm)):
        return _with_weights(a, second)
    return None


def _with_weights(norm: Piece, scale: Scale) -> Piece | None:
    """A norm without weights, with those that follow it."""
    layer = norm.layer
    assert isinstance(layer, (LayerNorm, RMSNorm))
    if not layer.affine and isinstance(scale.factor, tuple):
        n = len(scale.factor)
        weights = {"weight": _row(scale.factor, n)}
        if isinstance(layer, LayerNorm):
            return Piece(LayerNorm(eps=layer.eps), {**weights, "bias": _row(scale.shift, n)})
        return Piece(RMSNorm(eps=layer.eps), weights) if scale.shift == 0.0 else None
    if isinstance(layer, LayerNorm) and layer.affine and scale.factor == 1.0:
        weight, bias = norm.weights["weight"], norm.weights["bias"]
        return (
            None if bias.any() else Piece(layer, {"weight": weight, "bias": _row(scale.shift, len(weight))})
        )
    return None


def _row(value: float | tuple[float, ...], n: int) -> Array:
    return np.broadcast_to(np.array(value, np.float64), (n,))


def last_activation(pieces: Pieces) -> tuple[Pieces, str] | None:
    """The layers without a softmax or sigmoid at the end, and the link that it is; None for none."""
    if not pieces:
        return None
    layer = pieces[-1].layer
    if isinstance(layer, Concat) and len(pieces) > 1 and _is_two_sided(layer):
        return last_activation(pieces[:-1])
    links = {"softmax": "softmax", "log_softmax": "softmax", "sigmoid": "sigmoid"}
    if isinstance(layer, Activation) and layer.name in links:
        return pieces[:-1], links[layer.name]
    if isinstance(layer, Dense) and layer.activation in links:
        plain = Piece(Dense(layer.units, bias=layer.bias), pieces[-1].weights)
        return [*pieces[:-1], plain], links[layer.activation]
    return None


def _is_two_sided(layer: Concat) -> bool:
    """Whether it gives 1 - p and p."""
    return layer.branches == ((None, Scale(-1.0, 1.0)), (None,))
