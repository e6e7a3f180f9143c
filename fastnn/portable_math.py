"""Powers and cosines of float64 arrays with the same bits on every machine.

NumPy's own depend on the CPU, and so would the learning rates of schedules, and with them the weights. These
are sums and products in a written order, and the kernels' exp and log.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from . import kernels

__all__ = ["cosine", "geometric", "power"]


def power(base: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """base**exponent for base >= 0; NumPy's depends on the CPU."""
    if exponent in (0.0, 1.0):
        return base**exponent
    out = np.zeros(base.shape)
    above = np.ascontiguousarray(base[base > 0])
    kernels.vector("log", above, above)
    above *= exponent
    kernels.vector("exp", above, above)
    out[base > 0] = above
    return out


def geometric(base: float, exponent: NDArray[np.int64]) -> NDArray[np.float64]:
    """base**exponent for whole exponents, by squaring."""
    out, factor, left = np.ones(exponent.shape), base, exponent.copy()
    while left.any():
        out[left & 1 == 1] *= factor
        left >>= 1
        factor *= factor
    return out


def cosine(turns: NDArray[np.float64]) -> NDArray[np.float64]:
    """cos(pi turns) for turns in 0 .. 1."""
    # cos(pi u) = -sin(pi (u - 1/2)), and the series of sine is short up to pi / 2.
    y = (turns - 0.5) * math.pi
    square, term = y * y, y.copy()
    out = term.copy()
    for i in range(1, 12):  # the next term is below 1e-17
        term *= square / (-2 * i * (2 * i + 1))
        out += term
    return -out
