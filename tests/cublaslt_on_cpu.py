"""A stand-in for cublasLt, cublaslt_shim.c, whose products are work on the streams of cuda_stand_in."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import cuda_stand_in

HERE = Path(__file__).parent
FLAGS = ["-std=c11", "-O2", "-march=native", "-Wall", "-Werror", "-shared", "-fPIC"]
_QUEUE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


def compiler() -> str | None:
    """A C compiler, if there is one."""
    return shutil.which("gcc") or shutil.which("cc")


@cache
def path() -> Path:
    """The library; built once for each text."""
    text = (HERE / "cublaslt_shim.c").read_bytes()
    folder = HERE.parent / "build" / "cublaslt_on_cpu"
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{hashlib.sha256(text + repr(FLAGS).encode()).hexdigest()[:16]}.so"
    if not library.exists():
        part = library.with_suffix(".part")
        command = [compiler() or "gcc", *FLAGS, str(HERE / "cublaslt_shim.c"), "-o", str(part), "-lm"]
        subprocess.run(command, check=True)
        part.rename(library)
    return library


class Shim:
    """The library as a test sees it.

    Attributes
    ----------
    refuses_capture : bool
        Whether products on a stream that is captured give status 14.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(path()))
        self._library.shim_run.argtypes = (ctypes.c_void_p,)
        self._library.shim_run.restype = None
        self._callback = _QUEUE(self._queue)
        self._library.shim_reset(self._callback)
        self.refuses_capture = False

    def _queue(self, stream: int, job: int) -> int:
        found = cuda_stand_in.Stream.by_pointer[stream]
        if found.captured is not None and self.refuses_capture:
            return 14
        found.add(lambda: self._library.shim_run(job), is_kernel=True)
        return 0

    def quirk(self, name: str, value: int = 1) -> None:
        """Let the library do something otherwise."""
        self._library.shim_quirk(name.encode(), value)

    @property
    def n_live(self) -> int:
        """Handles and descriptors that have been made and not ended."""
        return int(self._library.shim_live())

    @property
    def n_products(self) -> int:
        """How many products were asked for."""
        return int(self._library.shim_queued())

    @property
    def raw(self) -> Any:
        """Its functions."""
        return self._library
