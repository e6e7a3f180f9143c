"""What the steps of the array program work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

__all__ = ["Context"]

Array = NDArray[Any]


@dataclass
class Context:
    """What a step works with.

    Parameters
    ----------
    xp : module
    parameters, gradient : ndarray (n_parameters,)
        Flat blocks; a step that owns parameters fills its part of the gradient.
    weight, bias, weight_gradient, bias_gradient : ndarray or None
        Views of them that are this step's.
    kept : dict
        What forward leaves for backward.
    n_in : list of int
        Widths of the sources.
    buffers : ndarray
        Flat block of running statistics.
    statistics : bool
        Whether batch normalisation takes those of the batch.
    seed, dropout_step : int
        Of masks and noise; dropout_step None: off.
    """

    xp: Any
    parameters: Array
    gradient: Array
    weight: Any
    bias: Any
    weight_gradient: Any
    bias_gradient: Any
    kept: dict[str, Any]
    n_in: list[int]
    buffers: Array
    statistics: bool
    seed: int
    dropout_step: int | None = None
