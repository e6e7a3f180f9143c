"""Devices: each compiles the steps of a network into a program with the face below.

``"cpu"`` is the compiled program, ``"numpy"`` the array program: the reference that compiled results are
compared with. The trainer does not know which one it has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from .. import errors, losses
from .. import program as program_
from ..layers import Step
from ..losses import Loss
from ..optimizers import LBFGS, SGD, Optimizer
from ..steps import initial_buffers
from . import arrays, cpu

__all__ = ["Program", "available", "check", "make"]

Array = NDArray[Any]


class Program(Protocol):
    """What a device offers. Arrays have passed the door: see `fastnn.errors`."""

    step: int
    """Optimizer steps done; may be set."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """What was compiled."""

    @property
    def state(self) -> Array:
        """Optimizer state (rows, n_parameters), writable.

        First the optimizer's own vectors, then the sum of weighted gradients where batches are
        accumulated, then the average of the weights where there is one.
        """

    @property
    def numbers(self) -> NDArray[np.float64]:
        """Scalars of the state, writable: the sum of the weights of the batches that are accumulated."""

    def run(
        self,
        x: Array,
        y: Array,
        order: Array,
        rates: NDArray[np.float64],
        sample_weight: Array | None = None,
        momenta: NDArray[np.float64] | None = None,
        *,
        sums: tuple[float, float] = (0.0, 0.0),
        seconds_left: float | None = None,
        augment: tuple[tuple[str, float], ...] = (),
    ) -> tuple[float, float]:
        """One optimizer step for each row of order; gives the sums of weight * loss and of weights.

        They begin with `sums`: a run in parts then has the bits of the whole. After `seconds_left` it ends at
        a step; `step` tells which. augment: kinds and numbers, see `fastnn.augment`.
        """

    def gradient(
        self, x: Array, y: Array, sample_weight: Array | None = None, dropout_step: int | None = None
    ) -> tuple[float, Array]:
        """Mean loss and its flat gradient, all rows being one batch; no dropout unless a step is named."""

    def loss(self, x: Array, y: Array, sample_weight: Array | None = None) -> float:
        """Mean loss without dropout."""

    def predict(self, x: Array, out: Array) -> Array:
        """Fill out (rows, n_out) with what the last layer gives, and return it."""


_MAKERS: dict[str, Callable[..., Program]] = {"cpu": cpu.make, "numpy": arrays.make}


def available() -> tuple[str, ...]:
    """Names of the devices that can be used here."""
    return tuple(_MAKERS)


def check(device: object) -> str:
    """The name of a device, if this version has it.

    Raises
    ------
    DeviceError
        For a GPU: there is none in this version, and an explicit device never falls back.
    """
    if isinstance(device, str) and (device == "cuda" or device.startswith("cuda:")):
        raise errors.DeviceError(f"device {device!r} is not in this version; it has {', '.join(_MAKERS)}")
    return errors.choice("device", device, _MAKERS)


def judges_rows(program: Program) -> TypeGuard[program_.Program]:
    """Whether a program itself refuses row numbers and labels out of range, before anything is touched."""
    return isinstance(program, program_.Program)


def make(
    device: str,
    steps: tuple[Step, ...],
    parameters: Array,
    *,
    loss: str | Loss | None = None,
    optimizer: Optimizer | None = None,
    seed: int = 0,
    buffers: Array | None = None,
) -> Program:
    """The program of a network on a device; it trains the flat block `parameters` in place.

    buffers: the running statistics, changed in place; None: those of an untrained network.
    """
    loss = None if loss is None else losses.get(loss)
    if buffers is None:
        buffers = initial_buffers(steps, parameters.dtype)
    maker = _MAKERS[check(device)]
    if not isinstance(optimizer, LBFGS):
        return maker(steps, parameters, loss=loss, optimizer=optimizer, seed=seed, buffers=buffers)
    from .lbfgs import LBFGSProgram  # 1 ms that only its users pay

    program = maker(steps, parameters, loss=loss, seed=seed, buffers=buffers)
    if not len(buffers):
        return LBFGSProgram(program, parameters, optimizer)
    still = maker(steps, parameters, loss=loss, optimizer=SGD(), seed=seed, buffers=buffers)
    return LBFGSProgram(program, parameters, optimizer, still, buffers)


def restore(program: Program, state: Array, numbers: NDArray[np.float64]) -> None:
    """Give a program the state that another one of the same network and optimizer had.

    Raises
    ------
    ValueError
        It is the state of no such program; nothing has changed.
    """
    if isinstance(program, (program_.Program, arrays.ArrayProgram)):
        for name, found, wanted in (("state", state, program.state), ("numbers", numbers, program.numbers)):
            if found.shape != wanted.shape:
                raise ValueError(f"'optimizer.{name}' must have shape {wanted.shape}, got {found.shape}")
        program.state[...], program.numbers[...] = state, numbers
    else:
        program.restore(state, numbers)  # type: ignore[attr-defined]
