"""Files that are damaged or hostile: a clear error each, in bounded time and memory."""

from __future__ import annotations

import os
import re
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

import fastnn as fn
import fastnn.onnx
from fastnn.errors import FormatError

GOLDEN = Path(__file__).parent / "golden" / "onnx"
# Of one file, most of it for the package's own parser: files here have some thousand bytes.
MOST_SECONDS, MOST_BYTES = 2.0, 128 << 20


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of `export`."""
    path = tmp_path_factory.mktemp("ours") / "m.onnx"
    layers = fn.Dense(6, activation="gelu"), fn.BatchNorm(), fn.Residual(fn.Dense(6, activation="relu"))
    fastnn.onnx.export(fn.Sequential(*layers, fn.LayerNorm(), fn.Dense(3)).build(5), path)
    return path.read_bytes()


def refused(path: Path, **how: Any) -> str:
    """What is said of a file that is not read; within the bounds."""
    begin = time.thread_time()  # neighbours do not count
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:  # noqa: PT011  what is said is looked at below
            fastnn.onnx.load(path, **how)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.thread_time() - begin < MOST_SECONDS
    assert most < MOST_BYTES
    text = str(caught.value)
    assert str(path) in text or path.name in text, text
    assert len(text) < 2000
    return text


def test_truncated_files(tmp_path: Path, ours: bytes) -> None:
    """40 of ours, 40 of PyTorch's and of scikit-learn's."""
    for name, data, how in (
        ("ours", ours, {}),
        ("torch", (GOLDEN / "torch_residual_13.onnx").read_bytes(), {}),
        ("sklearn", (GOLDEN / "sklearn_binary.onnx").read_bytes(), {}),
    ):
        for length in np.linspace(0, len(data) - 1, 40 if name == "ours" else 20).astype(int):
            path = tmp_path / f"{name}.onnx"
            path.write_bytes(data[:length])
            assert "no ONNX model" in (text := refused(path, **how)) or "broken" in text or "damaged" in text


def test_flipped_bits(tmp_path: Path, ours: bytes) -> None:
    """One bit of a file of ours, anywhere: its checksum tells, if nothing else."""
    random = np.random.default_rng(0)
    for at in random.choice(len(ours) * 8, 60, replace=False):
        data = bytearray(ours)
        data[at // 8] ^= 1 << at % 8
        path = tmp_path / "m.onnx"
        path.write_bytes(data)
        refused(path)


def test_flipped_bits_of_other_tools_do_no_harm(tmp_path: Path) -> None:
    """Without a checksum a changed weight is a weight: an error, or a model that predicts."""
    data = (GOLDEN / "torch_activations.onnx").read_bytes()
    random = np.random.default_rng(1)
    n_errors = 0
    for at in random.choice(len(data) * 8, 60, replace=False):
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        path = tmp_path / "m.onnx"
        path.write_bytes(changed)
        try:
            model = fastnn.onnx.load(path)
        except ValueError:
            n_errors += 1
        else:
            model.predict(np.zeros((2, model.n_in or 0)))
    assert n_errors > 5


def test_noise_is_no_model(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    for n in (0, 1, 2, 10, 100, 1000, 10_000, 100_000):
        (tmp_path / "m.onnx").write_bytes(random.bytes(n))
        refused(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(b'{"a": 1}')
    refused(tmp_path / "m.onnx")


# ---------------------------------------------------------------- files that are wrong in one thing

X = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])]
Y = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m"])]


def node(op: str, reads: str, gives: str, **attributes: Any) -> Any:
    return helper.make_node(op, reads.split(), gives.split(), **attributes)


def tensor(name: str, *shape: int, n: int | None = None, kind: int = TensorProto.FLOAT) -> Any:
    """A tensor that declares a shape, with that many numbers (as many as it wants)."""
    numbers = np.ones(int(np.prod(shape)) if n is None else n, np.float32)
    return TensorProto(name=name, dims=shape, data_type=kind, raw_data=numbers.tobytes())


def outside(location: str, **entries: str) -> Any:
    """A tensor whose numbers are in another file."""
    found = TensorProto(name="w", dims=[3, 2], data_type=1, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        found.external_data.add(key=key, value=value)
    return found


def model(nodes: list[Any], tensors: list[Any] = [], inputs: Any = None, **more: Any) -> Any:  # noqa: B006
    graph = helper.make_graph(nodes, "g", X if inputs is None else inputs, more.pop("outputs", Y), tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", more.pop("opset", 18))], **more)


PRODUCT = [node("MatMul", "x w", "y")]
DOUBLING = [node("Concat", f"v{i} v{i}" if i else "x x", f"v{i + 1}", axis=1) for i in range(60)]
SQUARES = [node("Relu", f"v{i}" if i else "x", f"v{i + 1}") for i in range(5000)]


def wide(n: int) -> list[Any]:
    return [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", n])]


def nested(depth: int) -> list[Any]:
    """Sums within sums, each around all before."""
    nodes, name = [], "x"
    for i in range(depth):
        nodes.append(node("Tanh", name, f"t{i}"))
        name = f"t{i}"
    for i in range(depth):
        nodes.append(node("Add", f"{name} {'x' if i == depth - 1 else f't{depth - 2 - i}'}", f"a{i}"))
        nodes.append(node("Relu", f"a{i}", f"r{i}"))
        name = f"r{i}"
    return [*nodes, node("Identity", name, "y")]


WRONG: dict[str, tuple[Any, str]] = {
    "no graph": (onnx.ModelProto(ir_version=8), "no ONNX model"),
    "no nodes": (model([]), "'y' of the graph is given by nothing"),
    "no outputs": (model([node("Relu", "x", "y")], outputs=[]), "output must name one"),
    "no operator set": (onnx.ModelProto(graph=model(PRODUCT).graph), "names no operator set"),
    "future operator set": (model(PRODUCT, [tensor("w", 3, 2)], opset=900), "from 1 to .*, got 900"),
    "unknown operator": (model([node("Conv", "x w", "y")], [tensor("w", 3, 2)]), r"node 'y' \(Conv\)"),
    "unknown domain": (model([node("Relu", "x", "y", domain="com.other")]), "operator set 'com.other'"),
    "missing initialiser": (model(PRODUCT), "node 'y' .MatMul. reads 'w', which nothing gives"),
    "cycle": (model([node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b", "y")]), "a cycle"),
    "reads itself": (model([node("Add", "x y", "y")]), "a cycle"),
    "not in order": (model([node("Relu", "a", "y"), node("Relu", "x", "a")]), "comes after it"),
    "two givers": (model([node("Relu", "x", "y"), node("Tanh", "x", "y")]), "something before it gives"),
    "same initialiser twice": (model(PRODUCT, [tensor("w", 3, 2), tensor("w", 3, 2)]), "names of their own"),
    "no input": (model([node("Relu", "w", "y")], [tensor("w", 2, 3)], []), "depend on one input"),
    "two inputs": (
        model([node("Add", "x z", "y")], [], [*X, helper.make_tensor_value_info("z", 1, ["n", 3])]),
        "depend on one input of the graph, got 'x', 'z'",
    ),
    "input of unknown width": (
        model([node("Relu", "x", "y")], [], [helper.make_tensor_value_info("x", 1, ["n", "m"])]),
        "must declare the width",
    ),
    "input of texts": (
        model([node("Identity", "x", "y")], [], [helper.make_tensor_value_info("x", 8, ["n", 2])]),
        "must be numbers",
    ),
    "input of no numbers": (model([node("Relu", "x", "y")], [], wide(0)), "rows with numbers"),
    "input of a huge width": (model([node("Relu", "x", "y")], [], wide(2**40)), "too large"),
    "negative dimension": (model([node("Relu", "x", "y")], [], wide(-5)), "a dimension of -5"),
    "wrong shape": (model(PRODUCT, [tensor("w", 4, 2)]), "node 'y' .MatMul.: shapes"),
    "weights are a vector": (model(PRODUCT, [tensor("w", 3)]), "node 'y' .MatMul."),
    "too few numbers": (model(PRODUCT, [tensor("w", 3, 2, n=5)]), "takes 24 bytes, got 20"),
    "too many numbers": (model(PRODUCT, [tensor("w", 3, 2, n=700)]), "takes 24 bytes, got 2,800"),
    "terabytes declared": (model(PRODUCT, [tensor("w", 3, 2**40, n=6)]), "bytes, got 24"),
    "sizes that overflow": (model(PRODUCT, [tensor("w", 2**62, 2**62, 4, n=6)]), "bytes, got 24"),
    "negative size": (model(PRODUCT, [tensor("w", -3, -2, n=6)]), "has the shape"),
    "unknown type": (model(PRODUCT, [tensor("w", 3, 2, kind=77)]), "type number 77"),
    "bfloat16": (model(PRODUCT, [tensor("w", 3, 2, kind=16)]), "type BFLOAT16"),
    "raw texts": (model(PRODUCT, [tensor("w", 3, 2, kind=8)]), "texts as raw bytes"),
    "numbers of the wrong field": (
        model(PRODUCT, [TensorProto(name="w", dims=[3, 2], data_type=1, int64_data=[1] * 6)]),
        "has 6 numbers, got 0",
    ),
    "integers that do not fit": (
        model([node("Gather", "x i", "y", axis=1)],
              [TensorProto(name="i", dims=[1], data_type=5, int32_data=[70000])]),
        "numbers that int16 has not",
    ),
    "a half of a tensor": (
        model(PRODUCT, [TensorProto(name="w", dims=[3, 2], data_type=1,
                                    segment=TensorProto.Segment(begin=0, end=6))]),
        "segment",
    ),
    "data at an absolute path": (model(PRODUCT, [outside("/etc/passwd")]), "folder of the model, got '/etc"),
    "data above the folder": (model(PRODUCT, [outside("../secret.bin")]), "folder of the model"),
    "data far above": (model(PRODUCT, [outside("a/../../../../etc/passwd")]), "folder of the model"),
    "data by a link": (model(PRODUCT, [outside("link.bin")]), "folder of the model, got 'link.bin'"),
    "data in the folder itself": (model(PRODUCT, [outside(".")]), "folder of the model"),
    "data without a place": (model(PRODUCT, [outside("")]), "folder of the model"),
    "data in no file": (model(PRODUCT, [outside("none.bin")]), "No such file"),
    "data with NUL": (model(PRODUCT, [outside("a\0b")]), "folder of the model"),
    "data in a pipe": (model(PRODUCT, [outside("pipe")]), "lies in 'pipe': .* must be a file, got a"),
    "data too short": (model(PRODUCT, [outside("short.bin")]), "24 bytes at 0 of 'short.bin', got 8"),
    "data beyond the end": (model(PRODUCT, [outside("long.bin", offset="90")]), "24 bytes at 90"),
    "data before the begin": (model(PRODUCT, [outside("long.bin", offset="-8")]), "takes 24 bytes"),
    "data of another length": (model(PRODUCT, [outside("long.bin", length="999999")]), "got 999,999"),
    "data at no number": (model(PRODUCT, [outside("long.bin", offset="x")]), "whole numbers"),
    "doubling sixty times": (model([*DOUBLING, node("Relu", "v60", "y")]), "larger than what is allowed"),
    "a huge constant": (
        model([node("ConstantOfShape", "s", "c"), node("Add", "x c", "y")],
              [helper.make_tensor("s", 7, [2], [2**31, 2**31])]),
        "larger than what is allowed",
    ),
    "a huge expansion": (
        model([node("Expand", "x s", "y")], [helper.make_tensor("s", 7, [3], [2**31, 1, 1])]),
        "larger than what is allowed",
    ),
    "a huge range": (
        model([node("Range", "a b c", "r"), node("Add", "x r", "y")],
              [helper.make_tensor(name, 1, [], [at]) for name, at in (("a", 0), ("b", 1e20), ("c", 1))]),
        "larger than what is allowed",
    ),
    "a huge outer product": (
        model([node("Mul", "u v", "p"), node("ReduceSum", "p", "s"), node("Add", "x s", "y")],
              [tensor("u", 4000, 1), tensor("v", 1, 4000)]),
        "larger than what is allowed",
    ),
    "five thousand nodes": (model([*SQUARES, node("Relu", "v5000", "y")]), "more than 4096 nodes"),
    "sums within sums": (model(nested(120)), "branches"),
    "a shape that does not fit": (
        model([node("Reshape", "x s", "y")], [helper.make_tensor("s", 7, [2], [-1, 7])]),
        "node 'y' .Reshape.: 6 numbers",
    ),
    "a shape of two unknowns": (
        model([node("Reshape", "x s", "y")], [helper.make_tensor("s", 7, [2], [-1, -1])]),
        "node 'y' .Reshape.",
    ),
    "an axis that is not there": (model([node("Softmax", "x", "y", axis=7)]), "from -2 to 1, got 7"),
    "an order that is none": (model([node("Transpose", "x", "y", perm=[0, 0])]), "order of 2 axes"),
    "an index that is not there": (
        model([node("Gather", "x i", "y", axis=1)], [helper.make_tensor("i", 7, [1], [9])]),
        "indices must lie",
    ),
    "an attribute of another kind": (model([node("Softmax", "x", "y", axis="l")]), "a whole number"),
    "the same attribute twice": (
        model([onnx.NodeProto(op_type="Softmax", input=["x"], output=["y"],
                              attribute=[helper.make_attribute("axis", 1)] * 2)]),
        "has the attribute 'axis' twice",
    ),
    "a graph as an attribute": (
        model([node("If", "x", "y", then_branch=model(PRODUCT).graph)]), "'then_branch' holds a graph",
    ),
    "an input too few": (model([node("MatMul", "x", "y")]), "input 1 must be given"),
    "outputs too many": (model([node("Relu", "x", "y z")]), "gives 1 outputs, and 2 are read"),
    "norms of another width": (
        model([node("BatchNormalization", "x a a a a", "y")], [tensor("a", 4)]), "scale must have shape"
    ),
    "a negative eps": (
        model([node("LayerNormalization", "x a", "y", epsilon=-1.0)], [tensor("a", 3)]), "not be negative"
    ),
    "types that differ": (
        model([node("Add", "x a", "y")], [helper.make_tensor("a", 11, [3], [1, 2, 3])]), "of one type"
    ),
    "a sparse initialiser": (model(PRODUCT), "sparse initialisers"),
    "functions": (model(PRODUCT, [tensor("w", 3, 2)]), "functions of the model"),
    "a model of its own kind, without what it says": (
        model([node("Relu", "x", "y")], producer_name="fastnn"), "damaged or changed"
    ),
}  # fmt: skip
WRONG["a sparse initialiser"][0].graph.sparse_initializer.add(dims=[3, 2])
WRONG["functions"][0].functions.add(name="f", domain="com.f")


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(tmp_path: Path, name: str) -> None:
    proto, message = WRONG[name]
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(24))
    os.symlink(tmp_path / "secret.bin", folder / "link.bin")
    os.mkfifo(folder / "pipe")
    (folder / "short.bin").write_bytes(bytes(8))
    (folder / "long.bin").write_bytes(bytes(100))
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    text = refused(path)
    assert re.search(message, text), text


def test_there_are_two_hundred_damaged_files() -> None:
    """40 + 20 + 20 truncated, 60 with a bit changed, 9 of noise, and those that are wrong in one thing."""
    assert 80 + 60 + 9 + len(WRONG) >= 200


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "pipe.onnx", tmp_path):
        with pytest.raises((FormatError, OSError)):
            fastnn.onnx.load(path)


def test_a_failed_export_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")
    with pytest.raises(fn.NotFittedError):
        fastnn.onnx.export(fn.Sequential(fn.Dense(3)), path)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["m.onnx"]
