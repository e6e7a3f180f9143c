"""Numbers near the ends of their dtype's range, where scikit-learn's order of operations shows.

It sums a batch's gradients and then divides by the weight of the batch; here each row is divided before the
sum. The results are the same but for roundings until such a sum overflows or underflows. What could bring
that about is trained by scikit-learn's own code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .. import kernels

__all__ = ["REAL", "far", "largest", "odd_weights"]

Array = NDArray[Any]

REAL = (np.dtype(np.float32), np.dtype(np.float64))
# Powers of the largest number: a product of an input, a gradient and a weight as large as these, summed over
# millions of rows, is still in range.
_FAR = 0.4
_WEIGHTS = {4: 1e-15, 8: 1e-30}


def largest(x: Any) -> float | None:
    """The largest size of a number in x; NaN where one is not finite, None for what is no plain array.

    Parameters
    ----------
    x : object
        As a user gave it.
    """
    if not (type(x) is np.ndarray and x.ndim <= 2 and x.dtype in REAL and x.flags.aligned):
        return None
    if x.flags.c_contiguous:
        return kernels.largest(x.reshape(-1))
    return kernels.largest(x.T.reshape(-1)) if x.flags.f_contiguous else None


def far(name: str, x: Any, dtype: np.dtype[Any], known: float | None = None) -> str | None:
    """What to say where some number of x is so large that it is for scikit-learn's code; None: none is.

    Parameters
    ----------
    name : str
    x : ndarray or sparse matrix
    dtype : numpy.dtype
        Whose range counts.
    known : float, optional
        `largest` of x.
    """
    values = x.data if sparse.issparse(x) else x
    found = largest(values) if known is None else known
    if found is None:
        found = float(np.abs(values).max(initial=0.0))
    bound = float(np.finfo(dtype).max) ** _FAR
    if found <= bound:
        return None
    return f"numbers of {name} are beyond {bound:.2g} in size, or not finite"


def odd_weights(weight: Array | None, dtype: np.dtype[Any]) -> str | None:
    """Likewise of sample weights, which may also be too small; zeros are not."""
    least = _WEIGHTS[dtype.itemsize]
    if weight is not None and not weight.any():
        return "sample_weight is all zeros"
    if weight is None or np.all((weight == 0) | ((weight > least) & (weight < 1 / least))):
        return None
    return f"some of sample_weight are neither 0 nor between {least:g} and {1 / least:g}"
