"""The trainer: a model, a loss, an optimizer and a device; fit, run, gradient and the History of the loss."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import devices, errors, kernels, losses, optimizers
from .callbacks import ProgressLine
from .errors import DivergenceError
from .layers import Dense, Dropout, lower
from .losses import Loss
from .network import Sequential
from .optimizers import Optimizer

__all__ = ["History", "Trainer"]

Array = NDArray[Any]


class History(Mapping[str, list[float]]):
    """What was measured, by epoch: ``history["loss"]`` is a list of floats.

    Attributes
    ----------
    epoch : list of int
        Numbers of the epochs, counted from 1 over all fits of a trainer.
    """

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self._series: dict[str, list[float]] = {"loss": []}

    def __getitem__(self, name: str) -> list[float]:
        if name not in self._series:
            raise KeyError(f"{name!r}; there is {', '.join(self._series)}")
        return self._series[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._series)

    def __len__(self) -> int:
        return len(self._series)

    def append(self, epoch: int, **measured: float) -> None:
        """Add what was measured in an epoch."""
        self.epoch.append(epoch)
        for name, value in measured.items():
            self._series[name].append(value)

    def __repr__(self) -> str:
        if not self.epoch:
            return "History(no epochs)"
        last = ", ".join(f"{name} {values[-1]:.6g}" for name, values in self._series.items())
        return f"History({len(self.epoch)} epochs, last: {last})"


class Trainer:
    """Trains a model in place.

    Parameters
    ----------
    model : Sequential
    loss : str or Loss
        "cross_entropy" (logits and integer labels), "binary_cross_entropy" (logits), "mse".
    optimizer : str or Optimizer
        "sgd", "adam" with their defaults, or a description such as ``Adam(lr=3e-4)``.
    device : str
        "cpu": compiled; "numpy": plain array code, the reference that the compiled one is tested against.
    seed : int, optional
        Of initial weights, shuffles and dropout; None draws one from the operating system.

    Attributes
    ----------
    seed : int
        The seed in use, drawn or given.
    epoch, step : int
        Epochs and optimizer steps done.
    history : History
        All epochs of all fits.

    Examples
    --------
    >>> import fastnn as fn, numpy as np
    >>> x = np.linspace(-1, 1, 64).reshape(-1, 1)
    >>> trainer = fn.Trainer(fn.Sequential(fn.Dense(1)), loss="mse", optimizer=fn.SGD(lr=0.1), seed=0)
    >>> history = trainer.fit(x, 3 * x[:, 0] + 1, epochs=100)
    >>> history["loss"][-1] < 1e-6
    True
    """

    def __init__(
        self,
        model: Sequential,
        loss: str | Loss,
        optimizer: str | Optimizer,
        *,
        device: str = "cpu",
        seed: int | None = None,
    ) -> None:
        if not isinstance(model, Sequential):
            raise TypeError(f"model must be a Sequential, got {type(model).__name__}")
        self.model = model
        self.loss = losses.get(loss)
        self.optimizer = optimizers.get(optimizer)
        self.device = devices.check(device)
        self.seed = int.from_bytes(os.urandom(8), "little") if seed is None else errors.seed("seed", seed)
        self.epoch = 0
        self.history = History()
        _judge_end(model, self.loss)
        model.link = self.loss.link
        self._program: devices.Program | None = None
        self._block: Array | None = None  # the model's block that the program trains
        self._saved: tuple[Array, int] | None = None  # optimizer state and step of a pickled trainer

    # ------------------------------------------------------------ the program

    def _judged(
        self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None, order: ArrayLike | None = None
    ) -> tuple[Array, Array, Array | None, Array | None]:
        """x, y, sample_weight and order through the door; nothing has changed where they do not pass.

        With an order only the targets that it names are looked at; without, there must be a row.
        """
        matrix = errors.matrix("x", x, self.model.n_in, self.model.dtype)
        n_rows = len(matrix)
        if order is None and n_rows == 0:
            raise ValueError(f"x must have at least one row, got shape {matrix.shape}")
        rows = None if order is None else errors.row_order("order", order, n_rows)
        n_out = lower(self.model.layers, matrix.shape[1])[-1].n_out
        if self.loss.takes_labels:
            targets = errors.labels("y", y, n_rows, n_out, rows)
        else:
            targets = errors.values("y", y, n_rows, n_out, self.model.dtype, self.loss.bounds, rows)
        return matrix, targets, errors.sample_weights("sample_weight", sample_weight, n_rows), rows

    def _ready(self, n_in: int) -> devices.Program:
        """The program; an unbuilt model is built for n_in columns."""
        if not self.model.is_built:
            self.model.build(n_in, seed=self.seed)
        return self._current_program()

    def _current_program(self) -> devices.Program:
        """The program of the model's present parameters."""
        block = self.model._block
        assert block is not None
        if self._program is None or self._block is not block:
            if self._program is not None:
                # The model was built anew: what was learned about the old parameters is void.
                self.epoch, self.history = 0, History()
            self._program = devices.make(
                self.device,
                self.model.steps,
                block,
                loss=self.loss.name,
                optimizer=self.optimizer,
                seed=self.seed,
            )
            self._block = block
            if self._saved is not None:
                state, self._program.step = self._saved
                self._program.state[...] = state
                self._saved = None
        return self._program

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        if self._program is not None:
            return self._program.step
        return self._saved[1] if self._saved is not None else 0

    # ------------------------------------------------------------ training

    def fit(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        shuffle: bool = True,
        sample_weight: ArrayLike | None = None,
        progress: bool | None = None,
    ) -> History:
        """Train on mini-batches; a second call trains `epochs` more.

        Parameters
        ----------
        x : array_like (n, n_in)
            Not copied where it is a matrix of the model's dtype.
        y : array_like
            Labels (n,) for cross_entropy; values (n, n_out), or (n,) for one output, for the others.
        epochs : int
        batch_size : int
            The rest of an epoch is one smaller batch.
        shuffle : bool
            Whether each epoch takes the rows in another order, a function of seed and epoch.
        sample_weight : array_like (n,), optional
            The loss of a batch is sum(weight * loss) / sum(weight).
        progress : bool, optional
            A line for each epoch on stderr; None: only where that is a terminal.

        Returns
        -------
        History
            Of this call; `trainer.history` holds all. The loss of an epoch is the mean over its rows, each
            taken as its batch was trained.

        Raises
        ------
        DivergenceError
            The loss of a batch is not finite; seen before the update.
        """
        epochs = errors.integer("epochs", epochs, 0)
        batch_size = errors.integer("batch_size", batch_size)
        shuffle = errors.flag("shuffle", shuffle)
        if progress is not None:
            errors.flag("progress", progress)
        matrix, targets, weights, _ = self._judged(x, y, sample_weight)
        program, n_rows = self._ready(matrix.shape[1]), len(matrix)

        history = History()
        line = ProgressLine(progress, self.epoch + epochs)
        n_whole = n_rows // batch_size
        try:
            for _ in range(epochs):
                order = kernels.shuffle(self.seed, self.epoch, n_rows) if shuffle else np.arange(n_rows)
                split = n_whole * batch_size
                whole, rest = order[:split].reshape(n_whole, batch_size), order[split:].reshape(1, -1)
                loss_sum, weight_sum = self._steps(program, matrix, targets, whole, weights, 0)
                rest_loss, rest_weight = self._steps(program, matrix, targets, rest, weights, n_whole)
                loss = (loss_sum + rest_loss) / (weight_sum + rest_weight)
                self.epoch += 1
                for kept in (history, self.history):
                    kept.append(self.epoch, loss=loss)
                line.epoch(self.epoch, loss)
        finally:
            line.close()
        return history

    def _steps(
        self,
        program: devices.Program,
        x: Array,
        y: Array,
        order: Array,
        weights: Array | None,
        first_batch: int | None,
    ) -> tuple[float, float]:
        """One optimizer step for each row of order; first_batch is None outside of fit."""
        if order.size == 0:
            return 0.0, 0.0
        try:
            return program.run(x, y, order, optimizers.rates(self.optimizer, len(order)), weights)
        except DivergenceError as error:
            if first_batch is None:
                raise self._explained(error, f"in row {error.step_in_call} of order") from None
            epoch, batch = self.epoch + 1, first_batch + error.step_in_call + 1
            raise self._explained(error, f"in epoch {epoch}, batch {batch}", epoch, batch) from None

    def _explained(
        self, error: DivergenceError, where: str, epoch: int | None = None, batch: int | None = None
    ) -> DivergenceError:
        """The error of a program with the place in the training and what to try."""
        smaller = f"try a smaller lr (it is {self.optimizer.lr:g}) or inputs scaled to about -1 .. 1"
        if error.layer == -1:
            reason = "x itself has a value that is not finite"
            advice = "look for it with np.isfinite(x).all(axis=1)"
        elif error.layer is None:
            reason = "the outputs of all layers are finite, so the loss itself overflowed"
            advice = f"scale the targets, or {smaller}"
        else:
            layer = self.model.layers[error.layer]
            reason = f"layer {error.layer}, {layer!r}, is the first whose output is not finite"
            advice = smaller
        return DivergenceError(
            f"the loss is not finite {where} (step {self.step}): {reason}. "
            f"Parameters are as before that step; {advice}",
            step_in_call=error.step_in_call,
            layer=error.layer,
            loss_sum=error.loss_sum,
            weight_sum=error.weight_sum,
            epoch=epoch,
            batch=batch,
            step=self.step,
        )

    def run(
        self, x: ArrayLike, y: ArrayLike, order: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """One optimizer step for each row of `order`; gives the mean loss over the rows taken.

        Parameters
        ----------
        x : array_like (n, n_in)
            Never scanned; one of another dtype or layout than the model takes is converted in each call.
        y : array_like
            As for `fit`; only the targets that order names are looked at.
        order : array_like of int (steps, batch)
            Row numbers into x and y.
        sample_weight : array_like (n,), optional

        Returns
        -------
        float
            Weighted mean; nan where no row has weight.
        """
        matrix, targets, weights, rows = self._judged(x, y, sample_weight, order)
        assert rows is not None
        program = self._ready(matrix.shape[1])
        loss_sum, weight_sum = self._steps(program, matrix, targets, rows, weights, None)
        return loss_sum / weight_sum if weight_sum else float("nan")

    def partial_fit(self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """One optimizer step on all rows as one batch; gives their mean loss before the step."""
        matrix, targets, weights, _ = self._judged(x, y, sample_weight)
        order = np.arange(len(matrix)).reshape(1, -1)
        loss_sum, weight_sum = self._steps(
            self._ready(matrix.shape[1]), matrix, targets, order, weights, None
        )
        return loss_sum / weight_sum

    def gradient(
        self, x: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[float, Array]:
        """Mean loss of the rows and its flat gradient, dropout off; nothing is changed.

        Returns
        -------
        loss : float
        gradient : ndarray (n_parameters,)
            In the order of `model.parameters`, in its dtype.
        """
        matrix, targets, weights, _ = self._judged(x, y, sample_weight)
        program = self._ready(matrix.shape[1])
        try:
            return program.gradient(matrix, targets, weights)
        except DivergenceError as error:
            raise self._explained(error, "in the gradient") from None

    # ------------------------------------------------------------ prediction

    def predict(self, x: ArrayLike) -> Array:
        """What the last layer gives for each row of x; see `Sequential.predict`."""
        return self.model.predict(x)

    def predict_proba(self, x: ArrayLike) -> Array:
        """Probabilities for each row of x; see `Sequential.predict_proba`."""
        return self.model.predict_proba(x)

    # ------------------------------------------------------------ copies

    def __repr__(self) -> str:
        return (
            f"Trainer({self.model!r}, loss={self.loss.name!r}, optimizer={self.optimizer!r}, "
            f"device={self.device!r}, seed={self.seed})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """What pickle and copy take: all but the program, of which state and step are kept."""
        state = self.__dict__.copy()
        if self._program is not None:
            state["_saved"] = self._program.state.copy(), self._program.step
        state["_program"] = state["_block"] = None
        return state


def _judge_end(model: Sequential, loss: Loss) -> None:
    """Refuse a softmax before a loss that applies one itself."""
    last = next((layer for layer in reversed(model.layers) if not isinstance(layer, Dropout)), None)
    activation = getattr(last, "activation" if isinstance(last, Dense) else "name", None)
    if loss.link == "softmax" and activation == "softmax":
        raise ValueError(
            f"loss={loss.name!r} takes logits and applies softmax itself, but {last!r} at the end applies it "
            "too: twice would flatten the gradients. Leave it out; model.predict_proba gives probabilities"
        )
