"""Normalisation, PReLU, and their gradients.

Formulas: `fastnn.BatchNorm`, `fastnn.LayerNorm`, `fastnn.RMSNorm`, `fastnn.PReLU`. Gradients are sums over
rows. ``out=`` may be x itself; of a gradient, x or the gradient that is given.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .. import errors, kernels
from .shapes import Array, out_table, table, two_dimensional

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "column_moments",
    "layer_norm",
    "layer_norm_backward",
    "prelu",
    "prelu_backward",
    "rms_norm",
    "rms_norm_backward",
]


def _named(x: ArrayLike, **others: ArrayLike | None) -> dict[str, Array | None]:
    """x and what else is given, of one type; the others are numbers (n,), one a column of x."""
    given = {"x": x, **{name: value for name, value in others.items() if value is not None}}
    found = dict(zip(given, errors.reals(**given), strict=True))
    if found["x"].ndim == 0:
        raise ValueError("x must have at least one dimension, got a number")
    n = found["x"].shape[-1]
    for name, value in found.items():
        if name == "dy" and value.shape != found["x"].shape:
            raise ValueError(f"dy must have the shape of x, {found['x'].shape}, got {value.shape}")
        if name not in ("x", "dy"):
            if value.shape != (n,):
                raise ValueError(f"{name} must have shape ({n},), one a column of x, got {value.shape}")
            found[name] = np.ascontiguousarray(value)
    return {name: found.get(name) for name in ("x", *others)}


def _result(out: Array | None, x: Array, *others: Array | None) -> Array:
    """The array to be filled, of the shape of x."""
    return errors.output(out, x.shape, x.dtype, *[a for a in (x, *others) if a is not None], in_place=True)


# ---------------------------------------------------------------- by rows


def layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    out: Array | None = None,
) -> Array:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last axis of x (.., n), var biased.

    Parameters
    ----------
    weight, bias : array_like (n,), optional
    """
    return _by_rows(True, x, weight, bias, eps, out)


def layer_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Gradients of `layer_norm` for dy like x: dx like x, dweight (n,), dbias (n,)."""
    return _by_rows_backward(True, dy, x, weight, eps, out)


def rms_norm(
    x: ArrayLike, weight: ArrayLike | None = None, *, eps: float | None = None, out: Array | None = None
) -> Array:
    """``x / sqrt(mean(x**2) + eps) * weight`` over the last axis of x (.., n).

    Parameters
    ----------
    weight : array_like (n,), optional
    eps : float, optional
        None takes the spacing of the numbers at 1, as PyTorch does.
    """
    return _by_rows(False, x, weight, None, eps, out)


def rms_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    eps: float | None = None,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """Gradients of `rms_norm` for dy like x: dx like x, dweight (n,)."""
    return _by_rows_backward(False, dy, x, weight, eps, out)[:2]


def _eps(eps: float | None, dtype: np.dtype[np.float64]) -> float:
    return float(np.finfo(dtype).eps) if eps is None else errors.real("eps", eps)


def _by_rows(
    centred: bool,
    x: ArrayLike,
    weight: ArrayLike | None,
    bias: ArrayLike | None,
    eps: float | None,
    out: Array | None,
) -> Array:
    named = _named(x, weight=weight, bias=bias)
    found, gamma, beta = named["x"], named["weight"], named["bias"]
    assert found is not None
    spread = _eps(eps, found.dtype)
    result = _result(out, found, gamma, beta)
    if beta is not None and gamma is None:
        gamma = np.ones_like(beta)
    if result.size:
        rows = table(found)
        stats = np.empty((len(rows), 2), rows.dtype)
        kernels.norm_rows(rows, gamma, beta, centred, spread, out_table(result), stats)
    return result


def _by_rows_backward(
    centred: bool,
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike | None,
    eps: float | None,
    out: Array | None,
) -> tuple[Array, Array, Array]:
    """dx, dweight and dbias."""
    named = _named(x, dy=dy, weight=weight)
    found, gradient, gamma = named["x"], named["dy"], named["weight"]
    assert found is not None
    assert gradient is not None
    spread = _eps(eps, found.dtype)
    result = _result(out, found, gradient, gamma)
    dweight, dbias = np.zeros(found.shape[-1], found.dtype), np.zeros(found.shape[-1], found.dtype)
    if result.size:
        kernels.sum_rows(table(gradient), dbias)  # first: dx may take its place
        rows = table(found)
        stats = np.empty((len(rows), 2), rows.dtype)
        kernels.norm_rows(rows, None, None, centred, spread, np.empty_like(rows, order="C"), stats)
        kernels.norm_rows_backward(rows, gamma, centred, stats, table(gradient), out_table(result), dweight)
    return result, dweight, dbias


# ---------------------------------------------------------------- by columns


def column_moments(x: ArrayLike) -> tuple[Array, Array]:
    """Mean and biased variance (n,) of the columns of x (batch, n), at least one row."""
    (found,) = errors.reals(x=x)
    two_dimensional(x=found)
    if len(found) == 0:
        raise ValueError(f"x must have at least one row, got shape {found.shape}")
    mean, var = np.empty(found.shape[1], found.dtype), np.empty(found.shape[1], found.dtype)
    if found.size:
        kernels.column_moments(errors.rows(found), mean, var)
    return mean, var


def batch_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    mean: ArrayLike | None = None,
    var: ArrayLike | None = None,
    eps: float = 1e-5,
    out: Array | None = None,
) -> Array:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` of the columns of x (batch, n).

    Parameters
    ----------
    weight, bias : array_like (n,), optional
    mean, var : array_like (n,), optional
        None: those of x, the variance biased, as in training; `column_moments` gives them. Running
        statistics, as in prediction: both.
    """
    found, gamma, beta, mean_, var_, spread, _ = _by_columns(x, weight, bias, mean, var, eps)
    result = _result(out, found, gamma, beta, mean_, var_)
    if result.size:
        kernels.norm_columns(errors.rows(found), mean_, var_, gamma, beta, spread, result)
    return result


