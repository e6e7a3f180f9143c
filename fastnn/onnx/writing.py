"""From a model to an ONNX file: each step as one operator, or as a few where there is none.

The operator set is the oldest that has what the model needs. Initialisers have the names of `model.weights`
and `model.running`, and lie as they do there; the architecture, the link and the rest of what a model file
says stand in the metadata, so that `load` gives the same model back.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import build_check, errors
from ..network import Sequential
from ..replacing import replacing
from ..steps import Step, places, running_places, sources_of
from .graph import CHECKSUM, N_DIGITS, SHA, digest
from .package import onnx_package

__all__ = ["COUNTS", "INPUT", "OUTPUT", "PREFIX", "Exported", "export", "exported"]

Array = NDArray[Any]

INPUT, OUTPUT, ROWS = "x", "y", "rows"
PREFIX = "fastnn."  # of our names in the metadata
COUNTS = "fastnn.counts"
_ZEROS = "0" * N_DIGITS

_OLDEST = 18
# Operators that came later.
_SINCE = {"Gelu": 20, "RMSNormalization": 23}
_MOST_BYTES = 2**31 - 1  # of a protobuf message

# Operators that are one of our activations, with the attributes that make them so. Attributes are single
# precision: float64 models take only those whose numbers that has exactly (see _COMPOSED).
_SINGLE: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "hard_swish": ("HardSwish", {}),
    "softsign": ("Softsign", {}),
    "elu": ("Elu", {"alpha": 1.0}),
    "selu": ("Selu", {}),
    "celu": ("Celu", {"alpha": 1.0}),
    "softplus": ("Softplus", {}),
    "mish": ("Mish", {}),
    "gelu": ("Gelu", {}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "log_softmax": ("LogSoftmax", {"axis": -1}),
}
_SELU_LEFT, _SELU_RIGHT = 1.7580993408473768599, 1.0507009873554804934


class Exported:
    """A graph in the making.

    Attributes
    ----------
    nodes : list of NodeProto
    tensors : dict of ndarray
        Initialisers; weights are views of the model's.
    version : int
        Of the operator set.
    """

    def __init__(self, steps: tuple[Step, ...], block: Array, buffers: Array) -> None:
        self._helper = onnx_package().helper
        self.steps, self.dtype = steps, block.dtype
        self.nodes: list[Any] = []
        self.tensors: dict[str, Array] = {}
        self.version = _OLDEST
        self._numbers = {
            name: source[offset : offset + math.prod(shape)].reshape(shape)
            for found, source in ((places(steps), block), (running_places(steps), buffers))
            for name, (offset, shape) in found.items()
        }
        self._given = {-1: INPUT}
        for i, step in enumerate(steps):
            # Nodes are named by the layer, values by the step.
            self._at, self._n_parts, self._step = f"{i}", 0, step
            sources = [self._given[j] for j in sources_of(i, step)]
            out = OUTPUT if i == len(steps) - 1 else f"{i}_{step.kind}"
            self._given[i] = getattr(self, f"_{step.kind}")(step, sources, out)
        if self._given[len(steps) - 1] != OUTPUT:  # what a prediction leaves out came last
            self._at, self._n_parts, self._step = "last", 0, steps[-1]
            self._node("Identity", [self._given[len(steps) - 1]], OUTPUT)

    # -- what nodes are made of

    def _node(self, op: str, inputs: list[str], out: str = "", **attributes: Any) -> str:
        """Append a node; gives the name of its output, a new one unless it is given."""
        if not out:
            out = f"{self._at}_{self._step.kind}_{self._n_parts}"
        self._n_parts += 1
        name = f"layer_{self._step.prefix}_{op}_{self._at}_{self._n_parts}"
        self.nodes.append(self._helper.make_node(op, inputs, [out], name, **attributes))
        self.version = max(self.version, _SINCE.get(op, 0))
        return out

    def _constant(self, name: str, value: Any, dtype: Any = None) -> str:
        """An initialiser of this step."""
        name = f"{self._at}_{name}"
        self.tensors[name] = np.asarray(value, self.dtype if dtype is None else dtype)
        return name

    def _number(self, value: float) -> str:
        """A number of the model's type; one initialiser each, whoever asks."""
        name = f"number_{value!r}"
        self.tensors[name] = np.array(value, self.dtype)
        return name

    def _parameter(self, name: str) -> str:
        """A weight of this step."""
        name = f"{self._step.prefix}.{name}"
        self.tensors[name] = self._numbers[name]
        return name

    # -- the kinds

    def _dense(self, step: Step, sources: list[str], out: str) -> str:
        plain = step.activation == "identity"
        inputs = [sources[0], self._parameter("weight")]
        if step.bias >= 0:
            z = self._node("Gemm", [*inputs, self._parameter("bias")], out if plain else "")
        else:
            z = self._node("MatMul", inputs, out if plain else "")
        return z if plain else self._curve(step.activation, z, out)

    def _activation(self, step: Step, sources: list[str], out: str) -> str:
        return self._curve(step.activation, sources[0], out)

    def _dropout(self, step: Step, sources: list[str], out: str) -> str:
        # In inference it gives its input; that it is there tells whoever trains on.
        return self._node("Dropout", [sources[0], self._constant("ratio", step.rate, np.float32)], out)

    def _left_out(self, step: Step, sources: list[str], out: str) -> str:
        return sources[0]

    _alpha_dropout = _noise = _left_out

    def _scale(self, step: Step, sources: list[str], out: str) -> str:
        return self._line(sources[0], self._number(step.factor), self._number(step.shift), out)

    def _scale_columns(self, step: Step, sources: list[str], out: str) -> str:
        factors, shifts = self._constant("factors", step.factors), self._constant("shifts", step.shifts)
        return self._line(sources[0], factors, shifts, out)

    def _line(self, x: str, factor: str, shift: str, out: str) -> str:
        return self._node("Add", [self._node("Mul", [x, factor]), shift], out)

    def _add(self, step: Step, sources: list[str], out: str) -> str:
        return self._node("Add", sources, out)

    def _columns(self, step: Step, sources: list[str], out: str) -> str:
        return self._pick(sources[0], list(step.columns), out)

    def _pick(self, x: str, columns: list[int], out: str = "") -> str:
        where = self._constant(f"columns_{self._n_parts}", columns, np.int64)
        return self._node("Gather", [x, where], out, axis=1)

    def _join(self, step: Step, sources: list[str], out: str) -> str:
        return self._node("Concat", sources, out, axis=1)

    def _batch_norm(self, step: Step, sources: list[str], out: str) -> str:
        n = step.n_out
        weight = self._parameter("weight") if step.weight >= 0 else self._constant("ones", np.ones(n))
        bias = self._parameter("bias") if step.bias >= 0 else self._constant("zeros", np.zeros(n))
        running = [self._parameter("running_mean"), self._parameter("running_var")]
        inputs = [sources[0], weight, bias, *running]
        momentum = 1.0 - step.momentum if step.momentum >= 0 else 0.9
        return self._node("BatchNormalization", inputs, out, epsilon=step.eps, momentum=momentum)

    def _layer_norm(self, step: Step, sources: list[str], out: str) -> str:
        inputs = [sources[0], self._scale_of(step)]
        if step.bias >= 0:
            inputs.append(self._parameter("bias"))
        return self._node("LayerNormalization", inputs, out, axis=-1, epsilon=step.eps)

    def _rms_norm(self, step: Step, sources: list[str], out: str) -> str:
        eps = float(np.finfo(self.dtype).eps) if step.eps < 0 else step.eps
        return self._node("RMSNormalization", [sources[0], self._scale_of(step)], out, axis=-1, epsilon=eps)

    def _scale_of(self, step: Step) -> str:
        """The weight of a norm, which the operators must have."""
        return self._parameter("weight") if step.weight >= 0 else self._constant("ones", np.ones(step.n_out))

    def _prelu(self, step: Step, sources: list[str], out: str) -> str:
        slope = self._parameter("weight")
        if self.dtype == np.float32:
            return self._node("PRelu", [sources[0], slope], out)
        left = self._node("Mul", [self._node("Min", [sources[0], self._number(0.0)]), slope])
        return self._node("Add", [self._node("Max", [sources[0], self._number(0.0)]), left], out)

    def _periodic(self, step: Step, sources: list[str], out: str) -> str:
        n, k = step.weight_shape
        each = self._node("Unsqueeze", [sources[0], self._constant("last", [2], np.int64)])
        turns = self._node("Mul", [each, self._parameter("weight")])
        # Whole turns are taken off before the factor 2 pi rounds.
        turns = self._node("Sub", [turns, self._node("Round", [turns])])
        angle = self._node("Mul", [turns, self._number(2 * math.pi)])
        both = self._node("Concat", [self._node("Sin", [angle]), self._node("Cos", [angle])], axis=2)
        return self._node("Reshape", [both, self._constant("shape", [-1, 2 * n * k], np.int64)], out)

    def _piecewise(self, step: Step, sources: list[str], out: str) -> str:
        columns = [j for j, edges in enumerate(step.edges) for _ in edges[1:]]
        edges = [np.array(column).astype(self.dtype) for column in step.edges]
        first = [i == 0 for column in edges for i in range(len(column) - 1)]
        last = [i == len(column) - 2 for column in edges for i in range(len(column) - 1)]
        each = self._pick(sources[0], columns)
        begin = self._constant("begin", np.concatenate([column[:-1] for column in edges]))
        width = self._constant("width", np.concatenate([np.diff(column) for column in edges]))
        share = self._node("Div", [self._node("Sub", [each, begin]), width])
        low = self._constant("low", np.where(first, -np.inf, 0.0))
        high = self._constant("high", np.where(last, np.inf, 1.0))
        return self._node("Min", [self._node("Max", [share, low]), high], out)

    def _embedding(self, step: Step, sources: list[str], out: str) -> str:
        categories = {table.column for table in step.tables}
        kept = [j for j in range(step.n_in) if j not in categories]
        parts = [self._pick(sources[0], kept)] if kept else []
        zero = self._number(0.0)
        for table in step.tables:
            code = self._pick(sources[0], [table.column])
            # What is no whole number, NaN too, gives NaN; a category that is not there gives zeros.
            part = self._node("Sub", [code, self._node("Floor", [code])])  # NaN for infinities
            whole = self._node("Equal", [part, zero])
            above = self._node("GreaterOrEqual", [code, zero])
            below = self._node("Less", [code, self._number(float(table.n_categories))])
            known = self._node("And", [self._node("And", [above, below]), whole])
            row = self._node("Cast", [self._node("Where", [known, code, zero])], to=7)
            at = self._node("Squeeze", [row, self._constant("second", [1], np.int64)])
            numbers = self._node("Gather", [self._parameter(f"weight_{table.column}"), at], axis=0)
            other = self._node("Where", [whole, zero, self._number(math.nan)])
            parts.append(self._node("Where", [known, numbers, other]))
        return self._node("Concat", parts, out, axis=1)

    # -- activations

    def _curve(self, name: str, z: str, out: str) -> str:
        """An activation by its name."""
        if name == "identity":
            return self._node("Identity", [z], out)
        if name == "silu":
            return self._node("Mul", [z, self._node("Sigmoid", [z])], out)
        if name in ("relu6", "hard_tanh"):
            low, high = (0.0, 6.0) if name == "relu6" else (-1.0, 1.0)
            return self._node("Clip", [z, self._number(low), self._number(high)], out)
        if self.dtype == np.float64 and name in _COMPOSED:
            return _COMPOSED[name](self, z, out)
        if name not in _SINGLE:
            raise ValueError(f"layer {self._step.prefix}: the activation {name!r} has no form in ONNX")
        op, attributes = _SINGLE[name]
        return self._node(op, [z], out, **attributes)

    def _sixth(self, z: str, out: str = "") -> str:
        """min(max(z + 3, 0), 6) / 6."""
        moved = self._node("Add", [z, self._number(3.0)])
        cut = self._node("Clip", [moved, self._number(0.0), self._number(6.0)])
        return self._node("Div", [cut, self._number(6.0)], out)

    def _soft_plus(self, z: str, out: str = "") -> str:
        """max(z, 0) + log(1 + exp(-|z|))."""
        small = self._node("Exp", [self._node("Neg", [self._node("Abs", [z])])])
        log = self._node("Log", [self._node("Add", [small, self._number(1.0)])])
        return self._node("Add", [self._node("Relu", [z]), log], out)

    def _two_sides(self, z: str, left: float, right: float, out: str) -> str:
        """right * max(z, 0) + left * (exp(min(z, 0)) - 1)."""
        e = self._node("Exp", [self._node("Min", [z, self._number(0.0)])])
        below = self._node("Mul", [self._node("Sub", [e, self._number(1.0)]), self._number(left)])
        above = self._node("Mul", [self._node("Relu", [z]), self._number(right)])
        return self._node("Add", [above, below], out)

    def _leaky(self, z: str, out: str) -> str:
        return self._node("Max", [z, self._node("Mul", [z, self._number(0.01)])], out)

    def _soft_sign(self, z: str, out: str) -> str:
        below = self._node("Add", [self._node("Abs", [z]), self._number(1.0)])
        return self._node("Div", [z, below], out)

    def _gelu_by_tanh(self, z: str, out: str) -> str:
        cube = self._node("Mul", [self._node("Mul", [z, z]), z])
        inner = self._node("Add", [z, self._node("Mul", [cube, self._number(0.044715)])])
        t = self._node("Tanh", [self._node("Mul", [inner, self._number(math.sqrt(2 / math.pi))])])
        half = self._node("Mul", [z, self._number(0.5)])
        return self._node("Mul", [half, self._node("Add", [t, self._number(1.0)])], out)


