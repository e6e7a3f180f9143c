"""Initial weights: the named distributions and the right default for each activation.

Numbers are drawn in double precision from Philox, keyed by (seed, layer, parameter, index), and rounded
to the model's dtype at the end: the same seed gives the same weights on every machine and device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from . import errors, kernels

__all__ = ["INITIALIZERS", "default_for", "draw", "normal_quantile"]

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


INITIALIZERS: dict[str, Callable[[Doubles, int, int], Doubles]] = {
    f.__name__: f
    for f in (glorot_uniform, glorot_normal, he_uniform, he_normal, lecun_uniform, lecun_normal, zeros)
}

# Rectifiers lose half of the variance, which He's factor restores; self-normalizing units are derived for
# LeCun's; all others take Glorot's compromise between the two directions.
_RECTIFIERS = frozenset({"relu", "leaky_relu", "elu", "gelu", "silu", "mish", "softplus", "hard_swish"})


def default_for(activation: str) -> str:
    """The initializer that suits an activation."""
    if activation in _RECTIFIERS:
        return "he_normal"
    return "lecun_normal" if activation == "selu" else "glorot_uniform"


def normal(n: int, *, seed: int, layer: int, parameter: int) -> Doubles:
    """n normal numbers of deviation 1: where embeddings start."""
    return normal_quantile(kernels.uniform(seed, layer, parameter, n))


def draw(name: str, n_in: int, n_out: int, *, seed: int, layer: int, parameter: int = 0) -> Doubles:
    """Initial weights (n_in, n_out) in double precision, a function of the arguments alone."""
    method = INITIALIZERS[errors.choice("weight_init", name, INITIALIZERS)]
    u = kernels.uniform(seed, layer, parameter, n_in * n_out)
    return method(u, n_in, n_out).reshape(n_in, n_out)
