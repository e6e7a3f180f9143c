"""The kernels of kernels_*.cu on one card: compiled at first use, kept on disk by CuPy, and launched."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from .. import kernels
from ..errors import DeviceError
from .array_activations import SLOPES

__all__ = [
    "FROM_INPUT",
    "NORM_BLOCKS",
    "NO_ARRAY",
    "PRECISIONS",
    "ROUNDED_FROM",
    "THREADS",
    "Kernels",
    "joined",
    "number_of",
    "source",
    "text",
]

# Activations whose derivative needs z: there `slope` is given z, for all others f(z).
FROM_INPUT = frozenset(SLOPES)
# How products round their operands; all sums, and all that is no product, are float32.
PRECISIONS = ("float32", "tf32", "bf16")
ROUNDED_FROM = (8, 0)  # compute capability with both rounded products
THREADS = 256  # of a block, as in kernels_base.cu
_WARP = 32
_ROWS_A_BLOCK = THREADS // _WARP  # of kernels whose warps have a row each
_MMA_TILE, _MMA_THREADS = 64, 128
NORM_BLOCKS = 64  # at most, of the sum of squares: enough for the bandwidth of a card, few to add up
NO_ARRAY = np.uint64(0)  # the null pointer: CuPy's None is no address of one


# The files of the kernels, each after those whose functions it calls. The kernel for small nets
# (cuda_persistent.py) has products of its own.
_FUNCTIONS = (
    "kernels_base.cu",
    "kernels_rows.cu",
    "kernels_activations.cu",
    "kernels_losses.cu",
    "kernels_updates.cu",
)
_PRODUCTS = "kernels_products.cu"


@cache
def source() -> str:
    """The text that is compiled for captured steps."""
    return joined(_PRODUCTS)


def joined(*names: str, before: Iterable[str] = ()) -> str:
    """One text for a compiler: the functions of all kernels, then the files of those names.

    The numbers of activations, losses and optimizers, and what else is to be defined, stand `before` them. A
    compiler's messages name the file and its line. CuPy keeps what it has compiled by the text.
    """
    lists: dict[str, Iterable[str]] = {
        "ACT": kernels.ACTIVATIONS,
        "LOSS": kernels.LOSSES,
        "OPT": kernels.OPTIMIZERS,
    }
    lines = [f"#define {kind}_{name} {i}" for kind, names in lists.items() for i, name in enumerate(names)]
    lines += before
    for name in (*_FUNCTIONS, *names):
        lines += [f'#line 1 "{name}"', text(name)]
    return "\n".join(lines)


def text(name: str) -> str:
    """A file of CUDA that is shipped beside this one."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def number_of(names: Any, name: str) -> np.int32:
    """What a name of a list is in the texts."""
    return np.int32(list(names).index(name))


class Kernels:
    """Launches of the kernels, in order, on the current stream.

    Arguments are scalars of NumPy of exactly the types that the texts have, and arrays on the card.

    Parameters
    ----------
    cp : module
        CuPy, or what has its face.
    n_processors : int
        Of the card: products take smaller tiles where large ones would leave some idle.
    precision : str
        Of products; one of PRECISIONS.

    Raises
    ------
    DeviceError
        The text could not be compiled here.
    """

    def __init__(self, cp: Any, n_processors: int, precision: str = "float32") -> None:
        self._module = cp.RawModule(code=source(), options=("--std=c++17",), backend="nvrtc")
        try:
            self._module.get_function("advance")
        except Exception as error:  # NVRTC's log, a missing library, a card that it does not know
            raise DeviceError(
                f"device 'cuda' could not compile its kernels: {type(error).__name__}: {error}; "
                "the extras cuda12 and cuda13 bring the compiler that CuPy needs"
            ) from error
        self._n_processors, self.precision = n_processors, precision
        self._functions: dict[str, Any] = {}

    def _launch(self, name: str, grid: tuple[int, ...], n_threads: int, arguments: tuple[Any, ...]) -> None:
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = self._module.get_function(name)
        function(grid, (n_threads,), arguments)

    def over(self, name: str, n_threads: int, *arguments: Any) -> None:
        """A thread for each of n_threads elements."""
        self._launch(name, (max(1, -(-n_threads // THREADS)),), THREADS, arguments)

    def rows(self, name: str, n_rows: int, *arguments: Any) -> None:
        """A warp for each row."""
        self._launch(name, (-(-n_rows // _ROWS_A_BLOCK),), THREADS, arguments)

    def columns(self, name: str, n_columns: int, *arguments: Any) -> None:
        """A lane for each column."""
        self._launch(name, (-(-n_columns // _WARP),), THREADS, arguments)

    def blocks(self, name: str, n_blocks: int, *arguments: Any) -> None:
        """So many whole blocks."""
        self._launch(name, (n_blocks,), THREADS, arguments)

    def product(
        self,
        form: str,
        a: Any,
        b: Any,
        shape: tuple[int, int, int],
        out: Any,
        bias: Any = NO_ARRAY,
        activation: str = "identity",
        z: Any = NO_ARRAY,
    ) -> None:
        """out (m, n) = f(a b + bias).

        Parameters
        ----------
        form : str
            "nn", "nt" (b is stored (n, k)) or "tn" (a is stored (k, m)).
        shape : (m, n, k)
        z : array (m, n)
            Takes what f is of, where it is given.
        """
        m, n, k = shape
        if self.precision == "float32":
            side, n_threads = self.tile(m, n), THREADS
            name = f"matmul_{form}_{side}"
        else:
            side, n_threads = _MMA_TILE, _MMA_THREADS
            name = f"matmul_{form}_{self.precision}"
        kind = number_of(kernels.ACTIVATIONS, activation)
        arguments = a, b, np.int32(m), np.int32(n), np.int32(k), out, bias, kind, z
        self._launch(name, (-(-n // side), -(-m // side)), n_threads, arguments)

    def tile(self, m: int, n: int) -> int:
        """Side of the tiles of a float32 product: the largest that gives every multiprocessor one."""
        for side in (128, 64):
            if -(-m // side) * -(-n // side) >= self._n_processors:
                return side
        return 32
