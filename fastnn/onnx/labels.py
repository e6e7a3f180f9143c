"""Operators of ai.onnx.ml that scikit-learn's converter puts around a network: scaling, and labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .operators import Call, operator

__all__: list[str] = []

Array = NDArray[Any]


@operator("ai.onnx.ml.Scaler")
def _scaler(call: Call) -> Array:
    x = call.input(0)
    result = np.float64 if x.dtype == np.float64 else np.float32
    offset = np.array(call.several("offset", (0.0,)), result)
    scale = np.array(call.several("scale", (1.0,)), result)
    n = x.shape[-1] if x.ndim else 0
    if offset.size not in (1, n) or scale.size not in (1, n):
        raise ValueError(f"offset and scale must have 1 or {n} numbers, got {offset.size} and {scale.size}")
    found: Array = x.astype(result)
    found -= offset
    found *= scale
    return found


@operator("ai.onnx.ml.ArrayFeatureExtractor")
def _array_feature_extractor(call: Call) -> Array:
    x, columns = call.input(0), call.input(1).reshape(-1)
    if x.ndim == 0 or columns.dtype.kind != "i":
        raise ValueError(f"X and Y must be an array and integers, got {x.shape} and {columns.dtype}")
    n = x.shape[-1]
    if columns.size and not (columns.min() >= 0 and columns.max() < n):
        raise ValueError(f"Y must lie from 0 to {n - 1}, got {columns.min()} to {columns.max()}")
    found = x[..., columns]
    return found.reshape(1, -1) if x.ndim == 1 else found


@operator("ai.onnx.ml.Binarizer")
def _binarizer(call: Call) -> Array:
    x = call.input(0)
    found: Array = (x > call.real("threshold", 0.0)).astype(x.dtype)
    return found


@operator("ai.onnx.ml.Normalizer")
def _normalizer(call: Call) -> Array:
    x = call.input(0).astype(np.float32)
    norm = call.text("norm", "MAX")
    if norm == "MAX":
        size = x.max(axis=-1, keepdims=True)
    elif norm == "L1":
        size = np.abs(x).sum(axis=-1, keepdims=True)
    elif norm == "L2":
        size = np.sqrt((x * x).sum(axis=-1, keepdims=True))
    else:
        raise ValueError(f"attribute 'norm' must be MAX, L1 or L2, got {norm!r}")
    return np.where(size == 0, x, x / np.where(size == 0, np.float32(1), size))


@operator("ai.onnx.ml.LabelEncoder")
def _label_encoder(call: Call) -> Array:
    given = call.node.attributes
    kinds: dict[str, Any] = {"strings": object, "int64s": np.int64, "floats": np.float32}
    keys, values, dtype, default = None, None, None, None
    for kind, number in kinds.items():
        keys = given.get(f"keys_{kind}", keys)
        if f"values_{kind}" in given:
            values, dtype = given[f"values_{kind}"], number
            unused = {"strings": "_Unused", "int64s": -1, "floats": -0.0}[kind]
            default = given.get(f"default_{kind.removesuffix('s')}", unused)
    if "keys_tensor" in given:
        keys = call.constant("keys_tensor").reshape(-1).tolist()
    if "values_tensor" in given:
        tensor = call.constant("values_tensor")
        values, dtype = tensor.reshape(-1).tolist(), tensor.dtype
        unused = {"O": "_Unused", "f": -0.0}.get(tensor.dtype.kind, -1)
        default = call.constant("default_tensor", np.array(unused, dtype)).reshape(-1).tolist()[0]
    if keys is None or values is None or len(keys) != len(values):
        raise ValueError("keys and values must be given, as many of each")
    table = dict(zip(keys, values, strict=True))
    x = call.input(0)
    found = [table.get(value, default) for value in x.reshape(-1).tolist()]
    return np.array(found, dtype).reshape(x.shape)


@operator("ai.onnx.ml.ZipMap")
def _zip_map(call: Call) -> list[dict[Any, float]]:
    """A list of a dictionary for each row, label -> number."""
    x = call.input(0)
    labels = call.several("classlabels_strings", None) or call.several("classlabels_int64s", None)
    if x.ndim == 1:
        x = x[None]
    if labels is None or x.ndim != 2 or len(labels) != x.shape[1]:
        raise ValueError(f"there must be a label for each column of X, got {labels!r:.100} for {x.shape}")
    return [dict(zip(labels, row, strict=True)) for row in x.tolist()]
