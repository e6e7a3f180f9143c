"""The backend: any graph of the supported operators, run node by node on our kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import arrays, labels, numeric, reductions  # noqa: F401  they fill the table
from .graph import Graph, Node, Value, graph_of, node_of
from .operators import OPERATORS, Call, Limits
from .package import onnx_package

__all__ = ["Backend", "Prepared", "evaluate", "require_operators", "run_one"]

Array = NDArray[Any]

_base: Any = onnx_package()
import onnx.backend.base  # noqa: E402  after the error that names the extra

_Backend: Any = onnx.backend.base.Backend
_BackendRep: Any = onnx.backend.base.BackendRep


# ---------------------------------------------------------------- graphs


def require_operators(graph: Graph) -> None:
    """Refuse a graph with an operator that is not in the table; the error names the node."""
    for node in graph.nodes:
        if node.op not in OPERATORS:
            raise ValueError(f"{node} is not supported: there is no operator {node.op}")


def run_one(node: Node, inputs: list[Any], limits: Limits) -> tuple[Any, ...]:
    """What a node gives; an error names it."""
    if node.op not in OPERATORS:
        raise ValueError(f"{node} is not supported: there is no operator {node.op}")
    try:
        found = OPERATORS[node.op](Call(node, inputs, limits))
    except (ValueError, TypeError, IndexError, OverflowError, ArithmeticError) as error:
        raise ValueError(f"{node}: {error}") from error
    return found if isinstance(found, tuple) else (found,)


def evaluate(
    nodes: Iterable[Node], values: dict[str, Any], limits: Limits, last_use: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Run nodes in order; `values` (by name) grows, and is given back.

    Parameters
    ----------
    last_use : mapping of int, optional
        Position of the node that reads a value last: it is let go then.
    """
    for i, node in enumerate(nodes):
        given = run_one(node, [values[name] if name else None for name in node.inputs], limits)
        if len(given) < sum(1 for name in node.outputs if name):
            raise ValueError(f"{node} gives {len(given)} outputs, and {len(node.outputs)} are read")
        values.update((name, value) for name, value in zip(node.outputs, given, strict=False) if name)
        if last_use is not None:
            for name in {*node.inputs, *node.outputs}:
                if last_use.get(name) == i:
                    del values[name]
    return values