def batch_norm_backward(
    dy: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    mean: ArrayLike | None = None,
    var: ArrayLike | None = None,
    eps: float = 1e-5,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Gradients of `batch_norm` for dy like x: dx like x, dweight (n,), dbias (n,).

    Without mean and var those of x have their part in dx; given ones are constants.
    """
    found, gamma, _, mean_, var_, spread, gradient = _by_columns(x, weight, None, mean, var, eps, dy)
    assert gradient is not None
    result = _result(out, found, gradient, gamma, mean_, var_)
    dweight, dbias = np.zeros_like(mean_), np.zeros_like(mean_)
    if result.size:
        kernels.norm_columns_backward(
            errors.rows(found),
            mean_,
            var_,
            gamma,
            spread,
            mean is None,
            errors.rows(gradient),
            result,
            dweight,
            dbias,
        )
    return result, dweight, dbias


def _by_columns(
    x: ArrayLike,
    weight: ArrayLike | None,
    bias: ArrayLike | None,
    mean: ArrayLike | None,
    var: ArrayLike | None,
    eps: float,
    dy: ArrayLike | None = None,
) -> tuple[Array, Array | None, Array | None, Array, Array, float, Array | None]:
    """x, weight and bias (both or none), mean, var, eps, dy: judged."""
    spread = errors.real("eps", eps)
    if (mean is None) != (var is None):
        missing, given = ("mean", "var") if mean is None else ("var", "mean")
        raise ValueError(f"{missing} must be given with {given}, got None")
    named = _named(x, dy=dy, weight=weight, bias=bias, mean=mean, var=var)
    found, gamma, beta = named["x"], named["weight"], named["bias"]
    assert found is not None
    two_dimensional(x=found)
    if mean is None:
        mean_, var_ = column_moments(found)
    else:
        assert named["mean"] is not None
        assert named["var"] is not None
        mean_, var_ = named["mean"], named["var"]
        if not (var_ >= 0).all():
            raise ValueError(f"var must not be negative, got {var_[int((~(var_ >= 0)).argmax())]}")
    if gamma is None and beta is not None:
        gamma = np.ones_like(beta)
    elif gamma is not None and beta is None:
        beta = np.zeros_like(gamma)
    return found, gamma, beta, mean_, var_, spread, named["dy"]


# ---------------------------------------------------------------- PReLU


def prelu(z: ArrayLike, slope: ArrayLike, *, out: Array | None = None) -> Array:
    """z where it is above 0, else slope * z; z (.., n), slope a number or (n,)."""
    found, slopes, _ = _bent(z, slope)
    result = _result(out, found, slopes)
    if result.size:
        kernels.prelu(table(found), slopes, out_table(result))
    return result


def prelu_backward(
    da: ArrayLike, z: ArrayLike, slope: ArrayLike, *, out: Array | None = None
) -> tuple[Array, Array]:
    """Gradients of `prelu` for da like z: dz like z, and dslope, of the shape of slope."""
    found, slopes, gradient = _bent(z, slope, da)
    assert gradient is not None
    result = _result(out, found, slopes, gradient)
    dslope = np.zeros_like(slopes)
    if result.size:
        kernels.prelu_backward(table(found), slopes, table(gradient), out_table(result), dslope)
    return result, dslope.reshape(np.shape(slope))


def _bent(z: ArrayLike, slope: ArrayLike, da: ArrayLike | None = None) -> tuple[Array, Array, Array | None]:
    """z, slopes (1,) or (n,), da: of one type."""
    gradient = None
    if da is None:
        found, slopes = errors.reals(z=z, slope=slope)
    else:
        found, slopes, gradient = errors.reals(z=z, slope=slope, da=da)
        if gradient.shape != found.shape:
            raise ValueError(f"da must have the shape of z, {found.shape}, got {gradient.shape}")
    n = found.shape[-1] if found.ndim else 1
    if slopes.shape not in ((), (1,), (n,)):
        raise ValueError(f"slope must be a number or have shape ({n},), got shape {slopes.shape}")
    return found, np.ascontiguousarray(slopes).reshape(-1), gradient
