from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from fastnn.kernels import Real
from fastnn.layers import Step

BUILD: str
AUGMENTS: dict[str, int]

@final
class Program:
    steps: tuple[Step, ...]
    state: Real
    numbers: NDArray[np.float64]
    loss_name: str | None
    optimizer: Any
    small: bool
    step: int
    def __init__(
        self,
        steps: tuple[Step, ...],
        parameters: Real,
        *,
        loss: Any = None,
        optimizer: Any = None,
        seed: int = 0,
        buffers: Real | None = None,
        objective: Any = None,
    ) -> None: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def run(
        self,
        x: Real,
        y: Real | NDArray[np.int64],
        order: NDArray[np.int64],
        rates: NDArray[np.float64],
        sample_weight: NDArray[np.float64] | None = None,
        momenta: NDArray[np.float64] | None = None,
        step_losses: NDArray[np.float64] | None = None,
        sums: tuple[float, float] = (0.0, 0.0),
        seconds_left: float | None = None,
        augment: tuple[tuple[str, float], ...] = (),
    ) -> tuple[float, float]: ...
    def run_epochs(
        self,
        x: Real,
        y: Real | NDArray[np.int64],
        rates: NDArray[np.float64],
        sums: NDArray[np.float64],
        *,
        n_rows: int,
        batch: int,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
        rows: NDArray[np.int64] | None = None,
        sample_weight: NDArray[np.float64] | None = None,
        momenta: NDArray[np.float64] | None = None,
        augment: tuple[tuple[str, float], ...] = (),
    ) -> int: ...
    def learn(self, x: Real, y: Real | NDArray[np.int64], lr: float) -> float | None: ...
    def gradient(
        self,
        x: Real,
        y: Real | NDArray[np.int64],
        sample_weight: NDArray[np.float64] | None = None,
        dropout_step: int | None = None,
    ) -> tuple[float, Real]: ...
    def loss(
        self, x: Real, y: Real | NDArray[np.int64], sample_weight: NDArray[np.float64] | None = None
    ) -> float: ...
    def predict(self, x: Real, out: Real) -> Real: ...
