"""From which size on is a product of cublasLt quicker than ours within a captured step? Tried on a card.

For each size, form, precision and what may be fused to it: whether the library has it, how far it is from
float64, and the time of both in a graph of 16, with what our kernels need beside the product for the same.
The numbers settle LEAST_FLOPS and LEAST_SIDE of `fastnn/devices/cuda_products.py`. Exit code 1 if a product
cannot be captured or is wrong, 2 without a card.

    python benchmarks/probe_cublaslt.py
    python benchmarks/probe_cublaslt.py --descriptors /path/to/libcublasLt.so.12

--descriptors needs the library and no card: all attributes are set there and read back.
"""

import argparse
import ctypes
import sys

import numpy as np

from fastnn import kernels
from fastnn.devices import cuda, cuda_cublaslt
from fastnn.devices.cuda_cublaslt import WORKSPACE, CublasError, Library, Matmul, NotSupported
from fastnn.devices.cuda_kernels import NO_ARRAY, PRECISIONS, Kernels, number_of
from fastnn.devices.cuda_products import TOLERANCE, is_large
from fastnn.errors import DeviceError

SHAPES = [  # m, n, k
    (128, 128, 784),
    (256, 512, 512),
    (512, 512, 512),
    (1024, 512, 512),
    (1024, 1024, 1024),
    (4096, 1000, 4096),
    (4096, 4096, 4096),
]
FUSED = {"nn": "relu_aux_bias", "nt": "drelu_bgrad", "tn": "bgrada"}
STEPS = 16


