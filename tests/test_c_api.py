"""The functions for other compiled packages: called through the capsule as C does, against `fastnn.ops`."""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastnn as fn
from fastnn import kernels, ops

Array = NDArray[Any]
HEADER = Path(fn.get_include(), "fastnn_c_api.h").read_text(encoding="utf-8")
PXD = Path(kernels.__file__).with_name("c_api.pxd").read_text(encoding="utf-8")
# Version 1: what stands here may neither go nor move, or modules that were compiled with it crash.
# fmt: off
MEMBERS = [
    "activation_id", "activation_has_slope", "get_num_threads", "set_num_threads", "limit_threads",
    "philox", "linear", "linear_input_gradient", "linear_weight_gradient", "bias_gradient", "activation",
    "activation_and_slope", "activation_backward", "cross_entropy", "binary_cross_entropy", "mse", "sgd",
    "adam", "dropout", "multiply", "uniform",
]
# fmt: on
TYPES = {
    "int": ctypes.c_int,
    "ptrdiff_t": ctypes.c_ssize_t,
    "double": ctypes.c_double,
    "uint64_t": ctypes.c_uint64,
    "uint32_t": ctypes.c_uint32,
}


def struct() -> dict[str, tuple[str, list[str]]]:
    """Members of the header's struct in order: what each returns, and its arguments."""
    body = (
        re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)
        .split("typedef struct {")[1]
        .split("} fastnn_c_api;")[0]
    )
    found = re.findall(r"(\w+) \(\*(\w+)\)\(([^)]*)\);", body)
    return {
        name: (returned, [a.strip() for a in arguments.split(",")]) for returned, name, arguments in found
    }


def table() -> dict[str, Callable[..., Any]]:
    """The functions of the capsule."""
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = pointer_of(kernels._C_API, b"fastnn.kernels._C_API")
    assert tuple((ctypes.c_int32 * 2).from_address(address)) == kernels.API_VERSION
    assert ctypes.cast((ctypes.c_char_p * 1).from_address(address + 8)[0], ctypes.c_char_p).value == (
        kernels.BUILD.encode()
    )
    found = {}
    for i, (name, (returned, arguments)) in enumerate(struct().items()):
        types = [ctypes.c_void_p if "*" in a else TYPES[a.split()[0]] for a in arguments if a != "void"]
        make = ctypes.CFUNCTYPE(None if returned == "void" else ctypes.c_int, *types)
        found[name] = make((ctypes.c_void_p * 1).from_address(address + 16 + 8 * i)[0])
    return found


API = table()


