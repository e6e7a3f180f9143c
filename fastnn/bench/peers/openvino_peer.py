"""OpenVINO on the CPU: one request, arrays shared and not copied."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import numpy as np
import openvino

from ..cells import Array
from . import Task
from .onnx_source import onnx_model


class Requested:
    """`infer` of one request, in float32: its own choice may be bfloat16."""

    link = None

    def __init__(self, task: Task) -> None:
        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": task.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        model = core.read_model(io.BytesIO(onnx_model(task).SerializeToString()))
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        request.set_input_tensor(openvino.Tensor(task.x, shared_memory=True))
        self._request, self._kept = request, task.x  # it holds the address of x alone
        self.predict = partial(request.infer, share_inputs=True, share_outputs=True)

    def outputs(self, result: Any) -> Array:
        """As an array."""
        return np.asarray(self._request.get_output_tensor().data)


WAYS_TO_TRAIN: dict[str, Any] = {}
WAYS_TO_PREDICT = {"infer": Requested}


def about(threads: int) -> dict[str, str]:
    """Version."""
    return {"openvino": openvino.__version__}
