"""The CPU: compiled kernels and the compiled program."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ..layers import Step
from ..losses import Loss
from ..optimizers import Optimizer
from ..program import Program
from ..steps import Objective

__all__ = ["make"]


def make(
    steps: tuple[Step, ...],
    parameters: NDArray[Any],
    *,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    seed: int = 0,
    buffers: NDArray[Any] | None = None,
    objective: Objective | None = None,
) -> Program:
    """The compiled program of a network."""
    return Program(
        steps, parameters, loss=loss, optimizer=optimizer, seed=seed, buffers=buffers, objective=objective
    )
