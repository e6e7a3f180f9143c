"""Between a public call and a program: what is right passes at once, the order of steps, what a step met.

A call with one row is as long as its Python: `Gate` looks at types and shapes only, 0.6 us, and all that it
does not know goes the long way through the door.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import errors, kernels
from .layers import Embedding, Step
from .losses import Loss
from .samples import Judged

__all__ = ["Gate", "batches", "cut", "explained", "one_batch"]

Array = NDArray[Any]

_RIGHT = 0x101  # of ndarray.flags.num: C-contiguous and aligned
_INT64 = np.dtype(np.int64)
# Row numbers of batches up to so many rows are kept, the last few sizes of them: 1 MB at most.
_KEPT_ROWS = 16384


class Gate:
    """Lets arrays pass that a program takes as they are and judges itself, without a look at their elements.

    The program refuses row numbers and labels out of range before anything is touched, in the words of the
    door, and stops before the update at a target that is not finite. What it would not notice (targets
    between bounds, weights) and what needs a conversion is not let through.

    Parameters
    ----------
    steps : tuple of Step
    dtype : numpy.dtype
        Of the model.
    loss : Loss
    """

    def __init__(self, steps: tuple[Step, ...], dtype: np.dtype[Any], loss: Loss) -> None:
        self._n_in, self._n_out = steps[0].n_in, steps[-1].n_out
        self._dtype, self._takes_labels, self._ignored = dtype, loss.takes_labels, loss.ignore_index
        # Labels of one output have a hint in their message that is the door's.
        free = loss.bounds is None and not loss.takes_soft
        self.is_open = self._n_out > 1 if loss.takes_labels else free
        self._n_targets = self._n_out if loss.takes_labels else loss.n_targets(self._n_out)

    def passed(self, x: Any, y: Any, order: Any) -> Judged | None:
        """What the program takes as it is; None where something is not known to be right.

        Parameters
        ----------
        order : ndarray or None
            None: all rows, of which there must be one.
        """
        if type(x) is not np.ndarray or type(y) is not np.ndarray or not self.is_open:
            return None
        shape = x.shape
        if (
            len(shape) != 2
            or shape[1] != self._n_in
            or x.dtype is not self._dtype
            or x.flags.num & _RIGHT != _RIGHT
            or y.flags.num & _RIGHT != _RIGHT
        ):
            return None
        if order is None:
            if not shape[0]:
                return None
        elif (
            type(order) is not np.ndarray
            or order.dtype is not _INT64
            or order.ndim != 2
            or order.flags.num & _RIGHT != _RIGHT
        ):
            return None
        if self._takes_labels:
            if y.dtype is not _INT64 or y.shape != shape[:1]:
                return None
            # If all rows are ignored, the first one is.
            ignored = self._ignored is not None and order is None and y.item(0) == self._ignored
            return None if ignored else (x, y, None, order)
        if y.dtype is not self._dtype:
            return None
        if y.shape == (shape[0], self._n_targets):
            return x, y, None, order
        return (x, y.reshape(-1, 1), None, order) if self._n_targets == 1 and y.shape == shape[:1] else None


def batches(seed: int, epoch: int, n_rows: int, batch_size: int, shuffle: bool) -> tuple[Array, Array]:
    """Row numbers of an epoch: its whole batches (steps, batch), and the rest (1, 0 to batch_size-1)."""
    return cut(kernels.shuffle(seed, epoch, n_rows) if shuffle else np.arange(n_rows), batch_size)


def cut(order: Array, batch_size: int) -> tuple[Array, Array]:
    """The whole batches and the rest of row numbers."""
    batch_size = min(batch_size, len(order))
    split = len(order) // batch_size * batch_size
    return order[:split].reshape(-1, batch_size), order[split:].reshape(1, -1)


@lru_cache(maxsize=8)
def _kept_batch(n_rows: int) -> Array:
    order = np.arange(n_rows).reshape(1, -1)
    order.flags.writeable = False
    return order


def one_batch(n_rows: int) -> Array:
    """The order of one step on all rows."""
    return _kept_batch(n_rows) if n_rows <= _KEPT_ROWS else np.arange(n_rows).reshape(1, -1)


def explained(
    error: errors.DivergenceError,
    where: str,
    *,
    layers: Sequence[object],
    loss: Loss,
    lr: float,
    step: int,
    x_name: str = "x",
    epoch: int | None = None,
    batch: int | None = None,
) -> errors.DivergenceError:
    """The error of a program with the place in the training and what to try."""
    smaller = f"try a smaller lr (it is {lr:g}) or inputs scaled to about -1 .. 1"
    if error.layer == -1:
        reason = f"{x_name} itself has a value that is not finite"
        advice = error.fault or f"look for it with np.isfinite({x_name}).all(axis=1)"
    elif error.layer is None and (fault := loss.fault()):
        reason, advice = f"the outputs of all layers are finite, but {fault[0]}", fault[1]
    elif error.layer is None:
        reason = "the outputs of all layers are finite, so the loss itself overflowed"
        advice = f"scale the targets, or {smaller}"
    else:
        reason = f"layer {error.layer}, {layers[error.layer]!r}, is the first whose output is not finite"
        advice = smaller
        layer = layers[error.layer]
        if isinstance(layer, Embedding):
            columns = [column for column, _, _ in layer.columns]
            reason += f": a code in the columns {columns} of {x_name} is no whole number, or a table diverged"
            advice = f"look for it with {x_name}[:, {columns}] % 1 != 0, or {smaller}"
    return errors.DivergenceError(
        f"the loss is not finite {where} (step {step}): {reason}. "
        f"Parameters are as before that step; {advice}",
        step_in_call=error.step_in_call,
        layer=error.layer,
        loss_sum=error.loss_sum,
        weight_sum=error.weight_sum,
        epoch=epoch,
        batch=batch,
        step=step,
    )
