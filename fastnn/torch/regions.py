"""What of a graph of torch.compile runs in fastnn: regions of operations that start from one value.

A region reads one result (its entry) and weights, and gives one result or more. Everything in it is computed
from the entry alone, so that it can be one call, wherever its first operation stood. Operations that change
something in place stay where they are, and no region reaches past one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from .operations import Operation, Unfit, read

__all__ = ["Left", "Region", "find", "width_of"]

_DTYPES = (torch.float32, torch.float64)


@dataclass
class Region:
    """Operations that become one call.

    Attributes
    ----------
    entry : node
        What they read.
    operations : dict
        By node, in order.
    results : list of node
        What is read outside.
    """

    entry: fx.Node
    operations: dict[fx.Node, Operation] = field(default_factory=dict)
    results: list[fx.Node] = field(default_factory=list)


@dataclass(frozen=True)
class Left:
    """A node that PyTorch runs, and why."""

    node: fx.Node
    reason: str


def find(graph: fx.Graph) -> tuple[list[Region], list[Left]]:
    """The regions of a graph that have a product in them, and what is left."""
    of: dict[fx.Node, Region] = {}
    by_entry: dict[tuple[fx.Node, int], Region] = {}
    time: dict[int, int] = {}  # of a region, by its id: how many changes in place came before it
    regions: list[Region] = []
    left: list[Left] = []
    grad, changes = torch.is_grad_enabled(), 0
    strange = _strange(graph)
    for node in graph.nodes:
        if node.op in ("placeholder", "get_attr", "output"):
            continue
        if node.target is torch._C._set_grad_enabled:
            grad = bool(node.args[0])
            continue
        if _tells_sizes(node):
            continue
        if not node.users and not _may_change(node):
            continue  # no work that anybody sees
        try:
            if strange:
                raise Unfit(strange)
            operation = _fitting(node, grad)
        except Unfit as reason:
            left.append(Left(node, str(reason)))
            changes += _may_change(node)
            continue
        homes = {id(of[s]): of[s] for s in operation.sources if s in of and time[id(of[s])] == changes}
        home: Region | None = None
        for region in homes.values():
            if all(of.get(s) is region or s is region.entry for s in operation.sources):
                home = region
        entries = set(operation.sources)
        if home is None and len(entries) == 1:
            entry = entries.pop()
            home = by_entry.get((entry, changes))
            if home is None:
                home = by_entry[entry, changes] = Region(entry)
                time[id(home)] = changes
                regions.append(home)
        if home is None:
            left.append(Left(node, "brings together what has no common beginning in fastnn"))
            changes += operation.in_place
            continue
        source = operation.sources[0]
        if operation.in_place and not (source in home.operations and len(source.users) == 1):
            left.append(Left(node, "changes in place what others may read"))
            changes += 1
            continue
        of[node] = home
        home.operations[node] = operation
    kept = []
    for region in regions:
        if any(operation.kind == "dense" for operation in region.operations.values()):
            inside = region.operations.keys()
            region.results = [node for node in inside if any(user not in inside for user in node.users)]
            if region.results:
                kept.append(region)
                continue
        alone = "has no product beside it, without which a call is not worth it"
        left += [Left(node, alone) for node in region.operations]
    return kept, left


def _tells_sizes(node: fx.Node) -> bool:
    """Whether a node is a number or a shape, which are no work."""
    value = node.meta.get("example_value")
    return isinstance(value, (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool, torch.Size))


def _strange(graph: fx.Graph) -> str:
    """Why nothing of a graph is taken, "" if it may be."""
    for node in graph.nodes:
        home = getattr(node.target, "__module__", None) or ""
        if home.startswith(("torch._functorch", "torch._C._functorch")):
            return "is within a transform (vmap, grad)"
        if node.op == "call_function" and node.target in (torch.amp.autocast_mode._enter_autocast,):
            return "is within autocast"
    return ""


def _may_change(node: fx.Node) -> bool:
    """Whether a node that is left may write to a tensor that others read."""
    if node.op == "call_module":
        return True
    if "out" in node.kwargs or node.kwargs.get("inplace", False) is not False:
        return True
    name = _name_of(node)
    if name.startswith("__"):
        return name not in ("__getitem__",)
    if isinstance(node.target, torch._ops.OpOverload):
        return bool(node.target._schema.is_mutable)
    if isinstance(node.target, torch._ops.OpOverloadPacket):
        return any(getattr(node.target, one)._schema.is_mutable for one in node.target.overloads())
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return True
    if getattr(node.target, "__module__", "") == "_operator":
        harmless = ("index", "inv", "invert", "is_", "is_not", "indexOf", "itemgetter")
        return name in ("setitem", "delitem") or (name.startswith("i") and name not in harmless)
    if name.endswith("_"):
        return True
    # functions with a flag for it as an argument by position, and batch norm in training
    return any(argument is True for argument in node.args)


# ---------------------------------------------------------------- one node

# Functions whose numbers may be others in each call: those that are not known are left to PyTorch.
_ARITHMETIC = {"add", "iadd", "sub", "isub", "subtract", "mul", "imul", "multiply", "div", "divide"}
_ARITHMETIC |= {"truediv", "itruediv", "true_divide", "add_", "sub_", "mul_", "div_", "getitem"}


def _name_of(node: fx.Node) -> str:
    """The name of a function or method."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "_")


