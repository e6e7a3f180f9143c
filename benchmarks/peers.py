"""The networks that are timed, and the peers they are timed against.

NumPy: `fastnn.demo.NumpyNetwork`, written by hand, all in place. scikit-learn: its own MLP classes.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

import fastnn as fn
from fastnn.demo import NumpyNetwork

Array = NDArray[Any]

# Small enough that weights stay moderate over the many steps of a timing on random labels.
LR = 0.01


@dataclass(frozen=True)
class Net:
    """Widths from the input to the output, and the rows of a batch; one output means regression."""

    sizes: tuple[int, ...]
    batch: int

    @property
    def name(self) -> str:
        """As ``64-64-10 b32``."""
        return f"{'-'.join(map(str, self.sizes))} b{self.batch}"

    @property
    def loss(self) -> str:
        """mse for one output, else cross_entropy."""
        return "mse" if self.sizes[-1] == 1 else "cross_entropy"

    @property
    def flops(self) -> int:
        """Multiplications and additions of the products in one training step: the first layer needs no dx."""
        products = [n_in * n_out for n_in, n_out in itertools.pairwise(self.sizes)]
        return 2 * self.batch * (3 * sum(products) - products[0])

    @property
    def forward_flops(self) -> int:
        """Those of one predicted row."""
        return 2 * sum(n_in * n_out for n_in, n_out in itertools.pairwise(self.sizes))


NETS = (
    Net((4, 16, 3), 16),
    Net((64, 64, 10), 32),
    Net((100, 256, 128, 1), 256),
    Net((784, 128, 10), 128),
    Net((784, 512, 512, 10), 256),
)


def data(net: Net, rows: int, seed: int = 0) -> tuple[Array, Array]:
    """Random rows and their targets, float32; labels for classification, values (rows, 1) for regression."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((rows, net.sizes[0]), np.float32)
    if net.loss == "mse":
        return x, random.standard_normal((rows, 1), np.float32)
    return x, random.integers(0, net.sizes[-1], rows)


def parameters(net: Net, seed: int = 0) -> Array:
    """Initial weights (He) and zero biases, flat, in float64."""
    random = np.random.default_rng(seed + 1)
    parts = []
    for n_in, n_out in itertools.pairwise(net.sizes):
        parts += [random.standard_normal(n_in * n_out) * (2 / n_in) ** 0.5, np.zeros(n_out)]
    return np.concatenate(parts)


def order(net: Net, rows: int, steps: int, seed: int = 0) -> Array:
    """Shuffled row numbers (steps, batch), each epoch in another order."""
    random = np.random.default_rng(seed + 2)
    epochs = -(-steps * net.batch // rows)
    numbers = np.concatenate([random.permutation(rows) for _ in range(epochs)])
    return np.ascontiguousarray(numbers[: steps * net.batch].reshape(steps, net.batch))


def fastnn_trainer(net: Net, dtype: str = "float32", device: str = "cpu") -> fn.Trainer:
    """Trainer of the network, with the parameters that all peers start from."""
    hidden = [fn.Dense(units, activation="relu") for units in net.sizes[1:-1]]
    model = fn.Sequential(*hidden, fn.Dense(net.sizes[-1]), dtype=dtype)
    model.build(net.sizes[0])
    model.parameters[:] = parameters(net)
    return fn.Trainer(model, loss=net.loss, optimizer=fn.SGD(lr=LR), device=device, seed=0)


def numpy_network(net: Net, dtype: str = "float32", batch: int | None = None) -> NumpyNetwork:
    """The same in NumPy, in place; `batch` only to predict other numbers of rows."""
    network = NumpyNetwork(net.sizes, loss=net.loss, batch=batch or net.batch, lr=LR, dtype=dtype)
    network.parameters[:] = parameters(net)
    return network


class SklearnNetwork:
    """The same in scikit-learn; a call of `epoch` is one of its epochs over the rows.

    Parameters
    ----------
    net : Net
    x, y : ndarray
        Rows of an epoch, a multiple of the batch.
    shuffle : bool
        Whether it draws its own order, as it does by default.
    """

    def __init__(self, net: Net, x: Array, y: Array, shuffle: bool = True) -> None:
        regression = net.loss == "mse"
        self._x, self._y = x, y.ravel()
        # Its squared error has a factor 1/2, so the rate is doubled for equal steps.
        self._keywords = {} if regression else {"classes": np.arange(net.sizes[-1])}
        self.estimator = (MLPRegressor if regression else MLPClassifier)(
            hidden_layer_sizes=net.sizes[1:-1],
            solver="sgd",
            alpha=0,
            batch_size=net.batch,
            learning_rate_init=LR * (2 if regression else 1),
            momentum=0,
            nesterovs_momentum=False,
            shuffle=shuffle,
            random_state=0,
        )
        self._first_call()
        self._set(parameters(net))

    def _first_call(self) -> None:
        """Make its arrays: it offers no way to give initial weights."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            size = self.estimator.batch_size
            self.estimator.partial_fit(self._x[:size], self._y[:size] * 0, **self._keywords)

    def _arrays(self) -> list[Array]:
        pairs = zip(self.estimator.coefs_, self.estimator.intercepts_, strict=True)
        return [array for pair in pairs for array in pair]

    def _set(self, flat: Array) -> None:
        at = 0
        for array in self._arrays():
            array[...] = flat[at : at + array.size].reshape(array.shape)
            at += array.size

    @property
    def parameters(self) -> Array:
        """Flat, as fastnn's."""
        return np.concatenate([array.ravel() for array in self._arrays()])

    def epoch(self) -> None:
        """One pass over the rows in mini-batches."""
        self.estimator.partial_fit(self._x, self._y, **self._keywords)

    def predict(self, x: Array) -> Array:
        """Probabilities (rows, classes), or values (rows,)."""
        predict = getattr(self.estimator, "predict_proba", None) or self.estimator.predict
        return predict(x)
