"""ONNX Runtime on the CPU: `session.run`, or arrays bound once."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnxruntime

from ..cells import Array
from . import Task
from .onnx_source import onnx_model


def _session(task: Task) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = onnx_model(task).SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Run:
    """NumPy in and out."""

    link = None

    def __init__(self, task: Task) -> None:
        session, feed = _session(task), {"x": task.x}
        names = [session.get_outputs()[0].name]
        self.predict = partial(session.run, names, feed)

    def outputs(self, result: Any) -> Array:
        """As an array."""
        return np.asarray(result[0])


class Bound:
    """Input and output bound once, so that a call converts nothing."""

    link = None

    def __init__(self, task: Task) -> None:
        session = _session(task)
        self._out = np.empty((task.cell.batch, task.cell.sizes[-1]), np.float32)
        self._values = [onnxruntime.OrtValue.ortvalue_from_numpy(one) for one in (task.x, self._out)]
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", self._values[0])
        binding.bind_ortvalue_output(session.get_outputs()[0].name, self._values[1])
        call, arguments = session._sess.run_with_iobinding, (binding._iobinding, None)
        self.predict = partial(call, *arguments)

    def outputs(self, result: Any) -> Array:
        """As an array."""
        return np.asarray(self._values[1].numpy())


WAYS_TO_TRAIN: dict[str, Any] = {}
WAYS_TO_PREDICT = {"run": Run, "bound": Bound}


def about(threads: int) -> dict[str, str]:
    """Version."""
    return {"onnxruntime": onnxruntime.__version__}
