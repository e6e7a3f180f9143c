"""The kernels as functions of arrays.

float32 arrays give float32; everything else (float64, integers, lists, a mix of types) is computed in
float64, as NumPy promotes. Inputs may be read-only, strided or Fortran-ordered. ``out=`` must have the
exact shape and dtype, be writable and have contiguous rows; it may be the input itself for elementwise
functions and must not overlap an input in any other way.

Tensors of PyTorch on the CPU give tensors, and are read and written where they lie, ``out=`` and what a step
of an optimizer changes too; no gradient is recorded. Arrays of CuPy give arrays of CuPy, computed on the card
where all of a call must lie. Other arrays that NumPy can read give NumPy arrays (docs/backends.md).
"""

from __future__ import annotations

from typing import Any

from . import activations, kinds, losses, noise, norms, products, updates
from .activations import *  # noqa: F403
from .losses import *  # noqa: F403
from .noise import *  # noqa: F403
from .norms import *  # noqa: F403
from .products import *  # noqa: F403
from .updates import *  # noqa: F403

__all__ = sorted(
    {name for module in (activations, losses, noise, norms, products, updates) for name in module.__all__}
    - {"ACTIVATIONS"}
)


def _open_to_all() -> None:
    """Each function, here and in ACTIVATIONS, as `kinds` lets it take any library's arrays."""
    names: dict[str, Any] = globals()
    for name in __all__:
        names[name] = kinds.of_any_library(names[name])
    for name in activations.ACTIVATIONS:
        activations.ACTIVATIONS[name] = names[name], names[f"{name}_backward"]


_open_to_all()
