"""cublasLt by ctypes: the library, and one product with all but its addresses settled beforehand.

CuPy refuses its cuBLAS calls while a stream is captured and binds nothing of cublasLt, whose products take
their memory and their stream from the caller and so may stand in a graph. Numbers are those of cublasLt.h and
cublas_api.h of cuBLAS 12.9.3; cuBLAS 13.10 has the same ones.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

__all__ = ["WORKSPACE", "CublasError", "Library", "Matmul", "NotSupported", "find"]

# NVIDIA asks for 32 MiB on Hopper and 4 MiB on older cards.
WORKSPACE = 32 << 20
_LEAST_VERSION = 120000  # whose header was read, and the oldest that CuPy 14 comes with

_COMPUTE = {"float32": 68, "tf32": 77, "bf16": 75}  # CUBLAS_COMPUTE_32F, _32F_FAST_TF32, _32F_FAST_16BF
_R_32F = 0
_OP_T = 1
# cublasLtMatmulDescAttributes_t
_POINTER_MODE, _TRANSA, _TRANSB = 2, 3, 4
_EPILOGUE, _BIAS_POINTER, _AUX_POINTER, _AUX_LD = 7, 8, 11, 12
_POINTER_MODE_DEVICE = 1
# cublasLtEpilogue_t
EPILOGUES = {
    "default": 1,
    "bias": 4,
    "relu": 2,
    "relu_aux": 130,
    "relu_bias": 6,
    "relu_aux_bias": 134,
    "drelu": 136,
    "drelu_bgrad": 152,
    "bgrada": 256,
}
# cublasLtMatmulPreferenceAttributes_t
_PREF_WORKSPACE, _PREF_ALIGNMENTS = 1, (5, 6, 7, 8)
_MOST_ALIGNMENT = 256

_STATUS = {
    1: "NOT_INITIALIZED",
    3: "ALLOC_FAILED",
    7: "INVALID_VALUE",
    8: "ARCH_MISMATCH",
    11: "MAPPING_ERROR",
    13: "EXECUTION_FAILED",
    14: "INTERNAL_ERROR",
    15: "NOT_SUPPORTED",
    16: "LICENSE_ERROR",
}
_NOT_SUPPORTED = 15

_pointer, _int, _size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t


class _Algorithm(ctypes.Structure):
    """cublasLtMatmulAlgo_t."""

    _fields_ = (("data", ctypes.c_uint64 * 8),)


class _Found(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", _Algorithm),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


_TYPES: dict[str, tuple[Any, ...]] = {
    "Create": (_pointer,),
    "Destroy": (_pointer,),
    "MatmulDescCreate": (_pointer, _int, _int),
    "MatmulDescDestroy": (_pointer,),
    "MatmulDescSetAttribute": (_pointer, _int, _pointer, _size),
    "MatrixLayoutCreate": (_pointer, _int, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64),
    "MatrixLayoutDestroy": (_pointer,),
    "MatmulPreferenceCreate": (_pointer,),
    "MatmulPreferenceDestroy": (_pointer,),
    "MatmulPreferenceSetAttribute": (_pointer, _int, _pointer, _size),
    # handle, operation, layouts of A, B, C and D, preference, how many are wanted, results, their number
    "MatmulAlgoGetHeuristic": (*[_pointer] * 7, _int, _pointer, _pointer),
    # handle, operation, alpha, A, its layout, B, its, beta, C, its, D, its, algorithm, workspace, its size,
    # stream
    "Matmul": (*[_pointer] * 14, _size, _pointer),
}


class CublasError(RuntimeError):
    """A call of cublasLt, or finding it, failed."""


class NotSupported(CublasError):
    """cublasLt has no algorithm for a product with what is to follow it."""


def find() -> str:
    """Where the library is that CuPy's toolkit wheels, or a toolkit, brought.

    Raises
    ------
    CublasError
        There is none; the text says what was looked for.
    """
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        found = load_nvidia_dynamic_lib("cublasLt").abs_path
    except Exception as error:  # no pathfinder, no library, one that cannot be loaded
        raise CublasError(f"cublasLt was not found ({type(error).__name__}: {error})") from error
    if found is None:
        raise CublasError("cublasLt was found without a path")
    return str(found)


class Library:
    """cublasLt with a handle for the current card.

    Parameters
    ----------
    path : str

    Raises
    ------
    CublasError
        It cannot be loaded, is too old, or has no handle for this card.
    """

    def __init__(self, path: str) -> None:
        try:
            self._functions = ctypes.CDLL(path)
            for name, types in _TYPES.items():
                function = getattr(self._functions, f"cublasLt{name}")
                function.argtypes, function.restype = types, ctypes.c_int
            self._functions.cublasLtGetVersion.restype = ctypes.c_size_t
            self.version = int(self._functions.cublasLtGetVersion())
        except (OSError, AttributeError) as error:
            raise CublasError(f"cublasLt could not be loaded: {error}") from error
        if self.version < _LEAST_VERSION:
            raise CublasError(f"cublasLt must be of version {_LEAST_VERSION} or newer, got {self.version}")
        self.handle = ctypes.c_void_p()
        self.call("Create", ctypes.byref(self.handle))
        self._ended_by(self, "Destroy", self.handle)

    @property
    def name(self) -> str:
        """As a person writes it: "cublasLt 12.9.3"."""
        return f"cublasLt {self.version // 10000}.{self.version // 100 % 100}.{self.version % 100}"

    def call(self, name: str, *arguments: Any) -> None:
        """Call it, or raise what its status says."""
        status = getattr(self._functions, f"cublasLt{name}")(*arguments)
        if status:
            kind = NotSupported if status == _NOT_SUPPORTED else CublasError
            raise kind(f"cublasLt{name} gave status {status}, {_STATUS.get(status, 'unknown')}")

    def made(self, owner: object, what: str, *arguments: Any) -> ctypes.c_void_p:
        """A descriptor, which lives as long as its owner."""
        found = ctypes.c_void_p()
        self.call(f"{what}Create", ctypes.byref(found), *arguments)
        self._ended_by(owner, f"{what}Destroy", found)
        return found

    def _ended_by(self, owner: object, name: str, value: ctypes.c_void_p) -> None:
        end = weakref.finalize(owner, getattr(self._functions, f"cublasLt{name}"), value)
        end.atexit = False  # the driver may be gone by then


class Matmul:
    """d (m, n) = beta c + alpha a b and an epilogue, rows first; to cublasLt the transposes of all.

    Parameters
    ----------
    library : Library
    form : str
        "nn", "nt" (b is stored (n, k)) or "tn" (a is stored (k, m)).
    shape : (m, n, k)
    precision : str
        Of `cuda_kernels.PRECISIONS`.
    epilogue : str
        Of EPILOGUES. "bgrada" sums the rows of b, (k, n), into the bias gradient.
    bias : int
        Address of n numbers that are added, or filled by "..bgrad" and "bgrada".
    mask : (address, bits a row)
        Of the bits that "relu_aux.." writes and "drelu.." reads.
    factors : int
        Address on the card of alpha and beta; 0 for 1 and 0.
    alignment : (a, b, c and d)
        What the addresses are multiples of, in bytes.

    Raises
    ------
    NotSupported
        There is no algorithm for it.
    CublasError
        Another status.
    """

    def __init__(
        self,
        library: Library,
        form: str,
        shape: tuple[int, int, int],
        precision: str,
        epilogue: str = "default",
        bias: int = 0,
        mask: tuple[int, int] = (0, 0),
        factors: int = 0,
        alignment: tuple[int, int, int] = (_MOST_ALIGNMENT,) * 3,
    ) -> None:
        m, n, k = shape
        self._library, self.epilogue = library, epilogue
        self._operation = library.made(self, "MatmulDesc", _COMPUTE[precision], _R_32F)
        self._set(_EPILOGUE, ctypes.c_uint32(EPILOGUES[epilogue]))
        if form == "nt":
            self._set(_TRANSA, ctypes.c_int32(_OP_T))
        elif form == "tn":
            self._set(_TRANSB, ctypes.c_int32(_OP_T))
        if bias:
            self._set(_BIAS_POINTER, ctypes.c_uint64(bias))
        if mask[0]:
            self._set(_AUX_POINTER, ctypes.c_uint64(mask[0]))
            self._set(_AUX_LD, ctypes.c_int64(mask[1]))
        self._one, self._zero = ctypes.c_float(1.0), ctypes.c_float(0.0)
        self._alpha, self._beta = ctypes.addressof(self._one), ctypes.addressof(self._zero)
        if factors:
            self._set(_POINTER_MODE, ctypes.c_int32(_POINTER_MODE_DEVICE))
            self._alpha, self._beta = factors, factors + 4
        # Columns first a matrix is its transpose; b comes first.
        stored = (k, n) if form == "nt" else (n, k), (m, k) if form == "tn" else (k, m), (n, m)
        self._layouts = [
            library.made(self, "MatrixLayout", _R_32F, rows, columns, rows) for rows, columns in stored
        ]
        self._algorithm = self._chosen(alignment)

    def _set(self, attribute: int, value: Any) -> None:
        size = ctypes.sizeof(value)
        self._library.call("MatmulDescSetAttribute", self._operation, attribute, ctypes.byref(value), size)

    def _chosen(self, alignment: tuple[int, int, int]) -> _Algorithm:
        """The first algorithm of the library's heuristics."""
        call, held = self._library.call, _Owner()
        preference = self._library.made(held, "MatmulPreference")
        of_a, of_b, of_c = (min(one, _MOST_ALIGNMENT) for one in alignment)
        wanted: list[tuple[int, Any]] = [(_PREF_WORKSPACE, ctypes.c_uint64(WORKSPACE))]
        in_order = of_b, of_a, of_c, of_c
        wanted += [(name, ctypes.c_uint32(one)) for name, one in zip(_PREF_ALIGNMENTS, in_order, strict=True)]
        for name, value in wanted:
            size = ctypes.sizeof(value)
            call("MatmulPreferenceSetAttribute", preference, name, ctypes.byref(value), size)
        found, n_found = _Found(), ctypes.c_int()
        first, second, third = self._layouts
        call(
            "MatmulAlgoGetHeuristic",
            self._library.handle,
            self._operation,
            first,
            second,
            third,
            third,
            preference,
            1,
            ctypes.byref(found),
            ctypes.byref(n_found),
        )
        if n_found.value < 1 or found.state:
            raise NotSupported(f"cublasLt has no algorithm for it, state {found.state}")
        return _Algorithm.from_buffer_copy(found.algorithm)

    def __call__(self, a: int, b: int, d: int, workspace: int, stream: int) -> None:
        """Queue it on a stream, with c in the place of d."""
        first, second, third = self._layouts
        self._library.call(
            "Matmul",
            self._library.handle,
            self._operation,
            self._alpha,
            b,
            first,
            a,
            second,
            self._beta,
            d,
            third,
            d,
            third,
            ctypes.byref(self._algorithm),
            workspace,
            WORKSPACE,
            stream,
        )


class _Owner:
    """Of a descriptor that lives for one call."""
