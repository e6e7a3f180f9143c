"""What is measured: networks, batches, and the same data, weights and orders for every contender."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ADAM",
    "LR",
    "PREDICTION",
    "TRAINING",
    "Cell",
    "arrays_of",
    "chosen",
    "data",
    "order",
    "parameters",
]

Array = NDArray[Any]

# Small enough that weights stay moderate over the many steps of a timing on random labels.
LR = 0.01
# Rows of the training data: 784 columns of them are 13 MB, beyond every L2 and within an L3.
ROWS = 4096
# Steps of one call: one epoch, or fewer where steps are tiny (a framework takes 0.1 ms for each) or huge.
MOST_STEPS, MOST_FLOPS = 1024, 12e9


@dataclass(frozen=True)
class Cell:
    """One network with one number of rows.

    Parameters
    ----------
    kind : "train" or "predict"
        A mini-batch step (gather of shuffled rows, forward, loss, backward, update), or a call of predict.
    sizes : tuple of int
        Columns of x, then units of each layer: ReLU between them; one output means regression.
    batch : int
        Rows of a step or of a call.
    optimizer : "sgd" or "adam"
    """

    kind: str
    sizes: tuple[int, ...]
    batch: int
    optimizer: str = "sgd"

    @property
    def net(self) -> str:
        """As ``64-64-10``."""
        return "-".join(map(str, self.sizes))

    @property
    def name(self) -> str:
        """As ``64-64-10 b32``, and the optimizer where it is not SGD."""
        return f"{self.net} b{self.batch}" + ("" if self.optimizer == "sgd" else f" {self.optimizer}")

    @property
    def loss(self) -> str:
        """mse for one output, else cross_entropy."""
        return "mse" if self.sizes[-1] == 1 else "cross_entropy"

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Width in, width out of each layer."""
        return list(itertools.pairwise(self.sizes))

    @property
    def n_parameters(self) -> int:
        """Weights and biases."""
        return sum(n_in * n_out + n_out for n_in, n_out in self.pairs)

    @property
    def flops(self) -> int:
        """Of the products in a step or a call; a step's first layer needs no gradient of its input."""
        products = [n_in * n_out for n_in, n_out in self.pairs]
        if self.kind == "predict":
            return 2 * self.batch * sum(products)
        return 2 * self.batch * (3 * sum(products) - products[0])

    @property
    def rows(self) -> int:
        """Of the data."""
        return ROWS if self.kind == "train" else self.batch

    @property
    def steps(self) -> int:
        """In one timed call."""
        if self.kind == "predict":
            return 1
        return max(1, min(MOST_STEPS, self.rows // self.batch, int(MOST_FLOPS / self.flops)))

    @property
    def checked_steps(self) -> int:
        """Steps after which weights are compared with those of a float64 run."""
        return max(1, min(16, self.steps))

    def to_json(self) -> dict[str, Any]:
        """For `Cell.from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Cell:
        """The cell that gave `found`."""
        return cls(**{**found, "sizes": tuple(found["sizes"])})


def _training(*cells: tuple[tuple[int, ...], tuple[int, ...]]) -> tuple[Cell, ...]:
    return tuple(Cell("train", sizes, batch) for sizes, batches in cells for batch in batches)


TRAINING = _training(
    ((4, 16, 3), (1, 16, 32)),
    ((64, 64, 10), (32, 200)),
    ((100, 256, 128, 1), (32, 256, 1024)),
    ((784, 128, 10), (32, 128, 512)),
    ((784, 512, 512, 10), (64, 256)),
    ((1024, 4096, 4096, 1000), (256,)),
)
PREDICTION = tuple(
    Cell("predict", sizes, rows)
    for sizes in ((64, 64, 10), (100, 256, 128, 1), (784, 128, 10), (784, 512, 512, 10))
    for rows in (1, 16, 256, 4096)
)
# Adam is held against SGD where the update is a visible share: 100,000 parameters and more, batches of 128
# and more.
ADAM = tuple(
    Cell("train", cell.sizes, cell.batch, "adam")
    for cell in TRAINING
    if cell.n_parameters >= 100_000 and cell.batch >= 128
)


def chosen(cells: tuple[Cell, ...], words: list[str] | None) -> tuple[Cell, ...]:
    """Those whose name holds one of the words; all without words.

    Raises
    ------
    ValueError
        A word that no cell holds.
    """
    if not words:
        return cells
    for word in words:
        if not any(word in cell.name for cell in cells):
            raise ValueError(
                f"no cell is called {word!r}: there are {', '.join(cell.name for cell in cells)}"
            )
    return tuple(cell for cell in cells if any(word in cell.name for word in words))


def data(cell: Cell, seed: int = 0) -> tuple[Array, Array]:
    """Random rows (rows, n_in) float32 and their targets: labels (rows,), or values (rows, 1) float32."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((cell.rows, cell.sizes[0]), np.float32)
    if cell.loss == "mse":
        return x, random.standard_normal((cell.rows, 1), np.float32)
    return x, random.integers(0, cell.sizes[-1], cell.rows)


def parameters(cell: Cell, seed: int = 0) -> Array:
    """Initial weights (He) and small biases, flat, float32, laid out as `Sequential.parameters`."""
    random = np.random.default_rng(seed + 1)
    parts = []
    for n_in, n_out in cell.pairs:
        parts.append(random.standard_normal(n_in * n_out, np.float32) * np.float32((2 / n_in) ** 0.5))
        parts.append(random.standard_normal(n_out, np.float32) * np.float32(0.1))
    return np.concatenate(parts)


def order(cell: Cell, steps: int, seed: int = 0) -> Array:
    """Shuffled row numbers (steps, batch), each epoch in another order."""
    random = np.random.default_rng(seed + 2)
    epochs = -(-steps * cell.batch // cell.rows)
    numbers = np.concatenate([random.permutation(cell.rows) for _ in range(epochs)])
    return np.ascontiguousarray(numbers[: steps * cell.batch].reshape(steps, cell.batch))


def arrays_of(cell: Cell, flat: Array) -> list[tuple[Array, Array]]:
    """Weight (n_in, n_out) and bias (n_out,) of each layer, as views of a flat block."""
    views, at = [], 0
    for n_in, n_out in cell.pairs:
        w = flat[at : at + n_in * n_out].reshape(n_in, n_out)
        at += n_in * n_out
        views.append((w, flat[at : at + n_out]))
        at += n_out
    return views
