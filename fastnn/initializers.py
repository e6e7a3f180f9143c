"""Initial weights: the named distributions, those with parameters, and the right default for each activation.

Numbers are drawn in double precision from Philox, keyed by (seed, layer, parameter, index), and rounded
to the model's dtype at the end: the same seed gives the same weights on every machine and device.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import errors, kernels
from .late_dataclass import dataclass

__all__ = [
    "INITIALIZERS",
    "Constant",
    "Initializer",
    "Orthogonal",
    "TruncatedNormal",
    "default_for",
    "draw",
    "judged",
    "normal_quantile",
]

Doubles = NDArray[np.float64]

# ---------------------------------------------------------------- the normal distribution

# Wichura, M. J. (1988), Algorithm AS 241: the percentage points of the normal distribution, PPND16.
# Numerator and denominator for the middle (|p - 1/2| <= 0.425), in r = 0.180625 - (p - 1/2)^2 ...
_MIDDLE = (
    (
        3.3871328727963666080e0,
        1.3314166789178437745e2,
        1.9715909503065514427e3,
        1.3731693765509461125e4,
        4.5921953931549871457e4,
        6.7265770927008700853e4,
        3.3430575583588128105e4,
        2.5090809287301226727e3,
    ),
    (
        1.0,
        4.2313330701600911252e1,
        6.8718700749205790830e2,
        5.3941960214247511077e3,
        2.1213794301586595867e4,
        3.9307895800092710610e4,
        2.8729085735721942674e4,
        5.2264952788528545610e3,
    ),
)
# ... for the tails, in r = sqrt(-log(min(p, 1 - p))) - 1.6 where that root is at most 5 ...
_TAIL = (
    (
        1.42343711074968357734e0,
        4.63033784615654529590e0,
        5.76949722146069140550e0,
        3.64784832476320460504e0,
        1.27045825245236838258e0,
        2.41780725177450611770e-1,
        2.27238449892691845833e-2,
        7.74545014278341407640e-4,
    ),
    (
        1.0,
        2.05319162663775882187e0,
        1.67638483018380384940e0,
        6.89767334985100004550e-1,
        1.48103976427480074590e-1,
        1.51986665636164571966e-2,
        5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    ),
)
# ... and for what lies beyond, in r = root - 5.
_FAR_TAIL = (
    (
        6.65790464350110377720e0,
        5.46378491116411436990e0,
        1.78482653991729133580e0,
        2.96560571828504891230e-1,
        2.65321895265761230930e-2,
        1.24266094738807843860e-3,
        2.71155556874348757815e-5,
        2.01033439929228813265e-7,
    ),
    (
        1.0,
        5.99832206555887937690e-1,
        1.36929880922735805310e-1,
        1.48753612908506148525e-2,
        7.86869131145613259100e-4,
        1.84631831751005468180e-5,
        1.42151175831644588870e-7,
        2.04426310338993978564e-15,
    ),
)


def normal_quantile(p: Doubles) -> Doubles:
    """The x below which a standard normal variable lies with probability p, 0 < p < 1.

    Wichura (1988), Algorithm AS 241 (PPND16), relative accuracy about 1e-16.
    """
    q = p - 0.5
    middle = _ratio(_MIDDLE, 0.180625 - q * q) * q
    root = np.minimum(p, 1.0 - p)
    kernels.vector("log", root, root)  # NumPy's may differ in the last bit between machines
    root = np.sqrt(-root)
    tail = np.where(root <= 5.0, _ratio(_TAIL, root - 1.6), _ratio(_FAR_TAIL, root - 5.0))
    return np.where(np.abs(q) <= 0.425, middle, np.copysign(tail, q))


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], r: Doubles) -> Doubles:
    """Numerator by denominator at r, both by Horner's rule."""
    numerator, denominator = (np.full_like(r, polynomial[-1]) for polynomial in coefficients)
    for over, under in zip(coefficients[0][-2::-1], coefficients[1][-2::-1], strict=True):
        numerator = numerator * r + over
        denominator = denominator * r + under
    return numerator / denominator


# ---------------------------------------------------------------- the methods


def glorot_uniform(u: Doubles, fan_in: int, fan_out: int) -> Doubles:
    """Uniform within sqrt(6 / (fan_in + fan_out)): Glorot and Bengio (2010), the normalized form."""
    return math.sqrt(6.0 / (fan_in + fan_out)) * (2.0 * u - 1.0)


