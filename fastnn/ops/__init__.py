"""The kernels as functions of arrays.

float32 arrays give float32; everything else (float64, integers, lists, a mix of types) is computed in
float64, as NumPy promotes. Inputs may be read-only, strided or Fortran-ordered. ``out=`` must have the
exact shape and dtype, be writable and have contiguous rows; it may be the input itself for elementwise
functions and must not overlap an input in any other way.
"""

from __future__ import annotations

from . import activations, losses, noise, norms, products, updates
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
