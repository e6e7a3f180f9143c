"""An ONNX graph in a plain form: nodes in order, constants as arrays, all names accounted for.

Files come from anywhere. So sizes that a tensor declares are compared with the bytes that are there before
anything is allocated, data outside the file is read from its own folder alone, and each name that a node
reads must be given by something before it.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import container, errors
from ..errors import FormatError
from .package import onnx_package

__all__ = [
    "CHECKSUM",
    "DTYPES",
    "N_DIGITS",
    "SHA",
    "Graph",
    "Node",
    "Value",
    "digest",
    "graph_of",
    "node_of",
    "read_model",
]

Array = NDArray[Any]

# ONNX's number of an element type -> NumPy's.
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    4: np.dtype("<u2"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    8: np.dtype(object),
    9: np.dtype("?"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    12: np.dtype("<u4"),
    13: np.dtype("<u8"),
}
# The field that holds the numbers of a tensor without raw bytes.
_FIELDS = {1: "float_data", 7: "int64_data", 8: "string_data", 11: "double_data", 12: "uint64_data"}
_FIELDS |= {13: "uint64_data"} | dict.fromkeys((2, 3, 4, 5, 6, 9, 10), "int32_data")

# Of a file of ours: its metadata has the SHA-256 of the whole file, in which the digits are zeros.
CHECKSUM, SHA, N_DIGITS = "fastnn.checksum", "sha256:", 64

_EXTERNAL = 1  # TensorProto.EXTERNAL
_MOST_DIMENSIONS = 32  # NumPy 1.26 has no more
_MOST_BYTES = 2**31 - 1  # of a protobuf message


@dataclass(frozen=True)
class Value:
    """An input or output: its element type (None: no tensor, or a type that NumPy has not) and shape.

    A dimension is a number, or None where it is open; a shape of None says nothing at all.
    """

    name: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Node:
    """An operator at work.

    Parameters
    ----------
    op : str
        Its name; "ai.onnx.ml.Scaler" for those of other domains.
    name : str
        What the file calls the node, or else its first output.
    inputs, outputs : tuple of str
        "" for one that is left out.
    attributes : dict
    version : int
        Of the operator set.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    version: int = 0

    def __str__(self) -> str:
        return f"node {self.name!r} ({self.op})"


@dataclass(frozen=True)
class Graph:
    """All of a model that is computed.

    Parameters
    ----------
    nodes : tuple of Node
        Each after those that it reads.
    constants : dict of ndarray
        Initialisers by name; read-only views of the file's bytes.
    inputs, outputs : tuple of Value
        Inputs without a constant of their name.
    metadata : dict of str
    n_bytes : int
        Of all constants.
    producer : str
        The tool that wrote it.
    is_whole : bool
        Whether the checksum of a file of ours holds.
    """

    nodes: tuple[Node, ...]
    constants: dict[str, Array]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    metadata: dict[str, str]
    n_bytes: int
    producer: str = ""
    is_whole: bool = False


# ---------------------------------------------------------------- files


def read_model(path: object) -> Graph:
    """The graph of an ONNX file.

    Raises
    ------
    FormatError
        The file is broken, or no ONNX model.
    ValueError
        It has what is not supported; the message names the node.
    OSError
        It can not be read.
    """
    onnx = onnx_package()
    given = errors.file_path("path", path)
    with container.regular(given) as (file, n_bytes):
        if n_bytes > _MOST_BYTES:
            raise FormatError(f"{given} has {n_bytes:,} bytes; an ONNX file has {_MOST_BYTES:,} at most")
        data = file.readall()
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError, whose module depends on its version
        raise FormatError(f"{given} is no ONNX model: {_line(error)}") from None
    is_whole = _is_whole(model, data)
    del data
    if not model.HasField("graph") or not model.opset_import:
        raise FormatError(f"{given} is no ONNX model: it has no graph, or names no operator set")
    try:
        return replace(graph_of(model, os.path.dirname(os.path.realpath(given))), is_whole=is_whole)
    except FormatError as error:
        raise FormatError(f"{given} is broken: {error}") from None
    except ValueError as error:
        raise ValueError(f"{given}: {error}") from None