# float64: single precision would be in the attributes, and ONNX Runtime has these operators for float alone.
_COMPOSED: dict[str, Callable[[Exported, str, str], str]] = {
    "leaky_relu": Exported._leaky,
    "hard_sigmoid": Exported._sixth,
    "hard_swish": lambda to, z, out: to._node("Mul", [z, to._sixth(z)], out),
    "softsign": Exported._soft_sign,
    "elu": lambda to, z, out: to._two_sides(z, 1.0, 1.0, out),
    "celu": lambda to, z, out: to._two_sides(z, 1.0, 1.0, out),
    "selu": lambda to, z, out: to._two_sides(z, _SELU_LEFT, _SELU_RIGHT, out),
    "softplus": Exported._soft_plus,
    "mish": lambda to, z, out: to._node("Mul", [z, to._node("Tanh", [to._soft_plus(z)])], out),
    "gelu_tanh": Exported._gelu_by_tanh,
}


# ---------------------------------------------------------------- files


def exported(model: Sequential) -> Exported:
    """The graph of a built model."""
    return Exported(model.steps, model.parameters, model.buffers)


def export(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Write a model as an ONNX file, checked by ``onnx.checker``.

    Input "x" (rows, n_in) and output "y" (rows, n_out), what `predict` takes and gives, in the model's type;
    the number of rows is open. The architecture, the link of the loss, classes and recipe stand in the
    metadata: `fastnn.onnx.load` gives the model back, to the bit. The file appears whole or not at all.

    Parameters
    ----------
    model : Sequential
        Built; not changed.
    path : path

    Raises
    ------
    ImportError
        The package onnx is missing.
    ValueError
        The model takes more than the 2 GB that an ONNX file may have.

    Examples
    --------
    >>> import os, tempfile, fastnn as fn, fastnn.onnx
    >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
    >>> model = fn.Sequential(fn.Dense(8, activation="relu"), fn.Dense(3)).build(4)
    >>> fastnn.onnx.export(model, path)
    >>> fastnn.onnx.load(path)
    Sequential(Dense(units=8, activation='relu'), Dense(units=3))
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"model must be a Sequential, got {type(model).__name__}")
    errors.file_path("path", path)
    onnx = onnx_package()
    found = exported(model)
    n_bytes = sum(array.nbytes for array in found.tensors.values())
    if n_bytes > _MOST_BYTES - (1 << 20):
        raise ValueError(f"model takes {n_bytes:,} bytes, more than the {_MOST_BYTES:,} of an ONNX file")
    proto = _model(model, found)
    onnx.checker.check_model(proto, full_check=True)
    data = proto.SerializeToString()
    del proto
    at = data.rfind((SHA + _ZEROS).encode()) + len(SHA)
    with replacing(path) as file:
        for part in (memoryview(data)[:at], digest(data, at), memoryview(data)[at + N_DIGITS :]):
            file.write(part)


