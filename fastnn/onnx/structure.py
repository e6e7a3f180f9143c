"""The layers of a graph: its nodes, from the output back to the input, as layers with their weights.

A graph of any tool is a graph of small operators. Three things make layers of it:

* It is run on a few rows of zeros, which tells all shapes, and what depends on the number of rows alone.
* A value that all ways from the input to another go through (its dominator) is where a branch begins: so sums
  become `Residual` and joined columns `Concat`.
* Operators between two such values that work on each number, or each row, are evaluated on a grid of numbers
  and compared with our activations and norms. So GELU is GELU, whichever way it is written out.

What has been read is run beside the graph by `reading`: a misunderstanding is an error, never a wrong model.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..input_layers import Flatten
from ..layers import Concat, Scale
from .graph import Graph, Node, Value
from .operators import Limits
from .operators_as_layers import DIRECT
from .pieces import Piece, Pieces, joined, residual
from .recognition import curve, row_function, slopes
from .running import evaluate, run_one

__all__ = ["Reader"]

Array = NDArray[Any]

_DEEPEST = 50  # layers within layers

# Operators that take each number by itself.
# fmt: off
_EACH = frozenset([
    "Abs", "Add", "And", "Cast", "CastLike", "Celu", "Clip", "Div", "Elu", "Equal", "Erf", "Exp", "Gelu",
    "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "LessOrEqual",
    "Log", "Max", "Min", "Mish", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Selu", "Sigmoid",
    "Sign", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "Where",
])
# fmt: on
# Those that take rows by themselves.
_ROWS = frozenset(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceSumSquare"])
_SELECTIONS = frozenset(("Gather", "Slice", "Split", "ai.onnx.ml.ArrayFeatureExtractor"))
_MOST_NODES = 4096  # what is read takes time by their number
_LONGEST = 25  # values within an activation that is written out


class Reader:
    """A graph seen from one of its outputs.

    Parameters
    ----------
    graph : Graph
    output : str
        The value to compute.
    limits : Limits
    """

    def __init__(self, graph: Graph, output: str, limits: Limits) -> None:
        self.limits, self.output = limits, output
        self.constants: dict[str, Any] = dict(graph.constants)
        giver = {name: node for node in graph.nodes for name in node.outputs if name}
        live: set[str] = set()
        waiting = [output]
        while waiting:
            name = waiting.pop()
            if name and name not in live:
                live.add(name)
                if name in giver:
                    waiting.extend(giver[name].inputs)
        self.nodes = [node for node in graph.nodes if not live.isdisjoint(node.outputs)]
        inputs = [value for value in graph.inputs if value.name in live]
        if len(inputs) != 1:
            names = ", ".join(repr(value.name) for value in inputs) or "none"
            raise ValueError(f"the output {output!r} must depend on one input of the graph, got {names}")
        self.source = inputs[0]
        self.row_shape = _row_shape(self.source)
        self._known: dict[tuple[str, str], Pieces | None] = {}
        self._probe()
        self._dominators()

    @property
    def n_in(self) -> int:
        """Numbers of a row of the input."""
        return math.prod(self.row_shape)

    # ------------------------------------------------------------ what a run tells

    def inputs(self, n_rows: int, values: Array | None = None) -> Array:
        """An input of that many rows: zeros, or the first of `values`."""
        assert self.source.dtype is not None
        shape = (n_rows, *self.row_shape)
        if values is None:
            return np.zeros(shape, self.source.dtype)
        return values[: n_rows * self.n_in].reshape(shape).astype(self.source.dtype)

    def run(self, x: Array) -> dict[str, Any]:
        """All values for an input."""
        return evaluate(self.nodes, {**self.constants, self.source.name: x}, self.limits)

    def n_rows(self) -> tuple[int, int]:
        """Two numbers of rows that the graph takes, or one twice."""
        assert self.source.shape is not None
        fixed = self.source.shape[0]
        return (2, 3) if fixed is None else (fixed, fixed)

    def _probe(self) -> None:
        """Shapes for two numbers of rows; what does not depend on the rows joins the constants."""
        if len(self.nodes) > _MOST_NODES:
            raise ValueError(
                f"graphs of more than {_MOST_NODES} nodes are not supported, got {len(self.nodes)}"
            )
        sizes = self.n_rows()
        if math.prod(self.inputs_shape(sizes[1])) > self.limits.most:
            raise ValueError(f"input {self.source.name!r} has rows of {self.n_in:,} numbers: too large")
        runs = [self.run(self.inputs(n)) for n in sizes]
        self.data = {self.source.name}
        for node in self.nodes:
            if node.op not in ("Shape", "Size") and not self.data.isdisjoint(node.inputs):
                self.data.update(name for name in node.outputs if name)
        self.row_shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes = {name: np.asarray(runs[0][name]).dtype for name in self.data if name in runs[0]}
        for name, value in runs[0].items():
            other = runs[1][name]
            is_data = name in self.data
            if not is_data and name not in self.constants and np.array_equal(value, other):
                self.constants[name] = value
            if is_data and isinstance(value, np.ndarray) and value.ndim:
                rows = value.shape[1:] if value.shape[1:] == other.shape[1:] else None
                if rows is not None and (len(value), len(other)) == sizes:
                    self.row_shapes[name] = rows
        self.giver = {name: node for node in self.nodes for name in node.outputs if name in self.data}
        self.n_readers = Counter(name for node in self.nodes for name in node.inputs)
        self.position = {name: i for i, node in enumerate(self.nodes) for name in node.outputs}

    def inputs_shape(self, n_rows: int) -> tuple[int, ...]:
        """Shape of an input."""
        return n_rows, *self.row_shape

    def width(self, name: str) -> int:
        """Numbers of a row of a value."""
        if name not in self.row_shapes:
            raise ValueError(
                f"{self.giver[name]} is not supported: what it gives is not rows, one an input's"
            )
        return math.prod(self.row_shapes[name])

    def _dominators(self) -> None:
        """The nearest value that all ways to a value go through, and how many such there are above it."""
        self.above: dict[str, str] = {}
        self.depth = {self.source.name: 0}
        for node in self.nodes:
            read = [name for name in node.inputs if name in self.depth]
            if not read or node.op in ("Shape", "Size"):
                continue
            nearest = read[0]
            for other in read[1:]:
                while nearest != other:
                    if self.depth[nearest] >= self.depth[other]:
                        nearest = self.above[nearest]
                    else:
                        other = self.above[other]
            for name in node.outputs:
                if name:
                    self.above[name], self.depth[name] = nearest, self.depth[nearest] + 1

    # ------------------------------------------------------------ layers

    def pieces(self) -> Pieces:
        """The layers that compute the output from the input."""
        if self.output not in self.depth:
            raise ValueError(f"the output {self.output!r} does not depend on the numbers of the input")
        self.width(self.output)
        found = self._chain(self.source.name, self.output, 0)
        if len(self.row_shape) > 1:
            found.insert(0, Piece(Flatten()))
        return found

    def _chain(self, begin: str, end: str, depth: int) -> Pieces:
        """The layers between a value and one that it dominates."""
        if depth > _DEEPEST:
            raise ValueError(f"{self.giver[end]} stands within more than {_DEEPEST} branches")
        backwards: Pieces = []
        while end != begin:
            node = self.giver[end]
            self.width(end)
            try:
                end, pieces = self._step(node, end, begin, depth)
            except (TypeError, ValueError) as error:
                if str(error).startswith("node "):
                    raise
                raise ValueError(f"{node} is not supported: {error}") from error
            backwards.extend(reversed(pieces))
        return joined(backwards[::-1])

    def _step(self, node: Node, name: str, begin: str, depth: int) -> tuple[str, Pieces]:
        """The value before one, and the layers between."""
        found = self._by_numbers(name, begin)
        if found is not None:
            return found
        read = [one for one in node.inputs if one in self.depth]
        if len(read) == 1 and node.op in DIRECT:
            return read[0], DIRECT[node.op](self, node, read[0])
        if len(read) == 1 and node.op in _SELECTIONS:
            return read[0], self._select(node, name, read[0])
        if len(read) > 1 and node.op in ("Add", "Sub", "Sum"):
            return self._sum(node, name, read, depth)
        if len(read) > 1 and node.op == "Concat":
            return self._join(node, name, depth)
        if len(read) > 1:
            raise ValueError("it combines two values of the rows, which no layer does")
        raise ValueError("no layer does what it does")

    def _sum(self, node: Node, name: str, read: list[str], depth: int) -> tuple[str, Pieces]:
        """x + f(x), or g(x) + f(x)."""
        begin = self.above[name]
        if len(read) != len(node.inputs) or len(read) != 2:
            raise ValueError(f"it adds {len(node.inputs)} values; a sum of two is a Residual")
        if any(self.row_shapes.get(one) != self.row_shapes[name] for one in read):
            raise ValueError("it adds values of different widths")
        sides = [self._chain(begin, one, depth + 1) for one in read]
        if node.op == "Sub":
            sides[1] = joined([*sides[1], Piece(Scale(-1.0))])
        straight = next((i for i in (0, 1) if not sides[i]), None)
        if straight is not None:
            inner = sides[1 - straight] or [Piece(Scale(1.0))]
            return begin, [residual(inner)]
        # The branch that is shorter is the way around the other.
        side, inner = sorted(sides, key=len)
        return begin, [residual(inner, side)]

    def _join(self, node: Node, name: str, depth: int) -> tuple[str, Pieces]:
        """Columns of several branches, side by side."""
        begin = self.above[name]
        axis = node.attributes.get("axis", 1)
        if len(self.row_shapes[name]) != 1 or axis not in (1, -1):
            raise ValueError(f"it joins along the axis {axis} of values with rows of {self.row_shapes[name]}")
        branches, weights = [], {}
        for i, one in enumerate(node.inputs):
            if one not in self.depth:
                raise ValueError(f"it joins the constant {one!r}")
            chain = self._chain(begin, one, depth + 1)
            group: Any = None
            first = chain[0].layer if chain else None
            if isinstance(first, Concat) and len(first.branches) == 1 and len(first.branches[0]) == 1:
                group, chain = first.branches[0][0], chain[1:]
            branches.append((group, *(piece.layer for piece in chain)))
            for j, piece in enumerate(chain):
                weights.update({f"{i}.{j}.{end}": array for end, array in piece.weights.items()})
        return begin, [Piece(Concat(*branches), weights)]

    def _select(self, node: Node, name: str, data: str) -> Pieces:
        """Some columns."""
        if data != node.inputs[0] or len(self.row_shapes[data]) != 1:
            raise ValueError("it must select columns of rows that are vectors")
        n = self.width(data)
        rest = [self.weight(one) if one else None for one in node.inputs[1:]]
        # What it makes of the numbers of the columns tells which it takes.
        numbers = np.broadcast_to(np.arange(n, dtype=np.int64), (2, n))
        found = run_one(node, [numbers, *rest], self.limits)[node.outputs.index(name)]
        if found.shape[:1] != (2,) or not (found[0] == found[1]).all():
            raise ValueError("it must select columns, the same of all rows")
        columns = tuple(found[0].reshape(-1).tolist())
        return [] if columns == tuple(range(n)) else [Piece(Concat((columns,)))]

    # ------------------------------------------------------------ constants beside a row

    def beside(self, node: Node, constant: str, data: str) -> Array:
        """A constant as numbers of one row of a value: one, or as many as it has."""
        if constant not in self.constants:
            raise ValueError(f"its input {constant!r} depends on the number of rows")
        array = np.asarray(self.constants[constant])
        if array.dtype.kind not in "fiu":
            raise ValueError(f"its input {constant!r} is no number")
        if array.size == 1:
            return array.reshape(1)
        shape = self.row_shapes[data]
        if array.ndim > len(shape) + 1 or (array.ndim == len(shape) + 1 and array.shape[0] != 1):
            raise ValueError(f"its input {constant!r} of shape {array.shape} differs from row to row")
        row = array.reshape(array.shape[1:]) if array.ndim == len(shape) + 1 else array
        return np.broadcast_to(row, shape).reshape(-1)

    def weight(self, constant: str) -> Array:
        """A constant matrix."""
        if constant not in self.constants:
            raise ValueError(f"its input {constant!r} is no constant")
        return np.asarray(self.constants[constant])

    def last_axis(self, data: str) -> int:
        """Width of a value whose rows are vectors, whatever ones are around them."""
        n, shape = self.width(data), self.row_shapes[data]
        if shape and shape[-1] != n:
            raise ValueError(f"it works on the last axis of rows of shape {shape}")
        return n

    # ------------------------------------------------------------ functions by their numbers

    def _by_numbers(self, name: str, begin: str) -> tuple[str, Pieces] | None:
        """The activation or norm that ends in a value, found by what it gives; None for none."""
        regions = self._regions(name, begin)
        for first, nodes in reversed(regions):
            if len(nodes) == 1 and nodes[0].op in DIRECT:
                continue  # by its name
            if (first, name) not in self._known:
                self._known[first, name] = self._function(first, name, nodes)
            found = self._known[first, name]
            if found is not None:
                return first, found
        return None

    def _regions(self, name: str, begin: str) -> list[tuple[str, list[Node]]]:
        """Dominators of a value, nearest first, with nodes between that take numbers or rows alone."""
        found: list[tuple[str, list[Node]]] = []
        first, inside = name, set[str]()
        waiting = [name]
        while first != begin:
            first = self.above[first]
            blocked = False
            while waiting:
                one = waiting.pop()
                if one == first or one in inside:
                    continue
                node = self.giver[one]
                if len(inside) > _LONGEST or not self._is_plain(node):
                    blocked = True
                    break
                inside.update(out for out in node.outputs if out)
                waiting.extend(read for read in node.inputs if read in self.depth)
            if blocked:
                break
            found.append((first, [self.nodes[i] for i in sorted({self.position[one] for one in inside})]))
            waiting = [first]
        return found

    def _is_plain(self, node: Node) -> bool:
        """Whether a node takes numbers, or rows, with constants that are single numbers."""
        reads = [name for name in node.inputs if name]
        if node.op in _ROWS:
            if reads[0] not in self.depth or any(name not in self.constants for name in reads[1:]):
                return False
            axes = node.attributes.get("axes")
            if axes is None and len(reads) > 1:
                axes = tuple(np.asarray(self.constants[reads[1]]).reshape(-1).tolist())
            shape = self.row_shapes.get(reads[0], ())
            return len(shape) == 1 and axes in ((1,), (-1,)) and node.attributes.get("keepdims", 1) == 1
        if node.op not in _EACH:
            return False
        for name in reads:
            if name in self.depth:
                continue
            array = np.asarray(self.constants.get(name, ()))
            if array.size != 1 and array.shape[-1:] != self.row_shapes.get(node.outputs[0], ()):
                return False
        # A number added to a product that nobody else reads is its bias, even if it is 0 as yet.
        data = [name for name in reads if name in self.depth]
        giver = self.giver.get(data[0]) if data else None
        is_product = giver is not None and giver.op in ("MatMul", "Gemm") and len(giver.inputs) < 3
        return not (node.op == "Add" and is_product and len(data) == 1 and self.n_readers[data[0]] == 1)

    def _given(self, first: str, name: str, nodes: list[Node], x: Array) -> Array | None:
        """What nodes make of x; None where they can not take it."""
        values = {**self.constants, first: x}
        try:
            for node in nodes:
                given = run_one(node, [values[one] if one else None for one in node.inputs], self.limits)
                values.update(zip(node.outputs, given, strict=False))
        except (ValueError, KeyError):
            return None
        found = values[name]
        return found if isinstance(found, np.ndarray) and found.size == x.size else None

    def _function(self, first: str, name: str, nodes: list[Node]) -> Pieces | None:
        """The activation or norm that nodes between two values are."""
        dtype, constants = self.dtypes[first], self._beside(nodes)
        if dtype.kind != "f":
            return None
        columns = [array.reshape(-1) for array in constants if array.size != 1]
        f = functools.partial(self._given, first, name, nodes)
        if any(node.op in _ROWS for node in nodes):
            numbers = {float(array.reshape(())) for array in constants if array.size == 1}
            return row_function(f, self.last_axis(first), dtype, numbers, columns)
        if not columns:
            return curve(f, dtype)
        return slopes(f, self.width(first), dtype) if len(self.row_shapes[first]) == 1 else None

    def _beside(self, nodes: list[Node]) -> list[Array]:
        """The constants that some nodes read."""
        names = {name: None for node in nodes for name in node.inputs if name in self.constants}
        return [np.asarray(self.constants[name]) for name in names]

    @property
    def dtype(self) -> str:
        """Of the model: that of the output, or float32 where it is none of ours."""
        return "float64" if self.dtypes[self.output] == np.float64 else "float32"


def _row_shape(value: Value) -> tuple[int, ...]:
    """Shape of a row of the input."""
    if value.dtype is None or value.dtype.kind not in "fiu":
        raise ValueError(f"input {value.name!r} must be numbers, got {value.dtype}")
    if value.shape is None or len(value.shape) < 2 or any(size is None for size in value.shape[1:]):
        raise ValueError(f"input {value.name!r} must declare the width of its rows, got shape {value.shape}")
    row = tuple(size for size in value.shape[1:] if size is not None)
    if math.prod(row) == 0 or value.shape[0] == 0:
        raise ValueError(f"input {value.name!r} must have rows with numbers, got shape {value.shape}")
    return row
