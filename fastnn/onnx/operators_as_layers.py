"""Operators that are layers by themselves, with constants for weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..layers import Activation, Dense, Dropout, Scale
from ..norm_layers import BatchNorm, LayerNorm, PReLU, RMSNorm
from .graph import Node
from .pieces import Piece, Pieces, residual

__all__ = ["DIRECT", "Reader", "shortest"]

Array = NDArray[Any]


class Reader(Protocol):
    """What a graph tells; see `structure.Reader`."""

    row_shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype[Any]]

    def width(self, name: str) -> int:
        """Numbers of a row of a value."""

    def beside(self, node: Node, constant: str, data: str) -> Array:
        """A constant as numbers of one row of a value: one, or as many as it has."""

    def weight(self, constant: str) -> Array:
        """A constant array."""

    def last_axis(self, data: str) -> int:
        """Width of a value whose rows are vectors."""


def shortest(number: float) -> float:
    """The shortest decimal that is this number in single precision: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(number)))


Direct: TypeAlias = "Callable[[Reader, Node, str], Pieces]"
DIRECT: dict[str, Direct] = {}


def _direct(*names: str) -> Callable[[Direct], Direct]:
    def enter(function: Direct) -> Direct:
        for name in names:
            DIRECT[name] = function
        return function

    return enter


def _attribute(node: Node, name: str, default: float) -> float:
    return shortest(float(node.attributes.get(name, default)))


@_direct("Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Cast", "CastLike")
def _alike(reader: Reader, node: Node, data: str) -> Pieces:
    (out,) = (name for name in node.outputs if name)
    if data != node.inputs[0]:
        raise ValueError("its shape comes from the numbers of the input")
    if reader.width(out) != reader.width(data):
        raise ValueError("it changes the width of rows")
    if node.op.startswith("Cast") and reader.dtypes[out].kind != "f":
        raise ValueError(f"it makes {reader.dtypes[out]} of numbers")
    return []


@_direct("Dropout")
def _dropout(reader: Reader, node: Node, data: str) -> Pieces:
    ratio = node.attributes.get("ratio", 0.5)
    if len(node.inputs) > 1 and node.inputs[1]:
        ratio = float(np.asarray(reader.weight(node.inputs[1])).reshape(()))
    return [Piece(Dropout(shortest(ratio)))]


@_direct("MatMul")
def _matmul(reader: Reader, node: Node, data: str) -> Pieces:
    w = reader.weight(node.inputs[1]) if data == node.inputs[0] else None
    if w is None or w.ndim != 2:
        raise ValueError("it must multiply rows with a constant matrix")
    reader.last_axis(data)
    return [Piece(Dense(w.shape[1], bias=False), {"weight": w})]


@_direct("Gemm")
def _gemm(reader: Reader, node: Node, data: str) -> Pieces:
    if data != node.inputs[0] or node.attributes.get("transA", 0):
        raise ValueError("it must multiply rows with a constant matrix")
    reader.last_axis(data)
    w = reader.weight(node.inputs[1])
    w = w.T if node.attributes.get("transB", 0) else w
    alpha, beta = node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0)
    weights = {"weight": w if alpha == 1 else w * w.dtype.type(alpha)}
    if len(node.inputs) > 2 and node.inputs[2]:
        c = reader.beside(node, node.inputs[2], node.outputs[0])
        c = np.broadcast_to(c, w.shape[1:])
        weights["bias"] = c if beta == 1 else c * c.dtype.type(beta)
    return [Piece(Dense(w.shape[1], bias="bias" in weights), weights)]


def _line(factor: Array | float, shift: Array | float = 0.0) -> Pieces:
    """A Scale; no layer for one that changes nothing."""
    numbers = [
        value.astype(np.float64) if isinstance(value, np.ndarray) else value for value in (factor, shift)
    ]
    plain: list[Any] = []
    for value in numbers:
        if isinstance(value, np.ndarray) and (value == value[0]).all():
            value = float(value[0])
        plain.append(tuple(value.tolist()) if isinstance(value, np.ndarray) else value)
    return [] if plain == [1.0, 0.0] else [Piece(Scale(*plain))]


