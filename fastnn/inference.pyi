from typing import Any, final

import numpy as np

from fastnn.kernels import Real
from fastnn.layers import Step

BUILD: str

@final
class Predictor:
    steps: tuple[Step, ...]
    dtype: np.dtype[Any]
    def __init__(self, steps: tuple[Step, ...], parameters: Real) -> None: ...
    @property
    def n_in(self) -> int: ...
    @property
    def n_out(self) -> int: ...
    def __call__(self, x: Real, out: Real | None = None) -> Real: ...