def digest(data: bytes, at: int) -> bytes:
    """SHA-256 of a file in which the digits of its checksum, which begin at `at`, are zeros; as digits."""
    found, view = hashlib.sha256(), memoryview(data)
    for part in (view[:at], b"0" * N_DIGITS, view[at + N_DIGITS :]):
        found.update(part)
    return found.hexdigest().encode()


def _is_whole(model: Any, data: bytes) -> bool:
    """Whether a file has the checksum that its metadata says."""
    texts = [entry.value for entry in model.metadata_props if entry.key == CHECKSUM]
    if len(texts) != 1 or not isinstance(texts[0], str):
        return False
    if len(texts[0]) != len(SHA) + N_DIGITS or not texts[0].startswith(SHA):
        return False
    at = data.rfind(texts[0].encode()) + len(SHA)
    return bool(digest(data, at) == texts[0][len(SHA) :].encode())


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# ---------------------------------------------------------------- graphs


def graph_of(model: Any, folder: str | None = None) -> Graph:
    """The graph of a ModelProto.

    Parameters
    ----------
    folder : str, optional
        Where data outside the model lies; None: there is none.
    """
    versions = _versions(model)
    graph = model.graph
    if len(model.functions):
        names = ", ".join(repr(_name(f.name)) for f in list(model.functions)[:3])
        raise ValueError(
            f"functions of the model ({names}) are not supported; "
            "onnx.inliner.inline_local_functions puts them in place"
        )
    if len(graph.sparse_initializer):
        raise ValueError(f"sparse initialisers are not supported, got {len(graph.sparse_initializer)}")
    constants: dict[str, Array] = {}
    for tensor in graph.initializer:
        name = _name(tensor.name)
        if not name or name in constants:
            raise FormatError(f"initialisers must have names of their own, got {name!r} again")
        constants[name] = tensor_array(f"initialiser {name!r}", tensor, folder)
    values = [_value(found) for found in graph.input]
    for value in values:
        if value.name in constants:
            _judge_shape(value, constants[value.name])
    inputs = tuple(value for value in values if value.name not in constants)
    nodes = tuple(node_of(node, versions, i) for i, node in enumerate(graph.node))
    outputs = tuple(_value(found) for found in graph.output)
    _judge_names(nodes, [value.name for value in inputs], constants, outputs)
    metadata = {_name(entry.key): _name(entry.value) for entry in model.metadata_props}
    n_bytes = sum(array.nbytes for array in constants.values())
    return Graph(nodes, constants, inputs, outputs, metadata, n_bytes, _name(model.producer_name))


def _name(value: Any) -> str:
    """A text of a message; protobuf hands on as bytes what is no UTF-8."""
    if isinstance(value, str):
        return value
    raise FormatError(f"a name is no text in UTF-8: {value!r:.60}")


def _domain(value: Any) -> str:
    """The name of an operator set; "" for ONNX's own."""
    name = _name(value)
    return "" if name == "ai.onnx" else name


def _versions(model: Any) -> dict[str, int]:
    """The version of each operator set, by its domain."""
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = _domain(entry.domain)
        if domain in versions:
            raise FormatError(f"the operator set {domain or 'ai.onnx'!r} is named twice")
        versions[domain] = entry.version
    newest = onnx_package().defs.onnx_opset_version()
    if not 1 <= versions.get("", 1) <= newest:
        raise ValueError(
            f"the operator set of ONNX must be from 1 to {newest}, which the installed onnx knows, "
            f"got {versions['']}"
        )
    return versions


def node_of(node: Any, versions: Mapping[str, int], position: int = 0) -> Node:
    """A NodeProto in our form."""
    domain = _domain(node.domain)
    op = f"{domain}.{_name(node.op_type)}" if domain else _name(node.op_type)
    reads, gives = tuple(map(_name, node.input)), tuple(map(_name, node.output))
    named = _name(node.name) or next((name for name in gives if name), "") or f"number {position}"
    found = Node(op, named, reads, gives, {}, versions.get(domain, 0))
    if not node.op_type:
        raise FormatError(f"{found} has no operator")
    if domain not in versions:
        raise FormatError(
            f"{found} is of the operator set {domain or 'ai.onnx'!r}, which the model does not name"
        )
    for attribute in node.attribute:
        name = _name(attribute.name)
        if not name or name in found.attributes:
            raise FormatError(f"{found} has the attribute {name!r} twice")
        found.attributes[name] = _attribute(found, attribute)
    return found


