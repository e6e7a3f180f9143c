"""A model of a module of PyTorch: what it does is traced by torch.fx, and its numbers are copied."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx, nn

from .. import errors
from ..network import Sequential
from . import layers as own
from .operations import Operation, Unfit, is_known_module, read, read_module
from .structure import Placed, Structure

__all__ = ["from_torch"]

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_DTYPES = {torch.float32: "float32", torch.float64: "float64"}


def from_torch(module: nn.Module, n_in: int | None = None, *, untie: bool = False) -> Sequential:
    """A model that does what a module does, with copies of its parameters and running statistics.

    Sequences, residual blocks and concatenations, of modules and of functions, however they are nested.
    Dense layers take the activation that follows them. The model predicts what the module gives in eval mode
    and trains as it does in train mode, in whichever it is; the module stays as it is.

    Parameters
    ----------
    module : torch.nn.Module
        Of one input (rows, n_in) and one output, in float32 or float64.
    n_in : int, optional
        Number of columns, where the module does not tell it.
    untie : bool
        Whether parameters that the module uses twice become two that are trained apart; else an error.

    Returns
    -------
    Sequential
        Built, in the dtype of the parameters.

    Raises
    ------
    ValueError
        Something in it has no equal in fastnn: the text names the submodule and its type.

    Examples
    --------
    >>> import torch, fastnn.torch
    >>> module = torch.nn.Sequential(
    ...     torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> fastnn.torch.from_torch(module).layers
    (Dense(units=16, activation='relu'), Dense(units=3))
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    if n_in is not None:
        n_in = errors.integer("n_in", n_in)
    untie = errors.flag("untie", untie)
    dtype = _judged(module)
    structure = _structure(module, "", n_in)
    placed = structure.layers
    width = n_in if n_in is not None else structure.n_in
    if width is None:
        raise ValueError("n_in must be given: the module takes any number of columns")
    if not placed:
        raise ValueError("module must have at least one layer that computes something, got none")
    if not untie:
        _refuse_ties(placed)
    model = Sequential(*(one.layer for one in placed), dtype=dtype).build(width)
    _fill(model, placed)
    return model


# ---------------------------------------------------------------- judging


def _name(path: str, module: object) -> str:
    kind = type(module).__name__
    return f"module {path!r}, a {kind}," if path else f"the module, a {kind},"


def _judged(module: nn.Module) -> str:
    """The dtype of the parameters of a module that can be read at all."""
    found: dict[str, str] = {}
    for path, one in module.named_modules():
        if torch.nn.utils.parametrize.is_parametrized(one):
            names = ", ".join(one.parametrizations)
            raise ValueError(
                f"{_name(path, one)} must have no parametrization, has one of {names}; "
                "torch.nn.utils.parametrize.remove_parametrizations makes it a plain parameter"
            )
        for kind in _HOOKS:
            if getattr(one, kind, None) and not isinstance(one, nn.modules.lazy.LazyModuleMixin):
                raise ValueError(
                    f"{_name(path, one)} must have no hooks, has {len(getattr(one, kind))} in {kind}: "
                    "what they do can not be seen"
                )
        if not isinstance(one, fx.GraphModule) and isinstance(one, torch.jit.ScriptModule):
            raise ValueError(f"{_name(path, one)} must be a module in Python, is one of TorchScript")
        tensors = [*one.named_parameters(recurse=False), *one.named_buffers(recurse=False)]
        for name, tensor in tensors:
            where = f"{_name(path, one)} must have {name}"
            if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
                raise ValueError(f"{where} with a shape; give the lazy module a batch first")
            if tensor.device.type == "meta":
                raise ValueError(f"{where} with numbers, has it on the device meta")
            if not tensor.is_floating_point():
                continue
            if tensor.dtype not in _DTYPES:
                raise ValueError(f"{where} in float32 or float64, has {str(tensor.dtype).split('.')[-1]}")
            found.setdefault(_DTYPES[tensor.dtype], f"{path}.{name}".lstrip("."))
    if len(found) > 1:
        raise ValueError(
            f"module must have one dtype, has {' and '.join(f'{d} ({n})' for d, n in found.items())}"
        )
    return next(iter(found), "float32")


def _refuse_ties(placed: Iterable[Placed]) -> None:
    """No tensor may be used in two places: here they would be trained apart."""
    seen: dict[int, str] = {}
    for one in _all(placed):
        for name, tensor in one.tensors.items():
            where = f"{one.path}.{name}"
            if id(tensor) in seen:
                raise ValueError(
                    f"{where} must not be {seen[id(tensor)]} too: fastnn has no parameters in two places; "
                    "untie=True makes two of them that are trained apart"
                )
            seen[id(tensor)] = where


def _all(placed: Iterable[Placed]) -> Iterable[Placed]:
    for one in placed:
        yield one
        for _, inner in one.inner:
            yield from _all([inner])


# ---------------------------------------------------------------- tracing


class _Tracer(fx.Tracer):  # type: ignore[misc]
    """Stops at modules that are known, and at all of PyTorch's."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = isinstance(m, own.OWN) or is_known_module(m)
        return known or bool(super().is_leaf_module(m, module_qualified_name))


def _structure(module: nn.Module, path: str, n_in: int | None) -> Structure:
    """The layers of a module that stands at that path."""
    if isinstance(module, own.OWN) or (is_known_module(module) and not isinstance(module, nn.Sequential)):
        graph_module = nn.Sequential(module)  # a leaf has no graph of its own
        return _traced(graph_module, path, n_in, leaf=True)
    return _traced(module, path, n_in)


def _traced(module: nn.Module, path: str, n_in: int | None, leaf: bool = False) -> Structure:
    """Train mode has dropout in it; eval mode must differ by that alone."""
    modes = [(one, one.training) for one in module.modules()]
    try:
        found = []
        for training in (False, True):
            module.train(training)
            found.append(_operations(module, path, leaf))
    finally:
        for one, training in modes:
            one.training = training
    predicting, (operations, end, input) = found
    _compare(predicting, (operations, end, input), path)
    return Structure(operations, input, end, n_in, exact=getattr(module, own.MARK, False))


def _operations(module: nn.Module, path: str, leaf: bool) -> tuple[dict[Any, Operation], Any, Any]:
    """Operations by node, the last node, and that of the input."""
    tracer = _Tracer()
    try:
        graph = tracer.trace(module)
    except Exception as error:  # whatever the user's code raises when it is given no numbers
        raise ValueError(
            f"{_name(path, module)} must be traceable by torch.fx, which says: {_line(error)}"
        ) from error
    operations: dict[Any, Operation] = {}
    inputs: list[fx.Node] = []
    end: Any = None
    used = _used(graph)
    for node in graph.nodes:
        if node.op == "output":
            end = node.args[0]
        elif node not in used:
            if _changes_in_place(node, tracer.root):
                raise ValueError(
                    f"{_where(node, tracer, path, leaf)} must be used by its result: what it changes in "
                    "place is not followed"
                )
        elif node.op == "placeholder":
            inputs.append(node)
        elif node.op != "get_attr":
            operation = _operation(node, tracer, path, leaf)
            if operation is not None:
                _judge_flow(node, operation, operations, _where(node, tracer, path, leaf))
                operations[node] = operation
    if len(inputs) != 1:
        names = ", ".join(str(node.target) for node in inputs) or "none"
        raise ValueError(f"{_name(path, module)} must use one input, uses {len(inputs)} ({names})")
    if not isinstance(end, fx.Node):
        raise ValueError(f"{_name(path, module)} must give one result, gives a {type(end).__name__}")
    for operation in operations.values():
        for source in operation.sources:
            if source is not inputs[0] and source not in operations:
                raise ValueError(
                    f"{_where(source, tracer, path)} must be computed from the input, is {source.op} "
                    f"{source.target}"
                    if isinstance(source, fx.Node)
                    else f"{_name(path, module)} must compute with results and numbers, got {source!r}"
                )
    return operations, end, inputs[0]


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _where(node: fx.Node, tracer: fx.Tracer, path: str, leaf: bool = False) -> str:
    """The submodule that a node belongs to, for messages."""
    inside, kind = path, type(tracer.root).__name__
    if node.op == "call_module":
        inside = _joined(path, str(node.target), leaf)
        kind = type(tracer.root.get_submodule(str(node.target))).__name__
        return f"module {inside!r}, a {kind}," if inside else f"the module, a {kind},"
    stack = node.meta.get("nn_module_stack") or {}
    if stack:
        last, (_, known) = list(stack.items())[-1]
        inside = _joined(path, last, leaf)
        kind = known.__name__ if isinstance(known, type) else str(known).rsplit(".", 1)[-1]
    what = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    owner = f"module {inside!r}, a {kind}" if inside else f"the module, a {kind}"
    return f"{what} in {owner},"


def _joined(path: str, inside: str, leaf: bool = False) -> str:
    return path if leaf else f"{path}.{inside}" if path else inside


def _operation(node: fx.Node, tracer: fx.Tracer, path: str, leaf: bool) -> Operation | None:
    """What a node does; None for one that only tells a number of rows."""
    try:
        if node.op == "call_module":
            module = tracer.root.get_submodule(str(node.target))
            where = _joined(path, str(node.target), leaf)
            if isinstance(module, own.OWN):
                found = Operation("module", (node.args[0],), numbers={"module": module})
                found.numbers["parts"] = own.parts(module, where, lambda m, p: _structure(m, p, None).layers)
            else:
                found = read_module(module, *node.args, **node.kwargs)
        else:
            where = _joined(path, str(node.name), leaf)
            if _tells_rows(node):
                return None
            found = _reshaped(node) or read(node.target, node.args, node.kwargs)
            if "training" in found.numbers and found.kind in ("dropout", "alpha_dropout"):
                found.numbers["function"] = True
        found.numbers["path"] = where
        for name, tensor in found.tensors.items():
            found.tensors[name] = _tensor(tensor, tracer.root)
        return found
    except Unfit as reason:
        raise ValueError(f"{_where(node, tracer, path, leaf)} {reason}") from None


def _tensor(value: Any, root: nn.Module) -> Any:
    """The tensor that a node of a graph names."""
    if isinstance(value, fx.Node):
        if value.op != "get_attr":
            raise Unfit("has a weight that is computed; fastnn trains what it multiplies by")
        value = _attribute(root, str(value.target))
    if not isinstance(value, torch.Tensor):
        raise Unfit(f"has a weight that is no tensor, but a {type(value).__name__}")
    return value


def _attribute(root: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(root.get_submodule(owner), name)


def _used(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that the output is computed from."""
    found: set[fx.Node] = set()
    waiting = [node for node in graph.nodes if node.op == "output"]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found


def _changes_in_place(node: fx.Node, root: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(str(node.target)), "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    is_assignment = getattr(node.target, "__module__", "") == "_operator" and name.startswith("i")
    return bool(name.endswith("_") or node.kwargs.get("inplace") is True or is_assignment)


def _judge_flow(node: fx.Node, operation: Operation, before: dict[Any, Operation], where: str) -> None:
    """What changes its source in place must be the last reader of it, and of what shares its memory."""
    if not operation.in_place:
        return
    source: Any = operation.sources[0]
    while isinstance(source, fx.Node):
        for user in source.users:
            if user > node:
                raise ValueError(
                    f"{where} must not change in place what {user.name} reads afterwards; give each a result "
                    "of its own"
                )
        view = before.get(source)
        shares = view is not None and (view.kind in ("flatten", "same", "columns") or view.in_place)
        source = view.sources[0] if view is not None and shares else None


def _tells_rows(node: fx.Node) -> bool:
    """Whether a node is ``x.shape``, ``x.size(0)`` or ``x.shape[0]``."""
    if node.op == "call_method" and node.target == "size":
        return True
    if node.op == "call_function" and node.target is getattr:
        return bool(node.args[1] == "shape")
    first = node.args[0] if node.args else None
    reads_shape = isinstance(first, fx.Node) and first.op != "placeholder" and _tells_rows(first)
    return node.op == "call_function" and reads_shape


def _reshaped(node: fx.Node) -> Operation | None:
    """``x.view(len, -1)`` and its like as a flatten."""
    if node.target not in ("view", "reshape", torch.reshape):
        return None
    shape: Any = node.args[1:]
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    if len(shape) != 2 or node.kwargs:
        raise Unfit("has a shape other than (rows, columns)")
    rows, columns = shape
    if isinstance(rows, fx.Node) and _tells_rows(rows) and isinstance(columns, int):
        return Operation("flatten", (node.args[0],))
    if rows == -1 and isinstance(columns, int) and columns > 0:
        return Operation("flatten", (node.args[0],), numbers={"width": columns})
    raise Unfit("has a shape that does not keep rows apart")


def _compare(predicting: Any, training: Any, path: str) -> None:
    """Eval mode does what train mode does but for dropout, which is off there."""
    outlines = []
    for is_training, (operations, _, _) in zip((False, True), (predicting, training), strict=True):
        outline = []
        for operation in operations.values():
            if operation.kind in ("dropout", "alpha_dropout"):
                where = operation.numbers["path"]
                if not is_training and operation.numbers["training"]:
                    raise ValueError(
                        f"the {operation.kind} at {where!r} must be off in eval mode: pass "
                        "training=self.training"
                    )
                continue
            kept = {
                name: value
                for name, value in operation.numbers.items()
                if name not in ("path", "training", "parts")
            }
            outline.append((operation.kind, kept, [id(t) for t in operation.tensors.values()]))
            if operation.kind == "batch_norm" and operation.numbers["training"] != is_training:
                raise ValueError(
                    f"the batch norm at {operation.numbers['path']!r} must take its batch's statistics in "
                    "train mode and running ones in eval mode"
                )
        outlines.append(outline)
    if outlines[0] != outlines[1]:
        where = f"module {path!r}" if path else "the module"
        raise ValueError(f"{where} must do the same in train and eval mode, dropout and batch norm aside")


# ---------------------------------------------------------------- numbers


def _fill(model: Sequential, placed: list[Placed]) -> None:
    """Copies of all tensors, by the names of the model's weights."""
    views = {**model.weights, **model.running}
    filled = set()
    for i, one in enumerate(placed):
        for prefix, inner in _prefixed(str(i), one):
            for name, tensor in inner.tensors.items():
                full = f"{prefix}.{name}"
                if full not in views:
                    continue
                numbers = tensor.numpy(force=True)
                if name == "weight" and inner.turned:
                    numbers = numbers.T
                view = views[full]
                if name == "num_batches_tracked":
                    numbers = numbers.reshape(1)
                if numbers.shape != view.shape:
                    raise ValueError(
                        f"{inner.path}.{name} must have shape {view.shape}, got {numbers.shape}; is its "
                        "input what the layers before give?"
                    )
                view[...] = numbers
                filled.add(full)
    missing = views.keys() - filled
    assert not missing, missing


def _prefixed(prefix: str, placed: Placed) -> Iterable[tuple[str, Placed]]:
    yield prefix, placed
    for position, inner in placed.inner:
        yield from _prefixed(f"{prefix}.{position}", inner)
