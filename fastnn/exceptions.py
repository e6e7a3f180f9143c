"""The exceptions of the library's own."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["DeviceError", "DivergenceError", "FormatError", "NotFittedError"]


class NotFittedError(ValueError, AttributeError):
    """A model is used before it has parameters.

    Where scikit-learn is loaded, what is raised is also a ``sklearn.exceptions.NotFittedError``, so
    that code written for scikit-learn catches it; scikit-learn is never imported for it.
    """

    def __new__(cls, *args: object) -> NotFittedError:
        """Choose the class when the error is made: whoever catches scikit-learn's has loaded it by then."""
        if cls is NotFittedError:
            cls = _with_sklearn()
        return super().__new__(cls, *args)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the plain class: the reader may have no scikit-learn."""
        return NotFittedError, self.args, self.__dict__ or None


_sklearn_class: type[NotFittedError] | None = None


def _with_sklearn() -> type[NotFittedError]:
    """Our class, or where scikit-learn is loaded the one that is both."""
    global _sklearn_class
    theirs = getattr(sys.modules.get("sklearn.exceptions"), "NotFittedError", None)
    if theirs is None:
        return NotFittedError
    if _sklearn_class is None:
        attributes = {"__module__": __name__, "__doc__": NotFittedError.__doc__}
        _sklearn_class = type("NotFittedError", (NotFittedError, theirs), attributes)
    return _sklearn_class


class DeviceError(RuntimeError):
    """A device was asked for that this machine or this version has not."""


class FormatError(ValueError):
    """A model file is broken or is no model file."""


class DivergenceError(FloatingPointError):
    """The loss of a batch is not finite; parameters and optimizer state are as before that step.

    Attributes
    ----------
    step_in_call : int
        Steps of the same call that were done before (so: the row of `order`).
    layer : int or None
        First layer whose output is not finite; -1 is the input itself, None where all layers are
        finite and the loss alone is not.
    loss_sum, weight_sum : float
        Sums over the steps before.
    epoch, batch : int or None
        Where `fit` was, both counted from 1.
    step : int or None
        Steps that the trainer had done before, over all calls.
    """

    fault: str | None = None  # words for the value of x that is not finite, where a source knows its place

    def __init__(
        self,
        message: str = "",
        *,
        step_in_call: int = 0,
        layer: int | None = None,
        loss_sum: float = 0.0,
        weight_sum: float = 0.0,
        epoch: int | None = None,
        batch: int | None = None,
        step: int | None = None,
    ) -> None:
        super().__init__(
            message or f"the loss is not finite (step {step_in_call} of the call, layer {layer})"
        )
        self.step_in_call = step_in_call
        self.layer = layer
        self.loss_sum = loss_sum
        self.weight_sum = weight_sum
        self.epoch = epoch
        self.batch = batch
        self.step = step
