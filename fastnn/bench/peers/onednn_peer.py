"""oneDNN through the primitives in PyTorch: linear + ReLU fused, weights packed once for the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..cells import Array, arrays_of
from . import Task
from .torch_eager_peer import about as about_torch


class Packed:
    """`torch.ops.mkldnn._linear_pointwise` layer by layer; no autograd, no dispatch by module."""

    link = None

    def __init__(self, task: Task) -> None:
        linear = torch.ops.mkldnn._linear_pointwise.default
        pack = torch.ops.mkldnn._reorder_linear_weight
        layers = []
        for w, b in arrays_of(task.cell, task.parameters):
            weight = torch.from_numpy(w.T.copy())
            layers.append((pack(weight, task.cell.batch), torch.from_numpy(b.copy())))
        kinds = ["relu"] * (len(layers) - 1) + ["none"]
        steps = [(w, b, kind) for (w, b), kind in zip(layers, kinds, strict=True)]
        start = torch.from_numpy(task.x)

        def predict() -> Any:
            with torch.inference_mode():
                x = start
                for w, b, kind in steps:
                    x = linear(x, w, b, kind, [], "")
                return x

        self.predict = predict

    def outputs(self, result: Any) -> Array:
        """As an array."""
        return np.asarray(result.numpy())


WAYS_TO_TRAIN: dict[str, Any] = {}
WAYS_TO_PREDICT = {"packed": Packed}


def about(threads: int) -> dict[str, str]:
    """Version of PyTorch and of the oneDNN in it; it chooses its instruction set itself."""
    text = torch.__config__.show()
    found = [line.strip(" -") for line in text.splitlines() if "MKL-DNN" in line or "oneDNN" in line]
    return {**about_torch(threads), "oneDNN": found[0] if found else "unknown"}