class Case:
    """One product with its arrays on the card, in both ways."""

    def __init__(self, cp, ours, library, form, shape, precision, epilogue):
        m, n, k = shape
        shapes = (k, m) if form == "tn" else (m, k), (n, k) if form == "nt" else (k, n), (n,)
        self.a, self.b, self.bias = (cp.empty(one, np.float32) for one in shapes)
        for i, one in enumerate((self.a, self.b, self.bias)):
            ours.over("pattern", one.size, one, np.int64(one.size), np.uint32(i))
        self.c, self.own = (cp.zeros((m, n), np.float32) for _ in range(2))
        self.workspace = cp.empty(WORKSPACE, np.uint8)
        bits = -(-n // 128) * 128
        self.mask = cp.full(m * bits // 8, 0xFF, np.uint8)
        self.kept = cp.ones((m, n), np.float32)
        self._ours, self._form, self._shape, self._epilogue = ours, form, shape, epilogue
        bias = self.bias.data.ptr if epilogue != "default" else 0
        mask = (self.mask.data.ptr, bits) if form != "tn" and epilogue != "default" else (0, 0)
        self._matmul = Matmul(library, form, shape, precision, epilogue, bias, mask)

    def theirs(self, stream):
        """Queue the library's."""
        arrays = self.a, self.b, self.c, self.workspace
        self._matmul(*(one.data.ptr for one in arrays), stream.ptr)

    def mine(self, stream):
        """Queue what our kernels need for the same."""
        is_forward = self._epilogue == "relu_aux_bias"
        bias, kind = (self.bias, "relu") if is_forward else (NO_ARRAY, "identity")
        self._ours.product(self._form, self.a, self.b, self._shape, self.own, bias, kind)
        m, n, k = self._shape
        if self._epilogue == "drelu_bgrad":
            self._sums(self.own, self.kept, "relu", m, n)
        elif self._epilogue == "bgrada":
            self._sums(self.b, NO_ARRAY, "identity", k, n)

    def _sums(self, da, kept, kind, m, n):
        number, room = number_of(kernels.ACTIVATIONS, kind), self.bias
        self._ours.columns("slope_and_bias", n, da, kept, number, np.int32(m), np.int32(n), room)

    def away(self, cp):
        """How far the library's first rows are from float64, over the root of the length."""
        rows = slice(0, 8)
        a = cp.asnumpy(self.a[:, rows].T if self._form == "tn" else self.a[rows]).astype(float)
        b = cp.asnumpy(self.b.T if self._form == "nt" else self.b).astype(float)
        expected = a @ b
        if self._epilogue == "relu_aux_bias":
            expected = np.maximum(expected + cp.asnumpy(self.bias), 0)
        return np.abs(cp.asnumpy(self.c[rows]) - expected).max() / self._shape[2] ** 0.5


def graph_of(stream, work):
    """A graph of so many."""
    work(stream)  # a kernel is loaded at its first launch
    stream.begin_capture()
    try:
        for _ in range(STEPS):
            work(stream)
    finally:
        graph = stream.end_capture()
    return graph


def seconds(cp, stream, graph):
    """Of one of the products of a graph: the least of three."""
    found = []
    for _ in range(3):
        begin, end = cp.cuda.Event(), cp.cuda.Event()
        graph.launch(stream)
        begin.record(stream)
        for _ in range(2):
            graph.launch(stream)
        end.record(stream)
        end.synchronize()
        found.append(cp.cuda.get_elapsed_time(begin, end) / 1e3 / 2 / STEPS)
    return min(found)


def probe(cp):
    """Print what works and how fast; gives whether all that is supported is right and can be captured."""
    properties = cp.cuda.runtime.getDeviceProperties(0)
    newest = (int(properties["major"]), int(properties["minor"])) >= (8, 0)
    path = cuda_cublaslt.find()
    library = Library(path)
    print(f"{library.name}: {path}")
    works = True
    stream = cp.cuda.Stream(non_blocking=True)
    for precision in PRECISIONS if newest else PRECISIONS[:1]:
        ours = Kernels(cp, int(properties["multiProcessorCount"]), precision)
        cases = (
            (shape, form, epilogue) for shape in SHAPES for form in FUSED for epilogue in ("default", "")
        )
        for shape, form, epilogue in cases:
            name = epilogue or FUSED[form]
            text = f"{precision:<8}{form} {' x '.join(map(str, shape)):<20}{name:<14}"
            with stream:
                try:
                    case = Case(cp, ours, library, form, shape, precision, name)
                    graph = graph_of(stream, case.theirs)
                    graph.launch(stream)
                    away = case.away(cp)
                    assert away < TOLERANCE[precision], f"off by {away:g}"
                    theirs = seconds(cp, stream, graph)
                except NotSupported:
                    print(f"{text} not supported")
                    continue
                except Exception as error:
                    print(f"{text} FAILED: {type(error).__name__}: {error}")
                    works = False
                    continue
                mine = seconds(cp, stream, graph_of(stream, case.mine))
            chosen = "library" if is_large(*shape) else "own"
            print(
                f"{text} off by {away:.1e}; {theirs * 1e6:9.1f} us, ours {mine * 1e6:9.1f} us, "
                f"{mine / theirs:5.2f} times; the rule takes: {chosen}",
                flush=True,
            )
    return works


class Descriptors(Library):
    """The library without a handle, which needs a card."""

    def call(self, name, *arguments):
        """All but what needs one."""
        if name not in ("Create", "MatmulAlgoGetHeuristic"):
            super().call(name, *arguments)

    def _ended_by(self, owner, name, value):
        if name != "Destroy":
            super()._ended_by(owner, name, value)


class Described(Matmul):
    """A product that is never computed."""

    def _chosen(self, alignment):
        with_handle = super()._chosen
        try:
            with_handle(alignment)
        except NotSupported:  # nothing was found, as nobody looked
            return
        raise AssertionError("an algorithm without a card")

    def read(self, attribute, kind):
        """An attribute as the library has it."""
        value, written = kind(), ctypes.c_size_t()
        get = self._library._functions.cublasLtMatmulDescGetAttribute
        place = ctypes.byref(value), ctypes.c_size_t(ctypes.sizeof(value)), ctypes.byref(written)
        status = get(self._operation, attribute, *place)
        assert status == 0, f"attribute {attribute} gave status {status}"
        return value.value


def descriptors(path):
    """Set and read back what products are described by; gives whether all is as it was set."""
    library, wrong = Descriptors(path), 0
    for precision in PRECISIONS:
        for form in FUSED:
            for name, number in cuda_cublaslt.EPILOGUES.items():
                given = {"bias": 4096, "mask": (8192, 256), "factors": 512}
                one = Described(library, form, (130, 140, 150), precision, name, **given)
                expected = {
                    (0, ctypes.c_int32): cuda_cublaslt._COMPUTE[precision],
                    (2, ctypes.c_int32): 1,
                    (3, ctypes.c_int32): int(form == "nt"),
                    (4, ctypes.c_int32): int(form == "tn"),
                    (7, ctypes.c_uint32): number,
                    (8, ctypes.c_uint64): 4096,
                    (11, ctypes.c_uint64): 8192,
                    (12, ctypes.c_int64): 256,
                }
                for (attribute, kind), value in expected.items():
                    found = one.read(attribute, kind)
                    if found != value:
                        wrong += 1
                        print(f"{precision} {form} {name}: attribute {attribute} is {found}, not {value}")
    print(f"{library.name}: descriptors of {len(PRECISIONS) * 3 * len(cuda_cublaslt.EPILOGUES)} products")
    return not wrong


def main():
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--descriptors", metavar="LIBRARY")
    arguments = parser.parse_args()
    try:
        if arguments.descriptors:
            return 0 if descriptors(arguments.descriptors) else 1
        return 0 if probe(cuda.check("cuda")) else 1
    except DeviceError as error:
        print(f"probe_cublaslt: {error}", file=sys.stderr)
        return 2
    except CublasError as error:
        print(f"probe_cublaslt: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