def _attribute(node: Node, attribute: Any) -> Any:
    """The value of an attribute: a number, text, array or a tuple of them."""
    kind = attribute.type
    if attribute.ref_attr_name:
        raise FormatError(
            f"{node}: attribute {attribute.name!r} stands for one of a function, outside of any"
        )
    if kind == 1:
        return float(attribute.f)
    if kind == 2:
        return int(attribute.i)
    if kind == 3:
        return _text(node, attribute.name, attribute.s)
    if kind == 4:
        return tensor_array(f"{node}: attribute {attribute.name!r}", attribute.t)
    if kind == 6:
        return tuple(map(float, attribute.floats))
    if kind == 7:
        return tuple(map(int, attribute.ints))
    if kind == 8:
        return tuple(_text(node, attribute.name, text) for text in attribute.strings)
    kinds = {5: "a graph", 9: "tensors", 10: "graphs", 11: "a sparse tensor", 12: "sparse tensors"}
    if kind in kinds:
        raise ValueError(f"{node} is not supported: its attribute {attribute.name!r} holds {kinds[kind]}")
    raise FormatError(f"{node}: attribute {attribute.name!r} is of the unknown type {kind}")


def _text(node: Node, name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise FormatError(f"{node}: attribute {name!r} is no text in UTF-8") from None


def _value(found: Any) -> Value:
    """An input or output in our form."""
    name = _name(found.name)
    if not name:
        raise FormatError("an input or output of the graph has no name")
    if not found.type.HasField("tensor_type"):
        return Value(name, None, None)
    tensor = found.type.tensor_type
    dtype = DTYPES.get(tensor.elem_type)
    if not tensor.HasField("shape"):
        return Value(name, dtype, None)
    shape: list[int | None] = []
    for d in tensor.shape.dim:
        size = d.dim_value if d.HasField("dim_value") else None
        if size is not None and not 0 <= size <= 2**62:
            raise FormatError(f"{name!r} has a dimension of {size}")
        shape.append(size)
    if len(shape) > _MOST_DIMENSIONS:
        raise FormatError(f"{name!r} has {len(shape)} dimensions, more than {_MOST_DIMENSIONS}")
    return Value(name, dtype, tuple(shape))


def _judge_shape(value: Value, array: Array) -> None:
    """Refuse an input that declares another shape than the initialiser of its name has."""
    if value.shape is None:
        return
    fits = len(value.shape) == array.ndim and all(
        a is None or a == b for a, b in zip(value.shape, array.shape, strict=True)
    )
    if not fits:
        raise FormatError(f"initialiser {value.name!r} must have shape {value.shape}, got {array.shape}")


def _judge_names(
    nodes: tuple[Node, ...], inputs: list[str], constants: Mapping[str, Array], outputs: Iterable[Value]
) -> None:
    """Each name is given once, and before it is read."""
    given = set(constants)
    for name in inputs:
        if name in given:
            raise FormatError(f"the graph has two inputs {name!r}")
        given.add(name)
    later = {name for node in nodes for name in node.outputs if name}
    for node in nodes:
        for name in node.inputs:
            if name and name not in given:
                why = "comes after it, or from itself: a cycle" if name in later else "nothing gives"
                raise FormatError(f"{node} reads {name!r}, which {why}")
        for name in node.outputs:
            if name and name in given:
                raise FormatError(f"{node} gives {name!r}, which something before it gives")
            given.add(name)
    for value in outputs:
        if value.name not in given:
            raise FormatError(f"the output {value.name!r} of the graph is given by nothing")


# ---------------------------------------------------------------- tensors


def tensor_array(where: str, tensor: Any, folder: str | None = None) -> Array:
    """The numbers of a TensorProto; a read-only view of its bytes where it has them.

    Nothing is allocated unless the bytes are there.
    """
    shape = tuple(tensor.dims)
    kind = tensor.data_type
    if kind not in DTYPES:
        name = _type_name(kind)
        raise ValueError(f"{where} is of the type {name}, which is not supported")
    dtype = DTYPES[kind]
    if len(shape) > _MOST_DIMENSIONS or any(d < 0 for d in shape):
        raise FormatError(f"{where} has the shape {shape[:8]}")
    n = math.prod(shape)
    if tensor.HasField("segment"):
        raise ValueError(f"{where} is a segment of a tensor, which is not supported")
    if tensor.data_location == _EXTERNAL:
        return _external(where, tensor, folder, dtype, shape)
    raw = tensor.raw_data if tensor.HasField("raw_data") else None
    if raw is not None:
        if kind == 8:
            raise FormatError(f"{where} has texts as raw bytes")
        if len(raw) != n * dtype.itemsize:
            raise FormatError(
                f"{where} of shape {shape} takes {n * dtype.itemsize:,} bytes, got {len(raw):,}"
            )
        return np.frombuffer(raw, dtype).reshape(shape)
    numbers = getattr(tensor, _FIELDS[kind])
    if len(numbers) != n:
        raise FormatError(f"{where} of shape {shape} has {n:,} numbers, got {len(numbers):,}")
    if kind == 8:
        try:
            texts = [text.decode() for text in numbers]
        except UnicodeDecodeError:
            raise FormatError(f"{where} is no text in UTF-8") from None
        return np.array(texts, object).reshape(shape)
    if kind == 10:
        found = _narrowed(where, numbers, np.dtype(np.uint16)).view(np.float16)
    elif kind in (2, 3, 4, 5, 9, 12):
        found = _narrowed(where, numbers, dtype)
    else:
        found = np.array(numbers, dtype)
    return found.reshape(shape)


def _narrowed(where: str, numbers: Any, dtype: np.dtype[Any]) -> Array:
    """Numbers of a wider field, which must fit."""
    wide = np.array(numbers, np.int64 if dtype != np.uint32 else np.uint64)
    found = wide.astype(dtype)
    if not np.array_equal(wide, found):
        raise FormatError(f"{where} holds numbers that {dtype} has not")
    return found


def _type_name(kind: int) -> str:
    try:
        return str(onnx_package().TensorProto.DataType.Name(kind))
    except ValueError:
        return f"number {kind}"


def _external(
    where: str, tensor: Any, folder: str | None, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Array:
    """Numbers that lie in a file beside the model's."""
    entries = {_name(entry.key): _name(entry.value) for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise FormatError(f"{where} lies in the file {location!r}, and the model came without a folder")
    if dtype.kind == "O":
        raise FormatError(f"{where} has texts as raw bytes")
    legal = bool(location) and "\0" not in location and not os.path.isabs(location)
    path = os.path.realpath(os.path.join(folder, location)) if legal else folder
    if path == folder or os.path.commonpath([path, folder]) != folder:  # of links, where they lead
        raise FormatError(f"{where} must lie in the folder of the model, got {location!r}")
    n_bytes = math.prod(shape) * dtype.itemsize
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", n_bytes))
    except ValueError:
        raise FormatError(f"{where} must have whole numbers as offset and length") from None
    if length != n_bytes or offset < 0:
        raise FormatError(f"{where} of shape {shape} takes {n_bytes:,} bytes, got {length:,} at {offset:,}")
    data = None
    try:
        with container.regular(path) as (file, there):
            if there >= offset + n_bytes:
                file.seek(offset)
                data = container.read_bytes(path, file, n_bytes)
    except FormatError as error:
        raise FormatError(f"{where} lies in {location!r}: {error}") from None
    except OSError as error:
        raise FormatError(f"{where} lies in {location!r}: {error.strerror}") from None
    if data is None:
        raise FormatError(f"{where} takes {n_bytes:,} bytes at {offset:,} of {location!r}, got {there:,}")
    return data.view(dtype).reshape(shape)
