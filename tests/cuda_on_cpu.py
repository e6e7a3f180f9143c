"""kernels_*.cu compiled by g++ (cuda_shim.h), and its kernels launched with arguments as CUDA takes them."""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
FLAGS = [
    "-std=c++17",
    "-O1",
    "-ffp-contract=off",
    "-march=native",
    "-Wall",
    "-Werror",
    "-Wno-unknown-pragmas",
]
# Bsymbolic: a kernel called `advance` is ours, not that of the C library. Nor do two texts have the shared
# memory of an inline function in common, which is thread-local in one of them.
FLAGS += ["-Wno-unused-function", "-Wl,-Bsymbolic", "-fno-gnu-unique", "-I", str(HERE)]

# What an argument must be for a parameter of that type: CuPy passes the bytes on, whatever they are.
SCALARS = {
    "int": np.int32,
    "u32": np.uint32,
    "float": np.float32,
    "double": np.float64,
    "i64": np.int64,
    "u64": np.uint64,
}
POINTED = {**SCALARS, "u8": np.uint8}


def compiler() -> str | None:
    """A C++ compiler, if there is one."""
    return shutil.which("g++") or shutil.which("c++")


def _preprocessed(text: str, folder: Path, flags: list[str]) -> str:
    path = folder / "kernels.cpp"
    path.write_text(text, encoding="utf-8")
    command = [compiler() or "g++", "-E", "-P", "-include", str(HERE / "cuda_shim.h"), *flags, str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Kernel:
    """One kernel: its parameters, the function that runs it, and for clusters of how many blocks it is."""

    def __init__(self, name: str, parameters: str, together: bool, cluster: int) -> None:
        self.name, self.together, self.cluster = name, together, cluster
        self.types = [re.sub(r"\s*\w+$", "", one.strip()) for one in parameters.split(",")]
        self.function: Any = None
        self.turn: Any = None

    @property
    def wrapper(self) -> str:
        """C++ that takes the addresses of the arguments."""
        values = ", ".join(f"*({kind} *)a[{i}]" for i, kind in enumerate(self.types))
        values = re.sub(r"\*\(([^()]*\*)\s*\*\)", r"*(\1 *)", values)
        call = f"shim_run(grid, n, {str(self.together).lower()}, [&] {{ {self.name}({values}); }});"
        return f'extern "C" void run_{self.name}(const int *grid, int n, void **a) {{ {call} }}'

    def checked(self, arguments: tuple[Any, ...]) -> list[Any]:
        """The arguments as bytes, refused where a card would have read others than were meant."""
        if len(arguments) != len(self.types):
            raise TypeError(f"{self.name} takes {len(self.types)} arguments, got {len(arguments)}")
        found: list[Any] = []
        for i, (kind, value) in enumerate(zip(self.types, arguments, strict=True)):
            where = f"argument {i} of {self.name}, a {kind}"
            if "*" in kind:
                wanted = POINTED[kind.replace("const", "").replace("*", "").strip()]
                if isinstance(value, np.ndarray):
                    if value.dtype != wanted or not value.flags.c_contiguous:
                        raise TypeError(f"{where}: got {value.dtype}, contiguous {value.flags.c_contiguous}")
                    found.append(np.uint64(value.ctypes.data))
                elif type(value) is np.uint64 and not value:
                    found.append(value)
                else:
                    raise TypeError(f"{where}: got {value!r}")
            else:
                if type(value) is not SCALARS[kind]:
                    raise TypeError(f"{where}: got {type(value).__name__}")
                found.append(value)
        return found

    def __call__(
        self, grid: tuple[int, ...], n_threads: int, arguments: tuple[Any, ...], shared_bytes: int = 0
    ) -> None:
        """Run all blocks."""
        held = [np.array([value]) for value in self.checked(arguments)]
        addresses = (ctypes.c_void_p * len(held))(*(one.ctypes.data for one in held))
        sizes = (*grid, 1)
        given = (ctypes.c_int * 4)(sizes[0], sizes[1], shared_bytes, self.cluster)
        self.function(given, n_threads, addresses)


@contextmanager
def backwards(text: str) -> Iterator[None]:
    """Within it the last thread of a block begins: results change where a barrier is missing."""
    turn = next(iter(compiled(text).values())).turn
    turn(1)
    try:
        yield
    finally:
        turn(0)


@cache
def compiled(text: str) -> dict[str, Kernel]:
    """The kernels of a text by name; built once for each text, and once for all sizes of clusters."""
    cluster, flags = 1, FLAGS
    size = re.search(r"^#define CLUSTERED 1\n#define CLUSTER (\d+)$", text, re.MULTILINE)
    if size is not None:
        text = text.replace(size[0], "#define CLUSTERED 1\n#define CLUSTER shim_cluster")
        cluster, flags = int(size[1]), [*FLAGS, "-DSHIM_CLUSTERED", "-pthread"]
    shim = (HERE / "cuda_shim.h").read_text(encoding="utf-8")
    digest = hashlib.sha256("\0".join([text, shim, *flags, __file__]).encode()).hexdigest()[:16]
    folder = HERE.parent / "build" / "cuda_on_cpu" / digest
    folder.mkdir(parents=True, exist_ok=True)
    pattern = r'extern "C" (__attribute__\(\(used\)\) )?void\s+(\w+)\(([^)]*)\)\s*\{'
    listed = folder / "kernels.txt"
    if not listed.exists():
        listed.write_text(_preprocessed(text, folder, flags), encoding="utf-8")
    found = re.findall(pattern, listed.read_text(encoding="utf-8"))
    kernels = {name: Kernel(name, parameters, not separate, cluster) for separate, name, parameters in found}
    library = folder / "kernels.so"
    if not library.exists():
        wrappers = "\n".join(kernel.wrapper for kernel in kernels.values())
        source = folder / "all.cpp"
        source.write_text(f'#include "cuda_shim.h"\n{text}\n{wrappers}\n', encoding="utf-8")
        part = folder / "part.so"
        command = [compiler() or "g++", "-shared", "-fPIC", *flags, str(source), "-o", str(part)]
        subprocess.run(command, check=True)
        part.rename(library)
    loaded = ctypes.CDLL(str(library))
    for kernel in kernels.values():
        kernel.function = getattr(loaded, f"run_{kernel.name}")
        kernel.function.restype = None
        kernel.turn = loaded.shim_turn
    return kernels
