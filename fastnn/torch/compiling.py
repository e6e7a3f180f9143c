"""``torch.compile(model, backend="fastnn")``: in inference what fastnn has is run by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from .. import errors
from .part import Part
from .regions import Left, Region, find

__all__ = ["backend"]

# Who is told of each graph while `explain` looks.
_listeners: list[Callable[[list[Region], list[Left], list[Part]], None]] = []


def backend(
    gm: fx.GraphModule,
    example_inputs: list[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """What torch.compile calls with each graph that it found.

    Taken are float32 and float64 tensors on the CPU, of any number of rows, that need no gradient: under
    ``torch.no_grad()`` or ``torch.inference_mode()``, or without parameters that require one. All else is
    left to PyTorch as it is, training whole.

    Weights are those of the moment: a call sees each change in place by its version counter, and copies them
    anew. Writing through ``weight.data`` or through NumPy leaves the counter as it is; with
    ``options={"weights": "values"}`` all numbers are compared in each call.

    Parameters
    ----------
    gm : torch.fx.GraphModule
    example_inputs : list
    options : dict, optional
        "weights": "versions" or "values".
    mode : str, optional
        "default"; there are no others.
    """
    by_value = _judged(options, mode)
    regions, left = find(gm.graph)
    parts = [_replaced(gm, number, region, by_value) for number, region in enumerate(regions)]
    for tell in _listeners:
        tell(regions, left, parts)
    if regions:
        gm.graph.lint()
        gm.recompile()
    return gm.forward  # type: ignore[no-any-return]


def _judged(options: Mapping[str, Any] | None, mode: str | None) -> bool:
    """Whether weights are compared by value."""
    if mode not in (None, "default"):
        raise ValueError(f"mode must be 'default', got {mode!r}")
    for name in options or {}:
        errors.choice("options", name, ["weights"])
    given = (options or {}).get("weights", "versions")
    return errors.choice("options['weights']", given, ["versions", "values"]) == "values"


def _replaced(gm: fx.GraphModule, number: int, region: Region, by_value: bool) -> Part:
    """Put the call of a region where its first operation stood; its operations go."""
    part, graph = Part(region, by_value), gm.graph
    name = f"fastnn_{number}"
    while hasattr(gm, name):
        name += "_"
    gm.add_module(name, part)
    first = next(iter(region.operations))
    with graph.inserting_before(first):
        weights = [
            graph.get_attr(str(node.target)) if node.op == "get_attr" else node for node in part.weights
        ]
        call = graph.call_module(name, (region.entry, *weights))
        given = [call]
        if len(region.results) > 1:
            given = [graph.call_function(_item, (call, i)) for i in range(len(region.results))]
    inside = region.operations
    for result, new in zip(region.results, given, strict=True):
        new.meta = dict(result.meta)
        result.replace_all_uses_with(new, delete_user_cb=lambda user: user not in inside)
    for node in reversed(list(region.operations)):
        graph.erase_node(node)
    return part


def _item(results: tuple[Any, ...], i: int) -> Any:
    return results[i]