def _known(argument: Any) -> Any:
    """The number that a node stands for: with dynamic=True an eps is one. It is guarded by its value then."""
    value = argument.meta.get("example_value") if isinstance(argument, fx.Node) else None
    return float(value) if isinstance(value, torch.SymFloat) else argument


def _value(node: Any) -> Any:
    """The stand-in of a node's tensor, with its shape and kind."""
    value = node.meta.get("example_value") if isinstance(node, fx.Node) else None
    if not isinstance(value, torch.Tensor):
        raise Unfit("reads what is no tensor")
    return value


def _fitting(node: fx.Node, grad: bool) -> Operation:
    """What a node does, if fastnn can do that with its tensors."""
    if node.op == "call_module":
        raise Unfit("is a call of a module")
    args, kwargs = node.args, node.kwargs
    if _name_of(node) not in _ARITHMETIC:
        args, kwargs = tuple(map(_known, args)), {name: _known(value) for name, value in kwargs.items()}
    operation = read(node.target, args, kwargs)
    kind, numbers = operation.kind, operation.numbers
    result = _value(node)
    _judge_tensor(result, grad)
    for source in operation.sources:
        value = _value(source)
        _judge_tensor(value, False)
        if value.dtype != result.dtype:
            raise Unfit(f"mixes {value.dtype} and {result.dtype}")
        if value.dim() != result.dim() or value.dim() < 2:
            raise Unfit("is no table of rows")
        if value.shape[:-1] != result.shape[:-1]:
            raise Unfit("moves numbers between rows")
    for name, tensor in operation.tensors.items():
        value = _value(tensor)
        if tensor.op not in ("placeholder", "get_attr"):
            raise Unfit(f"has a {name} that is computed")
        _judge_tensor(value, False)
        if value.dtype != result.dtype and name != "num_batches_tracked":
            raise Unfit(f"mixes {value.dtype} and {result.dtype}")
    width, rank = width_of(_value(operation.sources[0])), result.dim()
    if kind in ("flatten", "codes", "lookup"):
        raise Unfit("moves numbers without computing")
    if kind in ("dropout", "alpha_dropout", "batch_norm") and numbers["training"]:
        raise Unfit("is in train mode")
    if kind == "batch_norm" and rank != 2:
        raise Unfit("normalises over more than rows")
    if kind == "prelu" and rank != 2 and operation.tensors["weight"].meta["example_value"].numel() > 1:
        raise Unfit("has slopes along other than the last dimension")
    if kind in ("layer_norm", "rms_norm") and numbers["width"] != width:
        raise Unfit("normalises other than rows")
    if kind == "join" and numbers["dim"] not in (-1, rank - 1):
        raise Unfit("joins other than columns")
    dim = numbers.get("dim", -1)  # softmax without one takes the last of two
    if dim not in (-1, rank - 1) and not (dim is None and rank == 2):
        raise Unfit("is over other than columns")
    if kind == "add" and _value(operation.sources[1]).shape != _value(operation.sources[0]).shape:
        raise Unfit("adds what has different shapes")
    if kind == "columns" and (numbers["one"] or (rank != 2 and node.args[1][0] is not Ellipsis)):
        raise Unfit("takes other than columns")
    if kind == "dense" and _value(operation.tensors["weight"]).dim() != 2:
        raise Unfit("has a weight that is no matrix")
    return operation


def _judge_tensor(value: Any, grad: bool) -> None:
    if grad and value.requires_grad:
        raise Unfit("needs a gradient")
    if value.device.type != "cpu":
        raise Unfit(f"is on {value.device}")
    if value.dtype not in _DTYPES and value.dtype != torch.int64:
        raise Unfit(f"is of {value.dtype}")
    if value.layout != torch.strided:
        raise Unfit("is sparse")
    if value.dim():
        width_of(value)


def width_of(value: Any) -> int:
    """The length of the last dimension, a number or a symbol that stands for one (Unfit)."""
    width = value.shape[-1]
    known = width if isinstance(width, int) else width.node.maybe_as_int()
    if known is None:
        raise Unfit("has a number of columns that is not known")
    return int(known)