def _model(model: Sequential, found: Exported) -> Any:
    """The ModelProto."""
    onnx = onnx_package()
    helper, kind = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype(model.dtype)
    graph = helper.make_graph(
        found.nodes,
        "fastnn",
        [helper.make_tensor_value_info(INPUT, kind, [ROWS, model.n_in])],
        [helper.make_tensor_value_info(OUTPUT, kind, [ROWS, model.n_out])],
        [_tensor(name, array) for name, array in found.tensors.items()],
    )
    sets = [helper.make_opsetid("", found.version)]
    proto = helper.make_model(
        graph, opset_imports=sets, ir_version=helper.find_min_ir_version_for(sets), producer_name="fastnn",
        producer_version=build_check.version(),
    )  # fmt: skip
    helper.set_model_props(proto, _metadata(model))
    return proto


def _tensor(name: str, array: Array) -> Any:
    """A TensorProto with raw bytes."""
    onnx = onnx_package()
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.TensorProto(name=name, data_type=kind, dims=array.shape, raw_data=little.tobytes())


def _metadata(model: Sequential) -> dict[str, str]:
    """What a model file says beyond the numbers, and the counts of batches, which no node reads."""
    texts = {CHECKSUM: SHA + _ZEROS}
    texts |= {PREFIX + name: text for name, text in model._description().to_metadata().items()}
    counts = {
        name: float(view[0]) for name, view in model.running.items() if name.endswith("num_batches_tracked")
    }
    if counts:
        texts[COUNTS] = json.dumps(counts)
    return texts
