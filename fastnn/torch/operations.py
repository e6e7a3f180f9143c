"""PyTorch's functions and modules as the operations that fastnn has, whichever way they were written.

`F.relu(x)`, `torch.relu(x)`, `x.relu()`, `x.relu_()` and `nn.ReLU()(x)` are one operation. What stands for a
number of rows or for a tensor may be anything (a node of a graph, a parameter): this module moves it about.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["FUNCTIONS", "MODULES", "Operation", "Unfit", "is_known_module", "read", "read_module"]


class Unfit(Exception):
    """What PyTorch does here has no equal in fastnn; the text says why."""


@dataclass(frozen=True)
class Operation:
    """One thing that is done to rows.

    Parameters
    ----------
    kind : str
        "same", "dense", "activation", "dropout", "alpha_dropout", "batch_norm", "layer_norm", "rms_norm",
        "prelu", "scale", "add", "join", "columns", "flatten", "codes", "lookup"; "module" for one of ours.
    sources : tuple
        What is read, rows each.
    tensors : dict
        "weight", "bias", "running_mean", "running_var", by the names of fastnn's weights.
    numbers : dict
        Fields of the layer.
    in_place : bool
        Whether the source itself is changed.
    """

    kind: str
    sources: tuple[Any, ...]
    tensors: dict[str, Any] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    in_place: bool = False


def _activation(name: str) -> Callable[..., Operation]:
    def reader(input: Any, inplace: bool = False) -> Operation:
        return Operation("activation", (input,), numbers={"name": name}, in_place=bool(inplace))

    return reader


def _must(what: str, got: Any, *allowed: Any) -> None:
    if got not in allowed:
        raise Unfit(f"has {what} {got!r}; fastnn has {' or '.join(map(repr, allowed))}")


def _leaky_relu(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Operation:
    _must("slope", negative_slope, 0.01)
    return _activation("leaky_relu")(input, inplace)


def _alpha_one(name: str) -> Callable[..., Operation]:
    def reader(input: Any, alpha: float = 1.0, inplace: bool = False) -> Operation:
        _must("alpha", alpha, 1.0)
        return _activation(name)(input, inplace)

    return reader


def _hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Operation:
    _must("limits", (min_val, max_val), (-1.0, 1.0), (0.0, 6.0))
    return _activation("hard_tanh" if min_val else "relu6")(input, inplace)


def _clamp(input: Any, min: Any = None, max: Any = None) -> Operation:
    known = {(0, None): "relu", (0, 6): "relu6", (-1, 1): "hard_tanh"}
    for limits in (min, max):
        if limits is not None and not _is_number(limits):
            raise Unfit("has limits that are no numbers")
    _must("limits", (min, max), *known)
    return _activation(known[min, max])(input)


def _softplus(input: Any, beta: float = 1.0, threshold: float = 20.0) -> Operation:
    _must("beta", beta, 1.0)
    _must("threshold", threshold, 20.0)
    return _activation("softplus")(input)


def _gelu(input: Any, approximate: str = "none") -> Operation:
    _must("approximate", approximate, "none", "tanh")
    return _activation("gelu" if approximate == "none" else "gelu_tanh")(input)


def _softmax(name: str) -> Callable[..., Operation]:
    def reader(input: Any, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Operation:
        if dtype is not None or not isinstance(_stacklevel, int):  # torch.softmax takes dtype third
            raise Unfit("has a dtype of its own; fastnn keeps that of the model")
        numbers = {"name": name, "dim": dim}
        return Operation("activation", (input,), numbers=numbers)

    return reader


def _linear(input: Any, weight: Any, bias: Any = None) -> Operation:
    return Operation("dense", (input,), _given(weight=weight, bias=bias))


def _given(**tensors: Any) -> dict[str, Any]:
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def _dropout(kind: str) -> Callable[..., Operation]:
    def reader(input: Any, p: float = 0.5, training: bool | None = None, inplace: bool = False) -> Operation:
        if training is None:  # their defaults differ
            training = kind == "dropout"
        return Operation(kind, (input,), numbers={"rate": p, "training": training}, in_place=bool(inplace))

    return reader


def _batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: Any = 0.1,
    eps: float = 1e-5,
    num_batches_tracked: Any = None,
) -> Operation:
    if running_mean is None or running_var is None:
        raise Unfit("has no running statistics, by which fastnn predicts")
    _both_or_none(weight, bias)
    tensors = _given(weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    if momentum is None:
        tensors["num_batches_tracked"] = num_batches_tracked
    numbers = {"momentum": momentum, "eps": eps, "training": training}
    return Operation("batch_norm", (input,), tensors, numbers)


def _both_or_none(weight: Any, bias: Any) -> None:
    if (weight is None) != (bias is None):
        raise Unfit("has a weight or a bias alone; the norms of fastnn have both, or neither")


def _layer_norm(
    input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Operation:
    _both_or_none(weight, bias)
    numbers = {"eps": eps, "width": _one_width(normalized_shape)}
    return Operation("layer_norm", (input,), _given(weight=weight, bias=bias), numbers)


def _rms_norm(input: Any, normalized_shape: Any, weight: Any = None, eps: Any = None) -> Operation:
    numbers = {"eps": eps, "width": _one_width(normalized_shape)}
    return Operation("rms_norm", (input,), _given(weight=weight), numbers)


def _one_width(shape: Any) -> int:
    shape = tuple(shape) if not isinstance(shape, int) else (shape,)
    if len(shape) != 1:
        raise Unfit(f"normalises {len(shape)} dimensions together; fastnn has rows of columns")
    return int(shape[0])


def _prelu(input: Any, weight: Any, init: float = 0.25) -> Operation:
    return Operation("prelu", (input,), {"weight": weight}, {"init": init})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _scale(input: Any, factor: float, shift: float, in_place: bool = False) -> Operation:
    if not (math.isfinite(factor) and math.isfinite(shift)):
        raise Unfit(f"has the number {factor if math.isfinite(shift) else shift}; fastnn takes finite ones")
    numbers = {"factor": float(factor), "shift": float(shift)}
    return Operation("scale", (input,), numbers=numbers, in_place=in_place)


def _add(in_place: bool = False, sign: int = 1) -> Callable[..., Operation]:
    def reader(input: Any, other: Any, *, alpha: Any = 1) -> Operation:
        _must("alpha", alpha, 1)
        if _is_number(other):
            return _scale(input, 1.0, sign * other, in_place)
        if _is_number(input):
            return _scale(other, float(sign), input)
        if sign < 0:
            raise Unfit("is a difference of two results; fastnn has sums")
        return Operation("add", (input, other), in_place=in_place)

    return reader


def _multiply(in_place: bool = False) -> Callable[..., Operation]:
    def reader(input: Any, other: Any) -> Operation:
        if _is_number(other):
            return _scale(input, other, 0.0, in_place)
        if _is_number(input):
            return _scale(other, input, 0.0)
        raise Unfit("is a product of two results; fastnn multiplies by numbers and by weights")

    return reader


def _divide(input: Any, other: Any, *, rounding_mode: Any = None) -> Operation:
    if not _is_number(other) or not other or rounding_mode is not None:
        raise Unfit("is no division by a number")
    return _scale(input, 1 / other, 0.0)


def _negate(input: Any) -> Operation:
    return _scale(input, -1.0, 0.0)


def _cat(tensors: Any, dim: Any = 0) -> Operation:
    if not isinstance(tensors, (tuple, list)):
        raise Unfit("joins what is no list of results")
    return Operation("join", tuple(tensors), numbers={"dim": dim})


def _getitem(input: Any, key: Any) -> Operation:
    if not isinstance(key, tuple) or len(key) != 2 or key[0] not in (slice(None), Ellipsis):
        raise Unfit("takes other than columns of all rows, as x[:, 2:5] does")
    columns = key[1]
    if isinstance(columns, slice):
        for end in (columns.start, columns.stop, columns.step):
            if end is not None and not isinstance(end, int):
                raise Unfit("takes columns that are not known before it runs")
        return Operation("columns", (input,), numbers={"columns": columns, "one": False})
    if isinstance(columns, int) and not isinstance(columns, bool):
        return Operation("columns", (input,), numbers={"columns": (columns,), "one": True})
    if isinstance(columns, (list, tuple)) and columns and all(isinstance(c, int) for c in columns):
        return Operation("columns", (input,), numbers={"columns": tuple(columns), "one": False})
    raise Unfit("takes columns that are not known before it runs")


def _flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Operation:
    _must("dimensions", (start_dim, end_dim), (1, -1))
    return Operation("flatten", (input,))


def _same(input: Any, *_: Any, **__: Any) -> Operation:
    return Operation("same", (input,))


def _codes(input: Any) -> Operation:
    return Operation("codes", (input,))


def _to(input: Any, dtype: Any = None, **more: Any) -> Operation:
    if more or dtype not in (torch.int64, torch.int32):
        raise Unfit("changes type or device")
    return _codes(input)


def _embedding(
    input: Any,
    weight: Any,
    padding_idx: Any = None,
    max_norm: Any = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Operation:
    for name, value in (
        ("padding_idx", padding_idx), ("max_norm", max_norm), ("scale_grad_by_freq", scale_grad_by_freq),
    ):  # fmt: skip
        if value is not None and value is not False:
            raise Unfit(f"has {name}, which fastnn has not")
    return Operation("lookup", (input,), {"weight": weight})


_ACTIVATIONS: dict[str, Callable[..., Operation]] = {
    "relu": _activation("relu"),
    "leaky_relu": _leaky_relu,
    "relu6": _activation("relu6"),
    "hardtanh": _hardtanh,
    "hardsigmoid": _activation("hard_sigmoid"),
    "hardswish": _activation("hard_swish"),
    "softsign": _activation("softsign"),
    "elu": _alpha_one("elu"),
    "selu": _activation("selu"),
    "celu": _alpha_one("celu"),
    "softplus": _softplus,
    "silu": _activation("silu"),
    "mish": _activation("mish"),
    "gelu": _gelu,
    "sigmoid": _activation("sigmoid"),
    "tanh": _activation("tanh"),
    "softmax": _softmax("softmax"),
    "log_softmax": _softmax("log_softmax"),
}
_OTHERS: dict[str, Callable[..., Operation]] = {
    "linear": _linear,
    "dropout": _dropout("dropout"),
    "alpha_dropout": _dropout("alpha_dropout"),
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "prelu": _prelu,
    "add": _add(),
    "sub": _add(sign=-1),
    "mul": _multiply(),
    "div": _divide,
    "neg": _negate,
    "cat": _cat,
    "flatten": _flatten,
    "clamp": _clamp,
    "embedding": _embedding,
}
_SPELLED = {
    "cat": ("concat", "concatenate"),
    "div": ("true_divide", "divide"),
    "mul": ("multiply",),
    "sub": ("subtract",),
    "neg": ("negative",),
    "clamp": ("clip",),
}


def _in_place(reader: Callable[..., Operation]) -> Callable[..., Operation]:
    def changed(*args: Any, **kwargs: Any) -> Operation:
        found = reader(*args, **kwargs)
        return Operation(found.kind, found.sources, found.tensors, found.numbers, True)

    return changed


def _functions() -> dict[Any, Callable[..., Operation]]:
    """Readers by function, and by name for methods of tensors."""
    found: dict[Any, Callable[..., Operation]] = {}
    for name, reader in {**_ACTIVATIONS, **_OTHERS}.items():
        for spelled in (name, *_SPELLED.get(name, ())):
            for home in (F, torch, torch._C._nn, torch.special):
                for ending, used in (("", reader), ("_", _in_place(reader))):
                    function = getattr(home, spelled + ending, None)
                    # torch.batch_norm and its like have other arguments than those of torch.nn.functional
                    if callable(function) and (home is F or not hasattr(F, name) or name in _ALIKE):
                        found[function] = used
            if hasattr(torch.Tensor, spelled):
                found[spelled] = reader
            if hasattr(torch.Tensor, spelled + "_"):
                found[spelled + "_"] = _in_place(reader)
    found |= {
        operator.add: _add(),
        operator.iadd: _add(in_place=True),
        operator.sub: _add(sign=-1),
        operator.isub: _in_place(_add(sign=-1)),
        operator.mul: _multiply(),
        operator.imul: _multiply(in_place=True),
        operator.truediv: _divide,
        operator.itruediv: _in_place(_divide),
        operator.neg: _negate,
        operator.getitem: _getitem,
        "contiguous": _same,
        "clone": _same,
        torch.clone: _same,
        "long": _codes,
        "int": _codes,
        "to": _to,
        "type": _to,
    }
    return found


# Functions that torch has with the arguments that torch.nn.functional has.
_ALIKE = {"relu", "selu", "sigmoid", "tanh", "prelu", "rms_norm", "softmax", "log_softmax", "celu"}
_ALIKE |= {"hardtanh", "relu6", "leaky_relu", "elu", "softplus", "gelu", "linear", "silu", "mish"}
_ALIKE |= {"hardsigmoid", "hardswish"}

FUNCTIONS = _functions()

# Each module by the function of its name and what that takes after the input.
MODULES: dict[type, tuple[Callable[..., Operation], Callable[[Any], Mapping[str, Any]]]] = {
    nn.Linear: (_linear, lambda m: {"weight": m.weight, "bias": m.bias}),
    nn.Identity: (_same, lambda m: {}),
    nn.Flatten: (_flatten, lambda m: {"start_dim": m.start_dim, "end_dim": m.end_dim}),
    nn.Dropout: (_dropout("dropout"), lambda m: {"p": m.p, "training": m.training}),
    nn.AlphaDropout: (_dropout("alpha_dropout"), lambda m: {"p": m.p, "training": m.training}),
    nn.BatchNorm1d: (
        _batch_norm,
        lambda m: {
            "running_mean": m.running_mean, "running_var": m.running_var, "weight": m.weight, "bias": m.bias,
            "training": m.training, "momentum": m.momentum, "eps": m.eps,
            "num_batches_tracked": m.num_batches_tracked,
        },
    ),
    nn.LayerNorm: (
        _layer_norm,
        lambda m: {
            "normalized_shape": m.normalized_shape, "weight": m.weight, "bias": m.bias, "eps": m.eps
        },
    ),
    nn.RMSNorm: (
        _rms_norm, lambda m: {"normalized_shape": m.normalized_shape, "weight": m.weight, "eps": m.eps}
    ),
    nn.PReLU: (_prelu, lambda m: {"weight": m.weight, "init": m.init}),
    nn.Embedding: (
        _embedding,
        lambda m: {
            "weight": m.weight, "padding_idx": m.padding_idx, "max_norm": m.max_norm,
            "scale_grad_by_freq": m.scale_grad_by_freq,
        },
    ),
    nn.ReLU: (_ACTIVATIONS["relu"], lambda m: {}),
    nn.LeakyReLU: (_leaky_relu, lambda m: {"negative_slope": m.negative_slope}),
    nn.ReLU6: (_ACTIVATIONS["relu6"], lambda m: {}),
    nn.Hardtanh: (_hardtanh, lambda m: {"min_val": m.min_val, "max_val": m.max_val}),
    nn.Hardsigmoid: (_ACTIVATIONS["hardsigmoid"], lambda m: {}),
    nn.Hardswish: (_ACTIVATIONS["hardswish"], lambda m: {}),
    nn.Softsign: (_ACTIVATIONS["softsign"], lambda m: {}),
    nn.ELU: (_ACTIVATIONS["elu"], lambda m: {"alpha": m.alpha}),
    nn.SELU: (_ACTIVATIONS["selu"], lambda m: {}),
    nn.CELU: (_ACTIVATIONS["celu"], lambda m: {"alpha": m.alpha}),
    nn.Softplus: (_softplus, lambda m: {"beta": m.beta, "threshold": m.threshold}),
    nn.SiLU: (_ACTIVATIONS["silu"], lambda m: {}),
    nn.Mish: (_ACTIVATIONS["mish"], lambda m: {}),
    nn.GELU: (_gelu, lambda m: {"approximate": m.approximate}),
    nn.Sigmoid: (_ACTIVATIONS["sigmoid"], lambda m: {}),
    nn.Tanh: (_ACTIVATIONS["tanh"], lambda m: {}),
    nn.Softmax: (_ACTIVATIONS["softmax"], lambda m: {"dim": m.dim}),
    nn.LogSoftmax: (_ACTIVATIONS["log_softmax"], lambda m: {"dim": m.dim}),
}  # fmt: skip


def _class_of(module: nn.Module) -> type | None:
    """The class in MODULES whose forward this module has: its own, or one that it inherits."""
    for known in type(module).__mro__:
        if known in MODULES:
            return known if type(module).forward is known.forward else None  # type: ignore[attr-defined]
    return None


def is_known_module(module: nn.Module) -> bool:
    """Whether `read_module` may read it."""
    return _class_of(module) is not None


def read_module(module: nn.Module, source: Any) -> Operation:
    """What a module of PyTorch does to `source` (Unfit)."""
    known = _class_of(module)
    if known is None:
        raise Unfit("has no layer in fastnn")
    reader, arguments = MODULES[known]
    found = reader(source, **arguments(module))
    if getattr(module, "inplace", False):
        found = Operation(found.kind, found.sources, found.tensors, found.numbers, True)
    return found


def read(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Operation:
    """What a call of a function, or of a method by its name, does (Unfit).

    Parameters
    ----------
    target : callable or str
    args, kwargs
        Results stand for themselves.
    """
    reader = FUNCTIONS.get(target)
    if reader is None:
        raise Unfit("has no equal in fastnn")
    try:
        return reader(*args, **kwargs)
    except TypeError as error:
        raise Unfit(f"has arguments that fastnn does not know ({error})") from None