class Prepared(_BackendRep):  # type: ignore[misc]
    """A model ready to run, any number of times.

    Attributes
    ----------
    graph : Graph
    kernel_calls : Counter
        How often our kernels were used so far, by operator: ``{"Gemm": 3, "Relu": 2}``.
    """

    def __init__(self, graph: Graph) -> None:
        require_operators(graph)
        self.graph = graph
        self._limits = Limits()
        constants = dict(graph.constants)
        # What depends on constants alone is computed once, a transposed weight say.
        self._nodes = tuple(_without_constants(graph.nodes, constants, self._limits))
        self._limits.kernel_calls.clear()
        kept = {value.name for value in graph.outputs}
        used = kept.union(*(node.inputs for node in self._nodes))
        self._constants = {name: array for name, array in constants.items() if name in used}
        last: dict[str, int] = {}
        for i, node in enumerate(self._nodes):
            last.update((name, i) for name in (*node.inputs, *node.outputs) if name and name not in kept)
        self._last_use = last

    @property
    def kernel_calls(self) -> Counter[str]:
        """How often our kernels were used so far, by operator."""
        return self._limits.kernel_calls

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs for inputs in the order of the graph, or by name; one array for a single input.

        Raises
        ------
        ValueError
            An input has another shape or type than the graph says, or a node can not take what it gets.
        """
        if kwargs:
            raise TypeError(f"run takes no more than the inputs, got {', '.join(kwargs)}")
        values = dict(self._constants)
        for value, given in zip(self.graph.inputs, self._ordered(inputs), strict=True):
            values[value.name] = _input(value, given)
        held = list(values.values())
        evaluate(self._nodes, values, self._limits, self._last_use)
        return tuple(_output(values[value.name], held) for value in self.graph.outputs)

    def _ordered(self, inputs: Any) -> Sequence[Any]:
        names = [value.name for value in self.graph.inputs]
        if isinstance(inputs, Mapping):
            if set(inputs) != set(names):
                raise ValueError(f"inputs must be {', '.join(names)}, got {', '.join(map(str, inputs))}")
            return [inputs[name] for name in names]
        if isinstance(inputs, np.ndarray):
            inputs = [inputs]
        if not isinstance(inputs, (list, tuple)) or len(inputs) != len(names):
            raise ValueError(f"inputs must be {len(names)} arrays ({', '.join(names)}), got {inputs!r:.100}")
        return inputs


def _without_constants(nodes: Iterable[Node], constants: dict[str, Array], limits: Limits) -> list[Node]:
    """The nodes that read more than constants; what the others give joins the constants."""
    rest = []
    for node in nodes:
        if all(not name or name in constants for name in node.inputs):
            evaluate([node], constants, limits)
        else:
            rest.append(node)
    return rest


def _input(value: Value, given: Any) -> Array:
    """An input as the graph declares it."""
    array = np.asarray(given)
    if array.dtype.kind in "US":
        array = array.astype(object)
    if value.dtype is not None and array.dtype != value.dtype:
        raise TypeError(f"input {value.name!r} must be of type {value.dtype}, got {array.dtype}")
    if value.shape is not None and not (
        len(value.shape) == array.ndim
        and all(a is None or a == b for a, b in zip(value.shape, array.shape, strict=True))
    ):
        shape = ", ".join("?" if a is None else str(a) for a in value.shape)
        raise ValueError(f"input {value.name!r} must have shape ({shape}), got {array.shape}")
    return array


def _output(value: Any, held: Sequence[Any]) -> Any:
    """An array of its own, with rows one after the other: no part of an input or a constant."""
    if not isinstance(value, np.ndarray):
        return value
    is_part = any(isinstance(one, np.ndarray) and np.may_share_memory(value, one) for one in held)
    return value.copy() if is_part else np.ascontiguousarray(value).reshape(value.shape)


# ---------------------------------------------------------------- the standard interface


class Backend(_Backend):  # type: ignore[misc]
    """ONNX's interface of backends (``onnx.backend.base.Backend``) over our kernels, on the CPU.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx import helper
    >>> from fastnn.onnx import Backend
    >>> node = helper.make_node("Gemm", ["a", "b"], ["y"], transB=1)
    >>> a, b = np.ones((2, 3), np.float32), np.ones((1, 3), np.float32)
    >>> Backend.run_node(node, [a, b])[0].tolist()
    [[3.0], [3.0]]
    """

    @classmethod
    def is_compatible(cls, model: Any, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether the model has supported operators alone."""
        try:
            require_operators(graph_of(model))
        except ValueError:
            return False
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> Prepared:
        """A ModelProto ready to run; see `Prepared`.

        Raises
        ------
        FormatError
            The model is broken.
        ValueError
            It has what is not supported; the message names the node.
        """
        _judge_device(device)
        return Prepared(graph_of(model))

    @classmethod
    def run_model(cls, model: Any, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """The outputs of a ModelProto for some inputs."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls, node: Any, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """The outputs of a NodeProto; `opset_version` of its operator set is the newest if not given."""
        _judge_device(device)
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = kwargs.get("opset_version", _base.defs.onnx_opset_version() if not domain else 1)
        read = node_of(node, {domain: version})
        names = [name for name in read.inputs if name]
        given = dict(zip(names, inputs, strict=True)) if not isinstance(inputs, Mapping) else dict(inputs)
        arrays_ = [np.asarray(given[name]) if name else None for name in read.inputs]
        return tuple(_output(one, arrays_) for one in run_one(read, arrays_, Limits()))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether it is the CPU."""
        return device.split(":")[0] == "CPU"


def _judge_device(device: str) -> None:
    if not Backend.supports_device(device):
        from ..errors import DeviceError

        raise DeviceError(f"the ONNX backend runs on the CPU, got device {device!r}")
