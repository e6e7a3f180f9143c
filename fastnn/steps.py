"""The steps of a program: what layers become once their widths are known.

A step reads the results of earlier steps, its sources, and owns numbers of the flat block of parameters and
of the flat block of buffers. A device compiles a tuple of them.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .initializers import Initializer
from .late_dataclass import dataclass

__all__ = [
    "Lowering",
    "Objective",
    "Step",
    "Table",
    "initial_buffers",
    "n_parameters",
    "places",
    "running_places",
    "sources_of",
]


@dataclass(frozen=True)
class Table:
    """A category column, its table (n_categories, width) at `weight`, and its first column in the result."""

    column: int
    n_categories: int
    width: int
    weight: int
    out: int


@dataclass(frozen=True)
class Objective:
    """What a program minimises and tells, where it is more than the mean loss of a batch.

    Parameters
    ----------
    l2 : float
        ``l2 / 2`` times the squares of the weights of dense layers, divided by the sum of the weights of the
        batch's rows, joins the loss; biases have no part in it. It is what scikit-learn calls alpha.
    factor : float
        Multiplies the gradient of the loss, not that of the penalty: the number of outputs makes a sum of a
        mean over them.
    told : float
        Multiplies the loss where it is told.
    floor, cap : float
        The loss of a row is told as no less and no more, before that; gradients know nothing of it. Of
        `binary_cross_entropy`, each output's share is. No other loss than that and `cross_entropy`, without
        weights of their own, takes them.
    limit : float
        A row whose loss is beyond it ends training as one whose loss is not finite does.
    """

    l2: float = 0.0
    factor: float = 1.0
    told: float = 1.0
    floor: float = -math.inf
    cap: float = math.inf
    limit: float = sys.float_info.max


@dataclass(frozen=True)
class Step:
    """One step of a program: a layer with its widths and its place in the flat block.

    Parameters
    ----------
    kind : str
        "dense", "activation", "dropout", "scale", "embedding", "add" (the sum of its two sources), "columns"
        (some columns of its source), "join" (its sources side by side), "batch_norm", "layer_norm",
        "rms_norm", "prelu", "alpha_dropout", "noise", "periodic", "piecewise" or "scale_columns".
    layer : int
        Position of the layer in the model, or of the layer of the model that it is within.
    n_in, n_out : int
        Widths; n_in is that of the first source.
    activation : str
        Name of f; "identity" for none.
    weight, bias : int
        Offsets in elements into the flat block, -1 for none. The weight has the shape `shape`, row-major.
    rate : float
        Of a dropout step.
    factor, shift : float
        Of a scale step.
    factors, shifts : tuple of float
        Of "scale_columns", one for each column.
    tables : tuple of Table
        Of an embedding step, sorted by column.
    sources : tuple of int
        Numbers of the steps whose results are read, -1 for the input; () for the step before.
    name : str
        Where it stands, as "2.0" for the layer 0 of a Residual at 2; "" for its position alone.
    key : int
        Keys its random numbers; -1 for its position.
    shape : tuple of int
        Of the weight; () for (n_in, n_out).
    columns : tuple of int
        Of a columns step.
    weight_init : str, Initializer or None
        The distribution of a dense step's initial weights; None for that of its activation.
    bias_init : float, tuple, str, Initializer or None
        What its biases start with, 0 for None.
    eps : float
        Added to the variance by "batch_norm", "layer_norm" and "rms_norm".
    momentum : float
        Weight of a batch in the running statistics of "batch_norm"; -1: they are the mean over all batches.
    counted : bool
        Whether the number of batches stands behind its running variance, in the dtype of the block.
    running : int
        Offset of its running mean in the flat block of buffers; the variance follows. -1 for none.
    factor, shift, dropped : float
        Of "alpha_dropout", while training: what is kept becomes ``factor * x + shift``, the rest `dropped`.
        factor is the deviation of "noise", too.
    edges : tuple of tuple of float
        Of the bins of each column of "piecewise".
    initial : float
        What the weights of a norm or "prelu" begin with; the deviation of those of "periodic".
    """

    kind: str
    layer: int
    n_in: int
    n_out: int
    activation: str = "identity"
    weight: int = -1
    bias: int = -1
    rate: float = 0.0
    factor: float = 1.0
    shift: float = 0.0
    factors: tuple[float, ...] = ()
    shifts: tuple[float, ...] = ()
    tables: tuple[Table, ...] = ()
    sources: tuple[int, ...] = ()
    name: str = ""
    key: int = -1
    shape: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    weight_init: str | Initializer | None = None
    bias_init: float | tuple[float, ...] | str | Initializer | None = None
    eps: float = 0.0
    momentum: float = 0.0
    counted: bool = False
    running: int = -1
    dropped: float = 0.0
    edges: tuple[tuple[float, ...], ...] = ()
    initial: float = 0.0

    @property
    def n_parameters(self) -> int:
        """How many numbers of the flat block are this step's."""
        if self.tables:
            return sum(table.n_categories * table.width for table in self.tables)
        n_weights = math.prod(self.weight_shape) if self.weight >= 0 else 0
        return n_weights + (self.n_out if self.bias >= 0 else 0)

    @property
    def n_buffers(self) -> int:
        """How many numbers of the flat block of buffers are this step's."""
        return 2 * self.n_out + self.counted if self.running >= 0 else 0

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight, be there one or not."""
        return self.shape or (self.n_in, self.n_out)

    @property
    def prefix(self) -> str:
        """What the names of its weights begin with."""
        return self.name or str(self.layer)

    @property
    def draws(self) -> int:
        """The number of a layer that keys its random numbers."""
        return self.layer if self.key < 0 else self.key


# Numbers of layers within others begin here: those of the model itself are below.
_FIRST_NESTED = 1 << 15


class Lowering:
    """Steps in the making: where the next one reads, and what it may own.

    Layers call `add`; a layer that holds others moves `at` and calls `within`.

    Attributes
    ----------
    steps : list of Step
    at : int
        The step whose result is to be read next, -1 for the input.
    width : int
        Of that result.
    layer : int
        Position in the model of the layer that is being lowered.
    name : str
        The same with the positions in the layers around it.
    """

    def __init__(self, n_in: int) -> None:
        self.steps: list[Step] = []
        self.at, self.width, self.n_in = -1, n_in, n_in
        self.layer, self.name, self.depth = 0, "", 0
        self._offset = self._running = self._n_nested = 0
        self._key = -1

    def begin(self, position: int) -> None:
        """The layer at that position of the model comes next."""
        self.layer, self.name = position, str(position)

    def parameters(self, n: int) -> int:
        """Room for n parameters: its offset in the flat block."""
        offset, self._offset = self._offset, self._offset + n
        return offset

    def running(self, n: int) -> int:
        """Room for n numbers that are not trained: its offset in the flat block of buffers."""
        offset, self._running = self._running, self._running + n
        return offset

    def trains(self, at: int) -> bool:
        """Whether the result of a step depends on parameters."""
        if at < 0:
            return False
        step = self.steps[at]
        return step.n_parameters > 0 or any(self.trains(i) for i in sources_of(at, step))

    def add(self, step: Step, sources: tuple[int, ...] | None = None, **fields: Any) -> int:
        """Append a step that reads `sources`, or else where `at` is; gives its number, where `at` is then.

        `fields` are more of its fields.
        """
        if fields:
            step = replace(step, **fields)
        read = (self.at,) if sources is None else sources
        if read != (len(self.steps) - 1,):
            step = replace(step, sources=read)
        if self.depth:
            step = replace(step, name=self.name, key=self._key)
        self.steps.append(step)
        self.at, self.width = len(self.steps) - 1, step.n_out
        return self.at

    def within(self, position: str, layer: object) -> None:
        """Lower a layer that stands at that position of the one that is being lowered."""
        name, key = self.name, self._key
        self.name, self._key = f"{name}.{position}", _FIRST_NESTED + self._n_nested
        self._n_nested += 1
        self.depth += 1
        try:
            layer.lower(self)  # type: ignore[attr-defined]
        finally:
            self.depth -= 1
            self.name, self._key = name, key


def sources_of(i: int, step: Step) -> tuple[int, ...]:
    """Numbers of the steps that step i reads, -1 for the input."""
    return step.sources or (i - 1,)


def places(steps: tuple[Step, ...]) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Offset and shape of each weight by its name, in the order of the flat block.

    "0.weight" (n_in, n_out) and "0.bias" (n_out,) by layer position; "0.weight_3" (n_categories, width) of
    the category column 3 of an embedding; "2.0.weight" of the layer 0 within the layer 2.
    """
    found: dict[str, tuple[int, tuple[int, ...]]] = {}
    for s in steps:
        for table in s.tables:
            found[f"{s.prefix}.weight_{table.column}"] = table.weight, (table.n_categories, table.width)
        if s.weight >= 0:
            found[f"{s.prefix}.weight"] = s.weight, s.weight_shape
        if s.bias >= 0:
            found[f"{s.prefix}.bias"] = s.bias, (s.n_out,)
    return found


def n_parameters(steps: tuple[Step, ...]) -> int:
    """Length of the flat block."""
    return sum(step.n_parameters for step in steps)


def running_places(steps: tuple[Step, ...]) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Offset and shape of running statistics by name: "1.running_mean" and "1.running_var" (n_out,).

    With "1.num_batches_tracked" (1,) where they are the mean over all batches.
    """
    found: dict[str, tuple[int, tuple[int, ...]]] = {}
    for s in steps:
        if s.running >= 0:
            found[f"{s.prefix}.running_mean"] = s.running, (s.n_out,)
            found[f"{s.prefix}.running_var"] = s.running + s.n_out, (s.n_out,)
        if s.counted:
            found[f"{s.prefix}.num_batches_tracked"] = s.running + 2 * s.n_out, (1,)
    return found


def initial_buffers(steps: tuple[Step, ...], dtype: Any) -> NDArray[Any]:
    """The flat block of buffers of an untrained network: means of 0, variances of 1, counts of 0."""
    block = np.zeros(sum(s.n_buffers for s in steps), dtype)
    for s in steps:
        if s.running >= 0:
            block[s.running + s.n_out : s.running + 2 * s.n_out] = 1
    return block
