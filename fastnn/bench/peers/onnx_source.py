"""The network of a task as an ONNX model, for the runtimes that read such."""

from __future__ import annotations

from typing import Any

from onnx import TensorProto, helper, numpy_helper

from ..cells import arrays_of
from . import Task

__all__ = ["onnx_model"]


def onnx_model(task: Task) -> Any:
    """Gemm and Relu in turn; the number of rows is fixed."""
    cell = task.cell
    nodes, weights, name = [], [], "x"
    last = len(cell.pairs) - 1
    for i, (w, b) in enumerate(arrays_of(cell, task.parameters)):
        weights += [numpy_helper.from_array(w.copy(), f"w{i}"), numpy_helper.from_array(b.copy(), f"b{i}")]
        nodes.append(helper.make_node("Gemm", [name, f"w{i}", f"b{i}"], [f"z{i}"]))
        name = f"z{i}"
        if i < last:
            nodes.append(helper.make_node("Relu", [name], [f"a{i}"]))
            name = f"a{i}"
    shapes = [cell.batch, cell.sizes[0]], [cell.batch, cell.sizes[-1]]
    ends = [
        helper.make_tensor_value_info(end, TensorProto.FLOAT, shape)
        for end, shape in zip(("x", name), shapes, strict=True)
    ]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], weights)
    # Versions that both runtimes have read for years.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
