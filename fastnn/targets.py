"""What a loss is compared with: targets through the door, labels that count for nothing, a user's function.

Losses come as their descriptions (`fastnn.losses`): this module reads `takes_labels`, `bounds` and the like.
"""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import errors

__all__ = ["are_soft", "counted", "judged", "own_loss", "without_ignored"]

Array = NDArray[Any]

# Sums of soft targets may be off by so much: float16 and rounded decimals pass, several ones do not.
_SUM_TOLERANCE = 1e-2


def are_soft(loss: Any, y: object, n_out: int) -> bool:
    """Whether targets of a loss of labels are probabilities: floats, one for each of several outputs."""
    if not loss.takes_soft:
        return False
    found = errors.plain("y", y)
    return found.dtype.kind == "f" and found.ndim == 2 and found.shape[1] == n_out > 1


def judged(
    loss: Any,
    argument: str,
    y: object,
    n_rows: int,
    n_out: int,
    dtype: np.dtype[Any],
    order: Array | None = None,
) -> Array:
    """Targets as a loss takes them: int64 labels (n_rows,), or values (n_rows, columns) of dtype.

    Parameters
    ----------
    loss : Loss
    n_out : int
        Outputs of the model.
    order : ndarray, optional
        Row numbers: only these targets are looked at.

    Raises
    ------
    TypeError, ValueError
        As `errors.labels` and `errors.values`; a value is out of the loss's bounds, or none of its levels;
        rows of probabilities do not sum to 1; a model has outputs that the loss cannot have.
    """
    y = errors.plain(argument, y)
    soft = are_soft(loss, y, n_out) if loss.takes_labels else loss.takes_soft
    if loss.takes_labels and not soft:
        return errors.labels(argument, y, n_rows, n_out, order, loss.ignore_index)
    bounds = (0.0, 1.0) if soft else loss.bounds
    found = errors.values(argument, y, n_rows, loss.n_targets(n_out), dtype, bounds, order)
    seen = found if order is None else found[order.reshape(-1)]
    if soft:
        wrong, want = (
            np.abs(seen.sum(axis=1, dtype=np.float64) - 1) > _SUM_TOLERANCE,
            "have rows that sum to 1",
        )
    elif loss.levels is not None:
        wrong, want = (
            ~((seen == loss.levels[0]) | (seen == loss.levels[1])).all(axis=1),
            f"hold {loss.levels[0]:g} or {loss.levels[1]:g}",
        )
    else:
        return found
    if wrong.any():
        at = int(wrong.argmax())
        row = at if order is None else int(order.reshape(-1)[at])
        raise ValueError(f"{argument} must {want}, got {seen[at].tolist()!r:.200} in row {row}")
    return found


def without_ignored(labels: Array, weight: Array | None, ignore_index: int) -> tuple[Array, Array]:
    """Copies of labels and weights in which rows of the label `ignore_index` have label and weight 0."""
    ignored = labels == ignore_index
    weight = np.ones_like(labels, np.float64) if weight is None else weight.copy()
    weight[ignored] = 0.0
    return np.where(ignored, 0, labels), weight


def counted(
    loss: Any, argument: str, y: Array, weight: Array | None, order: Array | None = None
) -> tuple[Array, Array | None, Array | None]:
    """Judged targets and weights of which ignored rows are taken out, and where these are, or None.

    Raises
    ------
    ValueError
        No row is left that has weight; not with an order, whose batches may be empty.
    """
    if loss.ignore_index is None or y.ndim != 1:
        return y, weight, None
    ignored = y == loss.ignore_index
    if not ignored.any():
        return y, weight, None
    y, weights = without_ignored(y, weight, loss.ignore_index)
    if order is None and not weights.any():
        raise ValueError(
            f"{argument} must have a row with weight whose label is not ignore_index={loss.ignore_index}, "
            f"got {ignored.sum()} ignored rows of {len(ignored)}"
        )
    return y, weights, ignored


def own_loss(loss: Any, z: Array, y: Array, weight: Array | None) -> tuple[float, Array]:
    """What a user's function gives: the mean loss, and its gradient like z, C-contiguous.

    Raises
    ------
    TypeError, ValueError
        It gives something else. What it raises itself passes through.
    """
    given: Any = loss.function(z, y, weight)
    if not isinstance(given, tuple) or len(given) != 2:
        raise TypeError(f"loss {loss.name!r} must give (loss, dz), got {type(given).__name__}")
    value, dz = given
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value[()]
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, np.floating, np.integer)):
        raise TypeError(f"loss {loss.name!r} must give a number as the loss, got {value!r:.200}")
    gradient = errors.array(f"the gradient of loss {loss.name!r}", dz)
    if gradient.shape != z.shape:
        raise ValueError(f"loss {loss.name!r} must give dz of shape {z.shape} as z, got {gradient.shape}")
    with np.errstate(over="ignore"):  # an infinity is seen by the caller
        return float(value), np.ascontiguousarray(gradient, z.dtype)