def glorot_normal(u: Doubles, fan_in: int, fan_out: int) -> Doubles:
    """Normal with variance 2 / (fan_in + fan_out): Glorot and Bengio (2010)."""
    return math.sqrt(2.0 / (fan_in + fan_out)) * normal_quantile(u)


def he_uniform(u: Doubles, fan_in: int, fan_out: int) -> Doubles:
    """Uniform within sqrt(6 / fan_in): He et al. (2015), for rectifiers."""
    return math.sqrt(6.0 / fan_in) * (2.0 * u - 1.0)


def he_normal(u: Doubles, fan_in: int, fan_out: int) -> Doubles:
    """Normal with variance 2 / fan_in: He et al. (2015), for rectifiers."""
    return math.sqrt(2.0 / fan_in) * normal_quantile(u)


def lecun_uniform(u: Doubles, fan_in: int, fan_out: int) -> Doubles:
    """Uniform within sqrt(3 / fan_in): LeCun et al. (1998), Efficient BackProp."""
    return math.sqrt(3.0 / fan_in) * (2.0 * u - 1.0)


def lecun_normal(u: Doubles, fan_in: int, fan_out: int) -> Doubles:
    """Normal with variance 1 / fan_in: LeCun et al. (1998), Efficient BackProp."""
    return math.sqrt(1.0 / fan_in) * normal_quantile(u)


def zeros(u: Doubles, fan_in: int, fan_out: int) -> Doubles:
    """Zeros: for a last layer that shall start from equal outputs; hidden layers learn nothing from it."""
    return np.zeros_like(u)


def truncated_normal(u: Doubles, fan_in: int, fan_out: int) -> Doubles:
    """``TruncatedNormal()``: deviation 0.02 before the tails beyond two deviations are cut off."""
    return _truncated(TruncatedNormal(), u)


def orthogonal(u: Doubles, fan_in: int, fan_out: int) -> Doubles:
    """``Orthogonal()``: orthonormal columns, or rows where there are fewer: Saxe et al. (2014)."""
    return _orthogonal(Orthogonal(), u, fan_in, fan_out)


INITIALIZERS: dict[str, Callable[[Doubles, int, int], Doubles]] = {
    f.__name__: f
    for f in (
        glorot_uniform,
        glorot_normal,
        he_uniform,
        he_normal,
        lecun_uniform,
        lecun_normal,
        truncated_normal,
        orthogonal,
        zeros,
    )
}


# ---------------------------------------------------------------- those with parameters


class Initializer:
    """What the descriptions of initial weights share; they compare, print and save themselves."""

    def _judge(self, field: str, low: float, *, low_open: bool = False) -> None:
        value = errors.real(field, getattr(self, field), low, sys.float_info.max)
        if low_open and value == low:
            raise ValueError(f"{field} must be greater than {low:g}, got {value:g}")
        object.__setattr__(self, field, value)