@_direct("Add", "Sub", "Mul", "Div")
def _with_constant(reader: Reader, node: Node, data: str) -> Pieces:
    first = data == node.inputs[0]
    c = reader.beside(node, node.inputs[1 if first else 0], data)
    if reader.width(node.outputs[0]) != reader.width(data):
        raise ValueError("it changes the width of rows")
    if node.op == "Mul":  # of a norm's weights, even where they are all 1 as yet
        return _line(c) if len(c) == 1 else [Piece(Scale(tuple(c.tolist())))]
    if node.op == "Add":
        return [Piece(Scale(1.0, tuple(c.tolist()) if len(c) > 1 else float(c[0])))]
    if node.op == "Sub":
        return _line(1.0, -c) if first else _line(-1.0, c)
    if not first:
        raise ValueError("it divides a constant by rows")
    return _line(1.0 / c.astype(np.float64))


@_direct("Neg")
def _neg(reader: Reader, node: Node, data: str) -> Pieces:
    return _line(-1.0)


@_direct("ai.onnx.ml.Scaler")
def _scaler(reader: Reader, node: Node, data: str) -> Pieces:
    offset = np.array(node.attributes.get("offset", (0.0,)))
    scale = np.array(node.attributes.get("scale", (1.0,)))
    return [*_line(1.0, -offset), *_line(scale)]


def _named(name: str) -> Direct:
    return lambda reader, node, data: [Piece(Activation(name))]


for _op, _name in {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Mish": "mish",
    "HardSwish": "hard_swish",
}.items():
    _direct(_op)(_named(_name))


@_direct("Gelu")
def _gelu(reader: Reader, node: Node, data: str) -> Pieces:
    return [Piece(Activation("gelu_tanh" if node.attributes.get("approximate") == "tanh" else "gelu"))]


@_direct("Elu")
def _elu(reader: Reader, node: Node, data: str) -> Pieces:
    if node.attributes.get("alpha", 1.0) != 1:
        raise ValueError(f"alpha must be 1, got {node.attributes['alpha']}")
    return [Piece(Activation("elu"))]


@_direct("Selu")
def _selu(reader: Reader, node: Node, data: str) -> Pieces:
    for name, number in (("alpha", 1.6732632), ("gamma", 1.050701)):
        if abs(node.attributes.get(name, number) - number) > 1e-6:
            raise ValueError(f"{name} must be {number}, got {node.attributes[name]}")
    return [Piece(Activation("selu"))]


@_direct("Celu", "Swish")
def _stretched(reader: Reader, node: Node, data: str) -> Pieces:
    alpha = _attribute(node, "alpha", 1.0)
    if node.op == "Celu":
        return [*_line(1 / alpha), Piece(Activation("celu")), *_line(alpha)]
    return [*_line(alpha), Piece(Activation("silu")), *_line(1 / alpha)]


@_direct("HardSigmoid")
def _hard_sigmoid(reader: Reader, node: Node, data: str) -> Pieces:
    alpha, beta = node.attributes.get("alpha", 0.2), _attribute(node, "beta", 0.5)
    alpha = 1 / 6 if abs(alpha - 1 / 6) < 1e-7 else shortest(alpha)
    return [*_line(alpha * 6, beta * 6 - 3), Piece(Activation("hard_sigmoid"))]


@_direct("LeakyRelu")
def _leaky_relu(reader: Reader, node: Node, data: str) -> Pieces:
    alpha = _attribute(node, "alpha", 0.01)
    if alpha == 0.01:
        return [Piece(Activation("leaky_relu"))]
    if alpha == 0:
        return [Piece(Activation("relu"))]
    # alpha x + (1 - alpha) max(x, 0): a slope that is not trained, as it is not there
    inner = [Piece(Activation("relu")), *_line((1 - alpha) / alpha)]
    return [residual(inner), *_line(alpha)]


