"""What losses share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import errors, kernels

__all__ = ["Loss", "one_or_more", "share"]

Array = NDArray[Any]


class Loss:
    """What a loss says of itself.

    Attributes
    ----------
    name : str
        Its name in the kernels.
    link : "softmax", "sigmoid" or None
        The activation that turns the model's outputs into probabilities; the loss applies it itself.
    bounds : (float, float) or None
        Smallest and largest legal target value.
    levels : (float, float) or None
        The two values that targets may have.
    takes_soft : bool
        Whether targets are, or beside labels may be, probabilities of all outputs.
    ignore_index : int or None
        Label of rows that count for nothing.
    """

    link: ClassVar[str | None] = None
    bounds: ClassVar[tuple[float, float] | None] = None
    levels: ClassVar[tuple[float, float] | None] = None
    takes_soft: ClassVar[bool] = False

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def ignore_index(self) -> int | None:
        return None

    @property
    def takes_labels(self) -> bool:
        """Whether a target is one integer a row, rather than values."""
        return kernels.LOSSES[self.name] == "label"

    def numbers(self, n_out: int) -> Mapping[str, Any]:
        """What the kernels must know of it for n_out outputs: `kernels.LOSS_NUMBERS` names them."""
        return {}

    @property
    def meaning(self) -> str | None:
        """What outputs are to metrics: its link; "scores" of labels, the largest wins; "signs" of targets -1
        and 1; None for values.
        """
        return self.link

    def prediction(self, output: Array) -> Array:
        """What metrics of values compare with targets."""
        return output

    def fault(self) -> tuple[str, str] | None:
        """Why it is not finite where all outputs are, and what to try; None: they are too large."""
        return None

    def n_targets(self, n_out: int) -> int:
        """Columns of targets of values for a model of n_out outputs (ValueError: no model for it)."""
        return kernels.target_columns(self.name, n_out)


def share(argument: str, value: object) -> float:
    """A number from 0 to 1."""
    number = errors.real(argument, value)
    if number > 1:
        raise ValueError(f"{argument} must be from 0 to 1, got {value!r}")
    return number


def one_or_more(
    argument: str, value: object, minimum: float = 0.0, below: float = float("inf")
) -> float | tuple[float, ...]:
    """A number, or a tuple of some."""
    if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) and np.ndim(value):
        if len(value) == 0:
            raise ValueError(f"{argument} must hold at least one number, got {value!r}")
        return tuple(errors.real(f"{argument}[{i}]", one, minimum, below) for i, one in enumerate(value))
    return errors.real(argument, value, minimum, below)
