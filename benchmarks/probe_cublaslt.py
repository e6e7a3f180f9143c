"""May a product of cuBLASLt stand in a captured step? Tried on a card, stage by stage, each told.

The captured step has products of its own, since CuPy refuses its cuBLAS calls while a stream is
captured. Those of cuBLASLt, called by ctypes, know nothing of that check: this finds the library
(cuda.pathfinder, which comes with CuPy), multiplies with bias and ReLU outside of a capture and within
one, compares with float64, and times both products by replaying graphs. What it finds decides whether
the library gets such a path. Without a card: exit code 2.
"""

import ctypes
import sys
from functools import partial

import numpy as np

from fastnn import kernels
from fastnn.devices import cuda
from fastnn.devices.cuda_kernels import NO_ARRAY, Kernels
from fastnn.errors import DeviceError

# cublasLt.h: enums are part of its ABI.
COMPUTE_32F, COMPUTE_32F_FAST_TF32, R_32F = 68, 77, 0
DESC_EPILOGUE, DESC_BIAS_POINTER, EPILOGUE_RELU_BIAS = 7, 8, 6
WORKSPACE = 32 << 20
SHAPES = [(128, 128, 784), (256, 512, 512), (1024, 4096, 4096)]  # m, n, k


class Product:
    """c (m, n) = relu(a (m, k) b (k, n) + bias), rows first; to cuBLASLt the transposes of all three."""

    def __init__(self, library, handle, shape, compute, a, b, bias, c, workspace):
        m, n, k = shape
        self._library, self._handle, self._stored = library, handle, (a, b, bias, c, workspace)
        self._one, self._zero = ctypes.c_float(1), ctypes.c_float(0)
        self._operation = ctypes.c_void_p()
        self._call("cublasLtMatmulDescCreate", ctypes.byref(self._operation), compute, R_32F)
        epilogue, pointer = ctypes.c_uint32(EPILOGUE_RELU_BIAS), ctypes.c_uint64(bias.data.ptr)
        for attribute, value in ((DESC_EPILOGUE, epilogue), (DESC_BIAS_POINTER, pointer)):
            size = ctypes.c_size_t(ctypes.sizeof(value))
            self._call(
                "cublasLtMatmulDescSetAttribute", self._operation, attribute, ctypes.byref(value), size
            )
        self._layouts = []
        for rows, columns in ((n, k), (k, m), (n, m)):
            layout = ctypes.c_void_p()
            sizes = ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(rows)
            self._call("cublasLtMatrixLayoutCreate", ctypes.byref(layout), R_32F, *sizes)
            self._layouts.append(layout)

    def _call(self, name, *arguments):
        status = getattr(self._library, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} gave status {status}")

    def __call__(self, stream):
        """Queue it."""
        a, b, _, c, workspace = (ctypes.c_void_p(one.data.ptr) for one in self._stored)
        of_a, of_b, of_c = self._layouts
        factors = ctypes.byref(self._one), ctypes.byref(self._zero)
        operands = b, of_a, a, of_b, factors[1], c, of_c, c, of_c
        room = ctypes.c_void_p(None), workspace, ctypes.c_size_t(WORKSPACE)
        stream = ctypes.c_void_p(stream.ptr)
        self._call("cublasLtMatmul", self._handle, self._operation, factors[0], *operands, *room, stream)


def captured(stream, work, n):
    """A graph of n times the work."""
    stream.begin_capture()
    try:
        for _ in range(n):
            work()
    finally:
        graph = stream.end_capture()
    return graph


def seconds(cp, stream, graph, n):
    """Of one of the n pieces of a graph."""
    begin, end = cp.cuda.Event(), cp.cuda.Event()
    graph.launch(stream)
    begin.record(stream)
    for _ in range(10):
        graph.launch(stream)
    end.record(stream)
    end.synchronize()
    return cp.cuda.get_elapsed_time(begin, end) / 1e4 / n


def probe(cp):
    """Print what works; gives whether all did."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    found = load_nvidia_dynamic_lib("cublasLt")
    print(f"library: {found.abs_path}")
    library, handle = ctypes.CDLL(found.abs_path), ctypes.c_void_p()
    status = library.cublasLtCreate(ctypes.byref(handle))
    if status:
        print(f"cublasLtCreate: FAILED, status {status}")
        return False
    random, works = np.random.default_rng(0), True
    n_processors = cp.cuda.runtime.getDeviceProperties(0)["multiProcessorCount"]
    ours = Kernels(cp, int(n_processors))
    workspace, relu = cp.empty(WORKSPACE, np.uint8), "relu"
    assert relu in kernels.ACTIVATIONS
    for name, compute, tolerance in (("float32", COMPUTE_32F, 1e-4), ("tf32", COMPUTE_32F_FAST_TF32, 5e-2)):
        for m, n, k in SHAPES:
            a, b, bias = (random.standard_normal(s).astype(np.float32) for s in ((m, k), (k, n), n))
            there = [cp.asarray(one) for one in (a, b, bias)]
            c, own = cp.empty((m, n), np.float32), cp.empty((m, n), np.float32)
            expected = np.maximum(a[:8].astype(float) @ b.astype(float) + bias, 0)
            stream = cp.cuda.Stream(non_blocking=True)
            cp.cuda.Device().synchronize()
            text = f"{name:<8} {m} x {n} x {k}:"
            with stream:
                try:
                    stage = "outside of a capture"
                    product = Product(library, handle, (m, n, k), compute, *there, c, workspace)
                    product(stream)
                    away = np.abs(cp.asnumpy(c[:8]) - expected).max() / k**0.5
                    assert away < tolerance, f"off by {away:g}"
                    stage = "in a capture"
                    graph = captured(stream, partial(product, stream), 16)
                    c.fill(0)
                    graph.launch(stream)
                    away = np.abs(cp.asnumpy(c[:8]) - expected).max() / k**0.5
                    assert away < tolerance, f"off by {away:g}"
                    theirs = seconds(cp, stream, graph, 16)
                except Exception as error:
                    print(f"{text} {stage} FAILED: {type(error).__name__}: {error}")
                    works = False
                    continue
                call = lambda: ours.product("nn", *there[:2], (m, n, k), own, there[2], relu, NO_ARRAY)  # noqa: B023, E731
                call()
                mine = seconds(cp, stream, captured(stream, call, 16), 16)
            print(f"{text} works captured, {theirs * 1e6:.1f} us; our float32 kernel {mine * 1e6:.1f} us")
    return works


def main():
    """The command."""
    try:
        cp = cuda.check("cuda")
    except DeviceError as error:
        print(f"probe_cublaslt: {error}", file=sys.stderr)
        return 2
    return 0 if probe(cp) else 1


if __name__ == "__main__":
    sys.exit(main())
