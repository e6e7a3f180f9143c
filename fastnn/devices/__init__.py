"""Devices: each compiles the steps of a network into a program with the face below.

``"cpu"`` is the compiled program, ``"numpy"`` the array program: the reference that compiled results are
compared with, ``"cuda"`` (or ``"cuda:1"``) a card. The trainer does not know which one it has.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from .. import errors, losses
from .. import program as program_
from ..layers import Step
from ..losses import Loss
from ..optimizers import LBFGS, SGD, Optimizer
from ..steps import Objective, initial_buffers
from . import arrays, cpu

__all__ = ["Program", "available", "check", "check_precision", "hold", "judges_rows", "make", "restore"]

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
        step_losses: NDArray[np.float64] | None = None,
    ) -> tuple[float, float]:
        """One optimizer step for each row of order; gives the sums of weight * loss and of weights.

        They begin with `sums`: a run in parts then has the bits of the whole. After `seconds_left` it ends at
        a step; `step` tells which. augment: kinds and numbers, see `fastnn.augment`. step_losses (steps,) is
        filled with each step's share of the first sum.
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
_PRECISIONS = ("float32", "tf32", "bf16")


def available() -> tuple[str, ...]:
    """Names of the devices that can be used here without more packages."""
    return tuple(_MAKERS)


def check(device: object) -> str:
    """The name of a device, if this version has it.

    Raises
    ------
    DeviceError
        For a card: it names what is missing. An explicit device never falls back.
    """
    if _is_card(device):
        from . import cuda  # and with it CuPy, a second

        cuda.check(str(device))
        return str(device)
    return errors.choice("device", device, [*_MAKERS, "cuda"])


def _is_card(device: object) -> bool:
    return isinstance(device, str) and (device == "cuda" or device.startswith("cuda:"))


def check_precision(device: str, precision: object) -> str:
    """How products of training steps round what they multiply, if a device has it.

    "float32" (the default, on every device) rounds nothing beyond the model's dtype; "tf32" keeps 10 bits
    after the point, "bf16" 7; sums are float32 with all of them.
    """
    found = errors.choice("precision", precision, _PRECISIONS)
    if found != "float32" and not _is_card(device):
        raise ValueError(
            f"precision must be 'float32' with device {device!r}, got {found!r}, which only cards have"
        )
    return found


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
    precision: str = "float32",
    objective: Objective | None = None,
) -> Program:
    """The program of a network on a device; it trains the flat block `parameters` in place.

    buffers: the running statistics, changed in place; None: those of an untrained network. objective: more
    than the mean loss of a batch.
    """
    loss = None if loss is None else losses.get(loss)
    if buffers is None:
        buffers = initial_buffers(steps, parameters.dtype)
    maker: Callable[..., Program]
    if _is_card(device):
        from . import cuda

        maker = partial(cuda.make, device, precision=precision)
    else:
        maker = _MAKERS[check(device)]
    if not isinstance(optimizer, LBFGS):
        return maker(
            steps,
            parameters,
            loss=loss,
            optimizer=optimizer,
            seed=seed,
            buffers=buffers,
            objective=objective,
        )
    if objective is not None:  # its line search needs a loss whose slope is the gradient
        raise ValueError(f"objective must be None with LBFGS, got {objective!r}")
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
    if not hasattr(program, "restore"):
        for name, found, wanted in (("state", state, program.state), ("numbers", numbers, program.numbers)):
            if found.shape != wanted.shape:
                raise ValueError(f"'optimizer.{name}' must have shape {wanted.shape}, got {found.shape}")
        program.state[...], program.numbers[...] = state, numbers
    else:
        program.restore(state, numbers)


def hold(program: Program, is_holding: bool) -> None:
    """Tell a program whether the data of its calls to come stays as it is: a card then gets it once."""
    if hasattr(program, "hold"):
        program.hold(is_holding)
