"""The layers of a graph of operations: chains, residual sums and concatenations found in it.

The layers of fastnn form a tree, and a graph of PyTorch need not. What forks and joins again is found by
dominators: the operation nearest to a join that all its branches come through is where they part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..input_layers import Flatten
from ..layers import Activation, AnyLayer, Concat, Dense, Dropout, Embedding, Residual, Scale
from ..noise_layers import AlphaDropout
from ..norm_layers import BatchNorm, LayerNorm, PReLU, RMSNorm
from .operations import Operation

__all__ = ["Placed", "Structure"]


@dataclass(frozen=True)
class Placed:
    """A layer, the tensors that it gets, and the layers within it.

    Parameters
    ----------
    layer : description
    tensors : dict
        By the last part of the names of its weights.
    turned : bool
        Whether "weight" is (n_out, n_in).
    inner : tuple of (position, Placed)
        "0", "projection", "1.2": what stands between its own name and theirs.
    path : str
        Of the module, for messages.
    """

    layer: AnyLayer
    tensors: Mapping[str, Any] = field(default_factory=dict)
    turned: bool = False
    inner: tuple[tuple[str, Placed], ...] = ()
    path: str = ""


# What draws or counts something: done twice it would not be what it was.
_ONCE = ("dropout", "alpha_dropout", "module")


def _taken(columns: Any, width: tuple[int, int] | None) -> tuple[int, int] | None:
    """How many columns are taken of so many, each as ``a * n_in + b``."""
    if not isinstance(columns, slice):
        return 0, len(columns)
    if width is None:
        return None
    a, b = width
    if not a:
        return 0, len(range(b)[columns])
    first, step = columns.start or 0, columns.step or 1
    if step == 1 and first >= 0 and (columns.stop is None or columns.stop < 0):
        return a, b - first + (columns.stop or 0)
    if first >= 0 and columns.stop is not None and columns.stop >= 0:
        return 0, len(range(first, columns.stop, step))
    return None


class Structure:
    """The layers between the input and the end of a graph.

    Parameters
    ----------
    operations : dict
        By node, in order.
    input, end : node
    n_in : int or None
        Number of columns of the input where it is known.
    exact : bool
        Only an activation that is named for the dense layer before it becomes a part of it.

    Attributes
    ----------
    layers : list of Placed
    n_in : int or None
        What the layers themselves tell of it.
    """

    def __init__(
        self, operations: dict[Any, Operation], input: Any, end: Any, n_in: int | None, *, exact: bool
    ) -> None:
        self._operations, self._exact = operations, exact
        self._input, self.n_in = input, n_in
        self._parents, self._depth = {input: input}, {input: 0}
        self._widths: dict[Any, tuple[int, int] | None] = {}
        self._used: set[Any] = set()
        self._find_parents()
        for _ in range(2):  # a later operation may tell the width of the input, which earlier ones need
            self._find_widths()
        self.layers = self._chain(input, end)

    # ------------------------------------------------------------ what is known of the graph

    def _find_parents(self) -> None:
        """The immediate dominator of each operation, and its depth in their tree."""
        for node, operation in self._operations.items():
            parent = operation.sources[0]
            for other in operation.sources[1:]:
                parent = self._meeting(parent, other)
            self._parents[node], self._depth[node] = parent, self._depth[parent] + 1

    def _meeting(self, a: Any, b: Any) -> Any:
        while a is not b:
            if self._depth[a] < self._depth[b]:
                a, b = b, a
            a = self._parents[a]
        return a

    def _find_widths(self) -> None:
        """The width of each result, as ``a * n_in + b`` where n_in is not known yet."""
        widths = self._widths
        widths[self._input] = (1, 0) if self.n_in is None else (0, self.n_in)
        for node, operation in self._operations.items():
            before, kind = widths[operation.sources[0]], operation.kind
            numbers, tensors = operation.numbers, operation.tensors
            needed: int | None = None
            after: int | None = None
            if kind == "dense":
                after, needed = (int(n) for n in tensors["weight"].shape)
            elif kind == "batch_norm":
                needed = int(tensors["running_mean"].shape[0])
            elif kind in ("layer_norm", "rms_norm") or (kind == "flatten" and "width" in numbers):
                needed = int(numbers["width"])
            elif kind == "prelu" and tensors["weight"].numel() > 1:
                needed = tensors["weight"].numel()
            elif kind == "lookup":
                after = int(tensors["weight"].shape[1])
            elif kind == "module":
                needed, after = numbers["parts"].n_in, numbers["parts"].n_out
            if needed is not None and before is not None and before[0]:
                self._solve(before, needed)
            if after is not None:
                widths[node] = (0, after)
            elif kind == "join":
                each = [widths[source] for source in operation.sources]
                known = [width for width in each if width is not None]
                whole = len(known) == len(each)
                widths[node] = (sum(a for a, _ in known), sum(b for _, b in known)) if whole else None
            elif kind == "columns":
                widths[node] = _taken(numbers["columns"], before)
            else:
                widths[node] = before if needed is None else (0, needed)

    def _solve(self, width: tuple[int, int], needed: int) -> None:
        """n_in, of which a width is known to be `needed`."""
        n, rest = divmod(needed - width[1], width[0])
        if self.n_in is None and n > 0 and rest == 0:
            self.n_in = n

    def _width(self, node: Any) -> int | None:
        """The width of a result where it is known."""
        width = self._widths[node]
        if width is None or (width[0] and self.n_in is None):
            return None
        return width[0] * (self.n_in or 0) + width[1]

    def _fail(self, operation: Operation, text: str) -> ValueError:
        return ValueError(f"{operation.kind} at {operation.numbers['path']!r} {text}")

    # ------------------------------------------------------------ layers

    def _chain(self, start: Any, end: Any) -> list[Placed]:
        """The layers that compute `end` from `start`, which it is always computed through."""
        found: list[Placed] = []
        at = end
        while at is not start:
            operation = self._operations[at]
            if operation.kind in ("add", "join"):
                found.append(self._branches(operation, self._parents[at]))
            elif operation.kind == "lookup":
                found.append(self._lookup(operation))
                # the column that it looks up, and its change to a code, are parts of it
                codes = self._operations.get(operation.sources[0])
                assert codes is not None
                at = self._operations[codes.sources[0]].sources[0]
                continue
            else:
                placed = self._one(at, operation)
                if placed is not None:
                    found.append(placed)
            at = self._parents[at]
        return self._fused(found[::-1])

    def _one(self, node: Any, operation: Operation) -> Placed | None:
        """The layer of an operation of one source; None where nothing is done."""
        kind, numbers, tensors = operation.kind, operation.numbers, operation.tensors
        path = numbers["path"]
        if node in self._used and kind in _ONCE:
            raise self._fail(
                operation,
                "must be read by what Residual and Concat can express: a value within one branch is read by "
                "another",
            )
        self._used.add(node)
        layer: AnyLayer
        if kind == "same":
            # a layer of a model that came from fastnn keeps its position
            return Placed(Activation("identity"), path=path) if self._exact else None
        if kind == "dense":
            layer = Dense(int(tensors["weight"].shape[0]), bias="bias" in tensors)
            return Placed(layer, tensors, turned=True, path=path)
        if kind == "activation":
            if numbers.get("dim") not in (None, 1, -1):
                text = f"must be over the columns, dim 1 or -1, is over dim {numbers['dim']}"
                raise self._fail(operation, text)
            layer = Activation(numbers["name"])
        elif kind == "dropout":
            layer = Dropout(self._rate(operation))
        elif kind == "alpha_dropout":
            layer = AlphaDropout(self._rate(operation))
        elif kind == "batch_norm":
            layer = BatchNorm(
                momentum=numbers["momentum"], eps=numbers["eps"], affine="weight" in tensors
            )
        elif kind == "layer_norm":
            layer = LayerNorm(eps=numbers["eps"], affine="weight" in tensors)
        elif kind == "rms_norm":
            layer = RMSNorm(eps=numbers["eps"], affine="weight" in tensors)
        elif kind == "prelu":
            layer = PReLU(int(tensors["weight"].numel()), init=numbers["init"])
        elif kind == "scale":
            layer = Scale(numbers["factor"], numbers["shift"])
        elif kind == "flatten":
            layer = Flatten()
        elif kind == "columns":
            if numbers["one"]:
                raise self._fail(operation, "must keep rows of columns: x[:, 2:3] does, x[:, 2] has none")
            layer = Concat((self._group(operation),))
        elif kind == "module":
            parts = numbers["parts"]
            return Placed(parts.layer, parts.tensors, parts.turned, parts.inner, path)
        else:
            assert kind == "codes", kind
            raise self._fail(operation, "must be looked up in an Embedding: fastnn has no other integers")
        return Placed(layer, tensors, path=path)

    def _rate(self, operation: Operation) -> float:
        rate = operation.numbers["rate"]
        if not 0 <= rate < 1:
            raise self._fail(operation, f"must have a rate from 0 to below 1, has {rate}")
        return float(rate)

    def _group(self, operation: Operation) -> tuple[int, ...]:
        """The column numbers of an operation that takes columns."""
        columns, width = operation.numbers["columns"], self._width(operation.sources[0])
        ends = (
            (columns.start or 0, -1 if columns.stop is None else columns.stop)
            if isinstance(columns, slice)
            else columns
        )
        if width is None and min(ends) < 0:
            raise self._fail(operation, "takes columns from the end of nobody knows how many: pass n_in")
        most = width if width is not None else max(ends) + 1
        if isinstance(columns, slice):
            found = tuple(range(*columns.indices(most)))
        else:
            found = tuple(column + most if column < 0 else column for column in columns)
        if not found:
            raise self._fail(operation, "must take at least one column")
        return found

    def _lookup(self, operation: Operation) -> Placed:
        """``embedding(x[:, 2].long())`` as an Embedding of one column."""
        codes = self._operations.get(operation.sources[0])
        taken = None if codes is None or codes.kind != "codes" else self._operations.get(codes.sources[0])
        if taken is None or taken.kind != "columns" or not taken.numbers["one"]:
            text = "must look up one column of the input, as embedding(x[:, 2].long()) does"
            raise self._fail(operation, text)
        n_categories, width = (int(n) for n in operation.tensors["weight"].shape)
        embedding = Placed(
            Embedding(((0, n_categories, width),)),
            {"weight_0": operation.tensors["weight"]},
            path=operation.numbers["path"],
        )
        layer = Concat((self._group(taken), embedding.layer))
        return Placed(layer, inner=(("0.0", embedding),), path=operation.numbers["path"])

    # ------------------------------------------------------------ what forks and joins

    def _branches(self, operation: Operation, fork: Any) -> Placed:
        if operation.kind == "join":
            return self._concat(operation, fork)
        return self._residual(operation, fork)

    def _residual(self, operation: Operation, fork: Any) -> Placed:
        path = operation.numbers["path"]
        a, b = operation.sources
        if a is fork and b is fork:
            return Placed(Scale(2.0), path=path)
        straight, inner = (a, b) if a is fork else (b, a)
        if straight is not fork and self._is_projection(inner, fork):
            straight, inner = inner, straight
        layers = self._chain(fork, inner)
        if not layers:  # only what does nothing stands there
            return Placed(Scale(2.0), path=path)
        places = [(str(i), one) for i, one in enumerate(layers)]
        descriptions = [one.layer for one in layers]
        if straight is fork:
            return Placed(Residual(*descriptions), inner=tuple(places), path=path)
        short = self._chain(fork, straight)
        if len(short) == 1 and isinstance(short[0].layer, Dense) and short[0].layer == Dense(
            short[0].layer.units, bias=False
        ):
            places.append(("projection", short[0]))
            return Placed(Residual(*descriptions, projection=True), inner=tuple(places), path=path)
        places += [(f"shortcut.{i}", one) for i, one in enumerate(short)]
        layer = Residual(*descriptions, shortcut=tuple(one.layer for one in short))
        return Placed(layer, inner=tuple(places), path=path)

    def _is_projection(self, node: Any, fork: Any) -> bool:
        """Whether a branch is a product without a bias alone: it is taken as the shortcut."""
        operation = self._operations.get(node)
        return (
            operation is not None
            and operation.kind == "dense"
            and "bias" not in operation.tensors
            and operation.sources[0] is fork
        )

    def _concat(self, operation: Operation, fork: Any) -> Placed:
        if operation.numbers["dim"] not in (1, -1):
            raise self._fail(
                operation, f"must put columns side by side, dim 1 or -1, has dim {operation.numbers['dim']}"
            )
        branches: list[tuple[object, ...]] = []
        places: list[tuple[str, Placed]] = []
        for i, source in enumerate(operation.sources):
            layers = self._chain(fork, source)
            group: object = None
            first = layers[0] if layers else None
            if first is not None and isinstance(first.layer, Concat) and len(first.layer.branches) == 1:
                group, *rest = first.layer.branches[0]
                # columns, and what they go through, are a branch already
                inside = [one for _, one in first.inner]
                assert len(inside) == len(rest)
                layers = [*inside, *layers[1:]]
            branches.append((group, *(one.layer for one in layers)))
            places += [(f"{i}.{j}", one) for j, one in enumerate(layers)]
        return Placed(Concat(*branches), inner=tuple(places), path=operation.numbers["path"])

    # ------------------------------------------------------------ activations

    def _fused(self, found: list[Placed]) -> list[Placed]:
        """Dense layers with the activation that follows them."""
        fused: list[Placed] = []
        for one in found:
            last = fused[-1] if fused else None
            if (
                last is not None
                and isinstance(last.layer, Dense)
                and last.layer.activation is None
                and isinstance(one.layer, Activation)
                and (not self._exact or _name_of(one).startswith(f"{_name_of(last)}_"))
            ):
                fused[-1] = replace(last, layer=replace(last.layer, activation=one.layer.name))
            else:
                fused.append(one)
        return fused


def _name_of(placed: Placed) -> str:
    return placed.path.rpartition(".")[2]


