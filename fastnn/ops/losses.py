"""Losses of a batch with their gradients."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .. import errors, kernels
from .shapes import Array, two_dimensional

__all__ = ["binary_cross_entropy", "cross_entropy", "mse"]


def cross_entropy(
    z: ArrayLike, labels: ArrayLike, sample_weight: ArrayLike | None = None
) -> tuple[float, Array]:
    """Softmax cross-entropy of logits z (n, n_out) and integer labels (n,).

    Returns
    -------
    loss : float
        Mean over the rows, sum(w * l) / sum(w) with weights.
    dz : ndarray (n, n_out)
        Its gradient.
    """
    return _loss("cross_entropy", z, labels, sample_weight)


def binary_cross_entropy(
    z: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
) -> tuple[float, Array]:
    """Cross-entropy of logits z (n, n_out) and targets y of the same shape, from 0 to 1.

    Returns
    -------
    loss : float
        Mean over rows and outputs, the rows weighted.
    dz : ndarray (n, n_out)
        Its gradient.
    """
    return _loss("binary_cross_entropy", z, y, sample_weight, (0.0, 1.0))


def mse(z: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> tuple[float, Array]:
    """Mean of squares of z - y, both (n, n_out).

    Returns
    -------
    loss : float
        Mean over rows and outputs, the rows weighted.
    dz : ndarray (n, n_out)
        Its gradient.
    """
    return _loss("mse", z, y, sample_weight)


def _loss(
    name: str,
    z: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    bounds: tuple[float, float] | None = None,
) -> tuple[float, Array]:
    (found,) = errors.reals(z=z)
    two_dimensional(z=found)
    if found.size == 0:
        raise ValueError(f"z must have at least one row and one column, got shape {found.shape}")
    n_rows, n_out = found.shape
    weights = errors.sample_weights("sample_weight", sample_weight, n_rows)
    if kernels.LOSSES[name] == "label":
        targets = errors.labels("labels", y, n_rows, n_out)
    else:
        targets = errors.values("y", y, n_rows, n_out, found.dtype, bounds)
    total = float(n_rows) if weights is None else float(weights.sum())
    rows, dz = np.empty(n_rows), np.empty(found.shape, found.dtype)
    kernels.loss(name, errors.rows(found), targets, weights, 1.0 / total, rows, dz)
    return float(rows.sum() if weights is None else weights @ rows) / total, dz
