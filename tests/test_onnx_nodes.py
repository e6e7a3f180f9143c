"""The ONNX project's own tests of operators, run by our backend."""

from __future__ import annotations

import sys
import types
import unittest
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest

from fastnn.onnx import Backend, Prepared
from fastnn.onnx.operators import OPERATORS

# What the backend promises (docs/interop.md).
# fmt: off
KERNELS = {
    "BatchNormalization", "Celu", "Elu", "Gelu", "Gemm", "HardSigmoid", "HardSwish", "LayerNormalization",
    "LeakyRelu", "LogSoftmax", "MatMul", "Mish", "PRelu", "RMSNormalization", "Relu", "Selu", "Sigmoid",
    "Softmax", "Softplus", "Softsign", "Swish", "Tanh", "ThresholdedRelu",
}
OTHERS = {
    "Add", "ArgMax", "Cast", "Clip", "Concat", "Constant", "Div", "Dropout", "Flatten", "Identity", "Mul",
    "NegativeLogLikelihoodLoss", "ReduceMean", "ReduceSum", "Reshape", "SoftmaxCrossEntropyLoss", "Squeeze",
    "Sub", "Transpose", "Unsqueeze",
}
# fmt: on
PROMISED = KERNELS | OTHERS
FLOAT, DOUBLE, INTEGERS = 1, 11, {6, 7, 9}  # and booleans
# Dropout while training: the masks of NumPy's legacy generator.
TRAINING = {f"test_training_dropout{end}" for end in ("_default", "_default_mask", "", "_mask")}


@dataclass
class Suite:
    """The project's runner over our backend, and what it holds."""

    cases: dict[str, Any]
    tests: Any
    prepared: list[Prepared] = field(default_factory=list)

    def run(self, name: str) -> str | None:
        """Run one test as the project does; gives what went wrong."""
        test = self.tests(f"{name}_cpu")
        try:
            getattr(test, f"{name}_cpu")()
        except unittest.SkipTest as skipped:
            return f"{name}: skipped: {skipped}"
        except Exception as error:
            return f"{name}: {' '.join(str(error).split())[:200]}"
        return None


@pytest.fixture(scope="module")
def suite() -> Suite:
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patched:
        warnings.simplefilter("ignore")  # of the makers of the tests
        from onnx.backend.test import BackendTest, runner
        from onnx.backend.test.case import base
        from onnx.backend.test.loader import load_model_tests

        # What is pooled is computed by loops in Python, three quarters of the time, and for the texts of a
        # manual the sources of all are read once more. We have no pools.
        for pool in ("averagepool", "lppool", "maxpool"):
            assert not any(name.lower() == pool for name in OPERATORS)
            module = f"onnx.backend.test.case.node.{pool}"
            patched.setitem(sys.modules, module, types.ModuleType(module))
        patched.setattr(base, "process_snippet", lambda *_: ("", ""))
        cases = load_model_tests(kind="node")
        found = Suite({case.name: case for case in cases}, None)

        class Recording(Backend):
            @classmethod
            def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> Prepared:
                found.prepared.append(super().prepare(model, device, **kwargs))
                return found.prepared[-1]

        # No whole models.
        patched.setattr(runner, "load_model_tests", lambda kind: cases if kind == "node" else [])
        found.tests = BackendTest(Recording, __name__).test_cases["OnnxBackendNodeModelTest"]
    return found


def operators(model: Any) -> set[str]:
    return {node.op_type if not node.domain else f"{node.domain}.{node.op_type}" for node in model.graph.node}


def element_types(model: Any) -> set[int]:
    values = [*model.graph.input, *model.graph.output]
    return {
        value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else -1 for value in values
    }


def promised(suite: Suite) -> list[str]:
    """Tests whose operators are all promised, on single and double precision (and integers beside them)."""
    return [
        name
        for name, case in suite.cases.items()
        if operators(case.model) <= PROMISED
        and element_types(case.model) <= {FLOAT, DOUBLE, *INTEGERS}
        and not element_types(case.model).isdisjoint({FLOAT, DOUBLE})
        and name not in TRAINING
    ]


def test_all_of_the_promised_operators_pass_by_our_kernels(suite: Suite) -> None:
    names = promised(suite)
    assert len(names) >= 180
    faults = []
    for name in names:
        fault = suite.run(name)
        if fault is not None:
            faults.append(fault)
            continue
        by_kernels = operators(suite.cases[name].model) & KERNELS
        calls = suite.prepared[-1].kernel_calls
        missed = {op for op in by_kernels if not calls[op]}
        if missed:
            faults.append(f"{name}: not by our kernels: {missed}")
    assert not faults
    assert {op for name in names for op in operators(suite.cases[name].model)} == PROMISED


def in_double(model: Any) -> Any:
    """The same model in double precision."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    tensors = list(found.graph.initializer)
    for node in found.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = DOUBLE
            if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                numbers = np.array(attribute.f if attribute.name == "value_float" else attribute.floats)
                attribute.CopyFrom(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(numbers)))
            if attribute.type == onnx.AttributeProto.TENSOR:
                tensors.append(attribute.t)
    for tensor in tensors:
        if tensor.data_type == FLOAT:
            numbers = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(numbers, tensor.name))
    for value in (*found.graph.input, *found.graph.output):
        if value.type.tensor_type.elem_type == FLOAT:
            value.type.tensor_type.elem_type = DOUBLE
    return found


def test_the_same_in_double_precision(suite: Suite) -> None:
    """The project's tests are in single precision, nearly all: their models and inputs, made double."""
    from onnx.backend.test.runner import Runner

    def double(values: Any) -> list[Any]:
        return [v.astype(np.float64) if v.dtype == np.float32 else v for v in map(np.asarray, values)]

    # Casts are of one type to another already, and come as tensors of a file.
    names = [name for name in promised(suite) if not name.startswith("test_cast")]
    faults = []
    for name in names:
        case = suite.cases[name]
        try:
            prepared = Backend.prepare(in_double(case.model))
            for inputs, outputs in case.data_sets:
                given = list(prepared.run(double(inputs)))
                Runner.assert_similar_outputs(double(outputs), given, rtol=max(case.rtol, 1e-5), atol=1e-6)
        except Exception as error:
            faults.append(f"{name}: {' '.join(str(error).split())[:200]}")
    assert not faults
    assert len(names) >= 180


def test_tests_beyond_the_promise_pass_where_all_operators_are_there(suite: Suite) -> None:
    """Integers, half precision and what functions expand to; but not types that NumPy has not."""
    from fastnn.onnx.graph import DTYPES

    names = [
        name
        for name, case in suite.cases.items()
        if operators(case.model) <= set(OPERATORS)
        and element_types(case.model) <= set(DTYPES)
        and name not in TRAINING
    ]
    faults = [fault for fault in map(suite.run, names) if fault is not None]
    assert not faults
    assert len(names) >= 500


def test_only_the_cpu_is_supported() -> None:
    assert Backend.supports_device("CPU")
    assert Backend.supports_device("CPU:0")
    assert not Backend.supports_device("CUDA")
