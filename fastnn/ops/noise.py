"""Dropout and noise, and embeddings.

Random numbers are functions of (seed, step, layer, row, column), the same on every device and in training:
the mask of a row does not depend on the rows beside it. Arrays of more than two dimensions are taken as rows
of their last axis.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from .. import errors, kernels
from ..noise_layers import AlphaDropout
from .shapes import Array, out_table, table, two_dimensional

__all__ = [
    "alpha_dropout",
    "alpha_dropout_backward",
    "dropout",
    "dropout_backward",
    "embedding",
    "embedding_backward",
    "gaussian_noise",
]

_LAYERS, _STEPS = 2**16 - 1, 2**44 - 1  # what the counter of the random numbers has room for


def dropout(
    x: ArrayLike,
    rate: float,
    *,
    seed: int,
    step: int = 0,
    layer: int = 0,
    first_row: int = 0,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """x with each number zero with probability `rate`, the others times 1 / (1 - rate); and the mask.

    Parameters
    ----------
    seed, step, layer : int
        Key the mask.
    first_row : int
        Number of the first row in its batch.

    Returns
    -------
    y, mask : ndarray like x
        The mask holds 0 or 1 / (1 - rate): y is x * mask, and its gradient dy * mask.
    """
    share = errors.real("rate", rate, 0.0, 1.0)
    result, mask, keys = _copied(x, seed, step, layer, first_row, out)
    if result.size:
        kernels.dropout(out_table(result), out_table(mask), *keys[:3], share, keys[3])
    return result, mask


def dropout_backward(dy: ArrayLike, mask: ArrayLike, *, out: Array | None = None) -> Array:
    """Gradient of `dropout` at x, ``dy * mask``, both of one shape."""
    return _masked(dy, mask, out)


def alpha_dropout(
    x: ArrayLike,
    rate: float,
    *,
    seed: int,
    step: int = 0,
    layer: int = 0,
    first_row: int = 0,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """Dropout for SELU (`fastnn.AlphaDropout`); arguments as those of `dropout`.

    Returns
    -------
    y, mask : ndarray like x
        The mask holds 0 or what x is multiplied by: the gradient at x is dy * mask.
    """
    scale, shift, dropped = AlphaDropout(rate).numbers()
    result, mask, keys = _copied(x, seed, step, layer, first_row, out)
    if result.size and rate == 0:
        mask.fill(1)
    elif result.size:
        kernels.dropout(np.zeros_like(out_table(mask)), out_table(mask), *keys[:3], float(rate), keys[3])
        kernels.alpha_dropout(out_table(result), out_table(mask), scale, shift, dropped)
    return result, mask


def alpha_dropout_backward(dy: ArrayLike, mask: ArrayLike, *, out: Array | None = None) -> Array:
    """Gradient of `alpha_dropout` at x, ``dy * mask``, both of one shape."""
    return _masked(dy, mask, out)


def gaussian_noise(
    x: ArrayLike,
    std: float,
    *,
    seed: int,
    step: int = 0,
    layer: int = 0,
    first_row: int = 0,
    out: Array | None = None,
) -> Array:
    """x plus normal numbers of deviation std; its gradient is dy. Arguments as those of `dropout`."""
    deviation = errors.real("std", std)
    result, _, keys = _copied(x, seed, step, layer, first_row, out, with_mask=False)
    if result.size:
        kernels.gaussian_noise(out_table(result), *keys[:3], deviation, keys[3])
    return result


def _copied(
    x: ArrayLike,
    seed: int,
    step: int,
    layer: int,
    first_row: int,
    out: Array | None,
    with_mask: bool = True,
) -> tuple[Array, Array, tuple[int, int, int, int]]:
    """x where the result will stand, room for a mask, and the judged key: seed, step, layer, first row."""
    (found,) = errors.reals(x=x)
    keys = (
        errors.seed("seed", seed),
        errors.integer("step", step, 0, _STEPS),
        errors.integer("layer", layer, 0, _LAYERS),
        errors.integer("first_row", first_row, 0, 2**32 - 1),
    )
    n_rows = math.prod(found.shape[:-1])
    if keys[3] + n_rows > 2**32:
        raise ValueError(f"first_row must leave room for {n_rows} rows below 2**32, got {first_row}")
    result = errors.output(out, found.shape, found.dtype, found, in_place=True)
    result[...] = found
    return result, np.empty(found.shape if with_mask else 0, found.dtype), keys


def _masked(dy: ArrayLike, mask: ArrayLike, out: Array | None) -> Array:
    gradient, factors = errors.reals(dy=dy, mask=mask)
    if gradient.shape != factors.shape:
        raise ValueError(f"mask must have the shape of dy, {gradient.shape}, got {factors.shape}")
    result = errors.output(out, gradient.shape, gradient.dtype, gradient, factors, in_place=True)
    if out is not None and np.shares_memory(result, factors):
        factors = factors.copy()
    result[...] = gradient
    if result.size:
        kernels.multiply(out_table(result), table(factors))
    return result


def embedding(codes: ArrayLike, weight: ArrayLike, *, out: Array | None = None) -> Array:
    """The rows of weight (n, width) that codes name; for codes of any shape (..) it is (.., width).

    A code outside 0 .. n-1 is an unknown category: zeros.
    """
    (found,) = errors.reals(weight=weight)
    two_dimensional(weight=found)
    names = _codes(codes)
    result = errors.output(out, (*names.shape, found.shape[1]), found.dtype, found, names)
    if result.size:
        rows = errors.rows(found) if found.size else np.zeros((1, found.shape[1]), found.dtype)
        names = names.reshape(-1) if len(found) else np.full(names.size, -1)
        kernels.embed(names, rows, result.reshape(-1, found.shape[1]) if result.ndim != 2 else result)
    return result


def embedding_backward(dy: ArrayLike, codes: ArrayLike, n_categories: int) -> Array:
    """Gradient of `embedding` at its weight, (n_categories, width): sums of dy (.., width) by code."""
    (gradient,) = errors.reals(dy=dy)
    names, n = _codes(codes), errors.integer("n_categories", n_categories, 0)
    if gradient.ndim == 0 or gradient.shape[:-1] != names.shape:
        raise ValueError(f"dy must have shape {(*names.shape, 'width')}, got {gradient.shape}")
    dweight = np.zeros((n, gradient.shape[-1]), gradient.dtype)
    if dweight.size and gradient.size:
        kernels.embed_gradient(names.reshape(-1), table(gradient), dweight)
    return dweight


def _codes(codes: ArrayLike) -> Array:
    """Whole numbers as int64, C-contiguous."""
    found = errors.array("codes", codes, "integers")
    if found.dtype.kind not in "iu" and found.size:
        raise TypeError(f"codes must hold integers, got dtype {found.dtype}")
    if found.dtype == np.uint64:
        found = np.minimum(found, np.uint64(2**63 - 1))
    return np.ascontiguousarray(found, np.int64)