@_direct("PRelu")
def _prelu(reader: Reader, node: Node, data: str) -> Pieces:
    slope = reader.beside(node, node.inputs[1], data)
    return [Piece(PReLU(len(slope)), {"weight": slope})]


@_direct("Clip")
def _clip(reader: Reader, node: Node, data: str) -> Pieces:
    low, high = node.attributes.get("min", -math.inf), node.attributes.get("max", math.inf)
    for i in (1, 2):
        if len(node.inputs) > i and node.inputs[i]:
            bound = float(np.asarray(reader.weight(node.inputs[i])).reshape(()))
            low, high = (bound, high) if i == 1 else (low, bound)
    named = {(0.0, 6.0): "relu6", (-1.0, 1.0): "hard_tanh", (0.0, math.inf): "relu"}
    if (low, high) in named:
        return [Piece(Activation(named[low, high]))]
    if (low, high) == (-math.inf, math.inf):
        return []
    if math.isinf(low) or math.isinf(high) or high <= low:
        raise ValueError(f"bounds must be two numbers, or 0 alone, got {low} and {high}")
    half, middle = (high - low) / 2, (high + low) / 2
    return [*_line(1 / half, -middle / half), Piece(Activation("hard_tanh")), *_line(half, middle)]


@_direct("Softmax", "LogSoftmax")
def _softmax(reader: Reader, node: Node, data: str) -> Pieces:
    n, ndim = reader.width(data), len(reader.row_shapes[data]) + 1
    axis = node.attributes.get("axis", -1 if node.version >= 13 else 1)
    axis = axis + ndim if axis < 0 else axis
    shape = reader.row_shapes[data]
    whole = axis >= 1 and n == (shape[axis - 1] if node.version >= 13 else math.prod(shape[axis - 1 :]))
    if not whole:
        raise ValueError(f"it must work on whole rows, got axis {axis} of rows of shape {shape}")
    return [Piece(Activation("softmax" if node.op == "Softmax" else "log_softmax"))]


@_direct("BatchNormalization")
def _batch_norm(reader: Reader, node: Node, data: str) -> Pieces:
    names = ("weight", "bias", "running_mean", "running_var")
    weights = {name: reader.weight(one) for name, one in zip(names, node.inputs[1:5], strict=True)}
    if node.attributes.get("training_mode", 0):
        raise ValueError("training_mode must be 0")
    n = reader.width(data)
    if weights["weight"].shape != (n,):
        raise ValueError(f"it must have a number for each of {n} columns, got {weights['weight'].shape}")
    momentum = shortest(1 - _attribute(node, "momentum", 0.9))
    return [Piece(BatchNorm(momentum=momentum, eps=_attribute(node, "epsilon", 1e-5)), weights)]


@_direct("LayerNormalization", "RMSNormalization")
def _row_norm(reader: Reader, node: Node, data: str) -> Pieces:
    shape = reader.row_shapes[data]
    n = reader.width(data)
    axis = node.attributes.get("axis", -1)
    axis = axis + len(shape) + 1 if axis < 0 else axis
    if axis < 1 or math.prod(shape[axis - 1 :]) != n:
        raise ValueError(f"it must work on whole rows, got axis {axis} of rows of shape {shape}")
    eps = _attribute(node, "epsilon", 1e-5)
    weights = {"weight": np.broadcast_to(reader.beside(node, node.inputs[1], data), (n,))}
    if node.op == "RMSNormalization":
        return [Piece(RMSNorm(eps=eps), weights)]
    given = len(node.inputs) > 2 and node.inputs[2]
    bias = reader.beside(node, node.inputs[2], data) if given else np.zeros(1)
    weights["bias"] = np.broadcast_to(bias, (n,))
    return [Piece(LayerNorm(eps=eps), weights)]
