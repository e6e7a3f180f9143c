"""What an operator gets to work with, and the table of all of them.

An operator is a function of a `Call`: its inputs as arrays, its attributes, judged. It gives one array, or a
tuple of them. Products, activations, norms and losses are computed by our kernels (`numeric`), and each use
of one is counted; what moves and selects numbers, and plain arithmetic, is NumPy's (`arrays`, `reductions`,
`labels`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from .graph import Node

__all__ = ["OPERATORS", "Call", "Limits", "Operator", "operator"]

Array = NDArray[Any]
Result: TypeAlias = "Any | tuple[Any, ...]"
Operator: TypeAlias = "Callable[[Call], Result]"

OPERATORS: dict[str, Operator] = {}

_Given = TypeVar("_Given")


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Enter a function into the table."""

    def enter(function: Operator) -> Operator:
        for name in names:
            OPERATORS[name] = function
        return function

    return enter


@dataclass
class Limits:
    """What a run may do, and what it did.

    Parameters
    ----------
    most : int
        Numbers that one result may have. A graph of a few bytes can ask for terabytes.
    kernel_calls : Counter
        Uses of our kernels, by operator.
    """

    most: int = 2**40
    kernel_calls: Counter[str] = field(default_factory=Counter)


class Call:
    """One use of an operator.

    Parameters
    ----------
    node : Node
    inputs : list of ndarray or None
        None for those that are left out.
    limits : Limits
    """

    __slots__ = ("inputs", "limits", "node")

    def __init__(self, node: Node, inputs: list[Any], limits: Limits) -> None:
        self.node, self.inputs, self.limits = node, inputs, limits

    @property
    def version(self) -> int:
        """Of the operator set."""
        return self.node.version

    # -- inputs

    def input(self, i: int) -> Array:
        """An input that must be there."""
        found = self.optional(i)
        if found is None:
            raise ValueError(f"input {i} must be given")
        return found

    def optional(self, i: int) -> Array | None:
        """An input that may be left out."""
        return self.inputs[i] if i < len(self.inputs) else None

    def wants(self, i: int) -> bool:
        """Whether output i is read."""
        return i < len(self.node.outputs) and bool(self.node.outputs[i])

    # -- attributes

    def _attribute(self, name: str, default: Any, kind: type, word: str) -> Any:
        value = self.node.attributes.get(name, default)
        if value is not default and not isinstance(value, kind):
            raise ValueError(f"attribute {name!r} must be {word}, got {value!r:.100}")
        return value

    def integer(self, name: str, default: Any = None) -> Any:
        """A whole number."""
        return self._attribute(name, default, int, "a whole number")

    def real(self, name: str, default: Any = None) -> Any:
        """A number; single precision in the file."""
        return self._attribute(name, default, float, "a number")

    def text(self, name: str, default: Any = None) -> Any:
        """A text."""
        return self._attribute(name, default, str, "a text")

    def several(self, name: str, default: Any = None) -> Any:
        """A tuple."""
        return self._attribute(name, default, tuple, "several numbers")

    def constant(self, name: str, default: Any = None) -> Any:
        """An array."""
        return self._attribute(name, default, np.ndarray, "a tensor")

    def axis(self, ndim: int, default: int, *, end: bool = False) -> int:
        """The attribute axis, from 0 on; `end`: the number of dimensions is legal too."""
        return self.axis_of(self.integer("axis", default), ndim, end=end)

    @staticmethod
    def axis_of(axis: int, ndim: int, *, end: bool = False) -> int:
        """An axis that may count from the end."""
        if not -ndim <= axis < ndim + end:
            raise ValueError(f"axis must be from {-ndim} to {ndim - 1 + end}, got {axis}")
        return axis + ndim if axis < 0 else axis

    # -- work

    def kernel(self, function: Callable[..., _Given], *arguments: Any, **named: Any) -> _Given:
        """What one of our kernels gives; counted."""
        self.limits.kernel_calls[self.node.op] += 1
        return function(*arguments, **named)

    def room(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that a result may have."""
        if any(d < 0 for d in shape) or math.prod(shape) > self.limits.most:
            raise ValueError(f"a result of shape {shape} is larger than what is allowed here")
        return shape
