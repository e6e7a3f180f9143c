"""What torch.compile gives to fastnn and what it leaves to PyTorch, and why."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from . import compiling
from .part import Part
from .regions import Left, Region

__all__ = ["Report", "explain"]

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Report:
    """What `explain` found.

    Attributes
    ----------
    n_graphs : int
        That torch.compile made of the function.
    n_parts : int
        Calls of fastnn in them.
    taken : tuple of str
        The nodes that these calls do.
    left : tuple of (str, str)
        The nodes that PyTorch does, and why.
    """

    n_graphs: int
    n_parts: int
    taken: tuple[str, ...]
    left: tuple[tuple[str, str], ...]

    @property
    def n_taken(self) -> int:
        """How many nodes run in fastnn."""
        return len(self.taken)

    @property
    def n_left(self) -> int:
        """How many nodes PyTorch runs."""
        return len(self.left)

    def __str__(self) -> str:
        lines = [
            f"{self.n_taken} of {self.n_taken + self.n_left} nodes in fastnn, in {self.n_parts} parts of "
            f"{self.n_graphs} graphs"
        ]
        lines += [f"  {name} {reason}" for name, reason in self.left]
        return "\n".join(lines)


def explain(
    function: Callable[..., Any], *args: Any, options: Mapping[str, Any] | None = None, **kwargs: Any
) -> Report:
    """Compile a module or function for these arguments and tell what of it runs in fastnn.

    It is called once. What was compiled of it before is kept.

    Parameters
    ----------
    function : torch.nn.Module or callable
    *args, **kwargs
        What it is called with, in the grad mode of the moment.
    options : dict, optional
        Those of the backend.

    Examples
    --------
    >>> import torch, fastnn.torch
    >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> with torch.no_grad():
    ...     print(fastnn.torch.explain(module, torch.zeros(5, 4)))
    3 of 3 nodes in fastnn, in 1 parts of 1 graphs
    """
    if not callable(function):
        raise TypeError(f"function must be a module or function, got {type(function).__name__}")
    graphs: list[tuple[list[Region], list[Left], list[Part]]] = []

    def recording(gm: Any, inputs: Any) -> Any:
        return compiling.backend(gm, inputs, options=options)

    def tell(regions: list[Region], left: list[Left], parts: list[Part]) -> None:
        graphs.append((regions, left, parts))

    with _one_at_a_time:
        compiling._listeners.append(tell)
        try:
            torch.compile(function, backend=recording)(*args, **kwargs)
        finally:
            compiling._listeners.remove(tell)
    return Report(
        len(graphs),
        sum(len(parts) for _, _, parts in graphs),
        tuple(_text(node) for regions, _, _ in graphs for region in regions for node in region.operations),
        tuple((_text(one.node), one.reason) for _, left, _ in graphs for one in left),
    )


def _text(node: Any) -> str:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    return f"{node.name} ({name})"