@dataclass(frozen=True)
class Constant(Initializer):
    """Every weight starts as `value`.

    Parameters
    ----------
    value : float
    """

    value: float

    def __post_init__(self) -> None:
        self._judge("value", -sys.float_info.max)


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """A normal distribution without its tails beyond two deviations, as vision transformers start.

    What is left has 0.88 of the deviation `std`.

    Parameters
    ----------
    std : float
        Deviation before the tails are cut off, above 0.
    mean : float
    """

    std: float = 0.02
    mean: float = 0.0

    def __post_init__(self) -> None:
        self._judge("std", 0.0, low_open=True)
        self._judge("mean", -sys.float_info.max)


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """A random matrix with orthonormal columns, or rows where there are fewer of them (Saxe et al. 2014).

    Of normal numbers the factor Q of their QR decomposition whose R has a positive diagonal.

    Parameters
    ----------
    gain : float
        Factor on all weights, above 0.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        self._judge("gain", 0.0, low_open=True)


def judged(argument: str, value: object) -> str | Initializer:
    """A name of `INITIALIZERS` or a description. Raises ValueError or TypeError for anything else."""
    return value if isinstance(value, Initializer) else errors.choice(argument, value, INITIALIZERS)


def judged_bias(argument: str, value: Any, n: int) -> float | tuple[float, ...] | str | Initializer:
    """What n biases start with: a number, n numbers, or a distribution that draws each by itself."""
    if isinstance(value, (str, Initializer)):
        if value == "orthogonal" or isinstance(value, Orthogonal):
            raise ValueError(f"{argument} must be no distribution of matrices, got {value!r}")
        return judged(argument, value)
    value = errors.listed(value)
    if not isinstance(value, (tuple, list)):
        return errors.real(argument, value, -sys.float_info.max)
    if len(value) != n:
        raise ValueError(f"{argument} must be one number or {n}, one a unit, got {len(value)}")
    return tuple(errors.real(f"{argument}[{i}]", one, -sys.float_info.max) for i, one in enumerate(value))


_TWO_DEVIATIONS = 0.022750131948179207  # of a normal distribution lie below -2


def _truncated(o: TruncatedNormal, u: Doubles) -> Doubles:
    """From uniform numbers by the quantiles between -2 and 2 deviations."""
    return o.mean + o.std * normal_quantile(_TWO_DEVIATIONS + (1.0 - 2.0 * _TWO_DEVIATIONS) * u)


# Rows made orthogonal to each other one by one, before the next so many are freed of them by products.
_ROWS = 32


def _orthogonal(o: Orthogonal, u: Doubles, n_in: int, n_out: int) -> Doubles:
    """Q of normal numbers (n_in, n_out), by our own products: LAPACK's bits differ between machines.

    Gram-Schmidt in blocks, everything twice, which leaves what is rounded (Giraud et al. 2005). It makes the
    diagonal of R positive by itself.
    """
    numbers = normal_quantile(u).reshape(n_in, n_out)
    rows = np.ascontiguousarray(numbers.T if n_in >= n_out else numbers)
    for first in range(0, len(rows), _ROWS):
        block, done = rows[first : first + _ROWS], rows[:first]
        for _ in range(2):
            _free(block, done)
            for i in range(len(block)):
                row = block[i : i + 1]
                _free(row, block[:i])
                square = np.empty((1, 1))
                kernels.linear_input_gradient(row, row, square)
                row /= math.sqrt(square[0, 0])
    rows *= o.gain
    return rows.T if n_in >= n_out else rows


def _free(rows: Doubles, of: Doubles) -> None:
    """Take from rows (m, n) their parts along orthonormal ones (k, n), in place."""
    if len(of):
        parts, along = np.empty((len(rows), len(of))), np.empty_like(rows)
        kernels.linear_input_gradient(rows, of, parts)
        kernels.matmul(parts, of, None, "identity", along)
        rows -= along


# Rectifiers lose half of the variance, which He's factor restores; self-normalizing units are derived for
# LeCun's; all others take Glorot's compromise between the two directions.
_RECTIFIERS = frozenset(
    [
        *("relu", "leaky_relu", "relu6", "elu", "celu", "gelu"),
        *("gelu_tanh", "silu", "mish", "softplus", "hard_swish"),
    ]
)


def default_for(activation: str) -> str:
    """The initializer that suits an activation."""
    if activation in _RECTIFIERS:
        return "he_normal"
    return "lecun_normal" if activation == "selu" else "glorot_uniform"


def normal(n: int, *, seed: int, layer: int, parameter: int) -> Doubles:
    """n normal numbers of deviation 1: where embeddings start."""
    return normal_quantile(kernels.uniform(seed, layer, parameter, n))


def draw(
    init: str | Initializer, n_in: int, n_out: int, *, seed: int, layer: int, parameter: int = 0
) -> Doubles:
    """Initial weights (n_in, n_out) in double precision, a function of the arguments alone."""
    init = judged("weight_init", init)
    if isinstance(init, Constant):
        return np.full((n_in, n_out), init.value)
    u = kernels.uniform(seed, layer, parameter, n_in * n_out)
    if isinstance(init, TruncatedNormal):
        numbers = _truncated(init, u)
    elif isinstance(init, Orthogonal):
        numbers = _orthogonal(init, u, n_in, n_out)
    else:
        assert isinstance(init, str), f"{init!r} is drawn by nobody"
        numbers = INITIALIZERS[init](u, n_in, n_out)
    return numbers.reshape(n_in, n_out)


def draw_bias(
    init: float | tuple[float, ...] | str | Initializer, n_in: int, n_out: int, *, seed: int, layer: int
) -> Doubles:
    """Initial biases (n_out,) of a layer of those widths: parameter 1 of its layer, where weights are 0."""
    if isinstance(init, (float, tuple)):
        return np.broadcast_to(np.asarray(init, np.float64), n_out)
    if isinstance(init, Constant):
        return np.full(n_out, init.value)
    u = kernels.uniform(seed, layer, 1, n_out)
    if isinstance(init, TruncatedNormal):
        return _truncated(init, u)
    assert isinstance(init, str), f"{init!r} is drawn by nobody"
    return INITIALIZERS[init](u, n_in, n_out)
