"""Learning rates by step or epoch, as frozen descriptions: ``fn.Adam(lr=fn.schedules.Cosine(1e-3, 5000))``.

Parameters have PyTorch's names and each schedule is PyTorch's closed formula. t counts from 0: with
``by="step"`` changes of the weights, with ``by="epoch"`` epochs, over all fits. Rates of an epoch are
evaluated before it runs, by operations that give the same bits on every machine.

A rate that goes by what an epoch measured (a plateau) is the callback `fastnn.ReduceLROnPlateau`, which
multiplies whatever schedule there is.
"""

from .combined import Chained, Sequential, Warmup
from .curves import (
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    Function,
    InverseScaling,
    Linear,
    MultiStep,
    Polynomial,
    Step,
)
from .cycles import Cyclic, OneCycle

__all__ = [
    "Chained",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Cyclic",
    "Exponential",
    "Function",
    "InverseScaling",
    "Linear",
    "MultiStep",
    "OneCycle",
    "Polynomial",
    "Sequential",
    "Step",
    "Warmup",
]