def call(name: str, *arguments: Any) -> int:
    """A function's answer; arrays as their addresses, each followed by what it is told of its rows."""
    given: list[Any] = []
    for a in arguments:
        if isinstance(a, np.ndarray):
            given.append(a.ctypes.data)
            if a.ndim == 2:
                given.append(a.strides[0] // a.itemsize)
        else:
            given.append(a)
    return int(API[name](*given))


def padded(rows: int, columns: int, dtype: str, seed: int = 0) -> Array:
    """Numbers whose rows have others between them, at an odd address."""
    room = np.random.default_rng(seed).normal(size=(rows, columns + 3)).astype(dtype)
    return room[:, 1 : columns + 1]


def test_nothing_of_version_1_has_gone_or_moved() -> None:
    assert kernels.API_VERSION[0] == 1
    assert list(struct())[: len(MEMBERS)] == MEMBERS
    assert len(struct()) == len(MEMBERS) or kernels.API_VERSION[1] > 0


def test_cython_is_told_what_the_header_says() -> None:
    for name, (_, arguments) in struct().items():
        typed = arguments[:1] == ["int itemsize"]
        for suffix, real in (("_f32", "float"), ("_f64", "double")) if typed else (("", ""),):
            declared = re.search(rf" fastnn_{name}{suffix}\(([^)]*)\) noexcept", PXD)
            assert declared, name + suffix
            there = [" ".join(a.split()) for a in declared[1].split(",") if a.strip()]
            here = [a.replace("void *", f"{real} *") for a in arguments[1:]] if typed else arguments
            assert there == [a for a in here if a != "void"]


def test_the_headers_are_where_get_include_says() -> None:
    there = {path.name for path in Path(fn.get_include()).iterdir()}
    assert {"fastnn_c_api.h", "fastnn.h", "fastnn_core.h"} <= there


def test_ids_are_asked_by_name() -> None:
    ids = {name: API["activation_id"](name.encode()) for name in kernels.ACTIVATIONS}
    assert sorted(ids.values()) == list(range(len(ids)))
    assert ids["identity"] == 0
    assert [API["activation_id"](name) for name in (b"Relu", b"", None)] == [-1, -1, -1]
    slopes = {name for name, i in ids.items() if API["activation_has_slope"](i)}
    assert slopes == {name for name, kind in kernels.ACTIVATIONS.items() if kind == "from_input"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("m", "n_in", "n_out"), [(5, 7, 3), (33, 17, 34), (1, 1, 1), (4, 0, 3), (0, 3, 2), (3, 4, 0)]
)
def test_products_have_the_bits_of_ops(m: int, n_in: int, n_out: int, dtype: str) -> None:
    size = np.dtype(dtype).itemsize
    x, w, dz = padded(m, n_in, dtype), padded(n_in, n_out, dtype, 1), padded(m, n_out, dtype, 2)
    bias = padded(1, n_out, dtype, 3)[0]
    for name in ("identity", "gelu", "softmax"):
        out = np.full((m, n_out + 2), 7, dtype)
        code = API["activation_id"](name.encode())
        assert call("linear", size, m, n_in, n_out, x, w, bias, code, out[:, :n_out]) == 0
        np.testing.assert_array_equal(out[:, :n_out], ops.linear(x, w, bias, activation=name))
        assert (out[:, n_out:] == 7).all()
    out = np.full((m, n_out), 7, dtype)
    assert call("linear", size, m, n_in, n_out, x, w, None, 0, out) == 0
    np.testing.assert_array_equal(out, ops.linear(x, w))
    dx, dw, db = np.ones((m, n_in), dtype), np.ones((n_in, n_out), dtype), np.ones(n_out, dtype)
    assert call("linear_input_gradient", size, m, n_in, n_out, dz, w, dx) == 0
    assert call("linear_weight_gradient", size, m, n_in, n_out, x, dz, dw) == 0
    assert call("bias_gradient", size, m, n_out, dz, db) == 0
    for found, wanted in zip((dx, dw, db), ops.linear_backward(dz, x, w), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", kernels.ACTIVATIONS)
def test_activations_have_the_bits_of_ops_both_ways(name: str, dtype: str) -> None:
    z, da, size = padded(5, 9, dtype), padded(5, 9, dtype, 1), np.dtype(dtype).itemsize
    code, a, kept = API["activation_id"](name.encode()), np.empty((5, 9), dtype), np.empty((5, 9), dtype)
    assert call("activation", size, code, 5, 9, z, a) == 0
    forward, backward = ops.ACTIVATIONS[name]
    np.testing.assert_array_equal(a, forward(z))
    if API["activation_has_slope"](code):
        assert call("activation_and_slope", size, code, 5, 9, z, a, kept) == 0
        np.testing.assert_array_equal(a, forward(z))
    else:
        assert call("activation_and_slope", size, code, 5, 9, z, a, kept) == -1
        kept = a
    dz = np.array(da)
    assert call("activation_backward", size, code, 5, 9, kept, dz, dz) == 0
    np.testing.assert_array_equal(dz, backward(da, z))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses_have_the_numbers_of_ops(dtype: str) -> None:
    z, y, size = padded(6, 4, dtype), np.abs(padded(6, 4, dtype, 1)) % 1, np.dtype(dtype).itemsize
    labels, weight = np.array([0, 3, 1, 1, 2, 0]), np.array([1.0, 2, 0, 1, 3, 1])
    rows, dz = np.empty(6), np.empty((6, 4), dtype)
    for name, target in (("cross_entropy", labels), ("binary_cross_entropy", y), ("mse", y)):
        wanted, gradient = getattr(ops, name)(z, target, weight)
        assert call(name, size, 6, 4, z, target, weight, 1 / weight.sum(), rows, dz) == 0
        assert rows @ weight / weight.sum() == pytest.approx(wanted, rel=1e-12)
        np.testing.assert_array_equal(dz, gradient)
        assert call(name, size, 6, 4, z, target, None, 1.0, rows, None, 0) == 0
    for wrong in (-1, 4):
        rows[:] = 7
        assert (
            call("cross_entropy", size, 6, 4, z, np.array([0, 1, wrong, 0, 0, 0]), None, 1.0, rows, dz) == -1
        )
        assert (rows == 7).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_of_optimizers_have_the_bits_of_ops(dtype: str) -> None:
    size, n = np.dtype(dtype).itemsize, 37
    for nesterov in (0, 1):
        ours, theirs = ([padded(1, n, dtype, i)[0].copy() * (i < 1) for i in range(2)] for _ in range(2))
        for step in range(3):
            g = padded(1, n, dtype, 5 + step)[0]
            assert call("sgd", size, n, ours[0], g, ours[1], 0.1, 0.9, nesterov, 0.01) == 0
            ops.sgd_update(
                *theirs[:1], g, theirs[1], lr=0.1, momentum=0.9, nesterov=bool(nesterov), weight_decay=0.01
            )
        np.testing.assert_array_equal(ours, theirs)
    for decoupled, update in enumerate((ops.adam_update, ops.adamw_update)):
        ours, theirs = ([padded(1, n, dtype, i)[0].copy() * (i < 1) for i in range(3)] for _ in range(2))
        for step in (1, 2, 3):
            g = padded(1, n, dtype, 5 + step)[0]
            assert (
                call("adam", size, n, ours[0], g, *ours[1:], step, 0.1, 0.9, 0.99, 1e-8, 0.01, decoupled) == 0
            )
            update(theirs[0], g, *theirs[1:], step=step, lr=0.1, betas=(0.9, 0.99), weight_decay=0.01)
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_numbers_are_those_of_the_library(dtype: str) -> None:
    size, x = np.dtype(dtype).itemsize, padded(5, 9, dtype)
    a, mask = x.copy(), np.empty((5, 9), dtype)
    assert call("dropout", size, 3, 4, 5, 0.25, 6, 5, 9, a, mask) == 0
    wanted, wanted_mask = ops.dropout(x, 0.25, seed=3, step=4, layer=5, first_row=6)
    np.testing.assert_array_equal(mask, wanted_mask)
    np.testing.assert_array_equal(a, wanted)
    back = x.copy()
    assert call("multiply", size, 5, 9, back, mask) == 0
    np.testing.assert_array_equal(back, a)

    out, exact = np.empty(100_001, dtype), kernels.uniform(1, 2, 3, 100_001)
    assert call("uniform", size, 1, 2, 3, len(out), out) == 0
    assert (out > 0).all()
    assert (out < 1).all()
    np.testing.assert_allclose(out, exact, rtol=0, atol=0 if dtype == "float64" else 2.0**-24)

    words = np.empty(4, np.uint32)
    API["philox"](*[np.array(v, np.uint32).ctypes.data for v in ([1, 2, 3, 4], [5, 6])], words.ctypes.data)
    assert tuple(words) == kernels.philox([1, 2, 3, 4], [5, 6])


def test_arguments_that_cannot_be_right_are_refused_and_nothing_is_written() -> None:
    a = np.full((4, 4), 7.0)
    for wrong in (
        ("linear", 2, 4, 4, 4, a, a, None, 0, a),  # an itemsize that is no type's
        ("linear", 8, 2**62, 4, 4, a, a, None, 0, a),  # whose number of bytes would be 0 in 64 bits
        ("bias_gradient", 8, 2**60, 4, a, a.reshape(-1)),
        ("linear", 8, -1, 4, 4, a, a, None, 0, a),
        ("linear", 8, 4, 5, 4, a, a, None, 0, a),  # rows of 5 that are 4 apart
        ("linear", 8, 4, 4, 4, a, a, None, -1, a),  # as activation_id gives it for a name that is none
        ("linear", 8, 4, 4, 4, a, a, None, 999, a),
        ("activation", 8, -1, 4, 4, a, a),
        ("activation_backward", 8, 99, 4, 4, a, a, a),
        ("mse", 8, 4, 0, a, a, None, 1.0, np.empty(4), a),
        ("sgd", 8, 16, a.reshape(-1), a.reshape(-1), None, 0.1, 0.9, 0, 0.0),  # momentum without velocity
        ("sgd", 8, 16, a.reshape(-1), a.reshape(-1), None, 0.1, 0.0, 1, 0.0),
        ("adam", 8, 16, *[a.reshape(-1)] * 4, 0, 0.1, 0.9, 0.999, 1e-8, 0.0, 0),  # step 0
        ("dropout", 8, 0, 0, 0, 1.0, 0, 4, 4, a, a),
        ("dropout", 8, 0, 2**44, 0, 0.5, 0, 4, 4, a, a),
        ("dropout", 8, 0, 0, 0, 0.5, 2**32 - 3, 4, 4, a, a),
        ("uniform", 8, 0, 0, 0, -1, a.reshape(-1)),
    ):
        assert call(*wrong) == -1, wrong
    assert (a == 7).all()


def test_the_limit_of_a_thread_is_its_own() -> None:
    before = fn.get_num_threads()
    try:
        assert API["set_num_threads"](3) == 0
        assert (API["get_num_threads"](), fn.get_num_threads()) == (3, 3)
        assert [API["set_num_threads"](n) for n in (0, 257)] == [-1, -1]
        assert [API["limit_threads"](n) for n in (1, -1, 2, 0)] == [0, -1, 1, 2]
        API["limit_threads"](1)
        seen = []
        thread = threading.Thread(target=lambda: seen.append(API["limit_threads"](0)))
        thread.start()
        thread.join()
        assert seen == [0]
        assert API["limit_threads"](0) == 1
    finally:
        fn.set_num_threads(before)


def test_a_limited_thread_starts_no_team_and_gets_the_same_bits() -> None:
    before = fn.get_num_threads()
    x, w = padded(96, 96, "float64"), padded(96, 96, "float64", 1)
    outs = [np.empty((96, 96)) for _ in range(2)]
    try:
        fn.set_num_threads(2)
        kernels.stop_threads()
        API["limit_threads"](1)
        assert call("linear", 8, 96, 96, 96, x, w, None, 0, outs[0]) == 0
        assert fn.threads_started() == 0
        API["limit_threads"](0)
        assert call("linear", 8, 96, 96, 96, x, w, None, 0, outs[1]) == 0
        assert fn.threads_started() == 1
        np.testing.assert_array_equal(*outs)
    finally:
        API["limit_threads"](0)
        fn.set_num_threads(before)
