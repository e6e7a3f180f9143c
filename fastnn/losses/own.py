"""A loss of your own, and the check of its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import errors, kernels, targets
from ..late_dataclass import dataclass
from .base import Array, Loss
from .of_classes import (
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    Hinge,
    KLDivergence,
    MultiMargin,
    SoftmaxFocal,
)
from .of_values import MAE, MSE, GaussianNLL, Huber, LogCosh, Poisson, Quantile

__all__ = ["CLASSES", "Custom", "check", "get"]


@dataclass(frozen=True)
class Custom(Loss):
    """A loss of your own; as ``loss=`` the bare function will do.

    It is called once a step, on the whole batch and on one thread, with the GIL.

    Parameters
    ----------
    function : callable
        ``function(z, y, sample_weight) -> (loss, dz)``: z (batch, n_out) what the model gives, in its dtype;
        y labels (batch,) as int64, or values (batch, n_out) in the model's dtype; sample_weight (batch,)
        float64, or None. All are copies, yours to change. `loss` is the mean over the batch, with weights
        sum(weight * loss) / sum(weight), and `dz`, of the shape of z, the gradient of that number: divided by
        the rows or the weights. A batch whose weights are all zero does not reach it. What it raises ends the
        call before the update, and parameters and optimizer state are as before that step.
        `fastnn.losses.check` compares the two.
    name : str, optional
        For messages; None takes the function's own. Checkpoints keep the name, and not the function.
    takes_labels : bool
        Whether targets are labels 0 .. n_out - 1 rather than values.
    """

    function: Callable[..., Any] = field(compare=False)
    name: str = ""
    takes_labels: bool = False

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function must be callable, got {errors.shown(self.function)}")
        name = self.name or getattr(self.function, "__name__", type(self.function).__name__)
        if not isinstance(name, str):
            raise TypeError(f"name must be a text, got {errors.shown(name)}")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "takes_labels", errors.flag("takes_labels", self.takes_labels))

    @property
    def meaning(self) -> str | None:
        """Labels are compared with the largest output, values with all."""
        return "scores" if self.takes_labels else None

    def fault(self) -> tuple[str, str] | None:
        """The function alone knows."""
        return (
            f"{self.name!r} gave a loss or a dz that is not finite",
            "fastnn.losses.check compares its dz with central differences",
        )

    def n_targets(self, n_out: int) -> int:
        """As outputs."""
        return n_out


CLASSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "binary_cross_entropy": BinaryCrossEntropy,
    "mse": MSE,
    "mae": MAE,
    "huber": Huber,
    "log_cosh": LogCosh,
    "quantile": Quantile,
    "poisson": Poisson,
    "gaussian_nll": GaussianNLL,
    "hinge": Hinge,
    "multi_margin": MultiMargin,
    "focal": Focal,
    "kl_divergence": KLDivergence,
    "softmax_focal": SoftmaxFocal,
}


def get(loss: str | Loss | Callable[..., Any]) -> Loss:
    """The description of a loss given by name, as one, or as a function of yours."""
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, (str, type)) or not callable(loss):
        return CLASSES[errors.choice("loss", loss, CLASSES)]()
    return Custom(loss)


def check(
    loss: str | Loss | Callable[..., Any],
    z: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-7,
) -> float:
    """Compare the gradient that a loss gives with central differences of its value, in float64.

    Parameters
    ----------
    loss : Loss, str or callable
        One of fastnn's, `Custom`, or a function ``(z, y, sample_weight) -> (loss, dz)``.
    z : array_like (batch, n_out)
        Where; away from kinks, at which differences are means of both sides.
    y, sample_weight : array_like
        As for `Trainer.fit`. For a function whose targets are labels give
        ``Custom(function, takes_labels=True)``.
    rtol, atol : float
        A number of dz may be off by atol + rtol * its size.

    Returns
    -------
    float
        The largest deviation.

    Raises
    ------
    ValueError
        dz is off: the message says where, and how much.
    """
    described = get(loss)
    point = errors.matrix("z", z, None, np.dtype(np.float64)).copy()
    if not len(point):
        raise ValueError(f"z must have at least one row, got shape {point.shape}")
    n_rows, n_out = point.shape
    targets_ = targets.judged(described, "y", y, n_rows, n_out, point.dtype)
    weight = errors.sample_weights("sample_weight", sample_weight, n_rows)
    targets_, weight, _ = targets.counted(described, "y", targets_, weight)

    def value(at: Array) -> tuple[float, Array]:
        if isinstance(described, Custom):
            copies = targets_.copy(), None if weight is None else weight.copy()
            return targets.own_loss(described, at.copy(), *copies)
        rows, dz = np.empty(n_rows), np.empty(at.shape)
        total = float(n_rows if weight is None else weight.sum())
        numbers_ = described.numbers(n_out)
        kernels.loss(described.name, at, targets_, weight, 1 / total, rows, dz, numbers_)
        return float(rows.sum() if weight is None else weight @ rows) / total, dz

    _, given = value(point)
    expected = np.empty_like(given)
    for place in np.ndindex(*point.shape):
        middle = point[place]
        step = 1e-5 * max(1.0, abs(float(middle)))
        sides = []
        for moved in (middle + step, middle - step):
            point[place] = moved
            sides.append(value(point)[0])
        expected[place] = (sides[0] - sides[1]) / ((middle + step) - (middle - step))
        point[place] = middle
    off = np.abs(given - expected)
    wrong = ~(off <= atol + rtol * np.abs(expected))  # a NaN is wrong
    if wrong.any():
        at = int(np.where(np.isnan(off), np.inf, off).argmax())
        hint = ""
        ratio = float(np.sum(given * expected) / np.sum(expected * expected)) if expected.any() else 0.0
        if ratio and np.allclose(given, ratio * expected, rtol=1e-4, atol=atol):
            hint = f"; all of it is {ratio:g} times too large: is it the gradient of the mean?"
        raise ValueError(
            f"loss {described.name!r} must give its gradient, got dz[{at // n_out}, {at % n_out}] = "
            f"{given.flat[at]:g} where central differences give {expected.flat[at]:g} "
            f"({wrong.sum()} of {wrong.size} numbers are off){hint}"
        )
    return float(off.max())
