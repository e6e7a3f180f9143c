"""Losses of a batch with their gradients.

Each gives the loss, the mean over the rows (sum(w * l) / sum(w) with weights), and dz, its gradient, of the
shape of z. Where outputs count alone, the loss of a row is the mean over them. Formulas: `fastnn.losses`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .. import errors, kernels, losses, targets
from .shapes import Array, two_dimensional

__all__ = [
    "binary_cross_entropy",
    "cross_entropy",
    "focal",
    "gaussian_nll",
    "hinge",
    "huber",
    "kl_divergence",
    "log_cosh",
    "mae",
    "mse",
    "multi_margin",
    "poisson",
    "quantile",
    "softmax_focal",
]


def cross_entropy(
    z: ArrayLike,
    labels: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> tuple[float, Array]:
    """Softmax cross-entropy of logits z (n, n_out) and integer labels (n,), or probabilities (n, n_out).

    Parameters
    ----------
    label_smoothing : float
        Share of the even distribution in the target.
    ignore_index : int
        Label of rows that count for nothing; they have the gradient zero.

    Returns
    -------
    loss : float
        Mean over the rows that are not ignored, sum(w * l) / sum(w) with weights.
    dz : ndarray (n, n_out)
        Its gradient.

    Raises
    ------
    ValueError
        No row has a weight and a label that is not ignored, among other things.
    """
    return _loss(losses.CrossEntropy(label_smoothing, ignore_index), z, labels, sample_weight, "labels")


def kl_divergence(z: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> tuple[float, Array]:
    """Kullback-Leibler divergence of softmax(z) from probabilities y, both (n, n_out), and its gradient."""
    return _loss(losses.KLDivergence(), z, y, sample_weight)


def softmax_focal(
    z: ArrayLike,
    labels: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    gamma: float = 2.0,
) -> tuple[float, Array]:
    """Focal loss of logits z (n, n_out) and integer labels (n,), and its gradient (n, n_out)."""
    return _loss(losses.SoftmaxFocal(gamma), z, labels, sample_weight, "labels")


def multi_margin(
    z: ArrayLike,
    labels: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    p: int = 1,
    margin: float = 1.0,
) -> tuple[float, Array]:
    """Hinge loss of scores z (n, n_out) and integer labels (n,), and its gradient (n, n_out)."""
    return _loss(losses.MultiMargin(p, margin), z, labels, sample_weight, "labels")


def binary_cross_entropy(
    z: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    pos_weight: float | Sequence[float] | None = None,
) -> tuple[float, Array]:
    """Cross-entropy of logits z (n, n_out) and targets y of the same shape, from 0 to 1.

    Parameters
    ----------
    pos_weight : float or sequence of n_out floats, optional
        Multiplies the positive part of the loss.

    Returns
    -------
    loss : float
        Mean over rows and outputs, the rows weighted.
    dz : ndarray (n, n_out)
        Its gradient.
    """
    return _loss(losses.BinaryCrossEntropy(pos_weight), z, y, sample_weight)  # type: ignore[arg-type]


def focal(
    z: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
) -> tuple[float, Array]:
    """Focal loss of logits z and targets y from 0 to 1, both (n, n_out), and its gradient (n, n_out)."""
    return _loss(losses.Focal(alpha, gamma), z, y, sample_weight)


def hinge(z: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> tuple[float, Array]:
    """Hinge loss of scores z and targets y that are -1 or 1, both (n, n_out), and its gradient (n, n_out)."""
    return _loss(losses.Hinge(), z, y, sample_weight)


def mse(z: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> tuple[float, Array]:
    """Mean of squares of z - y, both (n, n_out), and its gradient (n, n_out)."""
    return _loss(losses.MSE(), z, y, sample_weight)


def mae(z: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> tuple[float, Array]:
    """Mean of sizes of z - y, both (n, n_out), and its gradient (n, n_out), 0 where they are equal."""
    return _loss(losses.MAE(), z, y, sample_weight)


def huber(
    z: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None, *, delta: float = 1.0
) -> tuple[float, Array]:
    """Huber's loss of z - y, both (n, n_out), linear beyond delta, and its gradient (n, n_out)."""
    return _loss(losses.Huber(delta), z, y, sample_weight)


def log_cosh(z: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> tuple[float, Array]:
    """Mean of log(cosh(z - y)), both (n, n_out), and its gradient (n, n_out)."""
    return _loss(losses.LogCosh(), z, y, sample_weight)


def quantile(
    z: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    q: float | Sequence[float] = 0.5,
) -> tuple[float, Array]:
    """Pinball loss of z (n, n_out) and targets y (n, n_out / number of quantiles), and its gradient."""
    return _loss(losses.Quantile(q), z, y, sample_weight)  # type: ignore[arg-type]


def poisson(
    z: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
) -> tuple[float, Array]:
    """Negative log-likelihood of counts y, z being (logarithms of) rates (n, n_out), and its gradient."""
    return _loss(losses.Poisson(log_input, full, eps), z, y, sample_weight)


def gaussian_nll(
    z: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    full: bool = False,
    eps: float = 1e-6,
) -> tuple[float, Array]:
    """Negative log-likelihood of y (n, n_out / 2), z being means and then log-variances, and its gradient."""
    return _loss(losses.GaussianNLL(full, eps), z, y, sample_weight)


def _loss(
    loss: losses.Loss,
    z: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    y_name: str = "y",
) -> tuple[float, Array]:
    (found,) = errors.reals(z=z)
    two_dimensional(z=found)
    if found.size == 0:
        raise ValueError(f"z must have at least one row and one column, got shape {found.shape}")
    n_rows, n_out = found.shape
    weights = errors.sample_weights("sample_weight", sample_weight, n_rows)
    judged = targets.judged(loss, y_name, y, n_rows, n_out, found.dtype)
    judged, weights, _ = targets.counted(loss, y_name, judged, weights)
    total = float(n_rows) if weights is None else float(weights.sum())
    rows, dz = np.empty(n_rows), np.empty(found.shape, found.dtype)
    kernels.loss(loss.name, errors.rows(found), judged, weights, 1.0 / total, rows, dz, loss.numbers(n_out))
    return float(rows.sum() if weights is None else weights @ rows) / total, dz
